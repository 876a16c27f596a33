/*-------------------------------------------------------------------------
 *
 * serve_private.h
 *	  What the files of the replication service share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_SERVE_PRIVATE_H
#define NEON_SK_SERVE_PRIVATE_H

#include "nodes/nodes.h"
#include "nodes/replnodes.h"
#include "table.h"

/* Of this walsender: set once, before its first command. */
typedef struct ServeSession
{
	SkTimeline *tl;
	bool		peer;			/* another safekeeper: its replies say what it has */
	bool		pageserver;		/* its replies say what the pageserver has durably */
} ServeSession;

extern ServeSession serve_session;

/* PostgreSQL's timeline id of all WAL here. */
#define SERVE_TLI		1

/* ---- servecommand.c: one function a command, each sends its result rows ---- */
extern void serve_identify_system(Node *cmd);
extern void serve_show(Node *cmd);
extern void serve_timeline_history(Node *cmd);
extern void serve_read_slot(Node *cmd);
extern void serve_create_slot(Node *cmd);
extern void serve_drop_slot(Node *cmd);
extern void serve_base_backup(Node *cmd);

/* ---- servestream.c ---- */
extern void serve_start_replication(Node *cmd);

/* ---- servelag.c: for one stream at a time ---- */
extern void servelag_begin(void);
extern void servelag_sent(XLogRecPtr lsn);
extern void servelag_reply(XLogRecPtr written, XLogRecPtr flushed, XLogRecPtr applied);

/* ---- serveview.c: which timeline each walsender serves ---- */
extern void readers_register(void);

/* What the process does while it waits: reload, barriers, catch-up interrupts. */
extern void serve_housekeeping(void);

#endif							/* NEON_SK_SERVE_PRIVATE_H */

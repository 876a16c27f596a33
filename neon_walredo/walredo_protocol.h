/*-------------------------------------------------------------------------
 *
 * walredo_protocol.h
 *	  What the pageserver's pool and a redo child say to each other.
 *
 * The child is started with two descriptors:
 *
 *	  0  control: one end of a socket pair whose other end the supervisor
 *		 keeps.  The child writes one WalRedoReady when it is sandboxed; end of
 *		 file means that the supervisor is gone and ends the child.
 *	  3  a listening Unix socket.  The child serves one connection after the
 *		 other, in order of arrival; one with nothing to read between two
 *		 pages is closed when the next arrives.
 *
 * A connection carries batches, which are sequences of frames, each a WalRedoFrame and its payload:
 *
 *	  client	PAGE (RECORD)* (END | ABORT), repeated
 *	  child		one answer per END or ABORT, in the same order:
 *				OK with the page, ERROR with a text, ABORTED; or DYING with a
 *				text, after which the child exits
 *
 * Records are applied as they arrive.  The client must read answers while it
 * still writes, or both would block.  Both ends run on one machine with one
 * build of the server, so numbers are in native order; a difference in version
 * is found by WalRedoReady and by each frame.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WALREDO_PROTOCOL_H
#define WALREDO_PROTOCOL_H

#include "access/xlogdefs.h"
#include "common/relpath.h"
#include "storage/block.h"
#include "storage/relfilenode.h"

#define WALREDO_VERSION			1

/* The variable that asks for the take-over; its value is WALREDO_ENV_VALUE. */
#define WALREDO_ENV				"NEON_WALREDO"
#define WALREDO_ENV_VALUE		"1"

#define WALREDO_CONTROL_FD		0
#define WALREDO_LISTEN_FD		3

#define WALREDO_TAG_PAGE		'P' /* WalRedoPage, then BLCKSZ bytes if has_base */
#define WALREDO_TAG_RECORD		'R' /* WalRedoRecord, then the record */
#define WALREDO_TAG_END			'E' /* empty */
#define WALREDO_TAG_ABORT		'A' /* empty: forget the page */

#define WALREDO_TAG_OK			'p' /* BLCKSZ bytes */
#define WALREDO_TAG_ERROR		'e' /* text */
#define WALREDO_TAG_DYING		'd' /* text */
#define WALREDO_TAG_ABORTED		'a' /* empty */

/*
 * No record that changes pages comes near this: the largest are GiST splits
 * (75 pages) and full-page images (32 pages).
 */
#define WALREDO_MAX_RECORD		(16 * 1024 * 1024)
#define WALREDO_MAX_TEXT		4096

typedef struct WalRedoReady
{
	uint8		magic[3];		/* "NWR" */
	uint8		version;		/* WALREDO_VERSION */
	uint32		server_version_num;
} WalRedoReady;

typedef struct WalRedoFrame
{
	uint8		tag;
	uint8		version;
	uint16		zero;
	uint32		len;			/* of the payload */
} WalRedoFrame;

typedef struct WalRedoPage
{
	RelFileNode rnode;
	uint32		fork;
	BlockNumber blk;
	uint32		has_base;		/* 0: the page is all zeros before the first record */
} WalRedoPage;

typedef struct WalRedoRecord
{
	XLogRecPtr	start;
	XLogRecPtr	end;			/* what the page's LSN becomes */
} WalRedoRecord;

#endif							/* WALREDO_PROTOCOL_H */

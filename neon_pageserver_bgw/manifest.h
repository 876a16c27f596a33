/*-------------------------------------------------------------------------
 *
 * manifest.h
 *	  The truth about a timeline: a log of changes in manifest.NNNNNN.
 *
 * Header, then a SNAPSHOT record (the whole state), then EDIT records; the body
 * of both is a list of operations.  One change = one record = one write and
 * one fdatasync.  Nothing of the state is kept here: timeline.c serialises
 * writers and keeps the position in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_MANIFEST_H
#define NEON_PS_MANIFEST_H

#include "lib/stringinfo.h"
#include "neon_key.h"
#include "timeline.h"

/* Most bytes that a configuration of safekeepers may have, with its zero. */
#define MANIFEST_MEMBERS_MAX	8192

/* The generation of all files, as long as no other pageserver can take them over. */
#define LAYER_FIRST_GENERATION	1

/* An immutable file in layers/. */
typedef struct ManifestFile
{
	uint64		id;
	uint32		generation;
	uint8		type;			/* LayerType */
	uint64		bytes;
	uint64		entries;
	XLogRecPtr	lsn_lo;			/* delta: versions in (lo, hi]; image: in [lo, hi] */
	XLogRecPtr	lsn_hi;
	uint8		first_key[NEON_KEY_ENCODED_SIZE];
	uint8		last_key[NEON_KEY_ENCODED_SIZE];
} ManifestFile;

/* An LSN that must stay readable. */
typedef struct ManifestPoint
{
	uint8		kind;			/* HistoryPointKind */
	NeonId		id;
	XLogRecPtr	lsn;
	TimestampTz expires;		/* 0: never */
	uint64		length;			/* of a lease, in microseconds */
} ManifestPoint;

/*
 * A range of keys, up to where the next one begins, with files of its own.
 * They have all versions of its keys up to an LSN; what is newer is in files
 * that no partition names.  A manifest without any means one of all keys.
 */
typedef struct ManifestPartition
{
	uint8		first_key[NEON_KEY_ENCODED_SIZE];
	XLogRecPtr	upto;
	XLogRecPtr	base_lsn;		/* horizon that its files were rewritten at; 0: never */
	uint32		points;			/* checksum of the history points below it then */
	uint32		nfiles;
	uint64	   *files;			/* ids, in the order that they are searched in */
} ManifestPartition;

typedef struct Manifest
{
	TimelineIdentity identity;
	char		name[NEON_NAME_MAX];
	bool		finished;		/* creation is complete */
	XLogRecPtr	disk_consistent_lsn;
	XLogRecPtr	prev_record_lsn;	/* start of the record that ends there */
	uint32		term;
	XLogRecPtr	boot_record_end;
	uint64		logical_size;
	uint64		next_file_id;	/* ids below may be in use */
	XLogRecPtr	gc_cutoff;		/* reads below it are refused, but at points; 0: none */
	TimestampTz gc_cutoff_time; /* of the last commit at or below it */
	TimelineWriter writer;
	uint64		members_generation; /* 0: no safekeepers, laptop mode */
	char	   *members;		/* the configuration as JSON, NULL if none */
	int			nfiles;
	int			maxfiles;
	ManifestFile *files;
	int			npoints;
	int			maxpoints;
	ManifestPoint *points;
	int			npartitions;
	int			maxpartitions;
	ManifestPartition *partitions;	/* by key */
} Manifest;

/* Where the log ends. */
typedef struct ManifestPos
{
	uint32		number;			/* of the file; 0: none */
	uint32		sequence;		/* of the last record */
	uint64		length;			/* bytes up to its end */
	uint64		snapshot_length;
	bool		has_older;		/* files to be unlinked after the next edit */
	bool		torn;			/* something unreadable follows: start a new file */
	bool		unproven;		/* read at a start, so perhaps not on disk: the same */
} ManifestPos;

/* Operations are appended to a body with these. */
extern void manifest_op_identity(StringInfo body, const TimelineIdentity *id);
extern void manifest_op_name(StringInfo body, const char *name);
extern void manifest_op_finished(StringInfo body);
extern void manifest_op_lsns(StringInfo body, XLogRecPtr disk_consistent_lsn,
							 XLogRecPtr prev_record_lsn);
extern void manifest_op_term(StringInfo body, uint32 term, XLogRecPtr boot_record_end);
extern void manifest_op_logical_size(StringInfo body, uint64 bytes);
extern void manifest_op_file_ids(StringInfo body, uint64 next_file_id);
extern void manifest_op_writer(StringInfo body, const TimelineWriter *writer);
extern void manifest_op_members(StringInfo body, uint64 generation, const char *config);
extern void manifest_op_add_file(StringInfo body, const ManifestFile *file);
extern void manifest_op_drop_file(StringInfo body, uint64 id);
extern void manifest_op_add_point(StringInfo body, const ManifestPoint *point);
extern void manifest_op_drop_point(StringInfo body, uint8 kind, const NeonId *id);
extern void manifest_op_gc_cutoff(StringInfo body, XLogRecPtr cutoff, TimestampTz time);

/* The partition that begins at its first key is this one from here on. */
extern void manifest_op_partition(StringInfo body, const ManifestPartition *p);

/* The body that makes the state from nothing. */
extern void manifest_snapshot_body(const Manifest *m, StringInfo body);

/* Applies a body; false if it is malformed. */
extern bool manifest_apply(Manifest *m, const char *body, uint32 len);

/*
 * The newest readable state in dir, in CurrentMemoryContext, and where its log
 * ends.  ereport(ERROR, ERRCODE_DATA_CORRUPTED) if there is none or if records
 * were lost; ERRCODE_UNDEFINED_FILE if there is no manifest at all.
 */
extern Manifest *manifest_load(const char *dir, ManifestPos *pos);

/* Where that error was, if the last manifest_load() of this process ended with it. */
typedef struct ManifestDamage
{
	char		file[MAXPGPATH];	/* "" : none yet */
	uint64		offset;
} ManifestDamage;

extern const ManifestDamage *manifest_damage(void);

/*
 * The timeline's name by the file beside its manifest, in name[NEON_NAME_MAX];
 * false if there is no good one.  For timelines whose manifest is damaged.
 */
extern bool manifest_noted_name(const char *dir, char *name);

/* Writes that file if it says otherwise; a failure is logged.  The directory is not synchronized. */
extern void manifest_note_name(const char *dir, const char *name);

/* The state at a position known from memory. */
extern Manifest *manifest_read(const char *dir, const ManifestPos *pos);

/*
 * Writes a new file with a snapshot of m after pos (all zero: the first one),
 * durably, and sets pos.  Fails as manifest_append does.
 */
extern bool manifest_write_snapshot(const char *dir, const Manifest *m, ManifestPos *pos);

/*
 * Appends an edit.  False if the fdatasync failed: the state on disk is
 * unknown and must not be written again by this life of the server.
 * ereport(ERROR) if the write failed, with nothing changed.
 */
extern bool manifest_append(const char *dir, ManifestPos *pos, const char *body, uint32 len);

extern bool manifest_wants_rewrite(const ManifestPos *pos);
extern void manifest_free(Manifest *m);
extern void manifest_file_path(const char *dir, uint32 number, char *path);

#endif							/* NEON_PS_MANIFEST_H */

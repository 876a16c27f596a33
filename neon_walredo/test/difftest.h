/*-------------------------------------------------------------------------
 *
 * difftest.h
 *	  Comparison of redone pages with those of a stopped server.
 *
 * Two states of one data directory are given: A, a copy made while the server
 * was stopped, and B, the directory after it ran and was stopped again, with
 * all WAL in between.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DIFFTEST_H
#define DIFFTEST_H

#include "access/xlogrecord.h"
#include "catalog/pg_control.h"
#include "fmgr.h"
#include "neon_key.h"
#include "utils/hsearch.h"

typedef struct TestRecord
{
	XLogRecPtr	start;
	XLogRecPtr	end;
	RmgrId		rmid;
	uint8		info;
	XLogRecord *raw;			/* NULL if it changes no page */
} TestRecord;

typedef struct TestPage
{
	NeonKey		key;			/* hash key */
	uint32		n;
	uint32		size;
	uint32	   *records;		/* indexes of TestRecord */
	int			last_base;		/* in records: needs nothing older; or -1 */
	bool		not_in_a;		/* what A has there is not its beginning */
	struct TestPage *source;	/* it began as a copy of this; or NULL */
} TestPage;

/* A database that began as a copy of files. */
typedef struct TestDbCopy
{
	Oid			db;
	Oid			spc;
	Oid			src_db;
	Oid			src_spc;
} TestDbCopy;

#define MAX_DB_COPIES 64

typedef struct TestWal
{
	const char *a;				/* directories */
	const char *b;
	ControlFileData control_a;
	ControlFileData control_b;
	uint32		nrecords;
	uint32		size;
	TestRecord *records;
	uint64		bytes;
	uint64		references;
	uint64		implicit;
	HTAB	   *pages;			/* TestPage */
	HTAB	   *cuts;			/* by relation fork: smallest size it ever had */
	int			ndbcopies;
	TestDbCopy	dbcopies[MAX_DB_COPIES];
} TestWal;

/* walread.c */
extern TestWal *testwal_read(const char *a, const char *b);

/* pagecompare.c */
typedef enum PageVerdict
{
	PAGE_EXACT,					/* but for the checksum */
	PAGE_MASKED,				/* equal after the resource manager's mask */
	PAGE_SEQUENCE,				/* WAL is ahead of a sequence's position */
	PAGE_SPGIST_META,			/* cache of last used pages is not logged */
	PAGE_VM_IMAGE,				/* image of a map page lacks the map, as its "hole" */
	PAGE_DIFFERENT,
} PageVerdict;

#define NUM_VERDICTS (PAGE_DIFFERENT + 1)

/* Copies the page; false if it is not in the directory. */
extern bool read_page_of(const char *dir, const NeonKey *key, char *page);

/* Of a page of the visibility map: no bit is set. */
extern bool is_empty_map(const char *page);

/*
 * rmid: of the last record, or RM_XLOG_ID if that says nothing about the page.
 * has_image: there is a full-page image record among its records.
 */
extern PageVerdict compare_pages(const NeonKey *key, RmgrId rmid, bool has_image,
								 const char *redone, const char *file);

/* difftest.c */
extern XLogRecord *difftest_fetch(void *arg, int i, XLogRecPtr *start, XLogRecPtr *end);

/* Argument of difftest_fetch. */
typedef struct FetchArg
{
	TestWal    *wal;
	TestPage   *page;
	uint32		from;
} FetchArg;

/* All pages with records, in key order. */
extern TestPage **difftest_sorted_pages(TestWal *wal, int *n);

/* What the page is before its first record; false if it is new. */
extern bool difftest_base(TestWal *wal, TestPage *page, char *base);
extern void difftest_redo_one(TestWal *wal, TestPage *page, uint32 from, uint32 to,
							  const char *base, char *result);

#endif							/* DIFFTEST_H */

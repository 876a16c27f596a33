/*-------------------------------------------------------------------------
 *
 * manage.c
 *	  Creating and deleting timelines on this safekeeper.
 *
 * A timeline exists when its state file does: everything else is made before
 * and removed after, but for the name in known.c, which tells one that lost its
 * files from one that never was.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "catalog/pg_control.h"
#include "known.h"
#include "manage.h"
#include "neon_durable.h"
#include "neon_testpoint.h"
#include "skwal_private.h"
#include "slot.h"

#define WAL_TLI		1

/* ---- the first segment ---- */

static void
check_head_page(const SkState *st, const char *page, XLogRecPtr lsn)
{
	const XLogLongPageHeader h = (XLogLongPageHeader) page;
	bool		first = lsn % st->wal_segment_size == 0;

	if (h->std.xlp_magic == XLOG_PAGE_MAGIC && h->std.xlp_pageaddr == lsn &&
		h->std.xlp_tli == WAL_TLI &&
		(!first || (h->xlp_sysid == st->system_identifier &&
					h->xlp_seg_size == st->wal_segment_size)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the page at %X/%X of the given WAL is not one of this timeline",
					LSN_FORMAT_ARGS(lsn))));
}

static void
check_head(const SkState *st, const char *head, size_t len)
{
	XLogRecPtr	segment = st->start_lsn - st->start_lsn % st->wal_segment_size;

	if (len != st->start_lsn - segment)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the given WAL does not end at %X/%X", LSN_FORMAT_ARGS(st->start_lsn))));
	for (size_t at = 0; at < len; at += XLOG_BLCKSZ)
	{
		if (len - at >= SizeOfXLogLongPHD)
			check_head_page(st, head + at, segment + at);
	}
}

/* One page header where the reader looks for it. */
static void
fill_page_header(const SkState *st, char *page, XLogRecPtr lsn)
{
	XLogLongPageHeader h = (XLogLongPageHeader) page;

	h->std.xlp_magic = XLOG_PAGE_MAGIC;
	h->std.xlp_tli = WAL_TLI;
	h->std.xlp_pageaddr = lsn;
	if (lsn % st->wal_segment_size != 0)
		return;
	h->std.xlp_info = XLP_LONG_HEADER;
	h->xlp_sysid = st->system_identifier;
	h->xlp_seg_size = st->wal_segment_size;
	h->xlp_xlog_blcksz = XLOG_BLCKSZ;
}

/*
 * Nobody has the bytes below start_lsn any more: zeros, with the two page
 * headers that reading from start_lsn looks at.
 */
static char *
blank_head(const SkState *st, size_t *len)
{
	XLogRecPtr	segment = st->start_lsn - st->start_lsn % st->wal_segment_size;
	size_t		last_page;
	char	   *head;

	*len = st->start_lsn - segment;
	head = palloc0(*len + XLOG_BLCKSZ);
	last_page = *len - *len % XLOG_BLCKSZ;
	if (*len > 0)
		fill_page_header(st, head, segment);
	if (*len % XLOG_BLCKSZ != 0 && last_page > 0)
		fill_page_header(st, head + last_page, segment + last_page);
	return head;
}

/* ---- creation ---- */

static void
check_same(SkTimeline *tl, const SkState *wanted)
{
	SkState		st;
	char		hex[NEON_ID_HEXLEN + 1];

	sk_get_state(tl, &st);
	if (st.system_identifier != wanted->system_identifier ||
		st.wal_segment_size != wanted->wal_segment_size || st.start_lsn != wanted->start_lsn)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("timeline \"%s\" exists here with other properties",
						neon_id_format(&wanted->timeline, hex)),
				 errdetail("system identifier " UINT64_FORMAT ", segments of %u bytes, start at %X/%X",
						   st.system_identifier, st.wal_segment_size,
						   LSN_FORMAT_ARGS(st.start_lsn))));
}

static void
make_directories(SkTimeline *tl)
{
	char		tenant[NEON_ID_HEXLEN + 1];
	char		path[MAXPGPATH];

	neon_id_format(&tl->tenant, tenant);
	durable_make_dir("neon", true);
	durable_make_dir("neon/tenants", true);
	snprintf(path, sizeof(path), "neon/tenants/%s", tenant);
	durable_make_dir(path, true);
	snprintf(path, sizeof(path), "neon/tenants/%s/timelines", tenant);
	durable_make_dir(path, true);
	durable_make_dir(sk_path(tl, NULL, path), true);
}

/* What an unfinished creation left has no state file. */
static void
make_files(SkState *st, const char *head, size_t len)
{
	SkTimeline	tl = {.tenant = st->tenant,.timeline = st->timeline,
	.wal_segment_size = st->wal_segment_size};
	char		path[MAXPGPATH];

	make_directories(&tl);
	durable_remove_tree(sk_path(&tl, "wal", path));
	durable_make_dir(path, true);
	NEON_TEST_POINT("create-directory");
	if (len > 0)
		skwal_make_first(&tl, st->start_lsn - 1, head, len);
	NEON_TEST_POINT("create-segment");
	skstate_write(sk_path(&tl, NULL, path), st);
	NEON_TEST_POINT("create-state");
}

static void
complete_state(SkState *st, bool with_head)
{
	st->node = *sk_node();
	st->commit_lsn = st->acked_lsn = st->start_lsn;
	st->clean_end = st->start_lsn;
	st->wal_start = with_head ? st->start_lsn - st->start_lsn % st->wal_segment_size :
		st->start_lsn;
}

void
sk_create(SkState *st, const char *head, size_t len)
{
	SkTimeline *tl;
	bool		with_head = head != NULL;

	if (with_head)
		check_head(st, head, len);
	else
		head = blank_head(st, &len);
	tl = sk_open_if_known(&st->tenant, &st->timeline);
	if (tl == NULL)
	{
		sk_lock_registry();
		if (sk_lookup(&st->tenant, &st->timeline) == NULL)
		{
			complete_state(st, with_head);
			make_files(st, head, len);
			skknown_add(&st->tenant, &st->timeline);
			NEON_TEST_POINT("create-known");
			(void) sk_register(&st->tenant, &st->timeline);
		}
		sk_unlock_registry();
		tl = sk_open(&st->tenant, &st->timeline);
	}
	sk_check_healthy(tl);
	check_same(tl, st);
}

/* ---- deletion ---- */

static void
write_tombstone(const NeonId *tenant, const NeonId *timeline)
{
	SkTimeline	tl = {.tenant = *tenant,.timeline = *timeline};
	SkState		st;
	char		path[MAXPGPATH];

	memset(&st, 0, sizeof(st));
	st.tenant = *tenant;
	st.timeline = *timeline;
	st.node = *sk_node();
	st.deleted = true;
	make_directories(&tl);
	skstate_write(sk_path(&tl, NULL, path), &st);
}

static void
remove_files(SkTimeline *tl)
{
	char		path[MAXPGPATH];

	durable_remove_tree(sk_path(tl, "wal", path));
	durable_remove_tree(sk_path(tl, "slots", path));
	durable_sync_dir(sk_path(tl, NULL, path));
}

/* Somebody may still need it: a compute that streams, or reads under a lease. */
static void
check_unused(SkTimeline *tl, uint64 generation)
{
	SkPositions p;

	sk_get_positions(tl, &p);
	if (generation < p.generation)
		sk_check_generation(tl, generation);
	if (p.writer_pid != 0 || p.lease_left_ms > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("the timeline is in use by a compute"),
				 sk_errdetail_state(tl),
				 errhint("Stop its endpoint first.")));
}

static void
delete_known(SkTimeline *tl, uint64 generation, bool force)
{
	sk_lock(tl);
	if (sk_status(tl) == SK_UNOPENED)
		sk_open_from_disk(tl);
	if (!force)
		check_unused(tl, generation);
	sk_stop_writer(tl, 0);
	sk_op_begin(tl);
	NEON_TEST_POINT("before-tombstone");
	write_tombstone(&tl->tenant, &tl->timeline);
	NEON_TEST_POINT("after-tombstone");
	SpinLockAcquire(&tl->shared->mutex);
	tl->shared->status = SK_DELETED;
	SpinLockRelease(&tl->shared->mutex);
	sk_op_end(tl);
	remove_files(tl);
	skknown_remove(&tl->tenant, &tl->timeline);
	skslot_forget_timeline(&tl->tenant, &tl->timeline);
	sk_unregister(tl);
	sk_unlock(tl);
}

void
sk_delete(const NeonId *tenant, const NeonId *timeline, uint64 generation, bool force)
{
	SkTimeline *tl = sk_lookup(tenant, timeline);
	SkTimeline	gone = {.tenant = *tenant,.timeline = *timeline};

	if (tl != NULL && sk_status(tl) != SK_DELETED)
	{
		delete_known(tl, generation, force);
		return;
	}
	sk_lock_registry();
	write_tombstone(tenant, timeline);
	remove_files(&gone);
	skknown_remove(tenant, timeline);
	sk_unlock_registry();
}

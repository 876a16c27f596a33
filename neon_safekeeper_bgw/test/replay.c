/*-------------------------------------------------------------------------
 *
 * replay.c
 *	  Walks of the models of the WAL service (contrib/wal_model/trace.pml) on
 *	  the functions of the library.
 *
 * The members are timelines of this instance, each with a configuration in
 * which it is this node and the others are strangers.  After each step what
 * the model says of the member is compared with the slot, with the state file
 * on the disk and with the bytes of the log.
 *
 * A member crashes by losing its slot: the timeline is opened from its files
 * as after a restart.  A kill in the middle of a call is an error raised at a
 * test point, where nothing in the library catches it, and then the same.  So
 * all that was written counts as durable, as after a kill -9 and unlike after
 * a power cut, and nobody else is at work meanwhile.
 *
 * Or the whole instance is killed there (kills = true): then all members crash
 * at once, and the walk is one with ALLCRASH.  The next call begins at the
 * line behind, from = its number, and makes out of the lines before what was
 * in this process's memory.
 *
 * A position of the model is a number of records; records differ in size, by
 * who wrote them, so that logs which part do not meet again by chance.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(neon_sk_test_replay);

#ifdef NEON_TESTING

#include "access/xact.h"
#include "access/xlog_internal.h"
#include "../election.h"
#include "../fetch.h"
#include "../init.h"
#include "../jump.h"
#include "../manage.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_durable.h"
#include "../retain.h"
#include "replay.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/resowner.h"

#define RETAIN_TRIES	1000	/* each 10 ms */

static Replay *replay = NULL;	/* for the test points */

/* ---- crashes ---- */

static void pg_attribute_noreturn()
kill_instance(void)
{
	kill(PostmasterPid, SIGKILL);
	kill(MyProcPid, SIGKILL);
	for (;;)
		pause();
}

static void
reach_test_point(const char *name)
{
	if (replay == NULL || replay->kill_at == NULL || strcmp(replay->kill_at, name) != 0)
		return;
	if (replay->kills)
		kill_instance();
	replay->killed = true;
	replay->kill_at = NULL;
	ereport(ERROR,
			(errcode(ERRCODE_CRASH_SHUTDOWN),
			 errmsg("test point \"%s\"", name)));
}

/* Runs one call; the SQLSTATE of its error, or 0.  A kill is an error, too. */
static int
attempt(Replay *r, void (*call) (Replay *))
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile int sqlstate = 0;

	r->killed = false;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		call(r);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		sk_release_all();
		sqlstate = error->sqlerrcode;
		if (sqlstate == ERRCODE_DATA_CORRUPTED)
		{
			replay = NULL;
			ReThrowError(error);
		}
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	r->kill_at = NULL;
	return sqlstate;
}

/* What was only in memory of commit_lsn is lost. */
static void
take_commit_of_file(Replay *r, TraceMember *m)
{
	char		dir[MAXPGPATH];
	char	   *problem;
	SkState		st;

	m->tl = sk_open(&r->tenant, &m->timeline);
	if (skstate_read(sk_path(m->tl, NULL, dir), &st, &problem) == SK_STATE_OK)
		m->commit_lsn = st.commit_lsn;
}

/* The slot is lost, the files stay. */
static void
reopen(Replay *r)
{
	TraceMember *m = r->member;

	if (r->kills)
		kill_instance();
	sk_release_all();
	skwal_forget(m->tl);
	sk_unregister(m->tl);
	(void) sk_register(&r->tenant, &m->timeline);
	take_commit_of_file(r, m);
	r->tl = m->tl;
}

/* ---- the steps: what the safekeeper does ---- */

/* The launcher has the member's generation, but in the steps that say another one. */
static uint64
launcher_generation(Replay *r)
{
	return strncmp(r->line->action, "other_", 6) == 0 ? r->line->number[2] : r->line->generation;
}

static void
call_promise(Replay *r)
{
	SkPromise	result;
	uint32		term = r->launcher->term;

	sk_promise(r->tl, r->line->generation, term, "trace", &result);
	if (result.positions.promised != term)
		trace_differs(r, "promised %u instead of %u", result.positions.promised, term);
	if (result.positions.last_log_term != r->line->last_log_term ||
		result.positions.flush_lsn != trace_lsn(r, r->line->log, r->line->flush))
		trace_differs(r, "the promise says term %u at %X/%X", result.positions.last_log_term,
				LSN_FORMAT_ARGS(result.positions.flush_lsn));
}

static void
call_elected(Replay *r)
{
	sk_elected(r->tl, launcher_generation(r), r->launcher->term, r->launcher->x,
			   &r->launcher->history);
}

static MadeRecord *
record_at(Replay *r, int position)
{
	if (position < 0 || position >= MAX_LENGTH || r->launcher->log[position] == 0)
		trace_differs(r, "invalid line");
	return &r->record[r->launcher->log[position] - 1][position];
}

/* As skreceive.c does; in two messages, now and then. */
static void
write_record(Replay *r, const MadeRecord *rec, uint32 term, bool settle)
{
	WalWriter	w;
	size_t		len = rec->end - rec->start;
	size_t		first = trace_draw(r, 3) == 0 ? trace_draw(r, len) : 0;
	char	   *problem = NULL;
	bool		ok;

	walwriter_begin(&w, r->tl, term, "trace");
	ok = walwriter_take(&w, rec->start, rec->bytes, first, &problem) &&
		(!settle || first == 0 || walwriter_settle(&w, &problem)) &&
		walwriter_take(&w, rec->start + first, rec->bytes + first, len - first, &problem) &&
		(!settle || walwriter_settle(&w, &problem));
	if (!ok)
		trace_differs(r, "WAL from %X/%X, %zu and %zu bytes, was not taken: %s",
					  LSN_FORMAT_ARGS(rec->start), first, len - first, problem);
	if (settle && !sk_note_acked(r->tl, w.flushed))
		trace_differs(r, "WAL was not acknowledged");
	walwriter_end(&w);
}

static void
call_stream(Replay *r)
{
	write_record(r, record_at(r, r->line->flush - 1), r->launcher->term, true);
}

static void
call_write(Replay *r)
{
	write_record(r, record_at(r, r->line->flush), r->launcher->term, false);
}

/* A piece of the donor's log as tail() gives it, used as copy_piece() does. */
static void
call_copy(Replay *r)
{
	TraceMember *donor = &r->members[r->line->number[2]];
	XLogRecPtr	from = sk_flush_lsn(r->tl);
	SkState		st;
	bytea	   *piece = sk_read_tail(donor->tl, r->launcher->term, from,
									 1 + trace_draw(r, 100000), &st);
	XLogRecPtr	end = Min(copy_usable_end(r->tl, &st.history,
										  from + VARSIZE_ANY_EXHDR(piece)), r->launcher->x);
	WalWriter	w;
	char	   *problem = NULL;

	if (!r->line->number[3])
	{
		if (end > from)
			trace_differs(r, "the donor's log is used up to %X/%X", LSN_FORMAT_ARGS(end));
		return;
	}
	/* the model takes one record at a time */
	end = Min(end, trace_lsn(r, r->line->log, r->line->flush));
	walwriter_begin(&w, r->tl, r->launcher->term, "trace");
	while (end > from && w.flushed < trace_lsn(r, r->line->log, r->line->flush))
	{
		if (!walwriter_take(&w, from, VARDATA_ANY(piece), end - from, &problem) ||
			!walwriter_settle(&w, &problem))
			trace_differs(r, "WAL was not copied: %s", problem);
		from = w.received;
		piece = sk_read_tail(donor->tl, r->launcher->term, from, 100000, &st);
		end = Min(copy_usable_end(r->tl, &st.history, from + VARSIZE_ANY_EXHDR(piece)),
				  trace_lsn(r, r->line->log, r->line->flush));
	}
	walwriter_end(&w);
}

static void
call_commit(Replay *r)
{
	const int	position = r->line->number[2];
	XLogRecPtr	lsn = trace_lsn(r, r->launcher->log, position);
	XLogRecPtr	flush = trace_lsn(r, r->line->log, r->line->flush);
	SkPositions p;

	(void) sk_commit(r->tl, r->line->generation, r->launcher->term, lsn, 0, &p);
	if (r->line->number[3])
		r->member->commit_lsn = Max(r->member->commit_lsn, Min(lsn, flush));
}

static NeonId
stranger(int a)
{
	NeonId		id;

	memset(&id, 0xa0 + a, sizeof(id));
	return id;
}

static void
call_gossip(Replay *r)
{
	int			position = r->line->number[2];

	for (int a = 0; a < r->nmembers; a++)
	{
		SkPeer		peer;
		SkPositions p;

		if (&r->members[a] == r->member)
			continue;
		sk_get_positions(r->members[a].tl, &p);
		memset(&peer, 0, sizeof(peer));
		peer.node = stranger(a);
		peer.generation = p.generation;
		peer.promised = p.promised;
		peer.last_log_term = p.last_log_term;
		peer.flush_lsn = p.flush_lsn;
		peer.counts = p.counts;
		sk_note_peer(r->tl, &peer);
	}
	(void) sk_raise_commit_by_peers(r->tl);
	if (position >= 0)
		r->member->commit_lsn = Max(r->member->commit_lsn,
									trace_lsn(r, r->line->log, Min(position, r->line->flush)));
}

/* The instance's own worker holds the timeline's lock at times. */
static void
call_close(Replay *r)
{
	for (int i = 0; !sk_close_cleanly(r->tl); i++)
	{
		if (i >= 10000)
			trace_differs(r, "it could not be closed");
		pg_usleep(1000L);
	}
}

static void
call_stale_promise(Replay *r)
{
	SkPromise	result;

	sk_promise(r->tl, launcher_generation(r), r->launcher->term, "trace", &result);
}

static void
call_stale_stream(Replay *r)
{
	WalWriter	w;

	walwriter_begin(&w, r->tl, r->launcher->term, "trace");
	walwriter_end(&w);
}

/* ---- retention, and the jump ---- */

/* neon_safekeeper.max_retained is 0 here: no member holds anything. */
static void
call_retain(Replay *r)
{
	XLogRecPtr	stored = trace_lsn(r, r->line->log, r->line->number[3]);
	XLogRecPtr	lsn = trace_lsn(r, r->launcher->log, r->line->number[2]);
	SkPageserver ps = {stored, stored, stored, neon_clock()};
	SkPositions p;

	(void) sk_commit(r->tl, r->line->generation, r->launcher->term, lsn, 0, &p);
	r->member->commit_lsn = Max(r->member->commit_lsn,
								Min(lsn, trace_lsn(r, r->line->log, r->line->flush)));
	sk_note_pageserver(r->tl, &ps);
	/* not while a worker is at the timeline, to write its state */
	for (int i = 0; i < RETAIN_TRIES; i++)
	{
		retain_look_after(r->tl);
		sk_get_positions(r->tl, &p);
		if (p.wal_start >= stored - stored % SEGMENT_SIZE)
			break;
		pg_usleep(10 * 1000);
	}
}

static void
call_jump(Replay *r)
{
	TraceMember *donor = &r->members[r->line->number[2]];
	SkBeginning b;

	sk_read_beginning(donor->tl, r->launcher->term, &b);
	if (!sk_jump(r->tl, r->launcher->term, &b))
		trace_differs(r, "it did not begin anew at %X/%X", LSN_FORMAT_ARGS(b.wal_start));
	r->member->commit_lsn = Max(r->member->commit_lsn, b.first_record);
}

/* ---- the members change ---- */

static void
add_members(SkMemberSet *set, int self, int bits)
{
	for (int i = 0; i < MEMBERS; i++)
	{
		SkMember   *member = &set->member[set->n];

		if ((bits & (1 << i)) == 0)
			continue;
		member->id = i + 1;
		member->node = i == self ? *sk_node() : stranger(i);
		strlcpy(member->host, "nowhere", sizeof(member->host));
		member->port = 1;
		set->n++;
	}
}

/* As member self has it: it is this node, the others are strangers. */
static void
fill_config(int self, int generation, int floor, SkConfig *config)
{
	memset(config, 0, sizeof(*config));
	config->generation = generation;
	config->floor = floor;
	config->joint = generation == 2;
	add_members(&config->members, self, generation <= 2 ? OLD_MEMBERS : NEW_MEMBERS);
	if (config->joint)
		add_members(&config->new_members, self, NEW_MEMBERS);
}

static void
call_members(Replay *r)
{
	SkConfig	config;

	fill_config(r->line->number[1], r->line->number[2], r->line->number[3], &config);
	sk_members(r->tl, &config);
}

/* How much of the donor's log is committed, in the learner's steps. */
static XLogRecPtr
committed_upto(Replay *r)
{
	return trace_lsn(r, r->members[r->line->number[2]].log, r->line->number[3]);
}

/* The donor's history of that, as memberfuncs.c cuts it. */
static void
call_follow(Replay *r)
{
	XLogRecPtr	upto = committed_upto(r);
	SkState		st;

	sk_get_state(r->members[r->line->number[2]].tl, &st);
	while (st.history.n > 1 && st.history.entry[st.history.n - 1].start > upto)
		st.history.n--;
	(void) sk_follow(r->tl, r->line->generation, &st.history);
}

/* What the donor's stream of committed WAL would bring, a record of it. */
static void
call_follow_copy(Replay *r)
{
	XLogRecPtr	from = sk_flush_lsn(r->tl);
	XLogRecPtr	end = trace_lsn(r, r->line->log, r->line->flush);
	char	   *bytes = palloc(end - from);
	char	   *problem = NULL;
	WalWriter	w;

	if (!skwal_read(r->members[r->line->number[2]].tl, from, bytes, end - from))
		trace_differs(r, "the donor's log cannot be read");
	walwriter_begin(&w, r->tl, r->line->promised, "trace");
	if (!walwriter_take(&w, from, bytes, end - from, &problem) || !walwriter_settle(&w, &problem))
		trace_differs(r, "WAL was not copied: %s", problem);
	walwriter_end(&w);
	(void) sk_raise_commit_copied(r->tl, committed_upto(r));
	r->member->commit_lsn = Max(r->member->commit_lsn, Min(end, committed_upto(r)));
}

/* ---- kills in the middle of a call ---- */

static const char *
draw_point(Replay *r, const char **points, int n)
{
	return points[trace_draw(r, n)];
}

static const char *
promise_point(Replay *r, int stage)
{
	static const char *before[] = {"before-promise", "state-written"};
	static const char *after[] = {"state-renamed", "after-promise"};

	return stage == 0 ? draw_point(r, before, 2) : draw_point(r, after, 2);
}

/* Which points come before the cut, and after it, depends on what there is to cut. */
static const char *
elected_point(Replay *r, int stage)
{
	SkShared   *s = r->tl->shared;
	XLogRecPtr	end = skhistory_common(&s->st.history, s->flush_lsn, &r->launcher->history,
									   s->st.commit_lsn);
	const char *points[8];
	int			n = 0;
	bool		promises = s->st.promised < r->launcher->term;

	if (stage == 0 && promises)
		return promise_point(r, 0);
	if (stage <= 1)
	{
		if (promises)
			points[n++] = "after-promise";
		if (s->st.acked_lsn > end || s->st.clean_end != InvalidXLogRecPtr)
		{
			points[n++] = "before-cut";
			points[n++] = "after-cut";
		}
		points[n++] = s->written_lsn > end ? "before-truncate" : "before-history";
	}
	else if (stage == 2)
	{
		if (s->written_lsn > end)
			points[n++] = "after-truncate";
		points[n++] = "before-history";
	}
	else
		points[n++] = "after-history";
	return draw_point(r, points, n);
}

static void
killed_call(Replay *r, void (*call) (Replay *), const char *point)
{
	int			sqlstate;

	r->kill_at = point;
	sqlstate = attempt(r, call);
	if (!r->killed)
		trace_differs(r, "test point \"%s\" was not reached, SQLSTATE %s", point,
				sqlstate ? unpack_sql_state(sqlstate) : "00000");
	reopen(r);
}

static void
do_promise_killed(Replay *r)
{
	killed_call(r, call_stale_promise, promise_point(r, r->line->number[2]));
}

static void
do_elected_killed(Replay *r)
{
	killed_call(r, call_elected, elected_point(r, r->line->number[2]));
}

static void
do_members_killed(Replay *r)
{
	static const char *before[] = {"before-members", "state-written"};
	static const char *after[] = {"state-renamed", "after-members"};

	killed_call(r, call_members, draw_point(r, r->line->number[4] == 0 ? before : after, 2));
}

/* Before the state file is replaced, or after it. */
static void
do_jump_killed(Replay *r)
{
	static const char *before[] = {"before-jump", "state-written"};
	static const char *after[] = {"state-renamed", "after-jump", "jump-removed"};

	killed_call(r, call_jump, r->line->number[3] == 0 ? draw_point(r, before, 2) : draw_point(r, after, 3));
}

/* ---- steps of members, by their names ---- */

typedef struct Action
{
	const char *name;
	void		(*call) (Replay *r);	/* must succeed, or fail as expected */
	bool		cuts;			/* or may: the whole log is looked at then */
	bool		refused;
	void		(*other) (Replay *r);	/* instead of call: does all by itself */
} Action;

static const Action actions[] = {
	{"promise", call_promise},
	{"elected", call_elected, .cuts = true},
	{"stream", call_stream},
	{"write", call_write},
	{"copy", call_copy, .cuts = true},
	{"commit", call_commit},
	{"gossip", call_gossip},
	{"close", call_close, .cuts = true},
	{"retain", call_retain, .cuts = true},
	{"jump", call_jump, .cuts = true},
	{"jump_killed", .cuts = true,.other = do_jump_killed},
	{"refused_promise", call_stale_promise, .refused = true},
	{"refused_elected", call_elected, .refused = true},
	{"refused_stream", call_stale_stream, .refused = true},
	{"crash", .cuts = true,.other = reopen},
	{"promise_killed", .cuts = true,.other = do_promise_killed},
	{"elected_killed", .cuts = true,.other = do_elected_killed},
	{"members", call_members},
	{"members_killed", .cuts = true,.other = do_members_killed},
	{"follow", call_follow},
	{"follow_copy", call_follow_copy, .cuts = true},
	{"other_promise", call_stale_promise, .refused = true},
	{"other_elected", call_elected, .cuts = true,.refused = true},
	{"old_members", call_members, .refused = true},
};

static int
expected_sqlstate(Replay *r, const Action *action)
{
	if (!action->refused)
		return 0;
	if (strncmp(action->name, "refused_", 8) != 0)
		return ERRCODE_NS_GENERATION;
	if (r->line->promised < r->launcher->term)
		return ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
	return ERRCODE_NS_SUPERSEDED;
}

static void
do_member_step(Replay *r, const Action *action)
{
	int			sqlstate;

	if (r->line->n < 2 || r->line->number[0] >= MAX_LAUNCHERS || r->line->number[1] >= r->nmembers)
		trace_differs(r, "invalid line");
	r->launcher = &r->launchers[r->line->number[0]];
	r->member = &r->members[r->line->number[1]];
	r->tl = r->member->tl = sk_open(&r->tenant, &r->member->timeline);
	if (action->other)
		action->other(r);
	else
	{
		sqlstate = attempt(r, action->call);
		if (sqlstate != expected_sqlstate(r, action))
			trace_differs(r, "SQLSTATE %s", sqlstate ? unpack_sql_state(sqlstate) : "00000");
	}
	trace_compare(r, action->cuts);
}

/* ---- steps of launchers and computes ---- */

static void
do_start(Replay *r)
{
	r->launchers[r->line->number[0]].term = r->line->number[1];
}

static void
do_append(Replay *r)
{
	trace_append_record(r, r->line->number[0]);
}

/* What is in the log behind X is the compute's own already. */
static void
do_win(Replay *r)
{
	TraceLauncher *l = &r->launchers[r->line->number[0]];

	l->term = r->line->number[1];
	l->end = r->line->number[2];
	memcpy(l->log, r->line->log, sizeof(l->log));
	l->x = r->term_x[l->term] = trace_lsn(r, l->log, l->end);
	trace_history(r, r->line->start, r->line->terms, &l->history);
	while (l->end < r->line->length && r->line->log[l->end] != 0)
		trace_append_record(r, r->line->number[0]);
}

/* ---- a trace ---- */

static void
remove_member(Replay *r, TraceMember *m)
{
	SkTimeline *tl = sk_lookup(&r->tenant, &m->timeline);
	SkTimeline	gone = {.tenant = r->tenant,.timeline = m->timeline};
	char		dir[MAXPGPATH];

	if (tl != NULL)
	{
		skwal_forget(tl);
		sk_unregister(tl);
	}
	sk_path(&gone, NULL, dir);
	if (durable_exists(dir))
		durable_remove_tree(dir);
}

static void
create_member(Replay *r, int a)
{
	TraceMember *m = &r->members[a];
	SkState		st;

	remove_member(r, m);
	memset(&st, 0, sizeof(st));
	st.tenant = r->tenant;
	st.timeline = m->timeline;
	st.system_identifier = SYSTEM_ID;
	st.wal_segment_size = SEGMENT_SIZE;
	st.tli = 1;
	st.start_lsn = r->start_lsn;
	st.history.n = 1;
	st.history.entry[0].start = r->start_lsn;
	fill_config(a, 1, 0, &st.config);
	sk_create(&st, NULL, 0);
	m->tl = sk_open(&r->tenant, &m->timeline);
	m->commit_lsn = r->start_lsn;
}

/* The same in every life of the instance. */
static NeonId
member_timeline(Replay *r, int a)
{
	NeonId		id;

	memset(&id, a + 1, sizeof(id));
	memcpy(&id.b[0], &r->trace, sizeof(r->trace));
	memcpy(&id.b[4], &r->seed, sizeof(r->seed));
	return id;
}

static void
begin_trace(Replay *r)
{
	memset(r->launchers, 0, sizeof(r->launchers));
	memset(r->record, 0, sizeof(r->record));
	r->trace = r->line->number[0];
	r->nmembers = r->line->number[1];
	r->segments = r->line->number[2] != 0;
	r->step = 0;
	if (r->nmembers < 1 || r->nmembers > MEMBERS)
		trace_differs(r, "invalid line");
	r->start_lsn = trace_draw_start(r);
	for (int a = 0; a < r->nmembers; a++)
	{
		r->members[a].timeline = member_timeline(r, a);
		r->members[a].kept = 0;
		if (!r->before)
			create_member(r, a);
	}
}

static void
end_trace(Replay *r)
{
	for (int a = 0; a < r->nmembers; a++)
		remove_member(r, &r->members[a]);
}

/* The first line that is new is the one that was killed: it is compared only. */
static void
go_on(Replay *r)
{
	for (int a = 0; a < r->nmembers; a++)
		take_commit_of_file(r, &r->members[a]);
	r->member = &r->members[r->line->number[1]];
	trace_compare(r, true);
}

static void
do_line(Replay *r)
{
	const char *name = r->line->action;

	r->step++;
	r->launcher = NULL;
	r->member = NULL;
	if (strcmp(name, "trace") == 0)
		begin_trace(r);
	else if (strcmp(name, "end") == 0)
		end_trace(r);
	else if (strcmp(name, "start") == 0)
		do_start(r);
	else if (strcmp(name, "win") == 0)
		do_win(r);
	else if (strcmp(name, "append") == 0)
		do_append(r);
	else if (!r->before)
	{
		for (int i = 0; i < lengthof(actions); i++)
		{
			if (strcmp(name, actions[i].name) == 0)
			{
				do_member_step(r, &actions[i]);
				return;
			}
		}
		trace_differs(r, "unknown action");
	}
	else if (r->line->n >= 2 && r->line->number[1] < r->nmembers)
		r->members[r->line->number[1]].kept = r->line->kept;
}

/*
 * replay(traces text, seed int, kills bool, begin int) returns int: the steps
 * that were compared.  begin: the line that was killed, from 1 on, or 0.
 */
Datum
neon_sk_test_replay(PG_FUNCTION_ARGS)
{
	char	   *input = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Replay	   *r = palloc0(sizeof(Replay));
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "trace",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext outer = MemoryContextSwitchTo(context);
	int			begin = PG_GETARG_INT32(3);
	int			steps = 0;
	int			number = 0;
	char	   *next;

	r->seed = PG_GETARG_INT32(1);
	r->kills = PG_GETARG_BOOL(2);
	memset(&r->tenant, 0x77, sizeof(r->tenant));
	sk_set_testpoint_hook(reach_test_point);
	replay = r;
	for (char *p = input; *p != '\0'; p = next)
	{
		Line		line;

		CHECK_FOR_INTERRUPTS();
		next = p + strcspn(p, "\n");
		if (*next != '\0')
			*next++ = '\0';
		number++;
		if (!trace_parse_line(p, &line))
			continue;
		r->line = &line;
		r->before = number < begin;
		if (number == begin)
			go_on(r);
		else
			do_line(r);
		if (!r->before)
			trace_draw_for(r, 1000 + r->step);
		steps += r->member != NULL;
		if (strcmp(line.action, "end") == 0)
			MemoryContextReset(context);
	}
	replay = NULL;
	sk_set_testpoint_hook(NULL);
	MemoryContextSwitchTo(outer);
	MemoryContextDelete(context);
	PG_RETURN_INT32(steps);
}

#else

Datum
neon_sk_test_replay(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("traces are replayed in a build with test points only")));
}

#endif							/* NEON_TESTING */

/*-------------------------------------------------------------------------
 *
 * tracecheck.c
 *	  Lines of a trace, and comparing a safekeeper with them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef NEON_TESTING

#include "../election.h"
#include "../skwal_private.h"
#include "replay.h"

/* ---- what is wrong ---- */

void
trace_differs(Replay *r, const char *format,...)
{
	va_list		args;
	char		what[512];

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("trace %d, step %d, \"%s\": %s", r->trace, r->step,
					r->line ? r->line->text : "", what)));
}

/* ---- lines ---- */

static int
parse_numbers(char **p, int *to, int max)
{
	int			n = 0;

	while (**p != '\0' && **p != ':')
	{
		char	   *end;
		long		v = strtol(*p, &end, 10);

		if (end == *p)
			break;
		if (n < max)
			to[n] = (int) v;
		n++;
		*p = end + strspn(end, " ");
	}
	if (**p == ':')
		*p += 1 + strspn(*p + 1, " ");
	return Min(n, max);
}

bool
trace_parse_line(char *text, Line *line)
{
	char	   *p = text + strcspn(text, " ");
	int			state[5] = {0, 0, 0, 0, 0};

	if (*text == '\0')
		return false;
	memset(line, 0, sizeof(*line));
	line->text = text;
	if (p - text >= sizeof(line->action))
		return false;
	memcpy(line->action, text, p - text);
	p += strspn(p, " ");
	line->n = parse_numbers(&p, line->number, MAX_NUMBERS);
	if (*p == '\0')
		return true;
	if (strcmp(line->action, "win") != 0)
		(void) parse_numbers(&p, state, 5);
	line->promised = state[0];
	line->flush = state[1];
	line->last_log_term = state[2];
	line->generation = state[3];
	line->kept = state[4];
	line->terms = parse_numbers(&p, line->start + 1, MAX_LAUNCHERS);
	line->length = parse_numbers(&p, line->log, MAX_LENGTH);
	return true;
}

/* ---- the model's configurations and positions ---- */

bool
trace_is_member(int a, int generation)
{
	int			set = (generation <= 2 ? OLD_MEMBERS : 0) | (generation >= 2 ? NEW_MEMBERS : 0);

	return (set & (1 << a)) != 0;
}

XLogRecPtr
trace_lsn(Replay *r, const int *log, int n)
{
	return n == 0 ? r->start_lsn : r->record[log[n - 1] - 1][n - 1].end;
}

void
trace_history(Replay *r, const int *start, int terms, SkHistory *history)
{
	memset(history, 0, sizeof(*history));
	history->entry[history->n++].start = r->start_lsn;
	for (int t = 1; t <= terms; t++)
	{
		if (start[t] == 0)
			continue;
		history->entry[history->n].term = t;
		history->entry[history->n++].start = r->term_x[t];
	}
}

static bool
same_history(const SkHistory *a, const SkHistory *b)
{
	for (int i = 0; i < a->n && a->n == b->n; i++)
	{
		if (a->entry[i].term != b->entry[i].term || a->entry[i].start != b->entry[i].start)
			return false;
	}
	return a->n == b->n;
}

/* A record ends in each segment then: where the one with the end of that of position n begins. */
static XLogRecPtr
kept_lsn(Replay *r, int n)
{
	return (r->start_lsn / SEGMENT_SIZE + n) * SEGMENT_SIZE;
}

/* ---- comparing ---- */

static void
compare_file(Replay *r, const SkHistory *history)
{
	char		dir[MAXPGPATH];
	char	   *problem;
	SkState		st;

	if (skstate_read(sk_path(r->tl, NULL, dir), &st, &problem) != SK_STATE_OK)
		trace_differs(r, "the state file cannot be read");
	if (st.promised != r->line->promised)
		trace_differs(r, "the file has promised term %u", st.promised);
	if (st.config.generation != r->line->generation)
		trace_differs(r, "the file has generation " UINT64_FORMAT, st.config.generation);
	if (!same_history(&st.history, history))
		trace_differs(r, "the file has history %s, not %s", skhistory_to_json(&st.history),
				skhistory_to_json(history));
	if (st.wal_start != r->tl->shared->st.wal_start)
		trace_differs(r, "the file has WAL from %X/%X on", LSN_FORMAT_ARGS(st.wal_start));
	if (st.commit_lsn > r->member->commit_lsn)
		trace_differs(r, "the file has commit_lsn %X/%X", LSN_FORMAT_ARGS(st.commit_lsn));
}

/* A log that begins anew at a segment's start has that segment, of zeros. */
static XLogRecPtr
end_of_log(Replay *r)
{
	XLogRecPtr	flush = trace_lsn(r, r->line->log, r->line->flush);

	return r->line->kept > 0 && flush == kept_lsn(r, r->line->kept) ? flush + MAXIMUM_ALIGNOF : flush;
}

/*
 * whole: from the first segment that is kept to the zeros behind the log; else the last record.
 */
static void
compare_bytes(Replay *r, bool whole)
{
	const Line *line = r->line;
	bool		tail = line->flush < line->length && line->log[line->flush] != 0;

	for (int i = Max((whole ? line->kept : line->flush) - 1, 0); i < line->flush; i++)
	{
		MadeRecord *rec = &r->record[line->log[i] - 1][i];
		size_t		gone = i < line->kept ? kept_lsn(r, line->kept) - rec->start : 0;
		size_t		len = rec->end - rec->start - gone;
		char	   *bytes = palloc(len + 1);

		if (rec->start != trace_lsn(r, line->log, i))
			trace_differs(r, "the model's log is no log");
		if (!skwal_read(r->tl, rec->start + gone, bytes, len) ||
			memcmp(bytes, rec->bytes + gone, len) != 0)
			trace_differs(r, "record %d at %X/%X is not the one that launcher %d wrote", i,
					LSN_FORMAT_ARGS(rec->start), line->log[i] - 1);
		pfree(bytes);
	}
	if (whole && !tail && skwal_anything_from(r->tl, end_of_log(r)))
		trace_differs(r, "there is something behind the end of the log");
}

/* Of a jump, or a removal, that was killed files are left until the next one. */
static void
compare_start(Replay *r, XLogRecPtr wal_start)
{
	const Line *line = r->line;
	XLogSegNo  *segno;

	if (line->kept > 0 ? wal_start != kept_lsn(r, line->kept) : wal_start > r->start_lsn)
		trace_differs(r, "WAL begins at %X/%X", LSN_FORMAT_ARGS(wal_start));
	if (line->kept > r->member->kept && strstr(line->action, "_killed") == NULL &&
		skwal_segments(r->tl, 0, wal_start / SEGMENT_SIZE, &segno) > 0)
		trace_differs(r, "there is WAL below %X/%X", LSN_FORMAT_ARGS(wal_start));
	r->member->kept = line->kept;
}

void
trace_compare(Replay *r, bool whole)
{
	const Line *line = r->line;
	XLogRecPtr	flush = trace_lsn(r, line->log, line->flush);
	SkHistory	history;
	SkPositions p;
	SkState		st;
	bool		counts = line->promised > 0 && line->promised <= line->terms &&
	line->start[line->promised] != 0 && line->start[line->promised] <= line->flush + 1;
	bool		member = trace_is_member(r->member - r->members, line->generation);

	r->tl = r->member->tl = sk_open(&r->tenant, &r->member->timeline);
	trace_history(r, line->start, line->terms, &history);
	sk_get_positions(r->tl, &p);
	sk_get_state(r->tl, &st);
	if (p.status != SK_ACTIVE)
		trace_differs(r, "the member is damaged: %s", r->tl->shared->detail);
	if (p.promised != line->promised)
		trace_differs(r, "promised is %u", p.promised);
	if (p.flush_lsn != flush)
		trace_differs(r, "flush_lsn is %X/%X, not %X/%X", LSN_FORMAT_ARGS(p.flush_lsn),
				LSN_FORMAT_ARGS(flush));
	if (p.last_log_term != line->last_log_term)
		trace_differs(r, "last_log_term is %u", p.last_log_term);
	if (!same_history(&st.history, &history))
		trace_differs(r, "the history is %s, not %s", skhistory_to_json(&st.history),
				skhistory_to_json(&history));
	if (p.generation != line->generation || p.member != member)
		trace_differs(r, "the generation is " UINT64_FORMAT ", member %d", p.generation, p.member);
	if (p.counts != (member && (counts || (p.promised == 0 && history.n == 1))))
		trace_differs(r, "counts is %d", p.counts);
	if (p.commit_lsn != r->member->commit_lsn)
		trace_differs(r, "commit_lsn is %X/%X, not %X/%X", LSN_FORMAT_ARGS(p.commit_lsn),
				LSN_FORMAT_ARGS(r->member->commit_lsn));
	compare_start(r, p.wal_start);
	compare_file(r, &history);
	compare_bytes(r, whole);
	memcpy(r->member->log, line->log, sizeof(r->member->log));
}

#endif							/* NEON_TESTING */

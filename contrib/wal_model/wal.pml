/*-------------------------------------------------------------------------
 *
 * wal.pml
 *	  The WAL service with a fixed set of members: elections, cutting, catching
 *	  up, streaming, acknowledgement, commit_lsn, crashes.  For Spin.
 *
 * An entry of a log is one WAL record and a position in it an LSN.  The entry
 * says who wrote it; that is for the assertions only, no rule looks at it.
 *
 * Messages may be lost (the step never happens), late and repeated (each step
 * works with what its sender knew: a launcher keeps what the promises said, a
 * compute what was ever reported to it).  A launcher, or a compute, that takes
 * no further step has crashed.  A member that crashes keeps what was persisted.
 *
 * Each action names the C function that is it; docs/wal-service.md has them in
 * a table, with the rules R1 to R12.  WITHOUT(rule) is true in a run that
 * leaves this rule out (environment: WITHOUT=number): such a run must end in a
 * violated assertion.
 *
 * -DLAUNCHERS, -DLENGTH, -DMEMBERS are the bounds.  -DTAIL: bytes that were
 * written and never reported are found at a restart.  -DJUMP: WAL that the
 * pageserver has is removed, and members that lack it jump (the entries stay in
 * log[], for the assertions; nothing reads them).  -DFIGURE8 and -DREPLACED
 * begin in the middle.  -DTRACE prints random walks for the replay (trace.pml).
 *
 *-------------------------------------------------------------------------
 */
#ifndef LAUNCHERS
#define LAUNCHERS 2		/* each with its compute; also the highest term */
#endif
#ifndef LENGTH
#define LENGTH 2
#endif
#ifndef MEMBERS
#define MEMBERS 3		/* 1, 3 or 5 */
#endif
#define MAJORITY	(MEMBERS / 2 + 1)
#define TERMS		(LAUNCHERS + 1)

/* ---- the rules that can be left out ---- */

byte without;
#define WITHOUT(rule)	(without == rule)

#define NONSTRICT	1	/* R1: a promise is for a term above the promised one */
#define NOPERSIST	2	/* R1: it is persisted before the reply */
#define LATESTREAM	3	/* R2, R10: WAL is taken only under the promised term */
#define QUORUM1V	4	/* R3: a term needs promises of a majority */
#define QUORUM1		5	/* R3: a release needs a majority */
#define DONORLSN	6	/* R4: the donor has the greatest (last_log_term, flush_lsn) */
#define NOCUT		7	/* an entry of a history above flush_lsn does not count */
#define ELECTEDOLD	8	/* R5: elected() of a term that is not the promised one is refused */
#define NOTRUNC		9	/* R6: elected() cuts what is not common */
#define TRUNCX		10	/* R6: it cuts to the common part, not merely to X */
#define HISTFIRST	11	/* R6: first the cut, then the history */
#define DUPTRUNC	12	/* R7: elected() again cuts nothing */
#define NOCATCHUP	13	/* R8: what is missing up to X comes before the stream */
#define DONORANY	14	/* R8: every piece is tested against the donor's history */
#define DONORBLIND	15	/* R8: also that of the donor whom the launcher named */
#define COPYFINAL	16	/* R8: untested below commit_lsn only from a member of the same term */
#define NOHIST		17	/* R9: no streaming before the history is persisted */
#define NOXGUARD	18	/* R9: no acknowledgement before X is reached */
#define BOOTVOTES	19	/* R9: X is not committed when the promises are there */
#define BOOTHIST	20	/* R9: nor when the histories are */
#define ACKNOSYNC	21	/* R11: only what is durable is acknowledged */
#define COMMITBLIND	22	/* R12: commit_lsn is taken only if last_log_term is the compute's */
#define GOSSIPLLT	23	/* R12: a reported position counts only if promised = last_log_term */
#define NOZERO		24	/* a cut leaves zeros behind it */
#define RESUME		25	/* R14: a compute is started once in a term */
#define WIPE		26	/* a member that lost its disk is another member */

#define KEEPSTORED	27	/* JUMP: only what the pageserver has durably is removed */
#define JUMPBEHIND	28	/* JUMP: only a member that lacks what is removed jumps */
#define JUMPCOUNTS	29	/* JUMP: to the log of a donor that counts for the promised term */
#define JUMPELECTED	30	/* JUMP: and only if it knows that term's election itself */
#define JUMPSTART	31	/* JUMP: to where that log begins, not to its end */

#define JUMPED		98	/* no rule: a member that has jumped must get to report */
#define GOAL		99	/* no rule: something must get done, or all of this proves nothing */

/* ---- the state ---- */

typedef Member {
	byte promised;		/* persisted */
	byte start[TERMS];	/* persisted: 1 + where a term begins; 0: not in the history */
	byte log[LENGTH];	/* the files: 0 are zeros */
	byte flush;		/* flush_lsn */
	byte synced;		/* what a crash leaves: flush, unless WITHOUT(ACKNOSYNC) */
	byte commit;		/* the greatest commit_lsn that it ever had, and served */
#ifdef JUMP
	byte kept;		/* wal_start: what lies below is removed */
#endif
	byte cut_for;		/* 1 + whose elected() has cut, and not persisted the history */
	byte cut_to		/* WITHOUT(HISTFIRST) only */
}

#define IDLE	0
#define ASKING	1
#define WON	2

typedef Launcher {
	byte phase;
	byte term;
	byte promises;		/* bits: whose replies have come */
	byte best;		/* the greatest last_log_term among them */
	byte donor;		/* whose it is, 1 + member; WITHOUT(DONORBLIND) only */
	byte x;			/* X */
	byte start[TERMS];	/* the history that elected() carries */
	byte log[LENGTH];	/* of the compute */
	byte end;
	byte ack[MEMBERS];	/* 1 + the position that was reported under the term; 0: none */
	byte told;		/* bits: who persisted the history; WITHOUT(BOOTHIST) only */
	byte boots		/* WITHOUT(RESUME) only */
}

Member m[MEMBERS];
Launcher c[LAUNCHERS];
byte acknowledged[LENGTH];	/* to clients: who wrote the entry */
bit wiped;			/* WITHOUT(WIPE) only */
#ifdef JUMP
byte stored;			/* what the pageserver has durably */
#define HAS_NEXT(a, d)	(m[d].kept <= m[a].flush)
#else
#define HAS_NEXT(a, d)	true
#endif

hidden byte i, j, k, n, p, r, e1, e2, a_, from;

#ifdef TRACE
#include "trace.pml"
#else
#define GO		true
#define RARELY(n)	true
#define SAY(action)
#define STEP
#define TAIL_ANSWERS(l, d)	true	/* it looks at the donor's promise; nothing depends on that */
#define BEGIN_TRACES
#endif

#define BITS(x)	(((x)&1) + (((x)>>1)&1) + (((x)>>2)&1) + (((x)>>3)&1) + (((x)>>4)&1))

/* ---- history.c ---- */

#define HAS_TERM(a, t)	(m[a].start[t] != 0)
#define VISIBLE(a, t)	(HAS_TERM(a, t) && (m[a].start[t] <= m[a].flush + 1 || WITHOUT(NOCUT)))

/* skhistory_term_at(flush_lsn) of member a, into r */
inline last_log_term(a) {
	r = 0; i = 1;
	do :: i < TERMS -> if :: VISIBLE(a, i) -> r = i :: else fi; i++
	   :: else -> break od
}

/* skhistory_common() of member a's log and launcher l's history, into r */
inline common(l, a) {
	r = 0; i = 1;
	do :: i < TERMS -> if :: VISIBLE(a, i) && c[l].start[i] == m[a].start[i] -> r = i :: else fi; i++
	   :: else -> break od;
	e1 = m[a].flush; e2 = 255; i = TERMS - 1;
	do :: i > r ->
		if :: VISIBLE(a, i) && m[a].start[i] - 1 < e1 -> e1 = m[a].start[i] - 1 :: else fi;
		if :: c[l].start[i] != 0 -> e2 = c[l].start[i] - 1 :: else fi;
		i--
	   :: else -> break od;
	if :: e2 < e1 -> r = e2 :: else -> r = e1 fi
}

/* ---- what follows from a state, at once: nothing depends on when ---- */

/* skconfig_quorum_lsn(): 1 + the position that a majority reported to l, into p */
inline quorum_position(l) {
	p = LENGTH + 1;
	do :: p > 0 ->
		k = 0; i = 0;
		do :: i < MEMBERS -> if :: c[l].ack[i] >= p -> k++ :: else fi; i++
		   :: else -> break od;
		if :: k >= MAJORITY || (k > 0 && WITHOUT(QUORUM1)) -> break :: else -> p-- fi
	   :: else -> break od
}

/* Clients are told up to position upto of l's log: it is what everybody was told. */
inline acknowledge(l, upto) {
	n = 0;
	do :: n < upto ->
		assert(c[l].log[n] != 0);
		if :: acknowledged[n] == 0 -> acknowledged[n] = c[l].log[n]
		   :: else -> assert(acknowledged[n] == c[l].log[n])	/* no two computes commit */
		fi; n++
	   :: else -> break od
}

/* sk_raise_commit() at all members, with what compute l has released */
inline tell_commit(l, upto) {
	a_ = 0;
	do :: a_ < MEMBERS ->
		last_log_term(a_);
		if :: (r == c[l].term || WITHOUT(COMMITBLIND)) ->
			n = upto;
			if :: m[a_].flush < n -> n = m[a_].flush :: else fi;
			if :: m[a_].commit < n -> m[a_].commit = n :: else fi
		   :: else fi; a_++
	   :: else -> break od
}

/* positions(): who reads a member's state may count it, R12 */
inline count_reports() {
	a_ = 0;
	do :: a_ < MEMBERS -> last_log_term(a_); j = 0;
		do :: j < LAUNCHERS ->
			if :: c[j].phase == WON && c[j].term == r && c[j].ack[a_] < m[a_].flush + 1 &&
			      ((m[a_].promised == r && m[a_].cut_for == 0) || WITHOUT(GOSSIPLLT)) ->
				c[j].ack[a_] = m[a_].flush + 1
			   :: else fi; j++
		   :: else -> break od; a_++
	   :: else -> break od
}

/* A launcher without a compute knows X to be committed; R9 says when. */
inline count_elections() {
	j = 0;
	do :: j < LAUNCHERS ->
		if :: c[j].phase == WON && (WITHOUT(BOOTVOTES) || (WITHOUT(BOOTHIST) && BITS(c[j].told) >= MAJORITY)) ->
			acknowledge(j, c[j].x)
		   :: else fi; j++
	   :: else -> break od
}

/* What a member serves was acknowledged. */
inline check_served() {
	a_ = 0;
	do :: a_ < MEMBERS -> n = 0;
		do :: n < m[a_].commit -> assert(m[a_].log[n] == acknowledged[n]); n++
		   :: else -> break od; a_++
	   :: else -> break od
}

/* Below the common point of two histories the bytes are the same. */
inline check_logs_match() {
	j = 0;
	do :: j < LAUNCHERS ->
		if :: c[j].phase == WON -> a_ = 0;
			do :: a_ < MEMBERS -> common(j, a_); n = 0;
				do :: n < r && n < c[j].end -> assert(m[a_].log[n] == c[j].log[n]); n++
				   :: else -> break od; a_++
			   :: else -> break od
		   :: else fi; j++
	   :: else -> break od
}

/* What a member reports and the pageserver lacks is there. */
#ifdef JUMP
inline check_kept() {
	a_ = 0;
	do :: a_ < MEMBERS -> assert(m[a_].kept <= stored && m[a_].kept <= m[a_].commit); a_++
	   :: else -> break od
}
#else
#define check_kept()
#endif

inline settle() {
	count_reports();
	j = 0;
	do :: j < LAUNCHERS ->
		if :: c[j].phase == WON ->
			quorum_position(j);
			if :: p > 0 -> acknowledge(j, p - 1); tell_commit(j, p - 1) :: else fi
		   :: else fi; j++
	   :: else -> break od;
	count_elections();
	assert(!WITHOUT(GOAL) || !(acknowledged[0] == 1 && acknowledged[LENGTH - 1] == 2));
	check_served();
	check_logs_match();
	check_kept();
	i = 0; j = 0; k = 0; n = 0; p = 0; r = 0; e1 = 0; e2 = 0; a_ = 0; from = 0;
	STEP
}

/* ---- the launcher ---- */

/* election_run(): a term above one that it has seen */
#define START(l, a) \
	:: d_step { GO && c[l].phase == IDLE && (l == 0 || c[(l + LAUNCHERS - 1) % LAUNCHERS].phase != IDLE) && \
		m[a].promised < LAUNCHERS && RARELY(12) -> \
		c[l].term = m[a].promised + 1; c[l].phase = ASKING; SAY(say_start(l)) }

/* ask_promises(): R4 */
inline note_promise(l, a) {
	c[l].promises = c[l].promises | (1 << (a));
	last_log_term(a);
	if :: c[l].promises == (1 << (a)) ||
	      (WITHOUT(DONORLSN) && m[a].flush > c[l].x) ||
	      (!WITHOUT(DONORLSN) && (r > c[l].best || (r == c[l].best && m[a].flush > c[l].x))) ->
		if :: WITHOUT(DONORBLIND) -> c[l].donor = a + 1 :: else fi;
		c[l].best = r; c[l].x = m[a].flush; c[l].end = m[a].flush; i = 1;
		do :: i < TERMS ->
			if :: VISIBLE(a, i) -> c[l].start[i] = m[a].start[i] :: else -> c[l].start[i] = 0 fi; i++
		   :: else -> break od;
		i = 0;
		do :: i < LENGTH ->
			if :: i < m[a].flush -> c[l].log[i] = m[a].log[i] :: else -> c[l].log[i] = 0 fi; i++
		   :: else -> break od
	   :: else fi
}

#define PROMISED_BY_MAJORITY(l)	(BITS(c[l].promises) >= MAJORITY || (c[l].promises != 0 && WITHOUT(QUORUM1V)))

/* try_term(), new_history(): the term is won, and nobody else wins it */
#define WIN(l) \
	:: d_step { GO && c[l].phase == ASKING && PROMISED_BY_MAJORITY(l) && RARELY(2) -> \
		i = 0; \
		do :: i < LAUNCHERS -> assert(c[i].phase != WON || c[i].term != c[l].term); i++ :: else -> break od; \
		c[l].phase = WON; c[l].promises = 0; c[l].best = 0; c[l].start[c[l].term] = c[l].x + 1; \
		SAY(say_win(l)) }

/* ---- promise(): sk_promise() ---- */

#define MAY_PROMISE(l, a)	(m[a].promised < c[l].term || (m[a].promised == c[l].term && WITHOUT(NONSTRICT)))

inline persist_promise(l, a) {
	m[a].promised = c[l].term;
	m[a].cut_for = 0
}

#define PROMISE(l, a) \
	:: d_step { GO && c[l].phase == ASKING && MAY_PROMISE(l, a) && !(c[l].promises & (1 << a)) -> \
		persist_promise(l, a); note_promise(l, a); SAY(say_promise(l, a)) }

/* the reply is lost: the launcher, or the member, is gone */
#define PROMISE_LOST(l, a) \
	:: d_step { GO && c[l].phase == ASKING && MAY_PROMISE(l, a) && !(c[l].promises & (1 << a)) && RARELY(3) -> \
		persist_promise(l, a); SAY(say_promise(l, a)) }

/* a member that was not asked: sk_elected(), learn_from() */
#define PROMISE_LATE(l, a) \
	:: d_step { GO && c[l].phase == WON && m[a].promised < c[l].term && RARELY(2) -> \
		persist_promise(l, a); SAY(say_promise(l, a)) }

/* ---- elected(): sk_elected(), adopt_history() ---- */

#define RIGHT_TERM(l, a)	(c[l].phase == WON && (m[a].promised == c[l].term || WITHOUT(ELECTEDOLD)))
#define ELECTED_HERE(l, a)	(HAS_TERM(a, c[l].term) && m[a].cut_for == 0)
#define AT_X(l, a)		(m[a].flush >= c[l].x || WITHOUT(NOXGUARD))

/* skwal_truncate(); what was served stays */
inline cut(a, upto) {
	assert(upto >= m[a].commit);
	m[a].flush = upto;
	if :: m[a].synced > upto -> m[a].synced = upto :: else fi;
	i = upto;
	do :: i < LENGTH -> if :: WITHOUT(NOZERO) :: else -> m[a].log[i] = 0 fi; i++
	   :: else -> break od
}

/* a position reaches compute l: sk_note_acked() and the reply of the stream, or elected()'s */
inline report(l, a) {
	if :: c[l].ack[a] < m[a].flush + 1 -> c[l].ack[a] = m[a].flush + 1 :: else fi
}

inline persist_history(l, a) {
	i = 1;
	do :: i < TERMS -> m[a].start[i] = c[l].start[i]; i++ :: else -> break od;
	m[a].cut_for = 0;
	if :: WITHOUT(BOOTHIST) -> c[l].told = c[l].told | (1 << (a)) :: else fi
}

#define ELECTED_CUT(l, a) \
	:: d_step { GO && RIGHT_TERM(l, a) && m[a].cut_for != l + 1 && !HAS_TERM(a, c[l].term) && !WITHOUT(HISTFIRST) -> \
		if :: WITHOUT(NOTRUNC) \
		   :: WITHOUT(TRUNCX) -> r = m[a].flush; if :: r > c[l].x -> r = c[l].x :: else fi; cut(a, r) \
		   :: !WITHOUT(NOTRUNC) && !WITHOUT(TRUNCX) -> common(l, a); cut(a, r) fi; \
		m[a].cut_for = l + 1 }

#define ELECTED_HISTORY(l, a) \
	:: d_step { GO && RIGHT_TERM(l, a) && m[a].cut_for == l + 1 && !WITHOUT(HISTFIRST) -> \
		persist_history(l, a); if :: AT_X(l, a) -> report(l, a) :: else fi }

/* WITHOUT(HISTFIRST): the other way round */
#define ELECTED_WRONG(l, a) \
	:: d_step { WITHOUT(HISTFIRST) && RIGHT_TERM(l, a) && m[a].cut_for != l + 1 && !HAS_TERM(a, c[l].term) -> \
		common(l, a); m[a].cut_to = r; persist_history(l, a); m[a].cut_for = l + 1 } \
	:: d_step { WITHOUT(HISTFIRST) && RIGHT_TERM(l, a) && m[a].cut_for == l + 1 -> \
		r = m[a].cut_to; m[a].cut_to = 0; cut(a, r); m[a].cut_for = 0; \
		if :: AT_X(l, a) -> report(l, a) :: else fi }

/* already_elected(): it finds nothing to do */
#define ELECTED_AGAIN(l, a) \
	:: d_step { GO && RIGHT_TERM(l, a) && ELECTED_HERE(l, a) && RARELY(5) -> \
		common(l, a); assert(r == m[a].flush); \
		if :: WITHOUT(DUPTRUNC) && m[a].flush > c[l].x -> r = c[l].x; cut(a, r) :: else fi; \
		if :: AT_X(l, a) -> report(l, a) :: else fi; SAY(say_elected(l, a)) }

/* ---- catching up: copy_from_peers() ---- */

inline grow(a, entry) {
	m[a].log[m[a].flush] = entry; m[a].flush++;
	if :: WITHOUT(ACKNOSYNC) :: else -> m[a].synced = m[a].flush fi
}

inline copied(l, a, d) {
	grow(a, m[d].log[m[a].flush]);
	if :: AT_X(l, a) -> report(l, a) :: else fi;
	SAY(say_copy(l, a, d, 1))
}

#define COPIES(l, a, d) \
	(RIGHT_TERM(l, a) && ELECTED_HERE(l, a) && m[a].flush < c[l].x && m[d].flush > m[a].flush && HAS_NEXT(a, d))

/* copy_piece(), with the donor's tail() */
#define COPY_TAIL(l, a, d) \
	:: d_step { GO && COPIES(l, a, d) && TAIL_ANSWERS(l, d) && (!WITHOUT(DONORBLIND) || c[l].donor == d + 1) -> \
		common(l, d); \
		if :: r > m[a].flush || WITHOUT(DONORANY) || WITHOUT(DONORBLIND) -> copied(l, a, d) \
		   :: else -> SAY(say_copy(l, a, d, 0)) fi; }

/* copy_committed(): what the donor serves is final, if it is of the term */
#define COPY_COMMITTED(l, a, d) \
	:: d_step { GO && COPIES(l, a, d) && m[d].commit > m[a].flush && \
		(m[d].promised == c[l].term || WITHOUT(COPYFINAL)) -> \
		copied(l, a, d) }

/* ---- retention, and a member that is too far behind: retain.c, jump.c ---- */

#ifdef JUMP
/* the pageserver takes what is served */
#define STORE(a) \
	:: d_step { GO && stored < m[a].commit -> stored++; SAY(say_nothing()) }

/* a limit by size does not ask who lacks it */
#define RETAIN(a) \
	:: d_step { m[a].kept < m[a].commit && (m[a].kept < stored || WITHOUT(KEEPSTORED)) -> m[a].kept++ }

#define COUNTS(a, t) \
	(m[a].promised == t && HAS_TERM(a, t) && m[a].start[t] <= m[a].flush + 1 && m[a].cut_for == 0)

/* jump_locked(): the log becomes the donor's up to there, as if it had been copied and then removed */
inline begin_anew(l, a, d) {
	r = m[d].kept;
	if :: WITHOUT(JUMPSTART) -> r = m[d].flush :: else fi;
	i = 0;
	do :: i < LENGTH -> if :: i < r -> m[a].log[i] = m[d].log[i] :: else -> m[a].log[i] = 0 fi; i++
	   :: else -> break od;
	m[a].flush = r; m[a].synced = r; m[a].kept = r;
	if :: m[a].commit < r -> m[a].commit = r :: else fi;
	if :: AT_X(l, a) -> report(l, a); assert(!WITHOUT(JUMPED)) :: else fi
}

/* sk_jump(), sk_read_beginning() */
#define JUMP_TO(l, a, d) \
	:: d_step { RIGHT_TERM(l, a) && (ELECTED_HERE(l, a) || WITHOUT(JUMPELECTED)) && \
		(m[a].flush < m[d].kept || (WITHOUT(JUMPBEHIND) && m[d].kept > 0 && m[d].kept < m[a].flush)) && \
		(COUNTS(d, c[l].term) || WITHOUT(JUMPCOUNTS)) && GO -> \
		begin_anew(l, a, d); SAY(say_jump(l, a, d)) }
#else
#define STORE(a)
#define RETAIN(a)
#define JUMP_TO(l, a, d)
#endif

/* ---- streaming: stream_with(), walwriter_take(), walwriter_settle() ---- */

#define MAY_STREAM(l, a) \
	(c[l].phase == WON && m[a].flush < c[l].end && \
	 (m[a].promised == c[l].term || WITHOUT(LATESTREAM) || WITHOUT(ELECTEDOLD)) && \
	 (ELECTED_HERE(l, a) || WITHOUT(NOHIST)) && \
	 (m[a].flush >= c[l].x || WITHOUT(NOCATCHUP)))

#define STREAM(l, a) \
	:: d_step { GO && MAY_STREAM(l, a) -> \
		if :: m[a].flush < c[l].x -> grow(a, 99) /* the zeros below X */ \
		   :: else -> grow(a, c[l].log[m[a].flush]) fi; \
		report(l, a); SAY(say_stream(l, a)) }

#ifdef TAIL
/* written, and neither durable nor reported */
#define WRITE(l, a) \
	:: d_step { GO && MAY_STREAM(l, a) && m[a].flush >= c[l].x && m[a].log[m[a].flush] == 0 -> \
		m[a].log[m[a].flush] = c[l].log[m[a].flush]; SAY(say_write(l, a)) }
#else
#define WRITE(l, a)
#endif

/* the compute's own work */
#define APPEND(l) \
	:: d_step { GO && c[l].phase == WON && c[l].end < LENGTH && RARELY(3) -> \
		c[l].log[c[l].end] = l + 1 + 10 * c[l].boots; c[l].end++; SAY(say_append(l)) }

#define START_AGAIN(l) \
	:: d_step { WITHOUT(RESUME) && c[l].phase == WON && c[l].boots == 0 && c[l].end > c[l].x -> \
		c[l].boots = 1; c[l].end = c[l].x; i = c[l].x; \
		do :: i < LENGTH -> c[l].log[i] = 0; i++ :: else -> break od; i = 0 }

/* ---- a member crashes and is opened again: sk_open_from_disk() ---- */

inline reopen(a) {
	m[a].cut_for = 0; m[a].cut_to = 0;
	if :: WITHOUT(NOPERSIST) -> last_log_term(a); m[a].promised = r :: else fi;
	if :: WITHOUT(ACKNOSYNC) -> m[a].flush = m[a].synced; i = m[a].flush;
		do :: i < LENGTH -> m[a].log[i] = 0; i++ :: else -> break od
	   :: else fi;
	do :: m[a].flush < LENGTH && m[a].log[m[a].flush] != 0 -> m[a].flush++ :: else -> break od;
	m[a].synced = m[a].flush
}

/* only a crash that is seen afterwards adds a state */
#ifdef TRACE
#define CRASH_SEEN(a)	true
#else
#define CRASH_SEEN(a)	(m[a].cut_for != 0 || WITHOUT(ACKNOSYNC) || WITHOUT(NOPERSIST) || \
			 (m[a].flush < LENGTH && m[a].log[m[a].flush] != 0))
#endif

#define CRASH(a) \
	:: d_step { GO && CRASH_SEEN(a) && RARELY(5) -> reopen(a); SAY(say_crash(a)) }

#define SYNC(a) \
	:: d_step { WITHOUT(ACKNOSYNC) && m[a].synced < m[a].flush -> m[a].synced = m[a].flush }

#define LOSE_DISK(a) \
	:: d_step { WITHOUT(WIPE) && !wiped -> \
		wiped = 1; m[a].promised = 0; m[a].flush = 0; m[a].synced = 0; m[a].cut_for = 0; m[a].commit = 0; \
		i = 1; do :: i < TERMS -> m[a].start[i] = 0; i++ :: else -> break od; \
		i = 0; do :: i < LENGTH -> m[a].log[i] = 0; i++ :: else -> break od; i = 0 }

/* ---- who does what ---- */

#define MESSAGES(l, a) \
	START(l, a) PROMISE(l, a) PROMISE_LOST(l, a) PROMISE_LATE(l, a) \
	ELECTED_CUT(l, a) ELECTED_HISTORY(l, a) ELECTED_WRONG(l, a) ELECTED_AGAIN(l, a) \
	STREAM(l, a) WRITE(l, a) TRACED(l, a)
#define COPY(l, a, d)	COPY_TAIL(l, a, d) COPY_COMMITTED(l, a, d) JUMP_TO(l, a, d) JUMP_KILLED(l, a, d)
#ifdef TRACE
#undef COPY_COMMITTED	/* goes by the replication protocol */
#define COPY_COMMITTED(l, a, d)
#undef RETAIN		/* sk_commit() and then one round of retention */
#define RETAIN(a)
#undef ELECTED_CUT	/* one step, for one function does both; trace.pml kills it between */
#undef ELECTED_HISTORY
#define ELECTED_CUT(l, a)
#define ELECTED_HISTORY(l, a)
#else
#define TRACED(l, a)
#define TRACED_MEMBER(a)
#define JUMP_KILLED(l, a, d)
#endif

#if MEMBERS == 1
#define ALL_MESSAGES(l)	MESSAGES(l, 0)
#elif MEMBERS == 3
#define ALL_MESSAGES(l)	MESSAGES(l, 0) MESSAGES(l, 1) MESSAGES(l, 2) \
	COPY(l, 0, 1) COPY(l, 0, 2) COPY(l, 1, 0) COPY(l, 1, 2) COPY(l, 2, 0) COPY(l, 2, 1)
#else
#define ALL_MESSAGES(l)	MESSAGES(l, 0) MESSAGES(l, 1) MESSAGES(l, 2) MESSAGES(l, 3) MESSAGES(l, 4) \
	COPY(l, 0, 1) COPY(l, 0, 2) COPY(l, 0, 3) COPY(l, 0, 4) COPY(l, 1, 0) COPY(l, 1, 2) COPY(l, 1, 3) \
	COPY(l, 1, 4) COPY(l, 2, 0) COPY(l, 2, 1) COPY(l, 2, 3) COPY(l, 2, 4) COPY(l, 3, 0) COPY(l, 3, 1) \
	COPY(l, 3, 2) COPY(l, 3, 4) COPY(l, 4, 0) COPY(l, 4, 1) COPY(l, 4, 2) COPY(l, 4, 3)
#endif

#define LAUNCHER(l)	WIN(l) APPEND(l) START_AGAIN(l) ALL_MESSAGES(l)
#define MEMBER(a)	CRASH(a) SYNC(a) LOSE_DISK(a) STORE(a) RETAIN(a) TRACED_MEMBER(a)

/* ---- where it begins ---- */

/*
 * Raft's figure 8: member 2 has two entries of term 1; members 0 and 1 gave
 * term 2 to a launcher that begins at position 0, and only 1 got elected().
 */
inline begin_figure8() {
	c[0].phase = WON; c[0].term = 1; c[0].start[1] = 1; c[0].log[0] = 1; c[0].log[1] = 1; c[0].end = 2;
	m[2].promised = 1; m[2].start[1] = 1; m[2].log[0] = 1; m[2].log[1] = 1; m[2].flush = 2; m[2].synced = 2;
	c[0].ack[2] = 3;
	c[1].phase = WON; c[1].term = 2; c[1].start[2] = 1; m[0].promised = 2; m[1].promised = 2; m[1].start[2] = 1;
	c[1].ack[1] = 1
}

/*
 * Member 2, with two entries of term 1, was the donor of term 3, whose history
 * member 0 has, and no WAL yet.  Member 1, with two entries of term 2, is the
 * donor of term 4, won with 1 and 2; nobody got that elected().
 */
inline begin_replaced() {
	c[0].phase = WON; c[0].term = 1; c[0].start[1] = 1; c[0].log[0] = 1; c[0].log[1] = 1; c[0].end = 2; c[0].ack[2] = 3;
	c[1].phase = WON; c[1].term = 2; c[1].start[2] = 1; c[1].log[0] = 2; c[1].log[1] = 2; c[1].end = 2; c[1].ack[1] = 3;
	c[2].phase = WON; c[2].term = 3; c[2].x = 2; c[2].start[1] = 1; c[2].start[3] = 3;
	c[2].log[0] = 1; c[2].log[1] = 1; c[2].end = 2;
	c[3].phase = WON; c[3].term = 4; c[3].x = 2; c[3].start[2] = 1; c[3].start[4] = 3;
	c[3].log[0] = 2; c[3].log[1] = 2; c[3].end = 2;
	m[0].promised = 3; m[0].start[1] = 1; m[0].start[3] = 3;
	m[1].promised = 4; m[1].start[2] = 1; m[1].log[0] = 2; m[1].log[1] = 2; m[1].flush = 2; m[1].synced = 2;
	m[2].promised = 4; m[2].start[1] = 1; m[2].log[0] = 1; m[2].log[1] = 1; m[2].flush = 2; m[2].synced = 2;
	if :: WITHOUT(DONORBLIND) -> c[2].donor = 3; c[3].donor = 2 :: else fi
}

active proctype wal_service()
{
	d_step {
		c_code { now.without = getenv("WITHOUT") ? atoi(getenv("WITHOUT")) : 0; };
		BEGIN_TRACES
#ifdef FIGURE8
		begin_figure8()
#endif
#ifdef REPLACED
		begin_replaced()
#endif
	}
	do
	:: atomic {
	if
#ifdef TRACE
	NEXT_TRACE
#endif
	LAUNCHER(0)
#if LAUNCHERS > 1
	LAUNCHER(1)
#endif
#if LAUNCHERS > 2
	LAUNCHER(2)
#endif
#if LAUNCHERS > 3
	LAUNCHER(3)
#endif
#if LAUNCHERS > 4
	LAUNCHER(4)
#endif
#if LAUNCHERS > 5
	LAUNCHER(5)
#endif
	MEMBER(0)
#if MEMBERS > 1
	MEMBER(1) MEMBER(2)
#endif
#if MEMBERS > 3
	MEMBER(3) MEMBER(4)
#endif
	fi;
	d_step { settle() } }
	od
}

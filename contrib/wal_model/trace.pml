/*-------------------------------------------------------------------------
 *
 * trace.pml
 *	  Random walks of wal.pml, and of reconf.pml, for the replay (-DTRACE): one
 *	  line for each step that a member takes part in, with the member's state
 *	  afterwards.
 *
 *	  trace NUMBER MEMBERS SEGMENTS            1: a record for each segment, -DJUMP
 *	  start L TERM                             launcher L asks for promises
 *	  win L TERM X : start[1..] : log[0..]     launcher L's history and log
 *	  append L                                 its compute writes a record
 *	  ACTION L A ... : promised flush last_log_term generation kept : start[1..] : log[0..]
 *	  end
 *
 * Numbers as in the model: positions count records, start[T] is 1 + a position,
 * a log has 1 + the launcher who wrote the record; of the records below kept
 * the member has removed the WAL (-DJUMP; else it is 0).  A verifier built with
 * -DPRINTF -DT_RAND walks forward, since a step never leads to a state that it
 * has seen, but for collisions of hashes: then it goes back a little.  What it
 * takes back is seen by the number before each line, which must rise; a step
 * that says nothing prints the number alone.  Environment: SEED, TRACES, STEPS, ALLCRASH.
 *
 * Here elected() is one step, as the C function is one call, and the kills in
 * the middle of a call are steps of their own.
 *
 *-------------------------------------------------------------------------
 */

int tick;		/* makes all states different */
int trace_number;
int traces;
int steps_max;
int steps;
bit all_crash;
byte dice;		/* the walk takes some steps more often than others */

hidden byte idle;

#define GO		(steps < steps_max && trace_number > 0)
#define RARELY(n)	(dice % (n) == 0)
#define SAY(action)	action
#define STEP		tick++; c_code { now.dice = rand() % 240; }; if :: idle -> idle = 0 :: else -> steps++ fi

#define TAIL_ANSWERS(l, d)	(m[d].promised == c[l].term)

/* ---- what is printed ---- */

#ifdef RECONF
#define GENERATION_OF(a)	m[a].generation
#else
#define GENERATION_OF(a)	1
#endif
#ifdef JUMP
#define KEPT_OF(a)	m[a].kept
#define SEGMENTS	1
#else
#define KEPT_OF(a)	0
#define SEGMENTS	0
#endif

inline say_list_start(s) {
	printf(" :"); i = 1;
	do :: i < TERMS -> printf(" %d", s.start[i]); i++ :: else -> break od
}

inline say_list_log(s) {
	printf(" :"); i = 0;
	do :: i < LENGTH -> printf(" %d", s.log[i]); i++ :: else -> break od;
	printf("\n")
}

inline say_state(a) {
	last_log_term(a);
	printf(" : %d %d %d %d %d", m[a].promised, m[a].flush, r, GENERATION_OF(a), KEPT_OF(a));
	say_list_start(m[a]); say_list_log(m[a])
}

inline say_nothing() { idle = 1; printf("%d\n", tick + tick) }
inline say_start(l) { printf("%d start %d %d\n", tick + tick, l, c[l].term) }
inline say_append(l) { printf("%d append %d\n", tick + tick, l) }
inline say_win(l) {
	printf("%d win %d %d %d", tick + tick, l, c[l].term, c[l].x);
	say_list_start(c[l]); say_list_log(c[l])
}
inline say_promise(l, a) { printf("%d promise %d %d", tick + tick, l, a); say_state(a) }
inline say_elected(l, a) { printf("%d elected %d %d", tick + tick, l, a); say_state(a) }
inline say_copy(l, a, d, taken) { printf("%d copy %d %d %d %d", tick + tick, l, a, d, taken); say_state(a) }
inline say_stream(l, a) { printf("%d stream %d %d", tick + tick, l, a); say_state(a) }
inline say_write(l, a) { printf("%d write %d %d", tick + tick, l, a); say_state(a) }
#ifndef RECONF
inline say_crash(a) { crash_others(a); printf("%d crash 0 %d", tick + tick, a); say_state(a) }

/* ---- ALLCRASH: the members live in one instance, which is killed ---- */

inline crash_others(a) {
	from = 0;
	do :: from < MEMBERS -> if :: all_crash -> reopen(from) :: else fi; from++
	   :: else -> break od
}

/* ---- elected() as a whole, and killed ---- */

#define NEW_TERM(l, a)	(c[l].phase == WON && m[a].promised <= c[l].term && !HAS_TERM(a, c[l].term))

#define ELECTED(l, a) \
	:: d_step { GO && NEW_TERM(l, a) -> \
		persist_promise(l, a); common(l, a); cut(a, r); persist_history(l, a); \
		if :: AT_X(l, a) -> report(l, a) :: else fi; SAY(say_elected(l, a)) }

/* stage 0: before anything was persisted; 1: the promise was; 2: it was also cut; 3: all was, but for the reply */
#define ELECTED_KILLED(l, a, where) \
	:: d_step { GO && NEW_TERM(l, a) && RARELY(12) -> \
		if :: where >= 1 -> persist_promise(l, a) :: else fi; \
		if :: where >= 2 -> common(l, a); cut(a, r) :: else fi; \
		if :: where >= 3 -> persist_history(l, a) :: else fi; \
		reopen(a); crash_others(a); printf("%d elected_killed %d %d %d", tick + tick, l, a, where); say_state(a) }

#define PROMISE_KILLED(l, a, where) \
	:: d_step { GO && c[l].phase == ASKING && MAY_PROMISE(l, a) && !(c[l].promises & (1 << a)) && RARELY(8) -> \
		if :: where >= 1 -> persist_promise(l, a) :: else fi; \
		reopen(a); crash_others(a); printf("%d promise_killed %d %d %d", tick + tick, l, a, where); say_state(a) }

/* ---- commit(), and positions of peers ---- */

/* the launcher or coordinator tells what it knows: 1 + the position follows, and whether it is taken */
#define COMMIT(l, a) \
	:: d_step { GO && c[l].phase == WON && RARELY(10) -> \
		quorum_position(l); last_log_term(a); \
		if :: p > 0 -> printf("%d commit %d %d %d %d", tick + tick, l, a, p - 1, r == c[l].term); say_state(a) \
		   :: else -> idle = 1; printf("%d\n", tick + tick) fi; n = 0 }

/* sk_raise_commit_by_peers(): the position that a majority of those that count has, or -1 */
#define COUNTS_FOR(a, t) \
	(m[a].promised == t && HAS_TERM(a, t) && m[a].start[t] <= m[a].flush + 1 && m[a].cut_for == 0)

#define GOSSIP(a) \
	:: d_step { GO && RARELY(6) -> \
		p = LENGTH + 1; \
		do :: p > 0 -> \
			k = 0; n = 0; \
			do :: n < MEMBERS -> \
				if :: COUNTS_FOR(n, m[a].promised) && m[n].flush + 1 >= p -> k++ :: else fi; n++ \
			   :: else -> break od; \
			if :: k >= MAJORITY -> break :: else -> p-- fi \
		   :: else -> break od; \
		if :: COUNTS_FOR(a, m[a].promised) :: else -> p = 0 fi; \
		printf("%d gossip 0 %d %d", tick + tick, a, p - 1); say_state(a) }

/* ---- what is refused changes nothing ---- */

#define REFUSED(l, a) \
	:: d_step { GO && c[l].phase == ASKING && m[a].promised >= c[l].term && RARELY(8) -> \
		printf("%d refused_promise %d %d", tick + tick, l, a); say_state(a) } \
	:: d_step { GO && c[l].phase == WON && m[a].promised > c[l].term && RARELY(8) -> \
		printf("%d refused_elected %d %d", tick + tick, l, a); say_state(a) } \
	:: d_step { GO && c[l].phase == WON && m[a].promised != c[l].term && RARELY(8) -> \
		printf("%d refused_stream %d %d", tick + tick, l, a); say_state(a) }

/* ---- retention, and the jump ---- */

#ifdef JUMP
/*
 * The coordinator tells how far all is committed, and then retention goes on,
 * as far as the pageserver has it: the numbers are both positions.
 */
#define RETAINED(l, a) \
	:: d_step { GO && c[l].phase == WON && RARELY(2) -> \
		quorum_position(l); last_log_term(a); \
		if :: p > 1 && r == c[l].term && stored > m[a].kept -> \
			if :: m[a].flush < p - 1 -> k = m[a].flush :: else -> k = p - 1 fi; \
			if :: stored < k -> k = stored :: else fi; \
			if :: m[a].kept < k -> m[a].kept = k :: else fi; \
			printf("%d retain %d %d %d %d", tick + tick, l, a, p - 1, k); say_state(a) \
		   :: else -> idle = 1; printf("%d\n", tick + tick) fi; n = 0 }

inline say_jump(l, a, d) { printf("%d jump %d %d %d", tick + tick, l, a, d); say_state(a) }

/* stage 0: before the state file is replaced; 1: after it */
#define KILLED_JUMP(l, a, d, where) \
	:: d_step { GO && RIGHT_TERM(l, a) && ELECTED_HERE(l, a) && m[a].flush < m[d].kept && \
		COUNTS(d, c[l].term) && RARELY(2) -> \
		if :: where >= 1 -> begin_anew(l, a, d) :: else -> cut(a, m[a].flush) fi; \
		reopen(a); crash_others(a); printf("%d jump_killed %d %d %d %d", tick + tick, l, a, d, where); say_state(a) }
#define JUMP_KILLED(l, a, d)	KILLED_JUMP(l, a, d, 0) KILLED_JUMP(l, a, d, 1)
#else
#define RETAINED(l, a)
#define JUMP_KILLED(l, a, d)
#endif

/* ---- the end of a worker in good order: sk_close_cleanly() ---- */

#define CLOSE(a) \
	:: d_step { GO && RARELY(10) -> \
		cut(a, m[a].flush); printf("%d close 0 %d", tick + tick, a); say_state(a) }
#endif

/* ---- from trace to trace ---- */

inline reset() {
	a_ = 0;
	do :: a_ < MEMBERS ->
		m[a_].promised = 0; m[a_].flush = 0;
#ifdef RECONF
		m[a_].generation = 1;
#else
		m[a_].synced = 0; m[a_].commit = 0; m[a_].cut_for = 0; m[a_].cut_to = 0;
#endif
#ifdef JUMP
		m[a_].kept = 0; stored = 0;
#endif
		i = 0; do :: i < TERMS -> m[a_].start[i] = 0; i++ :: else -> break od;
		i = 0; do :: i < LENGTH -> m[a_].log[i] = 0; acknowledged[i] = 0; i++ :: else -> break od;
		a_++
	   :: else -> break od;
	j = 0;
	do :: j < LAUNCHERS ->
		c[j].phase = IDLE; c[j].term = 0; c[j].promises = 0; c[j].best = 0; c[j].x = 0;
		i = 0; do :: i < TERMS -> c[j].start[i] = 0; i++ :: else -> break od;
		i = 0; do :: i < LENGTH -> c[j].log[i] = 0; i++ :: else -> break od;
#ifdef RECONF
		c[j].generation = 0; c[j].oldest = 0; c[j].counted = 0;
		i = 0; do :: i < LAST * MEMBERS -> c[j].said[i] = 0; i++ :: else -> break od;
#else
		c[j].end = 0;
		i = 0; do :: i < MEMBERS -> c[j].ack[i] = 0; i++ :: else -> break od;
#endif
		j++
	   :: else -> break od
#ifdef RECONF
	;
	stored = 2; floor[3] = 0; end_of_command()
#endif
}

#define NEXT_TRACE \
	:: d_step { trace_number < traces && (steps >= steps_max || trace_number == 0) -> \
		if :: trace_number > 0 -> printf("%d end\n", tick + tick) :: else fi; \
		reset(); trace_number++; steps = 0; idle = 1; \
		printf("%d trace %d %d %d\n", tick + tick + 1, trace_number, MEMBERS, SEGMENTS) } \
	:: d_step { trace_number == traces && steps >= steps_max -> \
		printf("%d end\n", tick + tick); c_code { fflush(stdout); _exit(0); } }

#define BEGIN_TRACES \
	c_code { \
		srand(getenv("SEED") ? atoi(getenv("SEED")) : 1); \
		now.traces = getenv("TRACES") ? atoi(getenv("TRACES")) : 1; \
		now.all_crash = getenv("ALLCRASH") != 0; \
		now.steps_max = getenv("STEPS") ? atoi(getenv("STEPS")) : 60; \
	};

/*
 * Which step is next is the first possible one behind a place drawn at random;
 * what does nothing stands between, so that a step behind many impossible ones
 * is not taken too often.
 */
#define PAUSE	:: d_step { trace_number > 0 && steps < steps_max -> idle = 1; printf("%d\n", tick + tick) }

#ifndef RECONF
#define TRACED(l, a) \
	PAUSE ELECTED(l, a) ELECTED_KILLED(l, a, 0) ELECTED_KILLED(l, a, 1) ELECTED_KILLED(l, a, 2) ELECTED_KILLED(l, a, 3) \
	PROMISE_KILLED(l, a, 0) PROMISE_KILLED(l, a, 1) COMMIT(l, a) RETAINED(l, a) PAUSE REFUSED(l, a) PAUSE
#define TRACED_MEMBER(a)	PAUSE GOSSIP(a) PAUSE CLOSE(a) PAUSE
#else

/* ---- the members change ---- */

inline say_members(a, g) { printf("%d members 0 %d %d %d", tick + tick, a, g, floor[g]); say_state(a) }
inline say_follow(a, d, upto) { printf("%d follow 0 %d %d %d", tick + tick, a, d, upto); say_state(a) }
inline say_follow_copy(a, d, upto) { printf("%d follow_copy 0 %d %d %d", tick + tick, a, d, upto); say_state(a) }

/* elected() is the launcher's of the same generation, or one that a peer of the same generation delivers */
#define COUNTS_FOR(a, t) \
	(m[a].promised == (t) && HAS_TERM(a, t) && m[a].start[t] <= m[a].flush + 1 && IS_MEMBER(a))
#define DELIVERS(l, a, d) \
	(COUNTS_FOR(d, c[l].term) && m[d].generation == m[a].generation)
#define MAY_BE_ELECTED(l, a) \
	(c[l].generation == m[a].generation || DELIVERS(l, a, 0) || DELIVERS(l, a, 1) || DELIVERS(l, a, 2) || DELIVERS(l, a, 3))

/* sk_raise_commit_by_peers(): only positions of members of the own generation */
#define GOSSIP(a) \
	:: d_step { GO && RARELY(6) -> \
		p = LENGTH + 1; \
		do :: p > 0 -> \
			k = 0; n = 0; \
			do :: n < MEMBERS -> \
				if :: COUNTS_FOR(n, m[a].promised) && m[n].generation == m[a].generation && m[n].flush + 1 >= p -> \
					k = k | (1 << n) \
				   :: else fi; n++ \
			   :: else -> break od; \
			if :: majority[m[a].generation * 32 + k] -> break :: else -> p-- fi \
		   :: else -> break od; \
		if :: COUNTS_FOR(a, m[a].promised) :: else -> p = 0 fi; \
		printf("%d gossip 0 %d %d", tick + tick, a, p - 1); say_state(a) }

#define CRASH(a) \
	:: d_step { GO && RARELY(8) -> printf("%d crash 0 %d", tick + tick, a); say_state(a) }

/* the numbers: of the launcher's generation, and of what is persisted when it is killed */
#define PROMISE_KILLED(l, a, where) \
	:: d_step { GO && MAY_PROMISE(l, a) && RARELY(10) -> \
		if :: where >= 1 -> persist_promise(l, a) :: else fi; \
		printf("%d promise_killed %d %d %d", tick + tick, l, a, where); say_state(a) }

#define MEMBERS_KILLED(a, g, where) \
	:: d_step { GO && stored >= g && m[a].generation < g && RARELY(15) -> \
		if :: where >= 1 -> \
			m[a].generation = g; \
			if :: m[a].promised < floor[g] -> m[a].promised = floor[g] :: else fi \
		   :: else fi; \
		printf("%d members_killed 0 %d %d %d %d", tick + tick, a, g, floor[g], where); say_state(a) }

/* other generations are refused: NS002; so is a learner */
#define REFUSED(l, a) \
	:: d_step { GO && c[l].phase == ASKING && c[l].generation != 0 && RARELY(8) && \
		(c[l].generation != m[a].generation || !IS_MEMBER(a)) -> \
		printf("%d other_promise %d %d %d", tick + tick, l, a, c[l].generation); say_state(a) } \
	:: d_step { GO && c[l].phase == WON && RARELY(8) && \
		(c[l].generation != m[a].generation || !IS_MEMBER(a)) -> \
		printf("%d other_elected %d %d %d", tick + tick, l, a, c[l].generation); say_state(a) }

#define REFUSED_MEMBERS(a, g) \
	:: d_step { GO && m[a].generation > g && RARELY(24) -> \
		printf("%d old_members 0 %d %d %d", tick + tick, a, g, floor[g]); say_state(a) }

#define TRACED(l, a)	PAUSE PROMISE_KILLED(l, a, 0) PROMISE_KILLED(l, a, 1) PAUSE REFUSED(l, a) PAUSE
#define TRACED_MEMBER(a) \
	PAUSE GOSSIP(a) PAUSE CRASH(a) PAUSE MEMBERS_KILLED(a, 2, 0) MEMBERS_KILLED(a, 2, 1) MEMBERS_KILLED(a, 3, 0) \
	MEMBERS_KILLED(a, 3, 1) REFUSED_MEMBERS(a, 1) REFUSED_MEMBERS(a, 2) PAUSE
#endif

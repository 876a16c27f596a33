/*-------------------------------------------------------------------------
 *
 * reconf.pml
 *	  The WAL service while its members change: a learner, the joint
 *	  configuration, the final one; elections and commits go on meanwhile, by
 *	  launchers, computes and members that know different generations.  For
 *	  Spin.
 *
 * Generation 1 has the members OLD, generation 2 is joint, generation 3 has NEW
 * with a term floor (and with CHANGES=2 the same once more, 4 and 5 with THIRD).
 * Members are given as bits.  Who leaves and who joins takes part all the time:
 * a member that takes no step for long, and then does, is one that was away.
 *
 * Logs, terms and histories are those of wal.pml, whose inner steps of a
 * message (the cut and the history, what a crash leaves) are one step here.
 * The command that changes the members asks one member after the other; it is
 * killed, and begins again, between any two of its steps.
 *
 * What may happen early without losing a schedule happens early: the joint
 * configuration is stored at the start (nobody has to look at it yet), a compute
 * has written its whole log when it is elected (a record not yet written is one
 * not yet streamed) and has WAL senders of all generations from the oldest that
 * may be left to the newest that it may know, all of which release commits.  A
 * launcher's generation is that of the first member that promises to it.  What
 * a member told of its position was told to everybody.
 *
 * Each action names the C function that is it; docs/wal-service.md has them in
 * a table.  WITHOUT(rule) is true in a run that leaves this rule out
 * (environment: WITHOUT=number), as in wal.pml.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LAUNCHERS
#define LAUNCHERS 2		/* each with its compute; also the highest term */
#endif
#ifndef LENGTH
#define LENGTH 1
#endif
#ifndef MEMBERS
#define MEMBERS 4
#endif
#ifndef OLD
#define OLD 7			/* members 0, 1, 2 */
#endif
#ifndef NEW
#define NEW 11			/* members 0, 1, 3 */
#endif
#ifndef CHANGES
#define CHANGES 1
#endif
#ifndef THIRD
#define THIRD OLD
#endif
#define TERMS		(LAUNCHERS + 1)
#define LAST		(1 + 2 * CHANGES)	/* generation */

/* ---- the rules that can be left out ---- */

hidden byte without;
#define WITHOUT(rule)	(without == rule)

#define JOINTSTEP	1	/* step 1: there is a joint configuration between the old and the new one */
#define JOINTCOMMIT	2	/* a compute that counts by a joint one waits for a majority of either set */
#define VOTEOLD		3	/* R3: a joint election needs a majority of the old members */
#define VOTENEW		4	/* R3: and of the new ones */
#define VOTEGEN		5	/* a promise is given to a launcher of the same generation */
#define STRANGER	6	/* step 0: who is not in the configuration neither votes nor counts */
#define COUNTGEN	7	/* R12: positions of members of the same generation are counted */
#define SENDERS		8	/* step 2: no WAL sender is left that counts by the old configuration */
#define ORDER		9	/* step 3: positions are read after that */
#define AWARE		10	/* step 3: of old members that know the joint configuration */
#define OLDTERM		11	/* step 3: that have not promised more than the compute's term */
#define POSITION	12	/* step 4: a majority of the new members has reached that position */
#define COMPUTEFLOOR	14	/* step 5: a compute below the floor ends */
#define LEARNTERM	15	/* step 0: a learner has the history of what it copies */
#define BOTHSETS	16	/* R3: and no more than a majority of either set, so that the change ends with those alone */
#define COUNTED		21	/* step 2: the election of that compute, or of the command, is over: a majority counted (R9) */

/* defence: what these do, others do too */
#define FLOORS		13	/* steps 4, 5: the new members have promised the term; or its floor when they adopt the last configuration */
#define FLOOR		17	/* step 5: promised rises to the floor; FLOORS without PROMISED */
#define PROMISED	18	/* step 4: the new members have promised the term; FLOORS without FLOOR */
#define LEARNPROMISE	19	/* step 0: a learner promises the last term that it learns of */
#define AWARENEW	20	/* step 4: the new members know the joint configuration */

#define GOAL		99	/* no rule: something must get done, or all of this proves nothing */

/* ---- the state ---- */

typedef Member {
	byte generation;	/* persisted */
	byte promised;		/* persisted */
	byte start[TERMS];	/* persisted: 1 + where a term begins; 0: not in the history */
	byte log[LENGTH];
	byte flush		/* flush_lsn */
}

#define IDLE	0
#define ASKING	1
#define WON	2

typedef Launcher {
	byte phase;
	byte term;
	byte generation;	/* 0: nobody promised yet */
	byte promises;		/* bits: whose replies have come */
	byte best;		/* the greatest last_log_term among them */
	byte x;			/* X */
	byte start[TERMS];	/* the history that elected() carries */
	byte log[LENGTH];	/* of the compute */
	byte counted;		/* bits: who counted for the term (R9) */
	byte oldest;		/* generation: no WAL sender counts by an older one */
	byte said[LAST * MEMBERS]	/* the position that a member told under the term, at each of its generations */
}

#define READING_OLD	1
#define READING_NEW	2

typedef Command {
	byte phase;		/* or IDLE */
	byte term;
	byte read;		/* bits: who was read in this phase */
	byte best;		/* the position that was read: last_log_term */
	byte lsn		/* and flush_lsn */
}

Member m[MEMBERS];
Launcher c[LAUNCHERS];
Command change;
byte stored;			/* generation: the pageserver's */
byte floor[LAST + 1];		/* of the stored final configurations */
byte acknowledged[LENGTH];	/* to clients, or served: who wrote the entry */
bit early;			/* WITHOUT(GOAL) only: the first entry was acknowledged before the last configuration was stored */

hidden byte i, j, k, n, p, r, e1, e2, a_, ok;

#ifdef TRACE
#define RECONF
#include "trace.pml"
#else
#define GO		true
#define RARELY(n)	true
#define SAY(action)
#define STEP
#define TAIL_ANSWERS(l, d)	true
#define MAY_BE_ELECTED(l, a)	true
#define BEGIN_TRACES
#define TRACED(l, a)
#define TRACED_MEMBER(a)
#endif

/* ---- sets ---- */

hidden byte old_of[LAST + 1];
hidden byte new_of[LAST + 1];
hidden byte majority[(LAST + 1) * 32];	/* by generation and bits: is it one of either set? */
hidden byte releases[(LAST + 1) * 32];	/* are they k of the union? */

#define IN(set, a)	(((set) >> (a)) & 1)
#define IS_JOINT(g)	((g) % 2 == 0)
#define MEMBER_OF(a, g)	(IN(old_of[g] | new_of[g], a) || WITHOUT(STRANGER))
#define IS_MEMBER(a)	MEMBER_OF(a, m[a].generation)

c_code {
	static int
	count_bits(int set)
	{
		int			n = 0;

		for (; set; set >>= 1)
			n += set & 1;
		return n;
	}

	static int
	most_of(int set, int of)
	{
		return count_bits(set & of) > count_bits(of) / 2;
	}

	/* quorum_is_majority(), skconfig_quorum_lsn() */
	static int
	is_majority(int set, int g)
	{
		if (without == STRANGER && g == 1)
			return count_bits(set) > count_bits(OLD) / 2;
		if (without == BOTHSETS && g % 2 == 0)
			return releases[g * 32 + set];
		return (most_of(set, old_of[g]) || (without == VOTEOLD && g % 2 == 0)) &&
			(most_of(set, new_of[g]) || (without == VOTENEW && g % 2 == 0));
	}

	/* members_quorum(), of which k of the union are enough */
	static int
	is_quorum(int set, int g)
	{
		int			all = old_of[g] | new_of[g];
		int			n = count_bits(all);
		int			k_old = count_bits(old_of[g]) / 2 + 1;
		int			k_new = count_bits(new_of[g]) / 2 + 1;

		if (without == STRANGER && g == 1)
			all = (1 << MEMBERS) - 1;
		if (without != JOINTCOMMIT)
		{
			k_old += n - count_bits(old_of[g]);
			k_new += n - count_bits(new_of[g]);
		}
		return count_bits(set & all) >= (k_old > k_new ? k_old : k_new);
	}

	static void
	fill_tables(void)
	{
		int			sets[] = {OLD, NEW, THIRD};

		without = getenv("WITHOUT") ? atoi(getenv("WITHOUT")) : 0;
		for (int g = 1; g <= LAST; g++)
		{
			old_of[g] = sets[(g - 1) / 2];
			new_of[g] = sets[g / 2];
			for (int set = 0; set < 32; set++)
				releases[g * 32 + set] = is_quorum(set, g);
			for (int set = 0; set < 32; set++)
				majority[g * 32 + set] = is_majority(set, g);
		}
	}
}

/* ---- history.c ---- */

#define HAS_TERM(a, t)	(m[a].start[t] != 0)
#define VISIBLE(a, t)	(HAS_TERM(a, t) && m[a].start[t] <= m[a].flush + 1)
#if LAUNCHERS <= 2
#define GOES_ON(a, t)	((t) < 2 && HAS_TERM(a, 2))
#elif LAUNCHERS == 3
#define GOES_ON(a, t)	(((t) < 2 && HAS_TERM(a, 2)) || ((t) < 3 && HAS_TERM(a, 3)))
#else
#define GOES_ON(a, t)	(((t) < 2 && HAS_TERM(a, 2)) || ((t) < 3 && HAS_TERM(a, 3)) || ((t) < 4 && HAS_TERM(a, 4)))
#endif
#define ENDS_WITH(a, t)	(HAS_TERM(a, t) && !GOES_ON(a, t))

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

/* ---- the change ends, if a majority of the old and of the new members lives ---- */

/*
 * The command that is repeated, and then a launcher, alone with the members of
 * a set, whatever was before: election_run() by the joint configuration,
 * read_old(), await_new(), store_final(), election_run() by the last one with
 * none but its members.  All that was acknowledged must be in its log.
 */
c_code {
	typedef struct
	{
		int			promised;
		int			flush;
		int			start[TERMS + 2 * CHANGES + 1];
		int			log[LENGTH];
	} Left;

	static Left rest[MEMBERS];

	static int
	rest_common(const int *start, int a, int terms)
	{
		int			same = 0;
		int			end = rest[a].flush;

		for (int t = 1; t < terms; t++)
		{
			if (rest[a].start[t] && rest[a].start[t] <= rest[a].flush + 1 && rest[a].start[t] == start[t])
				same = t;
		}
		for (int t = same + 1; t < terms; t++)
		{
			if (rest[a].start[t] && rest[a].start[t] <= rest[a].flush + 1 && rest[a].start[t] - 1 < end)
				end = rest[a].start[t] - 1;
			if (start[t] && start[t] - 1 < end)
				end = start[t] - 1;
		}
		return end;
	}

	/* By none but the members of who; false: it does not get done. */
	static int
	rest_elect(int who, int g, int term)
	{
		int			start[TERMS + 2 * CHANGES + 1] = {0};
		int			donor = -1;
		int			donor_term = 0;
		int			x;
		int			more = 1;

		if (!majority[g * 32 + who])
			return 0;
		for (int a = 0; a < MEMBERS; a++)
		{
			int			llt = 0;

			if (!IN(who, a))
				continue;
			if (rest[a].promised >= term)
				return 0;
			rest[a].promised = term;
			for (int t = 1; t < term; t++)
			{
				if (rest[a].start[t] && rest[a].start[t] <= rest[a].flush + 1)
					llt = t;
			}
			if (donor < 0 || llt > donor_term ||
				(llt == donor_term && rest[a].flush > rest[donor].flush))
			{
				donor = a;
				donor_term = llt;
			}
		}
		x = rest[donor].flush;
		for (int t = 1; t < term; t++)
			start[t] = rest[donor].start[t] <= x + 1 ? rest[donor].start[t] : 0;
		start[term] = x + 1;
		for (int a = 0; a < MEMBERS; a++)
		{
			if (!IN(who, a))
				continue;
			rest[a].flush = rest_common(start, a, term);
			memcpy(rest[a].start, start, sizeof(start));
		}
		while (more)
		{
			more = 0;
			for (int a = 0; a < MEMBERS; a++)
			{
				for (int d = 0; d < MEMBERS; d++)
				{
					if (IN(who, a) && IN(who, d) && rest[a].flush < x &&
						rest_common(start, d, term + 1) > rest[a].flush)
					{
						rest[a].log[rest[a].flush] = rest[d].log[rest[a].flush];
						rest[a].flush++;
						more = 1;
					}
				}
			}
		}
		for (int a = 0; a < MEMBERS; a++)
		{
			if (IN(who, a) && rest[a].flush < x)
				return 0;
		}
		return 1;
	}

	/* Is all that was acknowledged in a log of who, who were just elected? */
	static int
	nothing_lost(int who)
	{
		for (int a = 0; a < MEMBERS; a++)
		{
			for (int n = 0; IN(who, a) && n < LENGTH; n++)
			{
				if (now.acknowledged[n] &&
					(rest[a].flush <= n || rest[a].log[n] != now.acknowledged[n]))
					return 0;
			}
		}
		return 1;
	}

	static void
	copy_members(void)
	{
		memset(rest, 0, sizeof(rest));
		for (int a = 0; a < MEMBERS; a++)
		{
			rest[a].promised = now.m[a].promised;
			rest[a].flush = now.m[a].flush;
			for (int t = 0; t < TERMS; t++)
				rest[a].start[t] = now.m[a].start[t];
			for (int n = 0; n < LENGTH; n++)
				rest[a].log[n] = now.m[a].log[n];
		}
	}

	static int
	finishes_with(int alive)
	{
		int			term = 0;
		int			g = now.stored;

		copy_members();
		for (int a = 0; a < MEMBERS; a++)
			term = rest[a].promised > term ? rest[a].promised : term;
		if (g % 2 == 1 && g < LAST)
			g++;				/* store_joint() */
		if (g < LAST)
		{
			if (!rest_elect(alive & (old_of[g] | new_of[g]), g, ++term))
				return 0;
			/* those elected have X and promised, so read_old() and await_new() need no more */
			g++;				/* store_final() */
		}
		return rest_elect(alive & new_of[g], g, ++term) && nothing_lost(alive & new_of[g]);
	}

	static int
	is_enough(int alive, int g)
	{
		return most_of(alive, old_of[g]) && most_of(alive, new_of[g]);
	}

	/* Are they enough, and nobody of them can be spared? */
	static int
	is_least(int alive, int g)
	{
		for (int a = 0; a < MEMBERS; a++)
		{
			if (IN(alive, a) && is_enough(alive & ~(1 << a), g))
				return 0;
		}
		return is_enough(alive, g);
	}

	/* With each such set.  What they are is found out once. */
	static int
	finishes(void)
	{
		static int	least[LAST + 1][1 << MEMBERS];
		static int	n_least[LAST + 1];
		int			g = now.stored < LAST ? (now.stored + 1) / 2 * 2 : LAST;

		if (n_least[g] == 0)
		{
			for (int alive = 1; alive < 1 << MEMBERS; alive++)
			{
				if (is_least(alive, g))
					least[g][n_least[g]++] = alive;
			}
		}
		for (int i = 0; i < n_least[g]; i++)
		{
			if (!finishes_with(least[g][i]))
				return 0;
		}
		return 1;
	}
}

/* ---- what follows from a state, at once: nothing depends on when ---- */

#define SAID(l, g, a)	c[l].said[((g) - 1) * MEMBERS + (a)]

/* Who counts for a term (R9) has told its position: to the compute (R10), to its peers (R12). */
inline tell_positions() {
	a_ = 0;
	do :: a_ < MEMBERS -> last_log_term(a_); j = 0;
		do :: j < LAUNCHERS ->
			if :: c[j].phase == WON && c[j].term == r && m[a_].promised == r && IS_MEMBER(a_) ->
				c[j].counted = c[j].counted | (1 << a_);
				if :: SAID(j, m[a_].generation, a_) < m[a_].flush -> SAID(j, m[a_].generation, a_) = m[a_].flush
				   :: else fi
			   :: else fi; j++
		   :: else -> break od; a_++
	   :: else -> break od
}

/* Position upto of l's log is acknowledged, or served: it is what everybody was told. */
inline acknowledge(l, upto) {
	n = 0;
	do :: n < upto ->
		if :: acknowledged[n] == 0 -> acknowledged[n] = c[l].log[n]
		   :: else -> assert(acknowledged[n] == c[l].log[n])	/* no two computes commit */
		fi; n++
	   :: else -> break od
}

/* Bits, into k: who said position p to l, at generation g or at any. */
inline who_said(l, g, any) {
	k = 0; a_ = 0;
	do :: a_ < MEMBERS -> i = 1;
		do :: i <= LAST ->
			if :: (i == g || any) && SAID(l, i, a_) >= p -> k = k | (1 << a_) :: else fi; i++
		   :: else -> break od;
		a_++
	   :: else -> break od
}

/* The greatest generation that compute l adopts, into e1: quorum_config_write(), check_term(). */
inline newest_of(l) {
	e1 = stored; i = stored;
	do :: i > 1 ->
		if :: !IS_JOINT(i) && c[l].term < floor[i] && !WITHOUT(COMPUTEFLOOR) -> e1 = i - 1 :: else fi;
		i--
	   :: else -> break od
}

/* sk_raise_commit_by_peers(), by each generation; the WAL senders of l release commits. */
inline commit(l) {
	newest_of(l); p = LENGTH;
	do :: p > 0 -> r = 1;
		do :: r <= stored ->
			who_said(l, r, WITHOUT(COUNTGEN));
			if :: majority[r * 32 + k] -> acknowledge(l, p) :: else fi;
			if :: r >= c[l].oldest && r <= e1 ->
				who_said(l, 0, 1);
				if :: releases[r * 32 + k] -> acknowledge(l, p) :: else fi
			   :: else fi; r++
		   :: else -> break od; p--
	   :: else -> break od
}

/* Below the common point of two histories the bytes are the same. */
inline check_logs_match(l) {
	a_ = 0;
	do :: a_ < MEMBERS -> common(l, a_); n = 0;
		do :: n < r -> assert(m[a_].log[n] == c[l].log[n]); n++
		   :: else -> break od; a_++
	   :: else -> break od
}

inline settle() {
	tell_positions();
	j = 0;
	do :: j < LAUNCHERS -> if :: c[j].phase == WON -> commit(j); check_logs_match(j) :: else fi; j++
	   :: else -> break od;
	if :: WITHOUT(GOAL) ->
		if :: stored < LAST && acknowledged[0] == 1 -> early = 1 :: else fi;
		assert(!(early && c[1].generation == LAST && acknowledged[LENGTH - 1] == 2))
	   :: else fi;
	c_code { ok = finishes(); };
	assert(ok);
	i = 0; j = 0; k = 0; n = 0; p = 0; r = 0; e1 = 0; e2 = 0; a_ = 0;
	STEP
}

/* ---- the launcher: election_run(), of any generation that it once read ---- */

#define START(l, a) \
	:: d_step { GO && c[l].phase == IDLE && (l == 0 || c[(l + LAUNCHERS - 1) % LAUNCHERS].phase != IDLE) && \
		m[a].promised < LAUNCHERS && IS_MEMBER(a) && RARELY(12) -> \
		c[l].term = m[a].promised + 1; c[l].phase = ASKING; SAY(say_start(l)) }

/* ask_promises(): R4 */
inline note_promise(l, a) {
	c[l].promises = c[l].promises | (1 << (a));
	last_log_term(a);
	if :: c[l].promises == (1 << (a)) || r > c[l].best || (r == c[l].best && m[a].flush > c[l].x) ->
		c[l].best = r; c[l].x = m[a].flush; i = 1;
		do :: i < TERMS ->
			if :: VISIBLE(a, i) -> c[l].start[i] = m[a].start[i] :: else -> c[l].start[i] = 0 fi; i++
		   :: else -> break od;
		i = 0;
		do :: i < LENGTH ->
			if :: i < m[a].flush -> c[l].log[i] = m[a].log[i] :: else -> c[l].log[i] = 0 fi; i++
		   :: else -> break od
	   :: else fi
}

/* try_term(), new_history(): the term is won, and nobody else wins it */
#define WIN(l) \
	:: d_step { GO && c[l].phase == ASKING && majority[c[l].generation * 32 + c[l].promises] && RARELY(2) -> \
		i = 0; \
		do :: i < LAUNCHERS -> assert(c[i].phase != WON || c[i].term != c[l].term); i++ :: else -> break od; \
		c[l].phase = WON; c[l].promises = 0; c[l].best = 0; c[l].oldest = c[l].generation; \
		c[l].start[c[l].term] = c[l].x + 1; i = c[l].x; \
		do :: i < LENGTH -> c[l].log[i] = l + 1; i++ :: else -> break od; \
		SAY(say_win(l)) }

/* ---- promise(): sk_promise() ---- */

#define MAY_PROMISE(l, a) \
	(c[l].phase == ASKING && m[a].promised < c[l].term && !IN(c[l].promises, a) && IS_MEMBER(a) && \
	 (c[l].generation == 0 || c[l].generation == m[a].generation || WITHOUT(VOTEGEN)))

inline persist_promise(l, a) {
	m[a].promised = c[l].term;
	if :: c[l].generation == 0 -> c[l].generation = m[a].generation :: else fi
}

#define PROMISE(l, a) \
	:: d_step { GO && MAY_PROMISE(l, a) -> persist_promise(l, a); note_promise(l, a); SAY(say_promise(l, a)) }

/* the reply is lost: the launcher, or the member, is gone */
#define PROMISE_LOST(l, a) \
	:: d_step { GO && MAY_PROMISE(l, a) && RARELY(3) -> persist_promise(l, a); SAY(say_promise(l, a)) }

/* a member that was not asked, of whatever generation: sk_elected(), learn_from() */
#define PROMISE_LATE(l, a) \
	:: d_step { GO && c[l].phase == WON && m[a].promised < c[l].term && IS_MEMBER(a) && MAY_BE_ELECTED(l, a) && RARELY(2) -> \
		m[a].promised = c[l].term; SAY(say_promise(l, a)) }

/* ---- elected(): sk_elected(), adopt_history(); learn_from() ---- */

#define OF_TERM(l, a)	(c[l].phase == WON && m[a].promised == c[l].term && IS_MEMBER(a))

inline cut(a, upto) {
	m[a].flush = upto; i = upto;
	do :: i < LENGTH -> m[a].log[i] = 0; i++ :: else -> break od
}

#define ELECTED(l, a) \
	:: d_step { GO && OF_TERM(l, a) && !HAS_TERM(a, c[l].term) && MAY_BE_ELECTED(l, a) -> \
		common(l, a); cut(a, r); i = 1; \
		do :: i < TERMS -> m[a].start[i] = c[l].start[i]; i++ :: else -> break od; \
		SAY(say_elected(l, a)) }

/* ---- copy_piece(), copy_committed() ---- */

#define COPY(l, a, d) \
	:: d_step { GO && OF_TERM(l, a) && ENDS_WITH(a, c[l].term) && m[a].flush < c[l].x && m[d].flush > m[a].flush && \
		TAIL_ANSWERS(l, d) -> \
		common(l, d); \
		if :: r > m[a].flush -> m[a].log[m[a].flush] = m[d].log[m[a].flush]; m[a].flush++; SAY(say_copy(l, a, d, 1)) \
		   :: else -> SAY(say_copy(l, a, d, 0)) fi; }

/* ---- stream_with(), walwriter_take(), walwriter_settle() ---- */

#define STREAM(l, a) \
	:: d_step { GO && OF_TERM(l, a) && ENDS_WITH(a, c[l].term) && m[a].flush >= c[l].x && m[a].flush < LENGTH -> \
		m[a].log[m[a].flush] = c[l].log[m[a].flush]; m[a].flush++; SAY(say_stream(l, a)) }

/* ---- a learner: sk_follow(), sk_copy_to_x() ---- */

#define IS_LEARNER(a)	(!IN(old_of[m[a].generation] | new_of[m[a].generation], a) && IN(new_of[stored], a))

/* how much of d's log is committed, into p: what choose_donor() may read as its commit_lsn */
inline committed_of(d) {
	p = 0;
	do :: p < m[d].flush && acknowledged[p] != 0 && m[d].log[p] == acknowledged[p] -> p++
	   :: else -> break od
}

/* the history of what is committed, as committed_history() cuts it */
#define FOLLOW(a, d) \
	:: d_step { GO && IS_LEARNER(a) && m[d].flush >= m[a].flush -> \
		committed_of(d); r = 0; n = 0; i = 1; \
		do :: i < TERMS -> \
			if :: HAS_TERM(d, i) && m[d].start[i] <= p + 1 -> r = i :: else fi; \
			if :: HAS_TERM(a, i) -> n = i :: else fi; i++ \
		   :: else -> break od; \
		if :: r > n && p >= m[a].flush -> \
			if :: m[a].promised < r && !WITHOUT(LEARNPROMISE) -> m[a].promised = r :: else fi; i = 1; \
			do :: i < TERMS -> if :: i <= r -> m[a].start[i] = m[d].start[i] :: else -> m[a].start[i] = 0 fi; i++ \
			   :: else -> break od; \
			SAY(say_follow(a, d, p)) \
		   :: else -> SAY(say_nothing()) fi; }

/* a committed record, of a term that is in that history */
#define FOLLOW_COPY(a, d) \
	:: d_step { GO && IS_LEARNER(a) && m[d].flush > m[a].flush -> \
		committed_of(d); r = 0; i = 1; \
		do :: i < TERMS -> if :: HAS_TERM(d, i) && m[d].start[i] <= m[a].flush + 1 -> r = i :: else fi; i++ \
		   :: else -> break od; \
		if :: p > m[a].flush && (m[a].start[r] == m[d].start[r] || WITHOUT(LEARNTERM)) -> \
			m[a].log[m[a].flush] = m[d].log[m[a].flush]; m[a].flush++; SAY(say_follow_copy(a, d, p)) \
		   :: else -> SAY(say_nothing()) fi; }

/* ---- members(): sk_members(), adopt_config(); from the command, a launcher or a peer ---- */

#define MEMBERS_TOLD(a, g) \
	:: d_step { GO && stored >= g && m[a].generation < g && (g != 2 || !WITHOUT(JOINTSTEP)) && RARELY(8) -> \
		m[a].generation = g; \
		if :: m[a].promised < floor[g] && !WITHOUT(FLOORS) && !WITHOUT(FLOOR) -> m[a].promised = floor[g] :: else fi; \
		SAY(say_members(a, g)) }

/* ---- the command: contrib/neon_ctl/member.c ---- */

/* store_joint(), when there is a second change */
#define STORE_JOINT \
	:: d_step { !IS_JOINT(stored) && stored < LAST -> stored = stored + 1 }

/* the compute's coordinator: adopt_settings(), end_walsenders(), check_leaving() */
#define COMPUTE_ADOPTS(l) \
	:: d_step { GO && c[l].phase == WON && IS_JOINT(stored) && c[l].oldest < stored -> \
		newest_of(l); if :: e1 == stored -> c[l].oldest = stored :: else fi; SAY(say_nothing()) }

/* settle_compute(): a compute, or an election of its own, that counts by the joint one */
#define IS_OVER(l)	(majority[c[l].generation * 32 + c[l].counted] || WITHOUT(COUNTED))
#define SETTLE_COMPUTE(l) \
	:: d_step { GO && IS_JOINT(stored) && change.phase == IDLE && c[l].phase == WON && IS_OVER(l) && \
		(c[l].oldest >= stored || WITHOUT(SENDERS)) && !WITHOUT(ORDER) -> \
		change.phase = READING_OLD; change.term = c[l].term; SAY(say_nothing()) } \
	:: d_step { IS_JOINT(stored) && WITHOUT(ORDER) && change.phase == READING_NEW && change.read == 0 && \
		c[l].phase == WON && IS_OVER(l) && c[l].term == change.term && c[l].oldest >= stored -> change.read = 16 }

/* read_old(): one of the answers */
#define READ_OLD(a) \
	:: d_step { GO && IS_JOINT(stored) && (change.phase == READING_OLD || (WITHOUT(ORDER) && change.phase == IDLE)) && \
		IN(old_of[stored], a) && !IN(change.read, a) && (m[a].generation == stored || WITHOUT(AWARE)) && \
		(m[a].promised <= change.term || WITHOUT(OLDTERM) || WITHOUT(ORDER)) -> \
		last_log_term(a); \
		if :: r > change.best || (r == change.best && m[a].flush > change.lsn) -> \
			change.best = r; change.lsn = m[a].flush \
		   :: else fi; \
		if :: WITHOUT(ORDER) && m[a].promised > change.term -> change.term = m[a].promised :: else fi; \
		change.read = change.read | (1 << a); \
		c_code { ok = most_of(now.change.read, old_of[now.stored]); }; \
		if :: ok -> change.phase = READING_NEW; change.read = 0 :: else fi; SAY(say_nothing()) }

/* await_new(): one of the answers; with a majority of them store_final() */
#define READ_NEW(a) \
	:: d_step { GO && IS_JOINT(stored) && change.phase == READING_NEW && IN(new_of[stored], a) && !IN(change.read, a) && \
		(!WITHOUT(ORDER) || change.read >= 16) && \
		(m[a].generation == stored || WITHOUT(AWARENEW)) && \
		(m[a].promised >= change.term || WITHOUT(FLOORS) || WITHOUT(PROMISED)) -> \
		last_log_term(a); \
		if :: r > change.best || (r == change.best && m[a].flush >= change.lsn) || WITHOUT(POSITION) -> \
			change.read = change.read | (1 << a); \
			c_code { ok = most_of(now.change.read, new_of[now.stored]); }; \
			if :: ok -> stored = stored + 1; floor[stored] = change.term; end_of_command() :: else fi \
		   :: else fi; SAY(say_nothing()) }

inline end_of_command() {
	change.phase = IDLE; change.term = 0; change.read = 0; change.best = 0; change.lsn = 0
}

/* it is killed, or a member has promised more: it begins again */
#define BEGIN_AGAIN \
	:: d_step { GO && (change.phase != IDLE || change.read != 0) && RARELY(12) -> end_of_command(); SAY(say_nothing()) }

/* ---- who does what ---- */

#define MESSAGES(l, a) \
	START(l, a) PROMISE(l, a) PROMISE_LOST(l, a) PROMISE_LATE(l, a) ELECTED(l, a) STREAM(l, a) TRACED(l, a)
#define LEARN(a, d)	FOLLOW(a, d) FOLLOW_COPY(a, d)
#define COMMAND(a)	MEMBERS_OF_CHANGES(a) READ_OLD(a) READ_NEW(a) TRACED_MEMBER(a)
#if CHANGES == 1
#define MEMBERS_OF_CHANGES(a)	MEMBERS_TOLD(a, 2) MEMBERS_TOLD(a, 3)
#else
#define MEMBERS_OF_CHANGES(a)	MEMBERS_TOLD(a, 2) MEMBERS_TOLD(a, 3) MEMBERS_TOLD(a, 4) MEMBERS_TOLD(a, 5)
#endif

#if MEMBERS == 2
#define ALL_MESSAGES(l)	MESSAGES(l, 0) MESSAGES(l, 1) COPY(l, 0, 1) COPY(l, 1, 0)
#define ALL_COMMANDS	COMMAND(0) COMMAND(1) LEARN(0, 1) LEARN(1, 0)
#elif MEMBERS == 3
#define ALL_MESSAGES(l)	MESSAGES(l, 0) MESSAGES(l, 1) MESSAGES(l, 2) \
	COPY(l, 0, 1) COPY(l, 0, 2) COPY(l, 1, 0) COPY(l, 1, 2) COPY(l, 2, 0) COPY(l, 2, 1)
#define ALL_COMMANDS	COMMAND(0) COMMAND(1) COMMAND(2) \
	LEARN(0, 1) LEARN(0, 2) LEARN(1, 0) LEARN(1, 2) LEARN(2, 0) LEARN(2, 1)
#else
#define ALL_MESSAGES(l)	MESSAGES(l, 0) MESSAGES(l, 1) MESSAGES(l, 2) MESSAGES(l, 3) \
	COPY(l, 0, 1) COPY(l, 0, 2) COPY(l, 0, 3) COPY(l, 1, 0) COPY(l, 1, 2) COPY(l, 1, 3) \
	COPY(l, 2, 0) COPY(l, 2, 1) COPY(l, 2, 3) COPY(l, 3, 0) COPY(l, 3, 1) COPY(l, 3, 2)
#define ALL_COMMANDS	COMMAND(0) COMMAND(1) COMMAND(2) COMMAND(3) \
	LEARN(1, 0) LEARN(1, 2) LEARN(1, 3) LEARN(2, 0) LEARN(2, 1) LEARN(2, 3) LEARN(3, 0) LEARN(3, 1) LEARN(3, 2)
#endif

#define LAUNCHER(l)	WIN(l) COMPUTE_ADOPTS(l) SETTLE_COMPUTE(l) ALL_MESSAGES(l)

active proctype wal_service()
{
	d_step {
		c_code { fill_tables(); };
		i = 0;
		do :: i < MEMBERS -> m[i].generation = 1; i++ :: else -> break od;
		stored = 2;
		if :: WITHOUT(JOINTSTEP) -> stored = 3 :: else fi;
		i = 0;
		BEGIN_TRACES
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
	ALL_COMMANDS BEGIN_AGAIN
#if CHANGES > 1
	STORE_JOINT
#endif
	fi;
	d_step { settle() } }
	od
}

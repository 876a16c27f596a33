/*-------------------------------------------------------------------------
 *
 * history.c
 *	  The history of terms of a log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "state.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/pg_lsn.h"

/* A launcher adds an entry to a donor's history, which has to be taken. */
#define HISTORY_ROOM	8

uint32
skhistory_term_at(const SkHistory *h, XLogRecPtr lsn)
{
	for (int i = h->n - 1; i >= 0; i--)
	{
		if (h->entry[i].start <= lsn)
			return h->entry[i].term;
	}
	return 0;
}

const SkTerm *
skhistory_find(const SkHistory *h, uint32 term)
{
	for (int i = 0; i < h->n; i++)
	{
		if (h->entry[i].term == term)
			return &h->entry[i];
	}
	return NULL;
}

const SkTerm *
skhistory_last(const SkHistory *h)
{
	return h->n > 0 ? &h->entry[h->n - 1] : NULL;
}

/* Where the entry's term ends in this history; open: MaxUInt64. */
static XLogRecPtr
term_end(const SkHistory *h, const SkTerm *entry)
{
	return entry == skhistory_last(h) ? PG_UINT64_MAX : entry[1].start;
}

XLogRecPtr
skhistory_common(const SkHistory *own, XLogRecPtr flush_lsn, const SkHistory *given,
				 XLogRecPtr final)
{
	if (own->n == 0 || given->n == 0)
		return InvalidXLogRecPtr;
	for (int i = own->n - 1; i >= 0; i--)
	{
		const SkTerm *mine = &own->entry[i];
		const SkTerm *theirs = skhistory_find(given, mine->term);

		if (theirs != NULL && theirs->start == mine->start)
			return Min(flush_lsn, Min(term_end(own, mine), term_end(given, theirs)));
	}
	/* One of them was compacted, which only happens to what is final. */
	if (own->entry[0].start != given->entry[0].start)
		return Min(final, flush_lsn);
	return InvalidXLogRecPtr;
}

static void
drop_entry(SkHistory *h, int i)
{
	memmove(&h->entry[i], &h->entry[i + 1], (h->n - i - 1) * sizeof(SkTerm));
	h->n--;
}

bool
skhistory_compact(SkHistory *h, XLogRecPtr commit_lsn)
{
	const int	most = SK_MAX_HISTORY - HISTORY_ROOM;

	if (h->n <= most)
		return true;
	for (int i = h->n - 2; i >= 0; i--)
	{
		if (h->entry[i].start == h->entry[i + 1].start)
			drop_entry(h, i);
	}
	while (h->n > most && h->entry[1].start <= commit_lsn)
		drop_entry(h, 0);
	return h->n <= most;
}

/* ---- jsonb ---- */

static bool
read_term(JsonbValue *v, uint32 *term)
{
	int64		n;

	if (v == NULL || v->type != jbvNumeric)
		return false;
	n = DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(v->val.numeric)));
	if (n < 0 || n > PG_INT32_MAX)
		return false;
	*term = (uint32) n;
	return true;
}

static bool
read_lsn(JsonbValue *v, XLogRecPtr *lsn)
{
	bool		bad = false;
	char	   *text;

	if (v == NULL || v->type != jbvString)
		return false;
	text = pnstrdup(v->val.string.val, v->val.string.len);
	*lsn = pg_lsn_in_internal(text, &bad);
	return !bad;
}

static bool
read_entry(JsonbValue *pair, SkTerm *entry)
{
	JsonbContainer *c;

	if (pair == NULL || pair->type != jbvBinary)
		return false;
	c = pair->val.binary.data;
	return JsonContainerIsArray(c) && JsonContainerSize(c) == 2 &&
		read_term(getIthJsonbValueFromContainer(c, 0), &entry->term) &&
		read_lsn(getIthJsonbValueFromContainer(c, 1), &entry->start);
}

bool
skhistory_from_jsonb(Jsonb *jb, SkHistory *h, char **problem)
{
	memset(h, 0, sizeof(*h));
	if (!JB_ROOT_IS_ARRAY(jb) || JB_ROOT_IS_SCALAR(jb) || JB_ROOT_COUNT(jb) == 0)
	{
		*problem = "It must be a non-empty array of [term, \"LSN\"].";
		return false;
	}
	if (JB_ROOT_COUNT(jb) > SK_MAX_HISTORY)
	{
		*problem = psprintf("It has more than %d entries.", SK_MAX_HISTORY);
		return false;
	}
	for (int i = 0; i < JB_ROOT_COUNT(jb); i++)
	{
		SkTerm	   *entry = &h->entry[h->n++];

		if (!read_entry(getIthJsonbValueFromContainer(&jb->root, i), entry))
		{
			*problem = psprintf("Entry %d is not [term, \"LSN\"].", i + 1);
			return false;
		}
		if (i > 0 && (entry->term <= entry[-1].term || entry->start < entry[-1].start))
		{
			*problem = psprintf("Entry %d is not behind the one before it.", i + 1);
			return false;
		}
	}
	return true;
}

char *
skhistory_to_json(const SkHistory *h)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '[');
	for (int i = 0; i < h->n; i++)
		appendStringInfo(&buf, "%s[%u, \"%X/%X\"]", i ? ", " : "", h->entry[i].term,
						 LSN_FORMAT_ARGS(h->entry[i].start));
	appendStringInfoChar(&buf, ']');
	return buf.data;
}

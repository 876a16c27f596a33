/*-------------------------------------------------------------------------
 *
 * config.c
 *	  Who the members of a timeline are, and what a majority of them has.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "state.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/numeric.h"

/* ---- jsonb ---- */

static JsonbValue *
key_of(JsonbContainer *object, const char *key)
{
	return getKeyJsonValueFromContainer(object, key, strlen(key), NULL);
}

static bool
read_number(JsonbValue *v, int64 least, int64 most, int64 *n)
{
	if (v == NULL || v->type != jbvNumeric)
		return false;
	*n = DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(v->val.numeric)));
	return *n >= least && *n <= most;
}

/* Hosts go into connection strings: nothing that would need quoting. */
static bool
host_ok(const char *host)
{
	const char *p;

	for (p = host; *p; p++)
	{
		if (!isalnum((unsigned char) *p) && strchr("._-:/", *p) == NULL)
			return false;
	}
	return p > host;
}

static bool
read_string(JsonbValue *v, char *dst, size_t size)
{
	if (v == NULL || v->type != jbvString || v->val.string.len >= size)
		return false;
	memcpy(dst, v->val.string.val, v->val.string.len);
	dst[v->val.string.len] = '\0';
	return strlen(dst) == v->val.string.len;
}

static bool
read_member(JsonbValue *v, SkMember *m)
{
	char		node[NEON_ID_HEXLEN + 1];
	JsonbContainer *c;
	int64		id;
	int64		port;

	if (v == NULL || v->type != jbvBinary || !JsonContainerIsObject(v->val.binary.data))
		return false;
	c = v->val.binary.data;
	if (!read_number(key_of(c, "id"), 1, PG_INT32_MAX, &id) ||
		!read_number(key_of(c, "port"), 1, 65535, &port) ||
		!read_string(key_of(c, "node"), node, sizeof(node)) ||
		!neon_id_parse(node, &m->node) ||
		!read_string(key_of(c, "host"), m->host, sizeof(m->host)) || !host_ok(m->host))
		return false;
	m->id = id;
	m->port = port;
	return true;
}

static const SkMember *
find_member(const SkMemberSet *set, const NeonId *node)
{
	for (int i = 0; i < set->n; i++)
	{
		if (neon_id_equal(&set->member[i].node, node))
			return &set->member[i];
	}
	return NULL;
}

static bool
read_members(JsonbValue *v, const char *key, SkMemberSet *set, char **problem)
{
	JsonbContainer *c;

	if (v == NULL || v->type != jbvBinary || !JsonContainerIsArray(v->val.binary.data) ||
		JsonContainerSize(v->val.binary.data) < 1 ||
		JsonContainerSize(v->val.binary.data) > SK_MAX_MEMBERS)
	{
		*problem = psprintf("\"%s\" must be an array of 1 to %d members.", key, SK_MAX_MEMBERS);
		return false;
	}
	c = v->val.binary.data;
	for (int i = 0; i < JsonContainerSize(c); i++)
	{
		SkMember	m;

		memset(&m, 0, sizeof(m));
		if (!read_member(getIthJsonbValueFromContainer(c, i), &m))
		{
			*problem = psprintf("Member %d of \"%s\" is not {id, node, host, port}.", i + 1, key);
			return false;
		}
		if (find_member(set, &m.node))
		{
			*problem = psprintf("\"%s\" has the same node twice.", key);
			return false;
		}
		set->member[set->n++] = m;
	}
	return true;
}

bool
skconfig_from_jsonb(Jsonb *jb, SkConfig *config, char **problem)
{
	JsonbValue *joint;
	int64		generation;
	int64		floor = 0;

	memset(config, 0, sizeof(*config));
	if (!JB_ROOT_IS_OBJECT(jb))
	{
		*problem = "It must be an object.";
		return false;
	}
	if (!read_number(key_of(&jb->root, "generation"), 1, PG_INT64_MAX, &generation))
	{
		*problem = "\"generation\" must be a number of at least 1.";
		return false;
	}
	if (key_of(&jb->root, "floor") &&
		!read_number(key_of(&jb->root, "floor"), 0, PG_INT32_MAX, &floor))
	{
		*problem = "\"floor\" must be a term.";
		return false;
	}
	config->generation = generation;
	config->floor = floor;
	if (!read_members(key_of(&jb->root, "members"), "members", &config->members, problem))
		return false;
	joint = key_of(&jb->root, "new_members");
	if (joint == NULL || joint->type == jbvNull)
		return true;
	config->joint = true;
	return read_members(joint, "new_members", &config->new_members, problem);
}

static void
append_members(StringInfo buf, const SkMemberSet *set)
{
	appendStringInfoChar(buf, '[');
	for (int i = 0; i < set->n; i++)
	{
		const SkMember *m = &set->member[i];
		char		node[NEON_ID_HEXLEN + 1];

		appendStringInfo(buf, "%s{\"id\": %u, \"node\": \"%s\", \"host\": ", i ? ", " : "", m->id,
						 neon_id_format(&m->node, node));
		escape_json(buf, m->host);
		appendStringInfo(buf, ", \"port\": %u}", m->port);
	}
	appendStringInfoChar(buf, ']');
}

char *
skconfig_to_json(const SkConfig *config)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"generation\": " UINT64_FORMAT ", \"floor\": %u, \"members\": ",
					 config->generation, config->floor);
	append_members(&buf, &config->members);
	appendStringInfoString(&buf, ", \"new_members\": ");
	if (config->joint)
		append_members(&buf, &config->new_members);
	else
		appendStringInfoString(&buf, "null");
	appendStringInfoChar(&buf, '}');
	return buf.data;
}

/* ---- sets ---- */

static bool
set_equal(const SkMemberSet *a, const SkMemberSet *b)
{
	if (a->n != b->n)
		return false;
	for (int i = 0; i < a->n; i++)
	{
		const SkMember *m = &a->member[i];
		const SkMember *other = find_member(b, &m->node);

		if (other == NULL || other->id != m->id || other->port != m->port ||
			strcmp(other->host, m->host) != 0)
			return false;
	}
	return true;
}

bool
skconfig_equal(const SkConfig *a, const SkConfig *b)
{
	return a->generation == b->generation && a->floor == b->floor && a->joint == b->joint &&
		set_equal(&a->members, &b->members) && set_equal(&a->new_members, &b->new_members);
}

const SkMember *
skconfig_member(const SkConfig *config, const NeonId *node)
{
	const SkMember *m = find_member(&config->members, node);

	if (m == NULL && config->joint)
		m = find_member(&config->new_members, node);
	return m;
}

static int
compare_lsn_desc(const void *a, const void *b)
{
	XLogRecPtr	x = *(const XLogRecPtr *) a;
	XLogRecPtr	y = *(const XLogRecPtr *) b;

	return x == y ? 0 : (x > y ? -1 : 1);
}

/* The position that more than half of the set has reached. */
static XLogRecPtr
set_quorum_lsn(const SkMemberSet *set, SkPositionFunction position, void *arg)
{
	XLogRecPtr	lsn[SK_MAX_MEMBERS];

	if (set->n == 0)
		return InvalidXLogRecPtr;
	for (int i = 0; i < set->n; i++)
		lsn[i] = position(&set->member[i], arg);
	qsort(lsn, set->n, sizeof(XLogRecPtr), compare_lsn_desc);
	return lsn[set->n / 2];
}

XLogRecPtr
skconfig_quorum_lsn(const SkConfig *config, SkPositionFunction position, void *arg)
{
	XLogRecPtr	lsn = set_quorum_lsn(&config->members, position, arg);

	if (config->joint)
		lsn = Min(lsn, set_quorum_lsn(&config->new_members, position, arg));
	return lsn;
}

/*-------------------------------------------------------------------------
 *
 * neon_members.c
 *	  The safekeepers of a timeline as a compute is told them.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "neon_members.h"

#define NODE_DIGITS		8		/* of the uuid, in a name */
#define BOOT_DIGITS		14		/* of the boot id: what the boot record holds */

/* ----------
 * The text
 * ----------
 */

/* A decimal number in [1, max] that ends at end; 0 if it is none. */
static int
parse_number(const char *text, const char *end, int max)
{
	int			value = 0;

	if (text == end || end - text > 9)
		return 0;
	for (; text < end; text++)
	{
		if (*text < '0' || *text > '9')
			return 0;
		value = value * 10 + (*text - '0');
	}
	return value <= max ? value : 0;
}

static bool
parse_node(const char *text, const char *end, char *node)
{
	NeonId		id;

	if (end - text != NEON_ID_HEXLEN)
		return false;
	memcpy(node, text, NEON_ID_HEXLEN);
	node[NEON_ID_HEXLEN] = '\0';
	if (!neon_id_parse(node, &id))
		return false;
	neon_id_format(&id, node);
	return true;
}

static bool
parse_host(const char *text, const char *end, char *host)
{
	if (text == end || end - text >= NEON_MEMBER_HOST_MAX)
		return false;
	for (const char *p = text; p < end; p++)
		if (*p <= ' ' || *p == '\'' || *p == '"' || *p == '\\' || *p == '=' || *p == '\x7f')
			return false;
	memcpy(host, text, end - text);
	host[end - text] = '\0';
	return true;
}

static const char *
find_last(const char *text, const char *end, char c)
{
	while (end > text)
		if (*--end == c)
			return end;
	return NULL;
}

/* One "ID:NODE:HOST:PORT"; HOST may contain colons. */
static bool
parse_member(const char *text, const char *end, NeonMember *member, const char **problem)
{
	const char *id_end = memchr(text, ':', end - text);
	const char *node_end = id_end ? memchr(id_end + 1, ':', end - id_end - 1) : NULL;
	const char *port = find_last(text, end, ':');

	memset(member, 0, sizeof(*member));
	if (node_end == NULL || port <= node_end)
	{
		*problem = "a member is written ID:NODE:HOST:PORT";
		return false;
	}
	member->id = parse_number(text, id_end, PG_INT16_MAX);
	if (member->id == 0)
		*problem = "the ID of a member is a number from 1 on";
	else if (!parse_node(id_end + 1, node_end, member->node))
		*problem = "the NODE of a member has 32 hexadecimal digits";
	else if (!parse_host(node_end + 1, port, member->host))
		*problem = "the HOST of a member is not valid";
	else if ((member->port = parse_number(port + 1, end, 65535)) == 0)
		*problem = "the PORT of a member is a number from 1 to 65535";
	else
		return true;
	return false;
}

/* Adds a member of the first or second list to the union of both. */
static bool
add_member(NeonMembers *members, const NeonMember *member, bool second, const char **problem)
{
	NeonMember *m;

	for (int i = 0; i < members->n; i++)
	{
		bool		same_node;

		m = &members->member[i];
		same_node = strcmp(m->node, member->node) == 0;
		if (m->id != member->id && !same_node)
			continue;
		/* a safekeeper that was replaced keeps its id: it may be in both lists */
		if (!second || m->is_new || (same_node && m->id != member->id))
		{
			*problem = "two members have the same ID or NODE";
			return false;
		}
		if (same_node)
		{
			m->is_new = true;
			return true;
		}
	}
	m = &members->member[members->n++];
	*m = *member;
	m->is_old = !second;
	m->is_new = second;
	return true;
}

static bool
parse_list(const char *text, const char *end, bool second, NeonMembers *members, const char **problem)
{
	for (int count = 1;; count++)
	{
		const char *comma = memchr(text, ',', end - text);
		NeonMember	member;

		if (count > NEON_MEMBERS_MAX)
		{
			*problem = "there are more than 9 members";
			return false;
		}
		if (!parse_member(text, comma ? comma : end, &member, problem) ||
			!add_member(members, &member, second, problem))
			return false;
		if (comma == NULL)
			return true;
		text = comma + 1;
	}
}

bool
members_parse(const char *text, NeonMembers *members, const char **problem)
{
	const char *end = text + strlen(text);
	const char *semicolon = strchr(text, ';');

	memset(members, 0, sizeof(*members));
	members->joint = semicolon != NULL;
	return parse_list(text, semicolon ? semicolon : end, false, members, problem) &&
		(semicolon == NULL || parse_list(semicolon + 1, end, true, members, problem));
}

/* ----------
 * Names and majorities
 * ----------
 */

char *
members_name(const NeonMember *member, const NeonId *boot_id, char *name)
{
	char		boot[NEON_ID_HEXLEN + 1];

	snprintf(name, NEON_MEMBER_NAME_MAX, NEON_MEMBER_PREFIX "%d_%.*s_%.*s", member->id,
			 NODE_DIGITS, member->node, BOOT_DIGITS, neon_id_format(boot_id, boot));
	return name;
}

static int
list_size(const NeonMembers *members, bool second)
{
	int			n = 0;

	for (int i = 0; i < members->n; i++)
		n += second ? members->member[i].is_new : members->member[i].is_old;
	return n;
}

/* Any k of the union hold a majority of a list that lacks few enough of it. */
static int
quorum_for_list(const NeonMembers *members, bool second)
{
	int			size = list_size(members, second);

	return size / 2 + 1 + (members->n - size);
}

int
members_quorum(const NeonMembers *members)
{
	int			quorum = quorum_for_list(members, false);

	return members->joint ? Max(quorum, quorum_for_list(members, true)) : quorum;
}

char *
members_quorum_text(const NeonMembers *members, const NeonId *boot_id, char *text)
{
	char		name[NEON_MEMBER_NAME_MAX];
	int			len = snprintf(text, NEON_QUORUM_TEXT_MAX, "ANY %d (", members_quorum(members));

	for (int i = 0; i < members->n; i++)
		len += snprintf(text + len, NEON_QUORUM_TEXT_MAX - len, "%s%s", i > 0 ? ", " : "",
						members_name(&members->member[i], boot_id, name));
	snprintf(text + len, NEON_QUORUM_TEXT_MAX - len, ")");
	return text;
}

static int
compare_descending(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? 1 : x > y ? -1 : 0;
}

static uint64
list_majority_value(const NeonMembers *members, const uint64 *values, bool second)
{
	uint64		sorted[NEON_MEMBERS_UNION_MAX];
	int			n = 0;

	for (int i = 0; i < members->n; i++)
		if (second ? members->member[i].is_new : members->member[i].is_old)
			sorted[n++] = values[i];
	qsort(sorted, n, sizeof(uint64), compare_descending);
	return n > 0 ? sorted[n / 2] : 0;
}

uint64
members_majority_value(const NeonMembers *members, const uint64 *values)
{
	uint64		value = list_majority_value(members, values, false);

	return members->joint ? Min(value, list_majority_value(members, values, true)) : value;
}

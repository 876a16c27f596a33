/*-------------------------------------------------------------------------
 *
 * kvfile.c
 *	  Small text files of "key=value" lines.
 *
 *-------------------------------------------------------------------------
 */
#include "kvfile.h"

#include "fsutil.h"
#include "output.h"
#include "pqexpbuffer.h"

#define KV_MAX_SIZE		(4 * 1024 * 1024)

static KvEntry *
kv_find(const KvFile *kv, const char *key)
{
	for (int i = 0; i < kv->n; i++)
	{
		if (strcmp(kv->entries[i].key, key) == 0)
			return &kv->entries[i];
	}
	return NULL;
}

static bool
valid_key(const char *key)
{
	size_t		len = strlen(key);

	return len > 0 && len < 128 &&
		strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789_.") == len;
}

void
kv_parse(KvFile *kv, char *data, const char *name)
{
	int			line_number = 0;
	char	   *next;

	memset(kv, 0, sizeof(*kv));
	for (char *line = data; line != NULL; line = next)
	{
		char	   *equals;

		next = strchr(line, '\n');
		if (next != NULL)
			*next++ = '\0';
		line_number++;
		if (*line == '#' || *line == '\0')
			continue;
		equals = strchr(line, '=');
		if (equals != NULL)
			*equals = '\0';
		if (equals == NULL || !valid_key(line) || kv_find(kv, line) != NULL)
			die(EXIT_GENERAL,
				"Each line is key=value, each key there once; restore the file from a copy.",
				"line %d of \"%s\" is not understood", line_number, name);
		kv_set(kv, line, equals + 1);
	}
}

bool
kv_load(KvFile *kv, const char *path)
{
	char	   *data = read_small_file(path, KV_MAX_SIZE, NULL);

	memset(kv, 0, sizeof(*kv));
	if (data == NULL)
	{
		if (path_exists(path))
			die(EXIT_GENERAL, "Restore it from a copy.", "\"%s\" is no file of settings", path);
		return false;
	}
	kv_parse(kv, data, path);
	free(data);
	return true;
}

void
kv_save(const KvFile *kv, const char *path, const char *comment)
{
	PQExpBufferData buf;

	initPQExpBuffer(&buf);
	appendPQExpBuffer(&buf, "# %s\n", comment);
	for (int i = 0; i < kv->n; i++)
		appendPQExpBuffer(&buf, "%s=%s\n", kv->entries[i].key, kv->entries[i].value);
	if (PQExpBufferBroken(&buf))
		die_oom();
	write_file_durably(path, buf.data, buf.len);
	termPQExpBuffer(&buf);
}

const char *
kv_get(const KvFile *kv, const char *key)
{
	KvEntry    *entry = kv_find(kv, key);

	return entry ? entry->value : NULL;
}

const char *
kv_get_default(const KvFile *kv, const char *key, const char *otherwise)
{
	const char *value = kv_get(kv, key);

	return value ? value : otherwise;
}

long
kv_get_int(const KvFile *kv, const char *key, long otherwise)
{
	const char *value = kv_get(kv, key);
	char	   *end;
	long		number;

	if (value == NULL)
		return otherwise;
	errno = 0;
	number = strtol(value, &end, 10);
	if (errno != 0 || *value == '\0' || *end != '\0')
		die(EXIT_GENERAL, "Restore the file from a copy.",
			"\"%s\" is no number (setting \"%s\")", value, key);
	return number;
}

void
kv_set(KvFile *kv, const char *key, const char *value)
{
	KvEntry    *entry = kv_find(kv, key);

	Assert(strpbrk(value, "\n") == NULL);
	if (entry == NULL)
	{
		if (kv->n == kv->max)
		{
			kv->max = kv->max ? kv->max * 2 : 32;
			kv->entries = pg_realloc(kv->entries, kv->max * sizeof(KvEntry));
		}
		entry = &kv->entries[kv->n++];
		entry->key = pg_strdup(key);
	}
	else
		free(entry->value);
	entry->value = pg_strdup(value);
}

void
kv_set_int(KvFile *kv, const char *key, long value)
{
	char		buf[32];

	snprintf(buf, sizeof(buf), "%ld", value);
	kv_set(kv, key, buf);
}

void
kv_unset(KvFile *kv, const char *key)
{
	KvEntry    *entry = kv_find(kv, key);

	if (entry == NULL)
		return;
	free(entry->key);
	free(entry->value);
	*entry = kv->entries[--kv->n];
}

void
kv_free(KvFile *kv)
{
	for (int i = 0; i < kv->n; i++)
	{
		free(kv->entries[i].key);
		free(kv->entries[i].value);
	}
	free(kv->entries);
	memset(kv, 0, sizeof(*kv));
}

/*-------------------------------------------------------------------------
 *
 * cli_layer.c
 *	  neon layer dump: shows a layer file of the pageserver, and verifies it.
 *
 *-------------------------------------------------------------------------
 */
#include "cli.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/rmgr.h"
#include "common/relpath.h"
#include "neon_layercheck.h"
#include "output.h"

#define KEY_TEXT	80

/* What was counted of one object: the keys that differ in the block number only. */
typedef struct Object
{
	uint8		id[NEON_OBJECT_ID_SIZE];
	uint64		keys;
	uint64		versions;
	uint64		images;
	uint64		bytes;
} Object;

typedef struct Dump
{
	const char *path;
	int			fd;
	uint64		size;
	bool		show_keys;
	bool		show_versions;
	bool		key_open;		/* JSON: the object of a key is not closed yet */
	uint64		nkeys;
	uint64		nversions;		/* of the key */
	int			nobjects;
	int			maxobjects;
	Object	   *objects;
} Dump;

/* ---- names ---- */

static uint32
key_u32(const uint8 *p)
{
	return (uint32) p[0] << 24 | (uint32) p[1] << 16 | (uint32) p[2] << 8 | p[3];
}

static const char *
slru_name(uint32 slru)
{
	static const char *const names[] = {"pg_xact", "pg_multixact/offsets", "pg_multixact/members", "pg_commit_ts"};

	return slru < lengthof(names) ? names[slru] : "unknown";
}

/* The object of a key, without its block number. */
static const char *
object_text(const uint8 *key, char *buf)
{
	uint32		spc = key_u32(key + 1);
	uint32		db = key_u32(key + 5);
	uint32		rel = key_u32(key + 9);
	const char *fork = key[13] <= MAX_FORKNUM ? forkNames[key[13]] : "unknown";

	switch (key[0])
	{
		case NEON_KEY_CONTROL:
			return "control";
		case NEON_KEY_DATABASE:
			snprintf(buf, KEY_TEXT, "database %u/%u", spc, db);
			break;
		case NEON_KEY_TABLESPACE:
			snprintf(buf, KEY_TEXT, "tablespace %u", spc);
			break;
		case NEON_KEY_SIZE:
			snprintf(buf, KEY_TEXT, "size %u/%u/%u %s", spc, db, rel, fork);
			break;
		case NEON_KEY_PAGE:
			snprintf(buf, KEY_TEXT, "page %u/%u/%u %s", spc, db, rel, fork);
			break;
		case NEON_KEY_SLRU:
			snprintf(buf, KEY_TEXT, "slru %s", slru_name(spc));
			break;
		case NEON_KEY_SLRU_BOUNDS:
			snprintf(buf, KEY_TEXT, "slru_bounds %s", slru_name(spc));
			break;
		case NEON_KEY_TWOPHASE:
			snprintf(buf, KEY_TEXT, "twophase %u", rel);
			break;
		case NEON_KEY_ORIGIN:
			snprintf(buf, KEY_TEXT, "origin %u", rel);
			break;
		case NEON_KEY_FILE:
			snprintf(buf, KEY_TEXT, "file %08x%08x%02x", db, rel, key[13]);
			break;
		case NEON_KEY_TIME:
			snprintf(buf, KEY_TEXT, "time %u", rel);
			break;
		default:
			snprintf(buf, KEY_TEXT, "kind %02x %u/%u/%u/%u", key[0], spc, db, rel, key[13]);
	}
	return buf;
}

static const char *
key_text(const uint8 *key, char *buf)
{
	char		object[KEY_TEXT];

	snprintf(buf, KEY_TEXT + 16, key[0] == NEON_KEY_FILE ? "%s%08x" : "%s %u",
			 object_text(key, object), layer_key_blk(key));
	return buf;
}

static const char *
kind_name(uint8 kind)
{
	switch ((NeonValueKind) kind)
	{
		case NEON_VALUE_WAL:
			return "wal";
		case NEON_VALUE_IMAGE:
			return "image";
		case NEON_VALUE_SIZE:
			return "size";
		case NEON_VALUE_TOMBSTONE:
			return "tombstone";
		case NEON_VALUE_BLOB:
			return "blob";
	}
	return "unknown";
}

static const char *
rmgr_name(uint8 rmid)
{
#define PG_RMGR(symname,name,redo,desc,identify,startup,cleanup,mask,decode) name,
	static const char *const names[] = {
#include "access/rmgrlist.h"
	};
#undef PG_RMGR

	return rmid < lengthof(names) ? names[rmid] : "unknown";
}

static const char *
lsn_text(XLogRecPtr lsn)
{
	return strf("%X/%X", LSN_FORMAT_ARGS(lsn));
}

/* ---- reading ---- */

static bool
read_file(void *arg, uint64 offset, void *buf, size_t len)
{
	const Dump *dump = arg;

	while (len > 0)
	{
		ssize_t		n = pread(dump->fd, buf, len, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		buf = (char *) buf + n;
		offset += n;
		len -= n;
	}
	return true;
}

/* ---- the head ---- */

static void
print_json(PQExpBuffer buf)
{
	if (PQExpBufferBroken(buf))
		die_oom();
	fputs(buf->data, stdout);
	termPQExpBuffer(buf);
}

static void
json_base(PQExpBuffer buf, bool base)
{
	appendPQExpBuffer(buf, ", \"base\": %s", base ? "true" : "false");
}

static void
json_head(const Dump *dump, const LayerHeader *h, const LayerFooter *f)
{
	PQExpBufferData buf;
	char		hex[NEON_ID_HEXLEN + 1];
	char		key[KEY_TEXT + 16];

	json_begin(&buf);
	json_string(&buf, "file", dump->path);
	json_string(&buf, "type", h->type == LAYER_IMAGE ? "image" : "delta");
	json_number(&buf, "version", h->version);
	json_number(&buf, "file_id", (int64) h->file_id);
	json_number(&buf, "generation", h->generation);
	json_string(&buf, "tenant_id", neon_id_format(&h->tenant, hex));
	json_string(&buf, "timeline_id", neon_id_format(&h->timeline, hex));
	json_string(&buf, "system_identifier", strf(UINT64_FORMAT, h->system_identifier));
	json_string(&buf, "lsn_lo", lsn_text(f->lsn_lo));
	json_string(&buf, "lsn_hi", lsn_text(f->lsn_hi));
	json_string(&buf, "first_key", key_text(f->first_key, key));
	json_string(&buf, "last_key", key_text(f->last_key, key));
	json_number(&buf, "keys", (int64) f->keys);
	json_number(&buf, "versions", (int64) f->versions);
	json_number(&buf, "images", (int64) f->images);
	json_number(&buf, "bytes", (int64) dump->size);
	json_number(&buf, "data_bytes", (int64) (f->directory_offset - LAYER_HEADER));
	json_number(&buf, "raw_bytes", (int64) f->raw_bytes);
	json_number(&buf, "directory_bytes", (int64) f->directory_blocks * LAYER_META_BLOCK);
	if (dump->show_keys)
		appendPQExpBufferStr(&buf, ", \"entries\": [");
	print_json(&buf);
}

static void
say_head(const Dump *dump, const LayerHeader *h, const LayerFooter *f)
{
	uint64		data = f->directory_offset - LAYER_HEADER;
	char		hex[NEON_ID_HEXLEN + 1];
	char		key[KEY_TEXT + 16];

	say("File       %s", dump->path);
	say("Type       %s, format version %u", h->type == LAYER_IMAGE ? "image" : "delta", h->version);
	say("File id    %016llx, generation %u", (unsigned long long) h->file_id, h->generation);
	say("Tenant     %s", neon_id_format(&h->tenant, hex));
	say("Timeline   %s", neon_id_format(&h->timeline, hex));
	say("System     " UINT64_FORMAT, h->system_identifier);
	say("LSNs       %s %s, up to %s", h->type == LAYER_IMAGE ? "from" : "above",
		lsn_text(f->lsn_lo), lsn_text(f->lsn_hi));
	say("First key  %s", key_text(f->first_key, key));
	say("Last key   %s", key_text(f->last_key, key));
	say("Keys       " UINT64_FORMAT, f->keys);
	say("Versions   " UINT64_FORMAT ", of them " UINT64_FORMAT " page images", f->versions, f->images);
	say("Bytes      " UINT64_FORMAT ": data " UINT64_FORMAT " (%.2f of its raw " UINT64_FORMAT "), directory %llu",
		dump->size, data, (double) data / Max(f->raw_bytes, 1), f->raw_bytes,
		(unsigned long long) f->directory_blocks * LAYER_META_BLOCK);
	say("%s", "");
}

static void
show_begin(const LayerHeader *h, const LayerFooter *f, void *arg)
{
	if (output_json)
		json_head(arg, h, f);
	else
		say_head(arg, h, f);
}

/* ---- keys and versions ---- */

static void
end_key(Dump *dump)
{
	if (dump->key_open)
		fputs(dump->show_versions ? "]}" : "}", stdout);
	dump->key_open = false;
}

static Object *
object_of(Dump *dump, const uint8 *key)
{
	Object	   *last = dump->nobjects > 0 ? &dump->objects[dump->nobjects - 1] : NULL;

	if (last != NULL && memcmp(last->id, key, NEON_OBJECT_ID_SIZE) == 0)
		return last;
	if (dump->nobjects == dump->maxobjects)
	{
		dump->maxobjects = Max(64, dump->maxobjects * 2);
		dump->objects = pg_realloc(dump->objects, dump->maxobjects * sizeof(Object));
	}
	last = &dump->objects[dump->nobjects++];
	memset(last, 0, sizeof(*last));
	memcpy(last->id, key, NEON_OBJECT_ID_SIZE);
	return last;
}

static void
show_key(const LayerPlace *place, void *arg)
{
	Dump	   *dump = arg;
	PQExpBufferData buf;
	char		key[KEY_TEXT + 16];

	object_of(dump, place->key)->keys++;
	dump->nkeys++;
	dump->nversions = 0;
	if (!dump->show_keys)
		return;
	if (!output_json)
	{
		say("%s: %s, " UINT64_FORMAT " newer records, block at " UINT64_FORMAT " of %u bytes, %u more",
			key_text(place->key, key), place->base ? "base" : "no base", place->newer,
			place->offset, place->len, place->more);
		return;
	}
	end_key(dump);
	if (dump->nkeys > 1)
		fputs(", ", stdout);
	json_begin(&buf);
	json_string(&buf, "key", key_text(place->key, key));
	json_base(&buf, place->base);
	json_number(&buf, "newer", (int64) place->newer);
	json_number(&buf, "offset", (int64) place->offset);
	json_number(&buf, "length", place->len);
	json_number(&buf, "more_blocks", place->more);
	if (dump->show_versions)
		appendPQExpBufferStr(&buf, ", \"versions\": [");
	print_json(&buf);
	dump->key_open = true;
}

static void
json_version(const LayerEntry *e, const LayerWal *wal)
{
	PQExpBufferData buf;

	json_begin(&buf);
	json_string(&buf, "lsn", lsn_text(e->lsn));
	json_string(&buf, "kind", kind_name(e->kind));
	json_base(&buf, e->base);
	json_number(&buf, "length", e->len);
	if (wal != NULL)
	{
		json_string(&buf, "start", lsn_text(e->start));
		json_string(&buf, "rmgr", rmgr_name(wal->rmid));
		json_number(&buf, "info", wal->info);
		json_number(&buf, "xid", wal->xid);
	}
	appendPQExpBufferChar(&buf, '}');
	print_json(&buf);
}

static void
say_version(const LayerEntry *e, const LayerWal *wal)
{
	const char *base = e->base ? ", base" : "";

	if (wal != NULL)
		say("  %s  %s%s, %u bytes, from %s, %s info %02X xid %u", lsn_text(e->lsn), kind_name(e->kind),
			base, e->len, lsn_text(e->start), rmgr_name(wal->rmid), wal->info, wal->xid);
	else
		say("  %s  %s%s, %u bytes", lsn_text(e->lsn), kind_name(e->kind), base, e->len);
}

static void
show_version(const LayerEntry *e, const uint8 *bytes, void *arg)
{
	Dump	   *dump = arg;
	Object	   *object = object_of(dump, e->key);
	LayerWal	wal;
	bool		is_wal = e->kind == NEON_VALUE_WAL;
	const char *what;

	object->versions++;
	object->bytes += e->len;
	if (e->kind == NEON_VALUE_IMAGE)
		object->images++;
	if (is_wal && (what = layer_wal_decode(bytes, e->len, &wal)) != NULL)
		die(EXIT_GENERAL, "The file was not written by this version of neon_pageserver.",
			"file \"%s\": the record at %s: %s", dump->path, lsn_text(e->start), what);
	if (!dump->show_versions)
		return;
	if (output_json && dump->nversions > 0)
		fputs(", ", stdout);
	dump->nversions++;
	(output_json ? json_version : say_version) (e, is_wal ? &wal : NULL);
}

/* ---- the end ---- */

static void
json_objects(Dump *dump)
{
	char		text[KEY_TEXT];

	end_key(dump);
	fputs(dump->show_keys ? "], \"objects\": [" : ", \"objects\": [", stdout);
	for (int i = 0; i < dump->nobjects; i++)
	{
		const Object *o = &dump->objects[i];
		PQExpBufferData buf;

		if (i > 0)
			fputs(", ", stdout);
		json_begin(&buf);
		json_string(&buf, "object", object_text(o->id, text));
		json_number(&buf, "keys", (int64) o->keys);
		json_number(&buf, "versions", (int64) o->versions);
		json_number(&buf, "images", (int64) o->images);
		json_number(&buf, "value_bytes", (int64) o->bytes);
		appendPQExpBufferChar(&buf, '}');
		print_json(&buf);
	}
	puts("]}");
}

static void
say_objects(const Dump *dump)
{
	static const char *const titles[] = {"OBJECT", "KEYS", "VERSIONS", "IMAGES", "VALUE BYTES"};
	Table	   *table = table_new(lengthof(titles), titles, titles);
	char		text[KEY_TEXT];

	for (int i = 0; i < dump->nobjects; i++)
	{
		const Object *o = &dump->objects[i];

		table_cell(table, object_text(o->id, text));
		table_cell(table, strf(UINT64_FORMAT, o->keys));
		table_cell(table, strf(UINT64_FORMAT, o->versions));
		table_cell(table, strf(UINT64_FORMAT, o->images));
		table_cell(table, strf(UINT64_FORMAT, o->bytes));
	}
	if (dump->show_keys)
		say("%s", "");
	table_print(table);
}

static void
report(const Dump *dump, const LayerProblem *problem)
{
	fflush(stdout);
	if (problem->version != 0)
		die(EXIT_GENERAL, "Use the neon command that belongs to the pageserver that wrote it.",
			"file \"%s\" has format version %u, which this command cannot read", dump->path,
			problem->version);
	die(EXIT_GENERAL, "If it is a layer file of a pageserver, its timeline is damaged: see docs/operations.md.",
		"file \"%s\" is corrupted at offset " UINT64_FORMAT ": %s", dump->path, problem->offset,
		problem->what);
}

int
cmd_layer_dump(Invocation *inv)
{
	Dump		dump = {0};
	LayerSource source = {0};
	LayerVisitor visitor = {0};
	LayerProblem problem;
	struct stat st;

	dump.path = inv->arg[0];
	dump.show_versions = option_given(inv, OPT_VERSIONS);
	dump.show_keys = dump.show_versions || option_given(inv, OPT_KEYS);
	dump.fd = open(dump.path, O_RDONLY, 0);
	if (dump.fd < 0 || fstat(dump.fd, &st) < 0)
		die(EXIT_GENERAL, "Give the path of a file in a timeline's directory layers/.",
			"could not open file \"%s\": %m", dump.path);
	if (!S_ISREG(st.st_mode))
		die(EXIT_GENERAL, "Give the path of a file in a timeline's directory layers/.",
			"\"%s\" is not a file", dump.path);
	dump.size = st.st_size;
	source.read = read_file;
	source.arg = &dump;
	source.size = dump.size;
	visitor.begin = show_begin;
	visitor.key = show_key;
	visitor.version = show_version;
	visitor.arg = &dump;
	if (!layer_check(&source, &visitor, &problem))
		report(&dump, &problem);
	close(dump.fd);
	if (output_json)
		json_objects(&dump);
	else
		say_objects(&dump);
	return EXIT_OK;
}

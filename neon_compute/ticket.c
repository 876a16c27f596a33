/*-------------------------------------------------------------------------
 *
 * ticket.c
 *	  The boot ticket and neon.boot: what this data directory is, and the
 *	  right to start it once.
 *
 * A compute's data directory is valid at exactly one LSN, that of its boot
 * record, and only until the server has been started on it: what happened
 * afterwards is in the storage, which the next boot starts from.  Whoever
 * builds the directory puts a ticket into it; the start takes it away.
 *
 * Both files are text.  neon.boot describes the data, neon.ticket the start;
 * neither is believed without the other, the settings and pg_control.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/xlog.h"
#include "catalog/catversion.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "coordinator.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "neon_bootrec.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "ticket.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/pg_lsn.h"

#define MAX_FILE_SIZE	(64 * 1024)
#define TICKET_HEADER	"neon-boot-ticket 1"
#define START_HINT		"Use \"neon endpoint start\"."

/* The lines "key=value" of a file. */
typedef struct KeyValues
{
	const char *path;
	int			n;
	char	  **keys;
	char	  **values;
} KeyValues;

static void
invalid_file(const char *path, const char *why)
{
	ereport(FATAL,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("file \"%s\" of this data directory is not valid: %s", path, why),
			 errhint(START_HINT)));
}

static void
foreign_ticket(const char *what, const char *ticket, const char *other)
{
	ereport(FATAL,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the boot ticket of this data directory was issued for another start"),
			 errdetail("The ticket says %s \"%s\", this server has \"%s\".", what, ticket, other),
			 errhint(START_HINT)));
}

/* The file's bytes with a zero after them, or NULL if there is no such file. */
static char *
read_small_file(const char *path, size_t *len)
{
	char	   *buf = palloc(MAX_FILE_SIZE + 1);
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	ssize_t		nread;

	if (fd < 0)
	{
		if (errno == ENOENT)
			return NULL;
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	}
	nread = read(fd, buf, MAX_FILE_SIZE + 1);
	if (nread < 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", path)));
	CloseTransientFile(fd);
	if (nread > MAX_FILE_SIZE)
		invalid_file(path, "it is too long");
	buf[nread] = '\0';
	if (strlen(buf) != (size_t) nread)
		invalid_file(path, "it contains a zero byte");
	*len = nread;
	return buf;
}

/* Cuts text, which is modified, into lines of the form key=value. */
static void
parse_key_values(char *text, const char *path, KeyValues *kv)
{
	char	   *line = text;
	int			max = 1;

	for (char *p = text; *p; p++)
		max += (*p == '\n');
	kv->path = path;
	kv->n = 0;
	kv->keys = palloc(sizeof(char *) * max);
	kv->values = palloc(sizeof(char *) * max);
	while (*line != '\0')
	{
		char	   *end = strchr(line, '\n');
		char	   *equals;

		if (end == NULL)
			invalid_file(path, "its last line is incomplete");
		*end = '\0';
		equals = strchr(line, '=');
		if (equals == NULL || equals == line)
			invalid_file(path, "it has a line that is no key=value");
		*equals = '\0';
		kv->keys[kv->n] = line;
		kv->values[kv->n++] = equals + 1;
		line = end + 1;
	}
}

static const char *
get_text(const KeyValues *kv, const char *key)
{
	for (int i = 0; i < kv->n; i++)
		if (strcmp(kv->keys[i], key) == 0)
			return kv->values[i];
	invalid_file(kv->path, psprintf("\"%s\" is missing", key));
	return NULL;				/* not reached */
}

static uint64
get_number(const KeyValues *kv, const char *key, uint64 max)
{
	const char *text = get_text(kv, key);
	char	   *end;
	uint64		value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || value > max)
		invalid_file(kv->path, psprintf("\"%s\" is not a valid number", key));
	return value;
}

static XLogRecPtr
get_lsn(const KeyValues *kv, const char *key)
{
	bool		error = false;
	XLogRecPtr	lsn = pg_lsn_in_internal(get_text(kv, key), &error);

	if (error)
		invalid_file(kv->path, psprintf("\"%s\" is not a valid LSN", key));
	return lsn;
}

static void
get_id(const KeyValues *kv, const char *key, NeonId *id)
{
	if (!neon_id_parse(get_text(kv, key), id))
		invalid_file(kv->path, psprintf("\"%s\" is not a valid id", key));
}

static NeonEndpointKind
get_kind(const KeyValues *kv)
{
	const char *kind = get_text(kv, "kind");

	if (strcmp(kind, "primary") == 0)
		return NEON_PRIMARY;
	if (strcmp(kind, "static") == 0)
		return NEON_STATIC;
	if (strcmp(kind, "ephemeral") != 0)
		invalid_file(kv->path, "\"kind\" is unknown");
	return NEON_EPHEMERAL;
}

/*
 * Checks the checksum in the last line and takes it off; returns what follows
 * the header.
 */
static char *
check_ticket_text(char *text, size_t len)
{
	char	   *crc_line = strstr(text, "\ncrc=");
	char	   *end;
	unsigned long stored;
	pg_crc32c	crc;

	if (strncmp(text, TICKET_HEADER "\n", strlen(TICKET_HEADER) + 1) != 0)
		invalid_file(NEON_TICKET_FILE, "it is of an unknown format");
	if (crc_line == NULL)
		invalid_file(NEON_TICKET_FILE, "it has no checksum");
	crc_line++;
	stored = strtoul(crc_line + 4, &end, 16);
	if (end != crc_line + 4 + 8 || strcmp(end, "\n") != 0)
		invalid_file(NEON_TICKET_FILE, "its last line is no checksum");
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, text, crc_line - text);
	FIN_CRC32C(crc);
	if (crc != stored)
		invalid_file(NEON_TICKET_FILE, "its checksum is wrong");
	*crc_line = '\0';
	return text + strlen(TICKET_HEADER) + 1;
}

static void
read_boot_file(KeyValues *kv)
{
	size_t		len;
	char	   *text = read_small_file(NEON_BOOT_FILE, &len);

	if (text == NULL)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("data directory \"%s\" is not that of a compute", DataDir),
				 errdetail("It has no file \"%s\".", NEON_BOOT_FILE),
				 errhint(START_HINT)));
	parse_key_values(text, NEON_BOOT_FILE, kv);
	if (strcmp(get_text(kv, "format"), "1") != 0)
		invalid_file(NEON_BOOT_FILE, "it is of an unknown format");
}

static void
read_ticket(KeyValues *kv)
{
	size_t		len;
	char	   *text = read_small_file(NEON_TICKET_FILE, &len);

	if (text == NULL)
	{
		bool		used = access(NEON_USED_TICKET_FILE, F_OK) == 0;

		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 used ? errmsg("data directory \"%s\" was already started once", DataDir) :
				 errmsg("data directory \"%s\" has no boot ticket", DataDir),
				 errdetail("A compute never does crash recovery: each start is a new boot from the storage."),
				 errhint(START_HINT)));
	}
	parse_key_values(check_ticket_text(text, len), NEON_TICKET_FILE, kv);
}

/* Takes from neon.boot what the rest of the library wants to know. */
static void
fill_boot(const KeyValues *kv)
{
	NeonBoot   *boot = &neon_boot;

	get_id(kv, "tenant_id", &boot->tenant_id);
	get_id(kv, "timeline_id", &boot->timeline_id);
	boot->kind = get_kind(kv);
	boot->term = get_number(kv, "term", PG_UINT32_MAX);
	boot->boot_lsn = get_lsn(kv, "boot_lsn");
	boot->boot_record_lsn = get_lsn(kv, "boot_record_lsn");
	boot->boot_record_end = get_lsn(kv, "boot_record_end");
	boot->system_identifier = get_number(kv, "system_identifier", PG_UINT64_MAX);
	boot->server_version_num = get_number(kv, "server_version_num", PG_INT32_MAX);

	if (boot->kind == NEON_PRIMARY && boot->term == 0)
		invalid_file(NEON_BOOT_FILE, "a primary has no term");
	if (boot->boot_lsn == InvalidXLogRecPtr ||
		boot->boot_record_lsn < boot->boot_lsn ||
		boot->boot_record_end <= boot->boot_record_lsn)
		invalid_file(NEON_BOOT_FILE, "its LSNs do not fit together");
}

static void
compare_text(const KeyValues *ticket, const char *key, const char *other)
{
	const char *text = get_text(ticket, key);

	if (strcmp(text, other) != 0)
		foreign_ticket(key, text, other);
}

/* The ticket must be for this data and for this server. */
static void
check_ticket(const KeyValues *ticket, const KeyValues *boot)
{
	static const char *const same_keys[] = {"tenant_id", "timeline_id", "kind", "term", "boot_lsn"};
	const char *endpoint = get_text(ticket, "endpoint");

	for (int i = 0; i < lengthof(same_keys); i++)
		compare_text(ticket, same_keys[i], get_text(boot, same_keys[i]));
	compare_text(ticket, "tenant_id", neon_tenant_id_setting);
	compare_text(ticket, "timeline_id", neon_timeline_id_setting);
	compare_text(ticket, "endpoint", neon_endpoint_id_setting);
	if (endpoint[0] == '\0' || strlen(endpoint) >= NEON_ENDPOINT_NAME_MAX)
		invalid_file(NEON_TICKET_FILE, "the endpoint's name is empty or too long");
	strlcpy(neon_boot.endpoint, endpoint, NEON_ENDPOINT_NAME_MAX);
	get_id(ticket, "boot_id", &neon_boot.boot_id);
}

static const char *
format_version(uint32 version_num)
{
	return psprintf("%u.%u", version_num / 10000, version_num % 10000);
}

/* Data of another release, or of a later minor one, is not for this server. */
static void
check_version(const KeyValues *boot)
{
	uint32		catversion = get_number(boot, "catalog_version", PG_UINT32_MAX);
	const char *text = GetConfigOption("server_version_num", false, false);
	uint32		running = strtoul(text, NULL, 10);

	if (neon_boot.server_version_num / 10000 != running / 10000)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the data was written by PostgreSQL %s, this server is %s",
						format_version(neon_boot.server_version_num), format_version(running)),
				 errhint("Install PostgreSQL %u on this machine.",
						 neon_boot.server_version_num / 10000)));
	if (catversion != CATALOG_VERSION_NO)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the data has catalog version %u, this server has %u",
						catversion, (uint32) CATALOG_VERSION_NO),
				 errhint("Install the PostgreSQL that the data was written by on this machine.")));
	if (neon_boot.server_version_num > running)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the data was last written by PostgreSQL %s, this server is the older %s",
						format_version(neon_boot.server_version_num), format_version(running)),
				 errhint("Upgrade the PostgreSQL packages of this machine.")));
}

/* The boot record, of which pg_control has a copy, was made for the ticket's boot. */
static void
check_boot_record(const ControlFileData *control)
{
	NeonId		none = {{0}};
	NeonId		made_for = bootrec_checkpoint_boot_id(&control->checkPointCopy);
	char		ticket[NEON_ID_HEXLEN + 1];
	char		record[NEON_ID_HEXLEN + 1];

	/* only safekeepers ask whose record it is */
	if (bootrec_same_boot(&made_for, &none) || bootrec_same_boot(&made_for, &neon_boot.boot_id))
		return;
	foreign_ticket("boot_id", neon_id_format(&neon_boot.boot_id, ticket),
				   neon_id_format(&made_for, record));
}

/* pg_control must be as it was made for this boot, untouched since. */
static void
check_control_file(const KeyValues *boot)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);
	bool		checksums = get_number(boot, "data_checksums", 1) == 1;

	if (!crc_ok)
		invalid_file("global/pg_control", "its checksum is wrong");
	if (control->system_identifier != neon_boot.system_identifier)
		invalid_file("global/pg_control", "it is of another database system");
	if (control->xlog_seg_size != get_number(boot, "wal_segment_size", PG_UINT32_MAX))
		invalid_file("global/pg_control", "its WAL segment size is not that of the timeline");
	if ((control->data_checksum_version != 0) != checksums)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("data checksums of this data directory are %s, those of its timeline are %s",
						checksums ? "off" : "on", checksums ? "on" : "off"),
				 errdetail("Checksums belong to the timeline's whole history and cannot be switched."),
				 errhint(START_HINT)));
	if (control->state != DB_SHUTDOWNED || control->checkPoint != neon_boot.boot_record_lsn)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("data directory \"%s\" is no longer at its boot record", DataDir),
				 errdetail("A compute never does crash recovery: each start is a new boot from the storage."),
				 errhint(START_HINT)));
	check_boot_record(control);
}

/* Files that would make PostgreSQL recover, or not stay read-only. */
static void
check_signal_files(void)
{
	static const char *const forbidden[] = {"backup_label", "recovery.signal"};
	bool		standby = access("standby.signal", F_OK) == 0;

	for (int i = 0; i < lengthof(forbidden); i++)
		if (access(forbidden[i], F_OK) == 0)
			ereport(FATAL,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("a compute cannot start with file \"%s\" in its data directory",
							forbidden[i]),
					 errdetail("A compute never does crash recovery."),
					 errhint(START_HINT)));
	if (standby != (neon_boot.kind == NEON_STATIC))
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 standby ? errmsg("only a static endpoint starts with file \"standby.signal\"") :
				 errmsg("a static endpoint cannot start without file \"standby.signal\""),
				 errhint(START_HINT)));
}

/* The settings must have room for the transactions prepared at the boot LSN. */
static void
check_prepared(const KeyValues *boot)
{
	int			needed = get_number(boot, "max_prepared_xacts", PG_INT32_MAX);
	int			have = strtol(GetConfigOption("max_prepared_transactions", false, false), NULL, 10);

	if (have < needed)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_prepared_transactions is %d, but the timeline was written with %d",
						have, needed),
				 errhint("Use \"neon endpoint config\" to raise it.")));
}

void
ticket_validate(void)
{
	KeyValues	boot;
	KeyValues	ticket;

	read_boot_file(&boot);
	fill_boot(&boot);
	check_version(&boot);
	read_ticket(&ticket);
	check_ticket(&ticket, &boot);
	check_control_file(&boot);
	check_signal_files();
	check_prepared(&boot);
	neon_boot.valid = true;
}

/*
 * A ticket that came back after a power failure would start a term twice, so
 * it goes durably whatever fsync is set to.
 */
void
ticket_consume(void)
{
	bool		fsync_setting = enableFsync;
	int			rc;

	enableFsync = true;
	rc = durable_rename(NEON_TICKET_FILE, NEON_USED_TICKET_FILE, LOG);
	enableFsync = fsync_setting;
	if (rc != 0)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("could not use the boot ticket of data directory \"%s\"", DataDir),
				 errhint(START_HINT)));
}

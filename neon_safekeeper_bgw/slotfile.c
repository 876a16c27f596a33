/*-------------------------------------------------------------------------
 *
 * slotfile.c
 *	  The file of a replication slot, DIR/slots/NAME.
 *
 * Written whole to a temporary file, synced, renamed.  Layout, little-endian:
 * magic "NSLT", version, tenant, timeline, name padded with zeros to 64 bytes,
 * restart_lsn, invalidated_at, CRC-32C of all before it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "neon_codec.h"
#include "neon_durable.h"
#include "neon_testpoint.h"
#include "replication/slot.h"
#include "slot.h"
#include "storage/fd.h"
#include "utils/builtins.h"

#define SLOT_MAGIC		"NSLT"
#define SLOT_VERSION	1
#define SLOT_FILE_SIZE	(4 + 4 + 2 * NEON_ID_BYTES + NAMEDATALEN + 8 + 8 + 4)
#define TEMPORARY_SUFFIX ".tmp"

static char *
slot_path(const SkTimeline *tl, const char *name, const char *suffix, char *buf)
{
	char		below[NAMEDATALEN + 32];

	snprintf(below, sizeof(below), "slots/%s%s", name, suffix);
	return sk_path(tl, below, buf);
}

static void
encode(StringInfo buf, const SkSlotInfo *slot)
{
	initStringInfo(buf);
	codec_put_bytes(buf, SLOT_MAGIC, 4);
	codec_put_u32(buf, SLOT_VERSION);
	codec_put_bytes(buf, slot->tenant.b, NEON_ID_BYTES);
	codec_put_bytes(buf, slot->timeline.b, NEON_ID_BYTES);
	codec_put_bytes(buf, NameStr(slot->name), NAMEDATALEN);
	codec_put_u64(buf, slot->restart_lsn);
	codec_put_u64(buf, slot->invalidated_at);
	codec_put_u32(buf, codec_crc32c(buf->data, buf->len));
}

/* False unless it is the file of the slot that *slot names. */
static bool
decode(const char *data, int len, SkSlotInfo *slot)
{
	const uint8 *p = (const uint8 *) data;

	if (len != SLOT_FILE_SIZE || memcmp(data, SLOT_MAGIC, 4) != 0 ||
		codec_load_u32(p + 4) != SLOT_VERSION ||
		codec_load_u32(p + len - 4) != codec_crc32c(data, len - 4))
		return false;
	p += 8;
	if (memcmp(p, slot->tenant.b, NEON_ID_BYTES) != 0)
		return false;
	p += NEON_ID_BYTES;
	if (memcmp(p, slot->timeline.b, NEON_ID_BYTES) != 0)
		return false;
	p += NEON_ID_BYTES;
	if (memcmp(p, NameStr(slot->name), NAMEDATALEN) != 0)
		return false;
	p += NAMEDATALEN;
	slot->restart_lsn = codec_load_u64(p);
	slot->invalidated_at = codec_load_u64(p + 8);
	return true;
}

static void
write_synced(const char *path, const char *data, int len)
{
	int			fd = OpenTransientFile(path, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));
	if (!durable_pwrite(fd, data, len, 0))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
	if (NEON_TEST_FAILS("slot-sync") || pg_fsync(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not fsync file \"%s\": %m", path)));
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", path)));
}

/* Durable when it returns; after an error the old or the new one is there. */
void
slotfile_write(const SkTimeline *tl, const SkSlotInfo *slot)
{
	char		path[MAXPGPATH];
	char		temporary[MAXPGPATH];
	char		dir[MAXPGPATH];
	StringInfoData buf;

	slot_path(tl, NameStr(slot->name), "", path);
	slot_path(tl, NameStr(slot->name), TEMPORARY_SUFFIX, temporary);
	sk_path(tl, "slots", dir);
	if (!durable_exists(dir))
		durable_make_dir(dir, true);

	encode(&buf, slot);
	NEON_TEST_POINT("before-slot-write");
	write_synced(temporary, buf.data, buf.len);
	NEON_TEST_POINT("before-slot-rename");
	if (rename(temporary, path) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not rename file \"%s\" to \"%s\": %m", temporary, path)));
	durable_sync_dir(dir);
	NEON_TEST_POINT("after-slot-write");
	pfree(buf.data);
}

void
slotfile_remove(const SkTimeline *tl, const char *name)
{
	char		path[MAXPGPATH];
	char		dir[MAXPGPATH];

	slot_path(tl, name, "", path);
	if (unlink(path) != 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
	sk_path(tl, "slots", dir);
	durable_sync_dir(dir);
}

/* A file that cannot be read makes a slot that holds everything. */
static void
read_slot(const SkTimeline *tl, const char *name, SkSlotInfo *slot)
{
	char		path[MAXPGPATH];
	char		data[SLOT_FILE_SIZE + 1];
	int			len = -1;
	int			fd;

	memset(slot, 0, sizeof(*slot));
	slot->tenant = tl->tenant;
	slot->timeline = tl->timeline;
	namestrcpy(&slot->name, name);
	slot_path(tl, name, "", path);
	fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	if (fd >= 0)
	{
		len = (int) durable_pread(fd, data, sizeof(data), 0);
		CloseTransientFile(fd);
	}
	if (!decode(data, len, slot))
	{
		ereport(LOG,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("replication slot file \"%s\" is damaged", path),
				 errdetail("The slot holds all WAL until its consumer reports its position, or it is dropped.")));
		slot->unreadable = true;
		slot->restart_lsn = slot->invalidated_at = InvalidXLogRecPtr;
	}
	slot->saved_lsn = slot->restart_lsn;
}

static bool
ends_with(const char *s, const char *suffix)
{
	size_t		len = strlen(s);

	return len >= strlen(suffix) && strcmp(s + len - strlen(suffix), suffix) == 0;
}

void
slotfile_foreach(SkTimeline *tl, void (*f) (const SkSlotInfo *slot, void *arg), void *arg)
{
	char		path[MAXPGPATH];
	char		leftover[MAXPGPATH];
	DIR		   *dir;
	struct dirent *entry;
	SkSlotInfo	slot;

	sk_path(tl, "slots", path);
	dir = AllocateDir(path);
	if (dir == NULL && errno == ENOENT)
		return;
	while ((entry = ReadDir(dir, path)) != NULL)
	{
		if (entry->d_name[0] == '.' || strlen(entry->d_name) >= NAMEDATALEN + strlen(TEMPORARY_SUFFIX))
			continue;
		if (ends_with(entry->d_name, TEMPORARY_SUFFIX))
		{
			snprintf(leftover, sizeof(leftover), "%s/%s", path, entry->d_name);
			if (unlink(leftover) != 0)
				ereport(LOG,
						(errcode_for_file_access(),
						 errmsg("could not remove file \"%s\": %m", leftover)));
			continue;
		}
		if (!ReplicationSlotValidateName(entry->d_name, LOG))
			continue;
		read_slot(tl, entry->d_name, &slot);
		f(&slot, arg);
	}
	FreeDir(dir);
}

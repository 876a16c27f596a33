/*-------------------------------------------------------------------------
 *
 * kvfile.h
 *	  Small text files of "key=value" lines: DIR/config, the state of an
 *	  endpoint, neon.boot.
 *
 * Lines that begin with # and empty lines are comments and are not kept when
 * the file is written again.  Values have no line breaks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_KVFILE_H
#define NEON_CTL_KVFILE_H

#include "postgres_fe.h"

typedef struct KvEntry
{
	char	   *key;
	char	   *value;
} KvEntry;

typedef struct KvFile
{
	int			n;
	int			max;
	KvEntry    *entries;
} KvFile;

/* False if the file is not there; dies if it is malformed. */
extern bool kv_load(KvFile *kv, const char *path);

/* As kv_load, of text in memory; name is for messages. */
extern void kv_parse(KvFile *kv, char *data, const char *name);

/* Atomically and durably, mode 0600, under the head comment (no # in it). */
extern void kv_save(const KvFile *kv, const char *path, const char *comment);

extern const char *kv_get(const KvFile *kv, const char *key);	/* NULL if absent */
extern const char *kv_get_default(const KvFile *kv, const char *key, const char *otherwise);
extern long kv_get_int(const KvFile *kv, const char *key, long otherwise);
extern void kv_set(KvFile *kv, const char *key, const char *value);
extern void kv_set_int(KvFile *kv, const char *key, long value);
extern void kv_unset(KvFile *kv, const char *key);
extern void kv_free(KvFile *kv);

#endif							/* NEON_CTL_KVFILE_H */

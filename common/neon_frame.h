/*-------------------------------------------------------------------------
 *
 * neon_frame.h
 *	  Frames of the page service between a compute and the pageserver.
 *
 * After "CALL neon_pageserver.pagestream('TENANT', 'TIMELINE')" in the
 * simple query protocol the connection is in CopyBoth mode.  Each CopyData
 * message of the client is one request, each of the server one answer, in
 * the order of the requests.  Numbers are in network byte order.
 *
 * Request (NEON_REQUEST_SIZE bytes):
 *	  u8 tag 'P' | u8 version | u16 nblocks | u64 request id | u64 lsn |
 *	  u64 not_modified_since | u32 term | u32 spc | u32 db | u32 rel |
 *	  u8 fork | u32 first block
 *
 * Pages answer (NEON_RESPONSE_SIZE + nblocks * 8192 bytes):
 *	  u8 tag 'p' | u8 version | u16 nblocks | u64 request id |
 *	  u64 effective lsn | pages
 *
 * Error answer (NEON_RESPONSE_SIZE + text; nblocks is 0):
 *	  u8 tag 'e' | u8 version | u16 0 | u64 request id | u64 effective lsn |
 *	  u8 class | char sqlstate[5] | message \0 | detail \0 | hint \0
 *
 * lsn NEON_LSN_MAX asks for the newest version; then not_modified_since
 * says up to where the pageserver must have come before it answers.
 * Otherwise lsn equals not_modified_since.  not_modified_since 0 is a
 * protocol error.  Term 0 is that of static and ephemeral endpoints, which
 * are never superseded.  A block beyond the end of the fork is all zeros.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_FRAME_H
#define NEON_FRAME_H

#include "access/xlogdefs.h"
#include "lib/stringinfo.h"
#include "storage/block.h"
#include "storage/relfilenode.h"

#define NEON_FRAME_VERSION		1
#define NEON_LSN_MAX			PG_UINT64_MAX
#define NEON_MAX_BLOCKS_PER_REQUEST 128

#define NEON_TAG_GET_PAGES		'P'
#define NEON_TAG_PAGES			'p'
#define NEON_TAG_ERROR			'e'

#define NEON_REQUEST_SIZE		(1 + 1 + 2 + 8 + 8 + 8 + 4 + 4 + 4 + 4 + 1 + 4)
#define NEON_RESPONSE_SIZE		(1 + 1 + 2 + 8 + 8)

/* What a client should do about an error answer. */
typedef enum NeonErrorClass
{
	NEON_ERROR_FINAL = 'F',		/* report it */
	NEON_ERROR_RETRY = 'R',		/* try again until neon.fetch_timeout */
	NEON_ERROR_SUPERSEDED = 'S',	/* a later term writes this timeline */
} NeonErrorClass;

typedef struct NeonRequest
{
	uint64		reqid;
	XLogRecPtr	lsn;
	XLogRecPtr	not_modified_since;
	uint32		term;
	RelFileNode rnode;
	ForkNumber	fork;
	BlockNumber blkno;
	uint16		nblocks;
} NeonRequest;

typedef struct NeonResponse
{
	uint8		tag;			/* NEON_TAG_PAGES or NEON_TAG_ERROR */
	uint16		nblocks;
	uint64		reqid;
	XLogRecPtr	effective_lsn;
	const char *pages;			/* into the message; nblocks * BLCKSZ */
	/* of an error; the strings point into the message */
	NeonErrorClass error_class;
	char		sqlstate[6];
	const char *message;
	const char *detail;			/* "" if none */
	const char *hint;			/* "" if none */
} NeonResponse;

/* Appends the request to buf (which is not reset). */
extern void neon_frame_put_request(StringInfo buf, const NeonRequest *req);

/* False, with *problem set to a static text, if the bytes are no valid request. */
extern bool neon_frame_get_request(const char *data, int len, NeonRequest *req,
								   const char **problem);

/* Appends the fixed part of a pages answer; the pages follow it. */
extern void neon_frame_put_pages_header(StringInfo buf, uint64 reqid,
										XLogRecPtr effective_lsn, uint16 nblocks);

extern void neon_frame_put_error(StringInfo buf, uint64 reqid,
								 XLogRecPtr effective_lsn, NeonErrorClass error_class,
								 const char *sqlstate, const char *message,
								 const char *detail, const char *hint);

extern bool neon_frame_get_response(const char *data, int len, NeonResponse *resp,
									const char **problem);

#endif							/* NEON_FRAME_H */

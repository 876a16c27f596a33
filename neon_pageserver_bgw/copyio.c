/*-------------------------------------------------------------------------
 *
 * copyio.c
 *	  A client connection taken over by a procedure: COPY BOTH or COPY OUT.
 *
 * Input is read by neon_clientmsg, which never blocks, and waited for in this
 * file only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "copyio.h"
#include "libpq/libpq-be.h"
#include "libpq/libpq.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "neon_clientmsg.h"
#include "neon_clock.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "port/pg_bswap.h"
#include "postmaster/interrupt.h"
#include "service.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/sinval.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

/* A client that says nothing for so long is idle. */
#define IDLE_MS		10000

/* As the server itself writes: libpq has room for such a record as a whole. */
#define TLS_WRITE_MAX	8192

/* Lives as long as the process, which serves one connection. */
static bool output_made = false;
static StringInfoData output;
static CopyIoMode copy_mode;

/* ---- transactions ---- */

static void
fresh_transaction(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
}

static void
refuse_atomic_context(FunctionCallInfo fcinfo, const char *procedure)
{
	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("procedure %s must be called outside a transaction block", procedure)));
	if (whereToSendOutput != DestRemote || MyProcPort == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("procedure %s must be called by a client", procedure)));
}

static void
allocate_buffers(void)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	if (!output_made)
		initStringInfo(&output);
	output_made = true;
	resetStringInfo(&output);
	MemoryContextSwitchTo(old);
	clientmsg_reset();
}

void
copyio_begin(FunctionCallInfo fcinfo, const char *procedure, CopyIoMode mode)
{
	refuse_atomic_context(fcinfo, procedure);
	allocate_buffers();
	copy_mode = mode;

	ForgetPortalSnapshots();
	CommitTransactionCommand();
	fresh_transaction();
	if (get_timeout_active(STATEMENT_TIMEOUT))
		disable_timeout(STATEMENT_TIMEOUT, false);

	/* a client that sends before our answer would be read by the wrong reader */
	if (pq_buffer_has_data())
		ereport(FATAL,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("message sent before procedure %s answered", procedure),
				 errhint("Use the simple query protocol.")));
	pq_flush();
	appendStringInfoCharMacro(&output, (char) mode);
	pq_sendint32(&output, 4 + 1 + 2);
	pq_sendint8(&output, 1);	/* binary */
	pq_sendint16(&output, 0);	/* no columns */
	copyio_flush();
}

void
copyio_end(void)
{
	/* what a client sends before our answer would be lost here */
	if (clientmsg_partial())
		ereport(FATAL,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("message sent after the end of the stream")));
	appendStringInfoCharMacro(&output, 'c');
	pq_sendint32(&output, 4);
	copyio_flush();
}

void
copyio_recover(void)
{
	AbortCurrentTransaction();
	fresh_transaction();
}

/* ---- waiting ---- */

static void
housekeeping(void)
{
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
	InvalidateCatalogSnapshotConditionally();
}

static void
wait_for_socket(int events, long timeout_ms)
{
	clientmsg_wait(events, timeout_ms, events == WL_SOCKET_READABLE ?
				   WAIT_EVENT_CLIENT_READ : WAIT_EVENT_CLIENT_WRITE);
}

/* ---- output ---- */

StringInfo
copyio_out(void)
{
	return &output;
}

int
copyio_start_data(void)
{
	int			place = output.len;

	appendStringInfoCharMacro(&output, 'd');
	pq_sendint32(&output, 0);
	return place;
}

void
copyio_finish_data(int place)
{
	uint32		len = pg_hton32((uint32) (output.len - place - 1));

	memcpy(output.data + place + 1, &len, sizeof(len));
}

/*
 * In the middle of a message: an ERROR would break the protocol, and a FATAL
 * could block for ever in sending its text.
 */
static void
interrupts_while_sending(void)
{
	if (ProcDiePending)
		whereToSendOutput = DestNone;
	HOLD_CANCEL_INTERRUPTS();
	CHECK_FOR_INTERRUPTS();
	RESUME_CANCEL_INTERRUPTS();
}

/*
 * A client that takes nothing keeps what the process holds.  It would not take
 * the text of an error either.
 */
static void
client_is_stalled(int sent)
{
	whereToSendOutput = DestNone;
	ereport(FATAL,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("terminating base backup due to timeout of its client"),
			 errdetail("Of %d bytes it has taken %d in %d ms.", output.len, sent,
					   service_basebackup_timeout),
			 errhint("A base backup holds the history that it reads. See neon_pageserver.basebackup_timeout.")));
}

/* How long to wait for the client, which has the bytes that are to be sent since began. */
static long
patience(TimestampTz began, int sent)
{
	long		left;

	if (copy_mode != COPYIO_OUT || service_basebackup_timeout == 0)
		return -1;
	left = service_basebackup_timeout - TimestampDifferenceMilliseconds(began, neon_clock());
	if (left <= 0)
		client_is_stalled(sent);
	return left;
}

void
copyio_flush(void)
{
	TimestampTz began = neon_clock();
	int			sent = 0;

	while (sent < output.len)
	{
		size_t		len = output.len - sent;
		ssize_t		n;

		/* libpq (15.15, not 15.20) waits for the rest of a larger TLS record that it has read already */
		if (MyProcPort->ssl_in_use)
			len = Min(len, TLS_WRITE_MAX);
		errno = 0;
		MyProcPort->noblock = true;
		n = secure_write(MyProcPort, output.data + sent, len);
		MyProcPort->noblock = false;
		if (n > 0)
		{
			sent += n;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
			clientmsg_client_gone();
		wait_for_socket(WL_SOCKET_WRITEABLE, patience(began, sent));
		interrupts_while_sending();
	}
	resetStringInfo(&output);
}

/* ---- input ---- */

void
copyio_wait(void (*idle) (void))
{
	TimestampTz began = neon_clock();

	for (;;)
	{
		housekeeping();
		if (clientmsg_read())
			return;
		if (idle != NULL && TimestampDifferenceExceeds(began, neon_clock(), IDLE_MS))
		{
			idle();
			idle = NULL;
		}
		wait_for_socket(WL_SOCKET_READABLE, idle ? IDLE_MS + 1 : -1);
	}
}

void
copyio_abandon(void)
{
	const char *body;
	char		type;
	int			len;

	if (!output_made)
		return;
	while (clientmsg_take(&type, &body, &len))
		;
	if (clientmsg_partial())
	{
		FlushErrorState();
		ereport(FATAL,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("the stream was ended in the middle of a message")));
	}
	resetStringInfo(&output);
}

bool
copyio_next(const char **body, int *len, bool *done)
{
	char		type;

	CHECK_FOR_INTERRUPTS();
	while (clientmsg_take(&type, body, len))
	{
		switch (type)
		{
			case 'd':
				return true;
			case 'c':
				*done = true;
				return false;
			case 'H':			/* Flush and Sync mean nothing here */
			case 'S':
				break;
			case 'f':
				ereport(ERROR,
						(errcode(ERRCODE_QUERY_CANCELED),
						 errmsg("client gave up: %.*s",
								(int) strnlen(*body, Min(*len, 256)), *body)));
				break;
			case 'X':
				whereToSendOutput = DestNone;
				proc_exit(0);
				break;
			default:
				ereport(FATAL,
						(errcode(ERRCODE_PROTOCOL_VIOLATION),
						 errmsg("unexpected message type 0x%02X", (unsigned char) type)));
		}
	}
	return false;
}

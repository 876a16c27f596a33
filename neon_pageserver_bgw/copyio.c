/*-------------------------------------------------------------------------
 *
 * copyio.c
 *	  A client connection taken over by a procedure: COPY BOTH or COPY OUT.
 *
 * The stock message reader is deaf to cancels and barriers while it blocks in
 * a procedure, and reads 8 kB at a time; so input is read here with
 * secure_read() that never blocks, and waited for in this file only.  With
 * SSL, decrypted bytes may sit in the library: reading is tried before
 * waiting, always.
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
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "port/pg_bswap.h"
#include "postmaster/interrupt.h"
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

#define INPUT_SIZE		65536
#define MESSAGE_HEADER	5		/* type, length */

/* Buffers live as long as the process, which serves one connection. */
static char *input = NULL;
static int	input_start;
static int	input_end;
static StringInfoData output;

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

	if (input == NULL)
	{
		input = palloc(INPUT_SIZE);
		initStringInfo(&output);
	}
	input_start = input_end = 0;
	resetStringInfo(&output);
	MemoryContextSwitchTo(old);
}

void
copyio_begin(FunctionCallInfo fcinfo, const char *procedure, CopyIoMode mode)
{
	refuse_atomic_context(fcinfo, procedure);
	allocate_buffers();

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
	if (input_start < input_end)
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
wait_for_socket(int events)
{
	WaitEvent	event;

	ModifyWaitEvent(FeBeWaitSet, FeBeWaitSetSocketPos, events, NULL);
	if (WaitEventSetWait(FeBeWaitSet, -1, &event, 1,
						 events == WL_SOCKET_READABLE ? WAIT_EVENT_CLIENT_READ :
						 WAIT_EVENT_CLIENT_WRITE) != 1)
		return;
	if (event.events & WL_POSTMASTER_DEATH)
		proc_exit(1);
	if (event.events & WL_LATCH_SET)
		ResetLatch(MyLatch);
}

static void
client_is_gone(void)
{
	ereport(COMMERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("client closed the connection")));
	whereToSendOutput = DestNone;
	proc_exit(0);
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

void
copyio_flush(void)
{
	int			sent = 0;

	while (sent < output.len)
	{
		ssize_t		n;

		errno = 0;
		MyProcPort->noblock = true;
		n = secure_write(MyProcPort, output.data + sent, output.len - sent);
		MyProcPort->noblock = false;
		if (n > 0)
		{
			sent += n;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
			client_is_gone();
		wait_for_socket(WL_SOCKET_WRITEABLE);
		interrupts_while_sending();
	}
	resetStringInfo(&output);
}

/* ---- input ---- */

/* Makes room at the end; the unread bytes are less than the largest message. */
static void
compact_input(void)
{
	if (input_start == input_end)
		input_start = input_end = 0;
	else if (INPUT_SIZE - input_end < COPYIO_MAX_BODY + MESSAGE_HEADER)
	{
		memmove(input, input + input_start, input_end - input_start);
		input_end -= input_start;
		input_start = 0;
	}
}

/* False if nothing is there to be read now. */
static bool
read_input(void)
{
	ssize_t		n;

	compact_input();
	do
	{
		errno = 0;
		MyProcPort->noblock = true;
		n = secure_read(MyProcPort, input + input_end, INPUT_SIZE - input_end);
		MyProcPort->noblock = false;
	} while (n < 0 && errno == EINTR);
	if (n > 0)
	{
		input_end += n;
		return true;
	}
	if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
		client_is_gone();
	return false;
}

void
copyio_wait(void)
{
	for (;;)
	{
		housekeeping();
		if (read_input())
			return;
		wait_for_socket(WL_SOCKET_READABLE);
	}
}

/* Type and body of the next message, or false if it is not complete. */
static bool
take_message(char *type, const char **body, int *len)
{
	int			have = input_end - input_start;
	uint32		size;

	if (have < MESSAGE_HEADER)
		return false;
	*type = input[input_start];
	memcpy(&size, input + input_start + 1, sizeof(size));
	size = pg_ntoh32(size);
	if (size < 4 || size - 4 > COPYIO_MAX_BODY)
		ereport(FATAL,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("invalid message length %u", size)));
	if (have < (int) size + 1)
		return false;
	*body = input + input_start + MESSAGE_HEADER;
	*len = (int) size - 4;
	input_start += size + 1;
	return true;
}

void
copyio_abandon(void)
{
	const char *body;
	char		type;
	int			len;

	if (input == NULL)
		return;
	while (take_message(&type, &body, &len))
		;
	if (input_start < input_end)
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
	while (take_message(&type, body, len))
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

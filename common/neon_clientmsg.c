/*-------------------------------------------------------------------------
 *
 * neon_clientmsg.c
 *	  Messages of the client of this backend, read without ever blocking.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/libpq-be.h"
#include "libpq/libpq.h"
#include "miscadmin.h"
#include "neon_clientmsg.h"
#include "port/pg_bswap.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"

#define INPUT_SIZE		65536
#define MESSAGE_HEADER	5		/* type, length */

/* Lives as long as the process, which serves one connection. */
static char *input = NULL;
static int	input_start;
static int	input_end;

void
clientmsg_reset(void)
{
	if (input == NULL)
		input = MemoryContextAlloc(TopMemoryContext, INPUT_SIZE);
	input_start = input_end = 0;
}

/* The stock buffer is smaller than ours. */
void
clientmsg_take_over(void)
{
	unsigned char byte;

	clientmsg_reset();
	while (pq_buffer_has_data() && input_end < INPUT_SIZE)
	{
		pq_startmsgread();
		if (pq_getbyte_if_available(&byte) != 1)
			clientmsg_client_gone();
		pq_endmsgread();
		input[input_end++] = (char) byte;
	}
}

void
clientmsg_client_gone(void)
{
	ereport(COMMERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("client closed the connection")));
	whereToSendOutput = DestNone;
	proc_exit(0);
}

void
clientmsg_wait(int events, long timeout_ms, uint32 wait_event)
{
	WaitEvent	event;

	ModifyWaitEvent(FeBeWaitSet, FeBeWaitSetSocketPos, events, NULL);
	if (WaitEventSetWait(FeBeWaitSet, timeout_ms, &event, 1, wait_event) != 1)
		return;
	if (event.events & WL_POSTMASTER_DEATH)
		proc_exit(1);
	if (event.events & WL_LATCH_SET)
		ResetLatch(MyLatch);
}

/* Makes room at the end; the unread bytes are less than the largest message. */
static void
compact_input(void)
{
	if (input_start == input_end)
		input_start = input_end = 0;
	else if (INPUT_SIZE - input_end < CLIENTMSG_MAX_BODY + MESSAGE_HEADER)
	{
		memmove(input, input + input_start, input_end - input_start);
		input_end -= input_start;
		input_start = 0;
	}
}

bool
clientmsg_read(void)
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
		clientmsg_client_gone();
	return false;
}

bool
clientmsg_take(char *type, const char **body, int *len)
{
	int			have = input_end - input_start;
	uint32		size;

	if (have < MESSAGE_HEADER)
		return false;
	*type = input[input_start];
	memcpy(&size, input + input_start + 1, sizeof(size));
	size = pg_ntoh32(size);
	if (size < 4 || size - 4 > CLIENTMSG_MAX_BODY)
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

bool
clientmsg_partial(void)
{
	return input != NULL && input_start < input_end;
}

/* What a command leaves running still has the command's streams. Nobody listens to them any more, but whoever writes
 * there must not be killed for it: what comes is read and dropped, until the last of them ends. */
#include "agent.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { READS_MOST = 4 }; /* of one stream in one turn: the conversation comes first */

static int streams[DRAINED_MOST];
static size_t count;

static void forget_at(size_t i)
{
    close(streams[i]);
    memmove(streams + i, streams + i + 1, (--count - i) * sizeof *streams);
}

/* Where there are too many, the oldest goes. */
void drain_add(int stream)
{
    if (count == DRAINED_MOST)
        forget_at(0);
    streams[count++] = stream;
}

nfds_t drain_collect(struct pollfd *polled)
{
    for (size_t i = 0; i < count; i++)
        polled[i] = (struct pollfd){.fd = streams[i], .events = POLLIN};
    return count;
}

void drain_all(void)
{
    static char bytes[CHUNK];
    for (size_t i = count; i-- > 0;) {
        ssize_t got = 1;
        for (int reads = 0; reads < READS_MOST && got > 0; reads++)
            got = read(streams[i], bytes, sizeof bytes);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            forget_at(i);
    }
}

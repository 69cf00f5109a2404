/* The command that a micro guest exists for. What it says and how it ends goes into the journal, a port of its own that
 * the host keeps as a file: complete whether or not anybody listens, and out of the workload's own reach. */
#include "agent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RECORD_HEADER = 16 }; /* u8 kind, 3 bytes 0, u32 length, i64 microseconds of the guest's clock */

static int journal = -1;

static void record(enum record kind, const void *data, size_t size)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t at = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
    uint8_t header[RECORD_HEADER] = {(uint8_t)kind};
    for (int i = 0; i < 4; i++)
        header[4 + i] = (uint8_t)(size >> (8 * i));
    for (int i = 0; i < 8; i++)
        header[8 + i] = (uint8_t)(at >> (8 * i));
    struct buffer out = {0};
    wire_delimit(&out);
    wire_stuff(&out, header, sizeof header);
    wire_stuff(&out, data, size);
    wire_delimit(&out);
    for (size_t sent = 0; sent < out.size && journal >= 0;) {
        ssize_t taken = write(journal, out.data + sent, out.size - sent);
        if (taken <= 0 && errno != EINTR)
            break;
        sent += taken > 0 ? (size_t)taken : 0;
    }
    buffer_free(&out);
}

void workload_journal(int opened)
{
    journal = opened;
}

void workload_start(void)
{
    const char *error = "";
    if (!pairs_find(config, "arg", NULL))
        return;
    record(RECORD_START, NULL, 0);
    struct process *process = process_start(0, config, NULL, &error);
    if (!process) {
        record(RECORD_STDERR, error, strlen(error));
        return;
    }
    process->input_ended = true;
    process->deadline = 0;
    process_feed(process); /* there is none: that is the end of its input */
    process->next = processes;
    processes = process;
}

void workload_said(int stream, const void *data, size_t size)
{
    record(stream == OUT ? RECORD_STDOUT : RECORD_STDERR, data, size);
}

void workload_ended(struct process *process)
{
    int32_t how[2] = {-1, 0};
    if (WIFSIGNALED(process->status))
        how[1] = WTERMSIG(process->status);
    else
        how[0] = WEXITSTATUS(process->status);
    record(RECORD_EXIT, how, sizeof how);
    power('p');
}

/* The conversation with the host: one loop, one port, any number of channels.
 *
 * A HELLO of the host begins everything anew: what an earlier host had under way is ended, and from our answer on
 * nothing of it is said any more. Streams have credit each, so a slow reader holds up its own command only. */
#include "agent.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROCESSES_MOST = 256, BACKLOG_MOST = 512 * 1024, RESULT_MOST = 64 * 1024, AWAY_MS = 50, GONE_MS = 1000 };

struct process *processes;
static int port;
static bool greeted, announced;
static struct buffer outgoing;
static struct decoder decoder;

static const struct verb {
    const char *name;
    quick_function *at_once;
    verb_function *run; /* NULL: a command */
    bool links;         /* or rather a connection */
    void (*finish)(struct process *process);
} verbs[] = {
    {.name = "exec"},
    {.name = "dial", .links = true},
    {.name = "connect", .links = true},
    {"read", .run = verb_read},
    {"write", .run = verb_write},
    {"stat", .run = verb_stat},
    {"list", .run = verb_list},
    {"change", .run = verb_change},
    {"real", .run = verb_real},
    {"mount", .run = verb_mount},
    {"umount", .run = verb_umount},
    {"sync", .run = verb_sync},
    {"tar", .run = verb_tar},
    {"untar", .run = verb_untar},
    {"grow", .run = verb_grow},
    {"network", .run = verb_network},
    {"clock", .at_once = clock_at_once},
    {"identity", .at_once = identity_at_once, .run = verb_identity},
    {"configure", .at_once = configure_at_once, .run = verb_configure, .finish = configure_finish},
};

static void say(enum kind kind, int fd, uint32_t channel, const void *payload, size_t length)
{
    if (greeted)
        wire_frame(&outgoing, kind, fd, channel, payload, length);
}

static void say_number(enum kind kind, int fd, uint32_t channel, uint32_t number)
{
    uint8_t payload[4] = {(uint8_t)number, (uint8_t)(number >> 8), (uint8_t)(number >> 16), (uint8_t)(number >> 24)};
    say(kind, fd, channel, payload, sizeof payload);
}

static uint32_t number_of(const struct frame *frame, uint32_t at, int bytes)
{
    uint32_t number = 0;
    for (int i = 0; i < bytes && at + (uint32_t)i < frame->length; i++)
        number |= (uint32_t)frame->payload[at + (uint32_t)i] << (8 * i);
    return number;
}

static void refuse(uint32_t channel, const char *error, const char *text)
{
    struct buffer result = {0};
    pairs_add(&result, "error", error);
    pairs_add(&result, "text", text);
    say(RESULT, 0, channel, result.data, result.size);
    buffer_free(&result);
}

static struct process *find(uint32_t channel)
{
    for (struct process *process = processes; process; process = process->next)
        if (process->channel == channel)
            return process;
    return NULL;
}

static void forget(struct process *process)
{
    struct process **at = &processes;
    while (*at != process)
        at = &(*at)->next;
    *at = process->next;
    process_free(process);
}

static void flush(void)
{
    while (outgoing.size) {
        ssize_t sent = write(port, outgoing.data, outgoing.size < CHUNK ? outgoing.size : CHUNK);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return;
        buffer_drop(&outgoing, (size_t)sent);
    }
}

/* An empty nonce: who talks to us without our having greeted it has to begin anew. That is a host that talked to an
 * agent before us (the guest was reset under it), or one that was taken for gone. Said once until it begins. */
static void announce(void)
{
    static const uint8_t nobody[21] = {PROTOCOL};
    if (announced)
        return;
    announced = true;
    wire_delimit(&outgoing);
    wire_frame(&outgoing, HELLO, 0, 0, nobody, sizeof nobody);
}

/* -- what the host says ------------------------------------------------------------------------------------ */

/* Everything but the workload ends. A killed child without a channel is reaped like any stranger. */
static void end_all(void)
{
    for (struct process *process = processes, *next; process; process = next) {
        next = process->next;
        if (process->channel) {
            process_kill(process);
            forget(process);
        }
    }
    outgoing.size = 0;
    greeted = false;
    announced = false;
}

static void greet(const struct frame *frame)
{
    end_all();
    if (frame->length != 20 || number_of(frame, 0, 4) != PROTOCOL)
        return; /* an unknown protocol gets no answer, which its host can tell from ours */
    uint8_t answer[21];
    memcpy(answer, frame->payload, 20);
    answer[20] = 1;
    greeted = true;
    wire_delimit(&outgoing);
    say(HELLO, 0, 0, answer, sizeof answer);
    say(READY, 0, 0, NULL, 0);
}

/* Whether the answer has been given without a child. */
static bool answer_at_once(uint32_t channel, const struct verb *verb, struct pairs request)
{
    struct buffer result = {0};
    bool is_all = verb->at_once && verb->at_once(request, &result);
    if (is_all)
        say(RESULT, 0, channel, result.data, result.size);
    buffer_free(&result);
    return is_all;
}

static void launch(uint32_t channel, const struct verb *verb, struct pairs request)
{
    const char *error = "too many commands at once";
    size_t count = 0;
    for (struct process *process = processes; process; process = process->next)
        count++;
    struct process *process = NULL;
    if (count < PROCESSES_MOST)
        process = verb->links ? dial_start(channel, request, &error)
                              : process_start(channel, request, verb->run, &error);
    if (!process) {
        refuse(channel, "unavailable", error);
        return;
    }
    process->finish = verb->finish;
    if (process->finish)
        buffer_add(&process->request, request.at, (size_t)(request.end - request.at));
    process->next = processes;
    processes = process;
}

static void begin(const struct frame *frame)
{
    struct pairs request;
    if (!frame->channel || find(frame->channel) || !pairs_start(&request, frame->payload, frame->length)) {
        refuse(frame->channel, "invalid", "the request is malformed");
        return;
    }
    const char *name = pairs_find(request, "verb", "");
    if (!strcmp(name, "shutdown")) {
        say(RESULT, 0, frame->channel, NULL, 0);
        flush(); /* what follows may not come back */
        ask_shutdown();
        return;
    }
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (!strcmp(name, verbs[i].name)) {
            if (!answer_at_once(frame->channel, &verbs[i], request))
                launch(frame->channel, &verbs[i], request);
            return;
        }
    refuse(frame->channel, "unsupported", "the agent does not know this verb");
}

static void feed(struct process *process, const struct frame *frame)
{
    if (frame->fd != IN || process->input_ended)
        return;
    if (process->exited || process->fd[IN] < 0) {
        say_number(CREDIT, IN, process->channel, frame->length); /* nobody will read it: let the host get on */
        return;
    }
    buffer_add(&process->input, frame->payload, frame->length);
}

static void take(void *context, const struct frame *frame)
{
    (void)context;
    if (frame->kind == HELLO) {
        greet(frame);
        return;
    }
    if (!greeted) {
        announce();
        return;
    }
    if (frame->kind == PING)
        say(PONG, 0, 0, frame->payload, frame->length);
    if (frame->kind == OPEN)
        begin(frame);
    struct process *process = frame->channel ? find(frame->channel) : NULL;
    if (!process)
        return;
    switch (frame->kind) {
    case DATA:
        feed(process, frame);
        break;
    case END:
        process->input_ended = true;
        break;
    case CREDIT:
        if (frame->fd == OUT || frame->fd == ERR)
            process->window[frame->fd] += number_of(frame, 0, 4);
        break;
    case SIGNAL:
        process_signal(process, (int)number_of(frame, 0, 4));
        break;
    case RESIZE:
        process_resize(process, number_of(frame, 0, 2), number_of(frame, 2, 2));
        break;
    case CLOSE:
        process_kill(process);
        forget(process);
        break;
    default:
        break;
    }
}

/* -- what children say ------------------------------------------------------------------------------------- */

/* Whether more of a stream is wanted now. The workload's goes to the journal, whatever the host does. */
static bool is_wanted(const struct process *process, int stream)
{
    bool has_room = !process->channel || outgoing.size < BACKLOG_MOST;
    return process->fd[stream] >= 0 && process->window[stream] > 0 && has_room;
}

/* What a stream has, as far as its credit goes. At its end it is closed. */
static void listen_to(struct process *process, int stream)
{
    uint8_t bytes[CHUNK];
    while (is_wanted(process, stream)) {
        size_t most = process->window[stream] < CHUNK ? (size_t)process->window[stream] : CHUNK;
        ssize_t got = read(process->fd[stream], bytes, most);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN && !process->exited)
            return;
        if (got < 0 && process->is_link) { /* nothing listens, or it broke off */
            pairs_add(&process->result, "error", "unavailable");
            pairs_add(&process->result, "text", strerror(errno));
        }
        if (got <= 0) { /* the end; or the command has exited and left nothing, whoever else holds the stream */
            if (got < 0 && errno == EAGAIN && process->channel && !process->is_verb && !process->tty)
                drain_add(process->fd[stream]);
            else
                close(process->fd[stream]);
            process->fd[stream] = -1;
            return;
        }
        if (!process->channel) {
            workload_said(stream, bytes, (size_t)got);
        } else if (process->is_verb && stream == ERR) {
            if (process->result.size + (size_t)got <= RESULT_MOST)
                buffer_add(&process->result, bytes, (size_t)got);
        } else {
            process->window[stream] -= got;
            say(DATA, stream, process->channel, bytes, (size_t)got);
        }
    }
}

static void conclude(struct process *process)
{
    struct buffer result = {0};
    char number[24];
    if (process->finish && !process->status && !process->result.size)
        process->finish(process);
    if (process->is_verb && process->result.size) {
        say(RESULT, 0, process->channel, process->result.data, process->result.size);
        return;
    }
    if (process->timed_out) {
        pairs_add(&result, "timed_out", "1");
    } else if (WIFSIGNALED(process->status)) {
        snprintf(number, sizeof number, "%d", WTERMSIG(process->status));
        pairs_add(&result, process->is_verb ? "error" : "signal", process->is_verb ? "internal" : number);
    } else if (!process->is_verb) {
        snprintf(number, sizeof number, "%d", WEXITSTATUS(process->status));
        pairs_add(&result, "code", number);
    }
    if (!process->is_verb) {
        snprintf(number, sizeof number, "%" PRId64, process->cpu_us);
        pairs_add(&result, "cpu_us", number);
    }
    say(RESULT, 0, process->channel, result.data, result.size);
    buffer_free(&result);
}

static void reap(void)
{
    int status;
    struct rusage usage;
    for (pid_t pid; (pid = wait4(-1, &status, WNOHANG, &usage)) > 0;)
        for (struct process *process = processes; process; process = process->next)
            if (process->pid == pid)
                process_reaped(process, status, &usage);
}

/* Move everything on as far as it goes; the time in milliseconds until something has to be looked at again. */
static int64_t move_on(void)
{
    int64_t soonest = -1, now = now_ms();
    for (struct process *process = processes, *next; process; process = next) {
        next = process->next;
        size_t waiting = process->input.size;
        process_feed(process);
        if (process->channel && waiting > process->input.size)
            say_number(CREDIT, IN, process->channel, (uint32_t)(waiting - process->input.size));
        listen_to(process, OUT);
        listen_to(process, ERR);
        if ((process->exited || process->is_link) && process->fd[OUT] < 0 && process->fd[ERR] < 0) {
            if (process->channel)
                conclude(process);
            else
                workload_ended(process);
            forget(process);
            continue;
        }
        if (process->deadline && now >= process->deadline && !process->exited) {
            process->timed_out = true;
            process->deadline = 0;
            process_kill(process);
        }
        if (process->deadline && !process->exited && (soonest < 0 || process->deadline - now < soonest))
            soonest = process->deadline - now;
    }
    return soonest;
}

/* -- the loop ---------------------------------------------------------------------------------------------- */

static void hear(void)
{
    uint8_t bytes[CHUNK];
    ssize_t got = read(port, bytes, sizeof bytes);
    if (got > 0)
        wire_feed(&decoder, bytes, (size_t)got, take, NULL);
}

/* Signals to PID 1 are how a guest's own halt, reboot and poweroff ask for it. */
static void heed(int signals)
{
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof info) == sizeof info)
        if (is_init && info.ssi_signo == SIGTERM)
            power('r');
        else if (is_init && info.ssi_signo != SIGCHLD)
            power('p');
    reap();
}

static nfds_t collect(struct pollfd *polled, int signals, int seen, bool away)
{
    nfds_t count = 0;
    polled[count++] = (struct pollfd){.fd = seen, .events = POLLIN};
    polled[count++] = (struct pollfd){.fd = signals, .events = POLLIN};
    if (!away)
        polled[count++] = (struct pollfd){.fd = port, .events = (short)(POLLIN | (outgoing.size ? POLLOUT : 0))};
    for (struct process *process = processes; process; process = process->next) {
        if (process->fd[IN] >= 0 && process->input.size)
            polled[count++] = (struct pollfd){.fd = process->fd[IN], .events = POLLOUT};
        for (int stream = OUT; stream <= ERR; stream++)
            if (is_wanted(process, stream))
                polled[count++] = (struct pollfd){.fd = process->fd[stream], .events = POLLIN};
    }
    return count + drain_collect(polled + count);
}

noreturn void session_run(int opened, int signals)
{
    static struct pollfd polled[3 + 3 * (PROCESSES_MOST + 1) + DRAINED_MOST];
    bool away = false; /* no host: the port would wake us for ever to say so */
    int64_t left = 0;  /* since when */
    bool ended = false; /* what it had under way is */
    int seen = handshake_open();
    port = opened;
    announce();
    for (;;) {
        int64_t wait = move_on();
        if (!away)
            flush();
        configure_begin();
        if (away && (wait < 0 || wait > AWAY_MS))
            wait = AWAY_MS;
        nfds_t count = collect(polled, signals, seen, away);
        int ready = poll(polled, count, (int)wait);
        if (ready < 0 && errno != EINTR)
            abort();
        if (ready > 0 && polled->revents)
            handshake_complete(seen);
        heed(signals);
        drain_all();
        struct pollfd look = {.fd = port, .events = POLLIN};
        bool gone = poll(&look, 1, 0) > 0 && look.revents & (POLLHUP | POLLERR);
        /* One host's leaving may be told after the next one's first words: only who stays away is gone, and whoever
         * is there after that is told that nothing of theirs is known. */
        if (gone && !away)
            left = now_ms();
        if (gone && !ended && now_ms() - left > GONE_MS) {
            end_all();
            ended = true;
        }
        away = gone;
        if (!away) {
            if (ended)
                announce();
            ended = false;
            hear();
        }
    }
}

/* The guest agent: PID 1 of micro guests, a service in full ones. One static program, no threads.
 *
 *   wire.c      frames on a byte stream that may be cut anywhere      (pure)
 *   session.c   the conversation with the host over one port
 *   process.c   children: commands, and verbs that run as children
 *   verbs.c     files, mounts, network
 *   tar.c       archives in and out
 *   workload.c  the command a micro guest exists for, and its journal
 *   boot.c      from an empty initial RAM disk to the guest's own root
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdnoreturn.h>
#include <sys/types.h>

/* -- wire.c ------------------------------------------------------------------------------------------------ */

enum { PROTOCOL = 1 };

enum kind {
    HELLO = 1, /* both ways; the host's resets everything: u32 version, 16 bytes nonce. Ours, with a byte more, answers
                  with the same nonce; with none (zeros) it says that an agent has just begun. */
    READY,     /* guest to host: the guest is up */
    PING,      /* answered by PONG with the same payload */
    PONG,
    OPEN,   /* host to guest: begin what the pairs say, on a new channel */
    DATA,   /* bytes of stream `fd` */
    END,    /* end of stream `fd` */
    CREDIT, /* u32: that many more bytes of stream `fd` may be sent */
    RESULT, /* guest to host: pairs; the channel is over */
    SIGNAL, /* u32 */
    RESIZE, /* u16 columns, u16 rows */
    CLOSE,  /* host to guest: done with the channel, end what runs */
};

enum {
    FRAME_HEADER = 12,          /* u8 kind, u8 fd, u16 0, u32 channel, u32 length of the payload; little-endian */
    FRAME_MOST = 1024 * 1024,   /* bytes of a payload */
    CHUNK = 32 * 1024,          /* bytes of a DATA payload that we send */
    WINDOW = 256 * 1024,        /* bytes of a stream that may be under way before the first CREDIT */
};

struct buffer {
    uint8_t *data;
    size_t size, capacity;
};

struct frame {
    uint8_t kind, fd;
    uint32_t channel, length;
    const uint8_t *payload;
};

struct decoder {
    struct buffer raw;
    bool escaped, broken;
};

struct pairs {
    const char *at, *end;
};

void buffer_add(struct buffer *buffer, const void *data, size_t size);
void buffer_drop(struct buffer *buffer, size_t size);
void buffer_free(struct buffer *buffer);

void wire_stuff(struct buffer *out, const void *data, size_t size); /* escaped, without delimiters */
void wire_delimit(struct buffer *out);
void wire_frame(struct buffer *out, enum kind kind, int fd, uint32_t channel, const void *payload, size_t length);
void wire_feed(struct decoder *decoder, const uint8_t *data, size_t size,
               void (*take)(void *context, const struct frame *frame), void *context);

bool pairs_start(struct pairs *pairs, const void *data, size_t size); /* false: not a list of pairs */
bool pairs_next(struct pairs *pairs, const char **key, const char **value);
const char *pairs_find(struct pairs pairs, const char *key, const char *otherwise);
void pairs_add(struct buffer *out, const char *key, const char *value);

/* -- process.c --------------------------------------------------------------------------------------------- */

enum { IN, OUT, ERR };

struct process {
    uint32_t channel; /* 0: the workload */
    pid_t pid;
    int fd[3];         /* our ends; -1 when closed. A verb's ERR carries its result. */
    int64_t window[3]; /* bytes that may still be sent */
    struct buffer input, result;
    int64_t deadline; /* milliseconds of the monotonic clock; 0: none */
    int status;
    bool exited, input_ended, is_verb, tty, timed_out;
    struct process *next;
};

typedef int verb_function(struct pairs request);

int64_t now_ms(void);
/* Start what `request` says; NULL with a word for why in *error. `verb` NULL: a command. */
struct process *process_start(uint32_t channel, struct pairs request, verb_function *verb, const char **error);
void process_signal(struct process *process, int number);
void process_resize(struct process *process, unsigned columns, unsigned rows);
void process_feed(struct process *process); /* as much of the waiting input as its pipe takes */
void process_kill(struct process *process);
void process_free(struct process *process);
void process_reaped(struct process *process, int status);

/* -- verbs.c, tar.c: run in a child with streams 0 and 1 and a result on 3; their value is the exit code ------- */

verb_function verb_read, verb_write, verb_stat, verb_mount, verb_umount, verb_grow, verb_network, verb_tar, verb_untar;
int fail(const char *error, const char *format, ...) __attribute__((format(printf, 2, 3)));
int fail_errno(const char *path);
bool make_directories(const char *path);
int mount_disk(const char *serial, const char *path, bool read_only, int patience_ms);
bool find_disk(const char *serial, char *device, size_t size, int patience_ms);
int set_network(struct pairs settings);

/* -- workload.c -------------------------------------------------------------------------------------------- */

enum record { RECORD_START, RECORD_STDOUT, RECORD_STDERR, RECORD_EXIT };

void workload_start(int journal);
void workload_said(int stream, const void *data, size_t size);
void workload_ended(struct process *process);

/* -- session.c --------------------------------------------------------------------------------------------- */

extern struct process *processes;

noreturn void session_run(int port, int signals);

/* -- boot.c ------------------------------------------------------------------------------------------------ */

extern struct pairs config; /* what the host says of a micro guest; empty in a service */
extern bool is_init;

int open_port(const char *name, int patience_ms);
void ask_shutdown(void); /* as the power button: the workload first, then the machine */
noreturn void power(int how);

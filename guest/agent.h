/* The guest agent: PID 1 of micro guests, a service in full ones. One static program, no threads.
 *
 *   wire.c      frames on a byte stream that may be cut anywhere      (pure)
 *   session.c   the conversation with the host over one port
 *   process.c   children: commands, and verbs that run as children
 *   dial.c      connections to what listens in the guest
 *   drain.c     streams that outlive their command
 *   verbs.c     files, mounts
 *   files.c     names: what a folder holds, and changes to one name
 *   overlay.c   what a guest writes above a volume that it only reads
 *   network.c   link, address, names
 *   identity.c  the clock, and who a copied guest is from now on
 *   configure.c what a copied guest is for, as if it had been booted for it
 *   handshake.c what the way out leaves open of inbound connections
 *   tar.c       archives in and out
 *   workload.c  the command a micro guest exists for, and its journal
 *   boot.c      from an empty initial RAM disk to the guest's own root
 */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdnoreturn.h>
#include <sys/resource.h>
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
    int64_t cpu_us; /* that it has used, with the children that it waited for */
    bool exited, input_ended, is_verb, tty, timed_out;
    bool is_link;                            /* a connection and no child: both its streams are one socket */
    struct buffer request;                   /* for `finish` alone */
    void (*finish)(struct process *process); /* a verb's last part, done in the agent once its child ended well */
    struct process *next;
};

typedef int verb_function(struct pairs request);

int64_t now_ms(void);
/* Start what `request` says; NULL with a word for why in *error. `verb` NULL: a command. */
struct process *process_start(uint32_t channel, struct pairs request, verb_function *verb, const char **error);
/* A connection to the TCP port or the unix socket that `request` names; NULL as above. */
struct process *dial_start(uint32_t channel, struct pairs request, const char **error);
void process_signal(struct process *process, int number);
void process_resize(struct process *process, unsigned columns, unsigned rows);
void process_feed(struct process *process); /* as much of the waiting input as its pipe takes */
void process_kill(struct process *process);
void process_free(struct process *process);
void process_reaped(struct process *process, int status, const struct rusage *usage);

/* -- drain.c ----------------------------------------------------------------------------------------------- */

enum { DRAINED_MOST = 64 };

void drain_add(int stream);
nfds_t drain_collect(struct pollfd *polled); /* DRAINED_MOST at most */
void drain_all(void);

/* -- files.c: as verbs.c ------------------------------------------------------------------------------------ */

verb_function verb_list, verb_change, verb_real;

/* -- verbs.c, tar.c: run in a child with streams 0 and 1 and a result on 3; their value is the exit code ------- */

verb_function verb_read, verb_write, verb_stat, verb_mount, verb_umount, verb_sync, verb_grow, verb_network, verb_tar;
verb_function verb_untar;
int fail(const char *error, const char *format, ...) __attribute__((format(printf, 2, 3)));
int fail_errno(const char *path);
bool make_directories(const char *path);
int mount_disk(const char *serial, const char *path, bool read_only, int patience_ms);
int mount_above(const char *device, const char *serial, const char *path, int overlay); /* overlay.c */
void grow_disk(const char *device, const char *path);
bool is_volume(const char *text); /* `serial ro /path` or `serial rw /path` */
const char *mount_volumes(struct pairs settings, int patience_ms); /* NULL, or the first path that failed */
bool find_disk(const char *serial, char *device, size_t size, int patience_ms);

/* -- network.c --------------------------------------------------------------------------------------------- */

enum { MAC_SIZE = 6, LINK_PATIENCE_MS = 10000 };

bool write_text(const char *path, const char *text);
bool parse_mac(const char *text, uint8_t mac[MAC_SIZE]);
int set_network(struct pairs settings); /* at boot: everything anew */
int set_names(struct pairs settings);   /* of that, the files: the guest's name, and whom it asks for others */
int rename_host(const char *hostname, const char *address);
bool find_link(const char *mac, char *name, size_t size, int patience_ms);
/* Another place for a link in use; what `settings` leaves out stays. Not 0: *field names what failed, errno says why. */
int move_link(const char *name, struct pairs settings, const char **field);

/* -- handshake.c ------------------------------------------------------------------------------------------- */

int handshake_open(void); /* what to poll for reading; -1: this kernel does without */
void handshake_complete(int seen);

/* -- identity.c -------------------------------------------------------------------------------------------- */

/* What is done in the agent itself and at once, without a child: a fork is dear in a guest whose code has yet to be
 * translated anew. True: that was all, and `result` is the answer; false: a child is to do the rest. */
typedef bool quick_function(struct pairs request, struct buffer *result);

quick_function clock_at_once, identity_at_once;
verb_function verb_identity;
int set_machine_id(const char *id);
const char *find_malformed(struct pairs request); /* the first field of an identity that is; NULL: none */
/* An answer that tells of a failure of `field`, NULL: of none; it is the whole one. Always true. */
bool complain(struct buffer *result, const char *error, const char *field, const char *text);
bool complain_errno(struct buffer *result, const char *field);

/* -- configure.c ------------------------------------------------------------------------------------------- */

quick_function configure_at_once;
verb_function verb_configure;
void configure_finish(struct process *process);
void configure_begin(void); /* the workload, if there is a new one; called when the answer is on its way */

/* -- workload.c -------------------------------------------------------------------------------------------- */

enum record { RECORD_START, RECORD_STDOUT, RECORD_STDERR, RECORD_EXIT };

void workload_journal(int opened);
void workload_start(void); /* if `config` has one */
void workload_said(int stream, const void *data, size_t size);
void workload_ended(struct process *process);

/* -- session.c --------------------------------------------------------------------------------------------- */

extern struct process *processes;

noreturn void session_run(int port, int signals);

/* -- boot.c ------------------------------------------------------------------------------------------------ */

extern struct pairs config; /* what the host says of a micro guest; empty in a service */
extern bool is_init;

void replace_config(struct pairs settings); /* of a frame at most */
void grow_data(void);
int data_path(char *path, size_t size, const char *name); /* of a file on the data disk; -1: there is none */
void say_up(void);
int open_port(const char *name, int patience_ms);
bool read_line(const char *path, char *text, size_t size); /* the first of a file */
void ask_shutdown(void); /* as the power button: the workload first, then the machine */
noreturn void power(int how);

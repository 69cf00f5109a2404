/* Children. A command and a verb of ours are the same thing here: a process with a stream in and streams out, so that
 * a slow disk, a full pipe or a hung file system stops that one child and never the conversation. */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { CLOSE_RANGE = 436, FIRST_FREE_FD = 10, CANNOT_RUN = 126, NO_SUCH_COMMAND = 127 };

int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* A pipe above the numbers that children give their streams. `ours` 0: we read, 1: we write. */
static bool make_pipe(int *our_end, int *its_end, int ours)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return false;
    for (int i = 0; i < 2; i++) {
        int moved = fcntl(ends[i], F_DUPFD_CLOEXEC, FIRST_FREE_FD);
        close(ends[i]);
        ends[i] = moved;
    }
    fcntl(ends[ours], F_SETFL, O_NONBLOCK);
    *our_end = ends[ours];
    *its_end = ends[!ours];
    return ends[0] >= 0 && ends[1] >= 0;
}

static bool make_terminal(struct process *process, int its[3], struct pairs request)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    char name[64];
    if (master < 0 || unlockpt(master) || ptsname_r(master, name, sizeof name))
        return false;
    process->fd[OUT] = fcntl(master, F_DUPFD_CLOEXEC, FIRST_FREE_FD);
    process->fd[IN] = fcntl(master, F_DUPFD_CLOEXEC, FIRST_FREE_FD);
    close(master);
    process_resize(process, (unsigned)atoi(pairs_find(request, "cols", "80")),
                   (unsigned)atoi(pairs_find(request, "rows", "24")));
    int slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    for (int i = 0; i < 3 && slave >= 0; i++)
        its[i] = fcntl(slave, F_DUPFD_CLOEXEC, FIRST_FREE_FD);
    close(slave);
    return slave >= 0;
}

static bool make_pipes(struct process *process, int its[3])
{
    return make_pipe(&process->fd[IN], &its[IN], 1) && make_pipe(&process->fd[OUT], &its[OUT], 0) &&
           make_pipe(&process->fd[ERR], &its[ERR], 0);
}

static noreturn void cannot(const char *what, int code)
{
    dprintf(2, "%s: %s\n", what, strerror(errno));
    _exit(code);
}

/* `name`, `uid`, `name:group` or `uid:gid`, as an image's or a caller's `user` has it. */
static void become(const char *user)
{
    char name[256];
    snprintf(name, sizeof name, "%s", user);
    char *group = strchr(name, ':');
    if (group)
        *group++ = '\0';
    char *rest;
    unsigned long number = strtoul(name, &rest, 10);
    bool is_number = *name && !*rest;
    struct passwd *entry = is_number ? getpwuid((uid_t)number) : getpwnam(name);
    if (!entry && !is_number) {
        dprintf(2, "%s: no such user\n", name);
        _exit(CANNOT_RUN);
    }
    uid_t uid = entry ? entry->pw_uid : (uid_t)number;
    gid_t gid = entry ? entry->pw_gid : 0;
    if (group && *group) {
        struct group *found = getgrnam(group);
        unsigned long id = strtoul(group, &rest, 10);
        if (!found && *rest) {
            dprintf(2, "%s: no such group\n", group);
            _exit(CANNOT_RUN);
        }
        gid = found ? found->gr_gid : (gid_t)id;
    }
    setenv("HOME", entry && *entry->pw_dir ? entry->pw_dir : "/", 0);
    if ((entry ? initgroups(entry->pw_name, gid) : setgroups(0, NULL)) || setgid(gid) || setuid(uid))
        cannot("user", CANNOT_RUN);
}

static void take_environment(struct pairs pairs)
{
    const char *key, *value;
    while (pairs_next(&pairs, &key, &value))
        if (!strcmp(key, "env"))
            putenv((char *)value);
}

static noreturn void run_command(struct pairs request)
{
    const char *key, *value;
    size_t count = 0;
    for (struct pairs all = request; pairs_next(&all, &key, &value);)
        count += !strcmp(key, "arg");
    char **argv = calloc(count + 1, sizeof *argv);
    if (!argv || !count)
        _exit(CANNOT_RUN);
    count = 0;
    for (struct pairs all = request; pairs_next(&all, &key, &value);)
        if (!strcmp(key, "arg"))
            argv[count++] = (char *)value;
    clearenv();
    putenv("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    if (pairs_find(request, "tty", NULL))
        putenv("TERM=xterm-256color");
    take_environment(config);
    take_environment(request);
    const char *user = pairs_find(request, "user", "");
    become(*user ? user : pairs_find(config, "user", "0"));
    const char *folder = pairs_find(request, "cwd", "");
    if (!*folder)
        folder = pairs_find(config, "cwd", "/");
    if (chdir(folder))
        cannot(folder, CANNOT_RUN);
    execvp(argv[0], argv);
    cannot(argv[0], errno == ENOENT ? NO_SUCH_COMMAND : CANNOT_RUN);
}

static noreturn void child(const struct process *process, struct pairs request, verb_function *verb, const int its[3])
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int number = 1; number < 32; number++)
        signal(number, SIG_DFL);
    setsid();
    for (int i = 0; i < 3; i++)
        dup2(its[i], verb && i == ERR ? 3 : i);
    if (process->tty)
        ioctl(0, TIOCSCTTY, 0);
    if (!verb)
        run_command(request);
    dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), 2);
    syscall(CLOSE_RANGE, 4, ~0U, 0);
    signal(SIGPIPE, SIG_IGN);
    _exit(verb(request));
}

struct process *process_start(uint32_t channel, struct pairs request, verb_function *verb, const char **error)
{
    struct process *process = calloc(1, sizeof *process);
    int its[3] = {-1, -1, -1};
    if (!process)
        abort();
    *process = (struct process){.channel = channel, .pid = -1, .fd = {-1, -1, -1}, .is_verb = verb != NULL};
    process->window[OUT] = process->window[ERR] = WINDOW;
    process->tty = !verb && pairs_find(request, "tty", NULL);
    if (process->tty ? make_terminal(process, its, request) : make_pipes(process, its))
        process->pid = fork();
    if (process->pid == 0)
        child(process, request, verb, its);
    for (int i = 0; i < 3; i++)
        if (its[i] >= 0)
            close(its[i]);
    if (process->pid < 0) {
        *error = strerror(errno);
        process_free(process);
        return NULL;
    }
    long limit = atol(pairs_find(request, "timeout_ms", "0"));
    process->deadline = limit > 0 ? now_ms() + limit : 0;
    return process;
}

void process_signal(struct process *process, int number)
{
    /* One that has just begun may not have made its session yet. */
    if (!process->is_link && !process->exited && number > 0 && number < 65 && kill(-process->pid, number))
        kill(process->pid, number);
}

/* A verb may have something to tidy up, and does not ignore being asked. */
void process_kill(struct process *process)
{
    int number = process->is_verb ? SIGTERM : SIGKILL;
    if (!process->is_link && !process->exited) {
        kill(-process->pid, number);
        kill(process->pid, number); /* it may not have made its session yet */
    }
}

void process_resize(struct process *process, unsigned columns, unsigned rows)
{
    struct winsize size = {.ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows};
    if (process->tty && process->fd[OUT] >= 0)
        ioctl(process->fd[OUT], TIOCSWINSZ, &size);
}

void process_feed(struct process *process)
{
    struct buffer *input = &process->input;
    if (process->fd[IN] >= 0 && input->size) {
        ssize_t taken = write(process->fd[IN], input->data, input->size);
        if (taken > 0)
            buffer_drop(input, (size_t)taken);
        else if (errno != EAGAIN && errno != EINTR)
            input->size = 0; /* nobody reads any more */
    }
    if (process->input_ended && !input->size && process->fd[IN] >= 0) {
        const char end_of_transmission = 4;
        if (process->tty)
            (void)!write(process->fd[IN], &end_of_transmission, 1);
        if (process->is_link)
            shutdown(process->fd[IN], SHUT_WR);
        close(process->fd[IN]);
        process->fd[IN] = -1;
    }
}

void process_reaped(struct process *process, int status, const struct rusage *usage)
{
    const struct timeval *user = &usage->ru_utime, *system = &usage->ru_stime;
    process->cpu_us = ((int64_t)user->tv_sec + system->tv_sec) * 1000000 + user->tv_usec + system->tv_usec;
    process->exited = true;
    process->status = status;
    process->input.size = 0;
}

void process_free(struct process *process)
{
    for (int i = 0; i < 3; i++)
        if (process->fd[i] >= 0)
            close(process->fd[i]);
    buffer_free(&process->input);
    buffer_free(&process->result);
    buffer_free(&process->request);
    free(process);
}

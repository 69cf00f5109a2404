/* Who a guest is. A copy of a running one has its source's memory and disk, and so its name, its addresses, its keys,
 * the state of its random numbers, and a clock that stood still; here it becomes a machine of its own, while the host
 * keeps its network away. All but what takes programs is done at once, in the agent itself: a few system calls and
 * small files. */
#include "agent.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SEED_LEAST = 32, SEED_MOST = 512, MACHINE_ID_TEXT = 32, HOSTNAME_MOST = 64, RELOAD_PATIENCE_MS = 10000 };
#define NANO INT64_C(1000000000)
/* As in linux/random.h, which musl does not bring. */
#define RNDADDENTROPY _IOW('R', 0x03, int[2])
#define RNDRESEEDCRNG _IO('R', 0x07)

static const char sshd_pid[] = "/run/sshd.pid", host_keys[] = "/etc/ssh/ssh_host_*_key*";

/* -- what is well formed ----------------------------------------------------------------------------------- */

static bool is_hex(const char *text, size_t least, size_t most)
{
    size_t length = strlen(text);
    return length >= least && length <= most && length % 2 == 0 &&
           strspn(text, "0123456789abcdefABCDEF") == length;
}

static bool is_seed(const char *text)
{
    return is_hex(text, SEED_LEAST * 2, SEED_MOST * 2);
}

static bool is_machine_id(const char *text)
{
    return is_hex(text, MACHINE_ID_TEXT, MACHINE_ID_TEXT) && strspn(text, "0") < MACHINE_ID_TEXT;
}

static bool is_time(const char *text)
{
    size_t length = strlen(text);
    errno = 0;
    return length && strspn(text, "0123456789") == length && strtoll(text, NULL, 10) > 0 && errno == 0;
}

static bool is_hostname(const char *text)
{
    size_t length = strlen(text);
    bool is_one = length && length <= HOSTNAME_MOST && isalnum((unsigned char)text[0]);
    for (size_t i = 0; is_one && i < length; i++)
        is_one = isalnum((unsigned char)text[i]) || strchr("-._", text[i]);
    return is_one;
}

static bool is_mac(const char *text)
{
    uint8_t mac[MAC_SIZE];
    return parse_mac(text, mac);
}

static bool is_ip(const char *text)
{
    struct in_addr ip;
    return inet_pton(AF_INET, text, &ip) == 1;
}

static bool is_address(const char *text)
{
    char ip[INET_ADDRSTRLEN];
    size_t length = strcspn(text, "/");
    const char *prefix = text + length + 1;
    if (length >= sizeof ip || text[length] != '/' || !*prefix || strlen(prefix) > 2 ||
        strspn(prefix, "0123456789") != strlen(prefix) || atoi(prefix) < 1 || atoi(prefix) > 32)
        return false;
    snprintf(ip, sizeof ip, "%.*s", (int)length, text);
    return is_ip(ip);
}

const char *find_malformed(struct pairs request)
{
    static const struct {
        const char *field;
        bool (*is_valid)(const char *text);
    } all[] = {{"seed", is_seed},         {"now_ns", is_time},     {"machine_id", is_machine_id},
               {"hostname", is_hostname}, {"mac", is_mac},         {"address", is_address},
               {"gateway", is_ip},        {"dns", is_ip}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const char *value = pairs_find(request, all[i].field, NULL);
        if (value && !all[i].is_valid(value))
            return all[i].field;
    }
    return NULL;
}

bool complain(struct buffer *result, const char *error, const char *field, const char *text)
{
    char whole[256];
    snprintf(whole, sizeof whole, "%s%s%s", field ? field : "", field ? ": " : "", text);
    pairs_add(result, "error", error);
    if (field)
        pairs_add(result, "field", field);
    pairs_add(result, "text", whole);
    return true;
}

/* What the kernel takes for nonsense is nonsense. */
bool complain_errno(struct buffer *result, const char *field)
{
    return complain(result, errno == EINVAL ? "invalid" : "internal", field, strerror(errno));
}

/* -- at once ----------------------------------------------------------------------------------------------- */

static int set_clock(const char *now_ns)
{
    int64_t now = strtoll(now_ns, NULL, 10);
    return clock_settime(CLOCK_REALTIME, &(struct timespec){.tv_sec = now / NANO, .tv_nsec = now % NANO});
}

bool clock_at_once(struct pairs request, struct buffer *result)
{
    const char *now = pairs_find(request, "now_ns", "");
    if (!is_time(now))
        return complain(result, "invalid", "now_ns", "malformed");
    return set_clock(now) ? complain_errno(result, "now_ns") : true;
}

/* Bytes that only this copy has go into the kernel's pool as wholly unknown, and every generator is made anew from it:
 * those of each processor, and of running programs that draw from the kernel's. A pool that had not been filled is by
 * that much, which does the same. */
static int reseed(const char *seed)
{
    struct {
        int bits, size;
        uint8_t bytes[SEED_MOST];
    } entropy = {0};
    entropy.size = (int)(strlen(seed) / 2);
    entropy.bits = entropy.size * 8;
    for (int i = 0; i < entropy.size; i++) {
        char byte[3] = {seed[2 * i], seed[2 * i + 1], '\0'};
        entropy.bytes[i] = (uint8_t)strtoul(byte, NULL, 16);
    }
    int pool = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    int failed = pool < 0 || ioctl(pool, (int)RNDADDENTROPY, &entropy) ||
                 (ioctl(pool, (int)RNDRESEEDCRNG) && errno != ENODATA);
    int number = errno;
    explicit_bzero(&entropy, sizeof entropy);
    if (pool >= 0)
        close(pool);
    errno = number;
    return failed;
}

/* A text of the same length in place of the one there: a few bytes of one block, so it is the old or the new one. */
static bool overwrite(const char *path, const char *text)
{
    struct stat info;
    ssize_t length = (ssize_t)strlen(text);
    int file = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    bool done = file >= 0 && fstat(file, &info) == 0 && S_ISREG(info.st_mode) && info.st_size == length &&
                pwrite(file, text, (size_t)length, 0) == length;
    if (file >= 0)
        close(file);
    return done;
}

/* Whole or not at all; in place where something is mounted over it. A root that cannot be written to keeps what it has,
 * and says so to nobody: it is as it was made. */
static void replace(const char *path, const char *text)
{
    char passing[64];
    if (overwrite(path, text))
        return;
    snprintf(passing, sizeof passing, "%s.new", path);
    unlink(passing);
    if (write_text(passing, text) && chmod(passing, 0444) == 0 && rename(passing, path) == 0)
        return;
    unlink(passing);
    if (access(path, F_OK) == 0)
        write_text(path, text);
}

/* At boot too, so that a copy finds a file to put its own in. */
int set_machine_id(const char *id)
{
    static const char dbus[] = "/var/lib/dbus/machine-id";
    char text[MACHINE_ID_TEXT + 2];
    struct stat info;
    for (size_t i = 0; i < MACHINE_ID_TEXT; i++)
        text[i] = (char)tolower((unsigned char)id[i]);
    memcpy(text + MACHINE_ID_TEXT, "\n", 2);
    replace("/etc/machine-id", text);
    if (lstat(dbus, &info) == 0 && S_ISREG(info.st_mode)) /* mostly it is a link to the other */
        replace(dbus, text);
    return 0;
}

/* The random numbers first, so that whatever is drawn from then on is this copy's own. */
static const char *take(struct pairs request, const char *link)
{
    static const struct {
        const char *field;
        int (*take)(const char *value);
    } all[] = {{"seed", reseed}, {"now_ns", set_clock}, {"machine_id", set_machine_id}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const char *value = pairs_find(request, all[i].field, NULL);
        if (value && all[i].take(value))
            return all[i].field;
    }
    const char *hostname = pairs_find(request, "hostname", NULL), *address = pairs_find(request, "address", NULL);
    const char *failed = NULL;
    if ((hostname || address) && rename_host(hostname, address))
        return "hostname";
    move_link(link, request, &failed);
    return failed;
}

/* Whether there is an SSH server to be given keys. One that runs may hold keys whose files are gone. */
static bool has_host_keys(void)
{
    glob_t found;
    bool has_some = glob(host_keys, GLOB_NOSORT, NULL, &found) == 0;
    if (has_some)
        globfree(&found);
    return has_some || access(sshd_pid, F_OK) == 0;
}

/* Whether there are services of systemd that go by what has been changed. */
static bool has_services(struct pairs request)
{
    return (pairs_find(request, "mac", NULL) || pairs_find(request, "machine_id", NULL)) &&
           access("/run/systemd/system", F_OK) == 0;
}

static bool is_given_any(struct pairs request)
{
    const char *key, *value;
    while (pairs_next(&request, &key, &value))
        if (strcmp(key, "verb"))
            return true;
    return false;
}

bool identity_at_once(struct pairs request, struct buffer *result)
{
    char link[IFNAMSIZ] = "";
    const char *mac = pairs_find(request, "mac", NULL), *field = find_malformed(request);
    if (field)
        return complain(result, "invalid", field, "malformed");
    bool needs_link = mac || pairs_find(request, "address", NULL) || pairs_find(request, "gateway", NULL);
    if (needs_link && !find_link(mac ? mac : "", link, sizeof link, 0))
        return complain(result, "notfound", mac ? "mac" : "address", "no network device can be told for it");
    if ((field = take(request, link)))
        return complain_errno(result, field);
    return !is_given_any(request) || !(has_host_keys() || has_services(request));
}

/* -- the rest, by a child ---------------------------------------------------------------------------------- */

static void remove_host_keys(void)
{
    glob_t found;
    if (glob(host_keys, GLOB_NOSORT, NULL, &found))
        return;
    for (size_t i = 0; i < found.gl_pathc; i++)
        unlink(found.gl_pathv[i]);
    globfree(&found);
}

/* Run a program to its end; its status. */
static int run(const char *const argv[])
{
    int status = -1;
    pid_t pid = fork();
    if (pid == 0) {
        int nothing = open("/dev/null", O_RDWR);
        for (int i = 0; i < 3; i++)
            dup2(nothing, i);
        execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

static bool is_same_file(const struct stat *one, const struct stat *other)
{
    return one->st_ino == other->st_ino && one->st_mtim.tv_sec == other->st_mtim.tv_sec &&
           one->st_mtim.tv_nsec == other->st_mtim.tv_nsec;
}

/* A running server is told to begin anew. When it listens again it has written down its number again: until then the
 * old one, with the old keys, might still answer. */
static bool reload_sshd(void)
{
    char text[32], path[64], name[32];
    struct stat before, now;
    if (!read_line(sshd_pid, text, sizeof text) || stat(sshd_pid, &before))
        return true;
    pid_t pid = (pid_t)atoi(text);
    snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    if (pid <= 1 || !read_line(path, name, sizeof name) || strcmp(name, "sshd") || kill(pid, SIGHUP))
        return true; /* what it left behind */
    for (int64_t end = now_ms() + RELOAD_PATIENCE_MS; now_ms() < end; usleep(5000))
        if (stat(sshd_pid, &now) == 0 && !is_same_file(&before, &now))
            return true;
    return false;
}

/* networkd took its link by the old hardware address and asks for leases by the old machine id, journald writes into
 * the old one's folder: each begins anew. A guest that does without them does without this. */
int verb_identity(struct pairs request)
{
    static const char *const restart[] = {"systemctl", "try-restart", "systemd-networkd", "systemd-journald", NULL};
    static const char *const make_host_keys[] = {"ssh-keygen", "-A", NULL};
    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    if (has_services(request))
        run(restart);
    if (!has_host_keys())
        return 0;
    remove_host_keys();
    int status = run(make_host_keys);
    if (status)
        return fail("internal", "ssh-keygen: status %d", status);
    return reload_sshd() ? 0 : fail("internal", "the SSH server does not begin anew");
}

/* Archives: POSIX pax out; ustar, pax and GNU long names in. Images need not have a tar of their own.
 *
 * On the way in nothing lands outside of the folder: no absolute names, no `..`, no way through a link that leads out
 * (the kernel resolves every name beneath the folder), no device nodes. */
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { BLOCK = 512, NAME_MOST = 4096, PAX_MOST = 64 * 1024 };

struct header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], sum[8], type, link[100], magic[6], version[2];
    char user[32], group[32], major[8], minor[8], prefix[155], rest[12];
};
_Static_assert(sizeof(struct header) == BLOCK, "a header is a block");

static bool write_all(int to, const void *data, size_t size)
{
    for (size_t sent = 0; sent < size;) {
        ssize_t part = write(to, (const char *)data + sent, size - sent);
        if (part < 0)
            return false;
        sent += (size_t)part;
    }
    return true;
}

/* True when all of it came; a clean end before the first byte sets *ended. */
static bool read_all(void *data, size_t size, bool *ended)
{
    size_t got = 0;
    while (got < size) {
        ssize_t part = read(0, (char *)data + got, size - got);
        if (part < 0 && errno == EINTR)
            continue;
        if (part <= 0) {
            if (ended)
                *ended = part == 0 && got == 0;
            return false;
        }
        got += (size_t)part;
    }
    return true;
}

static unsigned checksum(const struct header *header)
{
    const unsigned char *bytes = (const unsigned char *)header;
    size_t at = offsetof(struct header, sum);
    unsigned sum = 0;
    for (size_t i = 0; i < BLOCK; i++)
        sum += i >= at && i < at + sizeof header->sum ? ' ' : bytes[i];
    return sum;
}

/* -- out --------------------------------------------------------------------------------------------------- */

static struct seen {
    dev_t device;
    ino_t inode;
    char *name;
    struct seen *next;
} *seen;

/* The name under which the same file went out before, for one of several links. */
static const char *known_as(const struct stat *info, const char *name)
{
    if (S_ISDIR(info->st_mode) || info->st_nlink < 2)
        return NULL;
    for (struct seen *one = seen; one; one = one->next)
        if (one->device == info->st_dev && one->inode == info->st_ino)
            return one->name;
    struct seen *one = malloc(sizeof *one);
    if (!one)
        abort();
    *one = (struct seen){info->st_dev, info->st_ino, strdup(name), seen};
    seen = one;
    return NULL;
}

static void add_record(struct buffer *pax, const char *key, const char *value)
{
    size_t body = strlen(key) + strlen(value) + 3, length = body + 1;
    char number[24];
    for (;;) {
        size_t digits = (size_t)snprintf(number, sizeof number, "%zu", length);
        if (digits + body == length)
            break;
        length = digits + body;
    }
    buffer_add(pax, number, strlen(number));
    buffer_add(pax, " ", 1);
    buffer_add(pax, key, strlen(key));
    buffer_add(pax, "=", 1);
    buffer_add(pax, value, strlen(value));
    buffer_add(pax, "\n", 1);
}

static bool put_header(const char *name, const char *link, char type, const struct stat *info, uint64_t size)
{
    struct header header = {.type = type, .magic = "ustar", .version = {'0', '0'}};
    char sum[16], number[32];
    strncpy(header.name, name, sizeof header.name);
    strncpy(header.link, link, sizeof header.link);
    snprintf(number, sizeof number, "%07o", (unsigned)(info->st_mode & 07777));
    memcpy(header.mode, number, sizeof header.mode);
    snprintf(number, sizeof number, "%07o", (unsigned)info->st_uid & 07777777);
    memcpy(header.uid, number, sizeof header.uid);
    snprintf(number, sizeof number, "%07o", (unsigned)info->st_gid & 07777777);
    memcpy(header.gid, number, sizeof header.gid);
    snprintf(number, sizeof number, "%011llo", (unsigned long long)size & 077777777777ULL);
    memcpy(header.size, number, sizeof header.size);
    long long mtime = info->st_mtim.tv_sec < 0 ? 0 : info->st_mtim.tv_sec;
    snprintf(number, sizeof number, "%011llo", (unsigned long long)mtime & 077777777777ULL);
    memcpy(header.mtime, number, sizeof header.mtime);
    snprintf(sum, sizeof sum, "%06o", checksum(&header));
    memcpy(header.sum, sum, 7);
    header.sum[7] = ' ';
    return write_all(1, &header, sizeof header);
}

static bool put_padding(uint64_t size)
{
    static const char zeros[BLOCK];
    return size % BLOCK == 0 || write_all(1, zeros, BLOCK - size % BLOCK);
}

/* A member's header, behind a pax header with what does not fit into it. */
static bool put_member(const char *name, const char *link, char type, const struct stat *info, uint64_t size)
{
    struct buffer pax = {0};
    char number[32];
    if (strlen(name) > sizeof((struct header *)0)->name)
        add_record(&pax, "path", name);
    if (strlen(link) > sizeof((struct header *)0)->link)
        add_record(&pax, "linkpath", link);
    const struct {
        const char *key;
        uint64_t value, most;
    } numbers[] = {{"size", size, 077777777777ULL}, {"uid", info->st_uid, 07777777}, {"gid", info->st_gid, 07777777}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].value > numbers[i].most) {
            snprintf(number, sizeof number, "%llu", (unsigned long long)numbers[i].value);
            add_record(&pax, numbers[i].key, number);
        }
    bool done = !pax.size || (put_header("././@PaxHeader", "", 'x', info, pax.size) &&
                              write_all(1, pax.data, pax.size) && put_padding(pax.size));
    buffer_free(&pax);
    return done && put_header(name, link, type, info, size);
}

/* Exactly `size` bytes, whatever the file has become meanwhile. */
static bool put_content(int file, uint64_t size)
{
    static char bytes[128 * 1024];
    for (uint64_t left = size; left;) {
        size_t most = left < sizeof bytes ? (size_t)left : sizeof bytes;
        ssize_t got = read(file, bytes, most);
        if (got <= 0) {
            memset(bytes, 0, most);
            got = (ssize_t)most;
        }
        if (!write_all(1, bytes, (size_t)got))
            return false;
        left -= (uint64_t)got;
    }
    return put_padding(size);
}

/* Kernel file systems are not a guest's data. */
static bool is_kernels(int folder)
{
    static const unsigned long kinds[] = {0x9fa0, 0x62656572, 0x1cd1, 0x63677270, 0x64626720, 0x74726163};
    struct statfs info;
    if (fstatfs(folder, &info))
        return false;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if ((unsigned long)info.f_type == kinds[i])
            return true;
    return false;
}

static bool put_tree(int parent, const char *entry, const char *name);

static bool put_folder(int folder, const char *name)
{
    DIR *entries = is_kernels(folder) ? NULL : fdopendir(folder);
    bool done = true;
    if (!entries) {
        close(folder);
        return true;
    }
    for (struct dirent *entry; done && (entry = readdir(entries));) {
        char below[NAME_MOST];
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        if (snprintf(below, sizeof below, "%s/%s", name, entry->d_name) < (int)sizeof below)
            done = put_tree(dirfd(entries), entry->d_name, below);
    }
    closedir(entries);
    return done;
}

static bool put_tree(int parent, const char *entry, const char *name)
{
    struct stat info;
    char target[NAME_MOST], folder_name[NAME_MOST + 1];
    if (fstatat(parent, entry, &info, AT_SYMLINK_NOFOLLOW))
        return true; /* gone meanwhile */
    const char *earlier = known_as(&info, name);
    if (earlier)
        return put_member(name, earlier, '1', &info, 0);
    switch (info.st_mode & S_IFMT) {
    case S_IFREG: {
        int file = openat(parent, entry, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        bool done = file < 0 || (put_member(name, "", '0', &info, (uint64_t)info.st_size) &&
                                 put_content(file, (uint64_t)info.st_size));
        if (file >= 0)
            close(file);
        return done;
    }
    case S_IFLNK: {
        ssize_t length = readlinkat(parent, entry, target, sizeof target - 1);
        if (length < 0)
            return true;
        target[length] = '\0';
        return put_member(name, target, '2', &info, 0);
    }
    case S_IFDIR: {
        snprintf(folder_name, sizeof folder_name, "%s/", name);
        int folder = openat(parent, entry, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (folder < 0)
            return true;
        return put_member(folder_name, "", '5', &info, 0) && put_folder(folder, name);
    }
    case S_IFIFO:
        return put_member(name, "", '6', &info, 0);
    default:
        return true; /* devices and sockets mean nothing elsewhere */
    }
}

int verb_tar(struct pairs request)
{
    static const char end[2 * BLOCK];
    const char *path = pairs_find(request, "path", "");
    char real[NAME_MOST], copy[NAME_MOST];
    if (!realpath(path, real))
        return fail_errno(path);
    snprintf(copy, sizeof copy, "%s", path);
    const char *name = basename(copy);
    bool done = put_tree(AT_FDCWD, real, strcmp(name, "/") ? name : ".") && write_all(1, end, sizeof end);
    return done ? 0 : fail_errno(path);
}

/* -- in ---------------------------------------------------------------------------------------------------- */

struct member {
    char name[NAME_MOST], link[NAME_MOST];
    uint64_t size;
    mode_t mode;
    uid_t uid;
    gid_t gid;
    time_t mtime;
    char type;
};

/* Octal text, or GNU's base 256 where the first bit is set. */
static uint64_t number_in(const char *field, size_t size)
{
    uint64_t number = 0;
    if ((unsigned char)field[0] & 0x80) {
        for (size_t i = 1; i < size; i++)
            number = number << 8 | (unsigned char)field[i];
        return number;
    }
    for (size_t i = 0; i < size; i++)
        if (field[i] >= '0' && field[i] <= '7')
            number = number << 3 | (uint64_t)(field[i] - '0');
    return number;
}

static bool skip(uint64_t size)
{
    char bytes[BLOCK];
    for (uint64_t blocks = (size + BLOCK - 1) / BLOCK; blocks; blocks--)
        if (!read_all(bytes, BLOCK, NULL))
            return false;
    return true;
}

static bool read_text(char *text, size_t most, uint64_t size)
{
    if (size >= most)
        return false;
    text[size] = '\0';
    char rest[BLOCK];
    return read_all(text, (size_t)size, NULL) && (size % BLOCK == 0 || read_all(rest, BLOCK - size % BLOCK, NULL));
}

static bool read_pax(struct member *member, bool has[3], uint64_t size)
{
    static char text[PAX_MOST];
    if (!read_text(text, sizeof text, size))
        return false;
    for (char *at = text, *end = text + size; at < end;) {
        char *space;
        unsigned long length = strtoul(at, &space, 10);
        if (*space != ' ' || length < 5 || length > (size_t)(end - at) || at[length - 1] != '\n')
            return false;
        at[length - 1] = '\0';
        char *key = space + 1, *value = strchr(key, '=');
        if (!value)
            return false;
        *value++ = '\0';
        if (!strcmp(key, "path")) {
            has[0] = true;
            snprintf(member->name, sizeof member->name, "%s", value);
        } else if (!strcmp(key, "linkpath")) {
            has[1] = true;
            snprintf(member->link, sizeof member->link, "%s", value);
        } else if (!strcmp(key, "size")) {
            has[2] = true;
            member->size = strtoull(value, NULL, 10);
        }
        at += length;
    }
    return true;
}

/* The next member. 1: there is one, 0: the end, -1: this is no archive. */
static int next_member(struct member *member)
{
    struct header header;
    bool has[3] = {false}, ended = false;
    for (;;) {
        if (!read_all(&header, sizeof header, &ended))
            return ended ? 0 : -1;
        static const char zeros[BLOCK];
        if (!memcmp(&header, zeros, BLOCK))
            return 0;
        if (number_in(header.sum, sizeof header.sum) != checksum(&header))
            return -1;
        uint64_t size = number_in(header.size, sizeof header.size);
        if (header.type == 'x' && read_pax(member, has, size))
            continue;
        if (header.type == 'L' && (has[0] = read_text(member->name, sizeof member->name, size)))
            continue;
        if (header.type == 'K' && (has[1] = read_text(member->link, sizeof member->link, size)))
            continue;
        if (header.type == 'g' && skip(size))
            continue;
        if (strchr("xLKg", header.type) && header.type)
            return -1;
        if (!has[0]) {
            bool prefixed = !memcmp(header.magic, "ustar", 6) && header.prefix[0];
            snprintf(member->name, sizeof member->name, "%.155s%s%.100s", prefixed ? header.prefix : "",
                     prefixed ? "/" : "", header.name);
        }
        if (!has[1])
            snprintf(member->link, sizeof member->link, "%.100s", header.link);
        if (!has[2])
            member->size = size;
        member->mode = (mode_t)number_in(header.mode, sizeof header.mode) & 07777;
        member->uid = (uid_t)number_in(header.uid, sizeof header.uid);
        member->gid = (gid_t)number_in(header.gid, sizeof header.gid);
        member->mtime = (time_t)number_in(header.mtime, sizeof header.mtime);
        member->type = header.type ? header.type : '0';
        return 1;
    }
}

static bool leads_out(const char *name)
{
    if (name[0] == '/')
        return true;
    for (const char *at = name; at; at = strchr(at, '/') ? strchr(at, '/') + 1 : NULL)
        if (!strncmp(at, "..", 2) && (at[2] == '/' || !at[2]))
            return true;
    return false;
}

/* openat2(2), which the C library does not know: never above `folder`, nor through /proc's magic links. */
static int open_beneath(int folder, const char *name)
{
    enum { OPENAT2 = 437, NO_MAGIC_LINKS = 0x02, BENEATH = 0x08 };
    struct {
        uint64_t flags, mode, resolve;
    } how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = BENEATH | NO_MAGIC_LINKS};
    return (int)syscall(OPENAT2, folder, name, &how, sizeof how);
}

/* The folder that is to hold the member, made if need be, and the last part of its name. */
static int parent_of(int root, char *name, const char **last)
{
    char upto[NAME_MOST], part[NAME_MOST];
    for (size_t length = strlen(name); length > 1 && name[length - 1] == '/';)
        name[--length] = '\0';
    int folder = fcntl(root, F_DUPFD_CLOEXEC, 0);
    const char *start = name;
    for (const char *slash; folder >= 0 && (slash = strchr(start, '/')); start = slash + 1) {
        snprintf(upto, sizeof upto, "%.*s", (int)(slash - name), name);
        snprintf(part, sizeof part, "%.*s", (int)(slash - start), start);
        int next = open_beneath(root, upto);
        if (next < 0 && errno == ENOENT && (mkdirat(folder, part, 0755) == 0 || errno == EEXIST))
            next = open_beneath(root, upto);
        int number = errno;
        close(folder);
        errno = number;
        folder = next;
    }
    *last = start;
    return folder;
}

static bool take_content(int file, uint64_t size)
{
    static char bytes[128 * BLOCK];
    bool room = true;
    int number = 0;
    for (uint64_t left = size; left;) {
        size_t most = left < sizeof bytes ? (size_t)left : sizeof bytes;
        if (!read_all(bytes, most, NULL)) {
            errno = EPIPE;
            return false;
        }
        if (room && !(room = write_all(file, bytes, most)))
            number = errno;
        left -= most;
    }
    errno = number;
    return room && (size % BLOCK == 0 || read_all(bytes, BLOCK - size % BLOCK, NULL));
}

static bool make_file(int parent, const char *last, const struct member *member)
{
    unlinkat(parent, last, 0);
    int file = openat(parent, last, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file < 0)
        return false;
    bool done = take_content(file, member->size);
    int number = errno;
    struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_sec = member->mtime}};
    (void)!fchown(file, member->uid, member->gid);
    fchmod(file, member->mode);
    futimens(file, times);
    close(file);
    errno = number;
    return done;
}

static bool make_folder(int parent, const char *last, const struct member *member)
{
    struct stat info;
    if (mkdirat(parent, last, 0700) && errno != EEXIST)
        return false;
    if (fstatat(parent, last, &info, AT_SYMLINK_NOFOLLOW) || !S_ISDIR(info.st_mode))
        return S_ISLNK(info.st_mode); /* a link to a folder stays; what is below it is resolved beneath the root */
    int folder = openat(parent, last, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0)
        return false;
    (void)!fchown(folder, member->uid, member->gid);
    fchmod(folder, member->mode);
    close(folder);
    return true;
}

static bool make_link(int root, int parent, const char *last, struct member *member)
{
    const char *its_last;
    int its_parent = parent_of(root, member->link, &its_last);
    if (its_parent < 0)
        return false;
    unlinkat(parent, last, 0);
    bool done = linkat(its_parent, its_last, parent, last, 0) == 0;
    close(its_parent);
    return done;
}

static bool make_symlink(int parent, const char *last, const struct member *member)
{
    unlinkat(parent, last, 0);
    if (symlinkat(member->link, parent, last))
        return false;
    (void)!fchownat(parent, last, member->uid, member->gid, AT_SYMLINK_NOFOLLOW);
    return true;
}

static int extract(int root, struct member *member)
{
    char shown[256];
    const char *last;
    snprintf(shown, sizeof shown, "%.255s", member->name);
    if (leads_out(member->name) || (member->type == '1' && leads_out(member->link)))
        return fail("invalid", "the archive's member %s would land outside of the folder", shown);
    if (!strchr("012567", member->type))
        return fail("invalid", "the archive's member %s is a device or of an unknown type", shown);
    while (!strncmp(member->name, "./", 2))
        memmove(member->name, member->name + 2, strlen(member->name + 2) + 1);
    if (!*member->name || !strcmp(member->name, "."))
        return skip(member->size) ? 0 : fail("invalid", "the archive is cut short");
    int parent = parent_of(root, member->name, &last);
    bool done = parent >= 0;
    switch (done ? member->type : 0) {
    case '0':
    case '7':
        done = make_file(parent, last, member);
        break;
    case '1':
        done = make_link(root, parent, last, member);
        break;
    case '2':
        done = make_symlink(parent, last, member);
        break;
    case '5':
        done = make_folder(parent, last, member);
        break;
    case '6':
        done = mkfifoat(parent, last, member->mode) == 0 || errno == EEXIST;
        break;
    default:
        break;
    }
    int number = errno;
    if (parent >= 0)
        close(parent);
    errno = number;
    if (!done && (errno == EXDEV || errno == ELOOP))
        return fail("invalid", "the archive's member %s leads through a link to outside of the folder", shown);
    return done ? 0 : errno == EPIPE ? fail("invalid", "the archive is cut short") : fail_errno(shown);
}

int verb_untar(struct pairs request)
{
    static struct member member;
    const char *path = pairs_find(request, "path", "");
    if (!make_directories(path))
        return fail_errno(path);
    int root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC), more;
    if (root < 0)
        return fail_errno(path);
    umask(0);
    while ((more = next_member(&member)) > 0)
        if (extract(root, &member))
            return 1;
    return more == 0 ? 0 : fail("invalid", "the stream is not a tar archive, or is cut short");
}

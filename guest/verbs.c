/* Verbs about files and mounts. Each runs in a child: streams on 0 and 1, pairs as its result on 3. */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <mntent.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RESULT_FD = 3, MOUNT_PATIENCE_MS = 10000 };
#define EXT4_IOC_RESIZE_FS _IOW('f', 16, uint64_t)

static void result(const char *key, const char *value)
{
    struct buffer out = {0};
    pairs_add(&out, key, value);
    (void)!write(RESULT_FD, out.data, out.size);
    buffer_free(&out);
}

int fail(const char *error, const char *format, ...)
{
    char text[1024];
    va_list rest;
    va_start(rest, format);
    vsnprintf(text, sizeof text, format, rest);
    va_end(rest);
    result("error", error);
    result("text", text);
    return 1;
}

int fail_errno(const char *path)
{
    int number = errno;
    const char *error = "invalid";
    if (number == ENOENT)
        error = "notfound";
    else if (number == EBUSY)
        error = "busy";
    else if (number == ENOSPC || number == EDQUOT)
        error = "nospace";
    else if (number == EIO)
        error = "internal";
    return fail(error, "%s: %s", path, strerror(number));
}

bool make_directories(const char *path)
{
    char copy[4096];
    if (snprintf(copy, sizeof copy, "%s", path) >= (int)sizeof copy) {
        errno = ENAMETOOLONG;
        return false;
    }
    for (char *at = copy + 1; *at; at++)
        if (*at == '/') {
            *at = '\0';
            if (mkdir(copy, 0755) && errno != EEXIST)
                return false;
            *at = '/';
        }
    return mkdir(copy, 0755) == 0 || errno == EEXIST;
}

/* -- files ------------------------------------------------------------------------------------------------- */

static bool pour(int from, int to)
{
    static char bytes[128 * 1024];
    ssize_t got;
    while ((got = read(from, bytes, sizeof bytes)) != 0) {
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return false;
        for (ssize_t sent = 0, part; sent < got; sent += part)
            if ((part = write(to, bytes + sent, (size_t)(got - sent))) < 0)
                return false;
    }
    return true;
}

int verb_read(struct pairs request)
{
    const char *path = pairs_find(request, "path", "");
    struct stat info;
    int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (file < 0 || fstat(file, &info))
        return fail_errno(path);
    if (!S_ISREG(info.st_mode))
        return fail("invalid", "%s: not a regular file", path);
    if (lseek(file, strtoll(pairs_find(request, "offset", "0"), NULL, 10), SEEK_SET) < 0)
        return fail_errno(path);
    return pour(file, 1) ? 0 : fail_errno(path);
}

static char passing[4352];

static void tidy_up(int number)
{
    (void)number;
    unlink(passing);
    _exit(1);
}

/* Whole or not at all: written without a name where the file system has that, given a passing one, then moved over the
 * wanted one. */
int verb_write(struct pairs request)
{
    const char *path = pairs_find(request, "path", "");
    char folder[4096], base[4096], by_number[64];
    mode_t mode = (mode_t)strtoul(pairs_find(request, "mode", "644"), NULL, 8) & 07777;
    struct stat info;
    snprintf(folder, sizeof folder, "%s", path);
    snprintf(base, sizeof base, "%s", path);
    const char *parent = dirname(folder), *name = basename(base);
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        return fail("invalid", "%s: is a directory", path);
    if (!make_directories(parent))
        return fail_errno(parent);
    snprintf(passing, sizeof passing, "%s/.%.200s.%d", parent, name, (int)getpid());
    signal(SIGTERM, tidy_up);
    int file = open(parent, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    bool has_name = file < 0;
    if (has_name)
        file = open(passing, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0)
        return fail_errno(path);
    snprintf(by_number, sizeof by_number, "/proc/self/fd/%d", file);
    bool done = pour(0, file) && !fchmod(file, mode) &&
                (has_name || !linkat(AT_FDCWD, by_number, AT_FDCWD, passing, AT_SYMLINK_FOLLOW)) &&
                !rename(passing, path);
    int number = errno;
    if (!done) {
        unlink(passing);
        errno = number;
        return fail_errno(path);
    }
    return 0;
}

int verb_stat(struct pairs request)
{
    const char *path = pairs_find(request, "path", "");
    char number[64], target[4096];
    struct stat info;
    bool follow = !strcmp(pairs_find(request, "follow", "1"), "1");
    if (follow ? stat(path, &info) : lstat(path, &info)) {
        if (errno == ENOENT || errno == ENOTDIR)
            return 0; /* absence is an answer */
        return fail_errno(path);
    }
    static const struct {
        mode_t type;
        const char *kind;
    } kinds[] = {{S_IFREG, "file"},  {S_IFDIR, "directory"}, {S_IFLNK, "link"},  {S_IFCHR, "character"},
                 {S_IFBLK, "block"}, {S_IFIFO, "fifo"},      {S_IFSOCK, "socket"}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if ((info.st_mode & S_IFMT) == kinds[i].type)
            result("kind", kinds[i].kind);
    const struct {
        const char *key;
        long long value;
    } numbers[] = {{"mode", info.st_mode & 07777}, {"size", info.st_size}, {"uid", info.st_uid}, {"gid", info.st_gid}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        snprintf(number, sizeof number, "%lld", numbers[i].value);
        result(numbers[i].key, number);
    }
    snprintf(number, sizeof number, "%lld.%09ld", (long long)info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
    result("mtime", number);
    ssize_t length = S_ISLNK(info.st_mode) ? readlink(path, target, sizeof target - 1) : -1;
    if (length >= 0) {
        target[length] = '\0';
        result("target", target);
    }
    return 0;
}

/* -- mounts ------------------------------------------------------------------------------------------------ */

/* Make an ext4 as large as its device; the kernel does it mounted. Nothing to do is no failure. */
void grow_disk(const char *device, const char *path)
{
    struct stat info;
    uint64_t size = 0;
    int disk = open(device, O_RDONLY | O_CLOEXEC), folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (disk >= 0 && folder >= 0 && !ioctl(disk, (int)BLKGETSIZE64, &size) && !fstat(folder, &info)) {
        uint64_t blocks = size / (uint64_t)info.st_blksize;
        ioctl(folder, (int)EXT4_IOC_RESIZE_FS, &blocks);
    }
    close(disk);
    close(folder);
}

static bool is_mounted(const char *device, const char *path)
{
    struct stat disk, folder;
    return stat(device, &disk) == 0 && stat(path, &folder) == 0 && disk.st_rdev == folder.st_dev;
}

int mount_disk(const char *serial, const char *path, bool read_only, int patience_ms)
{
    char device[280];
    if (!find_disk(serial, device, sizeof device, patience_ms)) {
        errno = ENODEV;
        return 1;
    }
    if (is_mounted(device, path))
        return 0;
    if (!make_directories(path))
        return 1;
    /* One that was torn from a running guest has a journal to replay; a reader does without what is in it. */
    if (read_only)
        return mount(device, path, "ext4", MS_RDONLY, "") && mount(device, path, "ext4", MS_RDONLY, "noload");
    if (mount(device, path, "ext4", 0, ""))
        return 1;
    grow_disk(device, path);
    return 0;
}

struct volume {
    char serial[64];
    bool read_only;
    int overlay; /* which of the data disk's; -1: none */
    const char *path;
};

static bool parse_overlay(const char *text, int *overlay)
{
    char rest;
    return sscanf(text, "%2d%c", overlay, &rest) == 1 && *overlay >= 0;
}

static int mount_volume(const struct volume *volume, int patience_ms)
{
    char device[280];
    if (volume->overlay < 0)
        return mount_disk(volume->serial, volume->path, volume->read_only, patience_ms);
    if (!find_disk(volume->serial, device, sizeof device, patience_ms)) {
        errno = ENODEV;
        return 1;
    }
    return !make_directories(volume->path) || mount_above(device, volume->serial, volume->path, volume->overlay);
}

static bool parse_volume(const char *text, struct volume *volume)
{
    char mode[4];
    int length = 0;
    if (sscanf(text, "%63s %3s %n", volume->serial, mode, &length) != 2 || !length || text[length] != '/')
        return false;
    volume->read_only = strcmp(mode, "rw") != 0;
    volume->path = text + length;
    volume->overlay = -1;
    if (mode[0] == 'o')
        return parse_overlay(mode + 1, &volume->overlay);
    return !strcmp(mode, "ro") || !strcmp(mode, "rw");
}

bool is_volume(const char *text)
{
    struct volume volume;
    return parse_volume(text, &volume);
}

const char *mount_volumes(struct pairs settings, int patience_ms)
{
    const char *key, *value;
    struct volume volume;
    while (pairs_next(&settings, &key, &value))
        if (!strcmp(key, "mount") && parse_volume(value, &volume) &&
            mount_volume(&volume, patience_ms))
            return volume.path;
    return NULL;
}

int verb_mount(struct pairs request)
{
    const char *overlay = pairs_find(request, "overlay", NULL);
    struct volume volume = {.overlay = -1, .path = pairs_find(request, "path", "")};
    snprintf(volume.serial, sizeof volume.serial, "%s", pairs_find(request, "serial", ""));
    volume.read_only = !strcmp(pairs_find(request, "read_only", "0"), "1");
    if (overlay && !parse_overlay(overlay, &volume.overlay))
        return fail("invalid", "overlay: malformed");
    return mount_volume(&volume, MOUNT_PATIENCE_MS) ? fail_errno(volume.path) : 0;
}

/* Wherever the disk is mounted; nowhere is fine. */
int verb_grow(struct pairs request)
{
    char device[280];
    struct mntent *entry;
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    if (!find_disk(pairs_find(request, "serial", ""), device, sizeof device, 0))
        return 0;
    while (mounts && (entry = getmntent(mounts)))
        if (!strcmp(entry->mnt_fsname, device) && !strcmp(entry->mnt_type, "ext4"))
            grow_disk(device, entry->mnt_dir);
    if (mounts)
        endmntent(mounts);
    return 0;
}

int verb_umount(struct pairs request)
{
    const char *path = pairs_find(request, "path", "");
    sync();
    if (umount2(path, UMOUNT_NOFOLLOW) && errno != EINVAL && errno != ENOENT)
        return fail_errno(path);
    return 0;
}

/* All that is written is on its disks; an image need not have a program for it. */
int verb_sync(struct pairs request)
{
    (void)request;
    sync();
    return 0;
}

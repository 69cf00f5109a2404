/* Verbs about names: what a folder holds, and what is done to one name at a time. They run in a child, as root. */
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *kind_of(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG: return "file";
    case S_IFDIR: return "directory";
    case S_IFLNK: return "link";
    case S_IFCHR: return "character";
    case S_IFBLK: return "block";
    case S_IFIFO: return "fifo";
    default: return "socket";
    }
}

/* One line of pairs for each entry, in no order: `name` is the first of its pairs. */
static bool tell(int folder, const char *name)
{
    struct stat info;
    char text[64];
    struct buffer out = {0};
    if (fstatat(folder, name, &info, AT_SYMLINK_NOFOLLOW))
        return true; /* it went meanwhile */
    pairs_add(&out, "name", name);
    pairs_add(&out, "kind", kind_of(info.st_mode));
    const struct {
        const char *key;
        long long value;
    } numbers[] = {{"mode", info.st_mode & 07777}, {"size", info.st_size}, {"uid", info.st_uid}, {"gid", info.st_gid}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        snprintf(text, sizeof text, "%lld", numbers[i].value);
        pairs_add(&out, numbers[i].key, text);
    }
    snprintf(text, sizeof text, "%lld.%09ld", (long long)info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
    pairs_add(&out, "mtime", text);
    bool done = true;
    for (size_t sent = 0; sent < out.size && done;) {
        ssize_t part = write(1, out.data + sent, out.size - sent);
        done = part > 0;
        sent += done ? (size_t)part : 0;
    }
    buffer_free(&out);
    return done;
}

int verb_list(struct pairs request)
{
    const char *path = pairs_find(request, "path", "");
    DIR *folder = opendir(path);
    struct dirent *entry;
    if (!folder)
        return fail_errno(path);
    while ((entry = readdir(folder)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") && !tell(dirfd(folder), entry->d_name))
            return fail_errno(path);
    return 0;
}

/* -- changes ----------------------------------------------------------------------------------------------- */

static int change_mode(const char *path, const char *to)
{
    return chmod(path, (mode_t)strtoul(to, NULL, 8) & 07777);
}

static int make_folder(const char *path, const char *to)
{
    return mkdir(path, 0777) || change_mode(path, to);
}

static int remove_folder(const char *path, const char *to)
{
    (void)to;
    return rmdir(path);
}

static int remove_name(const char *path, const char *to)
{
    (void)to;
    return unlink(path);
}

static int rename_new(const char *path, const char *to)
{
    return (int)syscall(SYS_renameat2, AT_FDCWD, path, AT_FDCWD, to, 1 /* RENAME_NOREPLACE */);
}

static int link_to(const char *path, const char *to)
{
    return symlink(to, path);
}

static int change_owner(const char *path, const char *to)
{
    unsigned uid, gid;
    if (sscanf(to, "%u:%u", &uid, &gid) == 2)
        return chown(path, uid, gid);
    errno = EINVAL;
    return -1;
}

static int change_times(const char *path, const char *to)
{
    struct timespec times[2] = {{0}, {0}};
    long long accessed, modified;
    if (sscanf(to, "%lld:%lld", &accessed, &modified) != 2) {
        errno = EINVAL;
        return -1;
    }
    times[0].tv_sec = accessed;
    times[1].tv_sec = modified;
    return utimensat(AT_FDCWD, path, times, 0);
}

static int change_size(const char *path, const char *to)
{
    return truncate(path, strtoll(to, NULL, 10));
}

int verb_change(struct pairs request)
{
    static const struct {
        const char *how;
        int (*change)(const char *path, const char *to);
    } all[] = {{"mkdir", make_folder}, {"rmdir", remove_folder}, {"unlink", remove_name}, {"rename", rename_new},
               {"replace", rename},    {"symlink", link_to},     {"chmod", change_mode},  {"chown", change_owner},
               {"utime", change_times}, {"truncate", change_size}};
    const char *how = pairs_find(request, "how", ""), *path = pairs_find(request, "path", "");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(how, all[i].how))
            return all[i].change(path, pairs_find(request, "to", "")) ? fail_errno(path) : 0;
    return fail("unsupported", "how: unknown");
}

int verb_real(struct pairs request)
{
    char resolved[PATH_MAX];
    const char *path = pairs_find(request, "path", "");
    if (!realpath(path, resolved))
        return fail_errno(path);
    return write(1, resolved, strlen(resolved)) > 0 ? 0 : fail_errno(path);
}

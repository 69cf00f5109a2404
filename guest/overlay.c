/* What a guest writes above a volume that it only reads.
 *
 * It goes to a file system of its own, which is a file on the data disk: so it takes no more than the size of that, and is
 * wherever the data disk is: in snapshots, in forks, after a stop. The host has put the empty file there. Its blocks are
 * taken before it is used for the first time, since a full data disk must not become an error in the middle of it.
 */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of linux/loop.h, which musl does not have. */
enum { LOOP_CONFIGURE = 0x4C0A, LOOP_CTL_GET_FREE = 0x4C82, AUTOCLEAR = 4, ATTEMPTS = 20 };

struct loop_info {
    uint64_t device, inode, rdevice, offset, size_limit;
    uint32_t number, encrypt_type, encrypt_key_size, flags;
    uint8_t file_name[64], crypt_name[64], encrypt_key[32];
    uint64_t init[2];
};

struct loop_config {
    uint32_t file, block_size;
    struct loop_info info;
    uint64_t reserved[8];
};

static bool is_there(const char *source, const char *path)
{
    bool found = false;
    struct mntent *entry;
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    while (mounts && (entry = getmntent(mounts)))
        found |= !strcmp(entry->mnt_dir, path) && !strcmp(entry->mnt_fsname, source);
    if (mounts)
        endmntent(mounts);
    return found;
}

/* All of its blocks; those that nothing was written to read as zeros. */
static int open_whole(const char *path)
{
    struct stat info;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return -1;
    if (fstat(file, &info) == 0 &&
        ((int64_t)info.st_blocks * 512 >= info.st_size || fallocate(file, 0, 0, info.st_size) == 0))
        return file;
    int why = errno;
    close(file);
    errno = why;
    return -1;
}

/* The file as a block device, which is given back with its last user. */
static int open_loop(int file, char *device, size_t size)
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), loop = -1;
    struct loop_config how = {.file = (uint32_t)file, .info = {.flags = AUTOCLEAR}};
    for (int i = 0; control >= 0 && loop < 0 && i < ATTEMPTS; i++) { /* somebody may be quicker at a free one */
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        if (number < 0)
            break;
        snprintf(device, size, "/dev/loop%d", number);
        loop = open(device, O_RDWR | O_CLOEXEC);
        if (loop >= 0 && ioctl(loop, LOOP_CONFIGURE, &how)) {
            int why = errno;
            close(loop);
            loop = -1;
            errno = why;
            if (why != EBUSY)
                break;
        }
    }
    int why = errno;
    if (control >= 0)
        close(control);
    errno = why;
    return loop;
}

/* A folder for what is written, which looks as the volume's own does. */
static int make_upper(const char *lower, const char *upper, const char *work)
{
    struct stat info;
    if (mkdir(upper, 0755) == 0 && stat(lower, &info) == 0 &&
        (chown(upper, info.st_uid, info.st_gid) || chmod(upper, info.st_mode & 07777)))
        return -1;
    return mkdir(work, 0700) && errno != EEXIST ? -1 : 0;
}

struct places {
    char file[64], lower[64], space[64], upper[96], work[96], loop[32], source[128];
};

static int lay(const struct places *at, const char *path)
{
    char options[400];
    if (make_upper(at->lower, at->upper, at->work))
        return 1;
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", at->lower, at->upper, at->work);
    return mount(at->source, path, "overlay", MS_NOATIME, options) != 0;
}

static int mount_parts(const struct places *at, const char *device, const char *path)
{
    if ((mkdir(at->lower, 0700) && errno != EEXIST) || (mkdir(at->space, 0700) && errno != EEXIST))
        return 1;
    if (mount(device, at->lower, "ext4", MS_RDONLY, "") && mount(device, at->lower, "ext4", MS_RDONLY, "noload"))
        return 1;
    int failed = mount(at->loop, at->space, "ext4", MS_NOATIME, "") != 0;
    if (!failed) {
        failed = lay(at, path);
        int why = errno;
        umount2(at->space, MNT_DETACH); /* what lies below an overlay it holds itself */
        errno = why;
    }
    int why = errno;
    umount2(at->lower, MNT_DETACH);
    errno = why;
    return failed;
}

int mount_above(const char *device, const char *serial, const char *path, int overlay)
{
    struct places at;
    char name[32];
    snprintf(at.source, sizeof at.source, "/dev/overlay/%s", serial); /* a name only; it is left as the disks are */
    if (is_there(at.source, path))
        return 0;
    snprintf(name, sizeof name, "overlays/%d", overlay);
    if (data_path(at.file, sizeof at.file, name) || data_path(at.lower, sizeof at.lower, "overlays/lower") ||
        data_path(at.space, sizeof at.space, "overlays/space"))
        return 1;
    snprintf(at.upper, sizeof at.upper, "%s/upper", at.space);
    snprintf(at.work, sizeof at.work, "%s/work", at.space);
    int file = open_whole(at.file);
    if (file < 0)
        return 1;
    int loop = open_loop(file, at.loop, sizeof at.loop);
    int failed = loop < 0 || mount_parts(&at, device, path);
    int why = errno;
    if (loop >= 0)
        close(loop);
    close(file);
    errno = why;
    return failed;
}

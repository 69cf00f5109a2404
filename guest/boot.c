/* From an empty initial RAM disk to the guest's own root: modules, the shared read-only root with a writable layer over
 * it, network, volumes, the workload. What fails is said on the console, and the machine powers off. */
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char config_file[] = "/sys/firmware/qemu_fw_cfg/by_name/opt/polyvisor/config/raw";
enum { PATIENCE_MS = 20000, GOODBYE_MS = 2000 };

struct pairs config;
bool is_init;

static noreturn void give_up(const char *what)
{
    dprintf(2, "polyvisor: %s: %s\n", what, strerror(errno));
    power('p');
}

/* The writable layer, out of sight since the root was entered. */
static int data_folder = -1;
static char data_disk[280], data_size[32];

/* Disks are left clean where that is possible, so that who mounts them next has nothing to repair. */
static void leave_disks(void)
{
    struct mntent *entry;
    char paths[16][256];
    size_t count = 0;
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    while (mounts && count < 16 && (entry = getmntent(mounts)))
        if (!strncmp(entry->mnt_fsname, "/dev/", 5))
            snprintf(paths[count++], sizeof paths[0], "%s", entry->mnt_dir);
    if (mounts)
        endmntent(mounts);
    while (count--)
        umount2(paths[count], UMOUNT_NOFOLLOW);
    if (data_folder >= 0 && fchdir(data_folder) == 0)
        mount(NULL, ".", NULL, MS_REMOUNT | MS_RDONLY, NULL);
}

noreturn void power(int how)
{
    if (getpid() != 1)
        _exit(1);
    kill(-1, SIGKILL);
    for (int64_t end = now_ms() + GOODBYE_MS; waitpid(-1, NULL, WNOHANG) >= 0 && now_ms() < end;)
        usleep(1000);
    sync();
    leave_disks();
    reboot(how == 'r' ? RB_AUTOBOOT : RB_POWER_OFF);
    for (;;)
        pause();
}

void ask_shutdown(void)
{
    bool has_workload = false;
    if (!is_init) {
        if (fork() == 0) {
            setsid();
            execl("/bin/sh", "sh", "-c", "exec systemctl poweroff || exec poweroff", (char *)NULL);
            _exit(127);
        }
        return;
    }
    for (struct process *process = processes; process; process = process->next)
        if (!process->channel) {
            has_workload = true;
            kill(process->pid, SIGTERM); /* it alone: what it started is its own business */
            kill(process->pid, SIGCONT);
        }
    if (!has_workload)
        power('p');
}

/* -- modules ----------------------------------------------------------------------------------------------- */

static void load_modules(const char *group)
{
    char line[256];
    FILE *list = fopen("/modules/order", "re");
    if (!list)
        return;
    while (fgets(line, sizeof line, list)) {
        char path[280], *name = strchr(line, ' ');
        if (!name)
            continue;
        *name++ = '\0';
        if (strcmp(line, group))
            continue;
        name[strcspn(name, "\n")] = '\0';
        snprintf(path, sizeof path, "/modules/%s", name);
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file < 0 || (syscall(SYS_finit_module, file, "", 0) && errno != EEXIST))
            dprintf(2, "polyvisor: module %s: %s\n", name, strerror(errno));
        close(file);
        unlink(path); /* the initial RAM disk is memory */
    }
    fclose(list);
}

/* -- devices ----------------------------------------------------------------------------------------------- */

bool read_line(const char *path, char *text, size_t size)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = file < 0 ? -1 : read(file, text, size - 1);
    if (file >= 0)
        close(file);
    if (got < 0)
        return false;
    text[got] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return true;
}

/* The first entry of `folder` whose file `file` holds `value`. */
static bool look_for(const char *folder, const char *file, const char *value, char *found, size_t size)
{
    DIR *entries = opendir(folder);
    bool is_found = false;
    for (struct dirent *entry; entries && !is_found && (entry = readdir(entries));) {
        char path[512], text[128];
        snprintf(path, sizeof path, "%s/%s/%s", folder, entry->d_name, file);
        is_found = entry->d_name[0] != '.' && read_line(path, text, sizeof text) && !strcmp(text, value);
        if (is_found)
            snprintf(found, size, "/dev/%s", entry->d_name);
    }
    if (entries)
        closedir(entries);
    return is_found;
}

static bool await(const char *folder, const char *file, const char *value, char *found, size_t size, int patience_ms)
{
    for (int64_t end = now_ms() + patience_ms;; usleep(2000)) {
        if (look_for(folder, file, value, found, size) && access(found, F_OK) == 0)
            return true;
        if (now_ms() >= end)
            return false;
    }
}

bool find_disk(const char *serial, char *device, size_t size, int patience_ms)
{
    return await("/sys/block", "serial", serial, device, size, patience_ms);
}

int open_port(const char *name, int patience_ms)
{
    char device[280];
    if (!await("/sys/class/virtio-ports", "name", name, device, sizeof device, patience_ms))
        return -1;
    return open(device, O_RDWR | O_CLOEXEC);
}

/* -- the root ---------------------------------------------------------------------------------------------- */

static void must_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
    mkdir(target, 0755);
    if (mount(source, target, type, flags, data))
        give_up(target);
}

static char config_text[FRAME_MOST];

static void read_config(void)
{
    int file = open(config_file, O_RDONLY | O_CLOEXEC);
    size_t size = 0;
    ssize_t got = 0;
    while (file >= 0 && (got = read(file, config_text + size, sizeof config_text - size)) > 0)
        size += (size_t)got;
    if (file < 0 || got < 0 || !pairs_start(&config, config_text, size))
        give_up("configuration");
    close(file);
}

void replace_config(struct pairs settings)
{
    size_t size = (size_t)(settings.end - settings.at);
    if (size > sizeof config_text)
        abort();
    memcpy(config_text, settings.at, size);
    config = (struct pairs){config_text, config_text + size};
}

/* The data disk may be larger than what it was made from, and a copy's larger than at the boot; looked at anew every
 * time, but told to the file system, which is slow, only when it has changed. */
void grow_data(void)
{
    char path[320], size[sizeof data_size];
    snprintf(path, sizeof path, "/sys/class/block/%s/size", data_disk + strlen("/dev/"));
    if (!read_line(path, size, sizeof size) || !strcmp(size, data_size))
        return;
    memcpy(data_size, size, sizeof size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", data_folder);
    grow_disk(data_disk, path);
}

static void mount_root(void)
{
    char disk[280];
    if (!find_disk("pvroot", disk, sizeof disk, PATIENCE_MS))
        give_up("root disk");
    must_mount(disk, "/lower", "squashfs", MS_RDONLY, "");
    if (!find_disk("pvdata", data_disk, sizeof data_disk, PATIENCE_MS))
        give_up("data disk");
    must_mount(data_disk, "/data", "ext4", MS_NOATIME, "");
    data_folder = open("/data", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    grow_data();
    mkdir("/data/upper", 0755);
    mkdir("/data/work", 0755);
    must_mount("overlay", "/root", "overlay", MS_NOATIME, "lowerdir=/lower,upperdir=/data/upper,workdir=/data/work");
}

int data_path(char *path, size_t size, const char *name)
{
    if (data_folder < 0)
        errno = EOPNOTSUPP;
    else /* by the agent's own descriptor: its children have closed theirs */
        snprintf(path, size, "/proc/1/fd/%d/%s", data_folder, name);
    return data_folder < 0 ? -1 : 0;
}

static void enter_root(void)
{
    static const char *const moved[] = {"dev", "proc", "sys"};
    char target[32];
    for (size_t i = 0; i < 3; i++) {
        snprintf(target, sizeof target, "/root/%s", moved[i]);
        mkdir(target, 0755);
        if (mount(target + 5, target, NULL, MS_MOVE, NULL))
            give_up(target);
    }
    if (chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
        give_up("root");
}

static void mount_kernel_folders(void)
{
    static const struct {
        const char *target, *type, *data;
        unsigned long flags;
    } all[] = {
        {"/dev/pts", "devpts", "gid=5,mode=0620,ptmxmode=0666", MS_NOSUID | MS_NOEXEC},
        {"/dev/shm", "tmpfs", "mode=1777", MS_NOSUID | MS_NODEV},
        {"/run", "tmpfs", "mode=0755", MS_NOSUID | MS_NODEV},
        {"/sys/fs/cgroup", "cgroup2", "", MS_NOSUID | MS_NODEV | MS_NOEXEC},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        mkdir(all[i].target, 0755);
        mount(all[i].type, all[i].target, all[i].type, all[i].flags, all[i].data); /* a guest can do without */
    }
    static const char *const links[][2] = {
        {"/proc/self/fd", "/dev/fd"}, {"fd/0", "/dev/stdin"}, {"fd/1", "/dev/stdout"}, {"fd/2", "/dev/stderr"}};
    for (size_t i = 0; i < 4; i++)
        (void)!symlink(links[i][0], links[i][1]);
}

/* What no workload waits for is loaded once it runs, by a child that stays in the initial RAM disk until then. */
static int prepare_late_modules(void)
{
    int ends[2];
    char nothing;
    if (pipe2(ends, O_CLOEXEC))
        give_up("pipe");
    if (fork() == 0) {
        close(ends[1]);
        (void)!read(ends[0], &nothing, 1);
        load_modules("late");
        _exit(0);
    }
    close(ends[0]);
    return ends[1];
}

static int catch_signals(void)
{
    sigset_t heard;
    sigemptyset(&heard);
    sigaddset(&heard, SIGCHLD);
    if (is_init) {
        sigaddset(&heard, SIGTERM);
        sigaddset(&heard, SIGUSR1);
        sigaddset(&heard, SIGUSR2);
    }
    sigprocmask(SIG_BLOCK, &heard, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &heard, SFD_CLOEXEC | SFD_NONBLOCK);
}

void say_up(void)
{
    dprintf(2, "polyvisor: %s is up\n", pairs_find(config, "hostname", "the guest"));
}

/* As PID 1 of an empty root: all the way to a running workload. */
static void boot(void)
{
    must_mount("dev", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
    int console = open("/dev/console", O_RDWR | O_NOCTTY);
    for (int i = 0; i < 3 && console >= 0; i++)
        dup2(console, i);
    must_mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "");
    must_mount("sys", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "");
    load_modules("boot");
    read_config();
    if (pairs_find(config, "address", NULL))
        load_modules("net");
    if (pairs_find(config, "overlays", NULL))
        load_modules("overlays");
    mount_root();
    int late = prepare_late_modules();
    enter_root();
    mount_kernel_folders();
    umask(022);
    if (set_network(config))
        give_up("network");
    const char *machine_id = pairs_find(config, "machine_id", NULL);
    if (machine_id)
        set_machine_id(machine_id);
    const char *failed = mount_volumes(config, PATIENCE_MS);
    if (failed)
        give_up(failed);
    workload_journal(open_port("polyvisor.journal", PATIENCE_MS));
    workload_start();
    say_up();
    close(late);
}

int main(int argc, char **argv)
{
    bool as_service = argc > 1 && !strcmp(argv[1], "--service");
    if (getpid() != 1 && !as_service) {
        dprintf(2, "usage: %s --service\n", argv[0]);
        return 2;
    }
    if (!as_service)
        is_init = true;
    int signals = catch_signals();
    if (is_init)
        boot();
    int port = open_port("polyvisor.agent", PATIENCE_MS);
    if (port < 0 || fcntl(port, F_SETFL, O_NONBLOCK))
        give_up("agent port");
    session_run(port, signals);
}

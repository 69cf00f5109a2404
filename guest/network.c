/* The guest's place on the network: its link, its address, the way out, its name and who resolves others. */
#include "agent.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAC_TEXT = 17, TEXT_MOST = 64 * 1024 };

/* -- files ------------------------------------------------------------------------------------------------- */

/* In place, and cut off behind it only where there is more: to empty a file first is a transaction of the file system,
 * which a copy of a machine, whose code has to be translated anew, waits for. */
bool write_text(const char *path, const char *text)
{
    int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    ssize_t length = (ssize_t)strlen(text);
    struct stat info;
    bool done = file >= 0 && write(file, text, (size_t)length) == length;
    if (done && fstat(file, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > length)
        done = ftruncate(file, length) == 0;
    if (file >= 0)
        close(file);
    return done;
}

/* A small file as a text on the heap; NULL when there is none. */
static char *read_text(const char *path)
{
    int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    char *text = file < 0 ? NULL : calloc(1, TEXT_MOST + 1);
    ssize_t got = text ? read(file, text, TEXT_MOST) : -1;
    if (file >= 0)
        close(file);
    if (got >= 0)
        return text;
    free(text);
    return NULL;
}

/* -- links ------------------------------------------------------------------------------------------------- */

bool parse_mac(const char *text, uint8_t mac[MAC_SIZE])
{
    bool is_one = strlen(text) == MAC_TEXT;
    for (size_t i = 0; is_one && i < MAC_TEXT; i++)
        is_one = i % 3 == 2 ? text[i] == ':' : isxdigit((unsigned char)text[i]) != 0;
    for (size_t i = 0; is_one && i < MAC_SIZE; i++)
        mac[i] = (uint8_t)strtoul(text + 3 * i, NULL, 16);
    return is_one && !(mac[0] & 1) && memcmp(mac, (uint8_t[MAC_SIZE]){0}, MAC_SIZE) != 0;
}

static void write_mac(const uint8_t mac[MAC_SIZE], char text[MAC_TEXT + 1])
{
    snprintf(text, MAC_TEXT + 1, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

static int raise_link(int sock, const char *name)
{
    struct ifreq link = {0};
    strncpy(link.ifr_name, name, sizeof link.ifr_name - 1);
    if (ioctl(sock, SIOCGIFFLAGS, &link))
        return 1;
    link.ifr_flags |= IFF_UP | IFF_RUNNING;
    return ioctl(sock, SIOCSIFFLAGS, &link);
}

/* Among the links that are devices, not made by the guest: the one with that hardware address; else the only one; with
 * no address asked for, the first. */
static bool look_for_link(const char *mac, char *name, size_t size)
{
    size_t count = 0;
    bool is_it = false;
    DIR *links = opendir("/sys/class/net");
    for (struct dirent *entry; links && !is_it && (entry = readdir(links));) {
        char path[300], text[32];
        snprintf(path, sizeof path, "/sys/class/net/%s/device", entry->d_name);
        if (entry->d_name[0] == '.' || access(path, F_OK))
            continue;
        snprintf(path, sizeof path, "/sys/class/net/%s/address", entry->d_name);
        is_it = mac && read_line(path, text, sizeof text) && !strcasecmp(text, mac);
        if (is_it || !count++)
            snprintf(name, size, "%.*s", IFNAMSIZ - 1, entry->d_name);
    }
    if (links)
        closedir(links);
    errno = count > 1 ? ENOTUNIQ : ENODEV;
    return is_it || count == 1 || (count && !mac);
}

/* The link that was set up at boot, while it is there: a copy of a machine knows it without reading /sys, for which much
 * of its kernel would have to be translated anew. */
static char own_link[IFNAMSIZ];

static bool know_link(char *name, size_t size)
{
    struct ifreq link = {0};
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    memcpy(link.ifr_name, own_link, sizeof own_link);
    bool is_there = own_link[0] && ioctl(sock, SIOCGIFHWADDR, &link) == 0;
    close(sock);
    if (is_there)
        snprintf(name, size, "%s", own_link);
    return is_there;
}

bool find_link(const char *mac, char *name, size_t size, int patience_ms)
{
    for (int64_t end = now_ms() + patience_ms;; usleep(2000)) {
        if ((mac && know_link(name, size)) || look_for_link(mac, name, size))
            return true;
        if (now_ms() >= end)
            return false;
    }
}

/* -- addresses --------------------------------------------------------------------------------------------- */

static struct sockaddr as_address(const char *text)
{
    union {
        struct sockaddr any;
        struct sockaddr_in inet;
    } address = {.inet = {.sin_family = AF_INET}};
    inet_pton(AF_INET, text, &address.inet.sin_addr);
    return address.any;
}

static int set_address(int sock, const char *name, const char *address)
{
    char ip[64], mask[INET_ADDRSTRLEN];
    struct ifreq link = {0};
    snprintf(ip, sizeof ip, "%s", address);
    char *slash = strchr(ip, '/');
    unsigned prefix = slash ? (unsigned)atoi(slash + 1) : 24;
    if (slash)
        *slash = '\0';
    struct in_addr bits = {htonl(prefix ? ~0U << (32 - prefix) : 0)};
    inet_ntop(AF_INET, &bits, mask, sizeof mask);
    strncpy(link.ifr_name, name, sizeof link.ifr_name - 1);
    link.ifr_addr = as_address(ip);
    if (ioctl(sock, SIOCSIFADDR, &link))
        return 1;
    link.ifr_netmask = as_address(mask);
    return ioctl(sock, SIOCSIFNETMASK, &link) || raise_link(sock, name);
}

static int set_gateway(int sock, const char *gateway)
{
    struct rtentry route = {.rt_dst = as_address("0.0.0.0"), .rt_genmask = as_address("0.0.0.0"),
                            .rt_gateway = as_address(gateway), .rt_flags = RTF_UP | RTF_GATEWAY};
    while (ioctl(sock, SIOCDELRT, &(struct rtentry){.rt_dst = as_address("0.0.0.0"),
                                                    .rt_genmask = as_address("0.0.0.0"), .rt_flags = RTF_UP}) == 0)
        ;
    return ioctl(sock, SIOCADDRT, &route);
}

/* -- names ------------------------------------------------------------------------------------------------- */

static const char resolvers[] = "/etc/resolv.conf", hosts[] = "/etc/hosts";

static void name_host(const char *hostname, const char *address)
{
    char text[512];
    sethostname(hostname, strlen(hostname));
    snprintf(text, sizeof text, "%s\n", hostname);
    mkdir("/etc", 0755);
    write_text("/etc/hostname", text);
    snprintf(text, sizeof text, "127.0.0.1\tlocalhost\n::1\tlocalhost\n%.*s\t%s\n", (int)strcspn(address, "/"),
             address, hostname);
    write_text(hosts, text);
}

/* One line of the hosts file: where the old name stands, alone or before a domain, the new one does; and its address
 * follows, unless it is one of the loopback. */
static void rename_line(struct buffer *out, const char *line, size_t size, const char *old, const char *hostname,
                        const char *address)
{
    size_t length = strlen(old), first = strcspn(line, " \t\n#"), at = first;
    bool is_named = false, is_loop = !strncmp(line, "127.", 4) || !strncmp(line, "::1", 3);
    struct buffer rest = {0};
    while (at < size) {
        size_t gap = strspn(line + at, " \t"), word = strcspn(line + at + gap, " \t\n#");
        const char *begin = line + at + gap;
        if (!gap || !word || at + gap + word > size)
            break;
        bool is_it = word >= length && !strncasecmp(begin, old, length) && (word == length || begin[length] == '.');
        buffer_add(&rest, line + at, gap);
        buffer_add(&rest, is_it ? hostname : begin, is_it ? strlen(hostname) : word);
        if (is_it)
            buffer_add(&rest, begin + length, word - length);
        is_named = is_named || is_it;
        at += gap + word;
    }
    if (is_named && address && !is_loop)
        buffer_add(out, address, strcspn(address, "/"));
    else
        buffer_add(out, line, first);
    buffer_add(out, rest.data, rest.size);
    buffer_add(out, line + at, size - at);
    buffer_free(&rest);
}

/* The name that a running guest had gives way to another, `NULL`: stays, wherever it stood; what else its owner wrote
 * stays too. A root that cannot be written to keeps its files. */
int rename_host(const char *hostname, const char *address)
{
    char old[256] = "", text[300];
    struct buffer out = {0};
    gethostname(old, sizeof old - 1);
    if (hostname) {
        if (sethostname(hostname, strlen(hostname)))
            return 1;
        snprintf(text, sizeof text, "%s\n", hostname);
        write_text("/etc/hostname", text);
    }
    char *before = *old && strcmp(old, "localhost") ? read_text(hosts) : NULL;
    for (const char *line = before; line && *line;) {
        size_t size = strcspn(line, "\n");
        rename_line(&out, line, size + (line[size] == '\n'), old, hostname ? hostname : old, address);
        line += size + (line[size] == '\n');
    }
    buffer_add(&out, "", 1);
    if (before && strcmp(before, (const char *)out.data))
        write_text(hosts, (const char *)out.data);
    free(before);
    buffer_free(&out);
    return 0;
}

/* Another server to ask for names; what else was said of resolving stays. A link that leads somewhere belongs to a
 * resolver in the guest, which is told by DHCP. */
static void change_resolver(const char *dns)
{
    struct stat link, file;
    struct buffer out = {0};
    bool is_link = lstat(resolvers, &link) == 0 && S_ISLNK(link.st_mode);
    if (is_link && stat(resolvers, &file) == 0)
        return;
    buffer_add(&out, "nameserver ", 11);
    buffer_add(&out, dns, strlen(dns));
    char *before = read_text(resolvers);
    for (char *line = before ? strtok(before, "\n") : NULL; line; line = strtok(NULL, "\n"))
        if (strncmp(line, "nameserver", 10)) {
            buffer_add(&out, "\n", 1);
            buffer_add(&out, line, strlen(line));
        }
    buffer_add(&out, "\n", 2);
    if (is_link)
        unlink(resolvers);
    write_text(resolvers, (const char *)out.data);
    free(before);
    buffer_free(&out);
}

/* -- at boot ----------------------------------------------------------------------------------------------- */

int set_names(struct pairs settings)
{
    char text[512];
    const char *address = pairs_find(settings, "address", NULL), *hostname = pairs_find(settings, "hostname", NULL);
    const char *search = pairs_find(settings, "search", NULL);
    if (hostname)
        name_host(hostname, address ? address : "127.0.1.1");
    if (!address)
        return 0;
    int length = snprintf(text, sizeof text, "nameserver %s\n", pairs_find(settings, "dns", "127.0.0.1"));
    if (search && length < (int)sizeof text)
        snprintf(text + length, sizeof text - (size_t)length, "search %s\n", search);
    unlink(resolvers); /* an image may have a link that leads nowhere */
    return !write_text(resolvers, text);
}

int set_network(struct pairs settings)
{
    char name[IFNAMSIZ] = "";
    const char *address = pairs_find(settings, "address", NULL);
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), failed = raise_link(sock, "lo") || set_names(settings);
    if (address && !failed)
        failed = !find_link(NULL, name, sizeof name, LINK_PATIENCE_MS) || set_address(sock, name, address) ||
                 set_gateway(sock, pairs_find(settings, "gateway", "0.0.0.0"));
    if (address && !failed)
        memcpy(own_link, name, sizeof own_link);
    close(sock);
    return failed;
}

int verb_network(struct pairs request)
{
    return set_network(request) ? fail_errno("network") : 0;
}

/* -- of a running guest ------------------------------------------------------------------------------------ */

/* The files by which a guest knows its link at the next boot name it by its hardware address, if cloud-init or an
 * installer wrote them: both addresses are as long, so the new one goes where the old one stood. */
static void repin(const char *old, const char *mac)
{
    static const char *const folders[] = {"/etc/systemd/network", "/etc/netplan", "/etc/network",
                                          "/etc/network/interfaces.d", "/etc/udev/rules.d",
                                          "/etc/NetworkManager/system-connections"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        DIR *files = opendir(folders[i]);
        for (struct dirent *entry; files && (entry = readdir(files));) {
            char path[512];
            struct stat info;
            snprintf(path, sizeof path, "%s/%s", folders[i], entry->d_name);
            char *text = lstat(path, &info) == 0 && S_ISREG(info.st_mode) ? read_text(path) : NULL;
            int file = text && strcasestr(text, old) ? open(path, O_WRONLY | O_CLOEXEC) : -1;
            for (const char *at = text; file >= 0 && (at = strcasestr(at, old)); at += MAC_TEXT)
                (void)!pwrite(file, mac, MAC_TEXT, at - text);
            if (file >= 0)
                close(file);
            free(text);
        }
        if (files)
            closedir(files);
    }
}

/* IPv6 addresses are made from the hardware address, or were given to it: made anew where IPv6 is in use. */
static void renew_ipv6(const char *name)
{
    char path[128], text[8];
    snprintf(path, sizeof path, "/proc/sys/net/ipv6/conf/%s/disable_ipv6", name);
    if (read_line(path, text, sizeof text) && !strcmp(text, "0") && write_text(path, "1"))
        write_text(path, "0");
}

/* Many drivers change the address of a link that is up; for the others it goes down for that long. */
static int set_mac(int sock, const char *name, const char *wanted)
{
    struct ifreq link = {0}, flags = {0};
    uint8_t mac[MAC_SIZE];
    char old[MAC_TEXT + 1], text[MAC_TEXT + 1];
    strncpy(link.ifr_name, name, sizeof link.ifr_name - 1);
    strncpy(flags.ifr_name, name, sizeof flags.ifr_name - 1);
    if (!parse_mac(wanted, mac) || ioctl(sock, SIOCGIFHWADDR, &link) || ioctl(sock, SIOCGIFFLAGS, &flags))
        return 1;
    write_mac((const uint8_t *)link.ifr_hwaddr.sa_data, old);
    write_mac(mac, text);
    if (!strcmp(old, text))
        return 0;
    link.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(link.ifr_hwaddr.sa_data, mac, MAC_SIZE);
    int failed = ioctl(sock, SIOCSIFHWADDR, &link);
    if (failed && errno == EBUSY) {
        flags.ifr_flags = (short)(flags.ifr_flags & ~IFF_UP);
        failed = ioctl(sock, SIOCSIFFLAGS, &flags) || ioctl(sock, SIOCSIFHWADDR, &link);
        int number = errno;
        raise_link(sock, name);
        errno = number;
    }
    if (failed)
        return 1;
    repin(old, text);
    renew_ipv6(name);
    return 0;
}

int move_link(const char *name, struct pairs settings, const char **field)
{
    const char *mac = pairs_find(settings, "mac", NULL), *address = pairs_find(settings, "address", NULL);
    const char *gateway = pairs_find(settings, "gateway", NULL), *dns = pairs_find(settings, "dns", NULL);
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    *field = NULL;
    if (mac && set_mac(sock, name, mac))
        *field = "mac";
    else if (address && set_address(sock, name, address))
        *field = "address";
    else if (gateway && set_gateway(sock, gateway))
        *field = "gateway";
    int number = errno;
    close(sock);
    errno = number;
    if (!*field && dns)
        change_resolver(dns);
    return *field != NULL;
}

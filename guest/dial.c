/* Connections to what listens in the guest: a channel whose two streams are one socket, without a child. */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { PORT_MOST = 65535 };

/* The guest's own address, as its network sees it: what listens on its loopback alone is not meant for others. Where it
 * has none, its loopback is all there is. Who may do anything in the guest is let in there as well, if he asks for it. */
static struct sockaddr_in own_address(uint16_t number, bool loopback)
{
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct ifaddrs *all;
    if (!loopback && !getifaddrs(&all)) {
        for (struct ifaddrs *at = all; at; at = at->ifa_next)
            if (at->ifa_addr && at->ifa_addr->sa_family == AF_INET && !(at->ifa_flags & IFF_LOOPBACK)) {
                own = *(struct sockaddr_in *)(void *)at->ifa_addr;
                break;
            }
        freeifaddrs(all);
    }
    own.sin_port = htons(number);
    return own;
}

/* Its size; 0 with a word for why in *error. */
static socklen_t find_address(struct pairs request, struct sockaddr_storage *found, const char **error)
{
    const char *path = pairs_find(request, "path", NULL);
    if (path) {
        struct sockaddr_un own = {.sun_family = AF_UNIX};
        *error = "path: too long";
        if (strlen(path) >= sizeof own.sun_path)
            return 0;
        strcpy(own.sun_path, path);
        memcpy(found, &own, sizeof own);
        return sizeof own;
    }
    long number = atol(pairs_find(request, "port", "0"));
    *error = "port: there is no such port";
    if (number < 1 || number > PORT_MOST)
        return 0;
    struct sockaddr_in own = own_address((uint16_t)number, pairs_find(request, "loopback", NULL));
    memcpy(found, &own, sizeof own);
    return sizeof own;
}

struct process *dial_start(uint32_t channel, struct pairs request, const char **error)
{
    struct sockaddr_storage own;
    socklen_t size = find_address(request, &own, error);
    if (!size)
        return NULL;
    struct process *link = calloc(1, sizeof *link);
    if (!link)
        abort();
    *link = (struct process){.channel = channel, .pid = -1, .fd = {-1, -1, -1}, .is_verb = true, .is_link = true};
    link->window[OUT] = link->window[ERR] = WINDOW;
    const int on = 1;
    int sock = link->fd[OUT] = socket(own.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (sock >= 0) {
        setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* of a unix socket it is refused, and not missed */
        if (!connect(sock, (struct sockaddr *)&own, size) || errno == EINPROGRESS)
            link->fd[IN] = fcntl(sock, F_DUPFD_CLOEXEC, 0);
    }
    if (link->fd[IN] < 0) {
        *error = strerror(errno);
        process_free(link);
        return NULL;
    }
    return link;
}

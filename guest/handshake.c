/* The third packet of the handshakes that the way out of a user-mode guest leaves open.
 *
 * Debian 12's passt takes our SYN-ACK for an inbound connection and acknowledges it with the client's first bytes: a
 * server that speaks first would wait for a client that waits for it. So the missing ACK is sent from here, to our own
 * kernel, by the way of loopback.
 *
 * Not before passt has seen the SYN-ACK: if it reads one together with what the guest says next, it spins for ever. It
 * reads in order, so an ARP request goes after each SYN-ACK, with a number where a sender's hardware address is, which
 * the answer repeats. By then the connection stands at both of passt's ends, and what is told is so. Where passt's own
 * ACK comes as well, one of the two is a duplicate, which changes nothing (RFC 9293, 3.10.7.4). What is lost is made up
 * for by the kernel, which repeats its SYN-ACK.
 *
 * Who is passt is told by the hardware address that the host gives it; on a bridge nobody has it. */
#include "agent.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netpacket/packet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    ALL_PROTOCOLS = 0x0003, /* outgoing packets are shown to nobody else */
    ARP = 0x0806,
    MARK = 0x0250, /* before our numbers */
    LINK_HEADER = 14,
    SEGMENT_MOST = LINK_HEADER + 60 + 20,
    ACK_SIZE = 40,
    ASK_SIZE = 42,
    PENDING = 64,
    AT_ONCE_MOST = 64, /* the host's turn comes in between */
};

/* Classic BPF; musl has no names for it. */
enum { WORD = 0x20, HALF = 0x28, BYTE = 0x30, BYTE_BEYOND = 0x50, HEADER = 0xb1, AND = 0x54, IF = 0x15, TAKE = 0x06 };
enum { PACKET_TYPE = 0xfffff004, OUTGOING = 4, FLAGS = 0x17, SYN_ACK = 0x12 };

struct instruction {
    uint16_t code;
    uint8_t if_so, if_not;
    uint32_t value;
};

static const struct instruction wanted[] = {
    {HALF, 0, 0, 12},
    {IF, 13, 0, ARP},
    {IF, 0, 21, 0x0800},
    {WORD, 0, 0, PACKET_TYPE}, /* the SYN-ACKs that leave for 02:00:00:00:00:02 */
    {IF, 0, 19, OUTGOING},
    {WORD, 0, 0, 0},
    {IF, 0, 17, 0x02000000},
    {HALF, 0, 0, 4},
    {IF, 0, 15, 0x0002},
    {BYTE, 0, 0, LINK_HEADER + 9},
    {IF, 0, 13, IPPROTO_TCP},
    {HEADER, 0, 0, LINK_HEADER},
    {BYTE_BEYOND, 0, 0, LINK_HEADER + 13},
    {AND, 0, 0, FLAGS},
    {IF, 8, 9, SYN_ACK}, /* without FIN and RST */
    {WORD, 0, 0, 6}, /* the answers that come from there */
    {IF, 0, 7, 0x02000000},
    {HALF, 0, 0, 10},
    {IF, 0, 5, 0x0002},
    {HALF, 0, 0, 20},
    {IF, 0, 3, 2},
    {HALF, 0, 0, 32},
    {IF, 0, 1, MARK},
    {TAKE, 0, 0, SEGMENT_MOST},
    {TAKE, 0, 0, 0},
};

static struct {
    uint8_t ack[ACK_SIZE];
    uint32_t number; /* 0: none */
} pending[PENDING];
static int sender = -1;

int handshake_open(void)
{
    const struct {
        uint16_t count;
        const struct instruction *first;
    } program = {sizeof wanted / sizeof *wanted, wanted};
    const struct sockaddr_ll everywhere = {.sll_family = AF_PACKET, .sll_protocol = htons(ALL_PROTOCOLS)};
    int seen = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); /* hears nothing before it is bound */
    sender = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_RAW);
    if (seen >= 0 && sender >= 0 && !setsockopt(seen, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) &&
        !bind(seen, (const struct sockaddr *)&everywhere, sizeof everywhere))
        return seen;
    if (seen >= 0)
        close(seen);
    return -1;
}

static void put_checksum(uint8_t *ack)
{
    uint32_t sum = IPPROTO_TCP + 20; /* with the addresses, which stand before the ports */
    for (size_t at = 12; at < ACK_SIZE; at += 2)
        sum += (uint32_t)(ack[at] << 8 | ack[at + 1]);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = ~((sum & 0xffff) + (sum >> 16));
    ack[36] = (uint8_t)(sum >> 8);
    ack[37] = (uint8_t)sum;
}

/* All that it says is in what it answers: a copied guest's addresses change. The kernel fills in the rest of the IP
 * header. One hop is enough to reach ourselves. */
static void prepare(uint8_t *ack, const uint8_t *ip, const uint8_t *tcp)
{
    static const uint8_t start[ACK_SIZE] = {0x45, [8] = 1, IPPROTO_TCP, [32] = 0x50, 0x10, 0xff, 0xff};
    uint32_t number;
    memcpy(ack, start, ACK_SIZE);
    memcpy(ack + 12, ip + 16, 4);
    memcpy(ack + 16, ip + 12, 4);
    memcpy(ack + 20, tcp + 2, 2);
    memcpy(ack + 22, tcp, 2);
    memcpy(ack + 24, tcp + 8, 4);
    memcpy(&number, tcp + 4, 4);
    number = htonl(ntohl(number) + 1);
    memcpy(ack + 28, &number, 4);
    put_checksum(ack);
}

static void ask(int seen, const uint8_t *frame, const uint8_t *ip, int link, uint32_t number)
{
    uint8_t request[ASK_SIZE] = {[12] = ARP >> 8, ARP & 0xff, 0, 1, 8, 0, 6, 4, 0, 1, MARK >> 8, MARK & 0xff};
    struct sockaddr_ll there = {.sll_family = AF_PACKET, .sll_protocol = htons(ARP), .sll_ifindex = link};
    memcpy(request, frame, 12);
    memcpy(request + 24, &number, 4);
    memcpy(request + 28, ip + 12, 4);
    memcpy(request + 38, ip + 16, 4);
    sendto(seen, request, sizeof request, 0, (const struct sockaddr *)&there, sizeof there);
}

static void complete(uint32_t number)
{
    const uint8_t *ack = pending[number % PENDING].ack;
    struct sockaddr_in us = {.sin_family = AF_INET};
    if (!number || pending[number % PENDING].number != number)
        return;
    pending[number % PENDING].number = 0;
    memcpy(&us.sin_addr, ack + 16, 4);
    sendto(sender, ack, ACK_SIZE, 0, (const struct sockaddr *)&us, sizeof us);
}

void handshake_complete(int seen)
{
    static uint32_t last;
    uint8_t frame[SEGMENT_MOST];
    for (int i = 0; i < AT_ONCE_MOST; i++) {
        struct sockaddr_ll from;
        socklen_t size = sizeof from;
        uint32_t number;
        ssize_t got = recvfrom(seen, frame, sizeof frame, 0, (struct sockaddr *)&from, &size);
        if (got < 0)
            return;
        const uint8_t *ip = frame + LINK_HEADER, *tcp = ip + (size_t)(ip[0] & 0xf) * 4;
        if (from.sll_protocol == htons(ARP) && got >= ASK_SIZE) {
            memcpy(&number, frame + 34, 4);
            complete(number);
        } else if (from.sll_protocol != htons(ARP) && tcp + 20 <= frame + got) {
            last = last + 1 ? last + 1 : 1;
            pending[last % PENDING].number = last;
            prepare(pending[last % PENDING].ack, ip, tcp);
            ask(seen, frame, ip, from.sll_ifindex, last);
        }
    }
}

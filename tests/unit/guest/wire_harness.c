/* Feeds wire.c from standard input, for tests: a line of hexadecimal pieces in, a line for each frame out, then a dot. */
#include "../../../guest/agent.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void show(void *context, const struct frame *frame)
{
    struct pairs pairs;
    const char *key, *value;
    size_t count = 0;
    (void)context;
    if (pairs_start(&pairs, frame->payload, frame->length))
        while (pairs_next(&pairs, &key, &value))
            count += key <= value; /* both are read */
    printf("%u %u %u %zu ", frame->kind, frame->fd, frame->channel, count);
    for (uint32_t i = 0; i < frame->length; i++)
        printf("%02x", frame->payload[i]);
    printf("\n");
}

static int digit(char c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

int main(void)
{
    static char line[8 * 1024 * 1024];
    while (fgets(line, sizeof line, stdin)) {
        struct decoder decoder = {0};
        for (char *piece = strtok(line, " \n"); piece; piece = strtok(NULL, " \n")) {
            size_t size = strlen(piece) / 2;
            uint8_t *bytes = malloc(size ? size : 1); /* of just that size, so that a step beyond it is seen */
            for (size_t i = 0; i < size; i++)
                bytes[i] = (uint8_t)(digit(piece[2 * i]) << 4 | digit(piece[2 * i + 1]));
            wire_feed(&decoder, bytes, size, show, NULL);
            free(bytes);
        }
        buffer_free(&decoder.raw);
        printf(".\n");
        fflush(stdout);
    }
    return 0;
}

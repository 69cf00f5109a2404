/* Frames on a byte stream. RFC 1055 stuffing: a delimiter never appears inside a frame, so that whoever joins in
 * the middle, as a restarted host does, is in step at the next one. The header's length then tells a whole frame
 * from the rest of one. */
#include "agent.h"

#include <stdlib.h>
#include <string.h>

enum { DELIMITER = 0xC0, ESCAPE = 0xDB, ESCAPED_DELIMITER = 0xDC, ESCAPED_ESCAPE = 0xDD };

void buffer_add(struct buffer *buffer, const void *data, size_t size)
{
    if (size > buffer->capacity - buffer->size) {
        size_t capacity = buffer->capacity ? buffer->capacity : 4096;
        while (capacity - buffer->size < size)
            capacity *= 2;
        uint8_t *bigger = realloc(buffer->data, capacity);
        if (!bigger)
            abort();
        buffer->data = bigger;
        buffer->capacity = capacity;
    }
    if (size)
        memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
}

void buffer_drop(struct buffer *buffer, size_t size)
{
    buffer->size -= size;
    if (buffer->size)
        memmove(buffer->data, buffer->data + size, buffer->size);
}

void buffer_free(struct buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct buffer){0};
}

void wire_delimit(struct buffer *out)
{
    uint8_t delimiter = DELIMITER;
    buffer_add(out, &delimiter, 1);
}

void wire_stuff(struct buffer *out, const void *data, size_t size)
{
    const uint8_t *bytes = data;
    size_t plain = 0;
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != DELIMITER && bytes[i] != ESCAPE)
            continue;
        buffer_add(out, bytes + plain, i - plain);
        uint8_t pair[2] = {ESCAPE, bytes[i] == DELIMITER ? ESCAPED_DELIMITER : ESCAPED_ESCAPE};
        buffer_add(out, pair, 2);
        plain = i + 1;
    }
    buffer_add(out, bytes + plain, size - plain);
}

static void put32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t get32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

void wire_frame(struct buffer *out, enum kind kind, int fd, uint32_t channel, const void *payload, size_t length)
{
    uint8_t header[FRAME_HEADER] = {(uint8_t)kind, (uint8_t)fd};
    put32(header + 4, channel);
    put32(header + 8, (uint32_t)length);
    wire_stuff(out, header, sizeof header);
    wire_stuff(out, payload, length);
    wire_delimit(out);
}

static void deliver(struct decoder *decoder, void (*take)(void *, const struct frame *), void *context)
{
    struct buffer *raw = &decoder->raw;
    if (!decoder->broken && !decoder->escaped && raw->size >= FRAME_HEADER) {
        struct frame frame = {
            .kind = raw->data[0],
            .fd = raw->data[1],
            .channel = get32(raw->data + 4),
            .length = get32(raw->data + 8),
            .payload = raw->data + FRAME_HEADER,
        };
        if (frame.length == raw->size - FRAME_HEADER)
            take(context, &frame);
    }
    raw->size = 0;
    decoder->broken = decoder->escaped = false;
}

void wire_feed(struct decoder *decoder, const uint8_t *data, size_t size,
               void (*take)(void *context, const struct frame *frame), void *context)
{
    size_t i = 0;
    while (i < size) {
        size_t plain = i;
        while (i < size && data[i] != DELIMITER && data[i] != ESCAPE && !decoder->escaped)
            i++;
        if (decoder->raw.size + (i - plain) > FRAME_HEADER + FRAME_MOST)
            decoder->broken = true;
        if (!decoder->broken)
            buffer_add(&decoder->raw, data + plain, i - plain);
        if (i == size)
            return;
        uint8_t byte = data[i++];
        if (byte == DELIMITER) {
            deliver(decoder, take, context);
        } else if (!decoder->escaped) {
            decoder->escaped = true;
        } else {
            uint8_t meant = byte == ESCAPED_DELIMITER ? DELIMITER : ESCAPE;
            decoder->broken |= byte != ESCAPED_DELIMITER && byte != ESCAPED_ESCAPE;
            decoder->escaped = false;
            if (!decoder->broken)
                buffer_add(&decoder->raw, &meant, 1);
        }
    }
}

/* Pairs: key NUL value NUL …, the form of every request and result. */
bool pairs_start(struct pairs *pairs, const void *data, size_t size)
{
    const char *text = data;
    size_t ends = 0;
    for (size_t i = 0; i < size; i++)
        ends += text[i] == '\0';
    if (size && (text[size - 1] != '\0' || ends % 2))
        return false;
    *pairs = (struct pairs){text, text + size};
    return true;
}

bool pairs_next(struct pairs *pairs, const char **key, const char **value)
{
    if (pairs->at == pairs->end)
        return false;
    *key = pairs->at;
    *value = *key + strlen(*key) + 1;
    pairs->at = *value + strlen(*value) + 1;
    return true;
}

const char *pairs_find(struct pairs pairs, const char *key, const char *otherwise)
{
    const char *found, *value;
    while (pairs_next(&pairs, &found, &value))
        if (!strcmp(found, key))
            return value;
    return otherwise;
}

void pairs_add(struct buffer *out, const char *key, const char *value)
{
    buffer_add(out, key, strlen(key) + 1);
    buffer_add(out, value, strlen(value) + 1);
}

/*
 * Reading a ClientHello: a pure function of its bytes, which come from anybody. A cursor that has
 * run past the end stays broken, so that one test at the end is enough.
 */
#include "tls/internal.h"

#include <string.h>

#define HELLO_CLIENT   1
#define EXTENSION_ALPN 16

struct cursor {
    const unsigned char *at, *end;
    bool broken;
};

static size_t
number_take(struct cursor *c, size_t bytes)
{
    size_t value = 0;

    if (c->broken || (size_t)(c->end - c->at) < bytes) {
        c->broken = true;
        return 0;
    }
    while (bytes-- > 0)
        value = value << 8 | *c->at++;
    return value;
}

/* The next `len` bytes as a cursor of their own. */
static struct cursor
part_take(struct cursor *c, size_t len)
{
    struct cursor part = {c->at, c->at, c->broken};

    if (c->broken || (size_t)(c->end - c->at) < len) {
        c->broken = part.broken = true;
        return part;
    }
    c->at += len;
    part.end = c->at;
    return part;
}

/* A vector with a length of `bytes` bytes in front. */
static struct cursor
vector_take(struct cursor *c, size_t bytes)
{
    return part_take(c, number_take(c, bytes));
}

static struct cursor
extension_find(const unsigned char *msg, size_t len, unsigned wanted)
{
    struct cursor c = {msg, msg + len, false};
    struct cursor none = {msg, msg, true};
    struct cursor body, extensions;

    if (number_take(&c, 1) != HELLO_CLIENT)
        return none;
    body = vector_take(&c, 3);
    part_take(&body, 2 + 32); /* legacy version, random */
    vector_take(&body, 1);    /* session id */
    vector_take(&body, 2);    /* cipher suites */
    vector_take(&body, 1);    /* compression methods */
    extensions = vector_take(&body, 2);
    while (!extensions.broken && extensions.at < extensions.end) {
        unsigned type = (unsigned)number_take(&extensions, 2);
        struct cursor data = vector_take(&extensions, 2);

        if (type == wanted)
            return data;
    }
    return none;
}

void
mg_tls_hello_alpn(const unsigned char *msg, size_t len, struct mg_buf *out)
{
    struct cursor extension = extension_find(msg, len, EXTENSION_ALPN);
    struct cursor list = vector_take(&extension, 2);

    while (!list.broken && list.at < list.end) {
        struct cursor name = vector_take(&list, 1);

        if (name.broken)
            break;
        if (out->len > 0)
            mg_buf_adds(out, ",");
        mg_buf_add_printable(out, (const char *)name.at, (size_t)(name.end - name.at));
    }
}

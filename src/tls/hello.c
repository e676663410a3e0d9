/*
 * Reading a ClientHello: a pure function of bytes that come from anybody.
 *
 * The happy path is: records of type handshake come, in pieces of any size; the reader walks their
 * headers, never twice, until they hold the whole message; if that lies in one record it is parsed
 * where it is, else it is put together in the caller's room first. Possible failure modes are: the
 * first bytes are something else (HTTP, SSL 2, noise), a record or a length in the message is not as
 * RFC 8446 (4.1.2, 4.2, 5.1), RFC 6066 (3) or RFC 7301 (3.1) have it, the message or what it is
 * wrapped in is too long. Each has its reason and the alert that fits.
 *
 * A cursor that has run past the end stays broken, so that one test at the end is enough.
 */
#include "tls/internal.h"

#include <string.h>

#define RECORD_HEADER    5
#define RECORD_HANDSHAKE 22
#define RECORD_MAX       16384 /* of plaintext */

#define MESSAGE_HEADER       4
#define MESSAGE_CLIENT_HELLO 1

enum {
    EXTENSION_SERVER_NAME = 0,
    EXTENSION_GROUPS = 10,
    EXTENSION_SIGNATURE_ALGORITHMS = 13,
    EXTENSION_ALPN = 16,
    EXTENSION_PRE_SHARED_KEY = 41,
    EXTENSION_VERSIONS = 43,
};

#define NAME_HOST    0
#define NAME_MAX_LEN 255

enum {
    ALERT_NONE = -1,
    ALERT_UNEXPECTED_MESSAGE = 10,
    ALERT_RECORD_OVERFLOW = 22,
    ALERT_ILLEGAL_PARAMETER = 47,
    ALERT_DECODE_ERROR = 50,
    ALERT_PROTOCOL_VERSION = 70,
};

static enum mg_hello_status
refuse(struct mg_hello *hello, enum mg_hello_refusal refusal, int alert, const char *detail)
{
    hello->refusal = refusal;
    hello->alert = alert;
    hello->detail = detail;
    return MG_HELLO_REFUSED;
}

/* ---- cursor ---------------------------------------------------------------------------------- */

struct cursor {
    const unsigned char *at, *end;
    bool broken;
};

static size_t
left(const struct cursor *c)
{
    return (size_t)(c->end - c->at);
}

static unsigned
number_take(struct cursor *c, size_t bytes)
{
    unsigned value = 0;

    if (c->broken || left(c) < bytes) {
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

    if (c->broken || left(c) < len) {
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

/* The whole of `c` as such a vector. */
static struct cursor
vector_all(struct cursor c, size_t bytes)
{
    struct cursor all = vector_take(&c, bytes);

    all.broken |= left(&c) > 0;
    return all;
}

static struct mg_hello_span
span_of(const struct cursor *c)
{
    return (struct mg_hello_span){c->at, left(c)};
}

/* ---- extensions ------------------------------------------------------------------------------ */

/* One or more 16-bit numbers after a length of `bytes` bytes. */
static bool
numbers_read(struct cursor data, size_t bytes, struct mg_hello_span *out)
{
    struct cursor list = vector_all(data, bytes);

    *out = span_of(&list);
    return !list.broken && out->len >= 2 && out->len % 2 == 0;
}

/* At most one name of each type; only host names are defined, and those hold no NUL. */
static bool
server_name_read(struct cursor data, struct mg_hello_span *out)
{
    struct cursor list = vector_all(data, 2);

    if (list.broken || left(&list) == 0)
        return false;
    while (left(&list) > 0) {
        unsigned type = number_take(&list, 1);
        struct cursor name = vector_take(&list, 2);

        if (name.broken)
            return false;
        if (type != NAME_HOST)
            continue;
        if (out->data != NULL || left(&name) == 0 || left(&name) > NAME_MAX_LEN ||
            memchr(name.at, '\0', left(&name)) != NULL)
            return false;
        *out = span_of(&name);
    }
    return true;
}

static bool
alpn_read(struct cursor data, struct mg_hello_span *out)
{
    struct cursor list = vector_all(data, 2);
    struct cursor walk = list;

    *out = span_of(&list);
    if (list.broken || left(&list) == 0)
        return false;
    while (left(&walk) > 0) {
        struct cursor name = vector_take(&walk, 1);

        if (name.broken || left(&name) == 0)
            return false;
    }
    return true;
}

/* A constant text if it is not well formed. */
static const char *
extension_read(unsigned type, struct cursor data, struct mg_hello *hello)
{
    switch (type) {
    case EXTENSION_SERVER_NAME:
        return server_name_read(data, &hello->servername) ? NULL : "server_name";
    case EXTENSION_ALPN:
        return alpn_read(data, &hello->alpn) ? NULL : "application_layer_protocol_negotiation";
    case EXTENSION_VERSIONS:
        return numbers_read(data, 1, &hello->versions) ? NULL : "supported_versions";
    case EXTENSION_GROUPS:
        return numbers_read(data, 2, &hello->groups) ? NULL : "supported_groups";
    case EXTENSION_SIGNATURE_ALGORITHMS:
        return numbers_read(data, 2, &hello->signature_algorithms) ? NULL : "signature_algorithms";
    default:
        return NULL;
    }
}

static enum mg_hello_status
extensions_read(struct cursor list, struct mg_hello *hello)
{
    unsigned char seen[65536 / 8] = {0}; /* a bit per type */

    while (left(&list) > 0) {
        unsigned type = number_take(&list, 2);
        struct cursor data = vector_take(&list, 2);
        const char *broken;

        if (data.broken)
            return refuse(hello, MG_HELLO_MALFORMED, ALERT_DECODE_ERROR, "extensions");
        if (seen[type / 8] & 1u << type % 8)
            return refuse(hello, MG_HELLO_MALFORMED, ALERT_ILLEGAL_PARAMETER,
                          "an extension is there twice");
        seen[type / 8] |= (unsigned char)(1u << type % 8);
        if (type == EXTENSION_PRE_SHARED_KEY && left(&list) > 0)
            return refuse(hello, MG_HELLO_MALFORMED, ALERT_ILLEGAL_PARAMETER,
                          "pre_shared_key is not the last extension");
        broken = extension_read(type, data, hello);
        if (broken != NULL)
            return refuse(hello, MG_HELLO_MALFORMED, ALERT_DECODE_ERROR, broken);
    }
    return MG_HELLO_COMPLETE;
}

/* ---- the message ----------------------------------------------------------------------------- */

enum mg_hello_status
mg_hello_parse(const unsigned char *msg, size_t len, struct mg_hello *hello)
{
    struct cursor c = {msg, msg + len, false};
    struct cursor body, session_id, suites, compression, extensions;

    memset(hello, 0, sizeof(*hello));
    if (number_take(&c, 1) != MESSAGE_CLIENT_HELLO && !c.broken)
        return refuse(hello, MG_HELLO_MALFORMED, ALERT_UNEXPECTED_MESSAGE, "not a ClientHello");
    body = vector_all(c, 3);
    hello->legacy_version = (uint16_t)number_take(&body, 2);
    part_take(&body, 32); /* random */
    session_id = vector_take(&body, 1);
    suites = vector_take(&body, 2);
    compression = vector_take(&body, 1);
    if (body.broken || left(&session_id) > 32 || left(&suites) < 2 || left(&suites) % 2 != 0 ||
        left(&compression) < 1)
        return refuse(hello, MG_HELLO_MALFORMED, ALERT_DECODE_ERROR, "its fixed part");
    hello->raw = (struct mg_hello_span){msg, len};
    hello->session_id = span_of(&session_id);
    hello->cipher_suites = span_of(&suites);
    if (left(&body) == 0)
        return MG_HELLO_COMPLETE; /* before TLS 1.2 extensions were an extension */
    extensions = vector_all(body, 2);
    if (extensions.broken)
        return refuse(hello, MG_HELLO_MALFORMED, ALERT_DECODE_ERROR, "extensions");
    hello->extensions = span_of(&extensions);
    return extensions_read(extensions, hello);
}

/* ---- the records around it ------------------------------------------------------------------- */

/* Whether the first bytes are those of an HTTP request; *more: they may become that. */
static bool
is_http(const unsigned char *wire, size_t len, bool *more)
{
    static const char *const methods[] = {"GET ",    "HEAD ",    "POST ",    "PUT ",   "PRI ",
                                          "DELETE ", "CONNECT ", "OPTIONS ", "PATCH ", "TRACE "};

    *more = false;
    for (size_t i = 0; i < MG_ARRAY_LEN(methods); i++) {
        size_t method_len = strlen(methods[i]);

        if (memcmp(wire, methods[i], len < method_len ? len : method_len) != 0)
            continue;
        if (len >= method_len)
            return true;
        *more = true;
    }
    return false;
}

/* SSL 2: a length with the highest bit set, then the ClientHello's type. */
static bool
is_ssl2(const unsigned char *wire, size_t len, bool *more)
{
    *more = wire[0] >= 0x80 && len < 3;
    return wire[0] >= 0x80 && len >= 3 && wire[2] == MESSAGE_CLIENT_HELLO;
}

/* What begins neither with a handshake record nor with what may become one. */
static enum mg_hello_status
other_judge(const unsigned char *wire, size_t len, struct mg_hello *hello)
{
    bool more_http, more_ssl2;

    if (is_http(wire, len, &more_http))
        return refuse(hello, MG_HELLO_HTTP, ALERT_NONE, NULL);
    if (is_ssl2(wire, len, &more_ssl2))
        return refuse(hello, MG_HELLO_SSL2, ALERT_PROTOCOL_VERSION, NULL);
    if (more_http || more_ssl2)
        return MG_HELLO_MORE;
    return refuse(hello, MG_HELLO_NOT_TLS, ALERT_NONE, NULL);
}

/* A record's header, of which `len` bytes are there. */
static enum mg_hello_status
header_judge(const struct mg_hello_reader *reader, const unsigned char *header, size_t len,
             struct mg_hello *hello)
{
    bool first = reader->record == 0;
    size_t size;

    if (len >= 1 && header[0] != RECORD_HANDSHAKE)
        return first ? other_judge(header, len, hello)
                     : refuse(hello, MG_HELLO_MALFORMED, ALERT_UNEXPECTED_MESSAGE,
                              "a record of another type in its middle");
    if (len >= 2 && header[1] != 3)
        return first ? refuse(hello, MG_HELLO_NOT_TLS, ALERT_PROTOCOL_VERSION, NULL)
                     : refuse(hello, MG_HELLO_MALFORMED, ALERT_PROTOCOL_VERSION,
                              "a record of another version in its middle");
    if (len < RECORD_HEADER)
        return MG_HELLO_MORE;
    size = (size_t)header[3] << 8 | header[4];
    if (size > RECORD_MAX)
        return refuse(hello, MG_HELLO_OVERSIZE, ALERT_RECORD_OVERFLOW, "a record");
    if (size == 0)
        return refuse(hello, MG_HELLO_MALFORMED, ALERT_UNEXPECTED_MESSAGE, "an empty record");
    return MG_HELLO_COMPLETE;
}

/* The message's own header, complete in the reader. */
static enum mg_hello_status
message_begin(struct mg_hello_reader *reader, struct mg_hello *hello)
{
    const unsigned char *h = reader->header;

    if (h[0] != MESSAGE_CLIENT_HELLO)
        return refuse(hello, MG_HELLO_MALFORMED, ALERT_UNEXPECTED_MESSAGE, "not a ClientHello");
    reader->length = MESSAGE_HEADER + ((size_t)h[1] << 16 | (size_t)h[2] << 8 | h[3]);
    if (reader->length > MG_HELLO_MAX)
        return refuse(hello, MG_HELLO_OVERSIZE, ALERT_ILLEGAL_PARAMETER, "the message");
    return MG_HELLO_COMPLETE;
}

/* All records up to the message's end have been judged; their contents go to `room`. */
static void
gather(const unsigned char *wire, size_t length, unsigned char *room)
{
    for (size_t done = 0; done < length;) {
        size_t size = (size_t)wire[3] << 8 | wire[4];
        size_t part = size < length - done ? size : length - done;

        memcpy(room + done, wire + RECORD_HEADER, part);
        done += part;
        wire += RECORD_HEADER + size;
    }
}

/* The record that begins at reader->record: COMPLETE if the message ends in it, MORE if bytes are
 * missing; else the reader has moved on to the next one and *next is set. */
static enum mg_hello_status
record_read(struct mg_hello_reader *reader, const unsigned char *wire, size_t len, bool *next,
            struct mg_hello *hello)
{
    const unsigned char *record = wire + reader->record;
    size_t there = len - reader->record;
    enum mg_hello_status status = header_judge(reader, record, there, hello);
    size_t size, got;

    *next = false;
    if (status != MG_HELLO_COMPLETE)
        return status;
    size = (size_t)record[3] << 8 | record[4];
    got = there - RECORD_HEADER < size ? there - RECORD_HEADER : size;
    for (size_t i = 0; i < got && reader->before + i < MESSAGE_HEADER; i++)
        reader->header[reader->before + i] = record[RECORD_HEADER + i];
    if (reader->length == 0 && reader->before + got >= MESSAGE_HEADER &&
        message_begin(reader, hello) == MG_HELLO_REFUSED)
        return MG_HELLO_REFUSED;
    if (reader->length > 0 && reader->before + got >= reader->length)
        return MG_HELLO_COMPLETE;
    if (got == size) {
        reader->before += size;
        reader->record += RECORD_HEADER + size;
        *next = true;
    }
    return MG_HELLO_MORE;
}

enum mg_hello_status
mg_hello_read(struct mg_hello_reader *reader, const unsigned char *wire, size_t len,
              unsigned char *room, struct mg_hello *hello)
{
    enum mg_hello_status status;
    size_t end;
    bool next;

    memset(hello, 0, sizeof(*hello));
    do {
        status = record_read(reader, wire, len, &next, hello);
    } while (next);
    end = status == MG_HELLO_MORE
              ? len
              : reader->record + RECORD_HEADER + reader->length - reader->before;
    if (status == MG_HELLO_REFUSED)
        return status;
    if (end > MG_HELLO_WIRE_MAX)
        return refuse(hello, MG_HELLO_OVERSIZE, ALERT_ILLEGAL_PARAMETER, "too many records");
    if (status == MG_HELLO_MORE)
        return status;
    if (reader->before == 0)
        return mg_hello_parse(wire + RECORD_HEADER, reader->length, hello);
    gather(wire, reader->length, room);
    return mg_hello_parse(room, reader->length, hello);
}

/* ---- walking what was found ------------------------------------------------------------------ */

bool
mg_hello_next_number(struct mg_hello_span *list, uint16_t *number)
{
    if (list->len < 2)
        return false;
    *number = (uint16_t)(list->data[0] << 8 | list->data[1]);
    list->data += 2;
    list->len -= 2;
    return true;
}

bool
mg_hello_next_protocol(struct mg_hello_span *list, struct mg_hello_span *name)
{
    if (list->len == 0)
        return false;
    *name = (struct mg_hello_span){list->data + 1, list->data[0]};
    list->data += 1 + name->len;
    list->len -= 1 + name->len;
    return true;
}

bool
mg_hello_next_extension(struct mg_hello_span *list, uint16_t *type)
{
    size_t len;

    if (list->len < 4)
        return false;
    *type = (uint16_t)(list->data[0] << 8 | list->data[1]);
    len = 4 + ((size_t)list->data[2] << 8 | list->data[3]);
    list->data += len;
    list->len -= len;
    return true;
}

/* ---- what follows from it -------------------------------------------------------------------- */

static bool
is_ecdsa_scheme(uint16_t number)
{
    return number == 0x0203 || number == 0x0403 || number == 0x0503 || number == 0x0603;
}

/* Suites of TLS 1.3 go with any certificate. */
static bool
is_ecdsa_suite(uint16_t number)
{
    return (number >= 0x1301 && number <= 0x1305) || (number >= 0xc006 && number <= 0xc00a) ||
           number == 0xc023 || number == 0xc024 || number == 0xc02b || number == 0xc02c ||
           number == 0xc048 || number == 0xc049 || number == 0xc05c || number == 0xc05d ||
           number == 0xc072 || number == 0xc073 || number == 0xc086 || number == 0xc087 ||
           (number >= 0xc0ac && number <= 0xc0af) || number == 0xcca9;
}

static bool
any_number(struct mg_hello_span list, bool (*is_wanted)(uint16_t))
{
    uint16_t number;

    while (mg_hello_next_number(&list, &number))
        if (is_wanted(number))
            return true;
    return false;
}

/* Before TLS 1.2 there was no list of signature algorithms: the suites tell. */
bool
mg_hello_supports_ecdsa(const struct mg_hello *hello)
{
    return any_number(hello->cipher_suites, is_ecdsa_suite) &&
           (hello->signature_algorithms.data == NULL ||
            any_number(hello->signature_algorithms, is_ecdsa_scheme));
}

void
mg_hello_protocols(const struct mg_hello *hello, struct mg_buf *out)
{
    struct mg_hello_span list = hello->alpn, name;

    while (mg_hello_next_protocol(&list, &name)) {
        if (out->len > 0)
            mg_buf_adds(out, ",");
        mg_buf_add_printable(out, (const char *)name.data, name.len);
    }
}

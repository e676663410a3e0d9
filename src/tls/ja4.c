/*
 * JA4: what a client's TLS library is, told by its ClientHello (FoxIO's definition of the TLS client
 * fingerprint). Three parts: what a person can read; a digest of the cipher suites; one of the extensions
 * and signature algorithms. Suites and extensions are sorted, since clients shuffle them.
 */
#include "tls/tls.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXTENSION_SERVER_NAME 0
#define EXTENSION_ALPN        16

#define COUNT_MAX  99
#define DIGEST_HEX 12

static const char hex[] = "0123456789abcdef";

struct numbers {
    uint16_t *list; /* owned; room for all that a message can hold */
    size_t count;
};

static const char *
version_text(unsigned version)
{
    switch (version) {
    case 0x0304:
        return "13";
    case 0x0303:
        return "12";
    case 0x0302:
        return "11";
    case 0x0301:
        return "10";
    case 0x0300:
        return "s3";
    case 0x0002:
        return "s2";
    default:
        return "00";
    }
}

static unsigned
highest_version(const struct mg_hello *hello)
{
    struct mg_hello_span list = hello->versions;
    unsigned highest = 0;
    uint16_t number;

    if (list.data == NULL)
        return hello->legacy_version;
    while (mg_hello_next_number(&list, &number))
        if (!mg_hello_is_grease(number) && number > highest)
            highest = number;
    return highest;
}

/* ASCII only, whatever the locale. */
static bool
is_alphanumeric(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* First and last character of the first protocol, or of its hexadecimal form. */
static void
alpn_text(const struct mg_hello *hello, char out[3])
{
    struct mg_hello_span list = hello->alpn, name;
    unsigned char first, last;

    memcpy(out, "00", 3);
    if (!mg_hello_next_protocol(&list, &name) || name.len == 0)
        return;
    first = name.data[0];
    last = name.data[name.len - 1];
    if (is_alphanumeric(first) && is_alphanumeric(last)) {
        out[0] = (char)first;
        out[1] = (char)last;
    } else {
        out[0] = hex[first >> 4];
        out[1] = hex[last & 15];
    }
}

/* The extension counts, even if there is no host name in it. */
static char
server_name_text(const struct mg_hello *hello)
{
    struct mg_hello_span list = hello->extensions;
    uint16_t type;

    while (mg_hello_next_extension(&list, &type))
        if (type == EXTENSION_SERVER_NAME)
            return 'd';
    return 'i';
}

static int
number_compare(const void *a, const void *b)
{
    return *(const uint16_t *)a - *(const uint16_t *)b;
}

static void
number_add(struct numbers *numbers, uint16_t number)
{
    if (!mg_hello_is_grease(number))
        numbers->list[numbers->count++] = number;
}

/* "002f,0035" of the numbers into out. By hand: every handshake comes here. */
static void
numbers_text(const struct numbers *numbers, struct mg_buf *out)
{
    for (size_t i = 0; i < numbers->count; i++) {
        uint16_t n = numbers->list[i];
        const char text[5] = {',', hex[n >> 12], hex[n >> 8 & 15], hex[n >> 4 & 15], hex[n & 15]};

        mg_buf_add(out, i > 0 ? text : text + 1, i > 0 ? 5 : 4);
    }
}

/* The first characters of its SHA-256, or zeros where there is nothing. */
static int
digest_text(const struct mg_buf *text, char out[DIGEST_HEX + 1])
{
    unsigned char digest[EVP_MAX_MD_SIZE] = {0};

    if (text->failed || (text->len > 0 && EVP_Digest(text->data, text->len, digest, NULL,
                                                     mg_tls_sha256(), NULL) != 1))
        return -1;
    for (int i = 0; i < DIGEST_HEX; i++)
        out[i] = hex[i % 2 == 0 ? digest[i / 2] >> 4 : digest[i / 2] & 15];
    out[DIGEST_HEX] = '\0';
    return 0;
}

static int
suites_digest(const struct mg_hello *hello, struct numbers *room, struct mg_buf *text,
              size_t *count, char out[DIGEST_HEX + 1])
{
    struct mg_hello_span list = hello->cipher_suites;
    uint16_t number;

    room->count = 0;
    text->len = 0;
    while (mg_hello_next_number(&list, &number))
        number_add(room, number);
    *count = room->count;
    qsort(room->list, room->count, sizeof(*room->list), number_compare);
    numbers_text(room, text);
    return digest_text(text, out);
}

/* The name and the protocols are counted, but differ from server to server. */
static int
extensions_digest(const struct mg_hello *hello, struct numbers *room, struct mg_buf *text,
                  size_t *count, char out[DIGEST_HEX + 1])
{
    struct mg_hello_span list = hello->extensions;
    uint16_t number;

    room->count = 0;
    text->len = 0;
    *count = 0;
    while (mg_hello_next_extension(&list, &number)) {
        *count += !mg_hello_is_grease(number);
        if (number != EXTENSION_SERVER_NAME && number != EXTENSION_ALPN)
            number_add(room, number);
    }
    qsort(room->list, room->count, sizeof(*room->list), number_compare);
    numbers_text(room, text);
    room->count = 0;
    list = hello->signature_algorithms;
    while (mg_hello_next_number(&list, &number))
        number_add(room, number);
    if (room->count > 0)
        mg_buf_adds(text, "_");
    numbers_text(room, text);
    return digest_text(text, out);
}

int
mg_hello_ja4(const struct mg_hello *hello, char out[MG_HELLO_JA4])
{
    struct numbers room = {.list = mg_malloc(hello->raw.len)};
    struct mg_buf text = {0};
    char alpn[3], suites[DIGEST_HEX + 1], extensions[DIGEST_HEX + 1];
    size_t suite_count, extension_count;
    int rc = -1;

    alpn_text(hello, alpn);
    if (room.list != NULL && suites_digest(hello, &room, &text, &suite_count, suites) == 0 &&
        extensions_digest(hello, &room, &text, &extension_count, extensions) == 0) {
        snprintf(out, MG_HELLO_JA4, "t%s%c%02u%02u%s_%s_%s", version_text(highest_version(hello)),
                 server_name_text(hello),
                 (unsigned)(suite_count < COUNT_MAX ? suite_count : COUNT_MAX),
                 (unsigned)(extension_count < COUNT_MAX ? extension_count : COUNT_MAX), alpn,
                 suites, extensions);
        rc = 0;
    }
    mg_buf_free(&text);
    mg_free(room.list);
    return rc;
}

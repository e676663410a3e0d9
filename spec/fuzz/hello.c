/* Any bytes as a client's first ones: the reader's answer may not depend on how they are cut, and whatever is
 * understood leads to a decision. */
#include "proxy/proxy.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static unsigned char rooms[2][MG_HELLO_MAX];

/* A copy of exactly that size for each call, as the sanitizer likes it. */
static enum mg_hello_status
read_pieces(const uint8_t *data, size_t len, size_t piece, unsigned char *room,
            struct mg_hello *hello, unsigned char **copy)
{
    struct mg_hello_reader reader = {0};
    enum mg_hello_status status = MG_HELLO_MORE;

    *copy = NULL;
    for (size_t at = 0; at < len && status == MG_HELLO_MORE;) {
        at = len - at < piece ? len : at + piece;
        free(*copy);
        *copy = malloc(at);
        memcpy(*copy, data, at);
        status = mg_hello_read(&reader, *copy, at, room, hello);
    }
    return status;
}

static void
require(bool truth)
{
    if (!truth)
        abort();
}

static void
numbers_walk(enum mg_tls_registry registry, struct mg_hello_span list)
{
    char unknown[MG_TLS_UNKNOWN_NAME];
    uint16_t number;

    while (mg_hello_next_number(&list, &number))
        if (!mg_hello_is_grease(number))
            require(mg_tls_number_name(registry, number, unknown)[0] != '\0');
    require(list.len == 0);
}

/* One table for all inputs. */
static const struct mg_names *
names_get(void)
{
    static struct mg_names *names;
    static const char *const some[] = {"a.example", "*.a.example", "*.example"};
    struct mg_target target = {.kind = MG_TARGET_PASS};
    int other;

    if (names != NULL)
        return names;
    names = mg_names_new();
    for (size_t i = 0; i < MG_ARRAY_LEN(some); i++)
        mg_names_add(names, some[i], strlen(some[i]), mg_names_target(names, &target), &other);
    return names;
}

static void
decision_make(const struct mg_hello *hello)
{
    struct mg_hello_span list = hello->extensions;
    const char *pattern = NULL;
    char ja4[MG_HELLO_JA4];
    uint16_t type;

    while (mg_hello_next_extension(&list, &type))
        require(list.len <= hello->extensions.len);
    require(list.len == 0);
    require(mg_hello_ja4(hello, ja4) == 0 && strlen(ja4) == MG_HELLO_JA4 - 1);
    mg_hello_supports_ecdsa(hello);
    mg_names_find(names_get(), hello->servername.data, hello->servername.len, &pattern);
    require(pattern != NULL);
}

static void
hello_walk(const struct mg_hello *hello)
{
    struct mg_buf protocols = {0};

    require(hello->raw.len <= MG_HELLO_MAX && hello->session_id.len <= 32);
    require(hello->servername.data == NULL ||
            (hello->servername.len > 0 && hello->servername.len < 256 &&
             memchr(hello->servername.data, 0, hello->servername.len) == NULL));
    numbers_walk(MG_TLS_CIPHER_SUITE, hello->cipher_suites);
    numbers_walk(MG_TLS_VERSION, hello->versions);
    numbers_walk(MG_TLS_GROUP, hello->groups);
    numbers_walk(MG_TLS_SIGNATURE_SCHEME, hello->signature_algorithms);
    decision_make(hello);
    mg_hello_protocols(hello, &protocols);
    mg_buf_free(&protocols);
}

static bool
same(struct mg_hello_span a, struct mg_hello_span b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    size_t piece = len > 0 ? 1u + data[0] : 1;
    struct mg_hello whole, pieces, message;
    unsigned char *copies[2];
    enum mg_hello_status status;

    if (len == 0)
        return 0;
    mg_hello_parse(data, len, &message);
    data++;
    len--;
    status = read_pieces(data, len, len, rooms[0], &whole, &copies[0]);
    require(read_pieces(data, len, piece, rooms[1], &pieces, &copies[1]) == status);
    if (status == MG_HELLO_COMPLETE) {
        hello_walk(&whole);
        require(same(whole.raw, pieces.raw) && same(whole.servername, pieces.servername) &&
                same(whole.alpn, pieces.alpn));
    } else if (status == MG_HELLO_REFUSED) {
        require(whole.refusal == pieces.refusal && whole.alert == pieces.alert);
    }
    free(copies[0]);
    free(copies[1]);
    return 0;
}

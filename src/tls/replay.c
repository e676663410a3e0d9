/* A ClientHello that came once, shown to a server of another context. */
#include "tls/internal.h"

#include <openssl/err.h>
#include <string.h>

#define RECORD_HEADER 5

/* FNV-1a; whoever finds a collision spoils no more than the count of clients. */
static uint64_t
kind_add(uint64_t hash, uint16_t number)
{
    hash = (hash ^ (number & 0xff)) * 0x100000001b3ull;
    return (hash ^ number >> 8) * 0x100000001b3ull;
}

static uint64_t
numbers_add(uint64_t hash, struct mg_hello_span list)
{
    uint16_t number;

    hash = kind_add(hash, list.data != NULL);
    while (mg_hello_next_number(&list, &number))
        if (!mg_hello_is_grease(number))
            hash = kind_add(hash, number);
    return hash;
}

uint64_t
mg_hello_kind(const struct mg_hello *hello)
{
    uint64_t hash = kind_add(0xcbf29ce484222325ull, hello->legacy_version);

    hash = numbers_add(hash, hello->cipher_suites);
    hash = numbers_add(hash, hello->versions);
    hash = numbers_add(hash, hello->groups);
    hash = numbers_add(hash, hello->signature_algorithms);
    for (size_t i = 0; i < hello->alpn.len; i++)
        hash = kind_add(hash, hello->alpn.data[i]);
    return hash;
}

/* OpenSSL says of a missing group that no cipher, or no key share, is shared. */
static const char *
reason_text(const struct mg_tls_conn *conn, const struct mg_hello *hello, const struct mg_err *err)
{
    int reason =
        ERR_GET_LIB(conn->error_code) == ERR_LIB_SSL ? ERR_GET_REASON(conn->error_code) : 0;
    bool no_group = hello->groups.data != NULL && SSL_get_shared_group(conn->ssl, -1) == 0;

    if (reason == SSL_R_NO_SUITABLE_KEY_SHARE ||
        (reason == SSL_R_NO_SHARED_CIPHER && no_group && SSL_version(conn->ssl) < TLS1_3_VERSION))
        return "no shared group";
    return err->text;
}

bool
mg_hello_replay(SSL_CTX *ctx, const unsigned char *msg, size_t len, struct mg_err *why)
{
    unsigned char record[RECORD_HEADER + MG_RING_HELLO_MAX] = {
        SSL3_RT_HANDSHAKE, 3, 1, (unsigned char)(len >> 8), (unsigned char)len};
    struct mg_tls_io io = {
        .in = record, .in_len = RECORD_HEADER + len, .out_cap = MG_TLS_OUT_SLACK};
    struct mg_tls_conn conn;
    struct mg_hello hello;
    enum mg_tls_status status;
    struct mg_err err;

    if (len > MG_RING_HELLO_MAX || mg_hello_parse(msg, len, &hello) != MG_HELLO_COMPLETE) {
        mg_err_setx(why, "malformed ClientHello");
        return false;
    }
    memcpy(record + RECORD_HEADER, msg, len);
    /* Without a scope: sessions and tickets of real connections, which have one, are not resumed. */
    io.out = mg_malloc(io.out_cap);
    if (io.out == NULL) {
        mg_err_setx(why, "out of memory");
        return false;
    }
    if (mg_tls_conn_open(&conn, ctx, MG_TLS_SERVER, NULL, why) != 0) {
        mg_free(io.out);
        return false;
    }
    do {
        io.out_len = 0;
        status = mg_tls_conn_handshake(&conn, &io, &err);
    } while (status == MG_TLS_WANT_WRITE);
    if (status == MG_TLS_ERROR)
        mg_err_setx(why, "%s", reason_text(&conn, &hello, &err));
    mg_tls_conn_close(&conn);
    mg_free(io.out);
    return status != MG_TLS_ERROR;
}

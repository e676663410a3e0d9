/*
 * One end of a TLS connection that makes its records itself once the handshake is over: what no TLS library
 * would send. libssl shakes hands and reads; the keys of our direction are taken from it.
 */
#include "mgtest.h"

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Our own direction: AES-128-GCM with SHA-256. */
struct sealer {
    bool tls13;
    unsigned char secret[32]; /* TLS 1.3 */
    unsigned char key[16], iv[12];
    uint64_t sequence;
};

struct end {
    int fd;
    SSL_CTX *ctx;
    SSL *ssl;
    BIO *in, *out;
    struct sealer sealer;
};

/* ---- keys ------------------------------------------------------------------------------------ */

static void
derive(const char *name, const OSSL_PARAM *params, unsigned char *out, size_t len)
{
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, name, NULL);
    EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);

    EVP_KDF_derive(ctx, out, len, params);
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
}

/* HKDF-Expand-Label of RFC 8446, 7.1, without a context. */
static void
expand(const unsigned char secret[32], const char *label, unsigned char *out, size_t len)
{
    unsigned char info[64] = {0, (unsigned char)len};
    size_t label_len = strlen(label);
    char digest[] = "SHA256";
    int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
    unsigned char key[32];
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, key, sizeof(key)),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, 3 + 6 + label_len + 1),
        OSSL_PARAM_construct_end(),
    };

    memcpy(key, secret, sizeof(key));
    info[2] = (unsigned char)(6 + label_len);
    memcpy(info + 3, "tls13 ", 6);
    memcpy(info + 9, label, label_len);
    derive("HKDF", params, out, len);
}

static void
keys_expand(struct sealer *sealer)
{
    expand(sealer->secret, "key", sealer->key, sizeof(sealer->key));
    expand(sealer->secret, "iv", sealer->iv, sizeof(sealer->iv));
    sealer->sequence = 0;
}

static void
keys_update(struct sealer *sealer)
{
    unsigned char next[32];

    expand(sealer->secret, "traffic upd", next, sizeof(next));
    memcpy(sealer->secret, next, sizeof(next));
    keys_expand(sealer);
}

/* The key block of RFC 5246, 6.3: two keys, two IVs, the client's first. Finished was our first record. */
static void
keys_of_tls12(struct end *e)
{
    unsigned char master[48], seed[13 + 64], block[2 * 16 + 2 * 4];
    char digest[] = "SHA256";
    size_t server = (size_t)SSL_is_server(e->ssl);
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SECRET, master, sizeof(master)),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, seed, sizeof(seed)),
        OSSL_PARAM_construct_end(),
    };

    SSL_SESSION_get_master_key(SSL_get_session(e->ssl), master, sizeof(master));
    memcpy(seed, "key expansion", 13);
    SSL_get_server_random(e->ssl, seed + 13, 32);
    SSL_get_client_random(e->ssl, seed + 13 + 32, 32);
    derive("TLS1-PRF", params, block, sizeof(block));
    memcpy(e->sealer.key, block + 16 * server, 16);
    memcpy(e->sealer.iv, block + 32 + 4 * server, 4);
    e->sealer.sequence = 1;
}

/* The secret of "CLIENT_TRAFFIC_SECRET_0 <random> <secret>", or the server's. */
static void
on_keylog(const SSL *ssl, const char *line)
{
    struct sealer *sealer = SSL_get_app_data(ssl);
    const char *hex = strrchr(line, ' ') + 1;

    if (strncmp(line, SSL_is_server(ssl) ? "SERVER_TRAFFIC_SECRET_0" : "CLIENT_TRAFFIC_SECRET_0",
                23) != 0)
        return;
    for (size_t i = 0; i < sizeof(sealer->secret); i++) {
        char pair[3] = {hex[2 * i], hex[2 * i + 1], '\0'};

        sealer->secret[i] = (unsigned char)strtoul(pair, NULL, 16);
    }
}

/* ---- sealing --------------------------------------------------------------------------------- */

static void
gcm_seal(const unsigned char key[16], const unsigned char iv[12], const unsigned char *aad,
         size_t aad_len, unsigned char *data, size_t len)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n;

    EVP_EncryptInit_ex(ctx, EVP_aes_128_gcm(), NULL, key, iv);
    EVP_EncryptUpdate(ctx, NULL, &n, aad, (int)aad_len);
    EVP_EncryptUpdate(ctx, data, &n, data, (int)len);
    EVP_EncryptFinal_ex(ctx, data + len, &n);
    EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, data + len);
    EVP_CIPHER_CTX_free(ctx);
}

static void
big_endian(unsigned char *out, uint64_t number, int bytes)
{
    for (int i = 0; i < bytes; i++)
        out[i] = (unsigned char)(number >> (8 * (bytes - 1 - i)));
}

static void
header_add(luaL_Buffer *wire, int type, size_t len)
{
    unsigned char header[5] = {(unsigned char)type, 3, 3, (unsigned char)(len >> 8),
                               (unsigned char)len};

    luaL_addlstring(wire, (char *)header, sizeof(header));
}

/* Type and padding are part of what is encrypted. */
static void
seal_tls13(struct sealer *sealer, int type, const char *data, size_t len, size_t padding,
           luaL_Buffer *wire)
{
    size_t inner = len + 1 + padding, body = inner + 16;
    unsigned char header[5] = {23, 3, 3, (unsigned char)(body >> 8), (unsigned char)body};
    unsigned char iv[12], number[8];
    unsigned char out[16384 + 64] = {0};

    memcpy(iv, sealer->iv, sizeof(iv));
    big_endian(number, sealer->sequence++, 8);
    for (int i = 0; i < 8; i++)
        iv[4 + i] ^= number[i];
    memcpy(out, data, len);
    out[len] = (unsigned char)type;
    gcm_seal(sealer->key, iv, header, sizeof(header), out, inner);
    luaL_addlstring(wire, (char *)header, sizeof(header));
    luaL_addlstring(wire, (char *)out, body);
}

static void
seal_tls12(struct sealer *sealer, int type, const char *data, size_t len, luaL_Buffer *wire)
{
    unsigned char iv[12], aad[13], out[16384 + 64];

    memcpy(iv, sealer->iv, 4);
    big_endian(iv + 4, sealer->sequence, 8);
    big_endian(aad, sealer->sequence++, 8);
    aad[8] = (unsigned char)type;
    aad[9] = aad[10] = 3;
    big_endian(aad + 11, len, 2);
    memcpy(out, data, len);
    gcm_seal(sealer->key, iv, aad, sizeof(aad), out, len);
    header_add(wire, type, 8 + len + 16);
    luaL_addlstring(wire, (char *)iv + 4, 8);
    luaL_addlstring(wire, (char *)out, len + 16);
}

/* Of the record on top, which is popped. */
static void
record_seal(lua_State *L, struct sealer *sealer, luaL_Buffer *wire, int record)
{
    const char *data;
    size_t len, padding, cut, before = luaL_bufflen(wire);
    int type;
    bool rekey, plain;

    lua_rawgeti(L, record, 1);
    lua_rawgeti(L, record, 2);
    lua_getfield(L, record, "rekey");
    lua_getfield(L, record, "padding");
    lua_getfield(L, record, "plain");
    lua_getfield(L, record, "cut");
    type = (int)lua_tointeger(L, -6);
    data = luaL_checklstring(L, -5, &len); /* the table keeps it */
    rekey = lua_toboolean(L, -4);
    padding = (size_t)luaL_optinteger(L, -3, 0);
    plain = lua_toboolean(L, -2);
    cut = (size_t)luaL_optinteger(L, -1, 0);
    lua_settop(L, record - 1);
    if (plain) {
        header_add(wire, type, len);
        luaL_addlstring(wire, data, len);
    } else if (sealer->tls13) {
        seal_tls13(sealer, type, data, len, padding, wire);
    } else {
        seal_tls12(sealer, type, data, len, wire);
    }
    if (cut > 0)
        luaL_buffsub(wire, luaL_bufflen(wire) - before - cut);
    if (rekey)
        keys_update(sealer);
}

/* { { type, data, rekey = true, padding = bytes, plain = true, cut = bytes of it }, … } → pushes the wire's bytes. */
static void
records_seal(lua_State *L, int table, struct sealer *sealer)
{
    size_t count = lua_rawlen(L, table);
    luaL_Buffer wire;

    luaL_buffinit(L, &wire);
    for (lua_Integer i = 1; i <= (lua_Integer)count; i++) {
        lua_rawgeti(L, table, i);
        record_seal(L, sealer, &wire, lua_gettop(L));
    }
    luaL_pushresult(&wire);
}

/* ---- the connection -------------------------------------------------------------------------- */

static void
end_flush(struct end *e)
{
    char *data;
    size_t len = (size_t)BIO_get_mem_data(e->out, &data);

    while (len > 0) {
        ssize_t put = write(e->fd, data, len);

        if (put <= 0)
            break;
        data += put;
        len -= (size_t)put;
    }
    (void)BIO_reset(e->out);
}

/* false: no more bytes, or none for 10 s. */
static bool
end_fill(struct end *e)
{
    char buf[16384];
    struct pollfd p = {.fd = e->fd, .events = POLLIN};
    ssize_t got = poll(&p, 1, 10000) > 0 ? read(e->fd, buf, sizeof(buf)) : -1;

    if (got > 0)
        BIO_write(e->in, buf, (int)got);
    return got > 0;
}

static const char *
text_of(lua_State *L, int idx, const char *name)
{
    const char *text = NULL;

    if (lua_istable(L, idx)) {
        lua_getfield(L, idx, name);
        text = lua_tostring(L, -1); /* the table keeps it */
        lua_pop(L, 1);
    }
    return text;
}

static void
end_open(lua_State *L, struct end *e, int fd, int idx)
{
    const char *crt = text_of(L, idx, "crt"), *version = text_of(L, idx, "version");
    bool tls13 = version == NULL;

    *e = (struct end){.fd = fd};
    e->sealer.tls13 = tls13;
    e->ctx = SSL_CTX_new(crt != NULL ? TLS_server_method() : TLS_client_method());
    SSL_CTX_set_max_proto_version(e->ctx, tls13 ? TLS1_3_VERSION : TLS1_2_VERSION);
    SSL_CTX_set_num_tickets(e->ctx, 0);
    SSL_CTX_set_keylog_callback(e->ctx, on_keylog);
    SSL_CTX_set_ciphersuites(e->ctx, "TLS_AES_128_GCM_SHA256");
    SSL_CTX_set_cipher_list(e->ctx, "ECDHE+AESGCM+AES128");
    if (crt != NULL) {
        SSL_CTX_use_certificate_chain_file(e->ctx, crt);
        SSL_CTX_use_PrivateKey_file(e->ctx, text_of(L, idx, "key"), SSL_FILETYPE_PEM);
    }
    e->ssl = SSL_new(e->ctx);
    e->in = BIO_new(BIO_s_mem());
    e->out = BIO_new(BIO_s_mem());
    SSL_set_bio(e->ssl, e->in, e->out);
    SSL_set_app_data(e->ssl, &e->sealer);
    if (crt != NULL)
        SSL_set_accept_state(e->ssl);
    else
        SSL_set_connect_state(e->ssl);
}

static void
end_handshake(struct end *e)
{
    while (SSL_do_handshake(e->ssl) != 1) {
        end_flush(e);
        if (!end_fill(e))
            break;
    }
    end_flush(e);
    if (e->sealer.tls13)
        keys_expand(&e->sealer);
    else if (SSL_is_init_finished(e->ssl))
        keys_of_tls12(e);
}

static void
end_close(struct end *e)
{
    SSL_free(e->ssl);
    SSL_CTX_free(e->ctx);
    ERR_clear_error();
}

/* Without reading, for 5 s at most; false: it was not taken. */
static bool
wire_send(int fd, const char *data, size_t len)
{
    while (len > 0) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        ssize_t put = poll(&p, 1, 5000) > 0 ? send(fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL) : -1;

        if (put <= 0)
            return false;
        data += put;
        len -= (size_t)put;
    }
    return true;
}

/* The table's records, in one write. */
static bool
records_send(lua_State *L, int table, struct end *e)
{
    const char *wire;
    size_t len;
    bool taken;

    records_seal(L, table, &e->sealer);
    wire = lua_tolstring(L, -1, &len);
    taken = wire_send(e->fd, wire, len);
    lua_pop(L, 1);
    return taken;
}

/*
 * records(fd, repeats, first[, second[, options]]) → what came back: a client that sends these records, the
 * first ones `repeats` times over or until they are not taken, each time in one write; the second ones
 * after a while. Reads only then. Options: version = "1.2" (else TLS 1.3); crt, key: it is a server; stay: does not
 * read, and leaves the connection as it is.
 */
int
mgtest_records(lua_State *L)
{
    int got = 0, repeats = (int)luaL_checkinteger(L, 2);
    luaL_Buffer answer;
    struct end e;
    char buf[4096];
    bool open = true, stay = text_of(L, 5, "stay") != NULL;

    end_open(L, &e, (int)luaL_checkinteger(L, 1), 5);
    end_handshake(&e);
    for (int i = 0; i < repeats && open; i++)
        open = records_send(L, 3, &e);
    if (open && lua_istable(L, 4)) {
        poll(NULL, 0, 200);
        records_send(L, 4, &e);
    }
    luaL_buffinit(L, &answer);
    while (!stay && ((got = SSL_read(e.ssl, buf, sizeof(buf))) > 0 ||
                     (!(SSL_get_shutdown(e.ssl) & SSL_RECEIVED_SHUTDOWN) && end_fill(&e))))
        if (got > 0)
            luaL_addlstring(&answer, buf, (size_t)got);
    end_close(&e);
    luaL_pushresult(&answer);
    return 1;
}

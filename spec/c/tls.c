/* tls for specs: its pure functions, and clients that do what no ordinary program does. */
#include "mgtest.h"
#include "tls/tls.h"

#include <openssl/err.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* alert_name(number) → text */
static int
alert_name(lua_State *L)
{
    lua_pushstring(L, mg_tls_alert_name((int)luaL_checkinteger(L, 1)));
    return 1;
}

/* ---- the ClientHello's parser ----------------------------------------------------------------- */

static void
span_set(lua_State *L, const char *name, const struct mg_hello_span *span)
{
    if (span->data == NULL)
        return;
    lua_pushlstring(L, (const char *)span->data, span->len);
    lua_setfield(L, -2, name);
}

/* Without GREASE. */
static void
numbers_set(lua_State *L, const char *name, struct mg_hello_span list)
{
    uint16_t number;

    if (list.data == NULL)
        return;
    lua_newtable(L);
    while (mg_hello_next_number(&list, &number)) {
        if (mg_hello_is_grease(number))
            continue;
        lua_pushinteger(L, number);
        lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    }
    lua_setfield(L, -2, name);
}

static void
hello_push(lua_State *L, const struct mg_hello *hello)
{
    struct mg_buf protocols = {0};
    char ja4[MG_HELLO_JA4];

    lua_newtable(L);
    mg_hello_protocols(hello, &protocols);
    lua_pushlstring(L, protocols.data != NULL ? protocols.data : "", protocols.len);
    lua_setfield(L, -2, "protocols");
    mg_buf_free(&protocols);
    span_set(L, "raw", &hello->raw);
    span_set(L, "session_id", &hello->session_id);
    span_set(L, "servername", &hello->servername);
    numbers_set(L, "cipher_suites", hello->cipher_suites);
    numbers_set(L, "versions", hello->versions);
    numbers_set(L, "groups", hello->groups);
    numbers_set(L, "signature_algorithms", hello->signature_algorithms);
    lua_pushboolean(L, mg_hello_supports_ecdsa(hello));
    lua_setfield(L, -2, "supports_ecdsa");
    if (mg_hello_ja4(hello, ja4) != 0)
        luaL_error(L, "ja4: out of memory");
    lua_pushstring(L, ja4);
    lua_setfield(L, -2, "ja4");
}

/* number_name(registry, number): the registries in the order of their enum, from 0. */
static int
number_name(lua_State *L)
{
    char unknown[MG_TLS_UNKNOWN_NAME];

    lua_pushstring(L, mg_tls_number_name((enum mg_tls_registry)luaL_checkinteger(L, 1),
                                         (uint16_t)luaL_checkinteger(L, 2), unknown));
    return 1;
}

static void
refusal_push(lua_State *L, const struct mg_hello *hello)
{
    static const char *const names[] = {"http", "ssl2", "not tls", "oversize", "malformed"};

    lua_newtable(L);
    lua_pushstring(L, names[hello->refusal]);
    lua_setfield(L, -2, "refusal");
    lua_pushinteger(L, hello->alert);
    lua_setfield(L, -2, "alert");
    lua_pushstring(L, hello->detail);
    lua_setfield(L, -2, "detail");
}

/*
 * hello_read(wire[, piece]) → "more", "complete" or "refused", what was found, bytes read by then: a
 * reader that gets `piece` bytes more each time, at another address each time.
 */
static int
hello_read(lua_State *L)
{
    static const char *const names[] = {"more", "complete", "refused"};
    size_t len, at = 0;
    const char *wire = luaL_checklstring(L, 1, &len);
    size_t piece = (size_t)luaL_optinteger(L, 2, (lua_Integer)len);
    unsigned char *room = mg_malloc(MG_HELLO_MAX), *copy = NULL;
    struct mg_hello_reader reader = {0};
    struct mg_hello hello;
    enum mg_hello_status status = MG_HELLO_MORE;

    while (status == MG_HELLO_MORE && at < len) {
        unsigned char *last = copy;

        at = len - at < piece ? len : at + piece;
        copy = mg_malloc(at); /* of exactly that size, for the sanitizer's sake */
        memcpy(copy, wire, at);
        mg_free(last);
        status = mg_hello_read(&reader, copy, at, room, &hello);
    }
    lua_pushstring(L, names[status]);
    if (status == MG_HELLO_COMPLETE)
        hello_push(L, &hello);
    else if (status == MG_HELLO_REFUSED)
        refusal_push(L, &hello);
    else
        lua_pushnil(L);
    lua_pushinteger(L, (lua_Integer)at);
    mg_free(copy);
    mg_free(room);
    return 3;
}

/* ---- a client over memory, whose bytes leave when we want ------------------------------------ */

struct client {
    int fd;
    SSL_CTX *ctx;
    SSL *ssl;
    BIO *in, *out;
};

static void
client_close(struct client *c)
{
    SSL_free(c->ssl);
    SSL_CTX_free(c->ctx);
}

static void
client_bios(struct client *c)
{
    c->ssl = SSL_new(c->ctx);
    c->in = BIO_new(BIO_s_mem());
    c->out = BIO_new(BIO_s_mem());
    SSL_set_bio(c->ssl, c->in, c->out);
}

static void
client_open(struct client *c, int fd)
{
    c->fd = fd;
    c->ctx = SSL_CTX_new(TLS_client_method());
    client_bios(c);
    SSL_set_connect_state(c->ssl);
}

/* Everything libssl has to say, in pieces of `piece` bytes (0 = one piece). */
static void
client_flush(struct client *c, size_t piece)
{
    char *data;
    size_t len = (size_t)BIO_get_mem_data(c->out, &data);

    if (piece == 0)
        piece = len;
    for (size_t done = 0; done < len;) {
        size_t n = len - done < piece ? len - done : piece;
        ssize_t put = write(c->fd, data + done, n);

        if (put <= 0)
            break;
        done += (size_t)put;
    }
    (void)BIO_reset(c->out);
}

/* false: no more bytes, or none for 10 s. */
static bool
client_fill(struct client *c)
{
    char buf[16384];
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    ssize_t got = -1;

    if (poll(&p, 1, 10000) > 0)
        got = read(c->fd, buf, sizeof(buf));
    if (got > 0)
        BIO_write(c->in, buf, (int)got);
    return got > 0;
}

/*
 * burst(fd, data, close_notify, piece) → what came back, how it ended ("close_notify", "eof"): a
 * client whose Finished, data and (if wanted) close_notify leave in one write; the handshake before
 * that in pieces of `piece` bytes.
 */
static int
burst(lua_State *L)
{
    size_t len;
    const char *data = luaL_checklstring(L, 2, &len);
    size_t piece = (size_t)luaL_optinteger(L, 4, 0);
    struct client c;
    luaL_Buffer answer;
    const char *end = "eof";

    client_open(&c, (int)luaL_checkinteger(L, 1));
    while (SSL_do_handshake(c.ssl) != 1) {
        client_flush(&c, piece);
        if (!client_fill(&c))
            break;
    }
    SSL_write(c.ssl, data, (int)len);
    if (lua_toboolean(L, 3))
        SSL_shutdown(c.ssl);
    client_flush(&c, 0);
    luaL_buffinit(L, &answer);
    for (;;) {
        char buf[4096];
        int got = SSL_read(c.ssl, buf, sizeof(buf));

        if (got > 0) {
            luaL_addlstring(&answer, buf, (size_t)got);
        } else if (SSL_get_shutdown(c.ssl) & SSL_RECEIVED_SHUTDOWN) {
            end = "close_notify";
            break;
        } else if (!client_fill(&c)) {
            break;
        }
    }
    ERR_clear_error();
    client_close(&c);
    luaL_pushresult(&answer);
    lua_pushstring(L, end);
    return 2;
}

/* Makes tickets long: one spans several records where those are short. */
static int
on_ticket_made(SSL *ssl, void *arg)
{
    static const char filling[1500];

    (void)arg;
    return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), filling, sizeof(filling));
}

/*
 * late_ticket(fd, crt, key, other) → what came: a server whose TLS 1.3 ticket comes in two halves. In
 * between, "hello" is written to the descriptor `other`, the proxy's client, and time passes.
 */
static int
late_ticket(lua_State *L)
{
    int other = (int)luaL_checkinteger(L, 4), got = 0;
    struct client c = {.fd = (int)luaL_checkinteger(L, 1), .ctx = SSL_CTX_new(TLS_server_method())};
    char *data, buf[64];

    SSL_CTX_use_certificate_chain_file(c.ctx, luaL_checkstring(L, 2));
    SSL_CTX_use_PrivateKey_file(c.ctx, luaL_checkstring(L, 3), SSL_FILETYPE_PEM);
    SSL_CTX_set_session_ticket_cb(c.ctx, on_ticket_made, NULL, NULL);
    SSL_CTX_set_max_send_fragment(c.ctx, 512);
    client_bios(&c);
    SSL_set_accept_state(c.ssl);
    while (SSL_do_handshake(c.ssl) != 1) {
        client_flush(&c, 0);
        if (!client_fill(&c))
            break;
    }
    if (BIO_get_mem_data(c.out, &data) > 1200 && write(c.fd, data, 700) == 700) {
        poll(NULL, 0, 100);
        got = (int)write(other, "hello", 5);
        poll(NULL, 0, 100);
        got = (int)write(c.fd, data + 700, (size_t)BIO_get_mem_data(c.out, &data) - 700);
        while ((got = SSL_read(c.ssl, buf, sizeof(buf))) <= 0 && client_fill(&c))
            ;
    }
    lua_pushlstring(L, buf, got > 0 ? (size_t)got : 0);
    ERR_clear_error();
    client_close(&c);
    return 1;
}

/* ---- two ends in memory ----------------------------------------------------------------------- */

struct end {
    struct mg_tls_conn conn;
    unsigned char out[4 * MG_TLS_OUT_SLACK]; /* what it has to say */
    size_t len;
};

enum end_call { END_HANDSHAKE, END_READ, END_WRITE };

/* The other's words come in, all of them. How much was read or written, or -1. */
static int
end_call(struct end *end, struct end *other, enum end_call call, void *data, size_t len)
{
    struct mg_tls_io io = {.in = other->out,
                           .in_len = other->len,
                           .out = end->out + end->len,
                           .out_cap = sizeof(end->out) - end->len};
    enum mg_tls_status status;
    struct mg_err err;
    size_t n = 0;

    if (call == END_HANDSHAKE)
        status = mg_tls_conn_handshake(&end->conn, &io, &err);
    else if (call == END_READ)
        status = mg_tls_conn_read(&end->conn, &io, data, len, &n, &err);
    else
        status = mg_tls_conn_write(&end->conn, &io, data, len, &n, &err);
    end->len += io.out_len;
    other->len -= io.in_used;
    memmove(other->out, other->out + io.in_used, other->len);
    return status == MG_TLS_ERROR ? -1 : (int)n;
}

static bool
said(struct end *from, struct end *to)
{
    char text[] = "hello", got[64] = "";

    return end_call(from, to, END_WRITE, text, 5) == 5 &&
           end_call(to, from, END_READ, got, sizeof(got)) == 5 && strcmp(got, text) == 0;
}

/* Whether it is a key, which a provider has, and not only a type. */
static bool
key_given(SSL *ssl, bool peers)
{
    EVP_PKEY *key = NULL;
    long found = peers ? SSL_get_peer_tmp_key(ssl, &key) : SSL_get_tmp_key(ssl, &key);
    bool given = found == 1 && EVP_PKEY_get0_provider(key) != NULL;

    EVP_PKEY_free(key);
    ERR_clear_error();
    return given;
}

/*
 * wiped(crt, key, group, scripts) → of a server's and a client's end: {own before, peer's before, own after,
 * peer's after}, and whether both could talk on, over an update of the traffic keys, too; nothing if there is no
 * such group
 */
static int
wiped(lua_State *L)
{
    static struct end ends[2];
    struct end *server = &ends[0], *client = &ends[1];
    SSL_CTX *ctx[2] = {SSL_CTX_new(TLS_server_method()), SSL_CTX_new(TLS_client_method())};
    struct mg_err err;
    bool talked, known = false;

    memset(ends, 0, sizeof(ends));
    SSL_CTX_use_certificate_chain_file(ctx[0], luaL_checkstring(L, 1));
    SSL_CTX_use_PrivateKey_file(ctx[0], luaL_checkstring(L, 2), SSL_FILETYPE_PEM);
    for (int i = 0; i < 2; i++) {
        known = SSL_CTX_set1_groups_list(ctx[i], luaL_checkstring(L, 3)) == 1;
        mg_tls_threads_allow(ctx[i], !lua_toboolean(L, 4));
        mg_tls_conn_open(&ends[i].conn, ctx[i], i == 0 ? MG_TLS_SERVER : MG_TLS_CLIENT, NULL, &err);
        SSL_CTX_free(ctx[i]);
    }
    for (int i = 0; i < 4 && known; i++)
        end_call(&ends[1 - i % 2], &ends[i % 2], END_HANDSHAKE, NULL, 0);
    for (int i = 0; i < 2 && known; i++) {
        lua_createtable(L, 4, 0);
        for (int n = 0; n < 4; n++) {
            if (n == 2)
                mg_tls_conn_wipe_keys(&ends[i].conn, false);
            lua_pushboolean(L, key_given(ends[i].conn.ssl, n % 2 == 1));
            lua_rawseti(L, -2, n + 1);
        }
    }
    talked = known && said(client, server) && said(server, client);
    SSL_key_update(client->conn.ssl, SSL_KEY_UPDATE_REQUESTED);
    lua_pushboolean(L, talked && said(client, server) && said(server, client));
    mg_tls_conn_close(&server->conn);
    mg_tls_conn_close(&client->conn);
    ERR_clear_error();
    return known ? 3 : 0;
}

int
mgtest_tls(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"alert_name", alert_name},
        {"ring", mgtest_ring},
        {"hello_read", hello_read},
        {"burst", burst},
        {"number_name", number_name},
        {"late_ticket", late_ticket},
        {"records", mgtest_records},
        {"wiped", wiped},
        {NULL, NULL},
    };

    luaL_newlib(L, functions);
    return 1;
}

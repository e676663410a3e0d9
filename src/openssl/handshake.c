/*
 * handshake: two ends of a connection in memory, for the proof of a script and for tests of
 * policies.
 *
 * The happy path is: both ends are stepped in turn, each fed with what the other wrote, until both
 * have finished their handshake and the client has read the tickets. Possible failure modes are:
 * one end fails (its alert is delivered to the other, which then fails too), nothing moves any more
 * (the end that still waits says so).
 */
#include "openssl/internal.h"

#include <string.h>

#define OUT_SIZE 32768

struct end {
    struct mg_tls_conn conn;
    struct mg_buf inbox; /* what the other end wrote and this one has not read */
    size_t inbox_used;
    bool failed;
    struct mg_err err; /* valid if failed */
};

struct pair {
    struct end server, client;
    unsigned char out[OUT_SIZE]; /* of one step: not on the stack, where callbacks may nest pairs */
};

static void
end_close(struct end *end)
{
    mg_tls_conn_close(&end->conn);
    mg_buf_free_secret(&end->inbox);
}

static void
pair_free(void *ptr)
{
    struct pair *pair = ptr;
    end_close(&pair->server);
    end_close(&pair->client);
    mg_free(pair);
}

static void
end_fail(struct end *end, const char *text)
{
    end->failed = true;
    mg_err_setx(&end->err, "%s", text);
}

/* One call into libssl; true if anything moved. */
static bool
end_step(struct pair *pair, struct end *end, struct end *peer)
{
    unsigned char plain[1024];
    struct mg_tls_io io = {
        .in = (const unsigned char *)end->inbox.data + end->inbox_used,
        .in_len = end->inbox.len - end->inbox_used,
        .out = pair->out,
        .out_cap = sizeof(pair->out),
    };
    bool was_done = end->conn.handshake_done;
    size_t got = 0;
    if (end->failed)
        return false;
    enum mg_tls_status status =
        was_done ? mg_tls_conn_read(&end->conn, &io, plain, sizeof(plain), &got, &end->err)
                 : mg_tls_conn_handshake(&end->conn, &io, &end->err);
    end->inbox_used += io.in_used;
    mg_buf_add(&peer->inbox, pair->out, io.out_len);
    if (peer->inbox.failed)
        end_fail(end, "out of memory");
    else
        end->failed = status == MG_TLS_ERROR;
    return io.in_used > 0 || io.out_len > 0 || end->failed || was_done != end->conn.handshake_done;
}

static int
pair_open(struct pair *pair, SSL_CTX *server, SSL_CTX *client, const char *servername,
          struct mg_err *err)
{
    const struct mg_ssl_context_extra *extra = mg_ssl_context_extra(client);
    if (mg_tls_conn_open(&pair->server.conn, server, MG_TLS_SERVER, NULL, err) < 0 ||
        mg_tls_conn_open(&pair->client.conn, client, MG_TLS_CLIENT, NULL, err) < 0)
        return -1;
    if (servername && mg_tls_conn_set_servername(&pair->client.conn, servername,
                                                 extra && extra->verify_hostname, err) < 0)
        return -1;
    return 0;
}

static void
pair_run(struct pair *pair)
{
    struct end *server = &pair->server, *client = &pair->client;
    bool moved = true;
    while (moved) {
        moved = end_step(pair, client, server);
        moved = end_step(pair, server, client) || moved;
    }
    if (!server->failed && !server->conn.handshake_done)
        end_fail(server, "the handshake did not finish");
    if (!client->failed && !client->conn.handshake_done)
        end_fail(client, "the handshake did not finish");
}

static int
pair_alert(const struct pair *pair)
{
    return pair->server.conn.alert_sent >= 0 ? pair->server.conn.alert_sent
                                             : pair->client.conn.alert_sent;
}

int
mg_memory_handshake(struct mg_memory_handshake *hs, struct mg_err *err)
{
    struct pair *pair = mg_calloc(1, sizeof(*pair));
    hs->ok = false;
    hs->alert = -1;
    hs->server_cert = NULL;
    hs->version[0] = hs->cipher[0] = hs->key_type[0] = '\0';
    hs->server_error[0] = hs->client_error[0] = '\0';
    if (!pair) {
        mg_err_setx(err, "out of memory");
        return -1;
    }
    int rc = pair_open(pair, hs->server, hs->client, hs->servername, err);
    if (rc < 0)
        goto done;
    pair_run(pair);
    SSL *ssl = pair->client.conn.ssl;
    hs->ok = !pair->server.failed && !pair->client.failed;
    hs->alert = pair_alert(pair);
    if (pair->server.failed)
        mg_str_copy(hs->server_error, sizeof(hs->server_error), pair->server.err.text);
    if (pair->client.failed)
        mg_str_copy(hs->client_error, sizeof(hs->client_error), pair->client.err.text);
    if (SSL_get_current_cipher(ssl)) {
        mg_str_copy(hs->version, sizeof(hs->version), SSL_get_version(ssl));
        mg_str_copy(hs->cipher, sizeof(hs->cipher),
                    SSL_CIPHER_get_name(SSL_get_current_cipher(ssl)));
    }
    hs->server_cert = SSL_get1_peer_certificate(ssl);
    if (hs->server_cert && X509_get0_pubkey(hs->server_cert))
        mg_str_copy(hs->key_type, sizeof(hs->key_type),
                    mg_pkey_type_name(X509_get0_pubkey(hs->server_cert)));
done:
    pair_free(pair);
    ERR_clear_error();
    return rc;
}

/* ---- openssl.handshake ----------------------------------------------------------------------- */

/* A table of everything the readers tell about this end. */
static void
end_push(lua_State *L, struct end *end)
{
    lua_newtable(L);
    for (size_t i = 0; mg_ssl_reader_names[i]; i++) {
        mg_ssl_reader_push(L, &end->conn, mg_ssl_reader_names[i]);
        lua_setfield(L, -2, mg_ssl_reader_names[i]);
    }
}

/* As with a new SSLSocket in Ruby, the context is set up if it was not. */
static SSL_CTX *
context_ready(lua_State *L, int arg)
{
    mg_class_check(L, arg, &mg_ssl_context_class);
    lua_getfield(L, arg, "setup");
    lua_pushvalue(L, arg);
    lua_call(L, 1, 0);
    return mg_ssl_context_test(L, arg);
}

static const char *
option_servername(lua_State *L, int arg)
{
    const char *servername = NULL;
    if (lua_isnoneornil(L, arg))
        return NULL;
    mg_check_table(L, arg);
    lua_pushnil(L);
    while (lua_next(L, arg)) {
        const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
        if (strcmp(key, "servername") != 0)
            mg_lua_error(L, "ArgumentError",
                         "openssl.handshake: unknown option \"%.80s\" (there is servername)", key);
        servername = mg_attr_text(L, -1, "openssl.handshake", "servername");
        lua_pop(L, 1); /* the options table keeps the string */
    }
    return servername;
}

static void
fields_push(lua_State *L, struct pair *pair)
{
    SSL *ssl = pair->client.conn.ssl;
    lua_newtable(L);
    end_push(L, &pair->server);
    lua_setfield(L, -2, "server");
    end_push(L, &pair->client);
    lua_pushboolean(L, !pair->server.failed && !pair->client.failed);
    lua_setfield(L, -3, "ok");
    if (pair->server.failed) {
        lua_pushstring(L, pair->server.err.text);
        lua_setfield(L, -3, "server_error");
    }
    if (pair->client.failed) {
        lua_pushstring(L, pair->client.err.text);
        lua_setfield(L, -3, "client_error");
    }
    if (pair_alert(pair) >= 0) {
        lua_pushstring(L, mg_tls_alert_name(pair_alert(pair)));
        lua_setfield(L, -3, "alert");
        lua_pushinteger(L, pair_alert(pair));
        lua_setfield(L, -3, "alert_number");
    }
    if (SSL_get_current_cipher(ssl)) {
        lua_pushstring(L, SSL_get_version(ssl));
        lua_setfield(L, -3, "version");
        lua_pushstring(L, SSL_CIPHER_get_name(SSL_get_current_cipher(ssl)));
        lua_setfield(L, -3, "cipher");
    }
    X509 *cert = SSL_get0_peer_certificate(ssl);
    if (cert && X509_get0_pubkey(cert)) {
        lua_pushstring(L, mg_pkey_type_name(X509_get0_pubkey(cert)));
        lua_setfield(L, -3, "key_type");
    }
    lua_getfield(L, -1, "alpn_protocol");
    lua_setfield(L, -3, "alpn_protocol");
    lua_getfield(L, -1, "session_reused");
    lua_setfield(L, -3, "session_reused");
    lua_setfield(L, -2, "client");
}

/* handshake(server_ctx, client_ctx[, { servername = }]) -> { ok =, version =, …, server = {…},
 * client = {…} } */
int
mg_lua_handshake(lua_State *L)
{
    mg_check_count(L, 2, 3);
    lua_settop(L, 3);
    SSL_CTX *server = context_ready(L, 1), *client = context_ready(L, 2);
    const char *servername = option_servername(L, 3);
    struct mg_box *box = mg_box_push(L, pair_free);
    struct pair *pair = box->ptr = mg_calloc(1, sizeof(*pair));
    struct mg_err err;
    if (!pair)
        mg_lua_error(L, "NoMemoryError", "openssl.handshake: out of memory");
    if (pair_open(pair, server, client, servername, &err) < 0)
        mg_lua_error(L, "SSLError", "openssl.handshake: %s", err.text);

    /* Callbacks run where this function does, which may be a coroutine. Nothing in between raises.
     */
    struct mg_lua_link *link = mg_lua_link(L);
    lua_State *usual = link->L;
    link->L = L;
    pair_run(pair);
    link->L = usual;

    ERR_clear_error();
    fields_push(L, pair);
    mg_box_free(box);
    ERR_clear_error();
    return 1;
}

/*
 * connection: openssl.handshake – an in-memory handshake for Lua – and the class Connection, one of
 * its two ends, with everything Ruby's SSLSocket tells and data both ways.
 *
 * Both Connections hold the pair's box in their user value, so the pair lives as long as one of
 * them. Callbacks get the Connection they run for: it is made before the handshake starts.
 */
#include "openssl/internal.h"

#include <string.h>

#define CLS "Connection"

struct connection {
    struct mg_box *box; /* of struct mg_memory_pair; kept by user value 1 */
    struct mg_memory_end *end;
    struct mg_lua_link *link; /* the state's: it lives longer */
};

static const struct mg_class connection_class;

/* Registry key, by address, of the weak table struct mg_tls_conn * -> Connection. */
static const char connections_key = 'h';

/* ---- life ----------------------------------------------------------------------------------- */

static void
pair_free(void *pair)
{
    mg_memory_pair_free(pair);
}

/* Callbacks run where the pair is moved, which may be a coroutine. Nothing between enter and leave
 * raises. */
static lua_State *
link_enter(struct mg_lua_link *link, lua_State *L)
{
    lua_State *usual = link->L;
    link->L = L;
    return usual;
}

static void
link_leave(struct mg_lua_link *link, lua_State *usual)
{
    link->L = usual;
    ERR_clear_error();
}

static void
connections_push(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &connections_key) == LUA_TTABLE)
        return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &connections_key);
}

static void
connection_push(lua_State *L, int box, struct mg_memory_end *end)
{
    struct connection *self = mg_class_new(L, &connection_class, sizeof(*self));
    lua_getiuservalue(L, -1, 1);
    lua_pushvalue(L, box);
    lua_rawseti(L, -2, 1);
    lua_pop(L, 1);
    self->box = lua_touserdata(L, box);
    self->end = end;
    self->link = mg_lua_link(L);
    connections_push(L);
    lua_pushvalue(L, -2);
    lua_rawsetp(L, -2, &end->conn);
    lua_pop(L, 1);
}

bool
mg_memory_connection_push(lua_State *L, const struct mg_tls_conn *conn)
{
    connections_push(L);
    lua_rawgetp(L, -1, conn);
    lua_remove(L, -2);
    const struct connection *self = mg_class_test(L, -1, &connection_class);
    if (self && self->box->ptr && &self->end->conn == conn)
        return true;
    lua_pop(L, 1);
    return false;
}

void
mg_memory_connection_keep(lua_State *L, const struct mg_tls_conn *conn, int idx)
{
    idx = lua_absindex(L, idx);
    if (!conn || !mg_memory_connection_push(L, conn))
        return;
    lua_getiuservalue(L, -1, 1);
    lua_pushvalue(L, idx);
    lua_rawseti(L, -2, 2);
    lua_pop(L, 2);
}

/* The pair, unless a finalizer came too late for it. */
static struct mg_memory_pair *
connection_pair(lua_State *L, const struct connection *self)
{
    if (!self->box->ptr)
        mg_lua_error(L, "RuntimeError", CLS ": is closed");
    return self->box->ptr;
}

/* ---- data ----------------------------------------------------------------------------------- */

static struct connection *
connection_check_open(lua_State *L)
{
    struct connection *self = mg_class_check(L, 1, &connection_class);
    connection_pair(L, self);
    if (!self->end->failed && !self->end->conn.handshake_done)
        mg_lua_error(L, "SSLError", "%s: the handshake is not done", mg_function_name(L));
    return self;
}

MG_NORETURN static void
failure_raise(lua_State *L, const struct connection *self)
{
    mg_lua_error(L, "SSLError", "%s: %s", mg_function_name(L), self->end->err.text);
}

#define READ_SIZE 16384

/* read([max]) -> what has arrived, at most max bytes; nil, "wait": nothing yet; nil, "closed": the
 * other end has closed */
static int
connection_read(lua_State *L)
{
    const struct connection *self = connection_check_open(L);
    mg_check_count(L, 0, 1);
    lua_Integer max = lua_isnoneornil(L, 2) ? LUA_MAXINTEGER : mg_check_integer(L, 2);
    if (max < 1)
        mg_lua_error(L, "ArgumentError", "%s: expected a positive number of bytes",
                     mg_function_name(L));
    struct mg_buf *data = mg_box_push_buf(L);
    char part[READ_SIZE];
    enum mg_tls_status status = MG_TLS_OK;
    lua_State *usual = link_enter(self->link, L);
    while (status == MG_TLS_OK && (lua_Unsigned)data->len < (lua_Unsigned)max && !data->failed) {
        size_t left = (size_t)max - data->len, got;
        status = mg_memory_end_read(self->box->ptr, self->end, part,
                                    left < sizeof(part) ? left : sizeof(part), &got);
        mg_buf_add(data, part, got);
    }
    link_leave(self->link, usual);
    mg_wipe(part, sizeof(part));
    if (data->failed)
        mg_lua_error(L, "NoMemoryError", CLS ":read: out of memory");
    if (data->len > 0) {
        lua_pushlstring(L, data->data, data->len);
        mg_buf_free_secret(data);
        return 1;
    }
    if (status == MG_TLS_ERROR)
        failure_raise(L, self);
    lua_pushnil(L);
    lua_pushstring(L, status == MG_TLS_CLOSED ? "closed" : "wait");
    return 2;
}

/* write(data) -> self */
static int
connection_write(lua_State *L)
{
    const struct connection *self = connection_check_open(L);
    size_t len;
    mg_check_count(L, 1, 1);
    const char *data = mg_check_string(L, 2, &len);
    if (self->end->conn.close_notify_sent)
        mg_lua_error(L, "SSLError", CLS ":write: this end is closed");
    lua_State *usual = link_enter(self->link, L);
    int rc = mg_memory_end_write(self->box->ptr, self->end, data, len);
    link_leave(self->link, usual);
    if (rc < 0)
        failure_raise(L, self);
    lua_settop(L, 1);
    return 1;
}

/* close(): sends close_notify; what the other end has still to say can be read */
static int
connection_close(lua_State *L)
{
    const struct connection *self = mg_class_check(L, 1, &connection_class);
    mg_check_count(L, 0, 0);
    struct mg_memory_pair *pair = connection_pair(L, self);
    lua_State *usual = link_enter(self->link, L);
    mg_memory_end_shutdown(pair, self->end);
    link_leave(self->link, usual);
    return 0;
}

#define KEYING_MAX 4096

int
mg_lua_export_keying_material(lua_State *L, struct mg_tls_conn *conn)
{
    size_t label_len, context_len;
    unsigned char out[KEYING_MAX];
    mg_check_count(L, 2, 3);
    const char *label = mg_check_string(L, 2, &label_len);
    lua_Integer length = mg_check_integer(L, 3);
    const char *context = mg_opt_string(L, 4, &context_len);
    if (length < 1 || length > KEYING_MAX)
        mg_lua_error(L, "ArgumentError", "%s: length: expected 1 to %d, got %lld",
                     mg_function_name(L), KEYING_MAX, (long long)length);
    if (!conn || !conn->ssl || !conn->handshake_done)
        mg_lua_error(L, "SSLError", "%s: the handshake is not done", mg_function_name(L));
    ERR_clear_error();
    if (SSL_export_keying_material(conn->ssl, out, (size_t)length, label, label_len,
                                   (const unsigned char *)context, context_len,
                                   context != NULL) != 1)
        mg_lua_openssl_error(L, "SSLError", "%s", mg_function_name(L));
    lua_pushlstring(L, (const char *)out, (size_t)length);
    mg_wipe(out, sizeof(out));
    return 1;
}

/* export_keying_material(label, length[, context]) */
static int
connection_export(lua_State *L)
{
    const struct connection *self = mg_class_check(L, 1, &connection_class);
    connection_pair(L, self);
    return mg_lua_export_keying_material(L, &self->end->conn);
}

/* post_connection_check(host) -> true, or an SSLError */
static int
connection_check(lua_State *L)
{
    const struct connection *self = mg_class_check(L, 1, &connection_class);
    size_t len;
    mg_check_count(L, 1, 1);
    const char *host = mg_check_string(L, 2, &len);
    connection_pair(L, self);
    X509 *peer = SSL_get0_peer_certificate(self->end->conn.ssl);
    if (!peer)
        mg_lua_error(L, "SSLError", "%s: there is no certificate of the peer", mg_function_name(L));
    if (!mg_ssl_identity_matches(peer, host, len))
        mg_lua_error(L, "SSLError", "hostname \"%.255s\" does not match the server certificate",
                     host);
    lua_pushboolean(L, true);
    return 1;
}

/* ---- the class ------------------------------------------------------------------------------ */

/* The dispatcher leaves the name at index 2. */
static int
reader_get(lua_State *L, void *data)
{
    const struct connection *self = data;
    connection_pair(L, self);
    mg_ssl_reader_push(L, &self->end->conn, lua_tostring(L, 2));
    return 1;
}

#define READER_ROW(name) {#name, reader_get, NULL},

static const struct mg_attr connection_attrs[] = {MG_SSL_READERS(READER_ROW){NULL, NULL, NULL}};

static const luaL_Reg connection_methods[] = {
    {"read", connection_read},
    {"write", connection_write},
    {"close", connection_close},
    {"export_keying_material", connection_export},
    {"post_connection_check", connection_check},
    {NULL, NULL},
};

static const struct mg_class connection_class = {
    .name = CLS,
    .metatable = "moongate.SSL.Connection",
    .attrs = connection_attrs,
    .methods = connection_methods,
    .user_values = 1,
};

void
mg_open_connection(lua_State *L)
{
    mg_class_register(L, &connection_class);
}

/* ---- openssl.handshake ----------------------------------------------------------------------- */

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

struct options {
    const char *servername;
    SSL_SESSION *session;
};

/* What is pointed to stays alive in the options table. */
static void
options_read(lua_State *L, int arg, struct options *options)
{
    if (lua_isnoneornil(L, arg))
        return;
    mg_check_table(L, arg);
    lua_pushnil(L);
    while (lua_next(L, arg)) {
        const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
        if (strcmp(key, "servername") == 0)
            options->servername = mg_attr_text(L, -1, "openssl.handshake", "servername");
        else if (strcmp(key, "session") == 0)
            options->session = mg_attr_ssl_session(L, -1, "openssl.handshake", "session");
        else
            mg_lua_error(L, "ArgumentError",
                         "openssl.handshake: unknown option \"%.80s\" (there are servername and "
                         "session)",
                         key);
        lua_pop(L, 1);
    }
}

/* Into the table on top. */
static void
text_field(lua_State *L, const char *name, const char *text)
{
    lua_pushstring(L, text);
    lua_setfield(L, -2, name);
}

static void
result_push(lua_State *L, const struct mg_memory_pair *pair, int server, int client)
{
    SSL *ssl = pair->client.conn.ssl;
    int alert = mg_memory_pair_alert(pair);
    lua_newtable(L);
    lua_pushboolean(L, !pair->server.failed && !pair->client.failed);
    lua_setfield(L, -2, "ok");
    if (pair->server.failed)
        text_field(L, "server_error", pair->server.err.text);
    if (pair->client.failed)
        text_field(L, "client_error", pair->client.err.text);
    if (alert >= 0) {
        text_field(L, "alert", mg_tls_alert_name(alert));
        lua_pushinteger(L, alert);
        lua_setfield(L, -2, "alert_number");
    }
    if (SSL_get_current_cipher(ssl)) {
        text_field(L, "version", SSL_get_version(ssl));
        text_field(L, "cipher", SSL_CIPHER_get_name(SSL_get_current_cipher(ssl)));
    }
    X509 *cert = SSL_get0_peer_certificate(ssl);
    if (cert && X509_get0_pubkey(cert))
        text_field(L, "key_type", mg_pkey_type_name(X509_get0_pubkey(cert)));
    lua_getfield(L, client, "alpn_protocol");
    lua_setfield(L, -2, "alpn_protocol");
    lua_getfield(L, client, "session_reused");
    lua_setfield(L, -2, "session_reused");
    lua_pushvalue(L, server);
    lua_setfield(L, -2, "server");
    lua_pushvalue(L, client);
    lua_setfield(L, -2, "client");
}

/* ---- a function in the place of the server's context ----------------------------------------- */

#define DECIDE_INDEX 1 /* of the function, in mg_lua_handshake */

struct decision {
    lua_State *L; /* mg_lua_handshake's */
    struct mg_tls_conn *conn;
    const struct mg_hello *hello;
    SSL_CTX *chosen; /* one reference, or NULL */
    int alert;
    struct mg_err *err;
};

/* decision, function: it gets the message and returns an SSLContext, or nil, reason[, alert]. */
static int
decide_body(lua_State *L)
{
    struct decision *d = mg_lua_pointer(L, 1);
    lua_settop(L, 2);
    lua_pushlstring(L, (const char *)d->hello->raw.data, d->hello->raw.len);
    lua_call(L, 1, 3); /* to 2, 3 and 4 */
    if (lua_toboolean(L, 2)) {
        SSL_CTX *chosen = context_ready(L, 2);
        mg_memory_connection_keep(L, d->conn, 2); /* callbacks need the userdata */
        SSL_CTX_up_ref(chosen);
        d->chosen = chosen;
        return 0;
    }
    d->alert = (int)luaL_optinteger(L, 4, -1);
    mg_err_setx(d->err, "%s", lua_isnil(L, 3) ? "refused" : luaL_tolstring(L, 3, NULL));
    return 0;
}

/* The same; what is raised becomes the refusal's text. */
static int
decide_protected(lua_State *L)
{
    struct decision *d = mg_lua_pointer(L, 1);
    lua_pushcfunction(L, decide_body);
    lua_insert(L, 1);
    if (lua_pcall(L, 2, 0, 0) == LUA_OK)
        return 0;
    d->alert = SSL_AD_INTERNAL_ERROR;
    mg_err_setx(d->err, "%s", mg_lua_error_text(L, -1));
    return 0;
}

static SSL_CTX *
on_decide(void *data, const struct mg_hello *hello, int *alert, struct mg_err *err)
{
    struct decision *d = data;
    lua_State *L = d->L;
    d->hello = hello;
    d->alert = SSL_AD_INTERNAL_ERROR;
    d->err = err;
    mg_err_setx(err, "out of memory");
    if (lua_checkstack(L, 4)) {
        lua_pushcfunction(L, decide_protected);
        lua_pushlightuserdata(L, d);
        lua_pushvalue(L, DECIDE_INDEX);
        if (lua_pcall(L, 2, 0, 0) != LUA_OK)
            lua_pop(L, 1);
    }
    *alert = d->alert;
    return d->chosen;
}

/* What two SSL objects and their buffers weigh, for a collector that sees only the userdata. */
#define PAIR_KIB 64

/* handshake(server_ctx or function(message), client_ctx[, { servername =, session = }]) -> { ok =, version =,
 * …, server = Connection, client = Connection } */
int
mg_lua_handshake(lua_State *L)
{
    struct options options = {0};
    struct decision decision = {.L = L};
    struct mg_err err;
    mg_check_count(L, 2, 3);
    lua_settop(L, 3);
    SSL_CTX *server = lua_isfunction(L, DECIDE_INDEX) ? NULL : context_ready(L, 1);
    SSL_CTX *client = context_ready(L, 2);
    options_read(L, 3, &options);
    lua_gc(L, LUA_GCSTEP, PAIR_KIB);
    struct mg_box *box = mg_box_push(L, pair_free); /* 4 */
    struct mg_memory_pair *pair = box->ptr = mg_memory_pair_new();
    if (!pair)
        mg_lua_error(L, "NoMemoryError", "openssl.handshake: out of memory");
    pair->asks_servername = true;
    if (!server) {
        decision.conn = &pair->server.conn;
        pair->decide = on_decide;
        pair->decide_data = &decision;
    }
    if (mg_memory_pair_open(pair, server, client, options.servername, options.session, &err) < 0)
        mg_lua_error(L, "SSLError", "openssl.handshake: %s", err.text);
    connection_push(L, 4, &pair->server); /* 5 */
    connection_push(L, 4, &pair->client); /* 6 */

    struct mg_lua_link *link = mg_lua_link(L);
    lua_State *usual = link_enter(link, L);
    mg_memory_pair_run(pair);
    link_leave(link, usual);
    pair->decide = NULL; /* it is over */

    result_push(L, pair, 5, 6);
    ERR_clear_error();
    return 1;
}

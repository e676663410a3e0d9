/*
 * Conn: what callbacks see of a connection, read-only. There is one per session, made when a
 * callback first gets it and kept until the session ends; a Conn that a script kept longer raises
 * on every access.
 */
#include "script/internal.h"

#include <openssl/err.h>

#include <string.h>

/* Registry name of the table from session (light userdata) to Conn. */
#define CONNS "moongate.conns"

/* Likewise to the context that a callback made for it: its callbacks need the userdata. */
#define CONTEXTS "moongate.conn_contexts"

struct conn {
    struct mg_session *session; /* NULL once it has ended */
};

static void
info_get(lua_State *L, const void *self, struct mg_session_info *info)
{
    const struct conn *conn = self;

    if (conn->session == NULL)
        mg_lua_error(L, "RuntimeError", "Conn: the connection has ended");
    mg_session_info(conn->session, info);
}

static void
local_get(lua_State *L, const void *self, struct mg_addr *local)
{
    struct mg_session_info info;

    info_get(L, self, &info);
    mg_session_local(((const struct conn *)self)->session, local);
}

static int
id_get(lua_State *L, void *self)
{
    struct mg_session_info info;

    info_get(L, self, &info);
    lua_pushinteger(L, (lua_Integer)info.id);
    return 1;
}

static int
generation_get(lua_State *L, void *self)
{
    struct mg_session_info info;

    info_get(L, self, &info);
    lua_pushinteger(L, (lua_Integer)info.generation);
    return 1;
}

static int
listener_get(lua_State *L, void *self)
{
    struct mg_session_info info;

    info_get(L, self, &info);
    lua_pushstring(L, info.listener->name);
    return 1;
}

/* Unix sockets have neither IP nor port: nil. */
static int
ip_push(lua_State *L, const struct mg_addr *addr)
{
    char text[MG_ADDR_TEXT];

    if (addr == NULL || mg_addr_ip(addr, text)[0] == '\0')
        lua_pushnil(L);
    else
        lua_pushstring(L, text);
    return 1;
}

static int
port_push(lua_State *L, const struct mg_addr *addr)
{
    if (addr == NULL || mg_addr_port(addr) == 0)
        lua_pushnil(L);
    else
        lua_pushinteger(L, mg_addr_port(addr));
    return 1;
}

static int
remote_ip_get(lua_State *L, void *self)
{
    struct mg_session_info info;

    info_get(L, self, &info);
    return ip_push(L, info.remote);
}

static int
remote_port_get(lua_State *L, void *self)
{
    struct mg_session_info info;

    info_get(L, self, &info);
    return port_push(L, info.remote);
}

static int
local_ip_get(lua_State *L, void *self)
{
    struct mg_addr local;

    local_get(L, self, &local);
    return ip_push(L, &local);
}

static int
local_port_get(lua_State *L, void *self)
{
    struct mg_addr local;

    local_get(L, self, &local);
    return port_push(L, &local);
}

static int
socket_ip_get(lua_State *L, void *self)
{
    struct mg_session_info info;

    info_get(L, self, &info);
    return ip_push(L, info.socket_remote);
}

static int
socket_port_get(lua_State *L, void *self)
{
    struct mg_session_info info;

    info_get(L, self, &info);
    return port_push(L, info.socket_remote);
}

/* A table of its own each time, from type to value; of two of a type the first. */
static int
proxy_tlvs_get(lua_State *L, void *self)
{
    struct mg_session_info info;
    struct mg_proxy_tlv tlv;

    info_get(L, self, &info);
    lua_newtable(L);
    while (mg_proxy_tlv_next(&info.proxy_tlvs, &tlv)) {
        bool is_first = lua_rawgeti(L, -1, tlv.type) == LUA_TNIL;

        lua_pop(L, 1);
        if (!is_first || tlv.type == MG_PROXY_NOOP)
            continue;
        lua_pushlstring(L, (const char *)tlv.value, tlv.len);
        lua_rawseti(L, -2, tlv.type);
    }
    return 1;
}

/* SSLSocket's readers; the dispatcher leaves the name at index 2. Nil on a plain listener. */
static int
reader_get(lua_State *L, void *self)
{
    struct mg_session_info info;

    info_get(L, self, &info);
    if (info.tls == NULL || info.tls->ssl == NULL ||
        !mg_ssl_reader_push(L, info.tls, lua_tostring(L, 2)))
        lua_pushnil(L);
    return 1;
}

/* In servername_cb there is no SSL object to read it from. */
static int
servername_get(lua_State *L, void *self)
{
    struct mg_session_info info;

    info_get(L, self, &info);
    if (info.servername == NULL)
        return reader_get(L, self);
    lua_pushstring(L, info.servername);
    return 1;
}

/* What the client offered; nil where it does not speak TLS. */
static int
alpn_protocols_get(lua_State *L, void *self)
{
    struct mg_session_info info;

    info_get(L, self, &info);
    if (info.hello == NULL)
        lua_pushnil(L);
    else
        mg_protocols_push(L, info.hello->alpn_offered);
    return 1;
}

static const struct mg_attr attrs[] = {
    {"id", id_get, NULL},
    {"listener", listener_get, NULL},
    {"generation", generation_get, NULL},
    {"remote_ip", remote_ip_get, NULL},
    {"remote_port", remote_port_get, NULL},
    {"local_ip", local_ip_get, NULL},
    {"local_port", local_port_get, NULL},
    {"socket_ip", socket_ip_get, NULL},
    {"socket_port", socket_port_get, NULL},
    {"proxy_tlvs", proxy_tlvs_get, NULL},
    {"ssl_version", reader_get, NULL},
    {"cipher", reader_get, NULL},
    {"alpn_protocol", reader_get, NULL},
    {"alpn_protocols", alpn_protocols_get, NULL},
    {"servername", servername_get, NULL},
    {"cert", reader_get, NULL},
    {"peer_cert", reader_get, NULL},
    {"peer_cert_chain", reader_get, NULL},
    {"verify_result", reader_get, NULL},
    {"session", reader_get, NULL},
    {"session_reused", reader_get, NULL},
    {"tmp_key", reader_get, NULL},
    {"sigalg", reader_get, NULL},
    {"peer_sigalg", reader_get, NULL},
    {"group", reader_get, NULL},
    {"state", reader_get, NULL},
    {"pending", reader_get, NULL},
    {"finished_message", reader_get, NULL},
    {"peer_finished_message", reader_get, NULL},
    {"client_ca", reader_get, NULL},
    {"ocsp_response", reader_get, NULL},
    {NULL, NULL, NULL},
};

static int export_keying_material(lua_State *L);

static const luaL_Reg methods[] = {
    {"export_keying_material", export_keying_material},
    {NULL, NULL},
};

static const struct mg_class conn_class = {
    .name = "Conn",
    .metatable = "moongate.Conn",
    .attrs = attrs,
    .methods = methods,
};

#define KEYING_MAX 4096

/* conn:export_keying_material(label, length[, context]) */
static int
export_keying_material(lua_State *L)
{
    struct mg_session_info info;
    size_t label_len, context_len = 0;
    const char *label, *context = NULL;
    lua_Integer length;
    unsigned char out[KEYING_MAX];
    int ok;

    info_get(L, mg_class_check(L, 1, &conn_class), &info);
    label = mg_arg_string(L, 2, "Conn:export_keying_material", "label", &label_len);
    length = mg_arg_integer(L, 3, "Conn:export_keying_material", "length");
    if (!lua_isnoneornil(L, 4))
        context = mg_arg_string(L, 4, "Conn:export_keying_material", "context", &context_len);
    if (length < 1 || length > KEYING_MAX)
        mg_lua_error(L, "ArgumentError", "Conn:export_keying_material: length: from 1 to %d",
                     KEYING_MAX);
    if (info.tls == NULL || info.tls->ssl == NULL || !info.tls->handshake_done)
        mg_lua_error(L, "SSLError", "Conn:export_keying_material: there was no handshake yet");
    ERR_clear_error();
    ok = SSL_export_keying_material(info.tls->ssl, out, (size_t)length, label, label_len,
                                    (const unsigned char *)context, context_len, context != NULL);
    if (ok != 1)
        mg_lua_openssl_error(L, "SSLError", "Conn:export_keying_material");
    lua_pushlstring(L, (const char *)out, (size_t)length);
    mg_wipe(out, sizeof(out));
    return 1;
}

void
mg_conn_open(lua_State *L)
{
    mg_class_register(L, &conn_class);
    lua_newtable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, CONNS);
    lua_newtable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, CONTEXTS);
}

void
mg_conn_push(lua_State *L, struct mg_session *session)
{
    struct conn *conn;

    lua_getfield(L, LUA_REGISTRYINDEX, CONNS);
    lua_rawgetp(L, -1, session);
    conn = lua_touserdata(L, -1);
    if (conn == NULL || conn->session != session) { /* of a session that was here before */
        lua_pop(L, 1);
        conn = mg_class_new(L, &conn_class, sizeof(*conn));
        lua_pushvalue(L, -1);
        lua_rawsetp(L, -3, session); /* until mg_conn_forget */
        conn->session = session;
        mg_session_set_user(session, conn);
    }
    lua_remove(L, -2);
}

static void
context_set(lua_State *L, struct mg_session *session)
{
    lua_getfield(L, LUA_REGISTRYINDEX, CONTEXTS);
    lua_insert(L, -2);
    lua_rawsetp(L, -2, session);
    lua_pop(L, 1);
}

/* There must be a Conn, too, for mg_conn_forget. */
void
mg_conn_keep(lua_State *L, struct mg_session *session)
{
    mg_conn_push(L, session);
    lua_pop(L, 1);
    context_set(L, session);
}

static void
conn_drop(lua_State *L, void *session)
{
    lua_pushnil(L);
    context_set(L, session);
    lua_getfield(L, LUA_REGISTRYINDEX, CONNS);
    lua_pushnil(L);
    lua_rawsetp(L, -2, session);
}

void
mg_conn_forget(struct mg_script *s, struct mg_session *session)
{
    struct conn *conn = mg_session_user(session);
    struct mg_err ignored;

    if (conn == NULL)
        return;
    conn->session = NULL;
    mg_session_set_user(session, NULL);
    mg_script_protect(s, conn_drop, session, &ignored);
}

/*
 * Hello: what a `tls` function sees of a connection, read-only. It points into bytes that are the
 * engine's, so it is of use only until the decision: the registry keeps it that long, and then it forgets
 * where it pointed to. Who kept it gets an error from every field.
 */
#include "script/internal.h"

#include <string.h>

/* Registry name of the table from session (light userdata) to the Hello that is being decided on. */
#define HELLOS "moongate.hellos"

struct hello {
    struct mg_session *session;   /* NULL: of no connection */
    const struct mg_hello *hello; /* NULL once it is decided */
};

/* One of no connection: its user values are the message and a table of addresses. */
struct sample {
    struct hello base;
    struct mg_hello parsed;
};
enum { SAMPLE_MESSAGE = 1, SAMPLE_ADDRESSES };

static const struct mg_hello *
hello_get(lua_State *L, const void *self)
{
    const struct hello *hello = self;

    if (hello->hello == NULL)
        mg_lua_error(L, "RuntimeError",
                     "Hello: it is of use only inside the tls function that was called with it");
    return hello->hello;
}

static void
span_push(lua_State *L, struct mg_hello_span span)
{
    lua_pushlstring(L, span.data != NULL ? (const char *)span.data : "", span.len);
}

static int
servername_get(lua_State *L, void *self)
{
    const struct mg_hello *hello = hello_get(L, self);

    if (hello->servername.data == NULL)
        lua_pushnil(L);
    else
        span_push(L, hello->servername);
    return 1;
}

static int
session_id_get(lua_State *L, void *self)
{
    span_push(L, hello_get(L, self)->session_id);
    return 1;
}

static int
raw_get(lua_State *L, void *self)
{
    span_push(L, hello_get(L, self)->raw);
    return 1;
}

static int
alpn_protocols_get(lua_State *L, void *self)
{
    struct mg_hello_span list = hello_get(L, self)->alpn, name;

    lua_newtable(L);
    for (lua_Integer i = 1; mg_hello_next_protocol(&list, &name); i++) {
        span_push(L, name);
        lua_rawseti(L, -2, i);
    }
    return 1;
}

static void
name_append(lua_State *L, enum mg_tls_registry registry, uint16_t number)
{
    char unknown[MG_TLS_UNKNOWN_NAME];

    lua_pushstring(L, mg_tls_number_name(registry, number, unknown));
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
}

static int
names_push(lua_State *L, enum mg_tls_registry registry, struct mg_hello_span list)
{
    uint16_t number;

    lua_newtable(L);
    while (mg_hello_next_number(&list, &number))
        if (!mg_hello_is_grease(number))
            name_append(L, registry, number);
    return 1;
}

/* Without the extension there is only the highest version. */
static int
versions_get(lua_State *L, void *self)
{
    const struct mg_hello *hello = hello_get(L, self);

    names_push(L, MG_TLS_VERSION, hello->versions);
    if (hello->versions.data == NULL)
        name_append(L, MG_TLS_VERSION, hello->legacy_version);
    return 1;
}

static int
cipher_suites_get(lua_State *L, void *self)
{
    return names_push(L, MG_TLS_CIPHER_SUITE, hello_get(L, self)->cipher_suites);
}

static int
groups_get(lua_State *L, void *self)
{
    return names_push(L, MG_TLS_GROUP, hello_get(L, self)->groups);
}

static int
signature_algorithms_get(lua_State *L, void *self)
{
    return names_push(L, MG_TLS_SIGNATURE_SCHEME, hello_get(L, self)->signature_algorithms);
}

static int
supports_ecdsa_get(lua_State *L, void *self)
{
    lua_pushboolean(L, mg_hello_supports_ecdsa(hello_get(L, self)));
    return 1;
}

/* The session has made it already, for the record. */
static int
ja4_get(lua_State *L, void *self)
{
    char text[MG_HELLO_JA4];

    if (mg_hello_ja4(hello_get(L, self), text) != 0)
        mg_lua_error(L, "NoMemoryError", "Hello.ja4: out of memory");
    lua_pushstring(L, text);
    return 1;
}

/* The addresses are those of its Conn. */
static int
conn_get(lua_State *L, void *self)
{
    struct mg_session *session = ((const struct hello *)self)->session;

    hello_get(L, self);
    if (session != NULL)
        mg_conn_push(L, session);
    else
        lua_getiuservalue(L, 1, SAMPLE_ADDRESSES);
    lua_getfield(L, -1, lua_tostring(L, 2));
    return 1;
}

static const struct mg_attr attrs[] = {
    {"servername", servername_get, NULL},
    {"alpn_protocols", alpn_protocols_get, NULL},
    {"versions", versions_get, NULL},
    {"cipher_suites", cipher_suites_get, NULL},
    {"groups", groups_get, NULL},
    {"signature_algorithms", signature_algorithms_get, NULL},
    {"supports_ecdsa", supports_ecdsa_get, NULL},
    {"ja4", ja4_get, NULL},
    {"session_id", session_id_get, NULL},
    {"raw", raw_get, NULL},
    {"remote_ip", conn_get, NULL},
    {"remote_port", conn_get, NULL},
    {"local_ip", conn_get, NULL},
    {"local_port", conn_get, NULL},
    {"socket_ip", conn_get, NULL},
    {"socket_port", conn_get, NULL},
    {"proxy_tlvs", conn_get, NULL},
    {NULL, NULL, NULL},
};

static const struct mg_class hello_class = {
    .name = "Hello",
    .metatable = "moongate.Hello",
    .attrs = attrs,
    .user_values = 2,
};

void
mg_hello_open(lua_State *L)
{
    mg_class_register(L, &hello_class);
    lua_newtable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, HELLOS);
}

void
mg_hello_push(lua_State *L, struct mg_session *session, const struct mg_hello *hello)
{
    struct hello *self;

    lua_getfield(L, LUA_REGISTRYINDEX, HELLOS);
    self = mg_class_new(L, &hello_class, sizeof(*self));
    lua_pushvalue(L, -1);
    lua_rawsetp(L, -3, session); /* until mg_hello_forget */
    self->session = session;
    self->hello = hello;
    lua_remove(L, -2);
}

void
mg_hello_sample_push(lua_State *L, int message, int addresses)
{
    size_t len;
    const char *text = luaL_checklstring(L, message, &len);
    struct sample *self = mg_class_new(L, &hello_class, sizeof(*self));

    lua_pushvalue(L, message);
    lua_setiuservalue(L, -2, SAMPLE_MESSAGE);
    lua_pushvalue(L, addresses);
    lua_setiuservalue(L, -2, SAMPLE_ADDRESSES);
    if (mg_hello_parse((const unsigned char *)text, len, &self->parsed) != MG_HELLO_COMPLETE)
        luaL_error(L, "malformed ClientHello");
    self->base.hello = &self->parsed;
}

void
mg_hello_sample_forget(lua_State *L, int idx)
{
    struct hello *self = mg_class_check(L, idx, &hello_class);

    self->hello = NULL;
}

/* Allocates nothing, so that it cannot fail. */
static void
hello_drop(lua_State *L, void *session)
{
    struct hello *self;

    lua_getfield(L, LUA_REGISTRYINDEX, HELLOS);
    lua_rawgetp(L, -1, session);
    self = lua_touserdata(L, -1);
    if (self != NULL)
        self->hello = NULL;
    lua_pushnil(L);
    lua_rawsetp(L, 1, session);
}

void
mg_hello_forget(struct mg_script *s, struct mg_session *session)
{
    struct mg_err ignored;

    mg_script_protect(s, hello_drop, session, &ignored);
}

/* moongate.listen and the Listener it returns. */
#include "script/internal.h"

#include <grp.h>
#include <pwd.h>
#include <string.h>

#define WHAT "listen"

/* Registry fields: names and addresses by the name of the listener that has them, so that a further listener
 * costs the same however many there are. */
#define NAMES_TAKEN     "moongate.listener names"
#define ADDRESSES_TAKEN "moongate.listener addresses"

static void address_read(lua_State *L, const struct mg_option *o, const char *what, int value);
static void tls_read(lua_State *L, const struct mg_option *o, const char *what, int value);
static void backend_read(lua_State *L, const struct mg_option *o, const char *what, int value);
static void rate_read(lua_State *L, const struct mg_option *o, const char *what, int value);
static void accept_proxy_read(lua_State *L, const struct mg_option *o, const char *what, int value);

#define DURATION_OR_OFF                                                                            \
    .read = mg_option_duration, .min = 0.001, .max = MG_DURATION_MAX, .may_be_off = true

static const struct mg_option options[] = {
    {.name = "address", .read = address_read},
    {.name = "name", .read = mg_option_name},
    {.name = "tls", .read = tls_read},
    {.name = "backend", .read = backend_read},
    {.name = "accept_proxy", .read = accept_proxy_read, .fallback = "false"},
    {.name = "max_connections", .read = mg_option_integer, .min = 1, .max = 1e9},
    {.name = "handshake_timeout", DURATION_OR_OFF, .fallback = "10"},
    {.name = "idle_timeout", DURATION_OR_OFF, .fallback = "600"},
    {.name = "max_lifetime", DURATION_OR_OFF, .fallback = "false"},
    {.name = "half_close_timeout", DURATION_OR_OFF, .fallback = "60"},
    {.name = "max_connections_per_ip", .read = mg_option_integer, .min = 1, .max = 1e9},
    {.name = "handshake_rate", .read = rate_read},
    {.name = "tls_optional", .read = mg_option_boolean, .fallback = "false"},
    {.name = "backlog", .read = mg_option_integer, .min = 1, .max = 65535, .fallback = "4096"},
    {.name = "tcp_nodelay", .read = mg_option_boolean, .fallback = "true"},
    {.name = "tcp_keepalive",
     .read = mg_option_duration,
     .min = 1,
     .max = 32767,
     .may_be_off = true,
     .fallback = "60"},
    {.name = NULL},
};

#define RATE_MIN 0.001
#define RATE_MAX 1e6

static const struct mg_option rate_options[] = {
    {.name = "per_second", .read = mg_option_number, .min = RATE_MIN, .max = RATE_MAX},
    {.name = "burst", .read = mg_option_number, .min = 1, .max = RATE_MAX},
    {.name = "per_ip", .read = mg_option_number, .min = RATE_MIN, .max = RATE_MAX},
    {.name = NULL},
};

static void mode_read(lua_State *L, const struct mg_option *o, const char *what, int value);
static void owner_read(lua_State *L, const struct mg_option *o, const char *what, int value);

/* Of an address that is a table: what becomes of a unix socket's file. */
static const struct mg_option entry_options[] = {
    {.name = "address", .read = mg_option_string},
    {.name = "mode", .read = mode_read},
    {.name = "owner", .read = owner_read},
    {.name = "group", .read = owner_read},
    {.name = NULL},
};

/* ---- values --------------------------------------------------------------------------------- */

static void
mode_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    const char *text = lua_type(L, value) == LUA_TSTRING ? lua_tostring(L, value) : "";
    size_t digits = strspn(text, "01234567");

    if (digits < 3 || digits > 4 || text[digits] != '\0' || (digits == 4 && text[0] != '0'))
        mg_option_error(L, what, "%s: expected octal digits in a string, like \"0660\", got %s",
                        o->name, luaL_tolstring(L, value, NULL));
    lua_pushvalue(L, value);
}

/* A user or group that there is; where the script is only replayed, the loader has looked. */
static void
owner_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    bool user = strcmp(o->name, "owner") == 0;

    mg_option_string(L, o, what, value);
    if (mg_script_of(L)->world.mode != MG_WORLD_REPLAY &&
        !(user ? getpwnam(lua_tostring(L, -1)) != NULL : getgrnam(lua_tostring(L, -1)) != NULL))
        mg_option_error(L, what, "%s: there is no %s \"%s\"", o->name, user ? "user" : "group",
                        lua_tostring(L, -1));
}

static bool
is_wild(const struct mg_endpoint *ep)
{
    return ep->kind == MG_ENDPOINT_ANY || (ep->kind == MG_ENDPOINT_IP && mg_addr_is_any(&ep->addr));
}

/* Whether a socket of `wild`, which is one of all addresses, leaves none for `other`. */
static bool
takes_all(const struct mg_endpoint *wild, const struct mg_endpoint *other)
{
    if (!is_wild(wild) || other->kind == MG_ENDPOINT_UNIX || wild->port != other->port)
        return false;
    return wild->kind == MG_ENDPOINT_ANY || other->kind == MG_ENDPOINT_ANY ||
           wild->addr.u.sa.sa_family == other->addr.u.sa.sa_family;
}

/* Of canonical addresses. */
static bool
overlap(const char *text, const char *other_text)
{
    struct mg_endpoint ep, other;
    struct mg_err ignored;

    return mg_endpoint_parse(&ep, text, true, &ignored) == 0 &&
           mg_endpoint_parse(&other, other_text, true, &ignored) == 0 &&
           (takes_all(&ep, &other) || takes_all(&other, &ep));
}

/* Appends a canonical address to a list. */
static void
address_append(lua_State *L, int list, const char *what, const char *text)
{
    lua_Integer count = (lua_Integer)lua_rawlen(L, list);

    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(L, list, i);
        if (strcmp(lua_tostring(L, -1), text) == 0)
            mg_option_error(L, what, "address: %s is given twice", text);
        if (overlap(lua_tostring(L, -1), text))
            mg_option_error(L, what,
                            "address: %s and %s are not to be had together: one has all "
                            "addresses of that port",
                            lua_tostring(L, -1), text);
        lua_pop(L, 1);
    }
    lua_pushstring(L, text);
    lua_rawseti(L, list, count + 1);
}

/* A name stands for all its addresses. */
static void
name_append(lua_State *L, int list, const char *what, const struct mg_endpoint *name)
{
    struct mg_buf *found = mg_bytes_push(L);
    struct mg_err err;

    if (mg_world_lookup(&mg_script_of(L)->world, name->host, found, &err) != 0)
        mg_option_error(L, what, "address: %s", err.text);
    for (size_t at = 0; at < found->len; at += strlen(found->data + at) + 1) {
        const char *ip = found->data + at;
        bool v6 = strchr(ip, ':') != NULL;

        address_append(L, list, what,
                       lua_pushfstring(L, v6 ? "[%s]:%d" : "%s:%d", ip, (int)name->port));
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

static void
address_parse(lua_State *L, int list, const char *what, int value)
{
    struct mg_endpoint ep;
    struct mg_err err;
    char text[MG_ADDR_TEXT];

    if (lua_type(L, value) != LUA_TSTRING)
        mg_option_error(L, what, "address: expected \"host:port\" or a list of these, got %s",
                        luaL_typename(L, value));
    if (strlen(lua_tostring(L, value)) != lua_rawlen(L, value))
        mg_option_error(L, what, "address: the string contains a zero byte");
    if (mg_endpoint_parse(&ep, lua_tostring(L, value), true, &err) != 0)
        mg_option_error(L, what, "address: %s", err.text);
    switch (ep.kind) {
    case MG_ENDPOINT_ANY:
        address_append(L, list, what, lua_pushfstring(L, "*:%d", (int)ep.port));
        lua_pop(L, 1);
        break;
    case MG_ENDPOINT_NAME:
        name_append(L, list, what, &ep);
        break;
    case MG_ENDPOINT_IP:
        if (strchr(ep.host, '%') != NULL) { /* the interface belongs to it */
            address_append(L, list, what, lua_pushfstring(L, "[%s]:%d", ep.host, (int)ep.port));
            lua_pop(L, 1);
            break;
        }
        address_append(L, list, what, mg_addr_text(&ep.addr, text));
        break;
    case MG_ENDPOINT_UNIX:
        address_append(L, list, what, mg_addr_text(&ep.addr, text));
        break;
    }
}

/* The file of the last address, as `entry` wants it: in the list, under the address, the lines for the
 * supervisor. */
static void
file_note(lua_State *L, int list, const char *what, int entry)
{
    const char *address;
    int top = lua_gettop(L);

    lua_pushliteral(L, "");
    for (const struct mg_option *o = entry_options + 1; o->name != NULL; o++) {
        if (lua_getfield(L, entry, o->name) == LUA_TNIL) {
            lua_pop(L, 1);
            continue;
        }
        lua_pushfstring(L, "%s=%s\n", o->name, lua_tostring(L, -1));
        lua_remove(L, -2);
        lua_concat(L, 2);
    }
    lua_rawgeti(L, list, (lua_Integer)lua_rawlen(L, list));
    address = lua_tostring(L, -1);
    if (lua_rawlen(L, top + 1) > 0 && strncmp(address, "unix:/", 6) != 0)
        mg_option_error(L, what, "address: %s is no file: mode, owner and group are for unix:/path",
                        address);
    lua_pushvalue(L, top + 1);
    lua_setfield(L, list, address);
    lua_settop(L, top);
}

/* One address: a text, or { address =, mode =, owner =, group = }. */
static void
entry_read(lua_State *L, int list, const char *what, int value)
{
    int top = lua_gettop(L);

    if (!lua_istable(L, value)) {
        address_parse(L, list, what, value);
        return;
    }
    lua_newtable(L);
    mg_options_read(L, what, entry_options, value, top + 1);
    if (lua_getfield(L, top + 1, "address") == LUA_TNIL)
        mg_option_error(L, what, "address: an entry without address");
    address_parse(L, list, what, lua_gettop(L));
    file_note(L, list, what, top + 1);
    lua_settop(L, top);
}

/* The normal form is a list of canonical texts; for some of them, under the text, its file's options. */
static void
address_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    int list;

    lua_newtable(L);
    list = lua_gettop(L);
    if (!lua_istable(L, value) || lua_getfield(L, value, "address") != LUA_TNIL) {
        lua_settop(L, list);
        entry_read(L, list, what, value);
        return;
    }
    lua_settop(L, list);
    mg_option_list(L, what, o->name, value, "addresses", entry_options);
    for (lua_Integer i = 1; lua_rawgeti(L, value, i) != LUA_TNIL; i++) {
        entry_read(L, list, what, lua_gettop(L));
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    if (lua_rawlen(L, list) == 0)
        mg_option_error(L, what, "address: an empty list");
}

static void
tls_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    (void)o;
    if (lua_istable(L, value))
        mg_option_error(L, what, "tls: a table of names is made by moongate.servernames{...}");
    if (mg_ssl_context_test(L, value) == NULL && mg_servernames_test(L, value) == NULL &&
        !lua_isfunction(L, value))
        mg_option_error(L, what,
                        "tls: expected an SSLContext, a ServerNames or a function of a Hello, got "
                        "%s",
                        luaL_typename(L, value));
    lua_pushvalue(L, value);
}

static void
backend_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    if (lua_type(L, value) == LUA_TSTRING && strlen(lua_tostring(L, value)) != lua_rawlen(L, value))
        mg_option_error(L, what, "%s: the string contains a zero byte", o->name);
    if (lua_type(L, value) == LUA_TSTRING)
        mg_backend_push_address(L, what, lua_tostring(L, value));
    else if (lua_isfunction(L, value) || mg_backend_test(L, value) != NULL)
        lua_pushvalue(L, value);
    else
        mg_option_error(L, what,
                        "backend: expected \"host:port\", \"unix:/path\", a Backend or a function, "
                        "got %s",
                        luaL_typename(L, value));
}

/* The normal form is a table of its own with what was given. */
static void
rate_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    int made;

    lua_createtable(L, 0, 3);
    made = lua_gettop(L);
    mg_options_read(L, lua_pushfstring(L, "%s: %s", what, o->name), rate_options, value, made);
    if (lua_getfield(L, made, "per_second") == LUA_TNIL &&
        lua_getfield(L, made, "per_ip") == LUA_TNIL)
        mg_option_error(L, what, "%s: expected per_second, per_ip or both", o->name);
    lua_settop(L, made);
}

bool
mg_option_rate(lua_State *L, int idx, struct mg_option_rate *out)
{
    idx = lua_absindex(L, idx);
    *out = (struct mg_option_rate){0};
    if (!lua_istable(L, idx))
        return false;
    lua_getfield(L, idx, "per_second");
    lua_getfield(L, idx, "burst");
    lua_getfield(L, idx, "per_ip");
    out->per_second = lua_tonumber(L, -3);
    out->burst = lua_tonumber(L, -2);
    out->per_ip = lua_tonumber(L, -1);
    lua_pop(L, 3);
    return out->per_second > 0 || out->per_ip > 0;
}

/* Appends the network at the top, popped, in its canonical form. */
static void
network_append(lua_State *L, int list, const char *what)
{
    struct mg_cidr cidr;
    struct mg_err err;
    char text[MG_CIDR_TEXT];

    if (lua_type(L, -1) != LUA_TSTRING)
        mg_option_error(L, what, "accept_proxy: expected networks like \"10.0.0.0/8\", got %s",
                        luaL_typename(L, -1));
    if (strlen(lua_tostring(L, -1)) != lua_rawlen(L, -1))
        mg_option_error(L, what, "accept_proxy: the string contains a zero byte");
    if (mg_cidr_parse(&cidr, lua_tostring(L, -1), &err) != 0)
        mg_option_error(L, what, "accept_proxy: %s", err.text);
    if (cidr.inexact)
        mg_script_warn(L, "%s: accept_proxy: \"%s\" is taken for %s", what, lua_tostring(L, -1),
                       mg_cidr_text(&cidr, text));
    lua_pushstring(L, mg_cidr_text(&cidr, text));
    lua_rawseti(L, list, (lua_Integer)lua_rawlen(L, list) + 1);
    lua_pop(L, 1);
}

/* The normal form is true, false or a list of canonical texts. */
static void
accept_proxy_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    int list;

    if (lua_isboolean(L, value)) {
        lua_pushvalue(L, value);
        return;
    }
    if (!lua_istable(L, value))
        mg_option_error(L, what, "accept_proxy: expected true, false or a list of networks, got %s",
                        luaL_typename(L, value));
    mg_option_list(L, what, o->name, value, "networks like \"10.0.0.0/8\"", NULL);
    lua_newtable(L);
    list = lua_gettop(L);
    for (lua_Integer i = 1; lua_rawgeti(L, value, i) != LUA_TNIL; i++)
        network_append(L, list, what);
    lua_pop(L, 1);
    if (lua_rawlen(L, list) == 0)
        mg_option_error(L, what,
                        "accept_proxy: an empty list of networks; false: nobody sends a header");
}

/* ---- the class ------------------------------------------------------------------------------ */

static void
listener_set(lua_State *L, void *self, int value)
{
    (void)self;
    mg_option_assign(L, "Listener", options, value);
}

static bool
listener_is_frozen(const void *self)
{
    return ((const struct mg_listener_object *)self)->frozen;
}

static int
frozen_get(lua_State *L, void *self)
{
    lua_pushboolean(L, listener_is_frozen(self));
    return 1;
}

static const struct mg_attr attrs[] = {
    {"address", mg_option_get, mg_option_fixed},
    {"name", mg_option_get, mg_option_fixed},
    {"tls", mg_option_get, listener_set},
    {"backend", mg_option_get, listener_set},
    {"accept_proxy", mg_option_get, listener_set},
    {"max_connections", mg_option_get, listener_set},
    {"max_connections_per_ip", mg_option_get, listener_set},
    {"handshake_rate", mg_option_get, listener_set},
    {"tls_optional", mg_option_get, listener_set},
    {"handshake_timeout", mg_option_get, listener_set},
    {"idle_timeout", mg_option_get, listener_set},
    {"max_lifetime", mg_option_get, listener_set},
    {"half_close_timeout", mg_option_get, listener_set},
    {"backlog", mg_option_get, listener_set},
    {"tcp_nodelay", mg_option_get, listener_set},
    {"tcp_keepalive", mg_option_get, listener_set},
    {"frozen", frozen_get, mg_option_fixed},
    {NULL, NULL, NULL},
};

static const struct mg_class listener_class = {
    .name = "Listener",
    .metatable = "moongate.Listener",
    .attrs = attrs,
    .is_frozen = listener_is_frozen,
    .user_values = 1,
};

void
mg_listen_open(lua_State *L)
{
    static const char *const tables[] = {MG_LISTENERS, NAMES_TAKEN, ADDRESSES_TAKEN};

    mg_class_register(L, &listener_class);
    for (size_t i = 0; i < MG_ARRAY_LEN(tables); i++) {
        lua_newtable(L);
        lua_setfield(L, LUA_REGISTRYINDEX, tables[i]);
    }
}

/* Pushes what has the name or address at the top already, or nil. */
static int
taken_push(lua_State *L, const char *taken)
{
    lua_getfield(L, LUA_REGISTRYINDEX, taken);
    lua_pushvalue(L, -2);
    lua_rawget(L, -2);
    lua_remove(L, -2);
    return lua_type(L, -1);
}

/* Notes that the listener of that name has what is at the top. */
static void
taken_note(lua_State *L, const char *taken, int name)
{
    lua_getfield(L, LUA_REGISTRYINDEX, taken);
    lua_pushvalue(L, -2);
    lua_pushvalue(L, name);
    lua_rawset(L, -3);
    lua_pop(L, 1);
}

static void
overlap_error(lua_State *L, const char *address, const char *other, const char *owner)
{
    mg_option_error(L, WHAT, "address: %s overlaps with %s, which belongs to listener \"%s\"",
                    address, other, owner);
}

/* The one at the top, with those of other listeners. */
static void
overlap_check(lua_State *L)
{
    static const char *const wild[] = {"*:%d", "0.0.0.0:%d", "[::]:%d"};
    int address = lua_gettop(L), taken = address + 1;
    const char *text = lua_tostring(L, address);
    struct mg_endpoint ep;
    struct mg_err ignored;

    if (mg_endpoint_parse(&ep, text, true, &ignored) != 0 || ep.kind == MG_ENDPOINT_UNIX)
        return;
    lua_getfield(L, LUA_REGISTRYINDEX, ADDRESSES_TAKEN);
    if (is_wild(&ep)) {
        for (lua_pushnil(L); lua_next(L, taken) != 0; lua_pop(L, 1))
            if (overlap(text, lua_tostring(L, -2)))
                overlap_error(L, text, lua_tostring(L, -2), lua_tostring(L, -1));
    } else {
        for (size_t i = 0; i < MG_ARRAY_LEN(wild); i++) {
            lua_pushfstring(L, wild[i], (int)ep.port);
            lua_pushvalue(L, -1);
            if (lua_rawget(L, taken) != LUA_TNIL && overlap(text, lua_tostring(L, -2)))
                overlap_error(L, text, lua_tostring(L, -2), lua_tostring(L, -1));
            lua_pop(L, 2);
        }
    }
    lua_settop(L, address);
}

/* No two listeners share a name or an address. The new one's options are at `made`. */
static void
listener_claim(lua_State *L, int made)
{
    int name = lua_gettop(L) + 1, addresses = name + 1;

    lua_getfield(L, made, "name");
    lua_getfield(L, made, "address");
    lua_pushvalue(L, name);
    if (taken_push(L, NAMES_TAKEN) != LUA_TNIL)
        mg_option_error(L, WHAT, "name: there is already a listener \"%s\"", lua_tostring(L, name));
    for (lua_Integer i = 1; lua_rawgeti(L, addresses, i) != LUA_TNIL; i++) {
        if (taken_push(L, ADDRESSES_TAKEN) != LUA_TNIL)
            mg_option_error(L, WHAT, "address: %s belongs to listener \"%s\" already",
                            lua_tostring(L, -2), lua_tostring(L, -1));
        lua_pop(L, 1);
        overlap_check(L);
        lua_pop(L, 1);
    }
    lua_settop(L, addresses);
    for (lua_Integer i = 1; lua_rawgeti(L, addresses, i) != LUA_TNIL; i++) {
        taken_note(L, ADDRESSES_TAKEN, name);
        lua_pop(L, 1);
    }
    lua_settop(L, name);
    taken_note(L, NAMES_TAKEN, name);
    lua_settop(L, name - 1);
}

int
mg_listen_lua(lua_State *L)
{
    if (mg_script_of(L)->loaded)
        mg_option_error(L, WHAT, "listeners are made while the script loads, not in a callback");
    lua_settop(L, 1);
    mg_class_new(L, &listener_class, sizeof(struct mg_listener_object));
    lua_getiuservalue(L, 2, 1);
    mg_options_read(L, WHAT, options, 1, 3);
    if (lua_getfield(L, 3, "address") == LUA_TNIL)
        mg_option_error(L, WHAT,
                        "address is required: \"host:port\", \"*:port\" or \"unix:/path\"");
    if (lua_getfield(L, 3, "backend") == LUA_TNIL)
        mg_option_error(L, WHAT,
                        "backend is required: \"host:port\", a Backend or a function of a Conn");
    if (lua_getfield(L, 3, "name") == LUA_TNIL) {
        lua_rawgeti(L, 4, 1);
        lua_setfield(L, 3, "name");
    }
    mg_script_where(L);
    lua_setfield(L, 3, MG_WHERE);
    lua_getfield(L, LUA_REGISTRYINDEX, MG_LISTENERS);
    if (lua_rawlen(L, -1) >= MG_SHARED_LISTENERS)
        mg_option_error(L, WHAT, "more than %d listeners", MG_SHARED_LISTENERS);
    listener_claim(L, 3);
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    lua_pushvalue(L, 2);
    return 1;
}

/* What is passed through is encrypted already. */
static void
passthrough_check(lua_State *L, int idx)
{
    int top = lua_gettop(L);
    const struct mg_servernames_object *names;
    const struct mg_target *target;

    mg_option_push(L, idx, "tls");
    names = mg_servernames_test(L, -1);
    mg_option_push(L, idx, "backend");
    if (names != NULL && mg_backend_test(L, -1) != NULL &&
        mg_option_push(L, lua_gettop(L), "tls") != LUA_TNIL) {
        for (size_t i = 0; (target = mg_names_target_at(names->names, i)) != NULL; i++) {
            if (target->kind != MG_TARGET_PASS)
                continue;
            mg_option_push(L, idx, MG_WHERE);
            mg_option_push(L, idx, "name");
            luaL_error(L,
                       "%s%s: %s: backend: it has tls, but what moongate.PASSTHROUGH passes on is "
                       "encrypted already: give these names a listener or a backend function of "
                       "their own",
                       lua_tostring(L, -2), WHAT, lua_tostring(L, -1));
        }
    }
    lua_settop(L, top);
}

/* What makes sense for those only who may speak TLS. */
static void
plain_check(lua_State *L, int idx)
{
    static const char *const names[] = {"tls_optional", "handshake_rate"};
    int top = lua_gettop(L);

    if (mg_option_push(L, idx, "tls") != LUA_TNIL) {
        lua_settop(L, top);
        return;
    }
    for (size_t i = 0; i < MG_ARRAY_LEN(names); i++) {
        mg_option_push(L, idx, names[i]);
        if (!lua_toboolean(L, -1))
            continue;
        mg_option_push(L, idx, MG_WHERE);
        mg_option_push(L, idx, "name");
        luaL_error(L, "%s%s: %s: %s: needs tls, and the listener has none", lua_tostring(L, -2),
                   WHAT, lua_tostring(L, -1), names[i]);
    }
    lua_settop(L, top);
}

void
mg_listener_freeze(lua_State *L, int idx)
{
    struct mg_listener_object *self = mg_class_check(L, idx, &listener_class);

    mg_context_freeze(L, idx, WHAT, false);
    passthrough_check(L, idx);
    plain_check(L, idx);
    mg_option_push(L, idx, "backend");
    mg_backend_join(L, -1);
    lua_pop(L, 1);
    self->frozen = true;
}

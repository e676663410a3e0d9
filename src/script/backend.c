/* moongate.backend, reply and echo, and the Backend they return. */
#include "script/internal.h"

#include <stdio.h>
#include <string.h>

#define WHAT "backend"

static void addresses_read(lua_State *L, const struct mg_option *o, const char *what, int value);
static void tls_read(lua_State *L, const struct mg_option *o, const char *what, int value);
static void servername_read(lua_State *L, const struct mg_option *o, const char *what, int value);
static void send_proxy_read(lua_State *L, const struct mg_option *o, const char *what, int value);
static void proxy_tlvs_read(lua_State *L, const struct mg_option *o, const char *what, int value);
static void source_read(lua_State *L, const struct mg_option *o, const char *what, int value);
static void health_read(lua_State *L, const struct mg_option *o, const char *what, int value);
static void weight_read(lua_State *L, const struct mg_option *o, const char *what, int value);

static const char *const on_downs[] = {"keep", "close", NULL};

static const struct mg_option options[] = {
    {.name = "address", .read = addresses_read},
    {.name = "name", .read = mg_option_name},
    {.name = "tls", .read = tls_read},
    {.name = "servername", .read = servername_read},
    {.name = "send_proxy", .read = send_proxy_read, .fallback = "false"},
    {.name = "proxy_tlvs", .read = proxy_tlvs_read},
    {.name = "balance",
     .read = mg_option_word,
     .words = mg_balance_names,
     .fallback = "random_two"},
    {.name = "connect_timeout",
     .read = mg_option_duration,
     .min = 0.001,
     .max = MG_DURATION_MAX,
     .fallback = "5"},
    {.name = "resolve_interval",
     .read = mg_option_duration,
     .min = 1,
     .max = MG_DURATION_MAX,
     .fallback = "30"},
    {.name = "health", .read = health_read},
    {.name = "max_connections", .read = mg_option_integer, .min = 1, .max = 2147483647},
    {.name = "on_down", .read = mg_option_word, .words = on_downs, .fallback = "keep"},
    {.name = "source", .read = source_read},
    {.name = NULL},
};

static const struct mg_option entry_options[] = {
    {.name = "address", .read = mg_option_string},
    {.name = "weight", .read = weight_read, .min = 1, .max = MG_WEIGHT_MAX, .fallback = "1"},
    {.name = "backup", .read = mg_option_boolean, .fallback = "false"},
    {.name = NULL},
};

#define TEXT_MAX 4096 /* of what a probe says or expects */

static void text_read(lua_State *L, const struct mg_option *o, const char *what, int value);

static const char *const kinds[] = {"tcp", "tls", NULL};

static const struct mg_option health_options[] = {
    {.name = "fall", .read = mg_option_integer, .min = 1, .max = 1000, .fallback = "3"},
    {.name = "rest", .read = mg_option_duration, .min = 0.001, .max = 86400, .fallback = "10"},
    {.name = "interval", .read = mg_option_duration, .min = 0.01, .max = 86400, .fallback = "2"},
    {.name = "timeout", .read = mg_option_duration, .min = 0.001, .max = 86400, .fallback = "2"},
    {.name = "rise", .read = mg_option_integer, .min = 1, .max = 1000, .fallback = "2"},
    {.name = "kind", .read = mg_option_word, .words = kinds},
    {.name = "send", .read = text_read},
    {.name = "expect", .read = text_read},
    {.name = NULL},
};

/* ---- values --------------------------------------------------------------------------------- */

/* Elsewhere 0 means that an address gets nothing. */
static void
weight_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    if (lua_isnumber(L, value) && lua_tonumber(L, value) == 0)
        mg_option_error(
            L, what,
            "%s: expected a whole number from %d to %d, got 0: leave the address out, or "
            "say backup = true if it is to serve when no other can",
            o->name, (int)o->min, (int)o->max);
    mg_option_integer(L, o, what, value);
}

/*
 * Checks the address at `value`, a string or { address =, weight =, backup = }, and adds it to the list at
 * the top, whose fields `weights` and `backups` are lists, too, and `places` says where a server is.
 */
static void
address_read(lua_State *L, const char *what, int value)
{
    int list = lua_gettop(L), entry = list + 1;
    lua_Integer at = (lua_Integer)lua_rawlen(L, list) + 1;
    struct mg_endpoint ep;
    struct mg_err err;

    lua_newtable(L);
    if (lua_type(L, value) == LUA_TSTRING) { /* as { address = value } */
        lua_createtable(L, 0, 1);
        lua_pushvalue(L, value);
        lua_setfield(L, -2, "address");
        value = lua_gettop(L);
    } else if (!lua_istable(L, value)) {
        mg_option_error(
            L, what, "address: expected \"host:port\", \"unix:/path\" or a list of these, got %s",
            luaL_typename(L, value));
    }
    mg_options_read(L, what, entry_options, value, entry);
    if (lua_getfield(L, entry, "address") == LUA_TNIL)
        mg_option_error(L, what, "address: an entry without address");
    if (strlen(lua_tostring(L, -1)) != lua_rawlen(L, -1))
        mg_option_error(L, what, "address: the string contains a zero byte");
    if (mg_endpoint_parse(&ep, lua_tostring(L, -1), false, &err) != 0)
        mg_option_error(L, what, "address: %s", err.text);
    if (mg_address_merge(L, what, list, &ep)) {
        lua_settop(L, list);
        return;
    }
    lua_rawseti(L, list, at);
    lua_getfield(L, list, "weights");
    lua_getfield(L, entry, "weight");
    lua_rawseti(L, -2, at);
    lua_getfield(L, list, "backups");
    lua_getfield(L, entry, "backup");
    lua_rawseti(L, -2, at);
    lua_settop(L, list);
}

/* One entry, or a list of entries; { address = … } alone is an entry. The normal form is a list of
 * texts, with the lists of their weights and of whether they are backups as its fields. */
static void
addresses_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    bool is_list = lua_istable(L, value) && lua_getfield(L, value, "address") == LUA_TNIL;

    lua_newtable(L);
    lua_newtable(L);
    lua_setfield(L, -2, "weights");
    lua_newtable(L);
    lua_setfield(L, -2, "backups");
    lua_newtable(L);
    lua_setfield(L, -2, "places");
    if (!is_list)
        address_read(L, what, value);
    else
        mg_option_list(L, what, o->name, value, "addresses", entry_options);
    for (lua_Integer i = 1; is_list && lua_rawgeti(L, value, i) != LUA_TNIL; i++) {
        lua_insert(L, -2);
        address_read(L, what, lua_gettop(L) - 1);
        lua_remove(L, -2);
    }
    if (is_list)
        lua_pop(L, 1);
    lua_pushnil(L);
    lua_setfield(L, -2, "places");
    if (lua_rawlen(L, -1) == 0)
        mg_option_error(L, what, "address: an empty list");
}

/* A fresh SSLContext, as openssl.SSL.SSLContext.new() gives it. */
static void
default_context_push(lua_State *L)
{
    luaL_requiref(L, "moongate.openssl", luaopen_moongate_openssl, 0);
    lua_getfield(L, -1, "SSL");
    lua_getfield(L, -1, "SSLContext");
    lua_getfield(L, -1, "new");
    lua_call(L, 0, 1);
}

static void
tls_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    (void)o;
    if (lua_isboolean(L, value) && lua_toboolean(L, value))
        default_context_push(L);
    else if (lua_isboolean(L, value))
        lua_pushnil(L);
    else if (mg_ssl_context_test(L, value) != NULL)
        lua_pushvalue(L, value);
    else
        mg_option_error(L, what, "tls: expected an SSLContext, true or false, got %s",
                        luaL_typename(L, value));
}

const char *
mg_servername_fault(const char *name, size_t len)
{
    struct mg_addr addr;

    if (strlen(name) == len && strchr(name, '%') == NULL && mg_addr_parse_ip(&addr, name))
        return NULL; /* it is looked for among the certificate's addresses */
    return mg_host_fault(name, len);
}

static void
servername_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    char shown[MG_TEXT_SHOWN];
    const char *fault;

    if (lua_isfunction(L, value)) {
        lua_pushvalue(L, value);
        return;
    }
    if (lua_type(L, value) != LUA_TSTRING)
        mg_option_error(L, what, "servername: expected a string or a function of a Conn, got %s",
                        luaL_typename(L, value));
    mg_option_string(L, o, what, value);
    fault = mg_servername_fault(lua_tostring(L, value), lua_rawlen(L, value));
    if (fault != NULL)
        mg_option_error(L, what, "servername: \"%s\" is neither a host name nor an IP address: %s",
                        mg_text_show(lua_tostring(L, value), lua_rawlen(L, value), shown), fault);
}

/* What a probe says or expects: any bytes. */
static void
text_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    if (lua_type(L, value) != LUA_TSTRING)
        mg_option_error(L, what, "%s: expected a string, got %s", o->name, luaL_typename(L, value));
    if (lua_rawlen(L, value) == 0 || lua_rawlen(L, value) > TEXT_MAX)
        mg_option_error(L, what, "%s: expected 1 to %d bytes, got %d", o->name, TEXT_MAX,
                        (int)lua_rawlen(L, value));
    lua_pushvalue(L, value);
}

static bool
is_passive(const struct mg_option *o)
{
    return strcmp(o->name, "fall") == 0 || strcmp(o->name, "rest") == 0;
}

/* Whether the table at `value` says how probes are to be, or nothing at all, and not only when to rest. */
static bool
probes_wanted(lua_State *L, int value)
{
    bool passive = false, active = false;

    for (const struct mg_option *o = health_options; o->name != NULL; o++) {
        if (lua_getfield(L, value, o->name) != LUA_TNIL)
            *(is_passive(o) ? &passive : &active) = true;
        lua_pop(L, 1);
    }
    return active || !passive;
}

/* false, true or a table. The normal form is false or a table with all options, and `probes`. */
static void
health_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    int into;

    (void)o;
    if (lua_isboolean(L, value) && !lua_toboolean(L, value)) {
        lua_pushboolean(L, false);
        return;
    }
    lua_newtable(L);
    into = lua_gettop(L);
    if (lua_isboolean(L, value)) {
        lua_newtable(L);
        value = lua_gettop(L);
    } else if (!lua_istable(L, value)) {
        mg_option_error(L, what, "health: expected a table, true or false, got %s",
                        luaL_typename(L, value));
    }
    lua_pushfstring(L, "%s: health", what);
    mg_options_read(L, lua_tostring(L, -1), health_options, value, into);
    lua_pushboolean(L, probes_wanted(L, value));
    lua_setfield(L, into, "probes");
    lua_settop(L, into);
}

static void
send_proxy_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    static const char *const words[] = {"v1", "v2", NULL};
    const struct mg_option here = {.name = o->name, .words = words};

    if (lua_isboolean(L, value) && !lua_toboolean(L, value))
        lua_pushvalue(L, value);
    else
        mg_option_word(L, &here, what, value);
}

#define OWN_TYPES "0xE0 to 0xEF, and 0xF0 to 0xF7 for experiments"

/* The type of the TLV whose key is at the top but one. */
static lua_Integer
tlv_type(lua_State *L, const char *what)
{
    static const struct {
        int type;
        const char *name;
    } ours[] = {
        {MG_PROXY_ALPN, "ALPN"}, {MG_PROXY_AUTHORITY, "AUTHORITY"}, {MG_PROXY_CRC32C, "CRC32C"},
        {MG_PROXY_NOOP, "NOOP"}, {MG_PROXY_UNIQUE_ID, "UNIQUE_ID"}, {MG_PROXY_SSL, "SSL"},
    };
    int exact;
    lua_Integer type = lua_tointegerx(L, -2, &exact), meant;
    char hex[32];

    if (lua_type(L, -2) == LUA_TSTRING) {
        const char *text = lua_tostring(L, -2);

        snprintf(hex, sizeof(hex), "0x%.20s", text);
        if (exact || lua_stringtonumber(L, hex) != 0) {
            meant = exact ? type : lua_tointeger(L, -1);
            if (meant >= MG_PROXY_CUSTOM_FIRST && meant <= MG_PROXY_EXPERIMENT_LAST) {
                snprintf(hex, sizeof(hex), "0x%02X", (unsigned)meant);
                mg_option_error(L, what,
                                "proxy_tlvs: the key \"%s\" is a string (did you mean [%s]?)", text,
                                hex);
            }
        }
        mg_option_error(L, what,
                        "proxy_tlvs: expected types as numbers (" OWN_TYPES "), got \"%s\"", text);
    }
    if (lua_type(L, -2) != LUA_TNUMBER || !exact)
        mg_option_error(L, what,
                        "proxy_tlvs: expected types as whole numbers (" OWN_TYPES "), got %s",
                        luaL_tolstring(L, -2, NULL));
    for (size_t i = 0; i < MG_ARRAY_LEN(ours); i++)
        if (type == ours[i].type)
            mg_option_error(L, what,
                            "proxy_tlvs: %d is %s, which moongate writes itself where it has one; "
                            "yours are " OWN_TYPES,
                            ours[i].type, ours[i].name);
    if (type < MG_PROXY_CUSTOM_FIRST || type > MG_PROXY_EXPERIMENT_LAST)
        mg_option_error(L, what, "proxy_tlvs: expected types from " OWN_TYPES ", got %I",
                        (LUAI_UACINT)type);
    return type;
}

/* The normal form is a table of its own, from type to string or function; nil if it is empty. */
static void
proxy_tlvs_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    int made;

    (void)o;
    if (!lua_istable(L, value))
        mg_option_error(L, what, "proxy_tlvs: expected a table like { [0xE0] = \"text\" }, got %s",
                        luaL_typename(L, value));
    lua_newtable(L);
    made = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, value) != 0; lua_settop(L, made + 1)) {
        lua_Integer type = tlv_type(L, what);
        char name[8];

        snprintf(name, sizeof(name), "[0x%02X]", (unsigned)type);
        if (!lua_isfunction(L, -1) && lua_type(L, -1) != LUA_TSTRING)
            mg_option_error(L, what,
                            "proxy_tlvs: %s: expected a string or a function of a Conn, got %s",
                            name, luaL_typename(L, -1));
        if (lua_isstring(L, -1) && lua_rawlen(L, -1) > MG_PROXY_VALUE_MAX)
            mg_option_error(L, what, "proxy_tlvs: %s: longer than %d bytes", name,
                            (int)MG_PROXY_VALUE_MAX);
        lua_rawseti(L, made, type);
    }
    lua_pushnil(L);
    if (lua_next(L, made) == 0)
        lua_pushnil(L);
    else
        lua_settop(L, made);
}

static void
source_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    struct mg_addr addr;
    const char *fault, *text;
    char shown[MG_TEXT_SHOWN];

    mg_option_string(L, o, what, value);
    text = lua_tostring(L, -1);
    if (strcmp(text, MG_SOURCE_CLIENT) == 0)
        return;
    if (!mg_addr_parse_ip(&addr, text))
        mg_option_error(L, what,
                        "source: expected an IP address of this machine (without port), or "
                        "\"client\", got \"%s\"",
                        mg_text_show(text, strlen(text), shown));
    if (mg_addr_is_any(&addr))
        mg_option_error(L, what,
                        "source: %s is no address to connect from: without source the system "
                        "chooses one",
                        text);
    if ((fault = mg_addr_fault(&addr)) != NULL)
        mg_option_error(L, what, "source: \"%s\": %s", text, fault);
}

/* ---- the class ------------------------------------------------------------------------------ */

static void
backend_set(lua_State *L, void *self, int value)
{
    if (((struct mg_backend_object *)self)->kind != MG_BACKEND_ADDRESSES)
        mg_lua_error(L, "NoMethodError", "Backend.%s: only a backend with addresses has it",
                     lua_tostring(L, 2));
    mg_option_assign(L, "Backend", options, value);
}

static bool
backend_is_frozen(const void *self)
{
    return ((const struct mg_backend_object *)self)->frozen;
}

static int
frozen_get(lua_State *L, void *self)
{
    lua_pushboolean(L, backend_is_frozen(self));
    return 1;
}

/* A list of texts, and of entries where there is more to say than the address. */
static int
address_get(lua_State *L, void *self)
{
    int list;

    (void)self;
    mg_option_push(L, 1, "address");
    if (!lua_istable(L, -1))
        return 1;
    list = lua_gettop(L);
    lua_getfield(L, list, "weights");
    lua_getfield(L, list, "backups");
    lua_newtable(L);
    for (lua_Integer i = 1; lua_rawgeti(L, list, i) != LUA_TNIL; i++) {
        lua_rawgeti(L, list + 1, i);
        lua_rawgeti(L, list + 2, i);
        if (lua_tointeger(L, -2) != 1 || lua_toboolean(L, -1)) {
            lua_createtable(L, 0, 3);
            lua_insert(L, -4);
            lua_setfield(L, -4, "backup");
            lua_setfield(L, -3, "weight");
            lua_setfield(L, -2, "address");
        } else {
            lua_pop(L, 2);
        }
        lua_rawseti(L, list + 3, i);
    }
    lua_settop(L, list + 3);
    mg_readonly_push(L, "Backend", "address", false);
    return 1;
}

/* A copy: the table is the object's own. */
static int
proxy_tlvs_get(lua_State *L, void *self)
{
    (void)self;
    if (mg_option_push(L, 1, "proxy_tlvs") != LUA_TTABLE)
        return 1;
    lua_newtable(L);
    for (lua_pushnil(L); lua_next(L, -3) != 0;) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, -4);
    }
    mg_readonly_push(L, "Backend", "proxy_tlvs", true);
    return 1;
}

/* Likewise. */
static int
health_get(lua_State *L, void *self)
{
    bool probes;

    (void)self;
    if (mg_option_push(L, 1, "health") != LUA_TTABLE)
        return 1;
    lua_newtable(L);
    lua_getfield(L, -2, "probes");
    probes = lua_toboolean(L, -1);
    lua_pop(L, 1);
    for (const struct mg_option *o = health_options; o->name != NULL; o++) {
        if (!probes && !is_passive(o)) /* else it would be more if it were given to another one */
            continue;
        lua_getfield(L, -2, o->name);
        lua_setfield(L, -2, o->name);
    }
    mg_readonly_push(L, "Backend", "health", true);
    return 1;
}

static const struct mg_attr attrs[] = {
    {"address", address_get, mg_option_fixed},
    {"name", mg_option_get, mg_option_fixed},
    {"tls", mg_option_get, backend_set},
    {"servername", mg_option_get, backend_set},
    {"send_proxy", mg_option_get, backend_set},
    {"proxy_tlvs", proxy_tlvs_get, backend_set},
    {"balance", mg_option_get, backend_set},
    {"connect_timeout", mg_option_get, backend_set},
    {"resolve_interval", mg_option_get, backend_set},
    {"health", health_get, backend_set},
    {"max_connections", mg_option_get, backend_set},
    {"on_down", mg_option_get, backend_set},
    {"source", mg_option_get, backend_set},
    {"frozen", frozen_get, mg_option_fixed},
    {NULL, NULL, NULL},
};

static const struct mg_class backend_class = {
    .name = "Backend",
    .metatable = "moongate.Backend",
    .attrs = attrs,
    .is_frozen = backend_is_frozen,
    .user_values = 1,
};

void
mg_backend_open(lua_State *L)
{
    mg_class_register(L, &backend_class);
    lua_newtable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, MG_BACKENDS);
}

struct mg_backend_object *
mg_backend_test(lua_State *L, int idx)
{
    return mg_class_test(L, idx, &backend_class);
}

/* Pushes a new Backend and its table of options. */
static struct mg_backend_object *
backend_push(lua_State *L, const char *what, enum mg_backend_kind kind)
{
    struct mg_backend_object *self;

    if (mg_script_of(L)->loaded)
        mg_option_error(L, what,
                        "backends are made while the script loads; in a callback, return an "
                        "address, or a Backend that was made outside of the function");
    self = mg_class_new(L, &backend_class, sizeof(*self));
    self->kind = kind;
    lua_getiuservalue(L, -1, 1);
    mg_script_where(L);
    lua_setfield(L, -2, MG_WHERE);
    return self;
}

/* The Backend below its options at the top is complete: its name is settled. Leaves it at the top. */
static void
backend_name(lua_State *L, const char *name)
{
    struct mg_backend_object *self = mg_backend_test(L, -2);

    self->named = lua_getfield(L, -1, "name") != LUA_TNIL;
    if (!self->named) {
        if (name != NULL) {
            lua_pushstring(L, name);
        } else {
            lua_getfield(L, -2, "address");
            lua_rawgeti(L, -1, 1);
            lua_remove(L, -2);
        }
        lua_setfield(L, -3, "name");
    }
    lua_pop(L, 2);
}

void
mg_backend_join(lua_State *L, int idx)
{
    struct mg_backend_object *self = mg_backend_test(L, idx);

    if (self == NULL || self->listed)
        return;
    idx = lua_absindex(L, idx);
    lua_getfield(L, LUA_REGISTRYINDEX, MG_BACKENDS);
    lua_pushvalue(L, idx);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    lua_pop(L, 1);
    self->listed = true;
}

/* Named and listed. */
static void
backend_complete(lua_State *L, const char *name)
{
    backend_name(L, name);
    mg_backend_join(L, -1);
}

int
mg_backend_lua(lua_State *L)
{
    lua_settop(L, 1);
    backend_push(L, WHAT, MG_BACKEND_ADDRESSES);
    mg_options_read(L, WHAT, options, 1, 3);
    if (lua_getfield(L, 3, "address") == LUA_TNIL)
        mg_option_error(L, WHAT, "address is required: \"host:port\", \"unix:/path\" or a list");
    lua_pop(L, 1);
    backend_complete(L, NULL);
    return 1;
}

void
mg_backend_push_address(lua_State *L, const char *what, const char *text)
{
    struct mg_endpoint ep;
    struct mg_err err;

    if (mg_endpoint_parse(&ep, text, false, &err) != 0)
        mg_option_error(L, what, "backend: %s", err.text);
    lua_createtable(L, 0, 1);
    lua_pushstring(L, text);
    lua_setfield(L, -2, "address");
    backend_push(L, what, MG_BACKEND_ADDRESSES);
    mg_options_read(L, what, options, lua_gettop(L) - 2, lua_gettop(L));
    backend_name(L, NULL);
    lua_remove(L, -2);
}

int
mg_reply_lua(lua_State *L)
{
    if (lua_type(L, 1) != LUA_TSTRING)
        mg_option_error(L, "reply", "expected the text to answer with, got %s",
                        luaL_typename(L, 1));
    backend_push(L, "reply", MG_BACKEND_REPLY);
    lua_pushvalue(L, 1);
    lua_setfield(L, -2, "reply");
    backend_complete(L, "reply");
    return 1;
}

int
mg_echo_lua(lua_State *L)
{
    backend_push(L, "echo", MG_BACKEND_ECHO);
    backend_complete(L, "echo");
    return 1;
}

/* ---- freezing ------------------------------------------------------------------------------- */

static int
context_setup(lua_State *L)
{
    mg_ssl_context_freeze(L, 1, lua_toboolean(L, 2));
    return 0;
}

/* Pushes " (context NAME)", or "" for a context without name. */
static const char *
context_name_push(lua_State *L, int context)
{
    if (lua_getfield(L, context, "name") == LUA_TSTRING)
        return lua_pushfstring(L, " (context %s)", lua_tostring(L, -1));
    return lua_pushliteral(L, "");
}

void
mg_context_setup(lua_State *L, int context, bool as_client, const char *place)
{
    const char *text;

    lua_pushcfunction(L, context_setup);
    lua_pushvalue(L, context);
    lua_pushboolean(L, as_client);
    if (lua_pcall(L, 2, 0, 0) == LUA_OK)
        return;
    text = mg_lua_error_text(L, -1);
    lua_pushfstring(L, "%s%s: %s", place, context_name_push(L, context), text);
    lua_error(L);
}

/* Pushes "script.lua:12: listen: web: tls". */
static const char *
place_push(lua_State *L, int idx, const char *what)
{
    mg_option_push(L, idx, MG_WHERE);
    mg_option_push(L, idx, "name");
    return lua_pushfstring(L, "%s%s: %s: tls", lua_tostring(L, -2), what, lua_tostring(L, -1));
}

void
mg_context_freeze(lua_State *L, int idx, const char *what, bool as_client)
{
    int top = lua_gettop(L);
    const char *place = place_push(L, idx, what);

    mg_option_push(L, idx, "tls");
    if (mg_servernames_test(L, -1) != NULL)
        mg_servernames_freeze(L, lua_gettop(L), place);
    else if (mg_ssl_context_test(L, -1) != NULL)
        mg_context_setup(L, lua_gettop(L), as_client, place);
    lua_settop(L, top);
}

void
mg_backend_freeze(lua_State *L, int idx)
{
    struct mg_backend_object *self = mg_class_check(L, idx, &backend_class);

    mg_context_freeze(L, idx, WHAT, true);
    mg_backend_check(L, idx);
    self->frozen = true;
}

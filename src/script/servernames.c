/*
 * moongate.servernames, the ServerNames it returns, and moongate.PASSTHROUGH.
 *
 * The table is checked when it is given. When the listener is frozen names.c makes of it a table of the
 * engine's, which is asked without Lua.
 */
#include "script/internal.h"

#include <lualib.h>

#include <string.h>

#define WHAT "servernames"

/* ---- PASSTHROUGH ----------------------------------------------------------------------------- */

static int
passthrough_tostring(lua_State *L)
{
    lua_pushliteral(L, "moongate.PASSTHROUGH");
    return 1;
}

static const struct mg_attr no_attrs[] = {{NULL, NULL, NULL}};

static const struct mg_class passthrough_class = {
    .name = "Passthrough",
    .metatable = "moongate.Passthrough",
    .attrs = no_attrs,
    .tostring = passthrough_tostring,
};

/* Registry key, by address, of the only one. */
static const char passthrough_key = 'p';

void
mg_passthrough_push(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &passthrough_key) == LUA_TUSERDATA)
        return;
    lua_pop(L, 1);
    mg_class_new(L, &passthrough_class, 1);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &passthrough_key);
}

bool
mg_passthrough_test(lua_State *L, int idx)
{
    return mg_class_test(L, idx, &passthrough_class) != NULL;
}

/* ---- what is given --------------------------------------------------------------------------- */

static bool
is_special(const char *name)
{
    return strcmp(name, "none") == 0 || strcmp(name, "default") == 0;
}

const char *
mg_name_fault(const char *name, size_t len)
{
    size_t label = 0;

    if (len > 0 && name[len - 1] == '.')
        len--;
    if (len == 0)
        return "it is empty";
    if (len > 253)
        return "it is longer than 253 characters";
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)name[i];

        label = c == '.' ? 0 : label + 1;
        if (c >= 0x80)
            return "clients ask for international names in their ASCII form (\"xn--...\")";
        if (c == '*' && (i != 0 || len < 3 || name[1] != '.'))
            return "a wildcard is a whole first label (\"*.example.com\")";
        if (c <= ' ' || c == 0x7f || strchr("/:[]\"\\", c) != NULL)
            return "it has a character that is in no host name";
        if (label > 63)
            return "one of its labels is longer than 63 characters";
        if (label == 0 && (i == 0 || name[i - 1] == '.'))
            return "it has an empty label";
    }
    return NULL;
}

static void
value_check(lua_State *L, const char *name)
{
    if (mg_ssl_context_test(L, -1) == NULL && !mg_passthrough_test(L, -1) &&
        !(lua_isboolean(L, -1) && !lua_toboolean(L, -1)))
        mg_option_error(L, WHAT,
                        "[\"%s\"]: expected an SSLContext, moongate.PASSTHROUGH or false, got %s",
                        name, luaL_typename(L, -1));
}

/* Key at -2 and value at -1, both a string's and what is meant for it. */
static void
name_take(lua_State *L, int names)
{
    size_t len;
    const char *name = lua_tolstring(L, -2, &len);
    const char *fault = is_special(name) ? NULL : mg_name_fault(name, len);

    if (fault != NULL)
        mg_option_error(L, WHAT, "[\"%s\"]: %s", name, fault);
    value_check(L, name);
    lua_pushvalue(L, -2);
    lua_rawseti(L, names, (lua_Integer)lua_rawlen(L, names) + 1);
}

static void
listed_take(lua_State *L, int given, int listed)
{
    lua_Integer count = (lua_Integer)lua_rawlen(L, given);

    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(L, given, i);
        if (mg_ssl_context_test(L, -1) == NULL)
            mg_option_error(L, WHAT,
                            "entry %d: expected an SSLContext, got %s (a name in front of it, "
                            "[\"example.com\"] =, is needed for anything else)",
                            (int)i, luaL_typename(L, -1));
        lua_rawseti(L, listed, i);
    }
}

static void
sort(lua_State *L, int table)
{
    luaL_requiref(L, LUA_TABLIBNAME, luaopen_table, 0);
    lua_getfield(L, -1, "sort");
    lua_pushvalue(L, table);
    lua_call(L, 1, 0);
    lua_pop(L, 1);
}

/* ---- the class ------------------------------------------------------------------------------- */

static bool
servernames_is_frozen(const void *self)
{
    return ((const struct mg_servernames_object *)self)->names != NULL;
}

static int
frozen_get(lua_State *L, void *self)
{
    lua_pushboolean(L, servernames_is_frozen(self));
    return 1;
}

static int
servernames_gc(lua_State *L)
{
    struct mg_servernames_object *self = lua_touserdata(L, 1);

    mg_names_unref(self->names);
    self->names = NULL;
    return 0;
}

static const struct mg_class servernames_class;

static void
target_push(lua_State *L, const struct mg_target *target)
{
    if (target != NULL && target->kind == MG_TARGET_PASS)
        mg_passthrough_push(L);
    else if (target == NULL || target->tls == NULL || !mg_ssl_context_push(L, target->tls))
        lua_pushnil(L);
}

/* names:find([name]) -> context, PASSTHROUGH or nil; what matched */
static int
servernames_find(lua_State *L)
{
    const struct mg_servernames_object *self = mg_class_check(L, 1, &servernames_class);
    const char *name = NULL, *pattern;
    size_t len = 0;

    if (!lua_isnoneornil(L, 2))
        name = mg_arg_string(L, 2, "ServerNames:find", "name", &len);
    if (self->names == NULL)
        mg_lua_error(L, "RuntimeError",
                     "ServerNames:find: names are known when the script has returned");
    target_push(L, mg_names_find(self->names, name, len, &pattern));
    lua_pushstring(L, pattern);
    return 2;
}

static const luaL_Reg methods[] = {
    {"find", servernames_find},
    {NULL, NULL},
};

static const struct mg_attr attrs[] = {
    {"frozen", frozen_get, NULL},
    {NULL, NULL, NULL},
};

static const struct mg_class servernames_class = {
    .name = "ServerNames",
    .metatable = "moongate.ServerNames",
    .attrs = attrs,
    .methods = methods,
    .is_frozen = servernames_is_frozen,
    .gc = servernames_gc,
    .user_values = 1,
};

void
mg_servernames_open(lua_State *L)
{
    mg_class_register(L, &passthrough_class);
    mg_class_register(L, &servernames_class);
    lua_newtable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, MG_WARNINGS);
    lua_newtable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, MG_FAULTS);
}

struct mg_servernames_object *
mg_servernames_test(lua_State *L, int idx)
{
    return mg_class_test(L, idx, &servernames_class);
}

int
mg_servernames_lua(lua_State *L)
{
    int given = 1, listed = 4, names = 5, values = 6;

    if (mg_script_of(L)->loaded)
        mg_option_error(L, WHAT, "names are given while the script loads, not in a callback");
    if (!lua_istable(L, 1))
        mg_option_error(L, WHAT, "expected a table, got %s", luaL_typename(L, 1));
    lua_settop(L, 1);
    mg_class_new(L, &servernames_class, sizeof(struct mg_servernames_object)); /* 2 */
    lua_getiuservalue(L, 2, 1);                                                /* 3 */
    lua_newtable(L);
    lua_newtable(L);
    lua_newtable(L);
    listed_take(L, given, listed);
    for (lua_pushnil(L); lua_next(L, given) != 0; lua_settop(L, values + 1)) {
        bool in_list = lua_isinteger(L, -2) && lua_tointeger(L, -2) >= 1 &&
                       lua_tointeger(L, -2) <= (lua_Integer)lua_rawlen(L, listed);

        if (lua_type(L, -2) == LUA_TSTRING)
            name_take(L, names);
        else if (!in_list)
            mg_option_error(L, WHAT, "a key is a name (a string), or an entry has none; got a %s",
                            luaL_typename(L, -2));
    }
    sort(L, names);
    for (lua_Integer i = 1; lua_rawgeti(L, names, i) == LUA_TSTRING; i++) {
        lua_gettable(L, given);
        lua_rawseti(L, values, i);
    }
    lua_settop(L, values);
    lua_rawseti(L, 3, MG_SERVERNAMES_VALUES);
    lua_rawseti(L, 3, MG_SERVERNAMES_NAMES);
    lua_rawseti(L, 3, MG_SERVERNAMES_LISTED);
    mg_script_where(L);
    lua_setfield(L, 3, "where");
    lua_settop(L, 2);
    return 1;
}

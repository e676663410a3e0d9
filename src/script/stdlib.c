/*
 * The standard functions that ask the world: clock, environment, random numbers, print. They answer
 * from the world's facts, so that the script's run is the same in the loader and in every worker;
 * what would leave the world is refused.
 */
#include "script/internal.h"

#include <lualib.h>

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- os ------------------------------------------------------------------------------------- */

static double
ask_time(void)
{
    return (double)time(NULL);
}

static double
ask_clock(void)
{
    return (double)clock() / (double)CLOCKS_PER_SEC;
}

static double
world_number(lua_State *L, double (*ask)(void))
{
    struct mg_err err;
    double value;

    if (mg_world_number(&mg_script_of(L)->world, ask, &value, &err) != 0)
        luaL_error(L, "%s", err.text);
    return value;
}

/* os.time([table]): a table is only arithmetic, and the original's business. */
static int
os_time(lua_State *L)
{
    if (lua_isnoneornil(L, 1)) {
        lua_pushinteger(L, (lua_Integer)world_number(L, ask_time));
        return 1;
    }
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

static int
os_date(lua_State *L)
{
    lua_settop(L, 2);
    if (lua_isnil(L, 1)) {
        lua_pushliteral(L, "%c");
        lua_replace(L, 1);
    }
    if (lua_isnil(L, 2)) {
        lua_pushinteger(L, (lua_Integer)world_number(L, ask_time));
        lua_replace(L, 2);
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 2, 1);
    return 1;
}

static int
os_clock(lua_State *L)
{
    lua_pushnumber(L, world_number(L, ask_clock));
    return 1;
}

static int
os_getenv(lua_State *L)
{
    struct mg_span value;

    if (mg_world_getenv(&mg_script_of(L)->world, luaL_checkstring(L, 1), &value))
        lua_pushlstring(L, value.data, value.len);
    else
        lua_pushnil(L);
    return 1;
}

static void
os_open(lua_State *L)
{
    static const char *const refused[][2] = {
        {"execute", "programs run through moongate.command, and only while the script loads"},
        {"remove", "a script cannot change files"},
        {"rename", "a script cannot change files"},
        {"tmpname", "a script cannot write files"},
        {"exit", "raise an error to stop the script"},
        {"setlocale", "the locale belongs to the whole process"},
    };

    luaL_requiref(L, LUA_OSLIBNAME, luaopen_os, 1);
    lua_getfield(L, -1, "time");
    lua_pushcclosure(L, os_time, 1);
    lua_setfield(L, -2, "time");
    lua_getfield(L, -1, "date");
    lua_pushcclosure(L, os_date, 1);
    lua_setfield(L, -2, "date");
    lua_pushcfunction(L, os_clock);
    lua_setfield(L, -2, "clock");
    lua_pushcfunction(L, os_getenv);
    lua_setfield(L, -2, "getenv");
    for (size_t i = 0; i < MG_ARRAY_LEN(refused); i++)
        mg_refuse(L, "os", refused[i][0], refused[i][1]);
    lua_pop(L, 1);
}

/* ---- debug ---------------------------------------------------------------------------------- */

/* Replaces the letters at idx, or none, by those that do not ask for the function itself. */
static void
letters_filter(lua_State *L, int idx)
{
    const char *what = luaL_optstring(L, idx, "nSltur");
    luaL_Buffer kept;

    luaL_buffinit(L, &kept);
    for (; *what != '\0'; what++) {
        if (*what != 'f')
            luaL_addchar(&kept, *what);
    }
    luaL_pushresult(&kept);
    lua_replace(L, idx);
}

/*
 * debug.getinfo([thread,] function or level [, what]). Of a level it does not give the function, which
 * may be one of ours that was never meant to be called by a script. Upvalue: the original.
 */
static int
debug_getinfo(lua_State *L)
{
    int at = lua_isthread(L, 1) ? 2 : 1;
    bool here = at == 1 || lua_tothread(L, 1) == L;

    lua_settop(L, at + 1);
    if (!lua_isfunction(L, at)) {
        lua_Integer level = luaL_checkinteger(L, at);

        letters_filter(L, at + 1);
        lua_pushinteger(L,
                        here && level >= 0 && level < INT_MAX ? level + 1 : level); /* for this */
        lua_replace(L, at);
    } else if (lua_isnil(L, at + 1)) {
        lua_settop(L, at);
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, 1);
    return 1;
}

static void
debug_open(lua_State *L)
{
    static const char *const refused[][2] = {
        {"sethook", "the hook enforces settings.callback_budget"},
        {"gethook", "the hook enforces settings.callback_budget"},
        {"debug", "there is no terminal"},
        {"getregistry", "it would lead out of the guarded state"},
        {"getmetatable", "it would lead out of the guarded state"},
        {"setmetatable", "it would lead out of the guarded state"},
        {"getuservalue", "it would lead out of the guarded state"},
        {"setuservalue", "it would lead out of the guarded state"},
        {"getupvalue", "it would lead out of the guarded state"},
        {"setupvalue", "it would lead out of the guarded state"},
        {"upvalueid", "it would lead out of the guarded state"},
        {"upvaluejoin", "it would lead out of the guarded state"},
        {"getlocal", "it would lead out of the guarded state"},
        {"setlocal", "it would lead out of the guarded state"},
        {"setcstacklimit", "the limit belongs to the whole process"},
    };

    lua_newtable(L);
    luaL_requiref(L, LUA_DBLIBNAME, luaopen_debug, 0);
    lua_getfield(L, -1, "traceback");
    lua_setfield(L, -3, "traceback");
    lua_getfield(L, -1, "getinfo");
    lua_pushcclosure(L, debug_getinfo, 1);
    lua_setfield(L, -3, "getinfo");
    lua_pop(L, 1);
    for (size_t i = 0; i < MG_ARRAY_LEN(refused); i++)
        mg_refuse(L, "debug", refused[i][0], refused[i][1]);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, LUA_DBLIBNAME);
    lua_pop(L, 1);
    lua_setglobal(L, LUA_DBLIBNAME);
}

/* ---- print, warn ---------------------------------------------------------------------------- */

/* Only the loader's run speaks: the workers' repeat it word for word. */
static bool
is_replay(lua_State *L)
{
    return mg_script_of(L)->world.mode == MG_WORLD_REPLAY;
}

static int
base_print(lua_State *L)
{
    luaL_Buffer line;
    int count = lua_gettop(L);

    luaL_buffinit(L, &line);
    for (int i = 1; i <= count; i++) {
        if (i > 1)
            luaL_addchar(&line, ' '); /* the log would escape a tab */
        luaL_tolstring(L, i, NULL);
        luaL_addvalue(&line);
    }
    luaL_pushresult(&line);
    if (!is_replay(L))
        mg_log(MG_LOG_INFO, "%s", lua_tostring(L, -1));
    return 0;
}

static int
base_warn(lua_State *L)
{
    int count = lua_gettop(L);

    luaL_checkstring(L, 1);
    for (int i = 2; i <= count; i++)
        luaL_checkstring(L, i);
    if (count == 1 && lua_tostring(L, 1)[0] == '@')
        return 0; /* control messages: warnings are always on */
    lua_concat(L, count);
    if (!is_replay(L))
        mg_log(MG_LOG_WARN, "%s", lua_tostring(L, -1));
    return 0;
}

/* ---- next, pairs ---------------------------------------------------------------------------- */

/*
 * While the script runs, a table's keys come in order: numbers, strings, then those of other types.
 * Lua's own order depends on where things lie in memory, so that a script which makes its listeners
 * from a table would make them in another order in each worker. Later, Lua's own is good enough.
 */

static int
key_rank(lua_State *L, int idx)
{
    int type = lua_type(L, idx);

    return type == LUA_TNUMBER ? 0 : type == LUA_TSTRING ? 1 : 2;
}

static bool
key_is_before(lua_State *L, int a, int b)
{
    int rank = key_rank(L, a);
    int other = key_rank(L, b);

    return rank == other && rank < 2 ? lua_compare(L, a, b, LUA_OPLT) != 0 : rank < other;
}

/* For table.sort. */
static int
key_before(lua_State *L)
{
    lua_pushboolean(L, key_is_before(L, 1, 2));
    return 1;
}

/* Pushes the list of the keys of the table at idx; table.sort is at `sort`. */
static void
keys_push(lua_State *L, int idx, int sort)
{
    lua_Integer count = 0;
    int list;

    lua_newtable(L);
    list = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, idx) != 0; lua_pop(L, 1)) {
        lua_pushvalue(L, -2);
        lua_rawseti(L, list, ++count);
    }
    lua_pushvalue(L, sort);
    lua_pushvalue(L, list);
    lua_pushcfunction(L, key_before);
    lua_call(L, 2, 0);
}

/* Pushes the next key at or behind `index` in the list at `keys` that the table at idx still has, and its
 * value, and returns its index; or pushes nil and returns 0. */
static lua_Integer
keys_continue(lua_State *L, int idx, int keys, lua_Integer index)
{
    for (; lua_rawgeti(L, keys, index) != LUA_TNIL; index++) {
        lua_pushvalue(L, -1);
        if (lua_rawget(L, idx) != LUA_TNIL)
            return index;
        lua_pop(L, 2);
    }
    return 0;
}

/* The first index in the list at `keys` behind the key at `key`, which may have been removed since. */
static lua_Integer
keys_behind(lua_State *L, int keys, int key)
{
    lua_Integer low = 1;
    lua_Integer high = (lua_Integer)lua_rawlen(L, keys) + 1;

    if (key_rank(L, key) == 2) { /* these have no order among themselves */
        for (; lua_rawgeti(L, keys, low) != LUA_TNIL; low++) {
            bool found = lua_rawequal(L, -1, key);

            lua_pop(L, 1);
            if (found)
                return low + 1;
        }
        luaL_error(L, "invalid key to 'next'");
    }
    while (low < high) {
        lua_Integer middle = low + (high - low) / 2;

        lua_rawgeti(L, keys, middle);
        if (key_is_before(L, key, lua_gettop(L)))
            high = middle;
        else
            low = middle + 1;
        lua_pop(L, 1);
    }
    return low;
}

/* Upvalues: the original next, table.sort, the keys of tables under way (weak). */
static int
base_next(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 2);
    if (mg_script_of(L)->loaded) {
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_insert(L, 1);
        lua_call(L, 2, LUA_MULTRET);
        return lua_gettop(L);
    }
    lua_pushvalue(L, 1);
    if (lua_rawget(L, lua_upvalueindex(3)) == LUA_TNIL || lua_isnil(L, 2)) {
        keys_push(L, 1, lua_upvalueindex(2));
        lua_replace(L, 3);
        lua_pushvalue(L, 1);
        lua_pushvalue(L, 3);
        lua_rawset(L, lua_upvalueindex(3));
    }
    return keys_continue(L, 1, 3, lua_isnil(L, 2) ? 1 : keys_behind(L, 3, 2)) > 0 ? 2 : 1;
}

/* Upvalues: the table, its keys, how many were given. */
static int
pairs_next(lua_State *L)
{
    lua_Integer index = lua_tointeger(L, lua_upvalueindex(3));

    index = keys_continue(L, lua_upvalueindex(1), lua_upvalueindex(2), index + 1);
    if (index == 0)
        return 1;
    lua_pushinteger(L, index);
    lua_replace(L, lua_upvalueindex(3));
    return 2;
}

/* Upvalues: the original pairs, table.sort. */
static int
base_pairs(lua_State *L)
{
    bool plain = lua_istable(L, 1) && luaL_getmetafield(L, 1, "__pairs") == LUA_TNIL;

    if (!plain || mg_script_of(L)->loaded) {
        luaL_checkany(L, 1);
        lua_settop(L, 1);
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_insert(L, 1);
        lua_call(L, 1, 3);
        return 3;
    }
    lua_settop(L, 1);
    keys_push(L, 1, lua_upvalueindex(2));
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, pairs_next, 3);
    return 1;
}

static void
pairs_open(lua_State *L)
{
    lua_getglobal(L, LUA_TABLIBNAME);
    lua_getfield(L, -1, "sort");
    lua_remove(L, -2);

    lua_getglobal(L, "pairs");
    lua_pushvalue(L, -2);
    lua_pushcclosure(L, base_pairs, 2);
    lua_setglobal(L, "pairs");

    lua_getglobal(L, "next");
    lua_insert(L, -2);
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_pushcclosure(L, base_next, 3);
    lua_setglobal(L, "next");
}

/* ---- math.random ---------------------------------------------------------------------------- */

/* math.randomseed without arguments starts again from the recorded seed. Upvalue: the original. */
static int
math_randomseed(lua_State *L)
{
    unsigned char seed[16];
    struct mg_err err;
    int args = lua_gettop(L);

    if (args == 0) {
        if (mg_world_seed(&mg_script_of(L)->world, seed, &err) != 0)
            return luaL_error(L, "%s", err.text);
        for (args = 0; args < 2; args++) {
            lua_Integer half;

            memcpy(&half, seed + 8 * args, sizeof(half));
            lua_pushinteger(L, half);
        }
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, args, LUA_MULTRET);
    return lua_gettop(L);
}

void
mg_stdlib_open(lua_State *L)
{
    os_open(L);
    debug_open(L);
    lua_pushcfunction(L, base_print);
    lua_setglobal(L, "print");
    lua_pushcfunction(L, base_warn);
    lua_setglobal(L, "warn");
    pairs_open(L);
    lua_getglobal(L, LUA_MATHLIBNAME);
    lua_getfield(L, -1, "randomseed");
    lua_pushcclosure(L, math_randomseed, 1);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "randomseed");
    lua_call(L, 0, 0);
    lua_pop(L, 1);
}

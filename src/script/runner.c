/*
 * moongate test: busted in a Lua state of this process, so that one file is a whole installation. Specs
 * are programs of the user's own: nothing is guarded here but the scripts that they load. moongate
 * explain is such a program, too, of ours.
 */
#include "script/embedded.h"
#include "script/internal.h"

#include <lualib.h>

#include <stdlib.h>
#include <string.h>

/* The module's file in the directory MOONGATE_LUA, loaded and pushed; false: there is none. */
static bool
file_load(lua_State *L, const char *name)
{
    const char *dir = getenv("MOONGATE_LUA");
    int status;

    if (dir == NULL || dir[0] == '\0')
        return false;
    lua_pushfstring(L, "%s/%s.lua", dir, luaL_gsub(L, name, ".", "/"));
    status = luaL_loadfilex(L, lua_tostring(L, -1), "t");
    if (status != LUA_OK && status != LUA_ERRFILE)
        lua_error(L);
    return status == LUA_OK;
}

/* The loader of a module that was compiled in. Upvalue: its struct mg_embedded. */
static int
embedded_load(lua_State *L)
{
    const struct mg_embedded *e = lua_touserdata(L, lua_upvalueindex(1));

    if (!file_load(L, e->name) &&
        luaL_loadbufferx(L, (const char *)e->text, e->len, lua_pushfstring(L, "=%s", e->name),
                         "t") != LUA_OK)
        return lua_error(L);
    lua_pushstring(L, e->name);
    lua_call(L, 1, 1);
    return 1;
}

static void
modules_preload(lua_State *L)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushcfunction(L, luaopen_moongate_openssl);
    lua_setfield(L, -2, "moongate.openssl");
    lua_pushcfunction(L, luaopen_moongate_script);
    lua_setfield(L, -2, "moongate.script");
    for (const struct mg_embedded *e = mg_embedded; e->name != NULL; e++) {
        lua_pushlightuserdata(L, (void *)(uintptr_t)e);
        lua_pushcclosure(L, embedded_load, 1);
        lua_setfield(L, -2, e->name);
    }
    lua_pop(L, 1);
}

static void
arguments_set(lua_State *L, char *const *args)
{
    lua_newtable(L);
    lua_pushliteral(L, "moongate test");
    lua_rawseti(L, -2, 0);
    for (lua_Integer i = 0; args[i] != NULL; i++) {
        lua_pushstring(L, args[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setglobal(L, "arg");
}

static int
tests_run(lua_State *L)
{
    luaL_openlibs(L);
    modules_preload(L);
    arguments_set(L, lua_touserdata(L, 1));
    lua_getglobal(L, "require");
    lua_pushliteral(L, "moongate.runner");
    lua_call(L, 1, 0);
    return 0;
}

static void
field_set(lua_State *L, const char *name, const char *text)
{
    lua_pushstring(L, text); /* NULL is nil */
    lua_setfield(L, -2, name);
}

/* Leaves a usage error's text, or nil. */
static int
explain_run(lua_State *L)
{
    const struct mg_script_explain *explain = lua_touserdata(L, 1);

    luaL_openlibs(L);
    modules_preload(L);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "moongate.explain");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "run");
    lua_newtable(L);
    field_set(L, "script", explain->path);
    field_set(L, "listener", explain->listener);
    field_set(L, "client", explain->client);
    field_set(L, "sni", explain->sni);
    field_set(L, "alpn", explain->alpn);
    lua_pushboolean(L, explain->json);
    lua_setfield(L, -2, "json");
    lua_call(L, 1, 1);
    return 1;
}

/* A state of its own for `body`, which gets data as a light userdata. NULL: err. Closed by the caller. */
static lua_State *
state_run(lua_CFunction body, const void *data, int results, struct mg_err *err)
{
    lua_State *L = luaL_newstate();

    if (L == NULL) {
        mg_err_setx(err, "out of memory");
        return NULL;
    }
#ifdef MG_GC_STRESS
    lua_gc(L, LUA_GCSETPAUSE, 0);
#endif
    lua_pushcfunction(L, body);
    lua_pushlightuserdata(L, (void *)(uintptr_t)data);
    if (lua_pcall(L, 1, results, 0) == LUA_OK)
        return L;
    mg_err_setx(err, "%s", mg_lua_error_text(L, -1));
    lua_close(L);
    return NULL;
}

int
mg_script_explain(const struct mg_script_explain *explain, char *usage, size_t cap,
                  struct mg_err *err)
{
    lua_State *L = state_run(explain_run, explain, 1, err);

    if (L == NULL)
        return -1;
    mg_str_copy(usage, cap, lua_isstring(L, -1) ? lua_tostring(L, -1) : "");
    lua_close(L);
    return 0;
}

int
mg_script_test(char *const *args, struct mg_err *err)
{
    lua_State *L = state_run(tests_run, args, 0, err);

    if (L == NULL)
        return -1;
    lua_close(L);
    return 0;
}

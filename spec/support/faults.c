/*
 * faults: makes allocations of moongate.openssl fail, OpenSSL's as well as our own. Part of the spec
 * build of that module; opened before it, because OpenSSL takes another allocator only before its
 * first allocation.
 */
#include "base/base.h"

#include <lauxlib.h>
#include <lua.h>
#include <openssl/crypto.h>

__attribute__((visibility("default"))) int luaopen_moongate_faults(lua_State *L);

static long live; /* what OpenSSL has and has not given back */

/* Lua's own allocations. After a failure Lua collects and tries again, which has to fail, too. */
static struct {
    lua_Alloc real;
    void *data;
    long at, count;
} lua;

static void *
on_malloc(size_t size, const char *file MG_UNUSED, int line MG_UNUSED)
{
    void *ptr = mg_malloc(size);
    live += ptr != NULL;
    return ptr;
}

static void
on_free(void *ptr, const char *file MG_UNUSED, int line MG_UNUSED)
{
    live -= ptr != NULL;
    mg_free(ptr);
}

static void *
on_realloc(void *old, size_t size, const char *file, int line)
{
    if (old == NULL)
        return on_malloc(size, file, line);
    if (size > 0)
        return mg_realloc(old, size);
    on_free(old, file, line);
    return NULL;
}

static int
live_count(lua_State *L)
{
    lua_pushinteger(L, live);
    return 1;
}

static void *
on_lua(void *data, void *ptr, size_t old_size, size_t new_size)
{
    if (new_size > (ptr != NULL ? old_size : 0)) {
        lua.count++;
        if (lua.at > 0 && (lua.count == lua.at || lua.count == lua.at + 1))
            return NULL;
    }
    return lua.real(data, ptr, old_size, new_size);
}

/* Lua's n-th allocation from now fails, and fails again; 0: none */
static void
lua_fail_at(long n)
{
    lua.at = n;
    lua.count = 0;
}

static long
lua_allocations(void)
{
    return lua.count;
}

/* (n, function, argument) → whether it came through, its error, allocations: nothing outside of the protected call
 * fails, not even what Lua allocates to make a call. */
static int
attempt_run(lua_State *L, void (*fail_at)(long), long (*count)(void))
{
    long n = (long)luaL_checkinteger(L, 1), used;
    int status;

    lua_settop(L, 3);
    luaL_checkstack(L, LUA_MINSTACK, NULL);
    fail_at(n);
    status = lua_pcall(L, 1, 0, 0);
    used = count();
    fail_at(0);
    if (status == LUA_OK)
        lua_pushnil(L);
    lua_pushboolean(L, status == LUA_OK);
    lua_insert(L, -2);
    lua_pushinteger(L, used);
    return 3;
}

/* attempt: the n-th allocation of OpenSSL and the module fails */
static int
attempt(lua_State *L)
{
    return attempt_run(L, mg_alloc_fail_at, mg_alloc_count);
}

/* lua_attempt: the n-th of Lua */
static int
lua_attempt(lua_State *L)
{
    if (lua.real == NULL) {
        lua.real = lua_getallocf(L, &lua.data);
        lua_setallocf(L, on_lua, lua.data);
    }
    return attempt_run(L, lua_fail_at, lua_allocations);
}

__attribute__((visibility("default"))) int
luaopen_moongate_faults(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"attempt", attempt},
        {"lua_attempt", lua_attempt},
        {"live", live_count},
        {NULL, NULL},
    };
    if (CRYPTO_set_mem_functions(on_malloc, on_realloc, on_free) != 1)
        return luaL_error(L, "OpenSSL has allocated already");
    luaL_newlib(L, functions);
    return 1;
}

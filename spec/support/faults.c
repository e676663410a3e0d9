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

/* fail_at(n): the n-th allocation from now fails; 0: none */
static int
fail_at(lua_State *L)
{
    mg_alloc_fail_at((long)luaL_checkinteger(L, 1));
    return 0;
}

/* count(): allocations since fail_at */
static int
count(lua_State *L)
{
    lua_pushinteger(L, mg_alloc_count());
    return 1;
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

/* lua_fail_at(n): Lua's n-th allocation from now fails, and fails again; 0: none */
static int
lua_fail_at(lua_State *L)
{
    long at = (long)luaL_checkinteger(L, 1);
    if (lua.real == NULL) {
        lua.real = lua_getallocf(L, &lua.data);
        lua_setallocf(L, on_lua, lua.data);
    }
    lua.at = at;
    lua.count = 0;
    return 0;
}

/* lua_count(): Lua's allocations since lua_fail_at */
static int
lua_count(lua_State *L)
{
    lua_pushinteger(L, lua.count);
    return 1;
}

__attribute__((visibility("default"))) int
luaopen_moongate_faults(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"fail_at", fail_at},         {"count", count},         {"live", live_count},
        {"lua_fail_at", lua_fail_at}, {"lua_count", lua_count}, {NULL, NULL},
    };
    if (CRYPTO_set_mem_functions(on_malloc, on_realloc, on_free) != 1)
        return luaL_error(L, "OpenSSL has allocated already");
    luaL_newlib(L, functions);
    return 1;
}

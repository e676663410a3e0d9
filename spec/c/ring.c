/* The ring of ClientHellos for specs: an object with the C functions as methods. */
#include "mgtest.h"
#include "tls/tls.h"

#define METATABLE "mgtest.ring"

static struct mg_ring *
ring_check(lua_State *L)
{
    return *(struct mg_ring **)luaL_checkudata(L, 1, METATABLE);
}

static int
ring_gc(lua_State *L)
{
    mg_ring_free(ring_check(L));
    return 0;
}

static int
ring_resize(lua_State *L)
{
    lua_pushinteger(L, mg_ring_resize(ring_check(L), (size_t)luaL_checkinteger(L, 2)));
    return 1;
}

/* ring:add(listener, bytes) → number */
static int
ring_add(lua_State *L)
{
    size_t len;
    const char *data = luaL_checklstring(L, 3, &len);

    lua_pushinteger(
        L, (lua_Integer)mg_ring_add(ring_check(L), (uint64_t)luaL_checkinteger(L, 2), data, len));
    return 1;
}

static int
ring_confirm(lua_State *L)
{
    mg_ring_confirm(ring_check(L), (uint64_t)luaL_checkinteger(L, 2));
    return 0;
}

/* ring:refuse(number, generation) */
static int
ring_refuse(lua_State *L)
{
    mg_ring_refuse(ring_check(L), (uint64_t)luaL_checkinteger(L, 2),
                   (uint64_t)luaL_checkinteger(L, 3));
    return 0;
}

static int
ring_adopt(lua_State *L)
{
    mg_ring_adopt(ring_check(L), (uint64_t)luaL_checkinteger(L, 2));
    return 0;
}

/* ring:list() → { { number, listener, accepted, data } … } from the oldest */
static int
ring_list(lua_State *L)
{
    static struct mg_ring_hello one;
    struct mg_ring *ring = ring_check(L);
    uint64_t number = 0;

    lua_newtable(L);
    while (mg_ring_next(ring, &number, &one)) {
        lua_createtable(L, 4, 0);
        lua_pushinteger(L, (lua_Integer)one.number);
        lua_rawseti(L, -2, 1);
        lua_pushinteger(L, (lua_Integer)one.listener);
        lua_rawseti(L, -2, 2);
        lua_pushboolean(L, one.accepted);
        lua_rawseti(L, -2, 3);
        lua_pushlstring(L, (const char *)one.data, one.len);
        lua_rawseti(L, -2, 4);
        lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    }
    return 1;
}

/* ring:counts() → capacity, held, skipped */
static int
ring_counts(lua_State *L)
{
    struct mg_ring_counts counts;

    mg_ring_counts(ring_check(L), &counts);
    lua_pushinteger(L, (lua_Integer)counts.capacity);
    lua_pushinteger(L, (lua_Integer)counts.held);
    lua_pushinteger(L, (lua_Integer)counts.skipped);
    return 3;
}

int
mgtest_ring(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"resize", ring_resize}, {"add", ring_add},     {"confirm", ring_confirm},
        {"refuse", ring_refuse}, {"adopt", ring_adopt}, {"list", ring_list},
        {"counts", ring_counts}, {NULL, NULL},
    };
    struct mg_ring **ring = lua_newuserdatauv(L, sizeof(*ring), 0);

    *ring = mg_ring_new();
    if (luaL_newmetatable(L, METATABLE)) {
        luaL_newlib(L, methods);
        lua_setfield(L, -2, "__index");
        lua_pushcfunction(L, ring_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return 1;
}

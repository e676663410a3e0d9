/* The engine's table of names, and what becomes of a client's first bytes under it: in memory. */
#include "mgtest.h"
#include "proxy/proxy.h"

#include <malloc.h>
#include <string.h>

#define TABLE "mgtest.names"

static struct mg_names *
check_names(lua_State *L)
{
    return *(struct mg_names **)luaL_checkudata(L, 1, TABLE);
}

static int
names_gc(lua_State *L)
{
    mg_names_unref(check_names(L));
    return 0;
}

/* new(): an empty table. */
static int
names_new(lua_State *L)
{
    struct mg_names **names = lua_newuserdatauv(L, sizeof(struct mg_names *), 0);

    *names = mg_names_new();
    if (luaL_newmetatable(L, TABLE)) {
        lua_pushcfunction(L, names_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return 1;
}

/* target(names, kind) -> index */
static int
names_target(lua_State *L)
{
    static const char *const kinds[] = {"refuse", "terminate", "pass", NULL};
    struct mg_target target = {.kind = (enum mg_target_kind)luaL_checkoption(L, 2, NULL, kinds)};

    lua_pushinteger(L, mg_names_target(check_names(L), &target));
    return 1;
}

/* add(names, name, target) -> true, the target that was there, or false for what is no name */
static int
names_add(lua_State *L)
{
    size_t len;
    const char *name = luaL_checklstring(L, 2, &len);
    int other, rc = mg_names_add(check_names(L), name, len, (int)luaL_checkinteger(L, 3), &other);

    if (rc == 0 && other >= 0)
        lua_pushinteger(L, other);
    else
        lua_pushboolean(L, rc == 0);
    return 1;
}

static int
names_set(lua_State *L)
{
    static const char *const which[] = {"none", "default", NULL};

    mg_names_set(check_names(L), (enum mg_names_special)luaL_checkoption(L, 2, NULL, which),
                 (int)luaL_checkinteger(L, 3));
    return 0;
}

static lua_Integer
target_index(const struct mg_names *names, const struct mg_target *target)
{
    return target == NULL ? -1 : (lua_Integer)(target - mg_names_target_at(names, 0));
}

/* find(names[, name]) -> index of the target or -1, what matched */
static int
names_find(lua_State *L)
{
    const struct mg_names *names = check_names(L);
    const char *pattern, *name;
    size_t len = 0;

    name = luaL_optlstring(L, 2, NULL, &len);
    lua_pushinteger(L, target_index(names, mg_names_find(names, name, len, &pattern)));
    lua_pushstring(L, pattern);
    return 2;
}

/* time(names, list, rounds): seconds of CPU for looking all of the list up so often. */
static int
names_time(lua_State *L)
{
    const struct mg_names *names = check_names(L);
    size_t count = lua_rawlen(L, 2);
    lua_Integer rounds = luaL_checkinteger(L, 3);
    const char **list = lua_newuserdatauv(L, (count + 1) * sizeof(*list), 0);
    uint64_t began;
    const char *pattern;
    size_t found = 0;

    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, 2, (lua_Integer)i + 1);
        list[i] = lua_tostring(L, -1); /* the table keeps it */
        lua_pop(L, 1);
    }
    began = mg_now_ns();
    for (lua_Integer round = 0; round < rounds; round++)
        for (size_t i = 0; i < count; i++)
            found += mg_names_find(names, list[i], strlen(list[i]), &pattern) != NULL;
    lua_pushnumber(L, (double)(mg_now_ns() - began) / 1e9);
    lua_pushinteger(L, (lua_Integer)found);
    return 2;
}

/* hash(key, data): key is 16 bytes; the result's 8 bytes, lowest first. */
static int
names_hash(lua_State *L)
{
    size_t len;
    const char *key = luaL_checkstring(L, 1), *data = luaL_checklstring(L, 2, &len);
    uint64_t words[2], hash;

    memcpy(words, key, sizeof(words));
    hash = mg_names_hash(words, data, len);
    lua_pushlstring(L, (const char *)&hash, sizeof(hash));
    return 1;
}

/* ---- decisions ------------------------------------------------------------------------------- */

struct tally {
    lua_Integer more, refused, none, decided;
};

/* What S_HELLO does with these bytes, except for the answer. */
static void
decide(const struct mg_names *names, const unsigned char *wire, size_t len, size_t piece,
       unsigned char *room, struct tally *tally)
{
    struct mg_hello_reader reader = {0};
    enum mg_hello_status status = MG_HELLO_MORE;
    struct mg_hello hello;
    char ja4[MG_HELLO_JA4], unknown[MG_TLS_UNKNOWN_NAME];
    const char *pattern;
    uint16_t number;

    for (size_t at = 0; at < len && status == MG_HELLO_MORE;) {
        at = len - at < piece ? len : at + piece;
        status = mg_hello_read(&reader, wire, at, room, &hello);
    }
    tally->more += status == MG_HELLO_MORE;
    tally->refused += status == MG_HELLO_REFUSED;
    if (status != MG_HELLO_COMPLETE)
        return;
    mg_hello_supports_ecdsa(&hello);
    mg_hello_ja4(&hello, ja4);
    while (mg_hello_next_number(&hello.cipher_suites, &number))
        mg_tls_number_name(MG_TLS_CIPHER_SUITE, number, unknown);
    if (mg_names_find(names, hello.servername.data, hello.servername.len, &pattern) != NULL)
        tally->decided++;
    else
        tally->none++;
}

static uint64_t
random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Changes bytes, cuts, doubles a stretch, or is noise altogether. Returns the length. */
static size_t
mutate(unsigned char *wire, size_t len, size_t cap, uint64_t *random)
{
    size_t at;

    switch (random_next(random) % 8) {
    case 0:
        len = 1 + random_next(random) % cap;
        for (size_t i = 0; i < len; i++)
            wire[i] = (unsigned char)random_next(random);
        wire[0] = random_next(random) % 2 ? 22 : wire[0];
        return len;
    case 1:
        return random_next(random) % (len + 1);
    case 2:
        at = random_next(random) % len;
        if (2 * len - at <= cap) {
            memmove(wire + len, wire + at, len - at);
            len += len - at;
        }
        break;
    default:
        break;
    }
    for (uint64_t n = random_next(random) % 12; n > 0 && len > 0; n--)
        wire[random_next(random) % len] = (unsigned char)random_next(random);
    return len;
}

/* storm(names, seeds, count, seed): so many mutants of the seeds are decided on; how often what. Each is a copy
 * of exactly its size, as a sanitizer likes it. */
static int
names_storm(lua_State *L)
{
    enum { CAP = 8192 };
    const struct mg_names *names = check_names(L);
    size_t seeds = lua_rawlen(L, 2);
    lua_Integer count = luaL_checkinteger(L, 3);
    uint64_t random = (uint64_t)luaL_checkinteger(L, 4) | 1;
    unsigned char *room = lua_newuserdatauv(L, MG_HELLO_MAX, 0);
    unsigned char *wire = lua_newuserdatauv(L, CAP, 0);
    struct tally tally = {0};

    for (lua_Integer i = 0; i < count; i++) {
        size_t len;
        const char *seed;
        unsigned char *copy;

        lua_rawgeti(L, 2, (lua_Integer)(random_next(&random) % seeds) + 1);
        seed = lua_tolstring(L, -1, &len);
        memcpy(wire, seed, len);
        lua_pop(L, 1);
        len = mutate(wire, len, CAP, &random);
        copy = mg_malloc(len + 1);
        memcpy(copy, wire, len);
        decide(names, copy, len, 1 + random_next(&random) % 700, room, &tally);
        mg_free(copy);
    }
    lua_newtable(L);
    lua_pushinteger(L, tally.more);
    lua_setfield(L, -2, "more");
    lua_pushinteger(L, tally.refused);
    lua_setfield(L, -2, "refused");
    lua_pushinteger(L, tally.none);
    lua_setfield(L, -2, "none");
    lua_pushinteger(L, tally.decided);
    lua_setfield(L, -2, "decided");
    return 1;
}

/* heap(): bytes in use; 0 where a sanitizer keeps the heap. */
static int
names_heap(lua_State *L)
{
    struct mallinfo2 heap = mallinfo2();

    lua_pushinteger(L, (lua_Integer)(heap.uordblks + heap.hblkhd));
    return 1;
}

int
mgtest_names(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"new", names_new},   {"target", names_target}, {"add", names_add},
        {"set", names_set},   {"find", names_find},     {"time", names_time},
        {"hash", names_hash}, {"storm", names_storm},   {"heap", names_heap},
        {NULL, NULL},
    };

    luaL_newlib(L, functions);
    return 1;
}

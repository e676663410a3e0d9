/* base/cache for specs: with processes that are stopped and killed in the middle of writing. */
#include "mgtest.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct handle {
    struct mg_cache *cache;
    int fd; /* -1: private */
};

static struct handle *
check(lua_State *L)
{
    return luaL_checkudata(L, 1, "mgtest.cache");
}

static int
handle_gc(lua_State *L)
{
    struct handle *h = check(L);

    mg_cache_unmap(h->cache);
    h->cache = NULL;
    if (h->fd >= 0)
        close(h->fd);
    h->fd = -1;
    return 0;
}

/* new(shared) */
static int
cache_new(lua_State *L)
{
    bool shared = lua_toboolean(L, 1);
    struct handle *h = lua_newuserdatauv(L, sizeof(*h), 0);
    struct mg_err err;

    *h = (struct handle){NULL, -1};
    luaL_newmetatable(L, "mgtest.cache");
    lua_pushcfunction(L, handle_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    if (shared)
        h->fd = mg_cache_create(&err);
    h->cache = shared && h->fd < 0 ? NULL : mg_cache_map(h->fd, &err);
    if (h->cache == NULL)
        return luaL_error(L, "%s", err.text);
    return 1;
}

static void
on_gone(void *data, const struct mg_cache_entry *entry)
{
    lua_State *L = data;

    lua_pushlstring(L, (const char *)entry->id, entry->id_len);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
}

/* put(cache, owner, id, data[, expires[, limit]]) → done, ids of those that had to leave, order */
static int
put(lua_State *L)
{
    struct handle *h = check(L);
    struct mg_cache_entry entry = {.owner = (uint64_t)luaL_checkinteger(L, 2)};
    const char *id = luaL_checklstring(L, 3, &entry.id_len);
    const char *data = luaL_checklstring(L, 4, &entry.len);
    size_t limit = (size_t)luaL_optinteger(L, 6, 0);
    bool done;

    memcpy(entry.id, id, entry.id_len < MG_CACHE_ID_MAX ? entry.id_len : MG_CACHE_ID_MAX);
    if (entry.len <= MG_CACHE_DATA_MAX)
        memcpy(entry.data, data, entry.len);
    entry.expires = luaL_optinteger(L, 5, INT64_MAX);
    lua_newtable(L);
    done = mg_cache_put(h->cache, &entry, limit, on_gone, L);
    lua_pushboolean(L, done);
    lua_insert(L, -2);
    lua_pushinteger(L, (lua_Integer)entry.order);
    return 3;
}

/* get(cache, owner, id) → data, expires, order; or nil */
static int
get(lua_State *L)
{
    struct mg_cache_entry entry;
    size_t len;
    const char *id = luaL_checklstring(L, 3, &len);

    if (!mg_cache_get(check(L)->cache, (uint64_t)luaL_checkinteger(L, 2), id, len, &entry))
        return 0;
    lua_pushlstring(L, (const char *)entry.data, entry.len);
    lua_pushinteger(L, entry.expires);
    lua_pushinteger(L, (lua_Integer)entry.order);
    return 3;
}

static int
remove_entry(lua_State *L)
{
    size_t len;
    const char *id = luaL_checklstring(L, 3, &len);

    lua_pushboolean(L,
                    mg_cache_remove(check(L)->cache, (uint64_t)luaL_checkinteger(L, 2), id, len));
    return 1;
}

/* sweep(cache, owner, before) → ids */
static int
sweep(lua_State *L)
{
    lua_newtable(L);
    mg_cache_sweep(check(L)->cache, (uint64_t)luaL_checkinteger(L, 2), luaL_checkinteger(L, 3),
                   on_gone, L);
    return 1;
}

static int
tidy(lua_State *L)
{
    mg_cache_tidy(check(L)->cache);
    return 0;
}

static int
count(lua_State *L)
{
    lua_pushinteger(
        L, (lua_Integer)mg_cache_count(check(L)->cache, (uint64_t)luaL_checkinteger(L, 2)));
    return 1;
}

static int
oversize(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)mg_cache_oversize(check(L)->cache));
    return 1;
}

/* contains(cache, text): anywhere in the shared memory that has ever been touched */
static int
contains(lua_State *L)
{
    size_t len;
    const char *text = luaL_checklstring(L, 2, &len);
    const struct handle *h = check(L);
    off_t at = 0, end = 0;
    bool found = false;

    while (!found && (at = lseek(h->fd, end, SEEK_DATA)) >= 0) {
        char *map;

        end = lseek(h->fd, at, SEEK_HOLE);
        map = mmap(NULL, (size_t)(end - at), PROT_READ, MAP_SHARED, h->fd, at);
        if (map == MAP_FAILED)
            return luaL_error(L, "mmap");
        found = memmem(map, (size_t)(end - at), text, len) != NULL;
        munmap(map, (size_t)(end - at));
    }
    lua_pushboolean(L, found);
    return 1;
}

/* ---- other processes ------------------------------------------------------------------------- */

static int writing_signal;

static void
on_writing(void)
{
    mg_cache_writing = NULL;
    raise(writing_signal);
}

/* interrupted(cache, owner, id, data, "stop" | "kill") → pid of a process that puts and is stopped in
 * the middle, or nothing: it was killed there */
static int
interrupted(lua_State *L)
{
    struct handle *h = check(L);
    struct mg_cache_entry entry = {.owner = (uint64_t)luaL_checkinteger(L, 2),
                                   .expires = INT64_MAX};
    const char *id = luaL_checklstring(L, 3, &entry.id_len);
    const char *data = luaL_checklstring(L, 4, &entry.len);
    int status;
    pid_t pid;

    memcpy(entry.id, id, entry.id_len);
    memcpy(entry.data, data, entry.len);
    writing_signal = strcmp(luaL_checkstring(L, 5), "stop") == 0 ? SIGSTOP : SIGKILL;
    pid = fork();
    if (pid == 0) {
        mg_cache_writing = on_writing;
        _exit(mg_cache_put(h->cache, &entry, 0, on_gone, NULL) ? 0 : 1);
    }
    if (pid < 0 || waitpid(pid, &status, WUNTRACED) != pid)
        return luaL_error(L, "fork");
    if (!WIFSTOPPED(status))
        return 0;
    lua_pushinteger(L, pid);
    return 1;
}

/* resume(pid) → whether its put succeeded */
static int
resume(lua_State *L)
{
    pid_t pid = (pid_t)luaL_checkinteger(L, 1);
    int status = -1;

    kill(pid, SIGCONT);
    waitpid(pid, &status, 0);
    lua_pushboolean(L, WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return 1;
}

#define KEYS 500u

static void
nobody(void *data, const struct mg_cache_entry *entry)
{
    (void)data;
    (void)entry;
}

/* Puts, gets and removes at random; _exit(1) if it gets what nobody has put. */
static void
mess_about(struct mg_cache *cache, unsigned seed, long rounds)
{
    for (long round = 0; round < rounds; round++) {
        struct mg_cache_entry entry = {.owner = 7, .id_len = 32, .expires = INT64_MAX};
        uint32_t number = (uint32_t)rand_r(&seed) % KEYS;
        unsigned what = (unsigned)rand_r(&seed) % 8;

        for (size_t i = 0; i < 32; i += 4)
            memcpy(entry.id + i, &number, 4);
        if (what < 4) {
            entry.len = 4 * (1 + (size_t)rand_r(&seed) % (number % 2 ? 100 : 2000));
            for (size_t i = 0; i < entry.len; i += 4)
                memcpy(entry.data + i, &number, 4);
            mg_cache_put(cache, &entry, seed % 2 ? 300 : 0, nobody, NULL);
        } else if (what < 7) {
            if (mg_cache_get(cache, 7, entry.id, 32, &entry))
                for (size_t i = 0; i < entry.len; i += 4)
                    if (memcmp(entry.data + i, &number, 4) != 0)
                        _exit(1);
        } else {
            mg_cache_remove(cache, 7, entry.id, 32);
        }
    }
    _exit(0);
}

/* crowd(cache, processes, rounds, killed) → how many ended well; the first `killed` ones are killed
 * somewhere on their way. */
static int
crowd(lua_State *L)
{
    struct handle *h = check(L);
    int processes = (int)luaL_checkinteger(L, 2), killed = (int)luaL_checkinteger(L, 4), well = 0;
    long rounds = (long)luaL_checkinteger(L, 3);
    pid_t pids[64];

    for (int i = 0; i < processes; i++) {
        pids[i] = fork();
        if (pids[i] == 0)
            mess_about(h->cache, (unsigned)i + 1, i < killed ? rounds * 1000 : rounds);
    }
    for (int i = processes - 1; i >= 0; i--) { /* the short ones first, so that all overlap */
        int status = -1;

        if (i < killed)
            kill(pids[i], SIGKILL);
        waitpid(pids[i], &status, 0);
        well += WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    lua_pushinteger(L, well);
    return 1;
}

int
mgtest_cache(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"new", cache_new},     {"put", put},
        {"get", get},           {"remove", remove_entry},
        {"sweep", sweep},       {"tidy", tidy},
        {"count", count},       {"oversize", oversize},
        {"contains", contains}, {"interrupted", interrupted},
        {"resume", resume},     {"crowd", crowd},
        {NULL, NULL},
    };
    luaL_newlib(L, functions);
    return 1;
}

#include "mgtest.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* endpoint_parse(text, allow_any) → { kind, host, port, text } or nil, error */
static int
endpoint_parse(lua_State *L)
{
    static const char *const kinds[] = {"ip", "any", "unix", "name"};
    struct mg_endpoint ep;
    struct mg_err err;
    char text[MG_ADDR_TEXT];
    if (mg_endpoint_parse(&ep, luaL_checkstring(L, 1), lua_toboolean(L, 2), &err) != 0) {
        lua_pushnil(L);
        lua_pushstring(L, err.text);
        return 2;
    }
    lua_newtable(L);
    lua_pushstring(L, kinds[ep.kind]);
    lua_setfield(L, -2, "kind");
    lua_pushstring(L, ep.host);
    lua_setfield(L, -2, "host");
    lua_pushinteger(L, ep.port);
    lua_setfield(L, -2, "port");
    lua_pushstring(L, ep.kind == MG_ENDPOINT_NAME ? "" : mg_addr_text(&ep.addr, text));
    lua_setfield(L, -2, "text");
    return 1;
}

static int
buf_push(lua_State *L, struct mg_buf *buf)
{
    if (buf->failed)
        lua_pushnil(L);
    else
        lua_pushlstring(L, buf->data != NULL ? buf->data : "", buf->len);
    mg_buf_free(buf);
    return 1;
}

static int
json(lua_State *L)
{
    struct mg_buf buf = {0};
    size_t len;
    const char *text = luaL_checklstring(L, 1, &len);
    mg_buf_add_json(&buf, text, len);
    return buf_push(L, &buf);
}

static int
printable(lua_State *L)
{
    struct mg_buf buf = {0};
    size_t len;
    const char *text = luaL_checklstring(L, 1, &len);
    mg_buf_add_printable(&buf, text, len);
    return buf_push(L, &buf);
}

/* grow(total, fail_at) appends one byte at a time; nil if the buffer failed */
static int
grow(lua_State *L)
{
    struct mg_buf buf = {0};
    lua_Integer total = luaL_checkinteger(L, 1);
    mg_alloc_fail_at((long)luaL_optinteger(L, 2, 0));
    for (lua_Integer i = 0; i < total; i++)
        mg_buf_add(&buf, "x", 1);
    mg_alloc_fail_at(0);
    return buf_push(L, &buf);
}

/* nearest(word, {name, ...}) */
static int
nearest(lua_State *L)
{
    const char *names[32];
    size_t count = 0;
    const char *word = luaL_checkstring(L, 1);
    for (; count < MG_ARRAY_LEN(names); count++) {
        lua_rawgeti(L, 2, (lua_Integer)count + 1);
        names[count] = lua_tostring(L, -1); /* the table keeps it alive */
        lua_pop(L, 1);
        if (names[count] == NULL)
            break;
    }
    lua_pushstring(L, mg_str_nearest(word, names, count));
    return 1;
}

/* prefix(text, prefix) → mg_err_prefix's result */
static int
prefix(lua_State *L)
{
    struct mg_err err;
    mg_err_setx(&err, "%s", luaL_checkstring(L, 1));
    mg_err_prefix(&err, "%s", luaL_checkstring(L, 2));
    lua_pushstring(L, err.text);
    return 1;
}

static struct mg_shared *
shared_make(lua_State *L)
{
    struct mg_err err;
    int fd = mg_shared_create(&err);
    struct mg_shared *map = fd >= 0 ? mg_shared_map(fd, &err) : NULL;
    if (map == NULL)
        luaL_error(L, "%s", err.text);
    close(fd);
    return map;
}

/* shared() → slot identity, open connections after a worker that had 3 of 5 is forgotten, and its row */
static int
shared(lua_State *L)
{
    struct mg_shared *map = shared_make(L);
    bool busy;
    struct mg_shared_listener *slot = mg_shared_listener_hold(map, "web", 1, &busy);
    bool same = slot == mg_shared_listener_hold(map, "web", 2, &busy) &&
                slot != mg_shared_listener_hold(map, "api", 1, &busy);
    atomic_fetch_add(&slot->open[1], 3);
    atomic_fetch_add(&slot->open[2], 2);
    mg_shared_forget(map, 1);
    lua_pushboolean(L, same);
    lua_pushinteger(L, (lua_Integer)mg_shared_listener_open(slot));
    lua_pushinteger(L, atomic_load(&slot->open[1]));
    mg_shared_unmap(map);
    return 3;
}

/* shared_rounds(rounds, names, killed) → rounds that found room for that many new names, each round's
 * being given back, or left by a worker that is killed in it (with the lock, too) */
static int
shared_rounds(lua_State *L)
{
    struct mg_shared *map = shared_make(L);
    lua_Integer rounds = luaL_checkinteger(L, 1), names = luaL_checkinteger(L, 2), round;
    bool killed = lua_toboolean(L, 3), room = true, busy;
    for (round = 0; round < rounds && room; round++) {
        struct mg_shared_listener *slots[MG_SHARED_LISTENERS + 1]; /* one more than there are */
        for (lua_Integer i = 0; i < names; i++) {
            char name[64];
            snprintf(name, sizeof(name), "listener %lld of %lld", (long long)i, (long long)round);
            slots[i] = mg_shared_listener_hold(map, name, 7, &busy);
            room = room && slots[i] != NULL &&
                   slots[i] == mg_shared_listener_hold(map, name, 8, &busy);
        }
        for (lua_Integer i = 0; i < names && room; i++) {
            mg_shared_listener_release(slots[i], 8);
            if (!killed)
                mg_shared_listener_release(slots[i], 7);
        }
        if (killed) {
            atomic_store(&map->lock, 8);
            mg_shared_forget(map, 7);
        }
    }
    lua_pushinteger(L, room ? round : round - 1);
    mg_shared_unmap(map);
    return 1;
}

/* limits_client(address) → whose it is, in hexadecimal; nil: nobody's */
static int
limits_client(lua_State *L)
{
    struct mg_endpoint ep;
    struct mg_err err;
    unsigned char whose[MG_LIMITS_CLIENT];
    char hex[2 * MG_LIMITS_CLIENT + 1];

    if (mg_endpoint_parse(&ep, luaL_checkstring(L, 1), false, &err) != 0)
        return luaL_error(L, "%s", err.text);
    if (!mg_limits_client(&ep.addr, whose))
        return 0;
    for (size_t i = 0; i < sizeof(whose); i++)
        snprintf(hex + 2 * i, 3, "%02x", whose[i]);
    lua_pushstring(L, hex);
    return 1;
}

/* limits_count(steps) → what came of each: "+1" worker 1 has one more (its place, or why not), "-1" gives the last
 * one of its back, "x1" worker 1 dies. At most 5, all of one key. */
static int
limits_count(lua_State *L)
{
    struct mg_shared *map = shared_make(L);
    int32_t places[3][16];
    int counts[3] = {0};

    lua_newtable(L);
    for (const char *step = luaL_checkstring(L, 1); step[0] != '\0'; step += 2) {
        int worker = step[1] - '0';
        int32_t place = 0;

        if (step[0] == '+') {
            place = mg_limits_enter(map, (unsigned)worker, 4711, 5);
            if (place >= 0)
                places[worker][counts[worker]++] = place;
        } else if (step[0] == '-') {
            mg_limits_leave(map, (unsigned)worker, places[worker][--counts[worker]]);
        } else {
            mg_shared_forget(map, (unsigned)worker);
            counts[worker] = 0;
        }
        lua_pushinteger(L, place < 0 ? place : 0);
        lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    }
    mg_shared_unmap(map);
    return 1;
}

/* limits_crowd(count) → how many keys that would all like the same place were counted, and the last answer */
static int
limits_crowd(lua_State *L)
{
    struct mg_shared *map = shared_make(L);
    lua_Integer counted = 0;
    int32_t place = 0;

    for (lua_Integer i = 0; i < luaL_checkinteger(L, 1); i++) {
        place = mg_limits_enter(map, 1, 1 + (uint64_t)i * MG_LIMITS_COUNTS, 1);
        counted += place >= 0;
    }
    mg_shared_unmap(map);
    lua_pushinteger(L, counted);
    lua_pushinteger(L, place);
    return 2;
}

/* bucket({ { seconds, rate, burst }, … }) → which of them got a token; seconds "back" gives one back */
static int
bucket(lua_State *L)
{
    _Atomic uint64_t full_at = 0;
    struct mg_rate rate;

    lua_newtable(L);
    for (lua_Integer i = 1; lua_rawgeti(L, 1, i) == LUA_TTABLE; i++) {
        lua_rawgeti(L, -1, 1);
        lua_rawgeti(L, -2, 2);
        lua_rawgeti(L, -3, 3);
        mg_rate_set(&rate, lua_tonumber(L, -2), lua_tonumber(L, -1));
        if (lua_type(L, -3) == LUA_TSTRING) {
            mg_bucket_give_back(&full_at, &rate);
            lua_pushboolean(L, true);
        } else {
            lua_pushboolean(L, mg_bucket_take(&full_at, &rate,
                                              (uint64_t)(lua_tonumber(L, -3) * 1e9) + 1000000000));
        }
        lua_rawseti(L, 2, i);
        lua_pop(L, 4);
    }
    lua_settop(L, 2);
    return 1;
}

/* buckets(owing, others) → of so many keys that have used their burst up, how many still have none after so many
 * others had a token each */
static int
buckets(lua_State *L)
{
    struct mg_shared *map = shared_make(L);
    lua_Integer owing = luaL_checkinteger(L, 1), others = luaL_checkinteger(L, 2), kept = 0;
    struct mg_rate rate;

    mg_rate_set(&rate, 1, 5);
    for (lua_Integer i = 0; i < owing; i++) {
        char name[32];
        int len = snprintf(name, sizeof(name), "owing %lld", (long long)i);

        for (int token = 0; token < 5; token++)
            mg_bucket_take(mg_limits_bucket(map, mg_str_hash(name, (size_t)len)), &rate,
                           1000000000);
    }
    for (lua_Integer i = 0; i < others; i++) {
        char name[32];
        int len = snprintf(name, sizeof(name), "other %lld", (long long)i);

        mg_bucket_take(mg_limits_bucket(map, mg_str_hash(name, (size_t)len)), &rate, 1000000000);
    }
    for (lua_Integer i = 0; i < owing; i++) {
        char name[32];
        int len = snprintf(name, sizeof(name), "owing %lld", (long long)i);

        kept += !mg_bucket_take(mg_limits_bucket(map, mg_str_hash(name, (size_t)len)), &rate,
                                1000000000);
    }
    mg_shared_unmap(map);
    lua_pushinteger(L, kept);
    return 1;
}

/* shared_addresses(names) → how many of them found room, whether the next to hold one finds the state that
 * it was in: while another holds it, after a crash of all that did, after it was given back, under another
 * backend's name; and its connections and its prober after the crash */
static int
shared_addresses(lua_State *L)
{
    struct mg_shared *map = shared_make(L);
    bool busy;
    struct mg_shared_address *slot = mg_shared_address_hold(map, "web", "127.0.0.1:1", 3, &busy),
                             *other;
    lua_Integer names = luaL_checkinteger(L, 1), found = 1;

    for (; found < names; found++) {
        char text[64];

        snprintf(text, sizeof(text), "127.0.0.1:%lld", (long long)found + 1);
        if (mg_shared_address_hold(map, "web", text, 3, &busy) == NULL)
            break;
    }
    lua_pushinteger(L, found);
    atomic_store(&slot->down, 1);
    atomic_store(&slot->open[3], 5);
    atomic_store(&slot->prober, 4);
    lua_pushboolean(L, mg_shared_address_hold(map, "web", "127.0.0.1:1", 9, &busy) == slot &&
                           atomic_load(&slot->down) == 1);
    mg_shared_address_release(slot, 9);
    mg_shared_forget(map, 3);
    lua_pushboolean(L, mg_shared_address_hold(map, "web", "127.0.0.1:1", 3, &busy) == slot &&
                           atomic_load(&slot->down) == 1);
    lua_pushinteger(L, (lua_Integer)mg_shared_address_open(slot));
    lua_pushinteger(L, atomic_load(&slot->prober));
    mg_shared_address_release(slot, 3);
    slot = mg_shared_address_hold(map, "web", "127.0.0.1:1", 3, &busy);
    lua_pushboolean(L, atomic_load(&slot->down) == 1);
    atomic_store(&slot->down, 1);
    other = mg_shared_address_hold(map, "api", "127.0.0.1:1", 3, &busy);
    lua_pushboolean(L, other == slot || atomic_load(&other->down) == 1);
    mg_shared_unmap(map);
    return 7;
}

/* shared_busy() → whether an address has a slot and whether the table is busy, while another worker has the lock,
 * and afterwards; and the milliseconds that the former took, of CPU and waiting */
static int
shared_busy(lua_State *L)
{
    struct mg_shared *map = shared_make(L);
    bool busy = false;
    uint64_t began = mg_now_ms();

    atomic_store(&map->lock, 9);
    lua_pushboolean(L, mg_shared_address_hold(map, "web", "127.0.0.1:1", 3, &busy) != NULL);
    lua_pushboolean(L, busy);
    began = mg_now_ms() - began;
    mg_shared_forget(map, 8);
    lua_pushboolean(L, mg_shared_address_hold(map, "web", "127.0.0.1:1", 3, &busy) != NULL);
    lua_pushboolean(L, busy);
    lua_pushinteger(L, (lua_Integer)began);
    mg_shared_unmap(map);
    return 5;
}

/* log_unread(count) → what a pipe held of that many records, and of one more when it was empty again */
static int
log_unread(lua_State *L)
{
    static char text[1024 * 1024];
    int ends[2];
    if (pipe(ends) != 0)
        return luaL_error(L, "pipe");
    mg_log_open(ends[1], MG_LOG_TEXT, MG_LOG_INFO, "moongate");
    for (lua_Integer i = 0; i < luaL_checkinteger(L, 1); i++)
        mg_log(MG_LOG_INFO, "record %d %.*s", (int)i, 1 + (int)(i % 30),
               "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
    lua_pushlstring(L, text, (size_t)read(ends[0], text, sizeof(text)));
    mg_log(MG_LOG_INFO, "the last one");
    lua_pushlstring(L, text, (size_t)read(ends[0], text, sizeof(text)));
    mg_log_open(STDERR_FILENO, MG_LOG_TEXT, MG_LOG_INFO, "moongate");
    close(ends[0]);
    close(ends[1]);
    return 2;
}

static struct mg_shared *
shared_open(void)
{
    struct mg_err err;
    int fd = mg_shared_create(&err);
    struct mg_shared *shared = mg_shared_map(fd, &err);

    close(fd);
    return shared;
}

static void
on_sum(const struct mg_metric_sum *sum, void *data)
{
    lua_State *L = data;

    lua_pushinteger(L, (lua_Integer)sum->ended);
    lua_setfield(L, -2, sum->text);
}

/* A table of what has ended of each backend and each address. */
static void
sums_push(lua_State *L, const struct mg_shared *shared)
{
    lua_newtable(L);
    mg_metrics_each(shared, MG_SHARED_WORKERS, MG_METRIC_BACKEND, on_sum, L);
}

/* metrics_sums() → sums after three workers have counted failures of a backend's addresses, which they met in
 * different orders: that of number n has failed n times in each that has met it */
static int
metrics_sums(lua_State *L)
{
    struct mg_shared *shared = shared_open();

    for (unsigned w = 0; w < 3; w++) {
        struct mg_metrics *metrics = mg_metrics_begin(shared, w);
        struct mg_metric *b = mg_metrics_hold(metrics, MG_METRIC_BACKEND, "b", 1, false);
        unsigned reason = mg_metrics_reason(metrics, w == 0 ? "up: a" : "up: b");

        for (unsigned i = 0; i < 6; i++) {
            unsigned number = w == 1 ? 6 - i : i + 1;
            char text[16];

            if (number == 4 && w == 2)
                continue;
            snprintf(text, sizeof(text), "%u", number);
            for (unsigned n = 0; n < number; n++)
                mg_metric_add(&mg_metrics_address(metrics, b, text)->by[reason]);
        }
        mg_metrics_serve(shared, w, 1);
    }
    sums_push(L, shared);
    mg_shared_unmap(shared);
    return 1;
}

/* metrics_nonsense() → sums of a table that a worker has filled with nonsense before it died, of each byte's value */
static int
metrics_nonsense(lua_State *L)
{
    const unsigned last = MG_SHARED_WORKERS - 1;

    lua_newtable(L);
    for (int byte = 1; byte < 256; byte += 127) {
        struct mg_shared *shared = shared_open();
        struct mg_metrics *metrics = mg_metrics_begin(shared, last);
        struct mg_metric *web = mg_metrics_hold(metrics, MG_METRIC_LISTENER, "web", 1, false);

        mg_metrics_hold(metrics, MG_METRIC_BACKEND, "b", 1, false);
        mg_metrics_serve(shared, last, 1);
        mg_metric_add(&web->begun);
        memset(metrics->reason, byte, sizeof(metrics->reason));
        memset(metrics->address, byte, sizeof(metrics->address));
        memset(web->text, byte, sizeof(web->text));
        atomic_store(&metrics->reason_count, (uint32_t)byte * 0x01010101u);
        atomic_store(&metrics->address_end, (uint32_t)byte * 0x01010101u);
        mg_shared_forget(shared, last);
        sums_push(L, shared);
        mg_metrics_each(shared, last, MG_METRIC_LISTENER, on_sum, L);
        lua_rawseti(L, -2, byte);
        mg_shared_unmap(shared);
    }
    return 1;
}

int
mgtest_base(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"endpoint_parse", endpoint_parse},
        {"json", json},
        {"printable", printable},
        {"grow", grow},
        {"nearest", nearest},
        {"prefix", prefix},
        {"shared", shared},
        {"log_unread", log_unread},
        {"shared_rounds", shared_rounds},
        {"limits_client", limits_client},
        {"limits_count", limits_count},
        {"limits_crowd", limits_crowd},
        {"bucket", bucket},
        {"buckets", buckets},
        {"shared_addresses", shared_addresses},
        {"shared_busy", shared_busy},
        {"metrics_sums", metrics_sums},
        {"metrics_nonsense", metrics_nonsense},
        {NULL, NULL},
    };
    luaL_newlib(L, functions);
    return 1;
}

/*
 * ssl_cache: the session cache of a context as Ruby has it – mode, size, statistics, adding, removing
 * and flushing. All of it works on a frozen context, too.
 *
 * libssl's own cache is always off: it would know the sessions of one process only. It still calls
 * back for every session that is new, looked for or to be forgotten, and what it would then have done
 * is done here with a struct mg_cache: the one that all workers share (mg_openssl_set_cache), where a
 * context's entries are found by its session_id_context, so that they outlive workers and reloads; or
 * else one of this process, where every context has entries of its own, as in Ruby.
 *
 * Entries are copies. So that a Session that was put into a cache is the entry, as in Ruby, it
 * remembers which one it is (struct note), and assigning its time or timeout writes it again.
 */
#include "openssl/internal.h"

#include <limits.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CLS "SSLContext"

#define MODE_DEFAULT SSL_SESS_CACHE_SERVER
#define CLEAR_EVERY  255 /* connections, as in libssl */

/* ---- the memory ------------------------------------------------------------------------------ */

static struct mg_cache *shared_cache, *private_cache; /* the latter lives as long as the process */
static pthread_once_t private_once = PTHREAD_ONCE_INIT;

void
mg_openssl_set_cache(struct mg_cache *cache)
{
    shared_cache = cache;
}

static void
private_make(void)
{
    struct mg_err err;
    private_cache = mg_cache_map(-1, &err);
}

/* NULL: no memory, nothing is kept. */
static struct mg_cache *
cache_get(void)
{
    if (shared_cache)
        return shared_cache;
    pthread_once(&private_once, private_make);
    return private_cache;
}

/* ---- which entry a session is ---------------------------------------------------------------- */

struct note {
    uint64_t owner, order;
};

static int note_index = -1;
static pthread_once_t note_once = PTHREAD_ONCE_INIT;

static void
note_free(void *parent MG_UNUSED, void *ptr, CRYPTO_EX_DATA *ad MG_UNUSED, int idx MG_UNUSED,
          long argl MG_UNUSED, void *argp MG_UNUSED)
{
    mg_free(ptr);
}

/* A copy of a session is no entry. */
static int
note_dup(CRYPTO_EX_DATA *to MG_UNUSED, const CRYPTO_EX_DATA *from MG_UNUSED, void **from_d,
         int idx MG_UNUSED, long argl MG_UNUSED, void *argp MG_UNUSED)
{
    *from_d = NULL;
    return 1;
}

static void
note_index_make(void)
{
    note_index = SSL_SESSION_get_ex_new_index(0, NULL, NULL, note_dup, note_free);
}

static const struct note *
note_get(const SSL_SESSION *session)
{
    return note_index < 0 ? NULL : SSL_SESSION_get_ex_data(session, note_index);
}

/* Without memory the session just does not know. */
static void
note_set(SSL_SESSION *session, uint64_t owner, uint64_t order)
{
    pthread_once(&note_once, note_index_make);
    if (note_index < 0)
        return;
    struct note *note = SSL_SESSION_get_ex_data(session, note_index);
    if (!note) {
        note = mg_malloc(sizeof(*note));
        if (!note || SSL_SESSION_set_ex_data(session, note_index, note) != 1) {
            mg_free(note);
            return;
        }
    }
    *note = (struct note){owner, order};
}

/* ---- sessions as entries --------------------------------------------------------------------- */

static int64_t
session_expires(const SSL_SESSION *session)
{
    int64_t at;
    if (__builtin_add_overflow(mg_tls_session_time(session),
                               (int64_t)SSL_SESSION_get_timeout(session), &at))
        at = INT64_MAX;
    return at;
}

/* false: OpenSSL has no memory. A length that is too much is left to mg_cache_put. */
static bool
entry_make(struct mg_cache_entry *entry, uint64_t owner, const SSL_SESSION *session)
{
    unsigned char *end = entry->data;
    unsigned id_len;
    const unsigned char *id = SSL_SESSION_get_id(session, &id_len);
    int len = i2d_SSL_SESSION(session, NULL);
    if (len <= 0 || id_len > sizeof(entry->id))
        return false;
    entry->owner = owner;
    entry->expires = session_expires(session);
    memcpy(entry->id, id, id_len);
    entry->id_len = id_len;
    entry->len = (size_t)len;
    return entry->len > sizeof(entry->data) || i2d_SSL_SESSION(session, &end) == len;
}

/* Adds a reference for the caller; NULL: no memory. */
static SSL_SESSION *
entry_session(const struct mg_cache_entry *entry)
{
    const unsigned char *data = entry->data;
    ERR_set_mark();
    SSL_SESSION *session = d2i_SSL_SESSION(NULL, &data, (long)entry->len);
    ERR_pop_to_mark();
    return session;
}

/* On the heap: eight KiB would be much for the stack of whoever calls us from inside libssl. */
static struct mg_cache_entry *
entry_new(void)
{
    return cache_get() ? mg_malloc(sizeof(struct mg_cache_entry)) : NULL;
}

static void
entry_free(struct mg_cache_entry *entry)
{
    mg_free_secret(entry, sizeof(*entry));
}

/* Whether that session is an entry of the owner's, still. */
static bool
is_entry(const SSL_SESSION *session, uint64_t owner)
{
    const struct note *note = note_get(session);
    struct mg_cache_entry *entry = note && note->owner == owner ? entry_new() : NULL;
    unsigned id_len;
    const unsigned char *id = SSL_SESSION_get_id(session, &id_len);
    bool found =
        entry && mg_cache_get(cache_get(), owner, id, id_len, entry) && entry->order == note->order;
    entry_free(entry);
    return found;
}

struct leaving {
    SSL_CTX *ctx; /* NULL: not known, and nobody is told */
    bool crowded_out;
};

/* An entry of the context has left its cache. */
static void
on_gone(void *data, const struct mg_cache_entry *entry)
{
    const struct leaving *leaving = data;
    if (!leaving->ctx)
        return; /* its own place was taken by another meanwhile, in a set that is full */
    struct mg_ssl_context_extra *extra = mg_ssl_context_extra(leaving->ctx);
    if (leaving->crowded_out)
        extra->cache.full++;
    if (!extra->callbacks.session_remove_cb)
        return;
    SSL_SESSION *session = entry_session(entry);
    if (session)
        mg_callback_session_remove(leaving->ctx, session);
    SSL_SESSION_free(session);
}

static bool
session_put_as(uint64_t owner, size_t limit, SSL_SESSION *session, struct leaving *leaving)
{
    struct mg_cache_entry *entry = entry_new();
    ERR_set_mark();
    bool done = entry && entry_make(entry, owner, session) &&
                mg_cache_put(cache_get(), entry, limit, on_gone, leaving);
    ERR_pop_to_mark();
    if (done)
        note_set(session, owner, entry->order);
    entry_free(entry);
    return done;
}

static bool
session_put(SSL_CTX *ctx, SSL_SESSION *session)
{
    const struct mg_ssl_context_extra *extra = mg_ssl_context_extra(ctx);
    struct leaving leaving = {ctx, true};
    return session_put_as(extra->cache.owner, (size_t)extra->cache.size, session, &leaving);
}

void
mg_ssl_cache_refresh(SSL_SESSION *session)
{
    const struct note *note = note_get(session);
    struct leaving leaving = {NULL, false};
    if (note && is_entry(session, note->owner))
        session_put_as(note->owner, 0, session, &leaving);
}

/* ---- what libssl tells ----------------------------------------------------------------------- */

/* Whether libssl would have kept it. */
static bool
is_kept(const SSL *ssl, const struct mg_ssl_context_extra *extra)
{
    bool server = SSL_is_server(ssl);
    const struct mg_tls_conn *conn = mg_tls_conn_of(ssl);
    if (extra->cache.mode & SSL_SESS_CACHE_NO_INTERNAL_STORE)
        return false;
    /* What is only tried out in memory is no client's that could come back to any worker. */
    if (server && shared_cache && !(conn && conn->scope))
        return false;
    return !server || SSL_version(ssl) != TLS1_3_VERSION || extra->callbacks.session_remove_cb ||
           (SSL_get_options(ssl) & SSL_OP_NO_TICKET);
}

static void
clear_sometimes(const SSL *ssl, SSL_CTX *ctx)
{
    struct mg_ssl_context_extra *extra = mg_ssl_context_extra(ctx);
    struct leaving leaving = {ctx, false};
    long good = SSL_is_server(ssl) ? SSL_CTX_sess_accept_good(ctx) : SSL_CTX_sess_connect_good(ctx);
    if ((extra->cache.mode & SSL_SESS_CACHE_NO_AUTO_CLEAR) ||
        labs(good - extra->cache.cleared_at) < CLEAR_EVERY)
        return;
    extra->cache.cleared_at = good;
    if (cache_get() && mg_cache_count(cache_get(), extra->cache.owner) > 0)
        mg_cache_sweep(cache_get(), extra->cache.owner, (int64_t)time(NULL), on_gone, &leaving);
}

void
mg_ssl_cache_store(SSL *ssl, SSL_SESSION *session)
{
    SSL_CTX *ctx = SSL_get_SSL_CTX(ssl);
    if (is_kept(ssl, mg_ssl_context_extra(ctx)))
        session_put(ctx, session);
    clear_sometimes(ssl, ctx);
}

SSL_SESSION *
mg_ssl_cache_find(SSL *ssl, const unsigned char *id, size_t id_len)
{
    struct mg_ssl_context_extra *extra = mg_ssl_context_extra(SSL_get_SSL_CTX(ssl));
    SSL_SESSION *session = NULL;
    if (extra->cache.mode & SSL_SESS_CACHE_NO_INTERNAL_LOOKUP)
        return NULL;
    struct mg_cache_entry *entry = entry_new();
    if (entry && mg_cache_get(cache_get(), extra->cache.owner, id, id_len, entry))
        session = entry_session(entry);
    if (session && SSL_SESSION_get_protocol_version(session) != SSL_version(ssl)) {
        SSL_SESSION_free(session);
        session = NULL;
    }
    if (session)
        note_set(session, entry->owner, entry->order);
    if (!session)
        extra->cache.misses++;
    entry_free(entry);
    return session;
}

void
mg_ssl_cache_given(SSL *ssl, SSL_SESSION *session)
{
    SSL_CTX *ctx = SSL_get_SSL_CTX(ssl);
    struct mg_ssl_context_extra *extra = mg_ssl_context_extra(ctx);
    extra->cache.cb_hits++;
    if (!(extra->cache.mode & SSL_SESS_CACHE_NO_INTERNAL_STORE))
        session_put(ctx, session);
}

bool
mg_ssl_cache_forget(const SSL_CTX *ctx, const SSL_SESSION *session)
{
    unsigned id_len;
    const unsigned char *id = SSL_SESSION_get_id(session, &id_len);
    struct mg_cache *cache = cache_get();
    return cache && mg_cache_remove(cache, mg_ssl_context_extra(ctx)->cache.owner, id, id_len);
}

/* ---- life of a context's cache --------------------------------------------------------------- */

/* libssl calls back for the sides that are on, and keeps nothing itself. */
static void
mode_apply(SSL_CTX *ctx)
{
    const struct mg_ssl_cache *cache = &mg_ssl_context_extra(ctx)->cache;
    SSL_CTX_set_session_cache_mode(
        ctx, (cache->mode & SSL_SESS_CACHE_BOTH) | (cache->originates ? SSL_SESS_CACHE_CLIENT : 0) |
                 SSL_SESS_CACHE_NO_INTERNAL | SSL_SESS_CACHE_NO_AUTO_CLEAR);
}

void
mg_ssl_cache_init(SSL_CTX *ctx)
{
    static _Atomic uint32_t number; /* with the process's it is nobody else's */
    struct mg_ssl_cache *cache = &mg_ssl_context_extra(ctx)->cache;
    cache->mode = MODE_DEFAULT;
    cache->size = SSL_SESSION_CACHE_MAX_SIZE_DEFAULT;
    cache->own = true;
    cache->owner = (uint64_t)getpid() << 32 | ++number;
    mode_apply(ctx);
}

void
mg_ssl_cache_fini(const struct mg_ssl_cache *cache)
{
    struct mg_cache *memory =
        cache->own && cache->owner != 0 ? (shared_cache ? shared_cache : private_cache) : NULL;
    if (memory && mg_cache_count(memory, cache->owner) > 0)
        mg_cache_sweep(memory, cache->owner, 0, NULL, NULL);
}

void
mg_ssl_cache_originate(SSL_CTX *ctx)
{
    mg_ssl_context_extra(ctx)->cache.originates = true;
    mode_apply(ctx);
}

/* An entry of the context that was put in before its policy was known. */
static void
on_moving(void *data, const struct mg_cache_entry *entry)
{
    struct mg_cache_entry *moved = entry_new();
    struct leaving leaving = {NULL, false};
    if (!moved)
        return;
    *moved = *entry;
    moved->owner = *(const uint64_t *)data;
    mg_cache_put(shared_cache, moved, 0, on_gone, &leaving);
    entry_free(moved);
}

void
mg_ssl_cache_bind(SSL_CTX *ctx, const unsigned char id[32])
{
    struct mg_ssl_cache *cache = &mg_ssl_context_extra(ctx)->cache;
    uint64_t owner;
    if (!shared_cache)
        return;
    memcpy(&owner, id, sizeof(owner));
    owner += owner == 0;
    if (mg_cache_count(shared_cache, cache->owner) > 0 && cache->own)
        mg_cache_sweep(shared_cache, cache->owner, 0, on_moving, &owner);
    cache->owner = owner;
    cache->own = false;
}

/* ---- attributes ------------------------------------------------------------------------------ */

static struct mg_ssl_cache *
attr_cache(void *self)
{
    return &mg_ssl_context_extra(((struct mg_ssl_context *)self)->ctx)->cache;
}

int
mg_ssl_cache_get_mode(lua_State *L, void *self)
{
    lua_pushinteger(L, attr_cache(self)->mode);
    return 1;
}

void
mg_ssl_cache_set_mode(lua_State *L, void *self, int value)
{
    attr_cache(self)->mode = (uint32_t)mg_attr_integer(L, value, CLS, "session_cache_mode");
    mode_apply(((struct mg_ssl_context *)self)->ctx);
}

int
mg_ssl_cache_get_size(lua_State *L, void *self)
{
    lua_pushinteger(L, attr_cache(self)->size);
    return 1;
}

/* 0 is without limit; a negative number changes nothing, as in Ruby. */
void
mg_ssl_cache_set_size(lua_State *L, void *self, int value)
{
    lua_Integer size = mg_attr_integer(L, value, CLS, "session_cache_size");
    if (size > LONG_MAX)
        mg_lua_error(L, "RangeError", CLS ".session_cache_size: %lld is out of range",
                     (long long)size);
    if (size >= 0)
        attr_cache(self)->size = (long)size;
}

/* The reference's order, after cache_num. */
static const char *const event_names[MG_CACHE_EVENTS] = {
    "connect",    "connect_good", "connect_renegotiate",
    "accept",     "accept_good",  "accept_renegotiate",
    "cache_hits", "cb_hits",      "cache_misses",
    "cache_full", "timeouts",
};

static void
events_of_ours(SSL_CTX *ctx, int64_t out[MG_CACHE_EVENTS])
{
    const struct mg_ssl_cache *own = &mg_ssl_context_extra(ctx)->cache;
    const int64_t events[MG_CACHE_EVENTS] = {
        SSL_CTX_sess_connect(ctx),
        SSL_CTX_sess_connect_good(ctx),
        SSL_CTX_sess_connect_renegotiate(ctx),
        SSL_CTX_sess_accept(ctx),
        SSL_CTX_sess_accept_good(ctx),
        SSL_CTX_sess_accept_renegotiate(ctx),
        SSL_CTX_sess_hits(ctx),
        own->cb_hits,
        own->misses,
        own->full,
        SSL_CTX_sess_timeouts(ctx),
    };
    memcpy(out, events, sizeof(events));
}

void
mg_ssl_cache_publish(SSL_CTX *ctx)
{
    struct mg_ssl_cache *own = &mg_ssl_context_extra(ctx)->cache;
    int64_t now[MG_CACHE_EVENTS], by[MG_CACHE_EVENTS];
    if (!shared_cache || own->own)
        return;
    events_of_ours(ctx, now);
    for (int i = 0; i < MG_CACHE_EVENTS; i++)
        by[i] = now[i] - atomic_exchange(&own->published[i], now[i]);
    mg_cache_events_add(shared_cache, own->owner, by);
}

int
mg_ssl_cache_get_stats(lua_State *L, void *self)
{
    SSL_CTX *ctx = ((struct mg_ssl_context *)self)->ctx;
    const struct mg_ssl_cache *own = attr_cache(self);
    const struct mg_cache *cache = cache_get();
    int64_t events[MG_CACHE_EVENTS];
    if (shared_cache && !own->own) {
        mg_ssl_cache_publish(ctx);
        mg_cache_events_get(shared_cache, own->owner, events);
    } else {
        events_of_ours(ctx, events);
    }
    lua_createtable(L, 0, MG_CACHE_EVENTS + 1);
    lua_pushinteger(L, cache ? (lua_Integer)mg_cache_count(cache, own->owner) : 0);
    lua_setfield(L, -2, "cache_num");
    for (int i = 0; i < MG_CACHE_EVENTS; i++) {
        lua_pushinteger(L, events[i]);
        lua_setfield(L, -2, event_names[i]);
    }
    return 1;
}

/* ---- methods -------------------------------------------------------------------------------- */

/* In Ruby session_remove_cb runs under a lock that these would take; it stays out of reach here. */
static SSL_CTX *
check_cache(lua_State *L)
{
    const struct mg_ssl_context *self = mg_class_check(L, 1, &mg_ssl_context_class);
    if (mg_ssl_context_extra(self->ctx)->cache_locked)
        mg_lua_error(L, "RuntimeError", "%s: not possible inside session_remove_cb",
                     mg_function_name(L));
    return self->ctx;
}

/* session_add(session) -> false for a session that is in the cache already, one that has ended with the
 * peer's certificate, and one that is too long to be kept */
int
mg_ssl_context_session_add(lua_State *L)
{
    SSL_CTX *ctx = check_cache(L);
    mg_check_count(L, 1, 1);
    SSL_SESSION *session = mg_ssl_session_check(L, 2);
    lua_pushboolean(L, !is_entry(session, mg_ssl_context_extra(ctx)->cache.owner) &&
                           mg_ssl_session_limit(session) && session_put(ctx, session));
    return 1;
}

/* session_remove(session) -> whether one with that id was there */
int
mg_ssl_context_session_remove(lua_State *L)
{
    SSL_CTX *ctx = check_cache(L);
    mg_check_count(L, 1, 1);
    SSL_SESSION *session = mg_ssl_session_check(L, 2);
    lua_pushboolean(L, mg_ssl_cache_forget(ctx, session));
    SSL_CTX_remove_session(ctx, session); /* calls session_remove_cb, if set up */
    return 1;
}

/* Seconds; a fraction counts for nothing. */
static int64_t
check_time(lua_State *L, int arg)
{
    lua_Integer seconds;
    if (lua_isinteger(L, arg))
        return lua_tointeger(L, arg);
    if (lua_type(L, arg) != LUA_TNUMBER || !lua_numbertointeger(lua_tonumber(L, arg), &seconds))
        mg_lua_error(L, "ArgumentError", "%s: arg must be Time or nil, got %s", mg_function_name(L),
                     mg_type_name(L, arg));
    return seconds;
}

/* flush_sessions([time]) -> self; those that have expired by then, by now if left out, all if 0 */
int
mg_ssl_context_flush_sessions(lua_State *L)
{
    SSL_CTX *ctx = check_cache(L);
    struct leaving leaving = {ctx, false};
    mg_check_count(L, 0, 1);
    lua_settop(L, 2);
    int64_t at = lua_isnil(L, 2) ? (int64_t)time(NULL) : check_time(L, 2);
    if (cache_get())
        mg_cache_sweep(cache_get(), mg_ssl_context_extra(ctx)->cache.owner, at, on_gone, &leaving);
    lua_settop(L, 1);
    return 1;
}

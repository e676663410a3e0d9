/*
 * ssl_cache: the session cache of a context as Ruby has it – mode, size, statistics, adding, removing
 * and flushing. It is libssl's own, so it knows the sessions of this process only. All of it works on
 * a frozen context, too.
 */
#include "openssl/internal.h"

#include <openssl/lhash.h>

#include <limits.h>
#include <time.h>

#define CLS "SSLContext"

static SSL_CTX *
attr_ctx(void *self)
{
    return ((struct mg_ssl_context *)self)->ctx;
}

int
mg_ssl_cache_get_mode(lua_State *L, void *self)
{
    lua_pushinteger(L, SSL_CTX_get_session_cache_mode(attr_ctx(self)));
    return 1;
}

void
mg_ssl_cache_set_mode(lua_State *L, void *self, int value)
{
    unsigned mode = (unsigned)mg_attr_integer(L, value, CLS, "session_cache_mode");
    SSL_CTX_set_session_cache_mode(attr_ctx(self), mode);
}

int
mg_ssl_cache_get_size(lua_State *L, void *self)
{
    lua_pushinteger(L, SSL_CTX_sess_get_cache_size(attr_ctx(self)));
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
        SSL_CTX_sess_set_cache_size(attr_ctx(self), (long)size);
}

int
mg_ssl_cache_get_stats(lua_State *L, void *self)
{
    SSL_CTX *ctx = attr_ctx(self);
    const struct {
        const char *name;
        long count;
    } stats[] = {
        {"cache_num", SSL_CTX_sess_number(ctx)},
        {"connect", SSL_CTX_sess_connect(ctx)},
        {"connect_good", SSL_CTX_sess_connect_good(ctx)},
        {"connect_renegotiate", SSL_CTX_sess_connect_renegotiate(ctx)},
        {"accept", SSL_CTX_sess_accept(ctx)},
        {"accept_good", SSL_CTX_sess_accept_good(ctx)},
        {"accept_renegotiate", SSL_CTX_sess_accept_renegotiate(ctx)},
        {"cache_hits", SSL_CTX_sess_hits(ctx)},
        {"cb_hits", SSL_CTX_sess_cb_hits(ctx)},
        {"cache_misses", SSL_CTX_sess_misses(ctx)},
        {"cache_full", SSL_CTX_sess_cache_full(ctx)},
        {"timeouts", SSL_CTX_sess_timeouts(ctx)},
    };
    lua_createtable(L, 0, (int)MG_ARRAY_LEN(stats));
    for (size_t i = 0; i < MG_ARRAY_LEN(stats); i++) {
        lua_pushinteger(L, stats[i].count);
        lua_setfield(L, -2, stats[i].name);
    }
    return 1;
}

/* ---- methods -------------------------------------------------------------------------------- */

/* session_remove_cb runs while libssl holds the lock that these would take. */
static SSL_CTX *
check_cache(lua_State *L)
{
    const struct mg_ssl_context *self = mg_class_check(L, 1, &mg_ssl_context_class);
    if (mg_ssl_context_extra(self->ctx)->cache_locked)
        mg_lua_error(L, "RuntimeError", "%s: not possible inside session_remove_cb",
                     mg_function_name(L));
    return self->ctx;
}

/* session_add(session) -> false only for a session that is in the cache already, or has ended with the
 * peer's certificate */
int
mg_ssl_context_session_add(lua_State *L)
{
    SSL_CTX *ctx = check_cache(L);
    mg_check_count(L, 1, 1);
    struct mg_ssl_session *self = mg_class_check(L, 2, &mg_ssl_session_class);
    /* libssl links a session into one cache; one that may be in another's is added as a copy. */
    if (OPENSSL_LH_retrieve((OPENSSL_LHASH *)SSL_CTX_sessions(ctx), self->session) ==
        self->session) {
        lua_pushboolean(L, false);
        return 1;
    }
    ERR_clear_error();
    SSL_SESSION *copy = SSL_SESSION_dup(self->session);
    if (!copy)
        mg_lua_openssl_error(L, "SessionError", "%s: SSL_SESSION_dup", mg_function_name(L));
    SSL_SESSION_free(self->session);
    self->session = copy;
    lua_pushboolean(L, mg_ssl_session_limit(copy) && SSL_CTX_add_session(ctx, copy) == 1);
    return 1;
}

/* session_remove(session) -> whether one with that id was there */
int
mg_ssl_context_session_remove(lua_State *L)
{
    SSL_CTX *ctx = check_cache(L);
    mg_check_count(L, 1, 1);
    lua_pushboolean(L, SSL_CTX_remove_session(ctx, mg_ssl_session_check(L, 2)) == 1);
    return 1;
}

/* flush_sessions([time]) -> self; those that have expired by then, by now if left out, all if 0 */
int
mg_ssl_context_flush_sessions(lua_State *L)
{
    SSL_CTX *ctx = check_cache(L);
    mg_check_count(L, 0, 1);
    lua_settop(L, 2);
    if (!lua_isnil(L, 2) && !lua_isinteger(L, 2))
        mg_lua_error(L, "ArgumentError", "%s: arg must be Time or nil, got %s", mg_function_name(L),
                     mg_type_name(L, 2));
    time_t at = lua_isnil(L, 2) ? time(NULL) : (time_t)lua_tointeger(L, 2);
#ifdef MG_HAVE_SSL_SESSION_TIME_EX
    SSL_CTX_flush_sessions_ex(ctx, at);
#else
    SSL_CTX_flush_sessions(ctx, (long)at);
#endif
    lua_settop(L, 1);
    return 1;
}

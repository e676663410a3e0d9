/*
 * ssl_notify: the callbacks that are told and whose result is ignored – session_new_cb,
 * session_remove_cb, keylog_cb and renegotiation_cb. One that raises ends its connection with the
 * call in which it ran; session_remove_cb has none, so what it raises is logged and lost.
 */
#include "openssl/internal.h"

struct notice {
    const SSL *ssl;
    SSL_CTX *ctx;         /* session_remove_cb */
    SSL_SESSION *session; /* session_new_cb, session_remove_cb */
    const char *line;     /* keylog_cb */
};

/* ---- sessions -------------------------------------------------------------------------------- */

static int
session_new_body(lua_State *L)
{
    const struct notice *notice = mg_lua_pointer(L, 1);
    mg_callback_push(L, notice->ssl, "session_new_cb");
    mg_callback_push_conn(L, notice->ssl);
    mg_lua_push_ssl_session(L, notice->session);
    lua_call(L, 2, 0);
    return 0;
}

/* Runs without session_new_cb, too: libssl itself keeps nothing. 0: nor do we keep its reference. */
static int
on_session_new(SSL *ssl, SSL_SESSION *session)
{
    struct notice notice = {.ssl = ssl, .session = session};
    const struct mg_ssl_context_extra *extra = mg_ssl_context_extra(SSL_get_SSL_CTX(ssl));
    struct mg_tls_conn *conn = mg_tls_conn_of(ssl);
    bool lasts = mg_ssl_session_limit(session);
    if (lasts && conn && conn->on_session)
        conn->on_session(conn, session);
    if (!(extra->cache.mode & (SSL_is_server(ssl) ? SSL_SESS_CACHE_SERVER : SSL_SESS_CACHE_CLIENT)))
        return 0; /* only the line above wanted to know */
    if (lasts)
        mg_ssl_cache_store(ssl, session);
    if (extra->callbacks.session_new_cb)
        mg_callback_call(ssl, "session_new_cb", session_new_body, &notice);
    return 0;
}

static int
session_remove_body(lua_State *L)
{
    const struct notice *notice = mg_lua_pointer(L, 1);
    if (!mg_ssl_context_push(L, notice->ctx))
        return 0; /* the context is being collected */
    mg_ssl_context_value(L, -1, "session_remove_cb");
    lua_insert(L, -2);
    mg_lua_push_ssl_session(L, notice->session);
    lua_call(L, 2, 0);
    return 0;
}

/* In Ruby it runs under the cache's lock; what would not be possible then, is not possible here. */
void
mg_callback_session_remove(SSL_CTX *ctx, SSL_SESSION *session)
{
    struct notice notice = {.ctx = ctx, .session = session};
    struct mg_ssl_context_extra *extra = mg_ssl_context_extra(ctx);
    bool nested = extra->cache_locked;
    extra->cache_locked = true;
    mg_callback_call_context(ctx, "session_remove_cb", session_remove_body, &notice);
    extra->cache_locked = nested;
}

/* The session has failed or expired, or a client that has used a ticket will not use it again. */
static void
on_session_remove(SSL_CTX *ctx, SSL_SESSION *session)
{
    const struct mg_ssl_context_extra *extra = mg_ssl_context_extra(ctx);
    mg_ssl_cache_forget(ctx, session);
    if (!(extra->cache.mode & SSL_SESS_CACHE_CLIENT) && extra->cache.originates &&
        SSL_SESSION_has_ticket(session))
        return; /* a backend's, of which the script was never told */
    if (extra->callbacks.session_remove_cb)
        mg_callback_session_remove(ctx, session);
}

/* ---- key log and handshakes ------------------------------------------------------------------ */

static int
keylog_body(lua_State *L)
{
    const struct notice *notice = mg_lua_pointer(L, 1);
    mg_callback_push(L, notice->ssl, "keylog_cb");
    mg_callback_push_conn(L, notice->ssl);
    lua_pushstring(L, notice->line);
    lua_call(L, 2, 0);
    return 0;
}

static void
on_keylog(const SSL *ssl, const char *line)
{
    struct notice notice = {.ssl = ssl, .line = line};
    mg_callback_call(ssl, "keylog_cb", keylog_body, &notice);
}

static int
renegotiation_body(lua_State *L)
{
    const struct notice *notice = mg_lua_pointer(L, 1);
    mg_callback_push(L, notice->ssl, "renegotiation_cb");
    mg_callback_push_conn(L, notice->ssl);
    lua_call(L, 1, 0);
    return 0;
}

/* A server's handshake starts: the first one, and any later one. */
void
mg_callback_renegotiation(const SSL *ssl)
{
    struct notice notice = {.ssl = ssl};
    if (mg_ssl_context_extra(SSL_get_SSL_CTX(ssl))->callbacks.renegotiation_cb)
        mg_callback_call(ssl, "renegotiation_cb", renegotiation_body, &notice);
}

void
mg_callbacks_install_notifying(SSL_CTX *ctx, const struct mg_callbacks *set)
{
    SSL_CTX_sess_set_new_cb(ctx, on_session_new);
    SSL_CTX_sess_set_remove_cb(ctx, on_session_remove);
    if (set->keylog_cb)
        SSL_CTX_set_keylog_callback(ctx, on_keylog);
}

/*
 * ssl_session: the class SSL.Session, and what binds a session to a policy and a name.
 *
 * Every session carries the session_id_context of its connection: the context's policy digest, mixed
 * with the listener's name and the SNI. Neither end resumes a session whose context is another, so
 * that nothing that was agreed under one policy, at one listener or under one name counts under
 * another. A server learns the SNI in libssl's client-hello callback, which runs before the session
 * is looked up.
 */
#include "openssl/internal.h"

#include <openssl/pem.h>

#include <limits.h>
#include <string.h>
#include <time.h>

#define CLS "Session"

/* ---- binding --------------------------------------------------------------------------------- */

#define NAME_MAX_LEN 512 /* of what stands for the name; a DNS name has at most 255 bytes */

/* The session_id_context of a connection of ctx in that scope (or NULL) with that name, whatever its
 * case. */
static int
context_id(const SSL_CTX *ctx, const char *scope, const void *name, size_t len,
           unsigned char id[32])
{
    const struct mg_ssl_context_extra *extra = mg_ssl_context_extra(ctx);
    unsigned char text[sizeof(extra->session_id_context) + 32 + NAME_MAX_LEN];
    size_t used = sizeof(extra->session_id_context);
    if (!extra || len > NAME_MAX_LEN)
        return -1;
    memcpy(text, extra->session_id_context, used);
    /* As a digest it cannot run into the name. */
    if (EVP_Digest(scope ? scope : "", scope ? strlen(scope) : 0, text + used, NULL,
                   mg_tls_sha256(), NULL) != 1)
        return -1;
    used += 32;
    for (size_t i = 0; i < len; i++)
        text[used++] = (unsigned char)mg_ascii_lower(((const char *)name)[i]);
    return EVP_Digest(text, used, id, NULL, mg_tls_sha256(), NULL) == 1 ? 0 : -1;
}

/* The extension as it came is as good as the name in it. One that is too long for a name is left to
 * libssl's parser, which refuses it. */
static int
on_client_hello(SSL *ssl, int *alert, void *arg MG_UNUSED)
{
    const struct mg_tls_conn *conn = mg_tls_conn_of(ssl);
    const unsigned char *name = NULL;
    unsigned char id[32];
    size_t len = 0;
    if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &name, &len) == 1 &&
        len > NAME_MAX_LEN)
        return SSL_CLIENT_HELLO_SUCCESS;
    if (context_id(SSL_get_SSL_CTX(ssl), conn ? conn->scope : NULL, name, len, id) == 0 &&
        SSL_set_session_id_context(ssl, id, sizeof(id)) == 1)
        return SSL_CLIENT_HELLO_SUCCESS;
    *alert = SSL_AD_INTERNAL_ERROR;
    return SSL_CLIENT_HELLO_ERROR;
}

bool
mg_ssl_session_is_current(SSL_SESSION *session)
{
    const X509 *peer = SSL_SESSION_get0_peer(session);
    return !peer || X509_cmp_time(X509_get0_notAfter(peer), NULL) > 0;
}

bool
mg_ssl_session_limit(SSL_SESSION *session)
{
    const X509 *peer = SSL_SESSION_get0_peer(session);
    int days, seconds;
    if (!peer)
        return true;
    if (ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(peer)) != 1)
        return false;
    lua_Integer left = (lua_Integer)days * 86400 + seconds;
    lua_Integer made = mg_tls_session_time(session);
    if (left <= 0 || made < 0) /* before 1970 only by assignment, or by a forged encoding */
        return false;
    lua_Integer age = (lua_Integer)time(NULL) - made;
    if (age + left < SSL_SESSION_get_timeout(session))
        SSL_SESSION_set_timeout(session, (long)(age + left));
    return true;
}

static SSL_TICKET_RETURN
on_ticket_opened(SSL *ssl MG_UNUSED, SSL_SESSION *session, const unsigned char *name MG_UNUSED,
                 size_t name_len MG_UNUSED, SSL_TICKET_STATUS status, void *arg MG_UNUSED)
{
    switch (status) {
    case SSL_TICKET_SUCCESS:
        return mg_ssl_session_is_current(session) ? SSL_TICKET_RETURN_USE
                                                  : SSL_TICKET_RETURN_IGNORE_RENEW;
    case SSL_TICKET_SUCCESS_RENEW:
        return mg_ssl_session_is_current(session) ? SSL_TICKET_RETURN_USE_RENEW
                                                  : SSL_TICKET_RETURN_IGNORE_RENEW;
    case SSL_TICKET_FATAL_ERR_MALLOC:
    case SSL_TICKET_FATAL_ERR_OTHER:
        return SSL_TICKET_RETURN_ABORT;
    case SSL_TICKET_NONE:
        return SSL_TICKET_RETURN_IGNORE;
    default: /* empty, or not ours */
        return SSL_TICKET_RETURN_IGNORE_RENEW;
    }
}

int
mg_ssl_session_bind(SSL_CTX *ctx, const unsigned char id[32])
{
    memcpy(mg_ssl_context_extra(ctx)->session_id_context, id, 32);
    mg_ssl_cache_bind(ctx, id);
    SSL_CTX_set_client_hello_cb(ctx, on_client_hello, NULL);
    return SSL_CTX_set_session_ticket_cb(ctx, NULL, on_ticket_opened, NULL) == 1 &&
                   SSL_CTX_set_session_id_context(ctx, id, 32) == 1
               ? 0
               : -1;
}

int
mg_ssl_session_offer(SSL *ssl, const char *servername, SSL_SESSION *session)
{
    unsigned char id[32];
    unsigned len;
    if (!mg_ssl_context_extra(SSL_get_SSL_CTX(ssl))) /* not a script's: no policy to bind to */
        return 0;
    if (context_id(SSL_get_SSL_CTX(ssl), NULL, servername, servername ? strlen(servername) : 0,
                   id) < 0 ||
        SSL_set_session_id_context(ssl, id, sizeof(id)) != 1)
        return -1;
    if (!session)
        return 0;
    const unsigned char *made_under = SSL_SESSION_get0_id_context(session, &len);
    if (len != sizeof(id) || memcmp(made_under, id, len) != 0 ||
        !mg_ssl_session_is_current(session))
        return 0; /* a full handshake, as if there were none */
    return SSL_set_session(ssl, session) == 1 ? 0 : -1;
}

/* ---- life ----------------------------------------------------------------------------------- */

static SSL_SESSION *
self_session(lua_State *L)
{
    return ((struct mg_ssl_session *)mg_class_check(L, 1, &mg_ssl_session_class))->session;
}

static SSL_SESSION *
attr_session(void *self)
{
    return ((struct mg_ssl_session *)self)->session;
}

SSL_SESSION *
mg_ssl_session_check(lua_State *L, int arg)
{
    return ((struct mg_ssl_session *)mg_class_check(L, arg, &mg_ssl_session_class))->session;
}

SSL_SESSION *
mg_ssl_session_test(lua_State *L, int idx)
{
    const struct mg_ssl_session *self = mg_class_test(L, idx, &mg_ssl_session_class);
    return self ? self->session : NULL;
}

SSL_SESSION *
mg_attr_ssl_session(lua_State *L, int idx, const char *cls, const char *name)
{
    SSL_SESSION *session = mg_ssl_session_test(L, idx);
    if (!session)
        mg_attr_type_error(L, idx, cls, name, CLS);
    return session;
}

void
mg_lua_push_ssl_session(lua_State *L, SSL_SESSION *session)
{
    struct mg_ssl_session *self = mg_class_new(L, &mg_ssl_session_class, sizeof(*self));
    SSL_SESSION_up_ref(session);
    self->session = session;
}

static int
session_gc(lua_State *L)
{
    struct mg_ssl_session *self = lua_touserdata(L, 1);
    SSL_SESSION_free(self->session);
    self->session = NULL;
    return 0;
}

/* DER first, as Ruby does. */
static SSL_SESSION *
session_decode(lua_State *L, const char *data, size_t len)
{
    const unsigned char *der = (const unsigned char *)data;
    ERR_clear_error();
    SSL_SESSION *session = len <= LONG_MAX ? d2i_SSL_SESSION(NULL, &der, (long)len) : NULL;
    if (session)
        return session;
    BIO *bio = mg_box_push_bio(L, data, len);
    ERR_clear_error();
    return PEM_read_bio_SSL_SESSION(bio, NULL, mg_no_passphrase, NULL);
}

/* Session.new(pem_or_der), Session.new(connection) */
static int
session_new(lua_State *L)
{
    size_t len;
    mg_check_count(L, 1, 1);
    if (lua_isuserdata(L, 1)) {
        lua_getfield(L, 1, "session");
        if (lua_isnil(L, -1))
            mg_lua_error(L, "SessionError", "%s: no session available", mg_function_name(L));
        if (!mg_ssl_session_test(L, -1))
            mg_argument_type_error(L, 1, "a string or a connection");
        return 1;
    }
    if (lua_type(L, 1) != LUA_TSTRING)
        mg_argument_type_error(L, 1, "a string or a connection");
    const char *data = lua_tolstring(L, 1, &len);
    struct mg_ssl_session *self = mg_class_new(L, &mg_ssl_session_class, sizeof(*self));
    self->session = session_decode(L, data, len);
    if (!self->session)
        mg_lua_openssl_error(L, "ArgumentError", "%s: unknown type", mg_function_name(L));
    ERR_clear_error();
    lua_settop(L, 2);
    return 1;
}

/* ---- fields --------------------------------------------------------------------------------- */

static int
get_id(lua_State *L, void *self)
{
    unsigned len;
    const unsigned char *id = SSL_SESSION_get_id(attr_session(self), &len);
    lua_pushlstring(L, (const char *)id, len);
    return 1;
}

static int
get_time(lua_State *L, void *self)
{
    lua_Integer seconds = mg_tls_session_time(attr_session(self));
    if (seconds == 0)
        lua_pushnil(L);
    else
        lua_pushinteger(L, seconds);
    return 1;
}

static void
set_time(lua_State *L, void *self, int value)
{
    lua_Integer seconds = mg_attr_integer(L, value, CLS, "time");
#ifdef MG_HAVE_SSL_SESSION_TIME_EX
    SSL_SESSION_set_time_ex(attr_session(self), (time_t)seconds);
#else
    SSL_SESSION_set_time(attr_session(self), (long)seconds);
#endif
    mg_ssl_session_limit(attr_session(self));
    mg_ssl_cache_refresh(attr_session(self));
}

static int
get_timeout(lua_State *L, void *self)
{
    lua_pushinteger(L, SSL_SESSION_get_timeout(attr_session(self)));
    return 1;
}

static void
set_timeout(lua_State *L, void *self, int value)
{
    SSL_SESSION_set_timeout(attr_session(self), (long)mg_attr_integer(L, value, CLS, "timeout"));
    mg_ssl_session_limit(attr_session(self));
    mg_ssl_cache_refresh(attr_session(self));
}

/* ---- methods -------------------------------------------------------------------------------- */

static int
session_to_der(lua_State *L)
{
    const SSL_SESSION *session = self_session(L);
    mg_check_count(L, 0, 0);
    ERR_clear_error();
    int len = i2d_SSL_SESSION(session, NULL);
    unsigned char *der = lua_newuserdatauv(L, len > 0 ? (size_t)len : 1, 0), *end = der;
    if (len <= 0 || i2d_SSL_SESSION(session, &end) != len)
        mg_lua_openssl_error(L, "SessionError", "i2d_SSL_SESSION");
    lua_pushlstring(L, (const char *)der, (size_t)len);
    return 1;
}

static int
session_to_pem(lua_State *L)
{
    SSL_SESSION *session = self_session(L);
    mg_check_count(L, 0, 0);
    BIO *bio = mg_box_push_mem(L);
    ERR_clear_error();
    if (PEM_write_bio_SSL_SESSION(bio, session) != 1)
        mg_lua_openssl_error(L, "SessionError", "PEM_write_bio_SSL_SESSION");
    mg_push_mem(L, bio);
    return 1;
}

static int
session_to_text(lua_State *L)
{
    const SSL_SESSION *session = self_session(L);
    mg_check_count(L, 0, 0);
    BIO *bio = mg_box_push_mem(L);
    ERR_clear_error();
    if (SSL_SESSION_print(bio, session) != 1)
        mg_lua_openssl_error(L, "SessionError", "SSL_SESSION_print");
    mg_push_mem(L, bio);
    return 1;
}

static int
session_dup(lua_State *L)
{
    const SSL_SESSION *session = self_session(L);
    mg_check_count(L, 0, 0);
    struct mg_ssl_session *copy = mg_class_new(L, &mg_ssl_session_class, sizeof(*copy));
    ERR_clear_error();
    copy->session = SSL_SESSION_dup(session);
    if (!copy->session)
        mg_lua_openssl_error(L, "SessionError", "SSL_SESSION_dup");
    return 1;
}

/* As in Ruby: the same protocol version and the same id. */
static int
session_eq(lua_State *L)
{
    const SSL_SESSION *a = mg_ssl_session_test(L, 1), *b = mg_ssl_session_test(L, 2);
    bool equal = false;
    if (a && b) {
        unsigned a_len, b_len;
        const unsigned char *a_id = SSL_SESSION_get_id(a, &a_len);
        const unsigned char *b_id = SSL_SESSION_get_id(b, &b_len);
        equal = SSL_SESSION_get_protocol_version(a) == SSL_SESSION_get_protocol_version(b) &&
                a_len == b_len && memcmp(a_id, b_id, a_len) == 0;
    }
    lua_pushboolean(L, equal);
    return 1;
}

/* ---- the class ------------------------------------------------------------------------------ */

static const struct mg_attr session_attrs[] = {
    {"id", get_id, NULL},
    {"time", get_time, set_time},
    {"timeout", get_timeout, set_timeout},
    {NULL, NULL, NULL},
};

static const luaL_Reg session_methods[] = {
    {"to_der", session_to_der},
    {"to_pem", session_to_pem},
    {"to_text", session_to_text},
    {"dup", session_dup},
    {NULL, NULL},
};

const struct mg_class mg_ssl_session_class = {
    .name = CLS,
    .metatable = "moongate.SSL.Session",
    .attrs = session_attrs,
    .methods = session_methods,
    .gc = session_gc,
    .eq = session_eq,
};

void
mg_open_ssl_session(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"new", session_new},
        {NULL, NULL},
    };
    mg_class_register(L, &mg_ssl_session_class);
    mg_functions_push(L, CLS, functions);
}

/*
 * ssl_callback: the way from OpenSSL to Lua, and the callbacks that take it.
 *
 * The happy path is: OpenSSL calls a function below; mg_callback_call enters Lua protected and
 * under the callback budget; the body finds the context's userdata by its SSL_CTX, takes the
 * function from its user value and calls it; the answer goes back as OpenSSL's number. Possible
 * failure modes are: the function raises, answers nonsense or is stopped (the connection gets the
 * message and ends with the callback's alert), the Lua state is gone or the context was collected
 * (likewise).
 */
#include "openssl/internal.h"

#include <pthread.h>
#include <string.h>

/* ---- what an SSL_CTX carries ---------------------------------------------------------------- */

static int extra_index = -1;
static pthread_once_t extra_once = PTHREAD_ONCE_INIT;

static void
extra_free(void *parent MG_UNUSED, void *ptr, CRYPTO_EX_DATA *ad MG_UNUSED, int idx MG_UNUSED,
           long argl MG_UNUSED, void *argp MG_UNUSED)
{
    struct mg_ssl_context_extra *extra = ptr;
    if (!extra)
        return;
    mg_lua_link_unref(extra->link);
    mg_free(extra->alpn);
    mg_free(extra);
}

static void
extra_index_make(void)
{
    extra_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, extra_free);
}

struct mg_ssl_context_extra *
mg_ssl_context_extra(const SSL_CTX *ctx)
{
    return extra_index < 0 ? NULL : SSL_CTX_get_ex_data(ctx, extra_index);
}

int
mg_ssl_context_link(SSL_CTX *ctx, struct mg_lua_link *link)
{
    pthread_once(&extra_once, extra_index_make);
    struct mg_ssl_context_extra *extra = mg_calloc(1, sizeof(*extra));
    if (!extra || extra_index < 0 || !SSL_CTX_set_ex_data(ctx, extra_index, extra)) {
        mg_free(extra);
        return -1;
    }
    extra->link = link;
    if (link)
        link->refs++;
    return 0;
}

/* ---- into Lua ------------------------------------------------------------------------------- */

static void
connection_fail(const SSL *ssl, const char *what, const char *text)
{
    struct mg_tls_conn *conn = mg_tls_conn_of(ssl);
    struct mg_err err;
    if (!conn)
        return;
    mg_err_setx(&err, "%s: %s", what, text);
    mg_tls_conn_fail(conn, err.text);
}

int
mg_callback_call(SSL *ssl, const char *what, lua_CFunction body, void *args)
{
    const struct mg_ssl_context_extra *extra = mg_ssl_context_extra(SSL_get_SSL_CTX(ssl));
    const struct mg_lua_link *link = extra ? extra->link : NULL;
    lua_State *L = link ? link->L : NULL;
    if (!L || !lua_checkstack(L, LUA_MINSTACK)) {
        connection_fail(ssl, what, L ? "out of memory" : "the script is no longer there");
        return -1;
    }
    int top = lua_gettop(L);
    /* Nothing up to the call allocates, so nothing can raise outside of it. */
    lua_pushcfunction(L, body);
    lua_pushlightuserdata(L, args);
    ERR_set_mark();
    int rc = link->hooks->call(link->hooks->data, L, 1, 0, what, mg_tls_conn_of(ssl));
    if (rc != LUA_OK) {
        /* A text; to convert anything else might run Lua, which nothing here would stop. */
        const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
        connection_fail(ssl, what, text ? text : "the callback failed");
    }
    ERR_pop_to_mark();
    lua_settop(L, top);
    return rc == LUA_OK ? 0 : -1;
}

void
mg_callback_push(lua_State *L, SSL *ssl, const char *what)
{
    if (!mg_ssl_context_push(L, SSL_get_SSL_CTX(ssl)))
        mg_lua_error(L, "RuntimeError", "the context is no longer there");
    mg_ssl_context_value(L, -1, what);
    lua_remove(L, -2);
}

/* ---- ALPN ----------------------------------------------------------------------------------- */

enum alpn_answer { ALPN_REFUSED, ALPN_NONE, ALPN_CHOSEN };

struct alpn {
    SSL *ssl;
    const unsigned char *offered; /* the client's list in wire form */
    unsigned offered_len;
    enum alpn_answer answer;
    const unsigned char *chosen; /* inside `offered` */
    unsigned char chosen_len;
};

/* The entry equal to name, or NULL. libssl has checked that the list is well formed. */
static const unsigned char *
protocol_find(const unsigned char *list, unsigned len, const void *name, size_t name_len)
{
    for (unsigned at = 0; at < len; at += 1u + list[at])
        if (list[at] == name_len && memcmp(list + at + 1, name, name_len) == 0)
            return list + at + 1;
    return NULL;
}

static int
alpn_body(lua_State *L)
{
    struct alpn *alpn = mg_lua_pointer(L, 1);
    int count = 0;
    size_t len;
    mg_callback_push(L, alpn->ssl, "alpn_select_cb");
    lua_newtable(L);
    for (unsigned at = 0; at < alpn->offered_len; at += 1u + alpn->offered[at]) {
        lua_pushlstring(L, (const char *)alpn->offered + at + 1, alpn->offered[at]);
        lua_rawseti(L, -2, ++count);
    }
    lua_call(L, 1, 1);
    if (lua_isnil(L, -1))
        return 0;
    if (lua_isboolean(L, -1) && !lua_toboolean(L, -1)) {
        alpn->answer = ALPN_NONE;
        return 0;
    }
    if (lua_type(L, -1) != LUA_TSTRING)
        mg_lua_error(L, "TypeError", "expected a string, nil or false as result, got %s",
                     mg_type_name(L, -1));
    const char *name = lua_tolstring(L, -1, &len);
    if (len < 1 || len > 255)
        mg_lua_error(L, "SSLError", "Selected protocol name must have length 1..255");
    alpn->chosen = protocol_find(alpn->offered, alpn->offered_len, name, len);
    if (!alpn->chosen)
        mg_lua_error(L, "SSLError", "the client did not offer \"%.80s\"", name);
    alpn->chosen_len = (unsigned char)len;
    alpn->answer = ALPN_CHOSEN;
    return 0;
}

/* Ruby's alpn_select_cb. nil and a failure end the handshake with no_application_protocol. */
static int
on_alpn_ask(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in,
            unsigned in_len, void *arg MG_UNUSED)
{
    struct alpn alpn = {.ssl = ssl, .offered = in, .offered_len = in_len};
    if (mg_callback_call(ssl, "alpn_select_cb", alpn_body, &alpn) < 0)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    switch (alpn.answer) {
    case ALPN_CHOSEN:
        *out = alpn.chosen;
        *out_len = alpn.chosen_len;
        return SSL_TLSEXT_ERR_OK;
    case ALPN_NONE:
        return SSL_TLSEXT_ERR_NOACK;
    default:
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
}

/* alpn_protocols on a server: the first of ours that the client offers. */
static int
on_alpn_choose(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in,
               unsigned in_len, void *arg MG_UNUSED)
{
    const struct mg_ssl_context_extra *extra = mg_ssl_context_extra(SSL_get_SSL_CTX(ssl));
    for (size_t at = 0; at < extra->alpn_len; at += 1u + extra->alpn[at]) {
        const unsigned char *name = extra->alpn + at + 1;
        if (protocol_find(in, in_len, name, extra->alpn[at])) {
            *out = name;
            *out_len = extra->alpn[at];
            return SSL_TLSEXT_ERR_OK;
        }
    }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* ---- verification --------------------------------------------------------------------------- */

struct verify {
    SSL *ssl;
    X509_STORE_CTX *ctx;
    bool preverify_ok;
    bool accepted;
};

static int
verify_body(lua_State *L)
{
    struct verify *verify = mg_lua_pointer(L, 1);
    mg_store_context_push(L, verify->ctx);
    lua_toclose(L, -1); /* dead when this function is left, whichever way */
    int store_context = lua_gettop(L);
    mg_callback_push(L, verify->ssl, "verify_callback");
    lua_pushboolean(L, verify->preverify_ok);
    lua_pushvalue(L, store_context);
    lua_call(L, 2, 1);
    verify->accepted = lua_isboolean(L, -1) && lua_toboolean(L, -1);
    return 0;
}

/* Only `true` accepts, and then it wipes the error, as in Ruby. */
static int
on_verify(int preverify_ok, X509_STORE_CTX *ctx)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(ctx, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct verify verify = {.ssl = ssl, .ctx = ctx, .preverify_ok = preverify_ok == 1};
    /* A policy that broke fails the connection also where the mode would let a rejection pass. */
    if (mg_callback_call(ssl, "verify_callback", verify_body, &verify) < 0)
        SSL_set_verify(ssl, SSL_get_verify_mode(ssl) | SSL_VERIFY_PEER, NULL);
    else if (verify.accepted) {
        X509_STORE_CTX_set_error(ctx, X509_V_OK);
        return 1;
    }
    if (X509_STORE_CTX_get_error(ctx) == X509_V_OK)
        X509_STORE_CTX_set_error(ctx, X509_V_ERR_CERT_REJECTED);
    return 0;
}

/* ---- installing ----------------------------------------------------------------------------- */

void
mg_callbacks_install(SSL_CTX *ctx, bool alpn_cb, bool verify_cb, int verify_mode)
{
    const struct mg_ssl_context_extra *extra = mg_ssl_context_extra(ctx);
    SSL_CTX_set_alpn_select_cb(ctx,
                               alpn_cb               ? on_alpn_ask
                               : extra->alpn_len > 0 ? on_alpn_choose
                                                     : NULL,
                               NULL);
    SSL_CTX_set_verify(ctx, verify_mode, verify_cb ? on_verify : NULL);
}

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
    mg_ssl_cache_fini(&extra->cache);
    mg_lua_link_unref(extra->link);
    mg_free(extra->alpn);
    mg_free(extra->npn);
    mg_staples_free(extra->staples);
    mg_crl_signed_free(extra->crl_check.list);
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
    if (link) {
        link->refs++;
        extra->call = link->hooks->call;
        extra->call_data = link->hooks->data;
    }
    mg_ssl_cache_init(ctx);
    return 0;
}

/* ---- into Lua ------------------------------------------------------------------------------- */

static void
connection_fail(struct mg_tls_conn *conn, const char *what, const char *text)
{
    struct mg_err err;
    if (!conn)
        return;
    mg_err_setx(&err, "%s: %s", what, text);
    mg_tls_conn_fail(conn, err.text);
}

/* Nobody is there to call: -1, without a word where there is no connection to end. */
static int
callback_run(lua_State *L, const SSL_CTX *ctx, struct mg_tls_conn *conn, const char *what,
             lua_CFunction body, void *args)
{
    const struct mg_ssl_context_extra *extra = mg_ssl_context_extra(ctx);
    if (!extra || !extra->link || !extra->link->L)
        L = NULL;
    if (!L || !lua_checkstack(L, LUA_MINSTACK)) {
        connection_fail(conn, what, L ? "out of memory" : "the script is no longer there");
        return -1;
    }
    int top = lua_gettop(L);
    /* Nothing up to the call allocates, so nothing can raise outside of it. */
    lua_pushcfunction(L, body);
    lua_pushlightuserdata(L, args);
    ERR_set_mark();
    int rc = extra->call(extra->call_data, L, 1, 0, what, conn);
    if (rc != LUA_OK) {
        /* A text; to convert anything else might run Lua, which nothing here would stop. */
        const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
        connection_fail(conn, what, text ? text : "the callback failed");
    }
    ERR_pop_to_mark();
    lua_settop(L, top);
    return rc == LUA_OK ? 0 : -1;
}

/* Where callbacks of ctx run; NULL: nowhere any more. */
static lua_State *
context_state(const SSL_CTX *ctx)
{
    const struct mg_ssl_context_extra *extra = mg_ssl_context_extra(ctx);
    return extra && extra->link ? extra->link->L : NULL;
}

int
mg_callback_call(const SSL *ssl, const char *what, lua_CFunction body, void *args)
{
    const SSL_CTX *ctx = SSL_get_SSL_CTX(ssl);
    return callback_run(context_state(ctx), ctx, mg_tls_conn_of(ssl), what, body, args);
}

int
mg_callback_call_context(const SSL_CTX *ctx, const char *what, lua_CFunction body, void *args)
{
    return callback_run(context_state(ctx), ctx, NULL, what, body, args);
}

void
mg_callback_push(lua_State *L, const SSL *ssl, const char *what)
{
    if (!mg_ssl_context_push(L, SSL_get_SSL_CTX(ssl)))
        mg_lua_error(L, "RuntimeError", "the context is no longer there");
    mg_ssl_context_value(L, -1, what);
    lua_remove(L, -2);
}

static void
conn_push(lua_State *L, struct mg_tls_conn *conn)
{
    const struct mg_openssl_hooks *hooks = mg_openssl_hooks(L);
    if (!conn)
        lua_pushnil(L);
    else if (!mg_memory_connection_push(L, conn))
        hooks->push_conn(hooks->data, L, conn);
}

void
mg_callback_push_conn(lua_State *L, const SSL *ssl)
{
    conn_push(L, mg_tls_conn_of(ssl));
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

static void
protocols_push(lua_State *L, const unsigned char *list, unsigned len)
{
    int count = 0;
    lua_newtable(L);
    for (unsigned at = 0; at < len; at += 1u + list[at]) {
        lua_pushlstring(L, (const char *)list + at + 1, list[at]);
        lua_rawseti(L, -2, ++count);
    }
}

static int
alpn_body(lua_State *L)
{
    struct alpn *alpn = mg_lua_pointer(L, 1);
    size_t len;
    mg_callback_push(L, alpn->ssl, "alpn_select_cb");
    protocols_push(L, alpn->offered, alpn->offered_len);
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

/* ---- NPN ------------------------------------------------------------------------------------- */

#ifdef MG_HAVE_NPN

/* Whether every entry of a list in wire form ends within it. */
static bool
wire_is_list(const unsigned char *list, unsigned len)
{
    unsigned at = 0;
    while (at < len)
        at += 1u + list[at];
    return at == len;
}

struct npn {
    SSL *ssl;
    const unsigned char *offered;
    unsigned offered_len;
    unsigned char chosen[255];
    unsigned char chosen_len;
};

static int
npn_body(lua_State *L)
{
    struct npn *npn = mg_lua_pointer(L, 1);
    size_t len;
    mg_callback_push(L, npn->ssl, "npn_select_cb");
    protocols_push(L, npn->offered, npn->offered_len);
    lua_call(L, 1, 1);
    if (lua_type(L, -1) != LUA_TSTRING)
        mg_lua_error(L, "TypeError", "expected a string as result, got %s", mg_type_name(L, -1));
    const char *name = lua_tolstring(L, -1, &len);
    if (len < 1 || len > sizeof(npn->chosen))
        mg_lua_error(L, "SSLError", "Selected protocol name must have length 1..255");
    memcpy(npn->chosen, name, len);
    npn->chosen_len = (unsigned char)len;
    return 0;
}

/* Client, TLS 1.2 at most: any name may be chosen, also one that the server did not offer. */
static int
on_npn_ask(SSL *ssl, unsigned char **out, unsigned char *out_len, const unsigned char *in,
           unsigned in_len, void *arg MG_UNUSED)
{
    static _Thread_local struct npn npn; /* libssl copies the answer when we have returned */
    npn = (struct npn){.ssl = ssl, .offered = in, .offered_len = in_len};
    if (!wire_is_list(in, in_len) || mg_callback_call(ssl, "npn_select_cb", npn_body, &npn) < 0)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = npn.chosen;
    *out_len = npn.chosen_len;
    return SSL_TLSEXT_ERR_OK;
}

static int
on_npn_advertise(SSL *ssl, const unsigned char **out, unsigned *out_len, void *arg MG_UNUSED)
{
    const struct mg_ssl_context_extra *extra = mg_ssl_context_extra(SSL_get_SSL_CTX(ssl));
    *out = extra->npn;
    *out_len = (unsigned)extra->npn_len;
    return SSL_TLSEXT_ERR_OK;
}

static void
npn_install(SSL_CTX *ctx, bool select_cb)
{
    if (mg_ssl_context_extra(ctx)->npn_len > 0)
        SSL_CTX_set_next_protos_advertised_cb(ctx, on_npn_advertise, NULL);
    if (select_cb)
        SSL_CTX_set_next_proto_select_cb(ctx, on_npn_ask, NULL);
}

#endif

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
    if (preverify_ok != 1 && mg_crl_excused(SSL_get_SSL_CTX(ssl), ctx)) {
        X509_STORE_CTX_set_error(ctx, X509_V_OK);
        return 1;
    }
    if (!mg_ssl_context_extra(SSL_get_SSL_CTX(ssl))->callbacks.verify_callback)
        return preverify_ok;
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

/* ---- servername ------------------------------------------------------------------------------ */

struct servername {
    SSL_CTX *ctx;
    struct mg_tls_conn *conn; /* or NULL */
    const char *name;
    SSL_CTX *chosen; /* one reference, or NULL */
};

static int
servername_body(lua_State *L)
{
    struct servername *ask = mg_lua_pointer(L, 1);
    if (!mg_ssl_context_push(L, ask->ctx))
        mg_lua_error(L, "RuntimeError", "the context is no longer there");
    mg_ssl_context_value(L, -1, "servername_cb");
    if (!lua_toboolean(L, -1)) {
        lua_pushnil(L);
    } else {
        conn_push(L, ask->conn);
        lua_pushstring(L, ask->name);
        lua_call(L, 2, 1);
    }
    SSL_CTX *chosen = mg_ssl_context_test(L, -1);
    if (chosen) {
        mg_ssl_context_freeze(L, -1, false);
        mg_memory_connection_keep(L, ask->conn, -1);
    } else if (!lua_isnil(L, -1)) {
        mg_lua_error(L, "ArgumentError", "servername_cb must return an SSLContext or nil, got %s",
                     mg_type_name(L, -1));
    } else {
        chosen = ask->ctx;
    }
    SSL_CTX_up_ref(chosen);
    ask->chosen = chosen;
    return 0;
}

int
mg_ssl_context_servername(lua_State *L, SSL_CTX *ctx, struct mg_tls_conn *conn, const char *name,
                          SSL_CTX **chosen, int *alert)
{
    struct servername ask = {.ctx = ctx, .conn = conn, .name = name};
    int rc = callback_run(L, ctx, conn, "servername_cb", servername_body, &ask);
    *chosen = ask.chosen;
    if (rc < 0)
        *alert = SSL_AD_UNRECOGNIZED_NAME;
    return rc;
}

/* ---- installing ----------------------------------------------------------------------------- */

static void
on_info(const SSL *ssl, int where, int ret MG_UNUSED)
{
    if (where & SSL_CB_HANDSHAKE_DONE)
        mg_ssl_cache_publish(SSL_get_SSL_CTX(ssl));
    if (!SSL_is_server(ssl))
        return;
    if (where & SSL_CB_HANDSHAKE_START)
        mg_callback_renegotiation(ssl);
    if (where & SSL_CB_LOOP)
        mg_callback_tmp_dh(ssl);
}

/* Whether a handshake enters Lua. servername_cb is asked before there is one. */
static bool
handshake_asks(const struct mg_callbacks *set)
{
    struct mg_callbacks none = {0};
    none.servername_cb = set->servername_cb;
    return memcmp(set, &none, sizeof(none)) != 0;
}

void
mg_callbacks_install(SSL_CTX *ctx, const struct mg_callbacks *set, int verify_mode)
{
    struct mg_ssl_context_extra *extra = mg_ssl_context_extra(ctx);
    extra->callbacks = *set;
    SSL_CTX_set_alpn_select_cb(ctx,
                               set->alpn_select_cb   ? on_alpn_ask
                               : extra->alpn_len > 0 ? on_alpn_choose
                                                     : NULL,
                               NULL);
#ifdef MG_HAVE_NPN
    npn_install(ctx, set->npn_select_cb);
#endif
    SSL_CTX_set_verify(ctx, verify_mode,
                       set->verify_callback || extra->crl_check.lenient ? on_verify : NULL);
    SSL_CTX_set_info_callback(ctx, on_info);
    mg_callbacks_install_deciding(ctx, set);
    mg_callbacks_install_notifying(ctx, set);
    mg_tls_threads_allow(ctx, !handshake_asks(set));
}

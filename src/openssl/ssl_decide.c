/*
 * ssl_decide: the callbacks whose answer a handshake waits for – client_cert_cb, tmp_dh_callback and
 * session_get_cb. They go to Lua as ssl_callback.c describes.
 */
#include "openssl/internal.h"

/* ---- client_cert_cb -------------------------------------------------------------------------- */

struct client_cert {
    SSL *ssl;
    X509 *x509; /* with key: one reference each, or both NULL */
    EVP_PKEY *key;
};

/* Two results; anything but a certificate and its key is "none", as in Ruby. */
static int
client_cert_body(lua_State *L)
{
    struct client_cert *client = mg_lua_pointer(L, 1);
    mg_callback_push(L, client->ssl, "client_cert_cb");
    mg_callback_push_conn(L, client->ssl);
    lua_call(L, 1, 2);
    X509 *x509 = mg_x509_share(L, -2);
    EVP_PKEY *key = mg_pkey_test(L, -1);
    if (!x509 || !key || !mg_pkey_has_private(key) || X509_check_private_key(x509, key) != 1)
        return 0;
    X509_up_ref(x509);
    EVP_PKEY_up_ref(key);
    client->x509 = x509;
    client->key = key;
    return 0;
}

/* libssl asks on both sides; on a client only when the server wants a certificate. */
static int
on_certificate(SSL *ssl, void *arg MG_UNUSED)
{
    struct client_cert client = {.ssl = ssl};
    if (SSL_is_server(ssl) || SSL_get_certificate(ssl))
        return 1;
    int rc = mg_callback_call(ssl, "client_cert_cb", client_cert_body, &client);
    if (rc == 0 && client.x509) {
        ERR_set_mark();
        SSL_use_cert_and_key(ssl, client.x509, client.key, NULL, 1); /* refused: none is sent */
        ERR_pop_to_mark();
    }
    X509_free(client.x509);
    EVP_PKEY_free(client.key);
    return rc == 0;
}

/* ---- tmp_dh_callback ------------------------------------------------------------------------- */

#define DH_BITS 1024 /* what OpenSSL has always passed here, whatever the certificate's size */

struct tmp_dh {
    const SSL *ssl;
    EVP_PKEY *key; /* one reference, or NULL */
};

static int
tmp_dh_body(lua_State *L)
{
    struct tmp_dh *tmp_dh = mg_lua_pointer(L, 1);
    mg_callback_push(L, tmp_dh->ssl, "tmp_dh_callback");
    mg_callback_push_conn(L, tmp_dh->ssl);
    lua_pushinteger(L, 0);
    lua_pushinteger(L, DH_BITS);
    lua_call(L, 3, 1);
    EVP_PKEY *key = mg_pkey_test(L, -1);
    if (!key)
        mg_lua_error(L, "TypeError", "expected a PKey as result, got %s", mg_type_name(L, -1));
    if (!EVP_PKEY_is_a(key, "DH"))
        mg_lua_error(L, "SSLError", "invalid pkey type %s (expected DH)", mg_pkey_oid(key));
    EVP_PKEY_up_ref(key);
    tmp_dh->key = key;
    return 0;
}

/*
 * libssl's own callback for this is gone with DH *. Until a DHE suite is chosen automatic parameters
 * stand in; then, right after ServerHello was written, they are replaced by the script's, or by none,
 * which ends the handshake.
 */
void
mg_callback_tmp_dh(const SSL *const_ssl)
{
    SSL *ssl = (SSL *)(uintptr_t)const_ssl;
    const SSL_CIPHER *cipher = SSL_get_pending_cipher(ssl);
    struct tmp_dh tmp_dh = {.ssl = ssl};
    if (!mg_ssl_context_extra(SSL_get_SSL_CTX(ssl))->callbacks.tmp_dh_callback ||
        SSL_get_state(ssl) != TLS_ST_SW_SRVR_HELLO || SSL_session_reused(ssl) || !cipher ||
        SSL_CIPHER_get_kx_nid(cipher) != NID_kx_dhe)
        return;
    SSL_set_dh_auto(ssl, 0);
    if (mg_callback_call(ssl, "tmp_dh_callback", tmp_dh_body, &tmp_dh) == 0 &&
        SSL_set0_tmp_dh_pkey(ssl, tmp_dh.key) == 1)
        return;
    EVP_PKEY_free(tmp_dh.key);
}

/* ---- session_get_cb -------------------------------------------------------------------------- */

struct session_get {
    SSL *ssl;
    const unsigned char *id;
    int id_len;
    SSL_SESSION *session; /* one reference, or NULL */
};

static int
session_get_body(lua_State *L)
{
    struct session_get *get = mg_lua_pointer(L, 1);
    mg_callback_push(L, get->ssl, "session_get_cb");
    mg_callback_push_conn(L, get->ssl);
    lua_pushlstring(L, (const char *)get->id, (size_t)get->id_len);
    lua_call(L, 2, 1);
    SSL_SESSION *session = mg_ssl_session_test(L, -1);
    /* A copy, because the handshake may change it and it may be an entry of another cache. */
    if (session && mg_ssl_session_limit(session))
        get->session = SSL_SESSION_dup(session);
    return 0;
}

/* The cache is asked first, then the script. Anything but a Session is a miss. That it was made under
 * this policy libssl checks. */
static SSL_SESSION *
on_session_get(SSL *ssl, const unsigned char *id, int id_len, int *copy)
{
    struct session_get get = {.ssl = ssl, .id = id, .id_len = id_len};
    *copy = 0; /* the reference is libssl's */
    get.session = mg_ssl_cache_find(ssl, id, (size_t)id_len);
    if (get.session || !mg_ssl_context_extra(SSL_get_SSL_CTX(ssl))->callbacks.session_get_cb)
        return get.session;
    mg_callback_call(ssl, "session_get_cb", session_get_body, &get);
    if (get.session)
        mg_ssl_cache_given(ssl, get.session);
    return get.session;
}

void
mg_callbacks_install_deciding(SSL_CTX *ctx, const struct mg_callbacks *set)
{
    if (set->client_cert_cb)
        SSL_CTX_set_cert_cb(ctx, on_certificate, NULL);
    SSL_CTX_sess_set_get_cb(ctx, on_session_get);
}

/*
 * ssl_certificate: how certificate and key get into a context – add_certificate, and
 * load_certificate for those who have certbot's two files.
 */
#include "openssl/internal.h"

#include <string.h>

static void
x509_stack_free(void *stack)
{
    sk_X509_pop_free((STACK_OF(X509) *)stack, X509_free);
}

STACK_OF(X509) * mg_x509_stack_push(lua_State *L, int idx, const char *what)
{
    idx = lua_absindex(L, idx);
    struct mg_box *box = mg_box_push(L, x509_stack_free);
    STACK_OF(X509) *stack = box->ptr = sk_X509_new_null();
    lua_Integer count = (lua_Integer)lua_rawlen(L, idx);
    for (lua_Integer i = 1; i <= count && stack; i++) {
        lua_rawgeti(L, idx, i);
        X509 *x509 = mg_x509_share(L, -1);
        if (!x509)
            mg_lua_error(L, "TypeError", "%s: entry %d: expected Certificate, got %s", what, (int)i,
                         mg_type_name(L, -1));
        X509_up_ref(x509);
        if (!sk_X509_push(stack, x509)) {
            X509_free(x509);
            stack = NULL;
        }
        lua_pop(L, 1);
    }
    if (!stack)
        mg_lua_openssl_error(L, "NoMemoryError", "%s: out of memory", what);
    return stack;
}

int
mg_ssl_context_each_certificate(SSL_CTX *ctx, int (*visit)(SSL_CTX *ctx, X509 *x509, void *data),
                                void *data)
{
    X509 *current = SSL_CTX_get0_certificate(ctx);
    int rc = 0;
    long more = SSL_CTX_set_current_cert(ctx, SSL_CERT_SET_FIRST);
    for (; more == 1 && rc == 0; more = SSL_CTX_set_current_cert(ctx, SSL_CERT_SET_NEXT)) {
        X509 *x509 = SSL_CTX_get0_certificate(ctx);
        if (x509)
            rc = visit(ctx, x509, data);
    }
    /* The current one is what a client with several certificates offers. */
    if (current)
        SSL_CTX_select_current_cert(ctx, current);
    return rc;
}

/* The certificate and the chain that a key's type has already. */
struct chain_search {
    const EVP_PKEY *key;
    X509 *x509;
    STACK_OF(X509) * chain;
};

/* Stops at the certificate of the key's type, with its chain. */
static int
chain_visit(SSL_CTX *ctx, X509 *x509, void *data)
{
    struct chain_search *search = data;
    const EVP_PKEY *own = X509_get0_pubkey(x509);
    if (!own || !EVP_PKEY_is_a(own, mg_pkey_type_name(search->key)))
        return 0;
    SSL_CTX_get0_chain_certs(ctx, &search->chain);
    search->x509 = x509;
    return 1;
}

int
mg_ssl_context_put_certificate(SSL_CTX *ctx, X509 *cert, EVP_PKEY *key, STACK_OF(X509) * chain)
{
    /* SSL_CTX_use_cert_and_key takes NULL for "no chain", and frees the slot's chain before it has
     * read what it was given, if that is the same: it gets a copy. It checks before it changes. */
    STACK_OF(X509) *kept = NULL;
    if (!chain) {
        struct chain_search own = {.key = key};
        mg_ssl_context_each_certificate(ctx, chain_visit, &own);
        kept = chain = own.chain ? X509_chain_up_ref(own.chain) : NULL;
        if (own.chain && !kept)
            return -1;
    }
    int ok = SSL_CTX_use_cert_and_key(ctx, cert, key, chain, 1);
    x509_stack_free(kept);
    return ok == 1 ? 0 : -1;
}

static void
label_push(lua_State *L, const X509 *cert)
{
    char subject[256];
    const char *file = mg_x509_file(cert);
    X509_NAME_oneline(X509_get_subject_name(cert), subject, sizeof(subject));
    lua_pushfstring(L, file ? "%s (%s)" : "%s", subject, file);
}

/* A context has one certificate of a type: pushes what is to be told of the one that `cert` replaces, after
 * what there is to tell already, or that alone. */
static void
replaced_push(lua_State *L, SSL_CTX *ctx, const X509 *cert, const EVP_PKEY *key)
{
    struct chain_search own = {.key = key};
    luaL_checkstack(L, 10, NULL);
    mg_ssl_context_each_certificate(ctx, chain_visit, &own);
    if (mg_ssl_context_value(L, 1, REPLACED) == LUA_TNIL) {
        lua_pop(L, 1);
        lua_pushliteral(L, "");
    }
    if (!own.x509 || X509_cmp(own.x509, cert) == 0)
        return;
    lua_pushstring(L, lua_rawlen(L, -1) > 0 ? "; " : "");
    label_push(L, cert);
    lua_pushfstring(L, " takes the place of another %s certificate, ", mg_pkey_type_name(key));
    label_push(L, own.x509);
    lua_concat(L, 5);
}

/* Certificate, key, chain and staple (either may be NULL) belong together, or an error that begins with
 * `what`. The context is argument 1. */
static void
pair_add(lua_State *L, SSL_CTX *ctx, X509 *cert, EVP_PKEY *key, STACK_OF(X509) * chain,
         struct mg_box *staple, const char *what)
{
    ERR_clear_error();
    if (!mg_pkey_has_private(key))
        mg_lua_error(L, "ArgumentError", "%s: private key is needed", what);
    const EVP_PKEY *public_key = X509_get0_pubkey(cert);
    if (!public_key) {
        ERR_clear_error();
        mg_lua_error(L, "ArgumentError", "%s: certificate does not contain public key", what);
    }
    if (EVP_PKEY_eq(public_key, key) != 1) {
        ERR_clear_error();
        mg_lua_error(L, "ArgumentError", "%s: public key mismatch", what);
    }
    replaced_push(L, ctx, cert, key);
    if (mg_ssl_context_put_certificate(ctx, cert, key, chain) < 0)
        mg_lua_openssl_error(L, "SSLError", "%s: SSL_CTX_use_cert_and_key", what);
    mg_ssl_context_store(L, 1, REPLACED, lua_gettop(L));
    mg_staple_set(ctx, staple, cert);
    ERR_clear_error();
}

/* add_certificate(cert, key[, chain[, ocsp_response]]) -> self */
int
mg_ssl_context_add_certificate(lua_State *L)
{
    const char *what = mg_function_name(L);
    mg_check_count(L, 2, 4);
    struct mg_ssl_context *self = mg_ssl_context_check_writable(L);
    mg_class_check(L, 2, &mg_certificate_class);
    mg_class_check(L, 3, &mg_pkey_class);
    STACK_OF(X509) *chain = NULL;
    struct mg_box *staple = NULL;
    lua_settop(L, 5);
    if (!lua_isnil(L, 4)) {
        mg_check_table(L, 4);
        chain = mg_x509_stack_push(L, 4, "SSLContext:add_certificate: argument 3");
    }
    if (!lua_isnil(L, 5)) {
        size_t len;
        mg_check_string(L, 5, &len);
        mg_staple_check(L, 5, "SSLContext:add_certificate: argument 4", mg_x509_test(L, 2));
        staple = mg_staple_push(L, 5, mg_x509_test(L, 2));
    }
    pair_add(L, self->ctx, mg_x509_share(L, 2), mg_pkey_test(L, 3), chain, staple, what);
    lua_settop(L, 1);
    return 1;
}

/* From the cache, if that understands the text; else the slow way, which says what is wrong. */
static void
certificates_push(lua_State *L, const char *what, const struct mg_buf *text)
{
    int top = lua_gettop(L);
    if (mg_pem_push(L, text->data ? text->data : "", text->len) && lua_rawlen(L, top + 1) > 0)
        lua_settop(L, top + 1);
    else
        mg_x509_parse_all(L, "CertificateError", what, text->data ? text->data : "", text->len);
}

static void
key_push(lua_State *L, const char *what, const struct mg_buf *text, int passphrase)
{
    if (mg_pem_push(L, text->data ? text->data : "", text->len) && mg_pkey_test(L, -1))
        return;
    mg_pkey_parse(L, what, text->data, text->len, passphrase);
}

/* load_certificate(chain_file[, key_file[, passphrase][, function]]) -> self; without key_file, the key is in
 * chain_file */
int
mg_ssl_context_load_certificate(lua_State *L)
{
    mg_check_count(L, 1, 4);
    struct mg_ssl_context *self = mg_ssl_context_check_writable(L);
    lua_settop(L, 5);
    const char *chain_file = mg_check_text(L, 2);
    const char *key_file = lua_isnil(L, 3) ? chain_file : mg_check_text(L, 3);
    int passphrase = mg_check_passphrase(L, 4);

    struct mg_buf *text = mg_file_push(L, "SystemCallError", "load_certificate", chain_file);
    const char *what = lua_pushfstring(L, "load_certificate: %s", chain_file);
    certificates_push(L, what, text);
    int certs = lua_gettop(L);
    mg_x509_note_files(L, certs, chain_file);

    text = mg_file_push(L, "SystemCallError", "load_certificate", key_file);
    what = lua_pushfstring(L, "load_certificate: %s", key_file);
    key_push(L, what, text, passphrase);
    EVP_PKEY *key = mg_pkey_test(L, -1);
    mg_buf_free_secret(text);

    lua_rawgeti(L, certs, 1);
    X509 *cert = mg_x509_test(L, -1);
    what = lua_pushfstring(L, "load_certificate: %s and %s", chain_file, key_file);
    STACK_OF(X509) *chain = mg_x509_stack_push(L, certs, what);
    X509_free(sk_X509_shift(chain));
    pair_add(L, self->ctx, cert, key, chain, NULL, what);
    lua_settop(L, 1);
    return 1;
}

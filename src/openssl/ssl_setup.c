/*
 * ssl_setup: setup – what was assigned to a context becomes OpenSSL's.
 *
 * The happy path is: everything that can be wrong is built and checked first (chain, names, trust
 * store, protocols), then certificate and key go in, then the rest, which replaces and never adds,
 * then the policy digest, and last the context is frozen. Possible failure modes are: a value or a
 * file is wrong (nothing was changed), OpenSSL refuses the certificate (nothing was changed), no
 * memory (setup may be repeated and sets the same things again).
 */
#include "openssl/internal.h"

#include <stdlib.h>
#include <string.h>

#define CLS "SSLContext"

/* What the first half of setup makes; every pointer belongs to a box on the Lua stack. */
struct plan {
    X509 *cert;
    EVP_PKEY *key;
    STACK_OF(X509) * extra_chain; /* NULL: none */
    struct mg_box *client_ca;     /* of STACK_OF(X509_NAME); taken over by OpenSSL; NULL: none */
    X509_STORE *store;            /* NULL: the context's own, which is empty */
    struct mg_buf *alpn, *npn;    /* NULL: none */
    struct mg_callbacks callbacks;
    bool verify_hostname;
    struct mg_crl_check crl_check;
    struct mg_box *crl_list; /* of crl_check.list; taken over by the context; NULL: none */
    int verify_mode;
    int verify_depth; /* -1: OpenSSL's */
    long timeout;     /* -1: OpenSSL's */
};

/* ---- building ------------------------------------------------------------------------------- */

static void
plan_pair(lua_State *L, int idx, struct plan *plan)
{
    mg_ssl_context_value(L, idx, "cert");
    mg_ssl_context_value(L, idx, "key");
    plan->cert = mg_x509_share(L, -2);
    plan->key = mg_pkey_test(L, -1);
    if (!plan->cert != !plan->key)
        mg_lua_error(L, "ArgumentError", CLS ":setup: %s is set, but %s is not",
                     plan->cert ? "cert" : "key", plan->cert ? "key" : "cert");
    ERR_clear_error();
    if (plan->cert && X509_check_private_key(plan->cert, plan->key) != 1)
        mg_lua_openssl_error(L, "SSLError", CLS ":setup: cert and key: X509_check_private_key");
}

static void
plan_extra_chain(lua_State *L, int idx, struct plan *plan)
{
    if (mg_ssl_context_value(L, idx, "extra_chain_cert") == LUA_TTABLE)
        plan->extra_chain = mg_x509_stack_push(L, -1, CLS ".extra_chain_cert");
}

static void
name_stack_free(void *stack)
{
    sk_X509_NAME_pop_free((STACK_OF(X509_NAME) *)stack, X509_NAME_free);
}

static void
subject_add(lua_State *L, STACK_OF(X509_NAME) * names, const X509 *x509)
{
    X509_NAME *name = X509_NAME_dup(X509_get_subject_name(x509));
    if (!name || !sk_X509_NAME_push(names, name)) {
        X509_NAME_free(name);
        mg_lua_openssl_error(L, "NoMemoryError", CLS ".client_ca");
    }
}

static void
plan_client_ca(lua_State *L, int idx, struct plan *plan)
{
    int type = mg_ssl_context_value(L, idx, "client_ca");
    if (type == LUA_TNIL)
        return;
    int value = lua_gettop(L);
    plan->client_ca = mg_box_push(L, name_stack_free);
    STACK_OF(X509_NAME) *names = plan->client_ca->ptr = sk_X509_NAME_new_null();
    if (!names)
        mg_lua_openssl_error(L, "NoMemoryError", CLS ".client_ca");
    if (type != LUA_TTABLE) {
        const X509 *x509 = mg_x509_test(L, value);
        if (!x509) /* finalised before us */
            mg_attr_type_error(L, value, CLS, "client_ca", "Certificate");
        subject_add(L, names, x509);
        return;
    }
    STACK_OF(X509) *certs = mg_x509_stack_push(L, value, CLS ".client_ca");
    for (int i = 0; i < sk_X509_num(certs); i++)
        subject_add(L, names, sk_X509_value(certs, i));
}

static void
store_free(void *store)
{
    X509_STORE_free(store);
}

/* Everything in `from` that verification looks at. */
static void
store_copy(lua_State *L, X509_STORE *to, X509_STORE *from)
{
    const STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(from);
    bool ok = X509_STORE_set1_param(to, X509_STORE_get0_param(from)) == 1;
    for (int i = 0; ok && i < sk_X509_OBJECT_num(objects); i++) {
        const X509_OBJECT *object = sk_X509_OBJECT_value(objects, i);
        X509 *x509 = X509_OBJECT_get0_X509(object);
        X509_CRL *crl = X509_OBJECT_get0_X509_CRL(object);
        ok = (!x509 || X509_STORE_add_cert(to, x509) == 1) &&
             (!crl || X509_STORE_add_crl(to, crl) == 1);
    }
    if (!ok)
        mg_lua_openssl_error(L, "NoMemoryError", CLS ".cert_store");
}

/*
 * cert_store is shared, not copied, and frozen with the context. Together with ca_file, ca_path
 * or CRLs of its own the context gets a store of its own, because a file that one context trusts must not
 * become trusted by all that share the store (as it does in Ruby).
 */
static void
plan_store(lua_State *L, int idx, struct plan *plan)
{
    int type = mg_ssl_context_value(L, idx, "cert_store");
    const struct mg_store *given = mg_class_test(L, -1, &mg_store_class);
    if (type != LUA_TNIL && !given) /* finalised before us */
        mg_attr_type_error(L, -1, CLS, "cert_store", "Store");
    bool has_file = mg_ssl_context_value(L, idx, "ca_file") == LUA_TSTRING;
    bool has_path = mg_ssl_context_value(L, idx, "ca_path") == LUA_TSTRING;
    int path = lua_gettop(L), file = path - 1;
    bool has_crls = mg_ssl_context_value(L, idx, "crls") == LUA_TTABLE;
    int crls = lua_gettop(L);
    if (!has_file && !has_path && !has_crls) {
        plan->store = given ? given->store : NULL;
        return;
    }
    struct mg_box *box = mg_box_push(L, store_free);
    plan->store = box->ptr = X509_STORE_new();
    if (!plan->store)
        mg_lua_openssl_error(L, "NoMemoryError", "X509_STORE_new");
    if (given)
        store_copy(L, plan->store, given->store);
    if (has_file)
        mg_store_load_file(L, plan->store, "SSLError", CLS ".ca_file", lua_tostring(L, file));
    if (has_path)
        mg_store_load_dir(L, plan->store, lua_tostring(L, path));
    if (has_crls)
        plan->crl_list = mg_crls_add(L, plan->store, crls, &plan->crl_check);
}

static bool
flag_value(lua_State *L, int idx, const char *name)
{
    mg_ssl_context_value(L, idx, name);
    bool value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

static lua_Integer
integer_value(lua_State *L, int idx, const char *name, lua_Integer fallback)
{
    mg_ssl_context_value(L, idx, name);
    lua_Integer value = lua_isinteger(L, -1) ? lua_tointeger(L, -1) : fallback;
    lua_pop(L, 1);
    return value;
}

/* The list in wire form, or NULL: none was assigned. */
static struct mg_buf *
plan_protocols(lua_State *L, int idx, const char *name)
{
    if (mg_ssl_context_value(L, idx, name) != LUA_TTABLE)
        return NULL;
    int value = lua_gettop(L);
    struct mg_buf *wire = mg_box_push_buf(L);
    mg_protocols_encode(L, value, name, wire);
    return wire;
}

static void
plan_build(lua_State *L, int idx, struct plan *plan)
{
    luaL_checkstack(L, 40, CLS ":setup");
    plan_pair(L, idx, plan);
    plan_extra_chain(L, idx, plan);
    mg_staples_check(L, idx, mg_ssl_context_test(L, idx), plan->cert);
    plan_client_ca(L, idx, plan);
    plan_store(L, idx, plan);
    plan->alpn = plan_protocols(L, idx, "alpn_protocols");
    plan->npn = plan_protocols(L, idx, "npn_protocols");
#define CALLBACK_IS_SET(name) plan->callbacks.name = flag_value(L, idx, #name);
    MG_CALLBACKS(CALLBACK_IS_SET)
    /* tmp_dh wins over the callback, as it does in libssl. */
    plan->callbacks.tmp_dh_callback &= !flag_value(L, idx, "tmp_dh");
    plan->verify_hostname = flag_value(L, idx, "verify_hostname");
    plan->verify_mode = (int)integer_value(L, idx, "verify_mode", SSL_VERIFY_NONE);
    plan->verify_depth = (int)integer_value(L, idx, "verify_depth", -1);
    plan->timeout = (long)integer_value(L, idx, "timeout", -1);
}

/* ---- applying ------------------------------------------------------------------------------- */

static int
extra_chain_apply(SSL_CTX *ctx, const STACK_OF(X509) * chain)
{
    SSL_CTX_clear_extra_chain_certs(ctx);
    for (int i = 0; chain && i < sk_X509_num(chain); i++) {
        X509 *x509 = sk_X509_value(chain, i);
        X509_up_ref(x509);
        if (SSL_CTX_add_extra_chain_cert(ctx, x509) != 1) {
            X509_free(x509);
            return -1;
        }
    }
    return 0;
}

static int
alpn_apply(SSL_CTX *ctx, struct mg_buf *alpn)
{
    struct mg_ssl_context_extra *extra = mg_ssl_context_extra(ctx);
    size_t len = alpn ? alpn->len : 0;
    /* 0 is success here, unlike everywhere else. */
    if (SSL_CTX_set_alpn_protos(ctx, len > 0 ? (const unsigned char *)alpn->data : NULL,
                                (unsigned)len) != 0)
        return -1;
    mg_free(extra->alpn);
    extra->alpn = len > 0 ? (unsigned char *)mg_buf_take(alpn) : NULL;
    extra->alpn_len = len;
    return 0;
}

static void
npn_apply(SSL_CTX *ctx, struct mg_buf *npn)
{
    struct mg_ssl_context_extra *extra = mg_ssl_context_extra(ctx);
    mg_free(extra->npn);
    extra->npn_len = npn ? npn->len : 0;
    extra->npn = extra->npn_len > 0 ? (unsigned char *)mg_buf_take(npn) : NULL;
}

static void
crls_apply(SSL_CTX *ctx, struct plan *plan)
{
    struct mg_crl_check *check = &mg_ssl_context_extra(ctx)->crl_check;
    mg_crl_signed_free(check->list);
    *check = plan->crl_check;
    if (!plan->crl_list)
        return;
    check->list = plan->crl_list->ptr;
    plan->crl_list->ptr = NULL;
}

static void
plan_apply(lua_State *L, int idx, SSL_CTX *ctx, struct plan *plan)
{
    ERR_clear_error();
    if (plan->cert && mg_ssl_context_put_certificate(ctx, plan->cert, plan->key, NULL) < 0)
        mg_lua_openssl_error(L, "SSLError", "SSL_CTX_use_cert_and_key");
    if (extra_chain_apply(ctx, plan->extra_chain) < 0)
        mg_lua_openssl_error(L, "SSLError", "SSL_CTX_add_extra_chain_cert");
    if (mg_staples_apply(L, idx, ctx) < 0)
        mg_lua_error(L, "NoMemoryError", CLS ".ocsp_response: out of memory");
    if (plan->store && SSL_CTX_get_cert_store(ctx) != plan->store)
        SSL_CTX_set1_cert_store(ctx, plan->store);
    if (alpn_apply(ctx, plan->alpn) < 0)
        mg_lua_openssl_error(L, "SSLError", "SSL_CTX_set_alpn_protos");
    if (plan->client_ca) {
        SSL_CTX_set_client_CA_list(ctx, plan->client_ca->ptr);
        plan->client_ca->ptr = NULL;
    }
    mg_ssl_context_extra(ctx)->verify_hostname = plan->verify_hostname;
    npn_apply(ctx, plan->npn);
    crls_apply(ctx, plan);
    mg_callbacks_install(ctx, &plan->callbacks, plan->verify_mode);
    if (plan->verify_depth >= 0)
        SSL_CTX_set_verify_depth(ctx, plan->verify_depth);
    if (plan->timeout >= 0)
        SSL_CTX_set_timeout(ctx, plan->timeout);
    SSL_CTX_set_post_handshake_auth(ctx, 1);
}

/* ---- policy digest -------------------------------------------------------------------------- */

static void
md_ctx_free(void *ctx)
{
    EVP_MD_CTX_free(ctx);
}

/* A field with its length, so that no two lists of fields give the same bytes. */
static int
hash_bytes(EVP_MD_CTX *md, const void *data, size_t len)
{
    uint64_t prefix = len;
    return EVP_DigestUpdate(md, &prefix, sizeof(prefix)) == 1 &&
                   EVP_DigestUpdate(md, data, len) == 1
               ? 0
               : -1;
}

static int
hash_number(EVP_MD_CTX *md, int64_t number)
{
    return hash_bytes(md, &number, sizeof(number));
}

static int
hash_certificate(SSL_CTX *ctx MG_UNUSED, X509 *x509, void *md)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len;
    return ASN1_item_digest(ASN1_ITEM_rptr(X509_PUBKEY), EVP_sha256(), X509_get_X509_PUBKEY(x509),
                            digest, &len) == 1
               ? hash_bytes(md, digest, len)
               : -1;
}

static int
digest_compare(const void *a, const void *b)
{
    return memcmp(a, b, 32);
}

/* Trust anchors and CRLs in an order of their own: the store's is that of additions. */
static int
hash_store(EVP_MD_CTX *md, X509_STORE *store)
{
    const STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(store);
    size_t count = objects ? (size_t)sk_X509_OBJECT_num(objects) : 0, used = 0;
    unsigned char(*digests)[32] = mg_calloc(count + 1, sizeof(*digests));
    int rc = -1;
    if (!digests)
        return -1;
    for (size_t i = 0; i < count; i++) {
        const X509_OBJECT *object = sk_X509_OBJECT_value(objects, (int)i);
        const X509 *x509 = X509_OBJECT_get0_X509(object);
        X509_CRL *crl = X509_OBJECT_get0_X509_CRL(object);
        unsigned len = 0;
        if ((x509 && X509_digest(x509, EVP_sha256(), digests[used], &len) != 1) ||
            (crl && mg_crl_digest(crl, digests[used]) != 0))
            goto done;
        used += len == 32 || crl;
    }
    qsort(digests, used, sizeof(*digests), digest_compare);
    rc = hash_bytes(md, digests, used * sizeof(*digests));
done:
    mg_free(digests);
    return rc;
}

static int
hash_text(EVP_MD_CTX *md, lua_State *L, int idx, const char *name)
{
    size_t len = 0;
    mg_ssl_context_value(L, idx, name);
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &len) : "";
    int rc = hash_number(md, lua_isnil(L, -1)) < 0 || hash_bytes(md, text, len) < 0 ? -1 : 0;
    lua_pop(L, 1);
    return rc;
}

static int
hash_names(EVP_MD_CTX *md, const SSL_CTX *ctx)
{
    const STACK_OF(X509_NAME) *names = SSL_CTX_get_client_CA_list(ctx);
    for (int i = 0; names && i < sk_X509_NAME_num(names); i++) {
        const unsigned char *der;
        size_t len;
        if (X509_NAME_get0_der(sk_X509_NAME_value(names, i), &der, &len) != 1 ||
            hash_bytes(md, der, len) < 0)
            return -1;
    }
    return hash_number(md, names ? sk_X509_NAME_num(names) : 0);
}

/* Who is verified, against what. Where nobody is, the trust anchors decide nothing and cost time.
 */
static int
hash_verification(EVP_MD_CTX *md, lua_State *L, int idx, SSL_CTX *ctx)
{
    X509_STORE *store = SSL_CTX_get_cert_store(ctx);
    X509_VERIFY_PARAM *param = X509_STORE_get0_param(store);
    const struct mg_crl_check *check = &mg_ssl_context_extra(ctx)->crl_check;
    unsigned char script[32] = {0};
    mg_ssl_context_value(L, idx, "cert_store");
    const struct mg_store *given = mg_class_test(L, -1, &mg_store_class);
    int purpose = given ? given->purpose : 0, trust = given ? given->trust : 0;
    lua_pop(L, 1);
    bool callback = flag_value(L, idx, "verify_callback");
    const struct mg_openssl_hooks *hooks = mg_openssl_hooks(L);
    if (callback && hooks->script_digest)
        hooks->script_digest(hooks->data, script);
    int mode = SSL_CTX_get_verify_mode(ctx);
    if (hash_number(md, mode) < 0 || hash_number(md, SSL_CTX_get_verify_depth(ctx)) < 0 ||
        hash_number(md, (int64_t)X509_VERIFY_PARAM_get_flags(param)) < 0 ||
        hash_number(md, (int64_t)X509_VERIFY_PARAM_get_time(param)) < 0 ||
        hash_number(md, purpose) < 0 || hash_number(md, trust) < 0 ||
        hash_number(md, flag_value(L, idx, "verify_hostname")) < 0 ||
        hash_number(md, check->lenient + 2 * check->strict_leaf + 4 * check->strict_chain) < 0 ||
        hash_number(md, callback) < 0 || hash_bytes(md, script, sizeof(script)) < 0 ||
        hash_names(md, ctx) < 0)
        return -1;
    return mode == SSL_VERIFY_NONE && !callback ? 0 : hash_store(md, store);
}

/* What a connection may use: a session made with other means does not count. */
static int
hash_protocol(EVP_MD_CTX *md, lua_State *L, int idx, const SSL_CTX *ctx)
{
    const STACK_OF(SSL_CIPHER) *ciphers = SSL_CTX_get_ciphers(ctx); /* with those of TLS 1.3 */
    for (int i = 0; ciphers && i < sk_SSL_CIPHER_num(ciphers); i++)
        if (hash_number(md, SSL_CIPHER_get_id(sk_SSL_CIPHER_value(ciphers, i))) < 0)
            return -1;
    return hash_number(md, ciphers ? sk_SSL_CIPHER_num(ciphers) : 0) < 0 ||
                   hash_number(md, (int64_t)SSL_CTX_get_options(ctx)) < 0 ||
                   hash_text(md, L, idx, "groups") < 0
               ? -1
               : 0;
}

static int
hash_policy(EVP_MD_CTX *md, lua_State *L, int idx, SSL_CTX *ctx)
{
    return mg_ssl_context_each_certificate(ctx, hash_certificate, md) < 0 ||
                   hash_verification(md, L, idx, ctx) < 0 || hash_protocol(md, L, idx, ctx) < 0 ||
                   hash_number(md, SSL_CTX_get_min_proto_version(ctx)) < 0 ||
                   hash_number(md, SSL_CTX_get_max_proto_version(ctx)) < 0 ||
                   hash_number(md, SSL_CTX_get_security_level(ctx)) < 0 ||
                   hash_text(md, L, idx, "sigalgs") < 0 ||
                   hash_text(md, L, idx, "client_sigalgs") < 0
               ? -1
               : 0;
}

/* The digest, and the session_id_context that binds sessions and tickets to it. */
static void
policy_bind(lua_State *L, int idx, struct mg_ssl_context *self)
{
    struct mg_box *box = mg_box_push(L, md_ctx_free);
    EVP_MD_CTX *md = box->ptr = EVP_MD_CTX_new();
    unsigned char id[32];
    bool ok = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
              hash_policy(md, L, idx, self->ctx) == 0 &&
              EVP_DigestFinal_ex(md, self->digest, NULL) == 1;
    memcpy(id, self->digest, sizeof(id));
    if (ok && mg_ssl_context_value(L, idx, "session_id_context") == LUA_TSTRING) {
        size_t len;
        const char *given = lua_tolstring(L, -1, &len);
        ok = EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
             hash_bytes(md, self->digest, sizeof(self->digest)) == 0 &&
             hash_bytes(md, given, len) == 0 && EVP_DigestFinal_ex(md, id, NULL) == 1;
    }
    if (!ok || mg_ssl_session_bind(self->ctx, id) < 0)
        mg_lua_openssl_error(L, "SSLError", "SSL_CTX_set_session_id_context");
}

/* ---- setup and freeze ----------------------------------------------------------------------- */

static void
context_apply(lua_State *L, int idx, struct mg_ssl_context *self)
{
    struct plan plan = {0};
    int top = lua_gettop(L);
    plan_build(L, idx, &plan);
    plan_apply(L, idx, self->ctx, &plan);
    policy_bind(L, idx, self);
    mg_ssl_context_value(L, idx, "cert_store");
    struct mg_store *store = mg_class_test(L, -1, &mg_store_class);
    if (store)
        store->frozen = true;
    lua_settop(L, top);
    self->frozen = true;
}

/* setup() -> true the first time, then nil, as in Ruby; freeze is the same */
int
mg_ssl_context_setup(lua_State *L)
{
    struct mg_ssl_context *self = mg_class_check(L, 1, &mg_ssl_context_class);
    mg_check_count(L, 0, 0);
    if (self->frozen) {
        lua_pushnil(L);
        return 1;
    }
    context_apply(L, 1, self);
    lua_pushboolean(L, true);
    return 1;
}

/* A backend must not be trusted by accident: what the script left open becomes "verify". */
static void
client_defaults(lua_State *L, int idx)
{
    static const char *const trust[] = {"cert_store", "ca_file", "ca_path"};
    bool trusts = false;
    lua_pushinteger(L, SSL_VERIFY_PEER);
    mg_ssl_context_store(L, idx, "verify_mode", lua_gettop(L));
    lua_pushboolean(L, true);
    mg_ssl_context_store(L, idx, "verify_hostname", lua_gettop(L));
    for (size_t i = 0; i < MG_ARRAY_LEN(trust); i++)
        trusts = trusts || flag_value(L, idx, trust[i]);
    if (!trusts) {
        mg_default_store_push(L);
        mg_ssl_context_store(L, idx, "cert_store", lua_gettop(L));
    }
}

struct freeze {
    struct mg_ssl_context *self;
    bool as_client;
};

static int
freeze_protected(lua_State *L)
{
    const struct freeze *freeze = lua_touserdata(L, 2);
    struct mg_ssl_context *self = freeze->self;
    bool open = !self->verify_mode_set;
    if (open && (freeze->as_client ? self->serves : self->client))
        mg_lua_error(L, "ArgumentError",
                     CLS
                     ": a context for both a listener and a backend needs an explicit verify_mode");
    if (freeze->as_client && open && !self->client) {
        client_defaults(L, 1);
        self->frozen = false;
    }
    if (!self->frozen)
        context_apply(L, 1, self);
    if (freeze->as_client) {
        self->client = true;
        mg_ssl_cache_originate(self->ctx);
    } else {
        self->serves = true;
    }
    return 0;
}

void
mg_ssl_context_freeze(lua_State *L, int idx, bool as_client)
{
    struct freeze freeze = {mg_class_check(L, idx, &mg_ssl_context_class), as_client};
    idx = lua_absindex(L, idx);
    lua_pushcfunction(L, freeze_protected);
    lua_pushvalue(L, idx);
    lua_pushlightuserdata(L, &freeze);
    if (lua_pcall(L, 2, 0, 0) == LUA_OK)
        return;
    /* After the script has returned no line of it is on the stack: the context's own says where. */
    mg_ssl_context_value(L, idx, "where");
    if (lua_type(L, -1) == LUA_TSTRING)
        mg_lua_error_locate(L, -2, lua_tostring(L, -1));
    lua_pop(L, 1);
    lua_error(L);
}

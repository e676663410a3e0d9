/*
 * pkey: PKey, a private or public key of any type. Every generated key passes the made_key hook, so
 * that each worker of a run has the same one. How keys are read is in pkey_read.c.
 */
#include "openssl/internal.h"

#include <openssl/core_names.h>
#include <openssl/dh.h>
#include <openssl/dsa.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include <stdlib.h>
#include <string.h>

struct mg_pkey {
    EVP_PKEY *key;
};

static EVP_PKEY *
self_key(lua_State *L)
{
    return ((struct mg_pkey *)mg_class_check(L, 1, &mg_pkey_class))->key;
}

EVP_PKEY *
mg_pkey_test(lua_State *L, int idx)
{
    const struct mg_pkey *self = mg_class_test(L, idx, &mg_pkey_class);
    return self ? self->key : NULL;
}

void
mg_lua_push_pkey(lua_State *L, EVP_PKEY *key)
{
    struct mg_pkey *self = mg_class_new(L, &mg_pkey_class, sizeof(*self));
    EVP_PKEY_up_ref(key);
    self->key = key;
}

EVP_PKEY **
mg_pkey_push_empty(lua_State *L)
{
    struct mg_pkey *self = mg_class_new(L, &mg_pkey_class, sizeof(*self));
    return &self->key;
}

static int
pkey_gc(lua_State *L)
{
    struct mg_pkey *self = lua_touserdata(L, 1);
    EVP_PKEY_free(self->key);
    self->key = NULL;
    return 0;
}

/* ---- facts ---------------------------------------------------------------------------------- */

static bool
has_number(const EVP_PKEY *key, const char *param)
{
    BIGNUM *number = NULL;
    bool has = EVP_PKEY_get_bn_param(key, param, &number) == 1;
    BN_clear_free(number);
    return has;
}

static bool
has_octets(const EVP_PKEY *key, const char *param)
{
    size_t len = 0;
    unsigned char *octets;
    if (EVP_PKEY_get_octet_string_param(key, param, NULL, 0, &len) != 1 || len == 0)
        return false;
    octets = mg_malloc(len);
    bool has = octets && EVP_PKEY_get_octet_string_param(key, param, octets, len, &len) == 1;
    mg_free_secret(octets, len);
    return has;
}

bool
mg_pkey_has_private(const EVP_PKEY *key)
{
    ERR_set_mark();
    bool has = EVP_PKEY_is_a(key, "RSA") || EVP_PKEY_is_a(key, "RSA-PSS")
                   ? has_number(key, OSSL_PKEY_PARAM_RSA_D)
                   : has_number(key, OSSL_PKEY_PARAM_PRIV_KEY) ||
                         has_octets(key, OSSL_PKEY_PARAM_PRIV_KEY);
    ERR_pop_to_mark();
    return has;
}

const char *
mg_pkey_type_name(const EVP_PKEY *key)
{
    const char *name = EVP_PKEY_get0_type_name(key);
    return name ? name : "unknown";
}

const char *
mg_pkey_oid(const EVP_PKEY *key)
{
    int nid = OBJ_txt2nid(mg_pkey_type_name(key));
    if (EVP_PKEY_is_a(key, "RSA"))
        nid = NID_rsaEncryption;
    else if (EVP_PKEY_is_a(key, "EC"))
        nid = NID_X9_62_id_ecPublicKey;
    else if (EVP_PKEY_is_a(key, "DH"))
        nid = NID_dhKeyAgreement;
    return nid == NID_undef ? mg_pkey_type_name(key) : OBJ_nid2sn(nid);
}

static int
get_oid(lua_State *L, void *self)
{
    lua_pushstring(L, mg_pkey_oid(((struct mg_pkey *)self)->key));
    return 1;
}

static int
get_type(lua_State *L, void *self)
{
    lua_pushstring(L, mg_pkey_type_name(((struct mg_pkey *)self)->key));
    return 1;
}

static int
get_bits(lua_State *L, void *self)
{
    lua_pushinteger(L, EVP_PKEY_get_bits(((struct mg_pkey *)self)->key));
    return 1;
}

static int
get_private(lua_State *L, void *self)
{
    lua_pushboolean(L, mg_pkey_has_private(((struct mg_pkey *)self)->key));
    return 1;
}

/* Parameters alone have none. */
static bool
has_public(const EVP_PKEY *key)
{
    ERR_set_mark();
    bool has = i2d_PUBKEY(key, NULL) > 0;
    ERR_pop_to_mark();
    return has;
}

static int
get_public(lua_State *L, void *self)
{
    lua_pushboolean(L, has_public(((struct mg_pkey *)self)->key));
    return 1;
}

/* { curve_name = "prime256v1" } for EC, else nil. */
static int
get_group(lua_State *L, void *self)
{
    const EVP_PKEY *key = ((struct mg_pkey *)self)->key;
    char name[80];
    if (!EVP_PKEY_is_a(key, "EC") || EVP_PKEY_get_group_name(key, name, sizeof(name), NULL) != 1) {
        ERR_clear_error();
        lua_pushnil(L);
        return 1;
    }
    lua_createtable(L, 0, 1);
    lua_pushstring(L, name);
    lua_setfield(L, -2, "curve_name");
    return 1;
}

static void
openssl_free(void *ptr)
{
    OPENSSL_free(ptr);
}

void
mg_pkey_push_public(lua_State *L, const EVP_PKEY *key, const char *what)
{
    struct mg_box *box = mg_box_push(L, openssl_free);
    unsigned char *der = NULL;
    ERR_clear_error();
    int len = i2d_PUBKEY(key, &der);
    box->ptr = der;
    if (len < 0)
        mg_lua_openssl_error(L, "PKeyError", "%s", what);
    struct mg_pkey *public_key = mg_class_new(L, &mg_pkey_class, sizeof(*public_key));
    const unsigned char *p = der;
    public_key->key = d2i_PUBKEY(NULL, &p, len);
    if (!public_key->key)
        mg_lua_openssl_error(L, "PKeyError", "%s", what);
    mg_box_free(box);
    lua_remove(L, -2);
}

static void
check_public(lua_State *L, const EVP_PKEY *key, const char *what)
{
    if (!has_public(key))
        mg_lua_error(L, "PKeyError", "%s: has no public key, only parameters", what);
}

static int
get_public_key(lua_State *L, void *self)
{
    const EVP_PKEY *key = ((struct mg_pkey *)self)->key;
    check_public(L, key, "PKey.public_key");
    mg_pkey_push_public(L, key, "PKey.public_key");
    return 1;
}

static int
raw_get(lua_State *L, const EVP_PKEY *key,
        int (*read)(const EVP_PKEY *key, unsigned char *out, size_t *len))
{
    unsigned char raw[256];
    size_t len = sizeof(raw);
    if (read(key, raw, &len) != 1) {
        ERR_clear_error();
        lua_pushnil(L);
        return 1;
    }
    lua_pushlstring(L, (const char *)raw, len);
    mg_wipe(raw, sizeof(raw));
    return 1;
}

static int
get_raw_private_key(lua_State *L, void *self)
{
    return raw_get(L, ((struct mg_pkey *)self)->key, EVP_PKEY_get_raw_private_key);
}

static int
get_raw_public_key(lua_State *L, void *self)
{
    return raw_get(L, ((struct mg_pkey *)self)->key, EVP_PKEY_get_raw_public_key);
}

/* ---- making --------------------------------------------------------------------------------- */

static void
pkey_ctx_free(void *ctx)
{
    EVP_PKEY_CTX_free(ctx);
}

/* A context for a new key of the type. */
static EVP_PKEY_CTX *
keygen_context(lua_State *L, const char *type)
{
    struct mg_box *box = mg_box_push(L, pkey_ctx_free);
    ERR_clear_error();
    box->ptr = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    if (!box->ptr)
        mg_lua_openssl_error(L, "PKeyError", "%s: unsupported algorithm \"%s\"",
                             mg_function_name(L), type);
    return box->ptr;
}

static EVP_PKEY_CTX *
keygen_start(lua_State *L, const char *type)
{
    EVP_PKEY_CTX *ctx = keygen_context(L, type);
    if (EVP_PKEY_keygen_init(ctx) != 1)
        mg_lua_openssl_error(L, "PKeyError", "%s: EVP_PKEY_keygen_init", mg_function_name(L));
    return ctx;
}

/* Larger keys can be made, in days, but not used. */
static const struct {
    const char *name;
    long max;
} size_limits[] = {
    {"rsa_keygen_bits", OPENSSL_RSA_MAX_MODULUS_BITS},
    {"dh_paramgen_prime_len", OPENSSL_DH_MAX_MODULUS_BITS},
    {"dsa_paramgen_bits", OPENSSL_DSA_MAX_MODULUS_BITS},
};

static void
keygen_option(lua_State *L, EVP_PKEY_CTX *ctx, const char *name, const char *value)
{
    for (size_t i = 0; i < MG_ARRAY_LEN(size_limits); i++)
        if (strcmp(size_limits[i].name, name) == 0 && strtol(value, NULL, 10) > size_limits[i].max)
            mg_lua_error(L, "PKeyError", "%s: %s: at most %ld, got %.40s", mg_function_name(L),
                         name, size_limits[i].max, value);
    if (EVP_PKEY_CTX_ctrl_str(ctx, name, value) <= 0)
        mg_lua_openssl_error(L, "PKeyError", "%s: EVP_PKEY_CTX_ctrl_str(ctx, \"%s\", \"%s\")",
                             mg_function_name(L), name, value);
}

/* `of` is what the user named: type or curve. */
static int
keygen_finish(lua_State *L, EVP_PKEY_CTX *ctx, const char *of)
{
    const struct mg_openssl_hooks *hooks = mg_openssl_hooks(L);
    struct mg_pkey *self = mg_class_new(L, &mg_pkey_class, sizeof(*self));
    struct mg_err err;
    if (EVP_PKEY_generate(ctx, &self->key) != 1)
        mg_lua_openssl_error(L, "PKeyError", "%s: %.80s: EVP_PKEY_generate", mg_function_name(L),
                             of);
    ERR_clear_error();
    if (hooks->made_key(hooks->data, &self->key, &err) < 0)
        mg_lua_error(L, "PKeyError", "%s: %s", mg_function_name(L), err.text);
    return 1;
}

/* The options at index 2: { rsa_keygen_bits = 2048, … }. */
static void
keygen_options(lua_State *L, EVP_PKEY_CTX *ctx)
{
    if (!lua_istable(L, 2))
        return;
    lua_pushnil(L);
    while (lua_next(L, 2)) {
        if (lua_type(L, -2) != LUA_TSTRING ||
            (lua_type(L, -1) != LUA_TSTRING && !lua_isinteger(L, -1)))
            mg_lua_error(L, "TypeError",
                         "%s: argument 2: expected strings as keys, strings or integers as values",
                         mg_function_name(L));
        lua_pushvalue(L, -1); /* lua_tostring would change the table's value in place */
        keygen_option(L, ctx, lua_tostring(L, -3), lua_tostring(L, -1));
        lua_pop(L, 2);
    }
}

/* generate_key(type[, { rsa_keygen_bits = 2048, … }]), generate_key(parameters) */
static int
pkey_generate_key(lua_State *L)
{
    mg_check_count(L, 1, 2);
    EVP_PKEY *parameters = mg_pkey_test(L, 1);
    const char *type = parameters ? mg_pkey_type_name(parameters) : mg_check_text(L, 1);
    if (!lua_isnoneornil(L, 2))
        mg_check_table(L, 2);
    EVP_PKEY_CTX *ctx;
    if (parameters) {
        struct mg_box *box = mg_box_push(L, pkey_ctx_free);
        ERR_clear_error();
        ctx = box->ptr = EVP_PKEY_CTX_new_from_pkey(NULL, parameters, NULL);
        if (!ctx || EVP_PKEY_keygen_init(ctx) != 1)
            mg_lua_openssl_error(L, "PKeyError", "%s: EVP_PKEY_keygen_init", mg_function_name(L));
    } else {
        ctx = keygen_start(L, type);
    }
    keygen_options(L, ctx);
    return keygen_finish(L, ctx, type);
}

/* generate_parameters(type[, { dh_paramgen_prime_len = 2048, … }]) */
static int
pkey_generate_parameters(lua_State *L)
{
    mg_check_count(L, 1, 2);
    const char *type = mg_check_text(L, 1);
    if (!lua_isnoneornil(L, 2))
        mg_check_table(L, 2);
    EVP_PKEY_CTX *ctx = keygen_context(L, type);
    if (EVP_PKEY_paramgen_init(ctx) != 1)
        mg_lua_openssl_error(L, "PKeyError", "%s: EVP_PKEY_paramgen_init", mg_function_name(L));
    keygen_options(L, ctx);
    return keygen_finish(L, ctx, type);
}

/* RSA.generate(bits) */
static int
rsa_generate(lua_State *L)
{
    mg_check_count(L, 1, 1);
    lua_Integer bits = mg_check_integer(L, 1);
    EVP_PKEY_CTX *ctx = keygen_start(L, "RSA");
    keygen_option(L, ctx, "rsa_keygen_bits", lua_pushfstring(L, "%I", bits));
    return keygen_finish(L, ctx, "RSA");
}

/* new(pem_or_der[, passphrase][, function]) of a class that has one type of key */
static int
read_as(lua_State *L, const char *type)
{
    mg_pkey_read(L);
    const EVP_PKEY *key = mg_pkey_test(L, -1);
    if (!EVP_PKEY_is_a(key, type))
        mg_lua_error(L, "PKeyError", "%s: incorrect pkey type: %s", mg_function_name(L),
                     mg_pkey_oid(key));
    return 1;
}

static int
ec_new(lua_State *L)
{
    return read_as(L, "EC");
}

static int
dh_new(lua_State *L)
{
    return read_as(L, "DH");
}

/* RSA.new(bits) or RSA.new(pem_or_der[, passphrase]) */
static int
rsa_new(lua_State *L)
{
    return lua_type(L, 1) == LUA_TNUMBER ? rsa_generate(L) : read_as(L, "RSA");
}

/* EC.generate(curve) */
static int
ec_generate(lua_State *L)
{
    mg_check_count(L, 1, 1);
    const char *curve = mg_check_text(L, 1);
    EVP_PKEY_CTX *ctx = keygen_start(L, "EC");
    keygen_option(L, ctx, "ec_paramgen_curve", curve);
    return keygen_finish(L, ctx, curve);
}

/* ---- writing -------------------------------------------------------------------------------- */

static void
write_check(lua_State *L, int ok)
{
    if (ok != 1)
        mg_lua_openssl_error(L, "PKeyError", "%s", mg_function_name(L));
}

/* The optional (cipher, passphrase) of an export. */
static const EVP_CIPHER *
check_cipher(lua_State *L, int arg, const char **pass, size_t *pass_len)
{
    *pass = NULL;
    *pass_len = 0;
    if (lua_isnoneornil(L, arg))
        return NULL;
    const char *name = mg_check_text(L, arg);
    const EVP_CIPHER *cipher = EVP_get_cipherbyname(name);
    if (!cipher)
        mg_lua_error(L, "ArgumentError", "%s: unsupported cipher algorithm (%s)",
                     mg_function_name(L), name);
    *pass = mg_check_string(L, arg + 1, pass_len);
    mg_passphrase_check(L, mg_function_name(L), *pass_len);
    return cipher;
}

static void
check_private(lua_State *L, const EVP_PKEY *key)
{
    if (!mg_pkey_has_private(key))
        mg_lua_error(L, "ArgumentError", "%s: private key is needed", mg_function_name(L));
}

static int
pkey_private_to_pem(lua_State *L)
{
    EVP_PKEY *key = self_key(L);
    const char *pass;
    size_t pass_len;
    mg_check_count(L, 0, 2);
    const EVP_CIPHER *cipher = check_cipher(L, 2, &pass, &pass_len);
    check_private(L, key);
    BIO *bio = mg_box_push_mem(L);
    write_check(L,
                PEM_write_bio_PKCS8PrivateKey(bio, key, cipher, pass, (int)pass_len, NULL, NULL));
    mg_push_mem(L, bio);
    return 1;
}

static int
pkey_private_to_der(lua_State *L)
{
    EVP_PKEY *key = self_key(L);
    const char *pass;
    size_t pass_len;
    mg_check_count(L, 0, 2);
    const EVP_CIPHER *cipher = check_cipher(L, 2, &pass, &pass_len);
    check_private(L, key);
    BIO *bio = mg_box_push_mem(L);
    write_check(L, i2d_PKCS8PrivateKey_bio(bio, key, cipher, pass, (int)pass_len, NULL, NULL));
    mg_push_mem(L, bio);
    return 1;
}

static int
pkey_public_to_pem(lua_State *L)
{
    EVP_PKEY *key = self_key(L);
    mg_check_count(L, 0, 0);
    check_public(L, key, mg_function_name(L));
    BIO *bio = mg_box_push_mem(L);
    write_check(L, PEM_write_bio_PUBKEY(bio, key));
    mg_push_mem(L, bio);
    return 1;
}

static int
pkey_public_to_der(lua_State *L)
{
    EVP_PKEY *key = self_key(L);
    mg_check_count(L, 0, 0);
    check_public(L, key, mg_function_name(L));
    BIO *bio = mg_box_push_mem(L);
    write_check(L, i2d_PUBKEY_bio(bio, key));
    mg_push_mem(L, bio);
    return 1;
}

/* What Ruby's to_pem gives: the parameters of DH, the traditional form where the type has one, the
 * public form of a public key. */
static int
pkey_to_pem(lua_State *L)
{
    EVP_PKEY *key = self_key(L);
    bool traditional = EVP_PKEY_is_a(key, "RSA") || EVP_PKEY_is_a(key, "EC");
    const char *pass;
    size_t pass_len;
    mg_check_count(L, 0, 2);
    const EVP_CIPHER *cipher = check_cipher(L, 2, &pass, &pass_len);
    BIO *bio = mg_box_push_mem(L);
    if (EVP_PKEY_is_a(key, "DH") || !has_public(key)) {
        write_check(L, PEM_write_bio_Parameters(bio, key));
    } else if (!mg_pkey_has_private(key)) {
        write_check(L, PEM_write_bio_PUBKEY(bio, key));
    } else if (!traditional) {
        write_check(
            L, PEM_write_bio_PKCS8PrivateKey(bio, key, cipher, pass, (int)pass_len, NULL, NULL));
    } else {
        struct mg_passphrase given = {.text = pass, .len = pass_len};
        write_check(L, PEM_write_bio_PrivateKey_traditional(bio, key, cipher, NULL, 0,
                                                            mg_on_passphrase, &given));
    }
    mg_push_mem(L, bio);
    return 1;
}

static int
pkey_to_text(lua_State *L)
{
    EVP_PKEY *key = self_key(L);
    mg_check_count(L, 0, 0);
    BIO *bio = mg_box_push_mem(L);
    write_check(L, mg_pkey_has_private(key) ? EVP_PKEY_print_private(bio, key, 0, NULL)
                                            : EVP_PKEY_print_public(bio, key, 0, NULL));
    mg_push_mem(L, bio);
    return 1;
}

/* ---- using ---------------------------------------------------------------------------------- */

const EVP_MD *
mg_check_digest(lua_State *L, int arg)
{
    if (lua_isnoneornil(L, arg))
        return NULL;
    const char *name = mg_check_text(L, arg);
    const EVP_MD *digest = EVP_get_digestbyname(name);
    if (!digest)
        mg_lua_error(L, "ArgumentError", "%s: unsupported digest algorithm (%s)",
                     mg_function_name(L), name);
    return digest;
}

static void
md_ctx_free(void *ctx)
{
    EVP_MD_CTX_free(ctx);
}

static EVP_MD_CTX *
md_ctx_push(lua_State *L)
{
    struct mg_box *box = mg_box_push(L, md_ctx_free);
    box->ptr = EVP_MD_CTX_new();
    if (!box->ptr)
        mg_lua_openssl_error(L, "NoMemoryError", "EVP_MD_CTX_new");
    return box->ptr;
}

struct mg_buf *
mg_signature_push(lua_State *L, const void *fresh, size_t len)
{
    const struct mg_openssl_hooks *hooks = mg_openssl_hooks(L);
    struct mg_buf *signature = mg_box_push_buf(L);
    struct mg_err err = {"out of memory"};
    mg_buf_add(signature, fresh, len);
    if (signature->failed || hooks->made_signature(hooks->data, signature, &err) < 0)
        mg_lua_error(L, "PKeyError", "%s: %s", mg_function_name(L), err.text);
    return signature;
}

/* sign(digest, data) -> signature */
static int
pkey_sign(lua_State *L)
{
    EVP_PKEY *key = self_key(L);
    size_t len, sig_len = 0;
    mg_check_count(L, 2, 2);
    const EVP_MD *digest = mg_check_digest(L, 2);
    const unsigned char *data = (const unsigned char *)mg_check_string(L, 3, &len);
    check_private(L, key);
    EVP_MD_CTX *ctx = md_ctx_push(L);
    if (EVP_DigestSignInit(ctx, NULL, digest, NULL, key) != 1 ||
        EVP_DigestSign(ctx, NULL, &sig_len, data, len) != 1)
        mg_lua_openssl_error(L, "PKeyError", "PKey:sign: EVP_DigestSign");
    size_t room = sig_len;
    unsigned char *sig = lua_newuserdatauv(L, room > 0 ? room : 1, 0);
    /* ECDSA without memory for the last step succeeds with a length of -1. */
    if (EVP_DigestSign(ctx, sig, &sig_len, data, len) != 1 || sig_len > room)
        mg_lua_openssl_error(L, "PKeyError", "PKey:sign: EVP_DigestSign");
    ERR_clear_error();
    const struct mg_buf *signature = mg_signature_push(L, sig, sig_len);
    lua_pushlstring(L, signature->data, signature->len);
    return 1;
}

/* verify(digest, signature, data) -> boolean */
static int
pkey_verify(lua_State *L)
{
    EVP_PKEY *key = self_key(L);
    size_t len, sig_len;
    mg_check_count(L, 3, 3);
    const EVP_MD *digest = mg_check_digest(L, 2);
    const unsigned char *sig = (const unsigned char *)mg_check_string(L, 3, &sig_len);
    const unsigned char *data = (const unsigned char *)mg_check_string(L, 4, &len);
    EVP_MD_CTX *ctx = md_ctx_push(L);
    if (EVP_DigestVerifyInit(ctx, NULL, digest, NULL, key) != 1)
        mg_lua_openssl_error(L, "PKeyError", "PKey:verify: EVP_DigestVerifyInit");
    /* A malformed signature is an error for OpenSSL, and simply a wrong one for the caller. */
    int rc = EVP_DigestVerify(ctx, sig, sig_len, data, len);
    ERR_clear_error();
    lua_pushboolean(L, rc == 1);
    return 1;
}

/* compare(other): the same public part */
static int
pkey_compare(lua_State *L)
{
    EVP_PKEY *key = self_key(L);
    mg_check_count(L, 1, 1);
    const struct mg_pkey *other = mg_class_check(L, 2, &mg_pkey_class);
    int rc = EVP_PKEY_eq(key, other->key);
    ERR_clear_error();
    lua_pushboolean(L, rc == 1);
    return 1;
}

/* ---- the class ------------------------------------------------------------------------------ */

static int
pkey_tostring(lua_State *L)
{
    const struct mg_pkey *self = mg_class_test(L, 1, &mg_pkey_class);
    if (!self || !self->key)
        lua_pushliteral(L, "PKey");
    else
        lua_pushfstring(L, "PKey: %s %d bits%s", mg_pkey_type_name(self->key),
                        EVP_PKEY_get_bits(self->key),
                        mg_pkey_has_private(self->key) ? "" : " (public)");
    return 1;
}

static const struct mg_attr pkey_attrs[] = {
    {"oid", get_oid, NULL},
    {"type", get_type, NULL},
    {"bits", get_bits, NULL},
    {"private", get_private, NULL},
    {"public", get_public, NULL},
    {"public_key", get_public_key, NULL},
    {"raw_private_key", get_raw_private_key, NULL},
    {"raw_public_key", get_raw_public_key, NULL},
    {"group", get_group, NULL},
    {"params", mg_pkey_get_params, NULL},
    {"p", mg_pkey_get_p, NULL},
    {"g", mg_pkey_get_g, NULL},
    {NULL, NULL, NULL},
};

static const luaL_Reg pkey_methods[] = {
    {"private_to_pem", pkey_private_to_pem},
    {"private_to_der", pkey_private_to_der},
    {"public_to_pem", pkey_public_to_pem},
    {"public_to_der", pkey_public_to_der},
    {"to_pem", pkey_to_pem},
    {"export", pkey_to_pem},
    {"to_text", pkey_to_text},
    {"sign", pkey_sign},
    {"verify", pkey_verify},
    {"compare", pkey_compare},
    {NULL, NULL},
};

const struct mg_class mg_pkey_class = {
    .name = "PKey",
    .metatable = "moongate.PKey",
    .attrs = pkey_attrs,
    .methods = pkey_methods,
    .gc = pkey_gc,
    .tostring = pkey_tostring,
};

void
mg_open_pkey(lua_State *L)
{
    static const luaL_Reg pkey_functions[] = {
        {"read", mg_pkey_read},
        {"load_file", mg_pkey_load_file},
        {"generate_key", pkey_generate_key},
        {"generate_parameters", pkey_generate_parameters},
        {"new_raw_private_key", mg_pkey_new_raw_private_key},
        {"new_raw_public_key", mg_pkey_new_raw_public_key},
        {NULL, NULL},
    };
    static const luaL_Reg rsa_functions[] = {
        {"new", rsa_new},
        {"generate", rsa_generate},
        {NULL, NULL},
    };
    static const luaL_Reg ec_functions[] = {
        {"new", ec_new},
        {"generate", ec_generate},
        {NULL, NULL},
    };
    static const luaL_Reg dh_functions[] = {
        {"new", dh_new},
        {NULL, NULL},
    };
    mg_class_register(L, &mg_pkey_class);
    mg_functions_push(L, "PKey", pkey_functions);
    mg_functions_push(L, "PKey.RSA", rsa_functions);
    lua_setfield(L, -2, "RSA");
    mg_functions_push(L, "PKey.EC", ec_functions);
    lua_setfield(L, -2, "EC");
    mg_functions_push(L, "PKey.DH", dh_functions);
    lua_setfield(L, -2, "DH");
}

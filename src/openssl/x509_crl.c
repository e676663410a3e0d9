/*
 * x509_crl: X509.CRL and its entries, X509.Revoked – read, built and signed. A CRL that a store has
 * can no longer be changed.
 */
#include "openssl/internal.h"

#include <openssl/pem.h>

#include <string.h>

static X509_CRL *
self_crl(lua_State *L)
{
    return ((struct mg_crl *)mg_class_check(L, 1, &mg_crl_class))->crl;
}

static X509_CRL *
attr_crl(void *self)
{
    return ((struct mg_crl *)self)->crl;
}

X509_CRL *
mg_crl_share(lua_State *L, int arg)
{
    struct mg_crl *self = mg_class_check(L, arg, &mg_crl_class);
    if (!self->shared) {
        /* One that was built: what OpenSSL goes by – extensions, the hash that tells it from another – it has only of
         * what it has decoded. */
        ERR_set_mark();
        X509_CRL *decoded = X509_CRL_dup(self->crl);
        ERR_pop_to_mark();
        if (decoded) {
            X509_CRL_free(self->crl);
            self->crl = decoded;
        }
    }
    self->shared = true;
    return self->crl;
}

static bool
crl_is_frozen(const void *self)
{
    return ((const struct mg_crl *)self)->shared;
}

/* FrozenError of a method; fields are checked by the dispatcher. */
static X509_CRL *
crl_check_writable(lua_State *L)
{
    const struct mg_crl *self = mg_class_check(L, 1, &mg_crl_class);
    if (self->shared)
        mg_lua_error(L, "FrozenError", "%s: can't modify frozen CRL", mg_function_name(L));
    return self->crl;
}

static int
crl_gc(lua_State *L)
{
    struct mg_crl *self = lua_touserdata(L, 1);
    X509_CRL_free(self->crl);
    self->crl = NULL;
    return 0;
}

void
mg_lua_push_crl(lua_State *L, X509_CRL *crl)
{
    struct mg_crl *self = mg_class_new(L, &mg_crl_class, sizeof(*self));
    X509_CRL_up_ref(crl);
    self->crl = crl;
    self->shared = true;
}

/* CRL.new([pem_or_der]) */
static int
crl_new(lua_State *L)
{
    size_t len;
    mg_check_count(L, 0, 1);
    const char *data = mg_opt_string(L, 1, &len);
    struct mg_crl *self = mg_class_new(L, &mg_crl_class, sizeof(*self));
    int top = lua_gettop(L);
    ERR_clear_error();
    if (data) {
        BIO *bio = mg_box_push_bio(L, data, len);
        self->crl = mg_is_pem(data, len) ? PEM_read_bio_X509_CRL(bio, NULL, mg_no_passphrase, NULL)
                                         : d2i_X509_CRL_bio(bio, NULL);
    } else {
        self->crl = X509_CRL_new();
    }
    if (!self->crl)
        mg_lua_openssl_error(L, "CRLError", data ? "PEM_read_bio_X509_CRL" : "X509_CRL_new");
    lua_settop(L, top);
    return 1;
}

/* ---- reading many ---------------------------------------------------------------------------- */

static void
block_free(void *data)
{
    OPENSSL_free(data);
}

/* Appends the CRL of an encoding to the list at index `list`. */
static void
der_append(lua_State *L, int list, const char *what, const unsigned char *der, long len)
{
    int number = (int)lua_rawlen(L, list) + 1;
    struct mg_crl *self = mg_class_new(L, &mg_crl_class, sizeof(*self));
    self->crl = mg_pem_crl(der, len);
    self->shared = true; /* with the cache */
    if (!self->crl)
        mg_lua_openssl_error(L, "CRLError", "%s: CRL %d cannot be read", what, number);
    lua_rawseti(L, list, number);
}

/* The next block of the PEM at bio, whose CRL goes to the list; false: there is none, or it is damaged. */
static bool
block_append(lua_State *L, int list, const char *what, BIO *bio)
{
    int top = lua_gettop(L);
    struct mg_box *block = mg_box_push(L, block_free);
    char *name = NULL, *header = NULL;
    unsigned char *data = NULL;
    long len;
    if (PEM_read_bio(bio, &name, &header, &data, &len) != 1)
        return false;
    block->ptr = data;
    bool is_crl = strcmp(name, PEM_STRING_X509_CRL) == 0;
    OPENSSL_free(name);
    OPENSSL_free(header);
    if (is_crl)
        der_append(L, list, what, data, len);
    else
        OPENSSL_cleanse(data, (size_t)len); /* it may be a key */
    mg_box_free(block);
    lua_settop(L, top);
    return true;
}

void
mg_crl_parse_all(lua_State *L, const char *what, const char *data, size_t len)
{
    luaL_checkstack(L, 12, what);
    lua_newtable(L);
    int list = lua_gettop(L);
    ERR_clear_error();
    if (!mg_is_pem(data, len)) {
        der_append(L, list, what, (const unsigned char *)data, (long)len);
    } else {
        BIO *bio = mg_box_push_bio(L, data, len);
        while (block_append(L, list, what, bio))
            continue;
        unsigned long last = ERR_peek_last_error();
        if (ERR_GET_LIB(last) != ERR_LIB_PEM || ERR_GET_REASON(last) != PEM_R_NO_START_LINE)
            mg_lua_openssl_error(L, "CRLError", "%s: PEM_read_bio", what);
        mg_box_free(lua_touserdata(L, list + 1));
    }
    ERR_clear_error();
    lua_settop(L, list);
}

/* A CRL.load… without a CRL is a mistake. */
static int
list_check(lua_State *L, const char *what)
{
    if (lua_rawlen(L, -1) == 0)
        mg_lua_error(L, "CRLError", "%s: no CRL found", what);
    return 1;
}

/* CRL.load(pem_or_der) -> list */
static int
crl_load(lua_State *L)
{
    size_t len;
    mg_check_count(L, 1, 1);
    const char *data = mg_check_string(L, 1, &len);
    mg_crl_parse_all(L, mg_function_name(L), data, len);
    return list_check(L, mg_function_name(L));
}

/* CRL.load_file(path) -> list */
static int
crl_load_file(lua_State *L)
{
    mg_check_count(L, 1, 1);
    const char *path = mg_check_text(L, 1), *what = mg_function_name(L);
    struct mg_buf *file = mg_file_push(L, "SystemCallError", what, path);
    what = lua_pushfstring(L, "%s: %s", what, path);
    mg_crl_parse_all(L, what, file->data ? file->data : "", file->len);
    mg_buf_free(file);
    return list_check(L, what);
}

/* ---- Revoked --------------------------------------------------------------------------------- */

static X509_REVOKED *
attr_revoked(void *self)
{
    return ((struct mg_revoked *)self)->revoked;
}

static int
revoked_gc(lua_State *L)
{
    struct mg_revoked *self = lua_touserdata(L, 1);
    X509_REVOKED_free(self->revoked);
    self->revoked = NULL;
    return 0;
}

/* A copy of its own, so that it can be changed and outlives its list. */
static void
revoked_push(lua_State *L, X509_REVOKED *revoked)
{
    struct mg_revoked *self = mg_class_new(L, &mg_revoked_class, sizeof(*self));
    self->revoked = X509_REVOKED_dup(revoked);
    if (!self->revoked)
        mg_lua_openssl_error(L, "RevokedError", "X509_REVOKED_dup");
}

static int
revoked_new(lua_State *L)
{
    mg_check_count(L, 0, 0);
    struct mg_revoked *self = mg_class_new(L, &mg_revoked_class, sizeof(*self));
    self->revoked = X509_REVOKED_new();
    if (!self->revoked)
        mg_lua_openssl_error(L, "RevokedError", "X509_REVOKED_new");
    return 1;
}

static int
get_serial(lua_State *L, void *self)
{
    mg_push_serial(L, X509_REVOKED_get0_serialNumber(attr_revoked(self)));
    return 1;
}

static void
set_serial(lua_State *L, void *self, int value)
{
    const ASN1_INTEGER *serial = mg_attr_serial(L, value, "Revoked", "serial");
    if (X509_REVOKED_set_serialNumber(attr_revoked(self), (ASN1_INTEGER *)(uintptr_t)serial) != 1)
        mg_lua_openssl_error(L, "RevokedError", "Revoked.serial");
}

static int
get_time(lua_State *L, void *self)
{
    mg_push_time(L, X509_REVOKED_get0_revocationDate(attr_revoked(self)));
    return 1;
}

static void
set_time(lua_State *L, void *self, int value)
{
    const ASN1_TIME *time = mg_attr_time(L, value, "Revoked", "time");
    if (X509_REVOKED_set_revocationDate(attr_revoked(self), (ASN1_TIME *)(uintptr_t)time) != 1)
        mg_lua_openssl_error(L, "RevokedError", "Revoked.time");
}

static int
get_revoked_extensions(lua_State *L, void *self)
{
    mg_lua_push_extensions(L, X509_REVOKED_get0_extensions(attr_revoked(self)));
    return 1;
}

/* add_extension(extension) -> self */
static int
revoked_add_extension(lua_State *L)
{
    const struct mg_revoked *self = mg_class_check(L, 1, &mg_revoked_class);
    mg_check_count(L, 1, 1);
    const struct mg_extension *extension = mg_class_check(L, 2, &mg_extension_class);
    ERR_clear_error();
    if (X509_REVOKED_add_ext(self->revoked, extension->ext, -1) != 1)
        mg_lua_openssl_error(L, "RevokedError", "Revoked:add_extension");
    lua_settop(L, 1);
    return 1;
}

static const struct mg_attr revoked_attrs[] = {
    {"serial", get_serial, set_serial},
    {"time", get_time, set_time},
    {"extensions", get_revoked_extensions, NULL},
    {NULL, NULL, NULL},
};

static const luaL_Reg revoked_methods[] = {
    {"add_extension", revoked_add_extension},
    {NULL, NULL},
};

const struct mg_class mg_revoked_class = {
    .name = "Revoked",
    .metatable = "moongate.X509.Revoked",
    .attrs = revoked_attrs,
    .methods = revoked_methods,
    .gc = revoked_gc,
};

const luaL_Reg mg_revoked_functions[] = {
    {"new", revoked_new},
    {NULL, NULL},
};

/* ---- CRL: fields ----------------------------------------------------------------------------- */

static void
set_check(lua_State *L, int ok, const char *name)
{
    if (ok != 1)
        mg_lua_openssl_error(L, "CRLError", "CRL.%s", name);
}

static int
get_version(lua_State *L, void *self)
{
    lua_pushinteger(L, X509_CRL_get_version(attr_crl(self)));
    return 1;
}

static void
set_version(lua_State *L, void *self, int value)
{
    lua_Integer version = mg_attr_integer(L, value, "CRL", "version");
    if (version < 0 || version > 1)
        mg_lua_error(L, "CRLError", "CRL.version: expected 0 or 1, got %lld", (long long)version);
    set_check(L, X509_CRL_set_version(attr_crl(self), (long)version), "version");
}

static int
get_issuer(lua_State *L, void *self)
{
    mg_lua_push_name(L, X509_CRL_get_issuer(attr_crl(self)));
    return 1;
}

static void
set_issuer(lua_State *L, void *self, int value)
{
    X509_NAME *name = mg_attr_name(L, value, "CRL", "issuer");
    set_check(L, X509_CRL_set_issuer_name(attr_crl(self), name), "issuer");
}

static int
get_last_update(lua_State *L, void *self)
{
    mg_push_time(L, X509_CRL_get0_lastUpdate(attr_crl(self)));
    return 1;
}

static void
set_last_update(lua_State *L, void *self, int value)
{
    set_check(
        L, X509_CRL_set1_lastUpdate(attr_crl(self), mg_attr_time(L, value, "CRL", "last_update")),
        "last_update");
}

static int
get_next_update(lua_State *L, void *self)
{
    mg_push_time(L, X509_CRL_get0_nextUpdate(attr_crl(self)));
    return 1;
}

static void
set_next_update(lua_State *L, void *self, int value)
{
    set_check(
        L, X509_CRL_set1_nextUpdate(attr_crl(self), mg_attr_time(L, value, "CRL", "next_update")),
        "next_update");
}

static int
get_revoked(lua_State *L, void *self)
{
    const STACK_OF(X509_REVOKED) *list = X509_CRL_get_REVOKED(attr_crl(self));
    lua_newtable(L);
    for (int i = 0; i < sk_X509_REVOKED_num(list); i++) {
        revoked_push(L, sk_X509_REVOKED_value(list, i));
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static int
get_extensions(lua_State *L, void *self)
{
    mg_lua_push_extensions(L, X509_CRL_get0_extensions(attr_crl(self)));
    return 1;
}

static int
get_signature_algorithm(lua_State *L, void *self)
{
    int nid = X509_CRL_get_signature_nid(attr_crl(self));
    lua_pushstring(L, nid == NID_undef ? "undefined" : OBJ_nid2ln(nid));
    return 1;
}

/* ---- CRL: methods ---------------------------------------------------------------------------- */

/* by_serial(serial) -> Revoked or nil */
static int
crl_by_serial(lua_State *L)
{
    X509_CRL *crl = self_crl(L);
    mg_check_count(L, 1, 1);
    X509_REVOKED *found = NULL;
    const ASN1_INTEGER *serial = mg_attr_serial(L, 2, "CRL", "by_serial");
    if (X509_CRL_get0_by_serial(crl, &found, (ASN1_INTEGER *)(uintptr_t)serial) > 0 && found)
        revoked_push(L, found);
    else
        lua_pushnil(L);
    ERR_clear_error();
    return 1;
}

/* add_revoked(revoked) -> self */
static int
crl_add_revoked(lua_State *L)
{
    X509_CRL *crl = crl_check_writable(L);
    mg_check_count(L, 1, 1);
    const struct mg_revoked *given = mg_class_check(L, 2, &mg_revoked_class);
    ERR_clear_error();
    X509_REVOKED *copy = X509_REVOKED_dup(given->revoked);
    if (!copy || X509_CRL_add0_revoked(crl, copy) != 1) {
        X509_REVOKED_free(copy);
        mg_lua_openssl_error(L, "CRLError", "CRL:add_revoked");
    }
    lua_settop(L, 1);
    return 1;
}

/* add_extension(extension) -> self */
static int
crl_add_extension(lua_State *L)
{
    X509_CRL *crl = crl_check_writable(L);
    mg_check_count(L, 1, 1);
    const struct mg_extension *extension = mg_class_check(L, 2, &mg_extension_class);
    ERR_clear_error();
    set_check(L, X509_CRL_add_ext(crl, extension->ext, -1), "add_extension");
    lua_settop(L, 1);
    return 1;
}

/* sign(key[, digest]) -> self; digest nil for Ed25519 and Ed448 */
static int
crl_sign(lua_State *L)
{
    X509_CRL *crl = crl_check_writable(L);
    mg_check_count(L, 1, 2);
    mg_class_check(L, 2, &mg_pkey_class);
    EVP_PKEY *key = mg_pkey_test(L, 2);
    const EVP_MD *digest = mg_check_digest(L, 3);
    if (!mg_pkey_has_private(key))
        mg_lua_error(L, "ArgumentError", "CRL:sign: private key is needed");
    ERR_clear_error();
    X509_CRL_sort(crl);
    const ASN1_BIT_STRING *signature;
    X509_CRL_get0_signature(crl, &signature, NULL);
    if (X509_CRL_sign(crl, key, digest) <= 0) {
        mg_signature_drop(signature);
        mg_lua_openssl_error(L, "CRLError", "X509_CRL_sign");
    }
    ERR_clear_error(); /* a failure that OpenSSL got by */
    mg_signature_keep(L, signature);
    lua_settop(L, 1);
    return 1;
}

static int
crl_to_pem(lua_State *L)
{
    X509_CRL *crl = self_crl(L);
    mg_check_count(L, 0, 0);
    BIO *bio = mg_box_push_mem(L);
    if (PEM_write_bio_X509_CRL(bio, crl) != 1)
        mg_lua_openssl_error(L, "CRLError", "PEM_write_bio_X509_CRL");
    mg_push_mem(L, bio);
    return 1;
}

static int
crl_to_der(lua_State *L)
{
    X509_CRL *crl = self_crl(L);
    mg_check_count(L, 0, 0);
    BIO *bio = mg_box_push_mem(L);
    if (i2d_X509_CRL_bio(bio, crl) != 1)
        mg_lua_openssl_error(L, "CRLError", "i2d_X509_CRL_bio");
    mg_push_mem(L, bio);
    return 1;
}

static int
crl_to_text(lua_State *L)
{
    X509_CRL *crl = self_crl(L);
    mg_check_count(L, 0, 0);
    BIO *bio = mg_box_push_mem(L);
    if (X509_CRL_print(bio, crl) != 1)
        mg_lua_openssl_error(L, "CRLError", "X509_CRL_print");
    ERR_clear_error();
    mg_push_mem(L, bio);
    return 1;
}

/* verify(public_key) -> boolean */
static int
crl_verify(lua_State *L)
{
    X509_CRL *crl = self_crl(L);
    mg_check_count(L, 1, 1);
    mg_class_check(L, 2, &mg_pkey_class);
    int rc = X509_CRL_verify(crl, mg_pkey_test(L, 2));
    ERR_clear_error();
    lua_pushboolean(L, rc == 1);
    return 1;
}

/* By encoding, as certificates. */
static int
crl_eq(lua_State *L)
{
    const struct mg_crl *a = mg_class_test(L, 1, &mg_crl_class);
    const struct mg_crl *b = mg_class_test(L, 2, &mg_crl_class);
    unsigned char *a_der = NULL, *b_der = NULL;
    int a_len = a ? i2d_X509_CRL(a->crl, &a_der) : -1,
        b_len = b ? i2d_X509_CRL(b->crl, &b_der) : -1;
    bool equal = a_len > 0 && a_len == b_len && memcmp(a_der, b_der, (size_t)a_len) == 0;
    OPENSSL_free(a_der);
    OPENSSL_free(b_der);
    ERR_clear_error();
    lua_pushboolean(L, equal);
    return 1;
}

static const struct mg_attr crl_attrs[] = {
    {"version", get_version, set_version},
    {"issuer", get_issuer, set_issuer},
    {"last_update", get_last_update, set_last_update},
    {"next_update", get_next_update, set_next_update},
    {"revoked", get_revoked, NULL},
    {"extensions", get_extensions, NULL},
    {"signature_algorithm", get_signature_algorithm, NULL},
    {NULL, NULL, NULL},
};

static const luaL_Reg crl_methods[] = {
    {"by_serial", crl_by_serial},
    {"add_revoked", crl_add_revoked},
    {"add_extension", crl_add_extension},
    {"sign", crl_sign},
    {"to_pem", crl_to_pem},
    {"to_s", crl_to_pem},
    {"to_der", crl_to_der},
    {"to_text", crl_to_text},
    {"verify", crl_verify},
    {NULL, NULL},
};

const struct mg_class mg_crl_class = {
    .name = "CRL",
    .metatable = "moongate.X509.CRL",
    .attrs = crl_attrs,
    .methods = crl_methods,
    .is_frozen = crl_is_frozen,
    .gc = crl_gc,
    .eq = crl_eq,
};

const luaL_Reg mg_crl_functions[] = {
    {"new", crl_new},
    {"load", crl_load},
    {"load_file", crl_load_file},
    {NULL, NULL},
};

/*
 * x509_build: making certificates – the writers of Certificate, signing, and ExtensionFactory,
 * which turns "subjectAltName", "DNS:localhost" into an Extension. For tests and small private CAs.
 */
#include "openssl/internal.h"

#include <limits.h>
#include <string.h>
#include <time.h>

static X509 *
attr_x509(void *self)
{
    return ((struct mg_certificate *)self)->x509;
}

static void
set_check(lua_State *L, int ok, const char *name)
{
    if (ok != 1)
        mg_lua_openssl_error(L, "CertificateError", "Certificate.%s", name);
}

/* ---- writers -------------------------------------------------------------------------------- */

void
mg_x509_set_version(lua_State *L, void *self, int value)
{
    lua_Integer version = mg_attr_integer(L, value, "Certificate", "version");
    if (version < 0 || version > 2)
        mg_lua_error(L, "CertificateError", "Certificate.version: expected 0 to 2, got %lld",
                     (long long)version);
    set_check(L, X509_set_version(attr_x509(self), (long)version), "version");
}

static void
bn_free(void *bn)
{
    BN_free(bn);
}

static void
asn1_integer_free(void *number)
{
    ASN1_INTEGER_free(number);
}

const ASN1_INTEGER *
mg_attr_serial(lua_State *L, int value, const char *cls, const char *name)
{
    char text[24];
    const char *hex;
    if (lua_type(L, value) == LUA_TNUMBER) {
        lua_Integer number = mg_attr_integer(L, value, cls, name);
        if (number < 0)
            mg_lua_error(L, lua_pushfstring(L, "%sError", cls), "%s.%s: must not be negative", cls,
                         name);
        lua_Unsigned rest = (lua_Unsigned)number;
        char *p = text + sizeof(text) - 1;
        *p = '\0';
        do
            *--p = "0123456789ABCDEF"[rest & 15];
        while ((rest >>= 4) != 0);
        hex = p;
    } else {
        hex = mg_attr_text(L, value, cls, name);
    }
    size_t len = strlen(hex);
    if (len == 0 || len > 40 || strspn(hex, "0123456789ABCDEFabcdef") != len)
        mg_lua_error(L, lua_pushfstring(L, "%sError", cls),
                     "%s.%s: expected 1 to 40 hexadecimal digits, got \"%.80s\"", cls, name, hex);
    struct mg_box *bn = mg_box_push(L, bn_free), *number = mg_box_push(L, asn1_integer_free);
    BIGNUM *parsed = NULL;
    BN_hex2bn(&parsed, hex);
    bn->ptr = parsed;
    if (parsed)
        number->ptr = BN_to_ASN1_INTEGER(parsed, NULL);
    if (!number->ptr)
        mg_lua_openssl_error(L, "NoMemoryError", "%s.%s", cls, name);
    return number->ptr;
}

void
mg_x509_set_serial(lua_State *L, void *self, int value)
{
    const ASN1_INTEGER *serial = mg_attr_serial(L, value, "Certificate", "serial");
    set_check(L, X509_set_serialNumber(attr_x509(self), (ASN1_INTEGER *)(uintptr_t)serial),
              "serial");
}

void
mg_x509_set_subject(lua_State *L, void *self, int value)
{
    X509_NAME *name = mg_attr_name(L, value, "Certificate", "subject");
    set_check(L, X509_set_subject_name(attr_x509(self), name), "subject");
}

void
mg_x509_set_issuer(lua_State *L, void *self, int value)
{
    X509_NAME *name = mg_attr_name(L, value, "Certificate", "issuer");
    set_check(L, X509_set_issuer_name(attr_x509(self), name), "issuer");
}

static void
asn1_time_free(void *asn1)
{
    ASN1_TIME_free(asn1);
}

/* Years outside of these have no form in a certificate; ASN1_TIME_adj does not always see that. */
#define YEAR_0     (-62167219200)
#define YEAR_10000 253402300800

const ASN1_TIME *
mg_attr_time(lua_State *L, int value, const char *cls, const char *name)
{
    lua_Integer seconds = mg_attr_integer(L, value, cls, name);
    struct mg_box *box = mg_box_push(L, asn1_time_free);
    ERR_clear_error();
    if (seconds >= YEAR_0 && seconds < YEAR_10000)
        box->ptr = ASN1_TIME_adj(NULL, (time_t)seconds, 0, 0);
    if (!box->ptr)
        mg_lua_openssl_error(L, lua_pushfstring(L, "%sError", cls), "%s.%s: %lld", cls, name,
                             (long long)seconds);
    return box->ptr;
}

void
mg_x509_set_not_before(lua_State *L, void *self, int value)
{
    set_check(
        L,
        X509_set1_notBefore(attr_x509(self), mg_attr_time(L, value, "Certificate", "not_before")),
        "not_before");
}

void
mg_x509_set_not_after(lua_State *L, void *self, int value)
{
    set_check(
        L, X509_set1_notAfter(attr_x509(self), mg_attr_time(L, value, "Certificate", "not_after")),
        "not_after");
}

void
mg_x509_set_public_key(lua_State *L, void *self, int value)
{
    EVP_PKEY *key = mg_pkey_test(L, value);
    if (!key)
        mg_attr_type_error(L, value, "Certificate", "public_key", "PKey");
    /* OpenSSL keeps the very key it is given, private half and all: it gets a public one. */
    mg_pkey_push_public(L, key, "Certificate.public_key");
    set_check(L, X509_set_pubkey(attr_x509(self), mg_pkey_test(L, -1)), "public_key");
}

/* FrozenError of a method; fields are checked by the dispatcher. */
static X509 *
check_writable(lua_State *L)
{
    const struct mg_certificate *self = mg_class_check(L, 1, &mg_certificate_class);
    if (self->shared)
        mg_lua_error(L, "FrozenError", "%s: can't modify frozen Certificate", mg_function_name(L));
    return self->x509;
}

/* add_extension(extension) -> self */
int
mg_x509_add_extension(lua_State *L)
{
    X509 *x509 = check_writable(L);
    mg_check_count(L, 1, 1);
    const struct mg_extension *extension = mg_class_check(L, 2, &mg_extension_class);
    ERR_clear_error();
    set_check(L, X509_add_ext(x509, extension->ext, -1), "add_extension");
    lua_settop(L, 1);
    return 1;
}

void
mg_signature_drop(const ASN1_BIT_STRING *failed)
{
    ASN1_STRING_set0((ASN1_STRING *)(uintptr_t)failed, NULL, 0);
}

void
mg_signature_keep(lua_State *L, const ASN1_BIT_STRING *fresh)
{
    const struct mg_buf *signature =
        mg_signature_push(L, ASN1_STRING_get0_data(fresh), (size_t)ASN1_STRING_length(fresh));
    if (ASN1_STRING_set((ASN1_STRING *)(uintptr_t)fresh, signature->data, (int)signature->len) != 1)
        mg_lua_openssl_error(L, "NoMemoryError", "ASN1_STRING_set");
    lua_pop(L, 1);
}

/* sign(key[, digest]) -> self; digest nil for Ed25519 and Ed448 */
int
mg_x509_sign(lua_State *L)
{
    X509 *x509 = check_writable(L);
    mg_check_count(L, 1, 2);
    mg_class_check(L, 2, &mg_pkey_class);
    EVP_PKEY *key = mg_pkey_test(L, 2);
    const EVP_MD *digest = mg_check_digest(L, 3);
    if (!mg_pkey_has_private(key))
        mg_lua_error(L, "ArgumentError", "Certificate:sign: private key is needed");
    ERR_clear_error();
    const ASN1_BIT_STRING *signature;
    X509_get0_signature(&signature, NULL, x509);
    if (X509_sign(x509, key, digest) <= 0) {
        mg_signature_drop(signature);
        mg_lua_openssl_error(L, "CertificateError", "X509_sign");
    }
    ERR_clear_error(); /* a failure that OpenSSL got by */
    mg_signature_keep(L, signature);
    lua_settop(L, 1);
    return 1;
}

/* ---- ExtensionFactory ----------------------------------------------------------------------- */

/* Holds its two certificates in user values 2 and 3, where a subject's key identifier comes from.
 */
enum { FACTORY_ISSUER = 2, FACTORY_SUBJECT = 3 };

static const struct mg_class factory_class;

static int
factory_get(lua_State *L, int slot)
{
    lua_getiuservalue(L, 1, slot);
    return 1;
}

static void
factory_set(lua_State *L, int value, int slot, const char *name)
{
    if (!lua_isnil(L, value) && !mg_x509_test(L, value))
        mg_attr_type_error(L, value, "ExtensionFactory", name, "Certificate");
    lua_pushvalue(L, value);
    lua_setiuservalue(L, 1, slot);
}

static int
get_issuer_certificate(lua_State *L, void *self MG_UNUSED)
{
    return factory_get(L, FACTORY_ISSUER);
}

static int
get_subject_certificate(lua_State *L, void *self MG_UNUSED)
{
    return factory_get(L, FACTORY_SUBJECT);
}

static void
set_issuer_certificate(lua_State *L, void *self MG_UNUSED, int value)
{
    factory_set(L, value, FACTORY_ISSUER, "issuer_certificate");
}

static void
set_subject_certificate(lua_State *L, void *self MG_UNUSED, int value)
{
    factory_set(L, value, FACTORY_SUBJECT, "subject_certificate");
}

/* create_extension(oid, value[, critical]): value in the form of openssl.cnf, sections excepted */
static int
factory_create_extension(lua_State *L)
{
    mg_class_check(L, 1, &factory_class);
    mg_check_count(L, 2, 3);
    const char *oid = mg_check_text(L, 2), *value = mg_check_text(L, 3);
    bool critical = !lua_isnoneornil(L, 4) && mg_check_boolean(L, 4);
    lua_settop(L, 3);
    lua_getiuservalue(L, 1, FACTORY_ISSUER);
    lua_getiuservalue(L, 1, FACTORY_SUBJECT);
    int nid = OBJ_txt2nid(oid);
    if (nid == NID_undef)
        mg_lua_error(L, "ExtensionError",
                     "ExtensionFactory:create_extension: unknown OID \"%.80s\"", oid);
    if (critical)
        value = lua_pushfstring(L, "critical,%s", value);
    struct mg_extension *self = mg_class_new(L, &mg_extension_class, sizeof(*self));
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, mg_x509_test(L, 4), mg_x509_test(L, 5), NULL, NULL, 0);
    X509V3_set_ctx_nodb(&ctx);
    ERR_clear_error();
    self->ext = X509V3_EXT_nconf_nid(NULL, &ctx, nid, value);
    if (!self->ext)
        mg_lua_openssl_error(L, "ExtensionError", "ExtensionFactory:create_extension: %s = %.200s",
                             oid, value);
    ERR_clear_error();
    return 1;
}

static int
factory_new(lua_State *L)
{
    mg_check_count(L, 0, 2);
    lua_settop(L, 2);
    mg_class_new(L, &factory_class, 0);
    lua_insert(L, 1);
    factory_set(L, 2, FACTORY_ISSUER, "issuer_certificate");
    factory_set(L, 3, FACTORY_SUBJECT, "subject_certificate");
    lua_settop(L, 1);
    return 1;
}

static const struct mg_attr factory_attrs[] = {
    {"issuer_certificate", get_issuer_certificate, set_issuer_certificate},
    {"subject_certificate", get_subject_certificate, set_subject_certificate},
    {NULL, NULL, NULL},
};

static const luaL_Reg factory_methods[] = {
    {"create_extension", factory_create_extension},
    {NULL, NULL},
};

static const struct mg_class factory_class = {
    .name = "ExtensionFactory",
    .metatable = "moongate.X509.ExtensionFactory",
    .attrs = factory_attrs,
    .methods = factory_methods,
    .user_values = 3,
};

static const luaL_Reg factory_functions[] = {
    {"new", factory_new},
    {NULL, NULL},
};

/* ---- X509 ----------------------------------------------------------------------------------- */

static void
class_open(lua_State *L, const struct mg_class *cls, const luaL_Reg *functions)
{
    mg_class_register(L, cls);
    mg_functions_push(L, cls->name, functions);
    lua_setfield(L, -2, cls->name);
}

void
mg_open_x509(lua_State *L)
{
    lua_newtable(L);
    class_open(L, &mg_certificate_class, mg_certificate_functions);
    class_open(L, &mg_name_class, mg_name_functions);
    class_open(L, &mg_extension_class, mg_extension_functions);
    class_open(L, &factory_class, factory_functions);
    class_open(L, &mg_store_class, mg_store_functions);
    class_open(L, &mg_crl_class, mg_crl_functions);
    class_open(L, &mg_revoked_class, mg_revoked_functions);
    mg_class_register(L, &mg_store_context_class);

    lua_getfield(L, -1, "Name");
    lua_pushinteger(L, (lua_Integer)XN_FLAG_COMPAT);
    lua_setfield(L, -2, "COMPAT");
    lua_pushinteger(L, (lua_Integer)XN_FLAG_RFC2253);
    lua_setfield(L, -2, "RFC2253");
    lua_pushinteger(L, (lua_Integer)XN_FLAG_ONELINE);
    lua_setfield(L, -2, "ONELINE");
    lua_pushinteger(L, (lua_Integer)XN_FLAG_MULTILINE);
    lua_setfield(L, -2, "MULTILINE");
    lua_pop(L, 1);

    mg_open_x509_constants(L);
}

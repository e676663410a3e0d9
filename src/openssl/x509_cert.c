/*
 * x509_cert: X509.Certificate as Ruby's class has it: reading one or many from PEM or DER, its
 * fields, its conversions and its questions. Building and signing is in x509_build.c.
 */
#include "openssl/internal.h"

#include <openssl/pem.h>

#include <string.h>

static X509 *
self_x509(lua_State *L)
{
    return ((struct mg_certificate *)mg_class_check(L, 1, &mg_certificate_class))->x509;
}

static X509 *
attr_x509(void *self)
{
    return ((struct mg_certificate *)self)->x509;
}

X509 *
mg_x509_test(lua_State *L, int idx)
{
    const struct mg_certificate *self = mg_class_test(L, idx, &mg_certificate_class);
    return self ? self->x509 : NULL;
}

X509 *
mg_x509_share(lua_State *L, int idx)
{
    struct mg_certificate *self = mg_class_test(L, idx, &mg_certificate_class);
    if (!self)
        return NULL;
    self->shared = true;
    return self->x509;
}

static bool
certificate_is_frozen(const void *self)
{
    return ((const struct mg_certificate *)self)->shared;
}

/* A Certificate that waits for its X509. */
static struct mg_certificate *
certificate_push(lua_State *L)
{
    return mg_class_new(L, &mg_certificate_class, sizeof(struct mg_certificate));
}

void
mg_lua_push_x509(lua_State *L, X509 *x509)
{
    struct mg_certificate *self = certificate_push(L);
    X509_up_ref(x509);
    self->x509 = x509;
    self->shared = true;
}

void
mg_lua_push_x509_list(lua_State *L, const STACK_OF(X509) * certs)
{
    if (!certs) {
        lua_pushnil(L);
        return;
    }
    lua_createtable(L, sk_X509_num(certs), 0);
    for (int i = 0; i < sk_X509_num(certs); i++) {
        mg_lua_push_x509(L, sk_X509_value(certs, i));
        lua_rawseti(L, -2, i + 1);
    }
}

static int
certificate_gc(lua_State *L)
{
    struct mg_certificate *self = lua_touserdata(L, 1);
    X509_free(self->x509);
    self->x509 = NULL;
    return 0;
}

/* ---- reading -------------------------------------------------------------------------------- */

/* DER first, as Ruby does. NULL: OpenSSL's queue says why PEM did not work either. */
static X509 *
x509_decode(BIO *bio, bool pem)
{
    X509 *x509 = pem ? NULL : d2i_X509_bio(bio, NULL);
    if (x509)
        return x509;
    ERR_clear_error();
    BIO_reset(bio);
    return PEM_read_bio_X509(bio, NULL, mg_no_passphrase, NULL);
}

/* Certificate.new([pem_or_der]) */
static int
certificate_new(lua_State *L)
{
    size_t len;
    mg_check_count(L, 0, 1);
    const char *data = mg_opt_string(L, 1, &len);
    struct mg_certificate *self = certificate_push(L);
    ERR_clear_error();
    if (data) {
        BIO *bio = mg_box_push_bio(L, data, len);
        self->x509 = x509_decode(bio, mg_is_pem(data, len));
        lua_pushvalue(L, -2);
    } else {
        self->x509 = X509_new();
    }
    if (!self->x509)
        mg_lua_openssl_error(L, "CertificateError", data ? "PEM_read_bio_X509" : "X509_new");
    ERR_clear_error();
    return 1;
}

void
mg_x509_parse_all(lua_State *L, const char *cls, const char *what, const char *data, size_t len)
{
    BIO *bio = mg_box_push_bio(L, data, len);
    int count = 0;
    ERR_clear_error();
    lua_newtable(L);
    if (!mg_is_pem(data, len)) {
        struct mg_certificate *self = certificate_push(L);
        self->x509 = d2i_X509_bio(bio, NULL);
        if (!self->x509)
            mg_lua_openssl_error(L, cls, "%s: Could not detect format of certificate data!", what);
        lua_rawseti(L, -2, ++count);
    } else {
        for (;;) {
            struct mg_certificate *self = certificate_push(L);
            self->x509 = PEM_read_bio_X509(bio, NULL, mg_no_passphrase, NULL);
            if (!self->x509)
                break;
            lua_rawseti(L, -2, ++count);
        }
        lua_pop(L, 1);
        unsigned long last = ERR_peek_last_error();
        if (ERR_GET_LIB(last) != ERR_LIB_PEM || ERR_GET_REASON(last) != PEM_R_NO_START_LINE)
            mg_lua_openssl_error(L, cls, "%s: PEM_read_bio_X509: certificate %d", what, count + 1);
        ERR_clear_error();
        if (count == 0)
            mg_lua_error(L, cls, "%s: Could not detect format of certificate data!", what);
    }
    mg_box_free(lua_touserdata(L, -2));
    lua_remove(L, -2);
}

/* Certificate.load(pem_or_der) -> list */
static int
certificate_load(lua_State *L)
{
    size_t len;
    mg_check_count(L, 1, 1);
    const char *data = mg_check_string(L, 1, &len);
    mg_x509_parse_all(L, "CertificateError", mg_function_name(L), data, len);
    return 1;
}

/* Certificate.load_file(path) -> list */
static int
certificate_load_file(lua_State *L)
{
    mg_check_count(L, 1, 1);
    const char *path = mg_check_text(L, 1), *what = mg_function_name(L);
    struct mg_buf *file = mg_file_push(L, "SystemCallError", what, path);
    what = lua_pushfstring(L, "%s: %s", what, path);
    mg_x509_parse_all(L, "CertificateError", what, file->data, file->len);
    mg_x509_note_files(L, -1, path);
    return 1;
}

/* ---- fields --------------------------------------------------------------------------------- */

static int
get_subject(lua_State *L, void *self)
{
    mg_lua_push_name(L, X509_get_subject_name(attr_x509(self)));
    return 1;
}

static int
get_issuer(lua_State *L, void *self)
{
    mg_lua_push_name(L, X509_get_issuer_name(attr_x509(self)));
    return 1;
}

static int
get_serial(lua_State *L, void *self)
{
    mg_push_serial(L, X509_get0_serialNumber(attr_x509(self)));
    return 1;
}

static int
get_version(lua_State *L, void *self)
{
    lua_pushinteger(L, X509_get_version(attr_x509(self)));
    return 1;
}

static int
get_not_before(lua_State *L, void *self)
{
    mg_push_time(L, X509_get0_notBefore(attr_x509(self)));
    return 1;
}

static int
get_not_after(lua_State *L, void *self)
{
    mg_push_time(L, X509_get0_notAfter(attr_x509(self)));
    return 1;
}

static int
get_public_key(lua_State *L, void *self)
{
    EVP_PKEY *key = X509_get0_pubkey(attr_x509(self));
    if (!key)
        mg_lua_openssl_error(L, "CertificateError", "Certificate.public_key");
    mg_lua_push_pkey(L, key);
    return 1;
}

static int
get_signature_algorithm(lua_State *L, void *self)
{
    const ASN1_OBJECT *object;
    const X509_ALGOR *algorithm;
    char name[128];
    X509_get0_signature(NULL, &algorithm, attr_x509(self));
    X509_ALGOR_get0(&object, NULL, NULL, algorithm);
    if (OBJ_obj2txt(name, sizeof(name), object, 0) <= 0)
        mg_str_copy(name, sizeof(name), "undefined");
    ERR_clear_error();
    lua_pushstring(L, name);
    return 1;
}

static int
get_extensions(lua_State *L, void *self)
{
    mg_lua_push_extensions(L, X509_get0_extensions(attr_x509(self)));
    return 1;
}

static void
hex_push(lua_State *L, const unsigned char *data, int len)
{
    luaL_Buffer out;
    luaL_buffinit(L, &out);
    for (int i = 0; i < len; i++) {
        static const char digit[] = "0123456789ABCDEF";
        luaL_addchar(&out, digit[data[i] >> 4]);
        luaL_addchar(&out, digit[data[i] & 15]);
    }
    luaL_pushresult(&out);
}

/* Key identifiers are binary in Ruby; here, as serials, upper-case hexadecimal. */
static int
get_subject_key_identifier(lua_State *L, void *self)
{
    const ASN1_OCTET_STRING *id = X509_get0_subject_key_id(attr_x509(self));
    if (id)
        hex_push(L, ASN1_STRING_get0_data(id), ASN1_STRING_length(id));
    else
        lua_pushnil(L);
    return 1;
}

static int
get_authority_key_identifier(lua_State *L, void *self)
{
    const ASN1_OCTET_STRING *id = X509_get0_authority_key_id(attr_x509(self));
    if (id)
        hex_push(L, ASN1_STRING_get0_data(id), ASN1_STRING_length(id));
    else
        lua_pushnil(L);
    return 1;
}

/* Into the table on top, if it is a URI. */
static void
uri_add(lua_State *L, const GENERAL_NAME *name)
{
    int type;
    const ASN1_STRING *uri = GENERAL_NAME_get0_value(name, &type);
    if (type != GEN_URI)
        return;
    lua_pushlstring(L, (const char *)ASN1_STRING_get0_data(uri), (size_t)ASN1_STRING_length(uri));
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
}

/* A list, or nil if it stayed empty. */
static int
uris_end(lua_State *L)
{
    if (lua_rawlen(L, -1) == 0) {
        lua_pop(L, 1);
        lua_pushnil(L);
    }
    return 1;
}

static void
crl_points_free(void *points)
{
    CRL_DIST_POINTS_free(points);
}

static void
authority_free(void *authority)
{
    AUTHORITY_INFO_ACCESS_free(authority);
}

static int
get_crl_uris(lua_State *L, void *self)
{
    struct mg_box *box = mg_box_push(L, crl_points_free);
    const CRL_DIST_POINTS *points = box->ptr =
        X509_get_ext_d2i(attr_x509(self), NID_crl_distribution_points, NULL, NULL);
    lua_newtable(L);
    for (int i = 0; i < sk_DIST_POINT_num(points); i++) {
        const DIST_POINT_NAME *point = sk_DIST_POINT_value(points, i)->distpoint;
        if (!point || point->type != 0)
            continue;
        for (int n = 0; n < sk_GENERAL_NAME_num(point->name.fullname); n++)
            uri_add(L, sk_GENERAL_NAME_value(point->name.fullname, n));
    }
    mg_box_free(box);
    return uris_end(L);
}

static int
authority_uris(lua_State *L, const X509 *x509, int method)
{
    struct mg_box *box = mg_box_push(L, authority_free);
    const AUTHORITY_INFO_ACCESS *authority = box->ptr =
        X509_get_ext_d2i(x509, NID_info_access, NULL, NULL);
    lua_newtable(L);
    for (int i = 0; i < sk_ACCESS_DESCRIPTION_num(authority); i++) {
        const ACCESS_DESCRIPTION *access = sk_ACCESS_DESCRIPTION_value(authority, i);
        if (OBJ_obj2nid(access->method) == method)
            uri_add(L, access->location);
    }
    mg_box_free(box);
    return uris_end(L);
}

static int
get_ca_issuer_uris(lua_State *L, void *self)
{
    return authority_uris(L, attr_x509(self), NID_ad_ca_issuers);
}

static int
get_ocsp_uris(lua_State *L, void *self)
{
    return authority_uris(L, attr_x509(self), NID_ad_OCSP);
}

static void
openssl_free(void *ptr)
{
    OPENSSL_free(ptr);
}

/* What the signature is over. */
static int
get_tbs_bytes(lua_State *L, void *self)
{
    struct mg_box *box = mg_box_push(L, openssl_free);
    unsigned char *der = NULL;
    int len = i2d_re_X509_tbs(attr_x509(self), &der);
    box->ptr = der;
    if (len < 0)
        mg_lua_openssl_error(L, "CertificateError", "i2d_re_X509_tbs");
    lua_pushlstring(L, (const char *)der, (size_t)len);
    mg_box_free(box);
    return 1;
}

/* ---- conversions and questions -------------------------------------------------------------- */

static int
certificate_to_pem(lua_State *L)
{
    X509 *x509 = self_x509(L);
    mg_check_count(L, 0, 0);
    BIO *bio = mg_box_push_mem(L);
    if (PEM_write_bio_X509(bio, x509) != 1)
        mg_lua_openssl_error(L, "CertificateError", "PEM_write_bio_X509");
    mg_push_mem(L, bio);
    return 1;
}

static int
certificate_to_der(lua_State *L)
{
    X509 *x509 = self_x509(L);
    mg_check_count(L, 0, 0);
    BIO *bio = mg_box_push_mem(L);
    if (i2d_X509_bio(bio, x509) != 1)
        mg_lua_openssl_error(L, "CertificateError", "i2d_X509_bio");
    mg_push_mem(L, bio);
    return 1;
}

static int
certificate_to_text(lua_State *L)
{
    X509 *x509 = self_x509(L);
    mg_check_count(L, 0, 0);
    BIO *bio = mg_box_push_mem(L);
    if (X509_print(bio, x509) != 1)
        mg_lua_openssl_error(L, "CertificateError", "X509_print");
    ERR_clear_error();
    mg_push_mem(L, bio);
    return 1;
}

/* digest([name]) -> upper-case hexadecimal, SHA256 by default: what access records and pins use */
static int
certificate_digest(lua_State *L)
{
    X509 *x509 = self_x509(L);
    mg_check_count(L, 0, 1);
    const EVP_MD *md = mg_check_digest(L, 2);
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len;
    if (X509_digest(x509, md ? md : EVP_sha256(), digest, &len) != 1)
        mg_lua_openssl_error(L, "CertificateError", "X509_digest");
    hex_push(L, digest, (int)len);
    return 1;
}

/* verify(public_key) -> boolean */
static int
certificate_verify(lua_State *L)
{
    X509 *x509 = self_x509(L);
    mg_check_count(L, 1, 1);
    mg_class_check(L, 2, &mg_pkey_class);
    int rc = X509_verify(x509, mg_pkey_test(L, 2));
    ERR_clear_error(); /* a signature of another algorithm is simply not this key's */
    lua_pushboolean(L, rc == 1);
    return 1;
}

/* check_private_key(key) -> boolean */
static int
certificate_check_private_key(lua_State *L)
{
    X509 *x509 = self_x509(L);
    mg_check_count(L, 1, 1);
    mg_class_check(L, 2, &mg_pkey_class);
    EVP_PKEY *key = mg_pkey_test(L, 2);
    bool fits = mg_pkey_has_private(key) && X509_check_private_key(x509, key) == 1;
    ERR_clear_error();
    lua_pushboolean(L, fits);
    return 1;
}

/* By encoding: X509_cmp takes a certificate that cannot be encoded yet for equal to any other. */
static int
certificate_eq(lua_State *L)
{
    X509 *a = mg_x509_test(L, 1), *b = mg_x509_test(L, 2);
    unsigned char *a_der = NULL, *b_der = NULL;
    int a_len = a ? i2d_X509(a, &a_der) : -1, b_len = b ? i2d_X509(b, &b_der) : -1;
    bool equal = a_len > 0 && a_len == b_len && memcmp(a_der, b_der, (size_t)a_len) == 0;
    OPENSSL_free(a_der);
    OPENSSL_free(b_der);
    ERR_clear_error();
    lua_pushboolean(L, equal);
    return 1;
}

static int
certificate_tostring(lua_State *L)
{
    const X509 *x509 = mg_x509_test(L, 1);
    char subject[256] = "";
    if (x509)
        X509_NAME_oneline(X509_get_subject_name(x509), subject, sizeof(subject));
    lua_pushfstring(L, "Certificate: %s", subject);
    return 1;
}

/* ---- the class ------------------------------------------------------------------------------ */

static const struct mg_attr certificate_attrs[] = {
    {"version", get_version, mg_x509_set_version},
    {"serial", get_serial, mg_x509_set_serial},
    {"subject", get_subject, mg_x509_set_subject},
    {"issuer", get_issuer, mg_x509_set_issuer},
    {"not_before", get_not_before, mg_x509_set_not_before},
    {"not_after", get_not_after, mg_x509_set_not_after},
    {"public_key", get_public_key, mg_x509_set_public_key},
    {"signature_algorithm", get_signature_algorithm, NULL},
    {"extensions", get_extensions, NULL},
    {"subject_key_identifier", get_subject_key_identifier, NULL},
    {"authority_key_identifier", get_authority_key_identifier, NULL},
    {"crl_uris", get_crl_uris, NULL},
    {"ca_issuer_uris", get_ca_issuer_uris, NULL},
    {"ocsp_uris", get_ocsp_uris, NULL},
    {"tbs_bytes", get_tbs_bytes, NULL},
    {NULL, NULL, NULL},
};

static const luaL_Reg certificate_methods[] = {
    {"to_pem", certificate_to_pem},
    {"to_s", certificate_to_pem},
    {"to_der", certificate_to_der},
    {"to_text", certificate_to_text},
    {"digest", certificate_digest},
    {"verify", certificate_verify},
    {"check_private_key", certificate_check_private_key},
    {"add_extension", mg_x509_add_extension},
    {"sign", mg_x509_sign},
    {NULL, NULL},
};

const struct mg_class mg_certificate_class = {
    .name = "Certificate",
    .metatable = "moongate.X509.Certificate",
    .attrs = certificate_attrs,
    .more_attrs = mg_certificate_facts,
    .methods = certificate_methods,
    .is_frozen = certificate_is_frozen,
    .gc = certificate_gc,
    .eq = certificate_eq,
    .tostring = certificate_tostring,
};

const luaL_Reg mg_certificate_functions[] = {
    {"new", certificate_new},
    {"load", certificate_load},
    {"load_file", certificate_load_file},
    {NULL, NULL},
};

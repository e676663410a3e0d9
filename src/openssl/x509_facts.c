/*
 * x509_facts: what rules about a peer go by – the names in its certificate, kind by kind, and hashes of it and of its key.
 *
 * Names come from foreign bytes. They are compared as strings by scripts, so that no two different ones may look the
 * same: bytes that do not belong into a name – controls, NUL, what is not ASCII – and the backslash are written as
 * "\x00", which nothing else is.
 */
#include "openssl/internal.h"

#include <arpa/inet.h>
#include <openssl/sha.h>
#include <string.h>

static const char hex_digits[] = "0123456789abcdef";

static X509 *
attr_x509(void *self)
{
    return ((struct mg_certificate *)self)->x509;
}

/* ---- subjectAltName -------------------------------------------------------------------------- */

static void
escaped_push(lua_State *L, const unsigned char *data, size_t len)
{
    luaL_Buffer out;
    luaL_buffinit(L, &out);
    for (size_t i = 0; i < len; i++) {
        if (data[i] > 0x20 && data[i] < 0x7f && data[i] != '\\') {
            luaL_addchar(&out, (char)data[i]);
            continue;
        }
        luaL_addstring(&out, "\\x");
        luaL_addchar(&out, hex_digits[data[i] >> 4]);
        luaL_addchar(&out, hex_digits[data[i] & 15]);
    }
    luaL_pushresult(&out);
}

/* An address as everybody writes it, "::1" and not "0:0:0:0:0:0:0:1"; anything but 4 or 16 bytes is no address. */
static void
address_push(lua_State *L, const unsigned char *data, size_t len)
{
    char text[INET6_ADDRSTRLEN];
    if ((len == 4 || len == 16) &&
        inet_ntop(len == 4 ? AF_INET : AF_INET6, data, text, sizeof(text)))
        lua_pushstring(L, text);
    else
        escaped_push(L, data, len);
}

/* The kinds that are told of, each with its list behind it on the stack; others are left out. */
static const struct kind {
    int type;
    const char *name;
    void (*push)(lua_State *L, const unsigned char *data, size_t len);
} kinds[] = {
    {GEN_DNS, "dns", escaped_push},
    {GEN_IPADD, "ip", address_push},
    {GEN_EMAIL, "email", escaped_push},
    {GEN_URI, "uri", escaped_push},
};

/* Into the lists that are on the stack from first on. */
static void
name_append(lua_State *L, int first, const GENERAL_NAME *name)
{
    int type;
    const ASN1_STRING *value = GENERAL_NAME_get0_value(name, &type);
    for (size_t i = 0; i < MG_ARRAY_LEN(kinds); i++) {
        int list = first + (int)i;
        if (kinds[i].type != type)
            continue;
        kinds[i].push(L, ASN1_STRING_get0_data(value), (size_t)ASN1_STRING_length(value));
        lua_rawseti(L, list, (lua_Integer)lua_rawlen(L, list) + 1);
    }
}

static void
names_free(void *names)
{
    GENERAL_NAMES_free(names);
}

/* All four lists are always there. One that OpenSSL cannot read, or two, are an error: it refuses such a certificate. */
static int
get_subject_alt_names(lua_State *L, void *self)
{
    int found;
    luaL_checkstack(L, 12, NULL);
    struct mg_box *box = mg_box_push(L, names_free);
    ERR_clear_error();
    const GENERAL_NAMES *names = box->ptr =
        X509_get_ext_d2i(attr_x509(self), NID_subject_alt_name, &found, NULL);
    if (!names && found != -1)
        mg_lua_openssl_error(L, "CertificateError", "Certificate.subject_alt_names: %s",
                             found == -2 ? "there are several" : "it cannot be read");
    ERR_clear_error();
    int first = lua_gettop(L) + 1;
    for (size_t i = 0; i < MG_ARRAY_LEN(kinds); i++)
        lua_newtable(L);
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++)
        name_append(L, first, sk_GENERAL_NAME_value(names, i));
    mg_box_free(box);
    lua_createtable(L, 0, MG_ARRAY_LEN(kinds));
    for (size_t i = 0; i < MG_ARRAY_LEN(kinds); i++) {
        lua_pushvalue(L, first + (int)i);
        lua_setfield(L, -2, kinds[i].name);
    }
    return 1;
}

/* ---- hashes ---------------------------------------------------------------------------------- */

/* In lower case, as the access record has it. */
static int
hex_push(lua_State *L, const unsigned char digest[SHA256_DIGEST_LENGTH])
{
    char text[2 * SHA256_DIGEST_LENGTH];
    for (size_t i = 0; i < SHA256_DIGEST_LENGTH; i++) {
        text[2 * i] = hex_digits[digest[i] >> 4];
        text[2 * i + 1] = hex_digits[digest[i] & 15];
    }
    lua_pushlstring(L, text, sizeof(text));
    return 1;
}

static int
get_sha256(lua_State *L, void *self)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len;
    if (X509_digest(attr_x509(self), EVP_sha256(), digest, &len) != 1)
        mg_lua_openssl_error(L, "CertificateError", "Certificate.sha256: X509_digest");
    return hex_push(L, digest);
}

static void
spki_digest(lua_State *L, void *self, unsigned char digest[EVP_MAX_MD_SIZE])
{
    unsigned len;
    if (ASN1_item_digest(ASN1_ITEM_rptr(X509_PUBKEY), EVP_sha256(),
                         X509_get_X509_PUBKEY(attr_x509(self)), digest, &len) != 1)
        mg_lua_openssl_error(L, "CertificateError", "Certificate: ASN1_item_digest");
}

static int
get_spki_sha256(lua_State *L, void *self)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    spki_digest(L, self, digest);
    return hex_push(L, digest);
}

/* As curl's --pinnedpubkey and HTTP's pin-sha256 write it. */
static int
get_pin_sha256(lua_State *L, void *self)
{
    unsigned char digest[EVP_MAX_MD_SIZE], text[4 * ((SHA256_DIGEST_LENGTH + 2) / 3) + 1];
    spki_digest(L, self, digest);
    EVP_EncodeBlock(text, digest, SHA256_DIGEST_LENGTH);
    lua_pushstring(L, (const char *)text);
    return 1;
}

const struct mg_attr mg_certificate_facts[] = {
    {"subject_alt_names", get_subject_alt_names, NULL},
    {"sha256", get_sha256, NULL},
    {"spki_sha256", get_spki_sha256, NULL},
    {"pin_sha256", get_pin_sha256, NULL},
    {NULL, NULL, NULL},
};

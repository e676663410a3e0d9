/* pkey_params: the numbers of a key, and keys from raw bytes. */
#include "openssl/internal.h"

#include <openssl/core_names.h>

#include <string.h>

static EVP_PKEY *
attr_key(lua_State *L)
{
    return mg_pkey_test(L, 1);
}

static void
openssl_free(void *ptr)
{
    OPENSSL_free(ptr);
}

/* The number as hexadecimal, pushed, or nil. */
static void
number_push(lua_State *L, const EVP_PKEY *key, const char *param)
{
    struct mg_box *hex = mg_box_push(L, openssl_free);
    BIGNUM *number = NULL;
    if (EVP_PKEY_get_bn_param(key, param, &number) == 1)
        hex->ptr = BN_bn2hex(number);
    BN_clear_free(number);
    ERR_clear_error();
    if (hex->ptr)
        lua_pushstring(L, hex->ptr);
    else
        lua_pushnil(L);
    mg_box_free(hex);
    lua_remove(L, -2);
}

struct param {
    const char *name; /* Ruby's */
    const char *param;
};

static const struct param rsa_params[] = {
    {"n", OSSL_PKEY_PARAM_RSA_N},
    {"e", OSSL_PKEY_PARAM_RSA_E},
    {"d", OSSL_PKEY_PARAM_RSA_D},
    {"p", OSSL_PKEY_PARAM_RSA_FACTOR1},
    {"q", OSSL_PKEY_PARAM_RSA_FACTOR2},
    {"dmp1", OSSL_PKEY_PARAM_RSA_EXPONENT1},
    {"dmq1", OSSL_PKEY_PARAM_RSA_EXPONENT2},
    {"iqmp", OSSL_PKEY_PARAM_RSA_COEFFICIENT1},
    {NULL, NULL},
};

static const struct param dh_params[] = {
    {"p", OSSL_PKEY_PARAM_FFC_P},           {"q", OSSL_PKEY_PARAM_FFC_Q},
    {"g", OSSL_PKEY_PARAM_FFC_G},           {"pub_key", OSSL_PKEY_PARAM_PUB_KEY},
    {"priv_key", OSSL_PKEY_PARAM_PRIV_KEY}, {NULL, NULL},
};

/* A table of hexadecimal strings; nil for types without numbers of their own. */
int
mg_pkey_get_params(lua_State *L, void *self MG_UNUSED)
{
    const EVP_PKEY *key = attr_key(L);
    const struct param *params = EVP_PKEY_is_a(key, "RSA") ? rsa_params
                                 : EVP_PKEY_is_a(key, "DH") || EVP_PKEY_is_a(key, "DHX") ? dh_params
                                                                                         : NULL;
    if (!params) {
        lua_pushnil(L);
        return 1;
    }
    lua_newtable(L);
    for (; params->name; params++) {
        number_push(L, key, params->param);
        lua_setfield(L, -2, params->name);
    }
    return 1;
}

static int
dh_number(lua_State *L, const char *param)
{
    const EVP_PKEY *key = attr_key(L);
    if (EVP_PKEY_is_a(key, "DH") || EVP_PKEY_is_a(key, "DHX"))
        number_push(L, key, param);
    else
        lua_pushnil(L);
    return 1;
}

int
mg_pkey_get_p(lua_State *L, void *self MG_UNUSED)
{
    return dh_number(L, OSSL_PKEY_PARAM_FFC_P);
}

int
mg_pkey_get_g(lua_State *L, void *self MG_UNUSED)
{
    return dh_number(L, OSSL_PKEY_PARAM_FFC_G);
}

/* ---- raw keys -------------------------------------------------------------------------------- */

static int
raw_new(lua_State *L, EVP_PKEY *(*make)(OSSL_LIB_CTX *, const char *, const char *,
                                        const unsigned char *, size_t))
{
    size_t len;
    mg_check_count(L, 2, 2);
    const char *type = mg_check_text(L, 1);
    const char *raw = mg_check_string(L, 2, &len);
    EVP_PKEY **key = mg_pkey_push_empty(L);
    ERR_clear_error();
    *key = make(NULL, type, NULL, (const unsigned char *)raw, len);
    if (!*key)
        mg_lua_openssl_error(L, "PKeyError", "%s: %.80s", mg_function_name(L), type);
    return 1;
}

/* new_raw_private_key(type, bytes) */
int
mg_pkey_new_raw_private_key(lua_State *L)
{
    return raw_new(L, EVP_PKEY_new_raw_private_key_ex);
}

/* new_raw_public_key(type, bytes) */
int
mg_pkey_new_raw_public_key(lua_State *L)
{
    return raw_new(L, EVP_PKEY_new_raw_public_key_ex);
}

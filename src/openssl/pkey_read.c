/*
 * pkey_read: keys from PEM and DER. No terminal is ever asked for a passphrase.
 *
 * The happy path is: the key is decoded with the passphrase, if one was given. Where it turns out to be
 * encrypted, and a function was given instead, the function is called once – out here, not on
 * OpenSSL's stack – and the key is decoded again with its answer.
 */
#include "openssl/internal.h"

#include <openssl/decoder.h>
#include <openssl/pem.h>

#include <string.h>

#define PASSPHRASE_MAX 1024

void
mg_passphrase_check(lua_State *L, const char *what, size_t len)
{
    if (len > PASSPHRASE_MAX)
        mg_lua_error(L, "OpenSSLError", "%s: password must not be longer than 1024 bytes", what);
}

int
mg_on_passphrase(char *buf, int size, int writing MG_UNUSED, void *data)
{
    struct mg_passphrase *pass = data;
    pass->asked = true;
    if (!pass->text || size < 0 || pass->len > (size_t)size)
        return -1;
    memcpy(buf, pass->text, pass->len);
    return (int)pass->len;
}

/* ---- decoding: private, parameters, public, as Ruby does -------------------------------------- */

static EVP_PKEY *
pem_decode(BIO *bio, struct mg_passphrase *pass)
{
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, mg_on_passphrase, pass);
    if (key || pass->asked)
        return key;
    BIO_reset(bio);
    if ((key = PEM_read_bio_Parameters(bio, NULL)) != NULL)
        return key;
    BIO_reset(bio);
    return PEM_read_bio_PUBKEY(bio, NULL, mg_on_passphrase, pass);
}

/* Parameters of DH: those of EC are the mere name of a curve. */
static EVP_PKEY *
der_parameters(BIO *bio)
{
    EVP_PKEY *key = NULL;
    OSSL_DECODER_CTX *ctx = OSSL_DECODER_CTX_new_for_pkey(
        &key, "DER", NULL, "DH", OSSL_KEYMGMT_SELECT_ALL_PARAMETERS, NULL, NULL);
    if (ctx && OSSL_DECODER_from_bio(ctx, bio) != 1) {
        EVP_PKEY_free(key);
        key = NULL;
    }
    OSSL_DECODER_CTX_free(ctx);
    return key;
}

static EVP_PKEY *
der_decode(BIO *bio, struct mg_passphrase *pass)
{
    EVP_PKEY *key = d2i_PrivateKey_bio(bio, NULL);
    if (key)
        return key;
    BIO_reset(bio);
    key = d2i_PKCS8PrivateKey_bio(bio, NULL, mg_on_passphrase, pass);
    if (key || pass->asked)
        return key;
    BIO_reset(bio);
    if ((key = der_parameters(bio)) != NULL)
        return key;
    BIO_reset(bio);
    return d2i_PUBKEY_bio(bio, NULL);
}

static EVP_PKEY *
key_decode(lua_State *L, const char *data, size_t len, struct mg_passphrase *pass)
{
    BIO *bio = mg_box_push_bio(L, data, len);
    ERR_clear_error();
    EVP_PKEY *key = mg_is_pem(data, len) ? pem_decode(bio, pass) : der_decode(bio, pass);
    mg_box_free(lua_touserdata(L, -1));
    lua_pop(L, 1);
    return key;
}

/* What the function at idx answers, pushed. It gets false: nothing is being written. */
static void
passphrase_ask(lua_State *L, const char *what, int idx, struct mg_passphrase *pass)
{
    lua_pushvalue(L, idx);
    lua_pushboolean(L, false);
    lua_call(L, 1, 1);
    if (lua_isnil(L, -1))
        return;
    if (lua_type(L, -1) != LUA_TSTRING)
        mg_lua_error(L, "TypeError", "%s: the passphrase function: expected a string, got %s", what,
                     mg_type_name(L, -1));
    pass->text = lua_tolstring(L, -1, &pass->len);
    mg_passphrase_check(L, what, pass->len);
}

int
mg_check_passphrase(lua_State *L, int arg)
{
    int type = lua_type(L, arg);
    if (type == LUA_TFUNCTION || type == LUA_TSTRING)
        return arg;
    if (!lua_isnoneornil(L, arg))
        mg_argument_type_error(L, arg, "a string or a function");
    if (lua_isnoneornil(L, arg + 1))
        return 0;
    if (lua_type(L, arg + 1) != LUA_TFUNCTION)
        mg_argument_type_error(L, arg + 1, "a function");
    return arg + 1;
}

void
mg_pkey_parse(lua_State *L, const char *what, const char *data, size_t len, int passphrase)
{
    struct mg_passphrase pass = {0};
    bool asks = passphrase != 0 && lua_type(L, passphrase) == LUA_TFUNCTION;
    if (passphrase != 0 && !asks) {
        pass.text = lua_tolstring(L, passphrase, &pass.len);
        mg_passphrase_check(L, what, pass.len);
    }
    EVP_PKEY **key = mg_pkey_push_empty(L);
    *key = key_decode(L, data, len, &pass);
    if (!*key && pass.asked && asks) {
        passphrase_ask(L, what, passphrase, &pass);
        if (pass.text)
            *key = key_decode(L, data, len, &pass);
        lua_pop(L, 1);
    }
    if (!*key && pass.asked && !pass.text) {
        ERR_clear_error();
        mg_lua_error(L, "PKeyError", "%s: the private key is encrypted and no passphrase was given",
                     what);
    }
    if (!*key)
        mg_lua_openssl_error(L, "PKeyError", "%s: Could not parse PKey%s", what,
                             pass.asked ? " (wrong passphrase?)" : "");
    ERR_clear_error();
}

/* read(pem_or_der[, passphrase][, function]) */
int
mg_pkey_read(lua_State *L)
{
    size_t len;
    mg_check_count(L, 1, 3);
    lua_settop(L, 3);
    const char *data = mg_check_string(L, 1, &len);
    mg_pkey_parse(L, mg_function_name(L), data, len, mg_check_passphrase(L, 2));
    return 1;
}

/* load_file(path[, passphrase][, function]) */
int
mg_pkey_load_file(lua_State *L)
{
    mg_check_count(L, 1, 3);
    lua_settop(L, 3);
    const char *path = mg_check_text(L, 1), *what = mg_function_name(L);
    int passphrase = mg_check_passphrase(L, 2);
    struct mg_buf *file = mg_file_push(L, "SystemCallError", what, path);
    what = lua_pushfstring(L, "%s: %s", what, path);
    mg_pkey_parse(L, what, file->data, file->len, passphrase);
    return 1;
}

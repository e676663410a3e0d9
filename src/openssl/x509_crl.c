/* x509_crl: X509.CRL as far as a Store needs it: reading and its main fields. */
#include "openssl/internal.h"

#include <openssl/pem.h>

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
}

/* CRL.new(pem_or_der) */
static int
crl_new(lua_State *L)
{
    size_t len;
    mg_check_count(L, 1, 1);
    const char *data = mg_check_string(L, 1, &len);
    struct mg_crl *self = mg_class_new(L, &mg_crl_class, sizeof(*self));
    BIO *bio = mg_box_push_bio(L, data, len);
    ERR_clear_error();
    self->crl = mg_is_pem(data, len) ? PEM_read_bio_X509_CRL(bio, NULL, mg_no_passphrase, NULL)
                                     : d2i_X509_CRL_bio(bio, NULL);
    if (!self->crl)
        mg_lua_openssl_error(L, "CRLError", "PEM_read_bio_X509_CRL");
    lua_pushvalue(L, -2);
    return 1;
}

static int
get_issuer(lua_State *L, void *self)
{
    mg_lua_push_name(L, X509_CRL_get_issuer(attr_crl(self)));
    return 1;
}

static int
get_last_update(lua_State *L, void *self)
{
    mg_push_time(L, X509_CRL_get0_lastUpdate(attr_crl(self)));
    return 1;
}

static int
get_next_update(lua_State *L, void *self)
{
    mg_push_time(L, X509_CRL_get0_nextUpdate(attr_crl(self)));
    return 1;
}

static int
crl_to_pem(lua_State *L)
{
    X509_CRL *crl = self_crl(L);
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
    BIO *bio = mg_box_push_mem(L);
    if (i2d_X509_CRL_bio(bio, crl) != 1)
        mg_lua_openssl_error(L, "CRLError", "i2d_X509_CRL_bio");
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

static const struct mg_attr crl_attrs[] = {
    {"issuer", get_issuer, NULL},
    {"last_update", get_last_update, NULL},
    {"next_update", get_next_update, NULL},
    {NULL, NULL, NULL},
};

static const luaL_Reg crl_methods[] = {
    {"to_pem", crl_to_pem},
    {"to_der", crl_to_der},
    {"verify", crl_verify},
    {NULL, NULL},
};

const struct mg_class mg_crl_class = {
    .name = "CRL",
    .metatable = "moongate.X509.CRL",
    .attrs = crl_attrs,
    .methods = crl_methods,
    .gc = crl_gc,
};

const luaL_Reg mg_crl_functions[] = {
    {"new", crl_new},
    {NULL, NULL},
};

/*
 * convert: values between OpenSSL and Lua, and the boxes that keep OpenSSL's objects from leaking
 * when a Lua error passes by.
 */
#include "openssl/internal.h"

#include <limits.h>
#include <string.h>
#include <time.h>

#define BOX_METATABLE "moongate.box"
#define BUF_METATABLE "moongate.buf"

/* ---- boxes ---------------------------------------------------------------------------------- */

void
mg_box_free(struct mg_box *box)
{
    void *ptr = box->ptr;
    box->ptr = NULL;
    if (ptr)
        box->free(ptr);
}

static int
box_gc(lua_State *L)
{
    mg_box_free(lua_touserdata(L, 1));
    return 0;
}

static int
buf_gc(lua_State *L)
{
    mg_buf_free_secret(lua_touserdata(L, 1));
    return 0;
}

/* A zeroed userdata whose only metamethod is gc. */
static void *
guarded_push(lua_State *L, size_t size, const char *metatable, lua_CFunction gc)
{
    void *ptr = lua_newuserdatauv(L, size, 0);
    memset(ptr, 0, size);
    if (luaL_newmetatable(L, metatable)) {
        lua_pushcfunction(L, gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return ptr;
}

struct mg_box *
mg_box_push(lua_State *L, void (*free_fn)(void *ptr))
{
    struct mg_box *box = guarded_push(L, sizeof(*box), BOX_METATABLE, box_gc);
    box->free = free_fn;
    return box;
}

struct mg_buf *
mg_box_push_buf(lua_State *L)
{
    return guarded_push(L, sizeof(struct mg_buf), BUF_METATABLE, buf_gc);
}

static void
bio_free(void *bio)
{
    BIO_free(bio);
}

BIO *
mg_box_push_bio(lua_State *L, const void *data, size_t len)
{
    struct mg_box *box = mg_box_push(L, bio_free);
    if (len > INT_MAX)
        mg_lua_error(L, "ArgumentError", "%s: %zu bytes are too long", mg_function_name(L), len);
    /* A length of 0 would be taken for "use strlen" only if it were negative: 0 is an empty BIO. */
    box->ptr = BIO_new_mem_buf(len > 0 ? data : "", (int)len);
    if (!box->ptr)
        mg_lua_openssl_error(L, "NoMemoryError", "BIO_new_mem_buf");
    return box->ptr;
}

BIO *
mg_box_push_mem(lua_State *L)
{
    struct mg_box *box = mg_box_push(L, bio_free);
    box->ptr = BIO_new(BIO_s_secmem());
    if (!box->ptr)
        mg_lua_openssl_error(L, "NoMemoryError", "BIO_new");
    return box->ptr;
}

void
mg_push_mem(lua_State *L, BIO *bio)
{
    char *data = NULL;
    long len = BIO_get_mem_data(bio, &data);
    lua_pushlstring(L, data ? data : "", len > 0 ? (size_t)len : 0);
}

/* ---- values --------------------------------------------------------------------------------- */

void
mg_push_time(lua_State *L, const ASN1_TIME *asn1)
{
    struct tm tm;
    /* ASN1_TIME_to_tm(NULL) would be the current time. */
    if (!asn1 || ASN1_TIME_to_tm(asn1, &tm) != 1) {
        lua_pushnil(L);
        return;
    }
    lua_pushinteger(L, (lua_Integer)timegm(&tm));
}

static void
openssl_free(void *ptr)
{
    OPENSSL_free(ptr);
}

static void
bn_free(void *bn)
{
    BN_free(bn);
}

void
mg_push_serial(lua_State *L, const ASN1_INTEGER *serial)
{
    struct mg_box *bn = mg_box_push(L, bn_free), *hex = mg_box_push(L, openssl_free);
    bn->ptr = ASN1_INTEGER_to_BN(serial, NULL);
    if (bn->ptr)
        hex->ptr = BN_bn2hex(bn->ptr);
    if (!hex->ptr)
        mg_lua_openssl_error(L, "OpenSSLError", "ASN1_INTEGER_to_BN");
    lua_pushstring(L, hex->ptr);
    mg_box_free(hex);
    mg_box_free(bn);
    lua_replace(L, -3);
    lua_pop(L, 1);
}

struct mg_buf *
mg_file_push(lua_State *L, const char *cls, const char *what, const char *path)
{
    struct mg_buf *buf = mg_box_push_buf(L);
    const struct mg_openssl_hooks *hooks = mg_openssl_hooks(L);
    struct mg_err err;
    if (hooks->read_file(hooks->data, path, buf, &err) < 0)
        mg_lua_error(L, cls, "%s: %s", what, err.text);
    return buf;
}

bool
mg_is_pem(const char *data, size_t len)
{
    return len > 0 && memmem(data, len, "-----BEGIN ", 11) != NULL;
}

int
mg_no_passphrase(char *buf MG_UNUSED, int size MG_UNUSED, int writing MG_UNUSED,
                 void *data MG_UNUSED)
{
    return -1;
}

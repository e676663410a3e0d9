/*
 * ssl_protocol: the rows of SSLContext that OpenSSL takes at once: versions, cipher suites, groups,
 * signature algorithms, security level, options, DH parameters, tickets. A row that fails leaves the context as it was.
 */
#include "openssl/internal.h"

#include <limits.h>
#include <string.h>

#define CLS "SSLContext"

static SSL_CTX *
attr_ctx(void *self)
{
    return ((struct mg_ssl_context *)self)->ctx;
}

static int
attr_int(lua_State *L, int value, const char *name)
{
    lua_Integer number = mg_attr_integer(L, value, CLS, name);
    if (number < INT_MIN || number > INT_MAX)
        mg_lua_error(L, "RangeError", CLS ".%s: %lld is out of range", name, (long long)number);
    return (int)number;
}

/* ---- versions ------------------------------------------------------------------------------- */

struct version {
    const char *name;
    int number;
};

static const struct version bound_names[] = {
    {"SSL2", 0x0002},
    {"SSL3", SSL3_VERSION},
    {"TLS1", TLS1_VERSION},
    {"TLS1_1", TLS1_1_VERSION},
    {"TLS1_2", TLS1_2_VERSION},
    {"TLS1_3", TLS1_3_VERSION},
    {NULL, 0},
};

/* ssl_version and SSLContext.new(version): Ruby's METHODS, another spelling and another set. */
static const struct version method_names[] = {
    {"SSLv23", 0},
    {"SSLv2", 0x0002},
    {"SSLv3", SSL3_VERSION},
    {"TLSv1", TLS1_VERSION},
    {"TLSv1_1", TLS1_1_VERSION},
    {"TLSv1_2", TLS1_2_VERSION},
    {NULL, 0},
};

static int
check_version(lua_State *L, int value, const char *name)
{
    if (lua_isnil(L, value))
        return 0;
    if (lua_isinteger(L, value))
        return attr_int(L, value, name);
    if (lua_type(L, value) != LUA_TSTRING)
        mg_attr_type_error(L, value, CLS, name, "a version (an integer, a string or nil)");
    const char *text = mg_attr_text(L, value, CLS, name);
    for (const struct version *v = bound_names; v->name; v++)
        if (strncmp(v->name, text, strlen(text)) == 0) /* Ruby compares as much as there is */
            return v->number;
    mg_lua_error(L, "ArgumentError", CLS ".%s: unrecognized version \"%.80s\"", name, text);
}

/* OpenSSL's 0 means "as far as the library goes"; so does nil here. */
static int
version_push(lua_State *L, int version)
{
    if (version == 0)
        lua_pushnil(L);
    else
        lua_pushinteger(L, version);
    return 1;
}

static int
get_min_version(lua_State *L, void *self)
{
    return version_push(L, (int)SSL_CTX_get_min_proto_version(attr_ctx(self)));
}

static int
get_max_version(lua_State *L, void *self)
{
    return version_push(L, (int)SSL_CTX_get_max_proto_version(attr_ctx(self)));
}

static void
set_min_version(lua_State *L, void *self, int value)
{
    int version = check_version(L, value, "min_version");
    ERR_clear_error();
    if (SSL_CTX_set_min_proto_version(attr_ctx(self), version) != 1)
        mg_lua_openssl_error(L, "SSLError", "SSL_CTX_set_min_proto_version");
}

static void
set_max_version(lua_State *L, void *self, int value)
{
    int version = check_version(L, value, "max_version");
    ERR_clear_error();
    if (SSL_CTX_set_max_proto_version(attr_ctx(self), version) != 1)
        mg_lua_openssl_error(L, "SSLError", "SSL_CTX_set_max_proto_version");
}

static void
set_ssl_version(lua_State *L, void *self, int value)
{
    SSL_CTX *ctx = attr_ctx(self);
    const char *text = mg_attr_text(L, value, CLS, "ssl_version");
    char name[32];
    mg_str_copy(name, sizeof(name), text);
    char *side = strstr(name, "_client");
    if (!side)
        side = strstr(name, "_server");
    if (side && side[7] == '\0')
        *side = '\0';
    const struct version *v = method_names;
    while (v->name && strcmp(v->name, name) != 0)
        v++;
    if (!v->name || strlen(text) >= sizeof(name))
        mg_lua_error(L, "ArgumentError", CLS ".ssl_version: unknown SSL method `%.80s'", text);
    int old_max = (int)SSL_CTX_get_max_proto_version(ctx);
    ERR_clear_error();
    if (SSL_CTX_set_max_proto_version(ctx, v->number) != 1)
        mg_lua_openssl_error(L, "SSLError", "SSL_CTX_set_max_proto_version");
    if (SSL_CTX_set_min_proto_version(ctx, v->number) != 1) {
        SSL_CTX_set_max_proto_version(ctx, old_max);
        mg_lua_openssl_error(L, "SSLError", "SSL_CTX_set_min_proto_version");
    }
}

/* ---- cipher suites -------------------------------------------------------------------------- */

/* A string, or a list of names, or a list of lists whose first element is a name (what `ciphers`
 * gives): pushes them joined by ":". */
static const char *
cipher_list_push(lua_State *L, int value, const char *name)
{
    if (lua_type(L, value) == LUA_TSTRING) {
        lua_pushvalue(L, value);
        return mg_attr_text(L, -1, CLS, name);
    }
    if (!lua_istable(L, value))
        mg_attr_type_error(L, value, CLS, name, "a string or a list");
    luaL_Buffer joined;
    lua_Integer count = (lua_Integer)lua_rawlen(L, value);
    luaL_buffinit(L, &joined);
    for (lua_Integer i = 1; i <= count; i++) {
        if (i > 1)
            luaL_addchar(&joined, ':');
        if (lua_rawgeti(L, value, i) == LUA_TTABLE) {
            lua_rawgeti(L, -1, 1);
            lua_remove(L, -2);
        }
        if (lua_type(L, -1) != LUA_TSTRING)
            mg_lua_error(L, "TypeError", CLS ".%s: entry %d: expected a string, got %s", name,
                         (int)i, mg_type_name(L, -1));
        luaL_addvalue(&joined);
    }
    luaL_pushresult(&joined);
    return mg_attr_text(L, -1, CLS, name);
}

static int
get_ciphers(lua_State *L, void *self)
{
    const STACK_OF(SSL_CIPHER) *list = SSL_CTX_get_ciphers(attr_ctx(self));
    int count = list ? sk_SSL_CIPHER_num(list) : 0;
    lua_createtable(L, count, 0);
    for (int i = 0; i < count; i++) {
        const SSL_CIPHER *cipher = sk_SSL_CIPHER_value(list, i);
        mg_lua_push_cipher(L, cipher);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static void
ssl_free(void *ssl)
{
    SSL_free(ssl);
}

static void
ssl_ctx_free(void *ctx)
{
    SSL_CTX_free(ctx);
}

/* OpenSSL's error names the function that failed: this lets it be the one that errors speak of. */
MG_NORETURN static void
cipher_list_fail(lua_State *L, const char *list)
{
    struct mg_box *scratch = mg_box_push(L, ssl_ctx_free);
    ERR_clear_error();
    scratch->ptr = SSL_CTX_new(TLS_method());
    if (scratch->ptr)
        SSL_CTX_set_cipher_list(scratch->ptr, list);
    mg_lua_openssl_error(L, "SSLError", "SSL_CTX_set_cipher_list");
}

/*
 * SSL_CTX_set_cipher_list empties the list before it knows whether anything matches, so the string
 * is tried on a connection object first.
 */
static void
set_ciphers(lua_State *L, void *self, int value)
{
    SSL_CTX *ctx = attr_ctx(self);
    if (lua_isnil(L, value))
        return;
    const char *list = cipher_list_push(L, value, "ciphers");
    struct mg_box *rehearsal = mg_box_push(L, ssl_free);
    ERR_clear_error();
    rehearsal->ptr = SSL_new(ctx);
    if (!rehearsal->ptr)
        mg_lua_openssl_error(L, "SSLError", "SSL_new");
    if (SSL_set_cipher_list(rehearsal->ptr, list) != 1)
        cipher_list_fail(L, list);
    if (SSL_CTX_set_cipher_list(ctx, list) != 1)
        mg_lua_openssl_error(L, "SSLError", "SSL_CTX_set_cipher_list");
    mg_box_free(rehearsal);
    ERR_clear_error();
}

static int
get_ciphersuites(lua_State *L, void *self)
{
    const STACK_OF(SSL_CIPHER) *list = SSL_CTX_get_ciphers(attr_ctx(self));
    luaL_Buffer joined;
    bool first = true;
    luaL_buffinit(L, &joined);
    for (int i = 0; list && i < sk_SSL_CIPHER_num(list); i++) {
        const SSL_CIPHER *cipher = sk_SSL_CIPHER_value(list, i);
        if (strcmp(SSL_CIPHER_get_version(cipher), "TLSv1.3") != 0)
            continue;
        if (!first)
            luaL_addchar(&joined, ':');
        first = false;
        luaL_addstring(&joined, SSL_CIPHER_get_name(cipher));
    }
    luaL_pushresult(&joined);
    return 1;
}

static void
set_ciphersuites(lua_State *L, void *self, int value)
{
    if (lua_isnil(L, value))
        return;
    const char *list = cipher_list_push(L, value, "ciphersuites");
    ERR_clear_error();
    if (SSL_CTX_set_ciphersuites(attr_ctx(self), list) != 1)
        mg_lua_openssl_error(L, "SSLError", "SSL_CTX_set_ciphersuites");
    ERR_clear_error();
}

/* ---- groups and signature algorithms -------------------------------------------------------- */

/* OpenSSL has no readers for these: what was assigned is kept and read back. */
static int
get_kept(lua_State *L, const char *name)
{
    mg_ssl_context_value(L, 1, name);
    return 1;
}

static int
get_groups(lua_State *L, void *self MG_UNUSED)
{
    return get_kept(L, "groups");
}

static int
get_sigalgs(lua_State *L, void *self MG_UNUSED)
{
    return get_kept(L, "sigalgs");
}

static int
get_client_sigalgs(lua_State *L, void *self MG_UNUSED)
{
    return get_kept(L, "client_sigalgs");
}

/* What SSL_CTX_set1_groups_list and its kin do; those are macros that cast const away. */
static void
set_list(lua_State *L, void *self, int value, const char *name, const char *kept_as, int ctrl)
{
    const char *list = mg_attr_text(L, value, CLS, name);
    ERR_clear_error();
    if (SSL_CTX_ctrl(attr_ctx(self), ctrl, 0, (void *)(uintptr_t)list) != 1)
        mg_lua_openssl_error(L, "SSLError", "SSL_CTX_set1_%s_list", kept_as);
    ERR_clear_error();
    mg_ssl_context_store(L, 1, kept_as, value);
}

static void
set_groups(lua_State *L, void *self, int value)
{
    set_list(L, self, value, "groups", "groups", SSL_CTRL_SET_GROUPS_LIST);
}

static void
set_ecdh_curves(lua_State *L, void *self, int value)
{
    set_list(L, self, value, "ecdh_curves", "groups", SSL_CTRL_SET_GROUPS_LIST);
}

static void
set_sigalgs(lua_State *L, void *self, int value)
{
    set_list(L, self, value, "sigalgs", "sigalgs", SSL_CTRL_SET_SIGALGS_LIST);
}

static void
set_client_sigalgs(lua_State *L, void *self, int value)
{
    set_list(L, self, value, "client_sigalgs", "client_sigalgs", SSL_CTRL_SET_CLIENT_SIGALGS_LIST);
}

/* ---- the rest ------------------------------------------------------------------------------- */

static int
get_security_level(lua_State *L, void *self)
{
    lua_pushinteger(L, SSL_CTX_get_security_level(attr_ctx(self)));
    return 1;
}

static void
set_security_level(lua_State *L, void *self, int value)
{
    SSL_CTX_set_security_level(attr_ctx(self), attr_int(L, value, "security_level"));
}

static int
get_options(lua_State *L, void *self)
{
    lua_pushinteger(L, (lua_Integer)SSL_CTX_get_options(attr_ctx(self)));
    return 1;
}

/* nil is OP_ALL; a negative number is taken as its bits. Replaces all bits. */
static void
set_options(lua_State *L, void *self, int value)
{
    SSL_CTX *ctx = attr_ctx(self);
    uint64_t options = lua_isnil(L, value) ? (uint64_t)SSL_OP_ALL
                                           : (uint64_t)mg_attr_integer(L, value, CLS, "options");
    SSL_CTX_clear_options(ctx, SSL_CTX_get_options(ctx));
    SSL_CTX_set_options(ctx, options);
}

static int
get_tmp_dh(lua_State *L, void *self MG_UNUSED)
{
    return get_kept(L, "tmp_dh");
}

/* From now on these parameters and no automatic ones. */
static void
set_tmp_dh(lua_State *L, void *self, int value)
{
    EVP_PKEY *key = mg_pkey_test(L, value);
    if (!key)
        mg_attr_type_error(L, value, CLS, "tmp_dh", "PKey");
    if (!EVP_PKEY_is_a(key, "DH"))
        mg_lua_error(L, "SSLError", CLS ".tmp_dh: invalid pkey type %s (expected DH)",
                     mg_pkey_oid(key));
    ERR_clear_error();
    EVP_PKEY_up_ref(key);
    if (SSL_CTX_set0_tmp_dh_pkey(attr_ctx(self), key) != 1) {
        EVP_PKEY_free(key);
        mg_lua_openssl_error(L, "SSLError", "SSL_CTX_set0_tmp_dh_pkey");
    }
    SSL_CTX_set_dh_auto(attr_ctx(self), 0);
    mg_ssl_context_store(L, 1, "tmp_dh", value);
}

static int
get_num_tickets(lua_State *L, void *self)
{
    lua_pushinteger(L, (lua_Integer)SSL_CTX_get_num_tickets(attr_ctx(self)));
    return 1;
}

#define TICKETS_MAX 16 /* each costs a record in every handshake */

static void
set_num_tickets(lua_State *L, void *self, int value)
{
    lua_Integer count = mg_attr_integer(L, value, CLS, "num_tickets");
    if (count < 0 || count > TICKETS_MAX)
        mg_lua_error(L, "ArgumentError", CLS ".num_tickets: expected 0 to %d, got %lld",
                     TICKETS_MAX, (long long)count);
    SSL_CTX_set_num_tickets(attr_ctx(self), (size_t)count);
}

const struct mg_attr mg_ssl_protocol_attrs[] = {
    {"min_version", get_min_version, set_min_version},
    {"max_version", get_max_version, set_max_version},
    {"ssl_version", NULL, set_ssl_version},
    {"ciphers", get_ciphers, set_ciphers},
    {"ciphersuites", get_ciphersuites, set_ciphersuites},
    {"groups", get_groups, set_groups},
    {"ecdh_curves", get_groups, set_ecdh_curves},
    {"sigalgs", get_sigalgs, set_sigalgs},
    {"client_sigalgs", get_client_sigalgs, set_client_sigalgs},
    {"security_level", get_security_level, set_security_level},
    {"options", get_options, set_options},
    {"tmp_dh", get_tmp_dh, set_tmp_dh},
    {"session_cache_mode", mg_ssl_cache_get_mode, mg_ssl_cache_set_mode},
    {"session_cache_size", mg_ssl_cache_get_size, mg_ssl_cache_set_size},
    {"session_cache_stats", mg_ssl_cache_get_stats, NULL},
    {"num_tickets", get_num_tickets, set_num_tickets},
    {NULL, NULL, NULL},
};

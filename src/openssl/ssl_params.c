/*
 * ssl_params: sets of attributes – set_params with Ruby's DEFAULT_PARAMS, and Mozilla's server-side
 * TLS guideline as profiles. Both are rehearsed on a fresh context first, so that a wrong key or
 * value changes nothing.
 */
#include "openssl/internal.h"

#include <string.h>

#define CLS "SSLContext"

#define DEFAULT_OPTIONS                                                                            \
    ((lua_Integer)((SSL_OP_ALL & ~SSL_OP_DONT_INSERT_EMPTY_FRAGMENTS) | SSL_OP_NO_COMPRESSION))

/* ---- tables that cannot be changed ----------------------------------------------------------- */

static int
frozen_newindex(lua_State *L)
{
    mg_lua_error(L, "FrozenError", "%s: can't modify a frozen table",
                 lua_tostring(L, lua_upvalueindex(1)));
}

static int
frozen_next(lua_State *L)
{
    lua_settop(L, 2);
    if (lua_next(L, lua_upvalueindex(1)))
        return 2;
    lua_pushnil(L);
    return 1;
}

static int
frozen_pairs(lua_State *L)
{
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushcclosure(L, frozen_next, 1);
    return 1;
}

static int
frozen_len(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)lua_rawlen(L, lua_upvalueindex(1)));
    return 1;
}

/* Replaces the table on top by a proxy that reads, counts and iterates it. */
static void
table_freeze(lua_State *L, const char *name)
{
    int data = lua_gettop(L);
    lua_newtable(L);
    lua_createtable(L, 0, 5);
    lua_pushvalue(L, data);
    lua_setfield(L, -2, "__index");
    lua_pushstring(L, name);
    lua_pushcclosure(L, frozen_newindex, 1);
    lua_setfield(L, -2, "__newindex");
    lua_pushvalue(L, data);
    lua_pushcclosure(L, frozen_pairs, 1);
    lua_setfield(L, -2, "__pairs");
    lua_pushvalue(L, data);
    lua_pushcclosure(L, frozen_len, 1);
    lua_setfield(L, -2, "__len");
    lua_pushstring(L, name);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
    lua_replace(L, data);
}

/* ---- applying a table of attributes ---------------------------------------------------------- */

static const struct mg_attr *
row_after(const struct mg_attr *row)
{
    if (!row)
        return mg_ssl_context_class.attrs;
    row++;
    if (row->name)
        return row;
    /* Which table has ended: the second one starts after the first. */
    const struct mg_attr *end = mg_ssl_context_class.attrs;
    while (end->name)
        end++;
    return row == end ? mg_ssl_context_class.more_attrs : NULL;
}

/* target[name] = params[name] for every row, in the order of the rows: never in that of a hash. */
static void
params_apply(lua_State *L, int target, int params)
{
    for (const struct mg_attr *row = row_after(NULL); row; row = row_after(row)) {
        if (lua_getfield(L, params, row->name) != LUA_TNIL)
            lua_setfield(L, target, row->name);
        else
            lua_pop(L, 1);
    }
}

/* Lets the dispatcher raise its error for a key that is no attribute. */
static void
params_check_names(lua_State *L, int target, int params)
{
    lua_pushnil(L);
    while (lua_next(L, params)) {
        const struct mg_attr *row = NULL;
        if (lua_type(L, -2) == LUA_TSTRING) {
            row = row_after(NULL);
            while (row && strcmp(row->name, lua_tostring(L, -2)) != 0)
                row = row_after(row);
        }
        if (!row) {
            lua_pushvalue(L, -2);
            lua_pushvalue(L, -2);
            lua_settable(L, target);
        }
        lua_pop(L, 1);
    }
}

static bool
field_is_true(lua_State *L, int idx, const char *name)
{
    lua_getfield(L, idx, name);
    bool value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

/* set_params([params]) -> what was applied, options excepted */
int
mg_ssl_context_set_params(lua_State *L)
{
    mg_check_count(L, 0, 1);
    const struct mg_ssl_context *self = mg_ssl_context_check_writable(L);
    lua_settop(L, 2);
    if (!lua_isnil(L, 2))
        mg_check_table(L, 2);

    lua_newtable(L); /* 3: merged */
    lua_pushinteger(L, SSL_VERIFY_PEER);
    lua_setfield(L, 3, "verify_mode");
    lua_pushboolean(L, true);
    lua_setfield(L, 3, "verify_hostname");
    lua_pushinteger(L, DEFAULT_OPTIONS);
    lua_setfield(L, 3, "options");
    for (int more = lua_istable(L, 2) ? (lua_pushnil(L), 1) : 0; more && lua_next(L, 2);) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_settable(L, 3);
    }
    mg_ssl_context_create(L); /* 4 */
    /* All of the context that an attribute's fate hangs on. */
    SSL_CTX_set_security_level(mg_ssl_context_test(L, 4), SSL_CTX_get_security_level(self->ctx));
    params_check_names(L, 4, 3);
    params_apply(L, 4, 3);

    lua_getfield(L, 3, "options");
    lua_Integer options = mg_attr_integer(L, -1, CLS, "options");
    lua_pushnil(L);
    lua_setfield(L, 3, "options");
    params_apply(L, 1, 3);
    SSL_CTX_set_options(self->ctx, (uint64_t)options);

    lua_getfield(L, 1, "verify_mode");
    bool verifies = lua_tointeger(L, -1) != SSL_VERIFY_NONE;
    if (verifies && !field_is_true(L, 1, "ca_file") && !field_is_true(L, 1, "ca_path") &&
        !field_is_true(L, 1, "cert_store")) {
        mg_default_store_push(L);
        lua_setfield(L, 1, "cert_store");
    }
    lua_settop(L, 3);
    return 1;
}

/* ---- profiles ------------------------------------------------------------------------------- */

/* Mozilla's "Server Side TLS" guideline, version 5.7, for OpenSSL. */
#define PROFILE_GUIDELINE "5.7"

struct profile {
    const char *name;
    int min_version;
    const char *ciphersuites, *ciphers; /* ciphers NULL: TLS 1.3 only */
    const char *groups;
    bool server_preference;
};

#define SUITES_TLS13 "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#define GROUPS       "X25519:prime256v1:secp384r1"
#define CIPHERS_INTERMEDIATE                                                                       \
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"     \
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:"       \
    "DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384:DHE-RSA-CHACHA20-POLY1305"
/* TLS 1.0 and 1.1 sign with SHA-1, which every security level but 0 refuses. */
#define CIPHERS_OLD                                                                                \
    "@SECLEVEL=0:" CIPHERS_INTERMEDIATE                                                            \
    ":ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA:"                   \
    "ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384:ECDHE-RSA-AES256-SHA384:"                      \
    "ECDHE-ECDSA-AES256-SHA:ECDHE-RSA-AES256-SHA:DHE-RSA-AES128-SHA256:DHE-RSA-AES256-SHA256:"     \
    "AES128-GCM-SHA256:AES256-GCM-SHA384:AES128-SHA256:AES256-SHA256:AES128-SHA:AES256-SHA:"       \
    "DES-CBC3-SHA"

static const struct profile profiles[] = {
    {"modern", TLS1_3_VERSION, SUITES_TLS13, NULL, GROUPS, false},
    {"intermediate", TLS1_2_VERSION, SUITES_TLS13, CIPHERS_INTERMEDIATE, GROUPS, false},
    {"old", TLS1_VERSION, SUITES_TLS13, CIPHERS_OLD, GROUPS, true},
};

/* The attributes of a profile as a table; `options` is left to the caller, which adds to what is
 * there. */
static void
profile_push(lua_State *L, const struct profile *profile)
{
    lua_createtable(L, 0, 5);
    lua_pushinteger(L, profile->min_version);
    lua_setfield(L, -2, "min_version");
    lua_pushstring(L, profile->ciphersuites);
    lua_setfield(L, -2, "ciphersuites");
    lua_pushstring(L, profile->ciphers);
    lua_setfield(L, -2, "ciphers");
    lua_pushstring(L, profile->groups);
    lua_setfield(L, -2, "groups");
}

/* use_profile("modern" | "intermediate" | "old") -> self */
int
mg_ssl_context_use_profile(lua_State *L)
{
    mg_check_count(L, 1, 1);
    const struct mg_ssl_context *self = mg_ssl_context_check_writable(L);
    const char *name = mg_check_text(L, 2);
    const struct profile *profile = NULL;
    for (size_t i = 0; i < MG_ARRAY_LEN(profiles); i++)
        if (strcmp(profiles[i].name, name) == 0)
            profile = &profiles[i];
    if (!profile)
        mg_lua_error(L, "ArgumentError",
                     "%s: unknown profile \"%.80s\" (there are modern, intermediate and old)",
                     mg_function_name(L), name);
    mg_ssl_context_create(L);
    profile_push(L, profile);
    int params = lua_gettop(L);
    params_apply(L, params - 1, params);
    params_apply(L, 1, params);
    if (profile->server_preference)
        SSL_CTX_set_options(self->ctx, SSL_OP_CIPHER_SERVER_PREFERENCE);
    lua_settop(L, 1);
    return 1;
}

void
mg_open_ssl_profiles(lua_State *L)
{
    lua_createtable(L, 0, (int)MG_ARRAY_LEN(profiles) + 1);
    for (size_t i = 0; i < MG_ARRAY_LEN(profiles); i++) {
        profile_push(L, &profiles[i]);
        table_freeze(L, "PROFILES");
        lua_setfield(L, -2, profiles[i].name);
    }
    lua_pushliteral(L, PROFILE_GUIDELINE);
    lua_setfield(L, -2, "version");
    mg_names_close(L, "openssl.SSL.PROFILES");
    table_freeze(L, "PROFILES");
}

void
mg_open_ssl_params(lua_State *L)
{
    static const char *const methods[] = {"SSLv23", "SSLv2",   "SSLv3",
                                          "TLSv1",  "TLSv1_1", "TLSv1_2"};
    static const char *const sides[] = {"", "_client", "_server"};
    lua_Integer count = 0;

    lua_createtable(L, 0, 3);
    lua_pushinteger(L, SSL_VERIFY_PEER);
    lua_setfield(L, -2, "verify_mode");
    lua_pushboolean(L, true);
    lua_setfield(L, -2, "verify_hostname");
    lua_pushinteger(L, DEFAULT_OPTIONS);
    lua_setfield(L, -2, "options");
    table_freeze(L, "DEFAULT_PARAMS");
    lua_setfield(L, -2, "DEFAULT_PARAMS");

    lua_newtable(L);
    for (size_t m = 0; m < MG_ARRAY_LEN(methods); m++) {
        for (size_t s = 0; s < MG_ARRAY_LEN(sides); s++) {
            lua_pushfstring(L, "%s%s", methods[m], sides[s]);
            lua_rawseti(L, -2, ++count);
        }
    }
    table_freeze(L, "METHODS");
    lua_setfield(L, -2, "METHODS");
}

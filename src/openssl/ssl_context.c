/*
 * ssl_context: the class SSLContext – its life, the attributes that are stored until setup, and
 * what other rooms ask about a context.
 *
 * What is assigned stays in the user value's table under the attribute's name, checked for its
 * type, so the collector sees every cycle through a callback. setup (ssl_setup.c) turns it into
 * calls.
 */
#include "openssl/internal.h"

#include <limits.h>
#include <pthread.h>
#include <string.h>

#define CLS "SSLContext"

/* Registry key, by address, of the weak table SSL_CTX* -> userdata. */
static const char contexts_key = 'c';

/* ---- values --------------------------------------------------------------------------------- */

int
mg_ssl_context_value(lua_State *L, int idx, const char *name)
{
    lua_getiuservalue(L, idx, 1);
    int type = lua_getfield(L, -1, name);
    lua_remove(L, -2);
    return type;
}

void
mg_ssl_context_store(lua_State *L, int idx, const char *name, int value)
{
    lua_getiuservalue(L, idx, 1);
    lua_pushvalue(L, value);
    lua_setfield(L, -2, name);
    lua_pop(L, 1);
}

/* ---- what may be assigned: each raises or leaves the value as it is -------------------------- */

static void
check_certificate(lua_State *L, int value, const char *name)
{
    if (!lua_isnil(L, value) && !mg_x509_test(L, value))
        mg_attr_type_error(L, value, CLS, name, "Certificate");
}

static void
check_key(lua_State *L, int value, const char *name)
{
    if (lua_isnil(L, value))
        return;
    const EVP_PKEY *key = mg_pkey_test(L, value);
    if (!key)
        mg_attr_type_error(L, value, CLS, name, "PKey");
    if (!mg_pkey_has_private(key))
        mg_lua_error(L, "ArgumentError", CLS ".%s: private key is needed", name);
}

static void
check_certificate_list(lua_State *L, int value, const char *name)
{
    if (lua_isnil(L, value))
        return;
    if (!lua_istable(L, value))
        mg_attr_type_error(L, value, CLS, name, "a list of Certificates");
    mg_x509_stack_push(L, value, lua_pushfstring(L, CLS ".%s", name));
}

static void
check_client_ca(lua_State *L, int value, const char *name)
{
    if (!mg_x509_test(L, value))
        check_certificate_list(L, value, name);
}

static void
check_text(lua_State *L, int value, const char *name)
{
    if (!lua_isnil(L, value))
        mg_attr_text(L, value, CLS, name);
}

static void
check_store(lua_State *L, int value, const char *name)
{
    if (!lua_isnil(L, value) && !mg_class_test(L, value, &mg_store_class))
        mg_attr_type_error(L, value, CLS, name, "Store");
}

/* Leaves an integer in the value's place: a float was truncated. */
static void
check_int(lua_State *L, int value, const char *name)
{
    if (lua_isnil(L, value))
        return;
    lua_Integer number = mg_attr_integer(L, value, CLS, name);
    if (number < INT_MIN || number > INT_MAX)
        mg_lua_error(L, "RangeError", CLS ".%s: %lld is out of range", name, (long long)number);
    lua_pushinteger(L, number);
    lua_replace(L, value);
}

static void
check_ocsp_response(lua_State *L, int value, const char *name)
{
    size_t len;
    if (lua_isnil(L, value))
        return;
    mg_arg_string(L, value, CLS, name, &len);
    mg_staple_check(L, value, CLS ".ocsp_response", NULL);
}

static void
check_flag(lua_State *L, int value, const char *name)
{
    if (!lua_isnil(L, value))
        mg_arg_boolean(L, value, CLS, name);
}

static void
check_function(lua_State *L, int value, const char *name)
{
    if (!lua_toboolean(L, value) || lua_isfunction(L, value))
        return;
    if (luaL_getmetafield(L, value, "__call") == LUA_TNIL)
        mg_attr_type_error(L, value, CLS, name, "a function");
    lua_pop(L, 1);
}

static void
check_session_id_context(lua_State *L, int value, const char *name)
{
    size_t len;
    if (lua_isnil(L, value))
        return;
    mg_arg_string(L, value, CLS, name, &len);
    if (len > SSL_MAX_SID_CTX_LENGTH)
        mg_lua_error(L, "SSLError",
                     CLS ".%s: ssl session id context too long (%zu bytes, at most %d)", name, len,
                     SSL_MAX_SID_CTX_LENGTH);
}

static void
check_protocols(lua_State *L, int value, const char *name)
{
    if (lua_isnil(L, value))
        return;
    if (!lua_istable(L, value))
        mg_attr_type_error(L, value, CLS, name, "a list of strings");
    mg_protocols_encode(L, value, name, mg_box_push_buf(L));
}

static void
check_name(lua_State *L, int value, const char *name)
{
    if (lua_isnil(L, value))
        return;
    const char *text = mg_attr_text(L, value, CLS, name);
    if (strlen(text) >= sizeof(((struct mg_ssl_context_facts *)0)->name))
        mg_lua_error(L, "ArgumentError", CLS ".name: longer than %zu bytes",
                     sizeof(((struct mg_ssl_context_facts *)0)->name) - 1);
}

void
mg_protocols_encode(lua_State *L, int value, const char *name, struct mg_buf *out)
{
    lua_Integer count = (lua_Integer)lua_rawlen(L, value);
    for (lua_Integer i = 1; i <= count; i++) {
        size_t len;
        if (lua_rawgeti(L, value, i) != LUA_TSTRING)
            mg_lua_error(L, "TypeError", CLS ".%s: entry %d: expected a string, got %s", name,
                         (int)i, mg_type_name(L, -1));
        const char *protocol = lua_tolstring(L, -1, &len);
        if (len < 1 || len > 255)
            mg_lua_error(L, "SSLError", CLS ".%s: Advertised protocol must have length 1..255",
                         name);
        unsigned char octet = (unsigned char)len;
        mg_buf_add(out, &octet, 1);
        mg_buf_add(out, protocol, len);
        lua_pop(L, 1);
    }
    if (out->failed)
        mg_lua_error(L, "NoMemoryError", CLS ".%s: out of memory", name);
    if (out->len > 65535)
        mg_lua_error(L, "SSLError", CLS ".%s: the list is longer than 65535 bytes", name);
}

/* ---- stored rows ---------------------------------------------------------------------------- */

/* A reader and a writer for an attribute that setup applies. */
#define STORED(attr, check)                                                                        \
    static int get_##attr(lua_State *L, void *self MG_UNUSED)                                      \
    {                                                                                              \
        mg_ssl_context_value(L, 1, #attr);                                                         \
        return 1;                                                                                  \
    }                                                                                              \
    static void set_##attr(lua_State *L, void *self MG_UNUSED, int value)                          \
    {                                                                                              \
        check(L, value, #attr);                                                                    \
        mg_ssl_context_store(L, 1, #attr, value);                                                  \
    }

STORED(cert, check_certificate)
STORED(key, check_key)
STORED(extra_chain_cert, check_certificate_list)
STORED(ocsp_response, check_ocsp_response)
STORED(client_ca, check_client_ca)
STORED(ca_file, check_text)
STORED(ca_path, check_text)
STORED(cert_store, check_store)
STORED(verify_depth, check_int)
STORED(verify_hostname, check_flag)
STORED(timeout, check_int)
STORED(session_id_context, check_session_id_context)
STORED(alpn_protocols, check_protocols)
STORED(name, check_name)
#ifdef MG_HAVE_NPN
STORED(npn_protocols, check_protocols)
#endif

#define STORED_CALLBACK(attr) STORED(attr, check_function)
MG_CALLBACKS(STORED_CALLBACK)

static int
get_verify_mode(lua_State *L, void *self MG_UNUSED)
{
    mg_ssl_context_value(L, 1, "verify_mode");
    return 1;
}

/* nil takes back what was assigned, so that a backend's context is verified after all. */
static void
set_verify_mode(lua_State *L, void *self, int value)
{
    check_int(L, value, "verify_mode");
    mg_ssl_context_store(L, 1, "verify_mode", value);
    ((struct mg_ssl_context *)self)->verify_mode_set = !lua_isnil(L, value);
}

static int
get_frozen(lua_State *L, void *self)
{
    lua_pushboolean(L, ((struct mg_ssl_context *)self)->frozen);
    return 1;
}

/* ---- life ----------------------------------------------------------------------------------- */

static int
context_gc(lua_State *L)
{
    struct mg_ssl_context *self = lua_touserdata(L, 1);
    /* Freeing the cache is no removal that anybody wants to hear of. */
    if (self->number > 0)
        mg_ssl_context_extra(self->ctx)->link->alive--;
    if (self->ctx)
        SSL_CTX_sess_set_remove_cb(self->ctx, NULL);
    SSL_CTX_free(self->ctx);
    self->ctx = NULL;
    return 0;
}

void
mg_ssl_context_remember(lua_State *L, int idx, const SSL_CTX *ctx)
{
    idx = lua_absindex(L, idx);
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &contexts_key) != LUA_TTABLE) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_createtable(L, 0, 1);
        lua_pushliteral(L, "v");
        lua_setfield(L, -2, "__mode");
        lua_setmetatable(L, -2);
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &contexts_key);
    }
    lua_pushvalue(L, idx);
    lua_rawsetp(L, -2, ctx);
    lua_pop(L, 1);
}

bool
mg_ssl_context_push(lua_State *L, const SSL_CTX *ctx)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &contexts_key) != LUA_TTABLE)
        return lua_pop(L, 1), false;
    lua_rawgetp(L, -1, ctx);
    lua_remove(L, -2);
    /* A context that is being finalised has lost its metatable already. */
    if (mg_ssl_context_test(L, -1) == ctx)
        return true;
    lua_pop(L, 1);
    return false;
}

void
mg_ssl_contexts_push(lua_State *L, int others)
{
    int set;
    others = others != 0 ? lua_absindex(L, others) : 0;
    lua_newtable(L);
    set = lua_gettop(L);
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &contexts_key) == LUA_TTABLE) {
        for (lua_pushnil(L); lua_next(L, set + 1) != 0; lua_settop(L, set + 2)) {
            lua_pushvalue(L, set + 3);
            if (!mg_ssl_context_test(L, set + 3) ||
                (others != 0 && lua_rawget(L, others) != LUA_TNIL))
                continue;
            lua_pushvalue(L, set + 3);
            lua_pushboolean(L, true);
            lua_rawset(L, set);
        }
    }
    lua_settop(L, set);
}

void
mg_ssl_contexts_list_push(lua_State *L, int others)
{
    int top = lua_gettop(L);
    lua_Integer made = mg_lua_link(L)->contexts, count = 0;
    mg_ssl_contexts_push(L, others);
    lua_newtable(L); /* by number */
    for (lua_pushnil(L); lua_next(L, top + 1) != 0; lua_settop(L, top + 3)) {
        const struct mg_ssl_context *self = mg_class_test(L, top + 3, &mg_ssl_context_class);
        lua_pushvalue(L, top + 3);
        lua_rawseti(L, top + 2, self->number);
    }
    lua_newtable(L);
    for (lua_Integer number = 1; number <= made; number++) {
        if (lua_rawgeti(L, top + 2, number) != LUA_TNIL)
            lua_rawseti(L, top + 3, ++count);
        else
            lua_pop(L, 1);
    }
    lua_replace(L, top + 1);
    lua_settop(L, top + 1);
}

void
mg_ssl_contexts_freeze(lua_State *L, int others)
{
    int top = lua_gettop(L);
    others = others != 0 ? lua_absindex(L, others) : 0;
    lua_gc(L, LUA_GCCOLLECT); /* which ones are there may not depend on the collector's pace */
    mg_ssl_contexts_list_push(L, others); /* setup reads files, in workers in the same order */
    for (lua_Integer i = 1; lua_rawgeti(L, top + 1, i) != LUA_TNIL; i++) {
        const struct mg_ssl_context *self = mg_class_test(L, top + 2, &mg_ssl_context_class);
        if (!self->frozen)
            mg_ssl_context_freeze(L, top + 2, false);
        lua_settop(L, top + 1);
    }
    lua_settop(L, top);
}

/* What an SSL_CTX weighs, for a collector that sees only the few bytes of its userdata. */
#define CONTEXT_KIB   32
#define CONTEXTS_FEW  16
#define CONTEXTS_MANY 1024

/* As the collector does it for what it sees: it begins when there may be twice as many as it left, or many
 * more, and then keeps pace with what is made. */
static void
collector_step(lua_State *L, struct mg_lua_link *link)
{
    lua_Integer pause = link->settled > CONTEXTS_FEW ? link->settled : CONTEXTS_FEW;
    if (pause > CONTEXTS_MANY)
        pause = CONTEXTS_MANY;
    if (++link->grown <= pause || lua_gc(L, LUA_GCSTEP, CONTEXT_KIB) != 1)
        return;
    link->settled = link->alive;
    link->grown = 0;
}

/* Trust anchors of contexts that have none. Nobody adds to it: setup gives a context another store. */
static X509_STORE *no_anchors;

static void
no_anchors_make(void)
{
    no_anchors = X509_STORE_new();
}

/* Each SSL_CTX comes with an empty store of its own, which thousands of contexts can do without. */
static void
store_share(SSL_CTX *ctx)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, no_anchors_make);
    if (no_anchors)
        SSL_CTX_set1_cert_store(ctx, no_anchors);
}

void
mg_ssl_context_create(lua_State *L)
{
    collector_step(L, mg_lua_link(L));
    struct mg_ssl_context *self = mg_class_new(L, &mg_ssl_context_class, sizeof(*self));
    ERR_clear_error();
    self->ctx = SSL_CTX_new(TLS_method());
    if (!self->ctx || mg_ssl_context_link(self->ctx, mg_lua_link(L)) < 0)
        mg_lua_openssl_error(L, "SSLError", "SSL_CTX_new");
    store_share(self->ctx);
    ERR_clear_error(); /* of what it has gone on without */
    self->number = ++mg_lua_link(L)->contexts;
    mg_lua_link(L)->alive++;
    mg_ssl_context_remember(L, -1, self->ctx);
    SSL_CTX_set_mode(self->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                    SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_dh_auto(self->ctx, 1);
    SSL_CTX_set_num_tickets(self->ctx, 1);

    lua_getiuservalue(L, -1, 1);
    lua_pushinteger(L, SSL_VERIFY_NONE);
    lua_setfield(L, -2, "verify_mode");
    lua_pushboolean(L, false);
    lua_setfield(L, -2, "verify_hostname");
    mg_lua_where_push(L);
    lua_setfield(L, -2, "where");
    lua_pop(L, 1);
}

/* SSLContext.new([version]) */
static int
context_new(lua_State *L)
{
    mg_check_count(L, 0, 1);
    lua_settop(L, 1);
    mg_ssl_context_create(L);
    if (lua_toboolean(L, 1)) {
        lua_pushvalue(L, 1);
        lua_setfield(L, 2, "ssl_version");
    }
    return 1;
}

static bool
context_is_frozen(const void *self)
{
    return ((const struct mg_ssl_context *)self)->frozen;
}

struct mg_ssl_context *
mg_ssl_context_check_writable(lua_State *L)
{
    struct mg_ssl_context *self = mg_class_check(L, 1, &mg_ssl_context_class);
    if (self->frozen)
        mg_lua_error(L, "FrozenError", "%s: can't modify frozen SSLContext", mg_function_name(L));
    return self;
}

/* enable_fallback_scsv(); also when frozen, as in Ruby */
static int
context_enable_fallback_scsv(lua_State *L)
{
    const struct mg_ssl_context *self = mg_class_check(L, 1, &mg_ssl_context_class);
    mg_check_count(L, 0, 0);
    SSL_CTX_set_mode(self->ctx, SSL_MODE_SEND_FALLBACK_SCSV);
    return 0;
}

/* set_minmax_proto_version(min, max): both, or on an error neither */
static int
context_set_minmax_proto_version(lua_State *L)
{
    static const int targets[] = {4, 1};
    mg_ssl_context_check_writable(L);
    mg_check_count(L, 2, 2);
    mg_ssl_context_create(L); /* 4: the rehearsal */
    for (size_t i = 0; i < MG_ARRAY_LEN(targets); i++) {
        lua_pushvalue(L, 2);
        lua_setfield(L, targets[i], "min_version");
        lua_pushvalue(L, 3);
        lua_setfield(L, targets[i], "max_version");
    }
    return 0;
}

static int
context_tostring(lua_State *L)
{
    if (!mg_class_test(L, 1, &mg_ssl_context_class))
        return luaL_error(L, "SSLContext expected");
    if (mg_ssl_context_value(L, 1, "name") == LUA_TSTRING)
        lua_pushfstring(L, "SSLContext: %s", lua_tostring(L, -1));
    else
        lua_pushfstring(L, "SSLContext: %p", lua_topointer(L, 1));
    return 1;
}

/* ---- what other rooms ask -------------------------------------------------------------------- */

SSL_CTX *
mg_ssl_context_test(lua_State *L, int idx)
{
    const struct mg_ssl_context *self = mg_class_test(L, idx, &mg_ssl_context_class);
    return self ? self->ctx : NULL;
}

bool
mg_ssl_context_frozen(lua_State *L, int idx)
{
    const struct mg_ssl_context *self = mg_class_test(L, idx, &mg_ssl_context_class);
    return self && self->frozen;
}

const char *
mg_ssl_context_label_push(lua_State *L, int idx)
{
    idx = lua_absindex(L, idx);
    if (mg_ssl_context_value(L, idx, "name") == LUA_TSTRING)
        return lua_tostring(L, -1);
    lua_pop(L, 1);
    mg_ssl_context_value(L, idx, "where");
    const char *where = lua_tostring(L, -1);
    size_t len = where ? strlen(where) : 0;
    while (len > 0 && (where[len - 1] == ':' || where[len - 1] == ' '))
        len--;
    lua_pushlstring(L, where ? where : "", len);
    return lua_pushfstring(L, "the context of %s", lua_tostring(L, -1));
}

static bool
value_is_true(lua_State *L, int idx, const char *name)
{
    mg_ssl_context_value(L, idx, name);
    bool is_true = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return is_true;
}

void
mg_ssl_context_facts(lua_State *L, int idx, struct mg_ssl_context_facts *facts)
{
    const struct mg_ssl_context *self = mg_class_check(L, idx, &mg_ssl_context_class);
    idx = lua_absindex(L, idx);
    memset(facts, 0, sizeof(*facts));
#define CALLBACK_IS_SET(attr) value_is_true(L, idx, #attr) ||
    facts->callbacks = MG_CALLBACKS(CALLBACK_IS_SET) false;
    facts->verify_callback = value_is_true(L, idx, "verify_callback");
    facts->servername_cb = value_is_true(L, idx, "servername_cb");
    facts->verify_hostname = value_is_true(L, idx, "verify_hostname");
    facts->verify_mode_set = self->verify_mode_set;
    facts->verify_mode = SSL_CTX_get_verify_mode(self->ctx);
    facts->has_client_ca = value_is_true(L, idx, "client_ca") || value_is_true(L, idx, "ca_file") ||
                           value_is_true(L, idx, "ca_path") || value_is_true(L, idx, "cert_store");
    facts->has_crls = value_is_true(L, idx, "crls");
    if (mg_ssl_context_value(L, idx, REPLACED) == LUA_TSTRING && lua_rawlen(L, -1) > 0)
        facts->replaced = lua_tostring(L, -1);
    lua_pop(L, 1);
    if (mg_ssl_context_value(L, idx, "name") == LUA_TSTRING)
        mg_str_copy(facts->name, sizeof(facts->name), lua_tostring(L, -1));
    lua_pop(L, 1);
    facts->client_cert_cb = value_is_true(L, idx, "client_cert_cb");
    memcpy(facts->digest, self->digest, sizeof(facts->digest));
    memcpy(facts->session_policy, mg_ssl_context_extra(self->ctx)->session_id_context,
           sizeof(facts->session_policy));
}

/* ---- the class ------------------------------------------------------------------------------ */

#define CALLBACK_ROW(attr) {#attr, get_##attr, set_##attr},

static const struct mg_attr context_attrs[] = {
    {"name", get_name, set_name},
    {"cert", get_cert, set_cert},
    {"key", get_key, set_key},
    {"extra_chain_cert", get_extra_chain_cert, set_extra_chain_cert},
    {"ocsp_response", get_ocsp_response, set_ocsp_response},
    {"client_ca", get_client_ca, set_client_ca},
    {"ca_file", get_ca_file, set_ca_file},
    {"ca_path", get_ca_path, set_ca_path},
    {"cert_store", get_cert_store, set_cert_store},
    {"verify_mode", get_verify_mode, set_verify_mode},
    {"verify_depth", get_verify_depth, set_verify_depth},
    {"verify_hostname", get_verify_hostname, set_verify_hostname},
    {"timeout", get_timeout, set_timeout},
    {"ssl_timeout", get_timeout, set_timeout},
    {"session_id_context", get_session_id_context, set_session_id_context},
    {"alpn_protocols", get_alpn_protocols, set_alpn_protocols},
#ifdef MG_HAVE_NPN
    {"npn_protocols", get_npn_protocols, set_npn_protocols},
#endif
    MG_CALLBACKS(CALLBACK_ROW){"frozen", get_frozen, NULL},
    {NULL, NULL, NULL},
};

static const luaL_Reg context_methods[] = {
    {"add_certificate", mg_ssl_context_add_certificate},
    {"load_certificate", mg_ssl_context_load_certificate},
    {"set_params", mg_ssl_context_set_params},
    {"use_profile", mg_ssl_context_use_profile},
    {"enable_fallback_scsv", context_enable_fallback_scsv},
    {"set_minmax_proto_version", context_set_minmax_proto_version},
    {"session_add", mg_ssl_context_session_add},
    {"session_remove", mg_ssl_context_session_remove},
    {"flush_sessions", mg_ssl_context_flush_sessions},
    {"add_crl", mg_ssl_context_add_crl},
    {"load_crl", mg_ssl_context_load_crl},
    {"load_ocsp", mg_ssl_context_load_ocsp},
    {"setup", mg_ssl_context_setup},
    {"freeze", mg_ssl_context_setup},
    {NULL, NULL},
};

static const char *const context_frozen_ok[] = {"session_cache_mode", "session_cache_size", NULL};

const struct mg_class mg_ssl_context_class = {
    .name = CLS,
    .metatable = "moongate.SSL.SSLContext",
    .attrs = context_attrs,
    .more_attrs = mg_ssl_protocol_attrs,
    .methods = context_methods,
    .is_frozen = context_is_frozen,
    .frozen_ok = context_frozen_ok,
    .gc = context_gc,
    .tostring = context_tostring,
    .user_values = 1,
};

/* SSLContext.DEFAULT_CERT_STORE exists from its first use on, so that a script without it reads no
 * file. */
static int
context_missing(lua_State *L)
{
    if (lua_type(L, 2) == LUA_TSTRING && strcmp(lua_tostring(L, 2), "DEFAULT_CERT_STORE") == 0)
        mg_default_store_push(L);
    else
        mg_name_missing(L, "openssl.SSL.SSLContext");
    return 1;
}

void
mg_open_ssl_context(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"new", context_new},
        {NULL, NULL},
    };
    mg_class_register(L, &mg_ssl_context_class);
    mg_functions_push(L, CLS, functions);
    mg_open_context_constants(L);
    mg_open_ssl_params(L);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, context_missing);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
}

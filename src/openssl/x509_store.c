/*
 * x509_store: X509.Store, the trust anchors and CRLs of a verification, and StoreContext, which a
 * verify callback gets and which is dead once the callback has returned.
 *
 * OpenSSL opens no file here: everything is read through the hooks and parsed from memory, because
 * a run's files are recorded and replayed. Directories are read whole, the files with hash names
 * only.
 */
#include "openssl/internal.h"

#include <openssl/pem.h>

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static struct mg_store *
self_store(lua_State *L)
{
    return mg_class_check(L, 1, &mg_store_class);
}

/* A context that is set up, and sessions made under it, rely on what its store trusts. */
static struct mg_store *
self_writable(lua_State *L)
{
    struct mg_store *self = self_store(L);
    if (self->frozen)
        mg_lua_error(L, "FrozenError", "%s: can't modify frozen Store", mg_function_name(L));
    return self;
}

static bool
store_is_frozen(const void *self)
{
    return ((const struct mg_store *)self)->frozen;
}

static int
store_gc(lua_State *L)
{
    struct mg_store *self = lua_touserdata(L, 1);
    X509_STORE_free(self->store);
    self->store = NULL;
    return 0;
}

static struct mg_store *
store_push(lua_State *L)
{
    struct mg_store *self = mg_class_new(L, &mg_store_class, sizeof(*self));
    self->store = X509_STORE_new();
    if (!self->store)
        mg_lua_openssl_error(L, "StoreError", "X509_STORE_new");
    return self;
}

static int
store_new(lua_State *L)
{
    mg_check_count(L, 0, 0);
    store_push(L);
    return 1;
}

/* ---- files ---------------------------------------------------------------------------------- */

static void
infos_free(void *infos)
{
    sk_X509_INFO_pop_free((STACK_OF(X509_INFO) *)infos, X509_INFO_free);
}

/* Adds the certificates and CRLs of a file's text. Returns how many there were; -1: OpenSSL's queue
 * says why it cannot be read. */
static int
store_add_text(lua_State *L, X509_STORE *store, const struct mg_buf *file)
{
    BIO *bio = mg_box_push_bio(L, file->data, file->len);
    struct mg_box *infos = mg_box_push(L, infos_free);
    int added = 0;
    ERR_clear_error();
    if (mg_is_pem(file->data, file->len))
        infos->ptr = PEM_X509_INFO_read_bio(bio, NULL, mg_no_passphrase, NULL);
    const STACK_OF(X509_INFO) *list = infos->ptr;
    if (!list && ERR_peek_error() != 0)
        added = -1;
    for (int i = 0; i < sk_X509_INFO_num(list) && added >= 0; i++) {
        const X509_INFO *info = sk_X509_INFO_value(list, i);
        if ((info->x509 && X509_STORE_add_cert(store, info->x509) != 1) ||
            (info->crl && X509_STORE_add_crl(store, info->crl) != 1))
            added = -1;
        else
            added += (info->x509 ? 1 : 0) + (info->crl ? 1 : 0);
    }
    if (added >= 0)
        ERR_clear_error();
    mg_box_free(infos);
    mg_box_free(lua_touserdata(L, -2));
    lua_pop(L, 2);
    return added;
}

void
mg_store_load_file(lua_State *L, X509_STORE *store, const char *cls, const char *what,
                   const char *path)
{
    struct mg_buf *file = mg_file_push(L, cls, what, path);
    int added = store_add_text(L, store, file);
    if (added < 0)
        mg_lua_openssl_error(L, cls, "%s: %s", what, path);
    if (added == 0)
        mg_lua_error(L, cls, "%s: %s: no certificate or crl found", what, path);
    mg_buf_free(file);
    lua_pop(L, 1);
}

/* "9a2b3c4d.0" or, for a CRL, "9a2b3c4d.r0": the names that OpenSSL itself would look for. */
static bool
is_hash_name(const char *name)
{
    if (strspn(name, "0123456789abcdef") != 8 || name[8] != '.')
        return false;
    const char *number = name[9] == 'r' ? name + 10 : name + 9;
    return *number && number[strspn(number, "0123456789")] == '\0';
}

static int
name_compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void
mg_store_load_dir(lua_State *L, X509_STORE *store, const char *path)
{
    const struct mg_openssl_hooks *hooks = mg_openssl_hooks(L);
    int top = lua_gettop(L);
    struct mg_buf *names = mg_box_push_buf(L);
    struct mg_err err;
    if (hooks->list_dir(hooks->data, path, names, &err) < 0)
        return lua_settop(L, top);
    /* Sorted, so that every run adds them in the same order. */
    size_t count = 0, capacity = 0;
    for (size_t at = 0; at < names->len; at += strlen(names->data + at) + 1)
        capacity++;
    const char **sorted = lua_newuserdatauv(L, (capacity + 1) * sizeof(*sorted), 0);
    for (size_t at = 0; at < names->len; at += strlen(names->data + at) + 1)
        if (is_hash_name(names->data + at))
            sorted[count++] = names->data + at;
    qsort(sorted, count, sizeof(*sorted), name_compare);
    for (size_t i = 0; i < count; i++) {
        const char *file = lua_pushfstring(L, "%s/%s", path, sorted[i]);
        struct mg_buf *text = mg_box_push_buf(L);
        /* A dangling link or a broken file is as good as none: so it is where OpenSSL looks itself.
         */
        if (hooks->read_file(hooks->data, file, text, &err) == 0 &&
            store_add_text(L, store, text) < 0)
            ERR_clear_error();
        mg_buf_free(text);
        lua_settop(L, top + 2);
    }
    lua_settop(L, top);
}

/* ---- the default store ---------------------------------------------------------------------- */

/* Registry key, by address. */
static const char default_store_key = 'd';

static void
store_load_defaults(lua_State *L, X509_STORE *store)
{
    const struct mg_openssl_hooks *hooks = mg_openssl_hooks(L);
    const char *file = secure_getenv(X509_get_default_cert_file_env());
    const char *dir = secure_getenv(X509_get_default_cert_dir_env());
    struct mg_buf *text = mg_box_push_buf(L);
    struct mg_err err;
    file = file ? file : X509_get_default_cert_file();
    dir = dir ? dir : X509_get_default_cert_dir();
    /* Neither has to exist, as with X509_STORE_set_default_paths. */
    if (hooks->read_file(hooks->data, file, text, &err) == 0 && store_add_text(L, store, text) < 0)
        ERR_clear_error();
    while (*dir) {
        size_t len = strcspn(dir, ":");
        mg_store_load_dir(L, store, lua_pushlstring(L, dir, len));
        dir += len + (dir[len] == ':');
    }
}

void
mg_default_store_push(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &default_store_key) == LUA_TUSERDATA)
        return;
    lua_pop(L, 1);
    const struct mg_store *self = store_push(L);
    int top = lua_gettop(L);
    store_load_defaults(L, self->store);
    lua_settop(L, top);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &default_store_key);
}

/* ---- Store: methods ------------------------------------------------------------------------- */

static int
store_add_cert(lua_State *L)
{
    const struct mg_store *self = self_writable(L);
    mg_check_count(L, 1, 1);
    mg_class_check(L, 2, &mg_certificate_class);
    if (X509_STORE_add_cert(self->store, mg_x509_share(L, 2)) != 1)
        mg_lua_openssl_error(L, "StoreError", "X509_STORE_add_cert");
    lua_settop(L, 1);
    return 1;
}

static int
store_add_crl(lua_State *L)
{
    const struct mg_store *self = self_writable(L);
    mg_check_count(L, 1, 1);
    if (X509_STORE_add_crl(self->store, mg_crl_share(L, 2)) != 1)
        mg_lua_openssl_error(L, "StoreError", "X509_STORE_add_crl");
    lua_settop(L, 1);
    return 1;
}

static int
store_add_file(lua_State *L)
{
    const struct mg_store *self = self_writable(L);
    mg_check_count(L, 1, 1);
    mg_store_load_file(L, self->store, "StoreError", mg_function_name(L), mg_check_text(L, 2));
    lua_settop(L, 1);
    return 1;
}

static int
store_add_path(lua_State *L)
{
    const struct mg_store *self = self_writable(L);
    mg_check_count(L, 1, 1);
    mg_store_load_dir(L, self->store, mg_check_text(L, 2));
    lua_settop(L, 1);
    return 1;
}

static int
store_set_default_paths(lua_State *L)
{
    const struct mg_store *self = self_writable(L);
    mg_check_count(L, 0, 0);
    store_load_defaults(L, self->store);
    return 0;
}

/* clear_flags([bits]) */
static int
store_clear_flags(lua_State *L)
{
    const struct mg_store *self = self_writable(L);
    X509_VERIFY_PARAM *param = X509_STORE_get0_param(self->store);
    mg_check_count(L, 0, 1);
    unsigned long bits = lua_isnoneornil(L, 2) ? X509_VERIFY_PARAM_get_flags(param)
                                               : (unsigned long)mg_check_integer(L, 2);
    X509_VERIFY_PARAM_clear_flags(param, bits);
    return 0;
}

static void
x509_stack_free(void *stack)
{
    sk_X509_pop_free((STACK_OF(X509) *)stack, X509_free);
}

static void
store_ctx_free(void *ctx)
{
    X509_STORE_CTX_free(ctx);
}

/* What the callback of a verification needs; the function is on the stack of L. */
struct store_ask {
    lua_State *L;
    int function;
    int failure; /* index of the slot for what the callback raised; nil: nothing */
};

/* Its arguments: function, preverify_ok, X509_STORE_CTX. */
static int
store_ask_body(lua_State *L)
{
    mg_store_context_push(L, mg_lua_pointer(L, 3));
    lua_toclose(L, -1); /* dead when this function is left, whichever way */
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, 4);
    lua_call(L, 2, 1);
    lua_pushboolean(L, lua_isboolean(L, -1) && lua_toboolean(L, -1));
    return 1;
}

/* Only `true` accepts. What is raised waits until OpenSSL has returned. */
static int
on_store_ask(int preverify_ok, X509_STORE_CTX *ctx)
{
    const struct store_ask *ask = X509_STORE_CTX_get_app_data(ctx);
    lua_State *L = ask->L;
    bool accepted = false;
    if (lua_isnil(L, ask->failure) && lua_checkstack(L, LUA_MINSTACK)) {
        lua_pushcfunction(L, store_ask_body);
        lua_pushvalue(L, ask->function);
        lua_pushboolean(L, preverify_ok == 1);
        lua_pushlightuserdata(L, ctx);
        ERR_set_mark();
        if (lua_pcall(L, 3, 1, 0) == LUA_OK)
            accepted = lua_toboolean(L, -1);
        else
            lua_copy(L, -1, ask->failure);
        ERR_pop_to_mark();
        lua_pop(L, 1);
    }
    if (accepted)
        X509_STORE_CTX_set_error(ctx, X509_V_OK);
    else if (X509_STORE_CTX_get_error(ctx) == X509_V_OK)
        X509_STORE_CTX_set_error(ctx, X509_V_ERR_CERT_REJECTED);
    return accepted;
}

static bool
is_callable(lua_State *L, int idx)
{
    if (lua_isfunction(L, idx))
        return true;
    if (luaL_getmetafield(L, idx, "__call") == LUA_TNIL)
        return false;
    lua_pop(L, 1);
    return true;
}

/* verify(cert[, chain][, callback]) -> boolean; then error, error_string and chain tell more */
static int
store_verify(lua_State *L)
{
    struct mg_store *self = self_store(L);
    mg_check_count(L, 1, 3);
    mg_class_check(L, 2, &mg_certificate_class);
    if (lua_gettop(L) == 3 && lua_isfunction(L, 3)) {
        lua_pushnil(L); /* the block of Ruby, with the chain left out */
        lua_insert(L, 3);
    }
    lua_settop(L, 4);
    if (!lua_isnil(L, 3))
        mg_check_table(L, 3);
    if (lua_isnil(L, 4)) {
        lua_getiuservalue(L, 1, 1);
        lua_getfield(L, -1, "verify_callback");
        lua_replace(L, 4);
        lua_settop(L, 4);
    }
    if (lua_toboolean(L, 4) && !is_callable(L, 4))
        mg_argument_type_error(L, 4, "a function");
    lua_pushnil(L);
    struct store_ask ask = {.L = L, .function = 4, .failure = 5};
    struct mg_box *untrusted = mg_box_push(L, x509_stack_free),
                  *box = mg_box_push(L, store_ctx_free);
    ERR_clear_error();
    untrusted->ptr = sk_X509_new_null();
    box->ptr = X509_STORE_CTX_new();
    if (!untrusted->ptr || !box->ptr)
        mg_lua_openssl_error(L, "StoreError", "X509_STORE_CTX_new");
    lua_Integer count = lua_istable(L, 3) ? (lua_Integer)lua_rawlen(L, 3) : 0;
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(L, 3, i);
        X509 *x509 = mg_x509_test(L, -1);
        if (!x509)
            mg_lua_error(L, "TypeError",
                         "Store:verify: chain entry %d: expected Certificate, got %s", (int)i,
                         mg_type_name(L, -1));
        X509_up_ref(x509);
        if (!sk_X509_push(untrusted->ptr, x509)) {
            X509_free(x509);
            mg_lua_openssl_error(L, "StoreError", "sk_X509_push");
        }
        lua_pop(L, 1);
    }
    X509_STORE_CTX *ctx = box->ptr;
    if (X509_STORE_CTX_init(ctx, self->store, mg_x509_test(L, 2), untrusted->ptr) != 1)
        mg_lua_openssl_error(L, "StoreError", "X509_STORE_CTX_init");
    if (lua_toboolean(L, 4)) {
        if (X509_STORE_CTX_set_app_data(ctx, &ask) != 1)
            mg_lua_openssl_error(L, "StoreError", "X509_STORE_CTX_set_app_data");
        X509_STORE_CTX_set_verify_cb(ctx, on_store_ask);
    }
    bool ok = X509_verify_cert(ctx) == 1;
    self->error = X509_STORE_CTX_get_error(ctx);
    ERR_clear_error();
    mg_lua_push_x509_list(L, X509_STORE_CTX_get0_chain(ctx));
    lua_getiuservalue(L, 1, 1);
    lua_insert(L, -2);
    lua_setfield(L, -2, "chain");
    mg_box_free(box);
    mg_box_free(untrusted);
    if (!lua_isnil(L, 5)) {
        lua_pushvalue(L, 5);
        lua_error(L);
    }
    lua_pushboolean(L, ok);
    return 1;
}

/* ---- Store: fields -------------------------------------------------------------------------- */

static X509_VERIFY_PARAM *
attr_param(void *self)
{
    return X509_STORE_get0_param(((struct mg_store *)self)->store);
}

static int
get_flags(lua_State *L, void *self)
{
    lua_pushinteger(L, (lua_Integer)X509_VERIFY_PARAM_get_flags(attr_param(self)));
    return 1;
}

/* Adds bits, as Ruby does. */
static void
set_flags(lua_State *L, void *self, int value)
{
    lua_Integer flags = mg_attr_integer(L, value, "Store", "flags");
    if (X509_VERIFY_PARAM_set_flags(attr_param(self), (unsigned long)flags) != 1)
        mg_lua_openssl_error(L, "StoreError", "X509_STORE_set_flags");
}

static int
get_purpose(lua_State *L, void *self)
{
    lua_pushinteger(L, ((struct mg_store *)self)->purpose);
    return 1;
}

static int
attr_int(lua_State *L, int value, const char *name)
{
    lua_Integer number = mg_attr_integer(L, value, "Store", name);
    if (number < INT_MIN || number > INT_MAX)
        mg_lua_error(L, "RangeError", "Store.%s: %lld is out of range", name, (long long)number);
    return (int)number;
}

static void
set_purpose(lua_State *L, void *self, int value)
{
    int purpose = attr_int(L, value, "purpose");
    ERR_clear_error();
    if (X509_VERIFY_PARAM_set_purpose(attr_param(self), purpose) != 1)
        mg_lua_openssl_error(L, "StoreError", "X509_STORE_set_purpose");
    ((struct mg_store *)self)->purpose = purpose;
}

static int
get_trust(lua_State *L, void *self)
{
    lua_pushinteger(L, ((struct mg_store *)self)->trust);
    return 1;
}

static void
set_trust(lua_State *L, void *self, int value)
{
    int trust = attr_int(L, value, "trust");
    ERR_clear_error();
    if (X509_VERIFY_PARAM_set_trust(attr_param(self), trust) != 1)
        mg_lua_openssl_error(L, "StoreError", "X509_STORE_set_trust");
    ((struct mg_store *)self)->trust = trust;
}

static int
get_time(lua_State *L, void *self)
{
    X509_VERIFY_PARAM *param = attr_param(self);
    if (X509_VERIFY_PARAM_get_flags(param) & X509_V_FLAG_USE_CHECK_TIME)
        lua_pushinteger(L, (lua_Integer)X509_VERIFY_PARAM_get_time(param));
    else
        lua_pushnil(L);
    return 1;
}

static void
set_time(lua_State *L, void *self, int value)
{
    X509_VERIFY_PARAM_set_time(attr_param(self),
                               (time_t)mg_attr_integer(L, value, "Store", "time"));
}

static int
get_error(lua_State *L, void *self)
{
    lua_pushinteger(L, ((struct mg_store *)self)->error);
    return 1;
}

static int
get_error_string(lua_State *L, void *self)
{
    lua_pushstring(L, X509_verify_cert_error_string(((struct mg_store *)self)->error));
    return 1;
}

static int
get_chain(lua_State *L, void *self MG_UNUSED)
{
    lua_getiuservalue(L, 1, 1);
    lua_getfield(L, -1, "chain");
    return 1;
}

static int
get_verify_callback(lua_State *L, void *self MG_UNUSED)
{
    lua_getiuservalue(L, 1, 1);
    lua_getfield(L, -1, "verify_callback");
    return 1;
}

/* For verify without a function of its own; a context asks its own verify_callback. */
static void
set_verify_callback(lua_State *L, void *self MG_UNUSED, int value)
{
    if (lua_toboolean(L, value) && !is_callable(L, value))
        mg_attr_type_error(L, value, "Store", "verify_callback", "a function");
    lua_getiuservalue(L, 1, 1);
    lua_pushvalue(L, value);
    lua_setfield(L, -2, "verify_callback");
}

static const struct mg_attr store_attrs[] = {
    {"flags", get_flags, set_flags},
    {"purpose", get_purpose, set_purpose},
    {"trust", get_trust, set_trust},
    {"time", get_time, set_time},
    {"error", get_error, NULL},
    {"error_string", get_error_string, NULL},
    {"chain", get_chain, NULL},
    {"verify_callback", get_verify_callback, set_verify_callback},
    {NULL, NULL, NULL},
};

static const luaL_Reg store_methods[] = {
    {"add_cert", store_add_cert},
    {"add_crl", store_add_crl},
    {"add_file", store_add_file},
    {"add_path", store_add_path},
    {"set_default_paths", store_set_default_paths},
    {"clear_flags", store_clear_flags},
    {"verify", store_verify},
    {NULL, NULL},
};

const struct mg_class mg_store_class = {
    .name = "Store",
    .metatable = "moongate.X509.Store",
    .attrs = store_attrs,
    .methods = store_methods,
    .is_frozen = store_is_frozen,
    .gc = store_gc,
    .user_values = 1,
};

const luaL_Reg mg_store_functions[] = {
    {"new", store_new},
    {NULL, NULL},
};

/* ---- StoreContext --------------------------------------------------------------------------- */

void
mg_store_context_push(lua_State *L, X509_STORE_CTX *ctx)
{
    struct mg_store_context *self = mg_class_new(L, &mg_store_context_class, sizeof(*self));
    self->ctx = ctx;
}

static X509_STORE_CTX *
attr_context(void *self)
{
    return ((struct mg_store_context *)self)->ctx;
}

static int
get_context_error(lua_State *L, void *self)
{
    lua_pushinteger(L, X509_STORE_CTX_get_error(attr_context(self)));
    return 1;
}

static void
set_context_error(lua_State *L, void *self, int value)
{
    X509_STORE_CTX *ctx = attr_context(self);
    lua_Integer error = mg_attr_integer(L, value, "StoreContext", "error");
    if (error < 0 || error > INT_MAX)
        mg_lua_error(L, "RangeError", "StoreContext.error: %lld is out of range", (long long)error);
    X509_STORE_CTX_set_error(ctx, (int)error);
}

static int
get_context_error_string(lua_State *L, void *self)
{
    int error = X509_STORE_CTX_get_error(attr_context(self));
    lua_pushstring(L, X509_verify_cert_error_string(error));
    return 1;
}

static int
get_error_depth(lua_State *L, void *self)
{
    lua_pushinteger(L, X509_STORE_CTX_get_error_depth(attr_context(self)));
    return 1;
}

static int
get_current_cert(lua_State *L, void *self)
{
    X509 *x509 = X509_STORE_CTX_get_current_cert(attr_context(self));
    if (x509)
        mg_lua_push_x509(L, x509);
    else
        lua_pushnil(L);
    return 1;
}

static int
get_current_crl(lua_State *L, void *self)
{
    X509_CRL *crl = X509_STORE_CTX_get0_current_crl(attr_context(self));
    if (crl)
        mg_lua_push_crl(L, crl);
    else
        lua_pushnil(L);
    return 1;
}

static int
get_context_chain(lua_State *L, void *self)
{
    mg_lua_push_x509_list(L, X509_STORE_CTX_get0_chain(attr_context(self)));
    return 1;
}

static int
get_context_flags(lua_State *L, void *self)
{
    X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(attr_context(self));
    lua_pushinteger(L, (lua_Integer)X509_VERIFY_PARAM_get_flags(param));
    return 1;
}

/* Adds bits, as on a Store. */
static void
set_context_flags(lua_State *L, void *self, int value)
{
    lua_Integer flags = mg_attr_integer(L, value, "StoreContext", "flags");
    X509_STORE_CTX_set_flags(attr_context(self), (unsigned long)flags);
}

static int
context_int(lua_State *L, int value, const char *name)
{
    lua_Integer number = mg_attr_integer(L, value, "StoreContext", name);
    if (number < INT_MIN || number > INT_MAX)
        mg_lua_error(L, "RangeError", "StoreContext.%s: %lld is out of range", name,
                     (long long)number);
    return (int)number;
}

static void
set_context_purpose(lua_State *L, void *self, int value)
{
    int purpose = context_int(L, value, "purpose");
    ERR_clear_error();
    if (X509_STORE_CTX_set_purpose(attr_context(self), purpose) != 1)
        mg_lua_openssl_error(L, "StoreError", "X509_STORE_CTX_set_purpose");
}

static void
set_context_trust(lua_State *L, void *self, int value)
{
    int trust = context_int(L, value, "trust");
    ERR_clear_error();
    if (X509_STORE_CTX_set_trust(attr_context(self), trust) != 1)
        mg_lua_openssl_error(L, "StoreError", "X509_STORE_CTX_set_trust");
}

static void
set_context_time(lua_State *L, void *self, int value)
{
    lua_Integer seconds = mg_attr_integer(L, value, "StoreContext", "time");
    X509_STORE_CTX_set_time(attr_context(self), 0, (time_t)seconds);
}

static X509_STORE_CTX *
self_context(lua_State *L)
{
    return attr_context(mg_class_check(L, 1, &mg_store_context_class));
}

/* clear_flags([bits]) */
static int
context_clear_flags(lua_State *L)
{
    X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(self_context(L));
    mg_check_count(L, 0, 1);
    unsigned long bits = lua_isnoneornil(L, 2) ? X509_VERIFY_PARAM_get_flags(param)
                                               : (unsigned long)mg_check_integer(L, 2);
    X509_VERIFY_PARAM_clear_flags(param, bits);
    return 0;
}

/* verify() -> boolean; false for a verification that is going on, which is all that scripts see */
static int
context_verify(lua_State *L)
{
    X509_STORE_CTX *ctx = self_context(L);
    mg_check_count(L, 0, 0);
    int error = X509_STORE_CTX_get_error(ctx);
    bool ok = X509_verify_cert(ctx) == 1;
    X509_STORE_CTX_set_error(ctx, error);
    ERR_clear_error();
    lua_pushboolean(L, ok);
    return 1;
}

static const struct mg_attr store_context_attrs[] = {
    {"error", get_context_error, set_context_error},
    {"error_string", get_context_error_string, NULL},
    {"error_depth", get_error_depth, NULL},
    {"current_cert", get_current_cert, NULL},
    {"current_crl", get_current_crl, NULL},
    {"chain", get_context_chain, NULL},
    {"flags", get_context_flags, set_context_flags},
    {"purpose", NULL, set_context_purpose},
    {"trust", NULL, set_context_trust},
    {"time", NULL, set_context_time},
    {NULL, NULL, NULL},
};

static const luaL_Reg store_context_methods[] = {
    {"clear_flags", context_clear_flags},
    {"verify", context_verify},
    {NULL, NULL},
};

const struct mg_class mg_store_context_class = {
    .name = "StoreContext",
    .metatable = "moongate.X509.StoreContext",
    .attrs = store_context_attrs,
    .methods = store_context_methods,
    .closable = true,
    .closed = "STORE_CTX is out of scope!",
};

/*
 * The guarded Lua state of one run: standard libraries with the doors closed that lead out of the
 * world, moongate and moongate.openssl always there.
 *
 * The happy path: mg_script_new, mg_script_run (which executes the script and freezes what it
 * made), then either mg_plan_* in the loader or callbacks through mg_guard_call in a worker, then
 * mg_script_delete.
 *
 * Every entry from C is a protected call; a state that runs out of memory fails that call only.
 */
#include "script/internal.h"

#include <lualib.h>
#include <openssl/rand.h>

#include <stdlib.h>
#include <string.h>

static void *
state_alloc(void *data, void *ptr, size_t old_size, size_t new_size)
{
    (void)data;
    (void)old_size;
    if (new_size == 0) {
        mg_free(ptr);
        return NULL;
    }
    return mg_realloc(ptr, new_size);
}

/* Only an error outside of every protected call comes here, which would be a bug of ours. */
static int
on_panic(lua_State *L)
{
    const char *text = lua_tostring(L, -1);

    mg_log(MG_LOG_ERROR, "unprotected Lua error: %s", text != NULL ? text : "(no text)");
    return 0; /* Lua aborts */
}

/* Registry key, by address. */
static const char script_key = 's';

struct mg_script *
mg_script_of(lua_State *L)
{
    struct mg_script *s;

    lua_rawgetp(L, LUA_REGISTRYINDEX, &script_key);
    s = lua_touserdata(L, -1);
    lua_pop(L, 1);
    if (s == NULL) /* a finalizer of a guest, after it */
        luaL_error(L, "the script has ended");
    return s;
}

static void
script_assign(lua_State *L, struct mg_script *s)
{
    lua_pushlightuserdata(L, s);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &script_key);
}

struct mg_script *
mg_script_enter(lua_State *L, struct mg_script *s)
{
    struct mg_script *other;

    lua_rawgetp(L, LUA_REGISTRYINDEX, &script_key);
    other = lua_touserdata(L, -1);
    lua_pop(L, 1);
    script_assign(L, s); /* the key is there: nothing is allocated */
    return other;
}

static int
bytes_gc(lua_State *L)
{
    mg_buf_free_secret(lua_touserdata(L, 1));
    return 0;
}

struct mg_buf *
mg_bytes_push(lua_State *L)
{
    struct mg_buf *bytes = lua_newuserdatauv(L, sizeof(*bytes), 0);

    memset(bytes, 0, sizeof(*bytes));
    if (luaL_newmetatable(L, "moongate.Bytes")) {
        lua_pushcfunction(L, bytes_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return bytes;
}

static int
text_push(lua_State *L)
{
    lua_pushstring(L, mg_lua_pointer(L, 1));
    return 1;
}

void
mg_push_taken(lua_State *L, char *text)
{
    int status;

    lua_pushcfunction(L, text_push);
    lua_pushlightuserdata(L, text);
    status = lua_pcall(L, 1, 1, 0);
    mg_free(text);
    if (status != LUA_OK)
        lua_error(L);
}

static int
refused_call(lua_State *L)
{
    mg_script_error(L, "%s", lua_tostring(L, lua_upvalueindex(1)));
}

void
mg_refuse(lua_State *L, const char *lib, const char *name, const char *why)
{
    lua_pushfstring(L, "%s.%s is not available in a script: %s", lib, name, why);
    lua_pushcclosure(L, refused_call, 1);
    lua_setfield(L, -2, name);
}

static void
line_add(lua_State *L, const char *list, const char *fmt, va_list args)
{
    luaL_checkstack(L, 4, NULL);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, list);
    lua_pushvfstring(L, fmt, args);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    lua_pop(L, 1);
}

void
mg_script_warn(lua_State *L, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    line_add(L, MG_WARNINGS, fmt, args);
    va_end(args);
}

void
mg_script_fault(lua_State *L, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    line_add(L, MG_FAULTS, fmt, args);
    va_end(args);
}

static const luaL_Reg core[] = {
    {"settings", mg_settings_lua},
    {"listen", mg_listen_lua},
    {"backend", mg_backend_lua},
    {"reply", mg_reply_lua},
    {"echo", mg_echo_lua},
    {"command", mg_command},
    {"servernames", mg_servernames_lua},
    {NULL, NULL},
};

/* moongate.nearest(word, names): for "did you mean". */
static int
core_nearest(lua_State *L)
{
    const char *names[64];
    const char *word = luaL_checkstring(L, 1);
    size_t count = 0;

    luaL_checktype(L, 2, LUA_TTABLE);
    luaL_checkstack(L, (int)MG_ARRAY_LEN(names), NULL);
    while (count < MG_ARRAY_LEN(names) && lua_rawgeti(L, 2, (lua_Integer)count + 1) == LUA_TSTRING)
        names[count++] = lua_tostring(L, -1);
    lua_pushstring(L, mg_str_nearest(word, names, count));
    return 1;
}

static int
core_open(lua_State *L)
{
    luaL_newlib(L, core);
    lua_pushcfunction(L, core_nearest);
    lua_setfield(L, -2, "nearest");
    lua_pushliteral(L, MG_VERSION);
    lua_setfield(L, -2, "VERSION");
    mg_passthrough_push(L);
    lua_setfield(L, -2, "PASSTHROUGH");
    mg_certificates_core(L);
    lua_setfield(L, -2, "certificates");
    return 1;
}

static int
state_open(lua_State *L)
{
    static const luaL_Reg libs[] = {
        {LUA_GNAME, luaopen_base},          {LUA_LOADLIBNAME, luaopen_package},
        {LUA_TABLIBNAME, luaopen_table},    {LUA_STRLIBNAME, luaopen_string},
        {LUA_MATHLIBNAME, luaopen_math},    {LUA_UTF8LIBNAME, luaopen_utf8},
        {LUA_COLIBNAME, luaopen_coroutine},
    };

    script_assign(L, mg_lua_pointer(L, 1));
    for (size_t i = 0; i < MG_ARRAY_LEN(libs); i++) {
        luaL_requiref(L, libs[i].name, libs[i].func, 1);
        lua_pop(L, 1);
    }
    mg_guard_open(L);
    mg_stdlib_open(L);
    mg_io_open(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushcfunction(L, core_open);
    lua_setfield(L, -2, "moongate.core");
    lua_pushcfunction(L, luaopen_moongate_openssl);
    lua_setfield(L, -2, "moongate.openssl");
    lua_pop(L, 1);
    mg_modules_open(L);
    mg_listen_open(L);
    mg_backend_open(L);
    mg_servernames_open(L);
    mg_conn_open(L);
    mg_hello_open(L);
    mg_hooks_open(L);
    return 0;
}

/* An error as one line, since the last line is what a user is told to read: require's lists become "a, b", and what
 * else would control a terminal "?". */
static void
lines_join(char *text)
{
    char *out = text;

    for (const char *in = text; *in != '\0';) {
        size_t skip = strspn(in, "\n\t");

        if (skip == 0) {
            *out++ = (unsigned char)*in < ' ' || *in == 0x7F ? '?' : *in;
            in++;
            continue;
        }
        if (skip > 1 && out > text && out[-1] != ':')
            *out++ = ',';
        *out++ = ' ';
        in += skip;
    }
    *out = '\0';
}

/* Runs a C function that may raise, with the script as light userdata; its error becomes err. */
static int
protected_call(struct mg_script *s, lua_CFunction function, struct mg_err *err)
{
    lua_State *L = s->L;

    lua_pushcfunction(L, function);
    lua_pushlightuserdata(L, s);
    if (lua_pcall(L, 1, 0, 0) == LUA_OK)
        return 0;
    mg_err_setx(err, "%s", mg_lua_error_text(L, -1));
    lua_pop(L, 2);
    return -1;
}

/* The script's, or the default until it says so: it may shake hands in memory while it loads. */
static void
budget_set(struct mg_script *s)
{
    s->budget.seconds = strtod(mg_settings_text(&s->settings, "callback_budget"), NULL);
}

static struct mg_script *
script_alloc(const char *name, const char *dir, const struct mg_snapshot *snapshot,
             struct mg_err *err)
{
    struct mg_script *s = mg_calloc(1, sizeof(*s));

    if (s == NULL) {
        mg_err_setx(err, "out of memory");
        return NULL;
    }
    if (mg_world_init(&s->world, dir, snapshot, err) != 0)
        goto fail;
    s->name = mg_strdup(name);
    if (s->name != NULL) {
        budget_set(s);
        return s;
    }
    mg_err_setx(err, "out of memory");

fail:
    mg_script_delete(s);
    return NULL;
}

struct mg_script *
mg_script_new(const char *name, const char *dir, const struct mg_snapshot *snapshot,
              struct mg_err *err)
{
    struct mg_script *s = script_alloc(name, dir, snapshot, err);

    if (s == NULL)
        return NULL;
    s->L = lua_newstate(state_alloc, NULL);
    if (s->L == NULL) {
        mg_err_setx(err, "out of memory");
        goto fail;
    }
    lua_atpanic(s->L, on_panic);
#ifdef MG_GC_STRESS
    lua_gc(s->L, LUA_GCSETPAUSE, 0);
#endif
    if (protected_call(s, state_open, err) != 0)
        goto fail;
    return s;

fail:
    mg_script_delete(s);
    return NULL;
}

struct mg_script *
mg_script_guest_new(lua_State *thread, const char *name, const char *dir, struct mg_err *err)
{
    struct mg_script *s = script_alloc(name, dir, NULL, err);

    if (s != NULL) {
        s->L = thread;
        s->is_guest = true;
    }
    return s;
}

int
mg_script_guest_open(struct mg_script *s, struct mg_err *err)
{
    return protected_call(s, state_open, err);
}

/* The state lives on, and may have functions of the script that come too late. */
static void
guest_leave(struct mg_script *s)
{
    lua_rawgetp(s->L, LUA_REGISTRYINDEX, &script_key);
    if (lua_touserdata(s->L, -1) == s)
        script_assign(s->L, NULL);
    lua_pop(s->L, 1);
}

void
mg_script_delete(struct mg_script *s)
{
    if (s == NULL)
        return;
    if (s->L != NULL && s->is_guest) {
        guest_leave(s);
    } else if (s->L != NULL) {
        mg_guard_close(s->L);
        lua_close(s->L); /* our finalizers may still ask for the script */
    }
    SSL_CTX_free(s->tickets);
    mg_world_fini(&s->world);
    mg_settings_fini(&s->settings);
    mg_free(s->name);
    mg_free(s);
}

/* Freezes every object of a list in the registry. */
static void
list_freeze(lua_State *L, const char *list, void (*freeze)(lua_State *, int))
{
    lua_getfield(L, LUA_REGISTRYINDEX, list);
    for (lua_Integer i = 1; lua_rawgeti(L, -1, i) != LUA_TNIL; i++) {
        freeze(L, lua_gettop(L));
        lua_pop(L, 1);
    }
    lua_pop(L, 2);
}

static int
everything_freeze(lua_State *L)
{
    list_freeze(L, MG_LISTENERS, mg_listener_freeze); /* whose backends join the list */
    list_freeze(L, MG_BACKENDS, mg_backend_freeze);
    if (lua_getfield(L, LUA_REGISTRYINDEX, MG_OTHERS) == LUA_TTABLE)
        mg_ssl_contexts_freeze(L, -1);
    else
        mg_ssl_contexts_freeze(L, 0);
    lua_getfield(L, LUA_REGISTRYINDEX, MG_LISTENERS);
    if (lua_rawlen(L, -1) == 0)
        return luaL_error(L, "%s: the script has no listener (moongate.listen{...} makes one)",
                          mg_script_of(L)->name);
    return 0;
}

/* The script's message handler: a value without text becomes one that says what it is. */
static int
traceback_add(lua_State *L)
{
    if (lua_type(L, 1) != LUA_TSTRING && luaL_getmetafield(L, 1, "__tostring") == LUA_TNIL) {
        lua_pushfstring(L, "%s: the script raised a %s value", mg_script_of(L)->name,
                        luaL_typename(L, 1));
        lua_replace(L, 1);
    }
    if (mg_log_enabled(MG_LOG_DEBUG)) {
        luaL_traceback(L, L, mg_lua_error_text(L, 1), 1);
        mg_log(MG_LOG_DEBUG, "%s", lua_tostring(L, -1));
    }
    lua_settop(L, 1);
    return 1;
}

/* Random numbers of callbacks differ from worker to worker, unlike those of the script's own run.
 */
static int
random_renew(lua_State *L)
{
    unsigned char seed[16];
    struct mg_err ignored;

    if (mg_world_seed(&mg_script_of(L)->world, seed, &ignored) != 0)
        return 0;
    lua_getglobal(L, LUA_MATHLIBNAME);
    if (lua_istable(L, -1) && lua_getfield(L, -1, "randomseed") == LUA_TFUNCTION) {
        for (int i = 0; i < 2; i++) {
            lua_Integer half;

            memcpy(&half, seed + 8 * i, sizeof(half));
            lua_pushinteger(L, half);
        }
        lua_call(L, 2, 0);
    }
    return 0;
}

int
mg_script_run(struct mg_script *s, const char *text, size_t len, struct mg_err *err)
{
    lua_State *L = s->L;
    struct mg_buf chunk = {0};
    int status;

    mg_buf_addf(&chunk, "@%s", s->name);
    if (chunk.failed) {
        mg_err_setx(err, "out of memory");
        return -1;
    }
    memset(s->world.digest, 0, sizeof(s->world.digest)); /* finding the script is no part of it */
    lua_pushcfunction(L, traceback_add);
    status = mg_load_text(L, text, len, chunk.data);
    mg_buf_free(&chunk);
    if (status == LUA_OK)
        status = lua_pcall(L, 0, 0, -2);
    if (status != LUA_OK) {
        mg_err_setx(err, "%s", mg_lua_error_text(L, -1));
        lines_join(err->text);
        lua_settop(L, 0);
        return -1;
    }
    lua_settop(L, 0);
    if (protected_call(s, everything_freeze, err) != 0 || mg_backends_settle(s, err) != 0)
        return -1;
    s->loaded = true;
    budget_set(s);
    s->world.mode = MG_WORLD_LIVE;
    return protected_call(s, random_renew, err);
}

/*
 * A script as the guest of a test's Lua state, so that the test can use what the script makes:
 * listeners, backends, contexts and functions, as they are.
 *
 * The happy path: for the time of the run the registry has other tables of globals and modules, in
 * which the guarded world is opened; the loader's own steps run, freeze and prove the script; then
 * the state has its tables back. The script's functions keep the globals they were loaded with.
 *
 * Failure modes: whatever the loader would refuse is an error with the loader's text, and the state
 * is as it was. A guest stays until its state is closed: its functions may be called until then.
 */
#include "script/internal.h"

#include <string.h>

#define GUESTS "moongate.guests" /* registry: list, so that the collector leaves them alone */

/* Registry: weak table from tls function to its struct mg_script (light userdata). */
#define GUEST_FUNCTIONS "moongate.guest_functions"

struct guest {
    struct mg_script *script; /* owned; NULL until there is one */
    struct mg_buf text;       /* the script's */
    struct mg_script_load load;
};

static int
guest_gc(lua_State *L)
{
    struct guest *guest = lua_touserdata(L, 1);

    mg_script_delete(guest->script);
    guest->script = NULL;
    mg_buf_free_secret(&guest->text);
    mg_script_load_fini(&guest->load);
    return 0;
}

/* A guest on the stack, kept with its thread until the state is closed. */
static struct guest *
guest_push(lua_State *L)
{
    struct guest *guest = lua_newuserdatauv(L, sizeof(*guest), 1);

    memset(guest, 0, sizeof(*guest));
    guest->load.snapshot_fd = -1;
    guest->load.prove = true;
    if (luaL_newmetatable(L, "moongate.Guest")) {
        lua_pushcfunction(L, guest_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    lua_newthread(L);
    lua_setiuservalue(L, -2, 1);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, GUESTS);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    lua_pop(L, 1);
    return guest;
}

/* Makes the script of the guest at idx; raises. */
static void
guest_name(lua_State *L, int idx, const char *name)
{
    struct guest *guest = lua_touserdata(L, idx);
    struct mg_err err;
    lua_State *thread;
    char *path = mg_script_path(name, &err);
    char *dir = path != NULL ? mg_script_dir(path) : NULL;

    lua_getiuservalue(L, idx, 1);
    thread = lua_tothread(L, -1);
    if (path != NULL && dir == NULL)
        mg_err_setx(&err, "out of memory");
    if (dir != NULL)
        guest->script = mg_script_guest_new(thread, name, dir, &err);
    mg_free(path);
    mg_free(dir);
    if (guest->script == NULL)
        luaL_error(L, "%s", err.text);
    lua_pop(L, 1);
}

/* ---- facts ---------------------------------------------------------------------------------- */

/* What the world would have recorded, had it asked the system. */
static void
fact_add(lua_State *L, struct mg_world *w, enum mg_record kind, const char *key, const char *mark)
{
    struct mg_buf *fact = mg_bytes_push(L);
    struct mg_err err;
    size_t len;
    const char *value = lua_tolstring(L, -2, &len);

    mg_buf_adds(fact, mark);
    mg_buf_add(fact, value, len);
    if (fact->failed)
        luaL_error(L, "out of memory");
    if (mg_world_add(w, kind, key, fact->data, fact->len, &err) != 0)
        luaL_error(L, "%s", err.text);
    mg_buf_free_secret(fact);
    lua_pop(L, 1);
}

/* The table at idx: name → text. A file's name is relative to the script. */
static void
facts_add(lua_State *L, struct mg_world *w, enum mg_record kind, int idx)
{
    for (lua_pushnil(L); lua_next(L, idx) != 0; lua_pop(L, 1)) {
        const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;

        if (key == NULL || lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "expected a table from name to text");
        if (kind == MG_RECORD_ENV) {
            fact_add(L, w, kind, key, "V");
            continue;
        }
        lua_pushvalue(L, -1);
        mg_push_taken(L, mg_world_path(w, key));
        if (lua_isnil(L, -1))
            luaL_error(L, "out of memory");
        lua_insert(L, -2);
        fact_add(L, w, kind, lua_tostring(L, -2), "D"); /* a listing's names have a NUL each */
        lua_pop(L, 2);
    }
}

/* ---- the state's own tables ------------------------------------------------------------------ */

/* What a run replaces: globals, loaded and preloaded modules, and the metatable of strings. */

static void
tables_push(lua_State *L)
{
    lua_pushglobaltable(L);
    lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_getfield(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushliteral(L, "");
    if (!lua_getmetatable(L, -1))
        lua_pushnil(L);
    lua_remove(L, -2);
}

/* Takes what tables_push pushed. */
static void
tables_set(lua_State *L)
{
    lua_pushliteral(L, "");
    lua_insert(L, -2);
    lua_setmetatable(L, -2);
    lua_pop(L, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_setfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
}

/* require of a guest, which may be called when the state has its own tables. Upvalues: the original,
 * the guest's loaded modules. */
static int
guest_require(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);

    lua_settop(L, 1);
    if (lua_getfield(L, lua_upvalueindex(2), name) != LUA_TNIL)
        return 1;
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushvalue(L, 1);
    lua_call(L, 1, LUA_MULTRET);
    return lua_gettop(L) - 2;
}

static int
require_wrap(lua_State *L)
{
    lua_getglobal(L, "require");
    lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_pushcclosure(L, guest_require, 2);
    lua_setglobal(L, "require");
    return 0;
}

/* Runs the guest at index 1 among empty tables of globals and modules; pushes an error's text. */
static int
guest_run(lua_State *L)
{
    struct guest *guest = lua_touserdata(L, 1);
    char *path;
    struct mg_err err;
    int status = -1;

    lua_newtable(L);
    lua_newtable(L);
    lua_newtable(L);
    lua_pushnil(L);
    tables_set(L);
    if (mg_script_guest_open(guest->script, &err) != 0)
        return luaL_error(L, "%s", err.text);
    mg_ssl_contexts_push(L, 0);
    lua_setfield(L, LUA_REGISTRYINDEX, MG_OTHERS);
    lua_pushcfunction(L, require_wrap);
    lua_call(L, 0, 0);
    path = mg_script_path(guest->script->name, &err);
    if (path != NULL)
        status = mg_script_rehearse(guest->script, &guest->load, path, &guest->text, &err);
    mg_free(path);
    return status == 0 ? 0 : luaL_error(L, "%s", err.text);
}

/* The set of contexts that the guest made; there are no others from now on. */
static void
contexts_push(lua_State *L)
{
    if (lua_getfield(L, LUA_REGISTRYINDEX, MG_OTHERS) != LUA_TTABLE) /* it failed before */
        lua_newtable(L);
    mg_ssl_contexts_push(L, -1);
    lua_remove(L, -2);
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, MG_OTHERS);
}

/* The tls functions of the guest's listeners, who are in a list at the top. */
static void
functions_note(lua_State *L, struct mg_script *script)
{
    int listeners = lua_gettop(L);

    if (luaL_getsubtable(L, LUA_REGISTRYINDEX, GUEST_FUNCTIONS) == 0) {
        lua_createtable(L, 0, 1);
        lua_pushliteral(L, "k");
        lua_setfield(L, -2, "__mode");
        lua_setmetatable(L, -2);
    }
    for (lua_Integer i = 1; lua_rawgeti(L, listeners, i) != LUA_TNIL; i++) {
        if (mg_option_push(L, lua_gettop(L), "tls") == LUA_TFUNCTION) {
            lua_pushlightuserdata(L, script);
            lua_rawset(L, listeners + 1);
        }
        lua_settop(L, listeners + 1);
    }
    lua_settop(L, listeners);
}

/* load(path, files, env, listings): the lists of Listeners and Backends, the set of contexts, and the proof's
 * warnings. */
enum { GUEST = 5 }; /* its stack index */

static int
testing_load(lua_State *L)
{
    const struct mg_openssl_hooks hooks = *mg_openssl_hooks(L);
    const char *name = luaL_checkstring(L, 1);
    struct guest *guest;
    int status;

    luaL_checktype(L, 2, LUA_TTABLE);
    luaL_checktype(L, 3, LUA_TTABLE);
    luaL_checktype(L, 4, LUA_TTABLE);
    lua_settop(L, 4);
    guest = guest_push(L);
    guest_name(L, GUEST, name);
    facts_add(L, &guest->script->world, MG_RECORD_FILE, 2);
    facts_add(L, &guest->script->world, MG_RECORD_ENV, 3);
    facts_add(L, &guest->script->world, MG_RECORD_LISTING, 4);

    tables_push(L);
    lua_pushcfunction(L, guest_run);
    lua_pushvalue(L, GUEST);
    status = lua_pcall(L, 1, 0, 0);
    mg_openssl_set_hooks(L, &hooks);
    if (status != LUA_OK)
        lua_insert(L, GUEST + 1);
    tables_set(L);
    contexts_push(L);
    if (status != LUA_OK) {
        lua_pop(L, 1);
        return lua_error(L);
    }
    lua_getfield(L, LUA_REGISTRYINDEX, MG_LISTENERS);
    functions_note(L, guest->script);
    lua_getfield(L, LUA_REGISTRYINDEX, MG_BACKENDS);
    lua_pushvalue(L, -3);
    lua_pushlstring(L, guest->load.warnings.data != NULL ? guest->load.warnings.data : "",
                    guest->load.warnings.len);
    return 4;
}

/* ---- a client's first message ---------------------------------------------------------------- */

#define RECORD_HEADER 5

/* What a client of this context says first, in one record. -1: err. */
static int
hello_make(SSL_CTX *client, const char *servername, struct mg_buf *out, struct mg_err *err)
{
    struct mg_tls_conn conn;
    struct mg_tls_io io = {.out_cap = MG_TLS_OUT_SLACK};
    int status = -1;

    if (mg_tls_conn_open(&conn, client, MG_TLS_CLIENT, NULL, err) != 0)
        return -1;
    io.out = mg_malloc(io.out_cap);
    if (io.out == NULL)
        mg_err_setx(err, "out of memory");
    else if (servername == NULL || mg_tls_conn_set_servername(&conn, servername, false, err) == 0) {
        SSL_set_tlsext_status_type(conn.ssl, TLSEXT_STATUSTYPE_ocsp); /* as its handshakes do */
        status = mg_tls_conn_handshake(&conn, &io, err) == MG_TLS_ERROR ? -1 : 0;
    }
    if (status == 0 && io.out_len > RECORD_HEADER)
        mg_buf_add(out, io.out + RECORD_HEADER, io.out_len - RECORD_HEADER);
    mg_tls_conn_close(&conn);
    mg_free(io.out);
    return status;
}

/* hello(client, servername or nil) -> the message */
static int
testing_hello(lua_State *L)
{
    const char *servername = luaL_optstring(L, 2, NULL);
    struct mg_buf *message;
    struct mg_err err;

    lua_settop(L, 2);
    message = mg_bytes_push(L);
    lua_getfield(L, 1, "setup");
    lua_pushvalue(L, 1);
    lua_call(L, 1, 0);
    if (hello_make(mg_ssl_context_test(L, 1), servername, message, &err) != 0)
        luaL_error(L, "%s", err.text);
    lua_pushlstring(L, message->data != NULL ? message->data : "", message->len);
    return 1;
}

/* ---- what a listener would do with it --------------------------------------------------------- */

struct decision {
    struct mg_choice choice; /* with a reference to the context */
    struct mg_err reason;
};

/* decision, tls function, Hello -> what it has chosen */
static int
function_ask(lua_State *L)
{
    struct decision *d = mg_lua_pointer(L, 1);

    lua_call(L, 1, 3);
    lua_remove(L, 1);
    mg_choice_read(L, &d->choice, &d->reason);
    lua_settop(L, 1);
    return 1;
}

static int
refusal_push(lua_State *L, const char *reason, int alert)
{
    lua_pushnil(L);
    lua_pushstring(L, reason);
    lua_pushinteger(L, alert);
    return 3;
}

/* Whose function is at idx; NULL: the test's own. */
static struct mg_script *
function_guest(lua_State *L, int idx)
{
    struct mg_script *guest = NULL;
    int top = lua_gettop(L);

    if (lua_getfield(L, LUA_REGISTRYINDEX, GUEST_FUNCTIONS) == LUA_TTABLE) {
        lua_pushvalue(L, idx);
        lua_rawget(L, -2);
        guest = lua_touserdata(L, -1);
    }
    lua_settop(L, top);
    return guest;
}

/* The function at index 1 and the Hello at the top; under its budget where it is a guest's. */
static int
function_decide(lua_State *L)
{
    struct decision d = {.choice = {.alert = SSL_AD_UNRECOGNIZED_NAME}};
    struct mg_script *guest = function_guest(L, 1);
    int hello = lua_gettop(L), status;

    lua_pushcfunction(L, function_ask);
    lua_pushlightuserdata(L, &d);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, hello);
    status = guest != NULL ? mg_guest_call(guest, L, 3, 1, "tls function") : lua_pcall(L, 3, 1, 0);
    mg_hello_sample_forget(L, hello);
    SSL_CTX_free(d.choice.target.tls); /* the result has one of its own */
    if (status != LUA_OK)
        return refusal_push(
            L, lua_pushfstring(L, "the tls function failed: %s", mg_lua_error_text(L, -1)),
            SSL_AD_INTERNAL_ERROR);
    if (d.choice.target.kind != MG_TARGET_REFUSE)
        return 1;
    return refusal_push(L, d.reason.text, d.choice.alert);
}

/* decide(tls function, message, addresses) -> SSLContext or PASSTHROUGH, or nil, reason (perhaps ""), alert */
static int
testing_decide(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    luaL_checktype(L, 3, LUA_TTABLE);
    lua_settop(L, 3);
    mg_hello_sample_push(L, 2, 3);
    return function_decide(L);
}

/* servername(message) -> what it asks for, or nil */
static int
testing_servername(lua_State *L)
{
    size_t len;
    const char *message = luaL_checklstring(L, 1, &len);
    struct mg_hello hello;

    if (mg_hello_parse((const unsigned char *)message, len, &hello) != MG_HELLO_COMPLETE ||
        hello.servername.data == NULL)
        lua_pushnil(L);
    else
        lua_pushlstring(L, (const char *)hello.servername.data, hello.servername.len);
    return 1;
}

/* alpn_protocols(message) -> what it offers */
static int
testing_alpn_protocols(lua_State *L)
{
    size_t len;
    const char *message = luaL_checklstring(L, 1, &len);
    struct mg_buf *text = mg_bytes_push(L);
    struct mg_hello hello;

    if (mg_hello_parse((const unsigned char *)message, len, &hello) == MG_HELLO_COMPLETE)
        mg_hello_protocols(&hello, text);
    mg_protocols_push(L, text->data);
    return 1;
}

static int
testing_alert_name(lua_State *L)
{
    lua_pushstring(L, mg_tls_alert_name((int)luaL_checkinteger(L, 1)));
    return 1;
}

static const luaL_Reg functions[] = {
    {"alert_name", testing_alert_name},
    {"alpn_protocols", testing_alpn_protocols},
    {"decide", testing_decide},
    {"hello", testing_hello},
    {"load", testing_load},
    {"servername", testing_servername},
    {NULL, NULL},
};

__attribute__((visibility("default"))) int
luaopen_moongate_script(lua_State *L)
{
    luaL_newlib(L, functions);
    return 1;
}

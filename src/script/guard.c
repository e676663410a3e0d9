/*
 * Running Lua under a budget of CPU time.
 *
 * The happy path: mg_guard_call sets a deadline on this thread's CPU clock and a count hook, calls,
 * and takes the hook away again.
 *
 * A callback that runs too long: the hook raises. pcall cannot swallow that, because the hook comes
 * back at the next instruction and raises again, in whichever coroutine the script is then – every
 * coroutine that is resumed gets the hook with the same deadline. What no hook reaches (pattern
 * matching, finalizers) is the watchdog's business; mg_script_set_current tells it what was
 * running. At the end of a state, where finalizers could keep the process that frees it, the script's
 * are not run: whatever needs freeing has one of ours.
 */
#include "script/internal.h"

#include <lualib.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define HOOK_INSTRUCTIONS 1000
#define DEEP              1000

static char unseen[1];
static char *current_place = unseen;
static size_t current_cap = sizeof(unseen);

void
mg_script_set_current(char *place, size_t cap)
{
    current_place = place;
    current_cap = cap;
}

uint64_t
mg_thread_cpu_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static MG_NORETURN void
expired_error(lua_State *L, const struct mg_budget *budget)
{
    mg_script_error(L, "%s ran longer than settings.callback_budget (%f seconds of CPU time)",
                    budget->what, budget->seconds);
}

static void
on_count(lua_State *L, lua_Debug *ar)
{
    struct mg_budget *budget = &mg_script_of(L)->budget;

    (void)ar;
    if (budget->depth == 0) {
        lua_sethook(L, NULL, 0, 0);
        return;
    }
    if (!budget->expired && mg_thread_cpu_ns() < budget->deadline_ns)
        return;
    budget->expired = true;
    lua_sethook(L, on_count, LUA_MASKCOUNT, 1);
    expired_error(L, budget);
}

/* Calls the function at index 1. One that caught the hook's error and returned at once fails all the same. */
static int
call_bounded(lua_State *L)
{
    const struct mg_budget *budget = &mg_script_of(L)->budget;

    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    if (budget->expired)
        expired_error(L, budget);
    return lua_gettop(L);
}

static void
hook_arm(lua_State *L, const struct mg_budget *budget)
{
    if (budget->depth > 0)
        lua_sethook(L, on_count, LUA_MASKCOUNT, budget->expired ? 1 : HOOK_INSTRUCTIONS);
}

static void
budget_enter(struct mg_budget *budget, lua_State *L, const char *what)
{
    if (budget->depth++ == 0) {
        budget->expired = false;
        budget->what = what;
        budget->deadline_ns = mg_thread_cpu_ns() + (uint64_t)(budget->seconds * 1e9);
    }
    hook_arm(L, budget);
}

static void
budget_leave(struct mg_budget *budget, lua_State *L)
{
    if (--budget->depth == 0)
        lua_sethook(L, NULL, 0, 0);
}

void
mg_script_where(lua_State *L)
{
    lua_Debug ar;

    for (int level = 0; lua_getstack(L, level, &ar) != 0; level++) {
        lua_getinfo(L, "Sl", &ar);
        if (ar.source[0] == '@' && ar.currentline > 0) {
            lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.currentline);
            return;
        }
    }
    lua_pushliteral(L, "");
}

void
mg_script_error(lua_State *L, const char *fmt, ...)
{
    va_list args;

    luaL_checkstack(L, 4, NULL);
    mg_script_where(L);
    va_start(args, fmt);
    lua_pushvfstring(L, fmt, args);
    va_end(args);
    lua_concat(L, 2);
    lua_error(L);
    abort(); /* lua_error does not return, but is not declared so */
}

/* Walking a stack costs the square of its depth; of an endless recursion the innermost calls say it all. */
static void
traceback_push(lua_State *L, const char *text)
{
    lua_Debug ar;

    if (lua_getstack(L, DEEP, &ar) == 0) {
        luaL_traceback(L, L, text, 1);
        return;
    }
    lua_pushfstring(L, "%s\nstack traceback (the innermost of more than %d calls):", text, DEEP);
    for (int level = 1; level <= 10; level++) {
        lua_pushliteral(L, "\n\t");
        luaL_where(L, level);
        lua_concat(L, 3);
    }
}

/* The message handler: the error becomes its text, here, where the budget still holds for a __tostring of
 * the script's; "message\ntraceback" is left in the registry. */
static int
traceback_keep(lua_State *L)
{
    const char *text = mg_lua_error_text(L, 1);

    traceback_push(L, text);
    lua_setfield(L, LUA_REGISTRYINDEX, "moongate.traceback");
    lua_settop(L, 2);
    return 1;
}

static int
failure_log(lua_State *L)
{
    const char *what = lua_touserdata(L, 2);
    const char *listener = lua_touserdata(L, 3);
    const char *text;

    if (lua_getfield(L, LUA_REGISTRYINDEX, "moongate.traceback") != LUA_TSTRING)
        lua_pushvalue(L, 1); /* Lua's own message: no memory, no stack */
    text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "failed";
    if (listener != NULL)
        mg_log(MG_LOG_ERROR, "listener %s: %s: %s", listener, what, text);
    else
        mg_log(MG_LOG_ERROR, "%s: %s", what, text);
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, "moongate.traceback");
    return 0;
}

/* Logs the error's text at the top, which stays. */
static void
call_failed(lua_State *L, const char *what, const char *listener)
{
    lua_pushcfunction(L, failure_log);
    lua_pushvalue(L, -2);
    lua_pushlightuserdata(L, (void *)(uintptr_t)what);
    lua_pushlightuserdata(L, (void *)(uintptr_t)listener);
    if (lua_pcall(L, 3, 0, 0) != LUA_OK) {
        mg_log(MG_LOG_ERROR, "%s: failed, and there is no memory to say why", what);
        lua_pop(L, 1);
    }
}

int
mg_guard_call(struct mg_script *s, lua_State *L, int nargs, int nresults, const char *what,
              const char *listener)
{
    int handler = lua_gettop(L) - nargs;
    int status;

    if (!lua_checkstack(L, 8)) {
        lua_pop(L, nargs + 1);
        lua_pushliteral(L, "stack overflow");
        mg_log(MG_LOG_ERROR, "%s: stack overflow", what);
        return LUA_ERRMEM;
    }
    lua_pushcfunction(L, traceback_keep);
    lua_insert(L, handler);
    lua_pushcfunction(L, call_bounded);
    lua_insert(L, handler + 1);
    snprintf(current_place, current_cap, "%s%s%s", what, listener != NULL ? " of listener " : "",
             listener != NULL ? listener : "");
    budget_enter(&s->budget, L, what);
    status = lua_pcall(L, nargs + 1, nresults, handler);
    budget_leave(&s->budget, L);
    if (s->budget.depth == 0)
        current_place[0] = '\0';
    lua_remove(L, handler);
    if (status != LUA_OK)
        call_failed(L, what, listener);
    return status;
}

/* ---- coroutines ----------------------------------------------------------------------------- */

/* Resumes co with the narg values at the top of L. Returns the number of results on L, or -1 with
 * the error value on L. */
static int
coroutine_continue(lua_State *L, lua_State *co, int narg)
{
    int status, results;

    if (!lua_checkstack(co, narg)) {
        lua_pushliteral(L, "too many arguments to resume");
        return -1;
    }
    lua_xmove(L, co, narg);
    hook_arm(co, &mg_script_of(L)->budget);
    status = lua_resume(co, L, narg, &results);
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_xmove(co, L, 1);
        return -1;
    }
    if (!lua_checkstack(L, results + 1)) {
        lua_pop(co, results);
        lua_pushliteral(L, "too many results to resume");
        return -1;
    }
    lua_xmove(co, L, results);
    return results;
}

static int
coroutine_resume(lua_State *L)
{
    lua_State *co = lua_tothread(L, 1);
    int results;

    if (co == NULL)
        return luaL_typeerror(L, 1, "coroutine");
    results = coroutine_continue(L, co, lua_gettop(L) - 1);
    lua_pushboolean(L, results >= 0);
    lua_insert(L, results >= 0 ? -(results + 1) : -2);
    return results >= 0 ? results + 1 : 2;
}

/* Closes what the failed coroutine still held. */
static void
coroutine_end(lua_State *L, lua_State *co)
{
#if MG_HAVE_LUA_CLOSETHREAD
    lua_closethread(co, L);
#else
    (void)L;
    lua_resetthread(co);
#endif
}

static int
coroutine_wrapped(lua_State *L)
{
    lua_State *co = lua_tothread(L, lua_upvalueindex(1));
    int results = coroutine_continue(L, co, lua_gettop(L));

    if (results >= 0)
        return results;
    if (lua_status(co) != LUA_OK && lua_status(co) != LUA_YIELD)
        coroutine_end(L, co);
    return lua_error(L);
}

static int
coroutine_wrap(lua_State *L)
{
    lua_State *co;

    luaL_checktype(L, 1, LUA_TFUNCTION);
    co = lua_newthread(L);
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    lua_pushcclosure(L, coroutine_wrapped, 1);
    return 1;
}

/* What is still to be closed in the coroutine runs there. Upvalue: the original. */
static int
coroutine_close(lua_State *L)
{
    lua_State *co = lua_tothread(L, 1);

    if (co == NULL)
        return luaL_typeerror(L, 1, "coroutine");
    hook_arm(co, &mg_script_of(L)->budget);
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 1, LUA_MULTRET);
    return lua_gettop(L);
}

/* ---- xpcall --------------------------------------------------------------------------------- */

/* Upvalue: the script's message handler. Called for the hook's error it would run inside the hook, where no
 * further hook could stop it; so it is left out then. */
static int
handler_guarded(lua_State *L)
{
    const struct mg_budget *budget = &mg_script_of(L)->budget;

    lua_settop(L, 1);
    if (budget->depth > 0 && budget->expired)
        return 1;
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

static int
xpcall_finish(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    (void)context;
    return lua_gettop(L);
}

/* Upvalue: the original. */
static int
base_xpcall(lua_State *L)
{
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_pushvalue(L, 2);
    lua_pushcclosure(L, handler_guarded, 1);
    lua_replace(L, 2);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_callk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, xpcall_finish);
    return lua_gettop(L);
}

/* ---- finalizers ----------------------------------------------------------------------------- */

/* Registry name of the weak set of metatables by which the script asked for finalizers. */
#define FINALIZERS "moongate.finalizers"

/* As Lua's own, keeping account of __gc. */
static int
base_setmetatable(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    if (!lua_isnil(L, 2) && !lua_istable(L, 2))
        return luaL_typeerror(L, 2, "nil or table");
    if (luaL_getmetafield(L, 1, "__metatable") != LUA_TNIL)
        return luaL_error(L, "cannot change a protected metatable");
    lua_settop(L, 2);
    if (lua_istable(L, 2)) {
        lua_pushliteral(L, "__gc");
        if (lua_rawget(L, 2) != LUA_TNIL) {
            lua_pushvalue(L, 2);
            lua_pushboolean(L, true);
            lua_rawset(L, lua_upvalueindex(1));
        }
        lua_settop(L, 2);
    }
    lua_setmetatable(L, 1);
    return 1;
}

static int
finalizers_drop(lua_State *L)
{
    lua_settop(L, 0);
    lua_getfield(L, LUA_REGISTRYINDEX, FINALIZERS);
    for (lua_pushnil(L); lua_istable(L, 1) && lua_next(L, 1) != 0; lua_pop(L, 1)) {
        lua_pushliteral(L, "__gc");
        lua_pushnil(L);
        lua_rawset(L, 2);
    }
    return 0;
}

void
mg_guard_close(lua_State *L)
{
    if (!lua_checkstack(L, 2))
        return;
    lua_gc(L, LUA_GCSTOP);
    lua_pushcfunction(L, finalizers_drop);
    lua_pcall(L, 0, 0, 0);
}

static void
finalizers_open(lua_State *L)
{
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, FINALIZERS);
    lua_pushcclosure(L, base_setmetatable, 1);
    lua_setglobal(L, "setmetatable");
}

void
mg_guard_open(lua_State *L)
{
    finalizers_open(L);
    lua_getglobal(L, "xpcall");
    lua_pushcclosure(L, base_xpcall, 1);
    lua_setglobal(L, "xpcall");
    lua_getglobal(L, LUA_COLIBNAME);
    lua_pushcfunction(L, coroutine_resume);
    lua_setfield(L, -2, "resume");
    lua_pushcfunction(L, coroutine_wrap);
    lua_setfield(L, -2, "wrap");
    lua_getfield(L, -1, "close");
    lua_pushcclosure(L, coroutine_close, 1);
    lua_setfield(L, -2, "close");
    lua_pop(L, 1);
}

/*
 * error: error values. A failure is raised as { class =, message =, errors = {…} } with a
 * metatable, so that a script can test err.class, and a person reads "script.lua:12: SSLError:
 * what: reason (data)".
 */
#include "openssl/internal.h"

#include <stdio.h>
#include <string.h>

#define ERROR_METATABLE "moongate.Error"
#define MESSAGE_MAX     2048
#define QUEUE_MAX       16 /* OpenSSL keeps no more */
#define QUEUE_TEXT      320

/* An error of the system needs no class in front: "moongate.lua:7: load_certificate: rsa.pem: No
 * such file or directory". */
#define SYSTEM_ERROR "SystemCallError"

/* ---- OpenSSL's queue ------------------------------------------------------------------------ */

/* Copied before anything can allocate in Lua: a collection in between may free OpenSSL objects. */
struct queue {
    int count;
    char entry[QUEUE_MAX][QUEUE_TEXT]; /* oldest first */
    char reason[QUEUE_TEXT / 2];       /* of the last one: "reason (data)", or "" */
};

static void
queue_take(struct queue *queue)
{
    unsigned long code;
    const char *func, *data;
    int flags;
    queue->count = 0;
    queue->reason[0] = '\0';
    while ((code = ERR_get_error_all(NULL, NULL, &func, &data, &flags)) != 0) {
        const char *lib = ERR_lib_error_string(code), *reason = ERR_reason_error_string(code);
        char errno_text[128];
        if (ERR_SYSTEM_ERROR(code)) {
            reason = strerror_r(ERR_GET_REASON(code), errno_text, sizeof(errno_text));
        }
        bool has_data = data && (flags & ERR_TXT_STRING) && data[0];
        snprintf(queue->reason, sizeof(queue->reason), "%s%s%s%s",
                 reason ? reason : "unknown reason", has_data ? " (" : "", has_data ? data : "",
                 has_data ? ")" : "");
        if (queue->count < QUEUE_MAX)
            snprintf(queue->entry[queue->count++], QUEUE_TEXT, "error:%08lX:%s:%s:%s", code,
                     lib ? lib : "", func ? func : "", queue->reason);
    }
}

/* Pushes the entries as a list. */
static void
queue_push(lua_State *L, const struct queue *queue)
{
    lua_createtable(L, queue->count, 0);
    for (int i = 0; i < queue->count; i++) {
        lua_pushstring(L, queue->entry[i]);
        lua_rawseti(L, -2, i + 1);
    }
}

int
mg_lua_errors(lua_State *L)
{
    struct queue queue;
    queue_take(&queue);
    queue_push(L, &queue);
    return 1;
}

/* ---- error values --------------------------------------------------------------------------- */

const char *
mg_lua_where_push(lua_State *L)
{
    lua_Debug ar;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (ar.currentline > 0)
            return lua_pushfstring(L, "%s:%d:", ar.short_src, ar.currentline);
    }
    return lua_pushliteral(L, "");
}

/* A field of an error value as text; pushes it. A script may have changed the table. */
static const char *
error_field(lua_State *L, int idx, const char *name)
{
    lua_pushstring(L, name);
    if (lua_rawget(L, idx) == LUA_TSTRING)
        return lua_tostring(L, -1);
    lua_pop(L, 1);
    return lua_pushliteral(L, "");
}

static int
error_tostring(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    const char *where = error_field(L, 1, "where");
    const char *cls = error_field(L, 1, "class");
    const char *message = error_field(L, 1, "message");
    bool system = strcmp(cls, SYSTEM_ERROR) == 0;
    lua_pushfstring(L, "%s%s%s%s%s", where, where[0] ? " " : "", system ? "" : cls,
                    system ? "" : ": ", message);
    return 1;
}

static void
error_metatable(lua_State *L)
{
    if (luaL_newmetatable(L, ERROR_METATABLE)) {
        lua_pushcfunction(L, error_tostring);
        lua_setfield(L, -2, "__tostring");
        lua_pushliteral(L, "Error");
        lua_setfield(L, -2, "__name");
    }
}

static bool
error_is_ours(lua_State *L, int idx)
{
    if (!lua_istable(L, idx) || !lua_getmetatable(L, idx))
        return false;
    luaL_getmetatable(L, ERROR_METATABLE);
    bool ours = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return ours;
}

/* Whatever is raised, nothing of it stays in OpenSSL's queue for an innocent call to find. */
MG_NORETURN static void
error_raise(lua_State *L, const char *cls, const char *message, const struct queue *queue)
{
    ERR_clear_error();
    luaL_checkstack(L, 10, "error");
    lua_createtable(L, 0, 4);
    lua_pushstring(L, cls);
    lua_setfield(L, -2, "class");
    lua_pushstring(L, message);
    lua_setfield(L, -2, "message");
    mg_lua_where_push(L);
    lua_setfield(L, -2, "where");
    queue_push(L, queue);
    lua_setfield(L, -2, "errors");
    error_metatable(L);
    lua_setmetatable(L, -2);
    lua_error(L);
    __builtin_unreachable();
}

void
mg_lua_error(lua_State *L, const char *cls, const char *fmt, ...)
{
    static const struct queue no_errors;
    char message[MESSAGE_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    error_raise(L, cls, message, &no_errors);
}

void
mg_lua_openssl_error(lua_State *L, const char *cls, const char *fmt, ...)
{
    char message[MESSAGE_MAX];
    struct queue queue;
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    queue_take(&queue);
    if (queue.count > 0 && len >= 0 && (size_t)len < sizeof(message))
        snprintf(message + len, sizeof(message) - (size_t)len, ": %s", queue.reason);
    error_raise(L, cls, message, &queue);
}

void
mg_lua_error_locate(lua_State *L, int idx, const char *where)
{
    idx = lua_absindex(L, idx);
    if (!error_is_ours(L, idx))
        return;
    if (error_field(L, idx, "where")[0] == '\0') {
        lua_pushstring(L, where);
        lua_setfield(L, idx, "where");
    }
    lua_pop(L, 1);
}

static int
text_of_value(lua_State *L)
{
    luaL_tolstring(L, 1, NULL);
    return 1;
}

const char *
mg_lua_error_text(lua_State *L, int idx)
{
    idx = lua_absindex(L, idx);
    /* Protected, because a script's own __tostring may raise. */
    lua_pushcfunction(L, text_of_value);
    lua_pushvalue(L, idx);
    if (lua_pcall(L, 1, 1, 0) != LUA_OK || lua_type(L, -1) != LUA_TSTRING) {
        lua_pop(L, 1);
        lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, idx));
    }
    return lua_tostring(L, -1);
}

void *
mg_lua_pointer(lua_State *L, int arg)
{
    if (!lua_islightuserdata(L, arg))
        mg_lua_error(L, "RuntimeError", "this function is not for scripts");
    return lua_touserdata(L, arg);
}

/* ---- typed readers -------------------------------------------------------------------------- */

void
mg_attr_type_error(lua_State *L, int idx, const char *cls, const char *name, const char *expected)
{
    mg_lua_error(L, "TypeError", "%s.%s: expected %s, got %s", cls, name, expected,
                 mg_type_name(L, idx));
}

lua_Integer
mg_arg_integer(lua_State *L, int idx, const char *cls, const char *name)
{
    int ok = 0;
    if (lua_type(L, idx) != LUA_TNUMBER)
        mg_attr_type_error(L, idx, cls, name, "an integer");
    lua_Integer value = lua_tointegerx(L, idx, &ok);
    if (!ok)
        mg_lua_error(L, "TypeError", "%s.%s: expected an integer, got %g", cls, name,
                     lua_tonumber(L, idx));
    return value;
}

lua_Integer
mg_attr_integer(lua_State *L, int idx, const char *cls, const char *name)
{
    if (lua_type(L, idx) != LUA_TNUMBER)
        mg_attr_type_error(L, idx, cls, name, "an integer");
    if (lua_isinteger(L, idx))
        return lua_tointeger(L, idx);
    lua_Integer value;
    if (!lua_numbertointeger(lua_tonumber(L, idx), &value))
        mg_lua_error(L, "RangeError", "%s.%s: %g is out of range", cls, name, lua_tonumber(L, idx));
    return value;
}

const char *
mg_arg_string(lua_State *L, int idx, const char *cls, const char *name, size_t *len)
{
    if (lua_type(L, idx) != LUA_TSTRING)
        mg_attr_type_error(L, idx, cls, name, "a string");
    return lua_tolstring(L, idx, len);
}

const char *
mg_attr_text(lua_State *L, int idx, const char *cls, const char *name)
{
    size_t len;
    const char *text = mg_arg_string(L, idx, cls, name, &len);
    if (strlen(text) != len)
        mg_lua_error(L, "ArgumentError", "%s.%s: string contains null byte", cls, name);
    return text;
}

bool
mg_arg_boolean(lua_State *L, int idx, const char *cls, const char *name)
{
    if (!lua_isboolean(L, idx))
        mg_attr_type_error(L, idx, cls, name, "a boolean");
    return lua_toboolean(L, idx);
}

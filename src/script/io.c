/*
 * io on the world's files: io.open(path, "r") and io.lines give handles over the whole recorded
 * content, with the semantics of Lua's own. Everything that writes, runs programs or means this
 * process's own streams is refused.
 */
#include "script/internal.h"

#include <ctype.h>
#include <string.h>

#define HANDLE "moongate.File"

/* The content is user value 1, a string; its bytes do not move. */
struct handle {
    const char *data;
    size_t len;
    size_t pos;
    bool closed;
};

static struct handle *
handle_check(lua_State *L)
{
    struct handle *h = luaL_checkudata(L, 1, HANDLE);

    if (h->closed)
        luaL_error(L, "attempt to use a closed file");
    return h;
}

/* Opens: the handle at the top; or nil, message, errno and false. */
static bool
handle_push(lua_State *L, const char *path)
{
    struct handle *h = lua_newuserdatauv(L, sizeof(*h), 2);
    struct mg_buf *content;
    struct mg_err err;
    int error;

    memset(h, 0, sizeof(*h));
    luaL_setmetatable(L, HANDLE);
    content = mg_bytes_push(L);
    if (mg_world_read(&mg_script_of(L)->world, path, content, &error, &err) != 0) {
        if (error == 0) /* not an answer of the world: no memory, or a callback asks */
            luaL_error(L, "%s", err.text);
        lua_pop(L, 2);
        lua_pushnil(L);
        lua_pushstring(L, err.text);
        lua_pushinteger(L, error);
        return false;
    }
    h->len = content->len;
    h->data = lua_pushlstring(L, content->data != NULL ? content->data : "", content->len);
    lua_setiuservalue(L, -3, 1);
    mg_buf_free_secret(content);
    lua_pop(L, 1);
    lua_pushstring(L, path);
    lua_setiuservalue(L, -2, 2);
    return true;
}

/* ---- reading -------------------------------------------------------------------------------- */

static bool
read_line(lua_State *L, struct handle *h, bool chop)
{
    const char *start = h->data + h->pos;
    size_t rest = h->len - h->pos;
    const char *end = rest > 0 ? memchr(start, '\n', rest) : NULL;
    size_t len = end != NULL ? (size_t)(end - start) : rest;

    lua_pushlstring(L, start, end != NULL && !chop ? len + 1 : len);
    h->pos += end != NULL ? len + 1 : len;
    return rest > 0;
}

static bool
read_chars(lua_State *L, struct handle *h, size_t count)
{
    size_t rest = h->len - h->pos;

    if (count > rest)
        count = rest;
    lua_pushlstring(L, h->data + h->pos, count);
    h->pos += count;
    return count > 0;
}

/* A numeral as far as its characters could belong to one, at most this long (as Lua's own reader).
 */
struct numeral {
    struct handle *h;
    char text[201];
    size_t len;
    bool overflow;
};

static bool
numeral_take(struct numeral *n, const char *set)
{
    char c;

    if (n->h->pos >= n->h->len || n->overflow)
        return false;
    c = n->h->data[n->h->pos];
    if (c == '\0' || strchr(set, c) == NULL)
        return false;
    if (n->len + 1 >= sizeof(n->text)) {
        n->overflow = true;
        return false;
    }
    n->text[n->len++] = c;
    n->h->pos++;
    return true;
}

static int
numeral_digits(struct numeral *n, bool hex)
{
    int count = 0;

    while (numeral_take(n, hex ? "0123456789abcdefABCDEF" : "0123456789"))
        count++;
    return count;
}

static bool
read_number(lua_State *L, struct handle *h)
{
    struct numeral n = {.h = h};
    bool hex = false;
    int count = 0;

    while (h->pos < h->len && isspace((unsigned char)h->data[h->pos]))
        h->pos++;
    numeral_take(&n, "+-");
    if (numeral_take(&n, "0")) {
        if (numeral_take(&n, "xX"))
            hex = true;
        else
            count = 1;
    }
    count += numeral_digits(&n, hex);
    if (numeral_take(&n, "."))
        count += numeral_digits(&n, hex);
    if (count > 0 && numeral_take(&n, hex ? "pP" : "eE")) {
        numeral_take(&n, "+-");
        numeral_digits(&n, false);
    }
    n.text[n.len] = '\0';
    if (!n.overflow && lua_stringtonumber(L, n.text) != 0)
        return true;
    lua_pushnil(L);
    return false;
}

static bool
read_one(lua_State *L, struct handle *h, int format)
{
    const char *name;

    if (lua_type(L, format) == LUA_TNUMBER) {
        lua_Integer count = luaL_checkinteger(L, format);

        luaL_argcheck(L, count >= 0, format, "must not be negative");
        if (count == 0) {
            lua_pushliteral(L, "");
            return h->pos < h->len;
        }
        return read_chars(L, h, (size_t)count);
    }
    name = luaL_checkstring(L, format);
    name += *name == '*';
    switch (*name) {
    case 'n':
        return read_number(L, h);
    case 'l':
        return read_line(L, h, true);
    case 'L':
        return read_line(L, h, false);
    case 'a':
        read_chars(L, h, h->len);
        return true;
    default:
        luaL_argerror(L, format, "invalid format");
        return false;
    }
}

/* Reads by the formats first…last of the stack; a failed one gives nil and ends. */
static int
read_formats(lua_State *L, struct handle *h, int first, int last)
{
    int top = lua_gettop(L);
    bool ok = true;

    luaL_checkstack(L, last - first + LUA_MINSTACK, "too many formats");
    if (first > last)
        ok = read_line(L, h, true);
    for (int format = first; ok && format <= last; format++)
        ok = read_one(L, h, format);
    if (!ok) {
        lua_pop(L, 1);
        lua_pushnil(L);
    }
    return lua_gettop(L) - top;
}

static int
handle_read(lua_State *L)
{
    return read_formats(L, handle_check(L), 2, lua_gettop(L));
}

static void
handle_end(lua_State *L, int idx, struct handle *h)
{
    h->closed = true;
    h->data = NULL;
    lua_pushnil(L);
    lua_setiuservalue(L, idx, 1);
}

/* Upvalues: the handle, whether it is closed at the end, how many formats, the formats. */
static int
lines_next(lua_State *L)
{
    int formats = (int)lua_tointeger(L, lua_upvalueindex(3));
    struct handle *h;
    int results;

    lua_settop(L, 0);
    lua_pushvalue(L, lua_upvalueindex(1));
    h = lua_touserdata(L, 1);
    if (h->closed)
        return luaL_error(L, "file is already closed");
    luaL_checkstack(L, formats, "too many formats");
    for (int i = 1; i <= formats; i++)
        lua_pushvalue(L, lua_upvalueindex(3 + i));
    results = read_formats(L, h, 2, 1 + formats);
    if (lua_toboolean(L, -results))
        return results;
    if (lua_toboolean(L, lua_upvalueindex(2)))
        handle_end(L, 1, h);
    lua_pushnil(L);
    return 1;
}

/* Pushes the iterator for the handle at index 1 and the formats behind it. */
static void
lines_push(lua_State *L, bool close)
{
    int formats = lua_gettop(L) - 1;

    luaL_argcheck(L, formats <= 250, 252, "too many arguments");
    lua_pushvalue(L, 1);
    lua_pushboolean(L, close);
    lua_pushinteger(L, formats);
    lua_rotate(L, 2, 3);
    lua_pushcclosure(L, lines_next, 3 + formats);
}

static int
handle_lines(lua_State *L)
{
    handle_check(L);
    lines_push(L, false);
    return 1;
}

static int
handle_seek(lua_State *L)
{
    static const char *const names[] = {"set", "cur", "end", NULL};
    struct handle *h = handle_check(L);
    int whence = luaL_checkoption(L, 2, "cur", names);
    lua_Integer offset = luaL_optinteger(L, 3, 0);
    lua_Integer base = whence == 0 ? 0 : (lua_Integer)(whence == 1 ? h->pos : h->len);

    if (offset < -base) {
        lua_pushnil(L);
        lua_pushliteral(L, "Invalid argument");
        lua_pushinteger(L, 22);
        return 3;
    }
    /* Behind the end there is nothing to read; a position there is kept at the end. */
    h->pos = offset > (lua_Integer)h->len - base ? h->len : (size_t)(base + offset);
    lua_pushinteger(L, (lua_Integer)h->pos);
    return 1;
}

static int
handle_close(lua_State *L)
{
    handle_end(L, 1, handle_check(L));
    lua_pushboolean(L, true);
    return 1;
}

/* __close: unlike close, twice is fine. */
static int
handle_leave(lua_State *L)
{
    handle_end(L, 1, luaL_checkudata(L, 1, HANDLE));
    return 0;
}

static int
handle_setvbuf(lua_State *L)
{
    handle_check(L);
    lua_pushboolean(L, true);
    return 1;
}

static int
handle_write(lua_State *L)
{
    handle_check(L);
    mg_script_error(L, "file:write is not available in a script: a script cannot write files");
}

static int
handle_tostring(lua_State *L)
{
    struct handle *h = luaL_checkudata(L, 1, HANDLE);

    lua_getiuservalue(L, 1, 2);
    lua_pushfstring(L, h->closed ? "file (closed)" : "file (%s)", lua_tostring(L, -1));
    return 1;
}

/* ---- the library ---------------------------------------------------------------------------- */

static int
io_open(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    const char *mode = luaL_optstring(L, 2, "r");

    if (strcmp(mode, "r") != 0 && strcmp(mode, "rb") != 0)
        mg_script_error(L, "io.open(\"%s\", \"%s\"): a script can only read files (mode \"r\")",
                        path, mode);
    return handle_push(L, path) ? 1 : 3;
}

static int
io_lines(lua_State *L)
{
    if (lua_isnoneornil(L, 1))
        mg_script_error(L, "io.lines: expected the name of a file: there is no standard input");
    if (!handle_push(L, luaL_checkstring(L, 1)))
        mg_script_error(L, "%s", lua_tostring(L, -2));
    lua_replace(L, 1);
    lines_push(L, true);
    lua_pushnil(L);
    lua_pushnil(L);
    lua_pushvalue(L, 1);
    return 4; /* the last one is closed when the loop is left early */
}

static int
io_close(lua_State *L)
{
    return handle_close(L);
}

static int
io_type(lua_State *L)
{
    struct handle *h = luaL_testudata(L, 1, HANDLE);

    luaL_checkany(L, 1);
    if (h == NULL)
        lua_pushnil(L);
    else
        lua_pushstring(L, h->closed ? "closed file" : "file");
    return 1;
}

/* io.stdout and its like: there is no field, and asking says why. */
static int
io_index(lua_State *L)
{
    mg_script_error(L, "io.%s is not available in a script: print writes to the log",
                    luaL_tolstring(L, 2, NULL));
}

void
mg_io_open(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"read", handle_read},       {"lines", handle_lines},
        {"seek", handle_seek},       {"close", handle_close},
        {"write", handle_write},     {"flush", handle_setvbuf},
        {"setvbuf", handle_setvbuf}, {NULL, NULL},
    };
    static const luaL_Reg library[] = {
        {"open", io_open}, {"lines", io_lines}, {"close", io_close},
        {"type", io_type}, {NULL, NULL},
    };
    static const char *const refused[][2] = {
        {"popen", "programs run through moongate.command, and only while the script loads"},
        {"tmpfile", "a script cannot write files"},
        {"write", "print writes to the log"},
        {"read", "there is no standard input"},
        {"input", "there is no standard input"},
        {"output", "print writes to the log"},
    };

    luaL_newmetatable(L, HANDLE);
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, handle_leave);
    lua_setfield(L, -2, "__close");
    lua_pushcfunction(L, handle_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pushliteral(L, "FILE*");
    lua_setfield(L, -2, "__name");
    lua_pushliteral(L, "FILE*");
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);

    luaL_newlib(L, library);
    for (size_t i = 0; i < MG_ARRAY_LEN(refused); i++)
        mg_refuse(L, "io", refused[i][0], refused[i][1]);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, io_index);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "io");
    lua_pop(L, 1);
    lua_setglobal(L, "io");
}

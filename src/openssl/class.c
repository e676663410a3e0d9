/*
 * class: the attribute dispatcher. One table of rows per class; looking a name up, refusing an
 * unknown one with a suggestion, the frozen check and the read-only check are done here and nowhere
 * else.
 *
 * A metatable's __index and __newindex are closures over the class and one table that maps a name
 * to its row (light userdata) or to its method (function), so a look-up is one raw table access.
 */
#include "openssl/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_SHOWN 64 /* bytes of a hostile field name that an error repeats */

/* Marks, by its address in upvalue 2, a function whose upvalue 1 is its name. */
static const char function_mark = 'f';

/* ---- functions that know their name --------------------------------------------------------- */

void
mg_function_push(lua_State *L, const char *name, lua_CFunction fn)
{
    lua_pushstring(L, name);
    lua_pushlightuserdata(L, (void *)(uintptr_t)&function_mark);
    lua_pushcclosure(L, fn, 2);
}

void
mg_functions_push(lua_State *L, const char *cls, const luaL_Reg *functions)
{
    lua_newtable(L);
    for (; functions->name; functions++) {
        mg_function_push(L, lua_pushfstring(L, "%s.%s", cls, functions->name), functions->func);
        lua_setfield(L, -3, functions->name);
        lua_pop(L, 1);
    }
}

const char *
mg_function_name(lua_State *L)
{
    if (lua_touserdata(L, lua_upvalueindex(2)) == (const void *)&function_mark)
        return lua_tostring(L, lua_upvalueindex(1));
    lua_Debug ar;
    if (lua_getstack(L, 0, &ar) && lua_getinfo(L, "n", &ar) && ar.name)
        return ar.name;
    return "?";
}

static bool
function_is_method(const char *name)
{
    return strchr(name, ':') != NULL;
}

void
mg_check_count(lua_State *L, int min, int max)
{
    const char *name = mg_function_name(L);
    int given = lua_gettop(L) - (function_is_method(name) ? 1 : 0);
    if (given < 0)
        given = 0;
    if (given >= min && given <= max)
        return;
    if (min == max)
        mg_lua_error(L, "ArgumentError", "%s: wrong number of arguments (given %d, expected %d)",
                     name, given, min);
    mg_lua_error(L, "ArgumentError", "%s: wrong number of arguments (given %d, expected %d..%d)",
                 name, given, min, max);
}

const char *
mg_type_name(lua_State *L, int idx)
{
    if (lua_type(L, idx) == LUA_TUSERDATA && luaL_getmetafield(L, idx, "__name") == LUA_TSTRING) {
        const char *name = lua_tostring(L, -1); /* stays alive in the metatable */
        lua_pop(L, 1);
        return name;
    }
    return luaL_typename(L, idx);
}

void
mg_argument_type_error(lua_State *L, int arg, const char *expected)
{
    const char *name = mg_function_name(L);
    if (!function_is_method(name))
        mg_lua_error(L, "TypeError", "%s: argument %d: expected %s, got %s", name, arg, expected,
                     mg_type_name(L, arg));
    if (arg == 1)
        mg_lua_error(L, "TypeError", "%s: expected %s before the colon, got %s", name, expected,
                     mg_type_name(L, arg));
    mg_lua_error(L, "TypeError", "%s: argument %d: expected %s, got %s", name, arg - 1, expected,
                 mg_type_name(L, arg));
}

const char *
mg_check_string(lua_State *L, int arg, size_t *len)
{
    if (lua_type(L, arg) != LUA_TSTRING)
        mg_argument_type_error(L, arg, "a string");
    return lua_tolstring(L, arg, len);
}

const char *
mg_opt_string(lua_State *L, int arg, size_t *len)
{
    if (!lua_isnoneornil(L, arg))
        return mg_check_string(L, arg, len);
    *len = 0;
    return NULL;
}

const char *
mg_check_text(lua_State *L, int arg)
{
    size_t len;
    const char *text = mg_check_string(L, arg, &len);
    if (strlen(text) != len)
        mg_lua_error(L, "ArgumentError", "%s: string contains null byte", mg_function_name(L));
    return text;
}

lua_Integer
mg_check_integer(lua_State *L, int arg)
{
    int ok = 0;
    lua_Integer value = lua_type(L, arg) == LUA_TNUMBER ? lua_tointegerx(L, arg, &ok) : 0;
    if (!ok)
        mg_argument_type_error(L, arg, "an integer");
    return value;
}

bool
mg_check_boolean(lua_State *L, int arg)
{
    if (!lua_isboolean(L, arg))
        mg_argument_type_error(L, arg, "a boolean");
    return lua_toboolean(L, arg);
}

void
mg_check_table(lua_State *L, int arg)
{
    if (!lua_istable(L, arg))
        mg_argument_type_error(L, arg, "a table");
}

/* ---- objects -------------------------------------------------------------------------------- */

void *
mg_class_test(lua_State *L, int arg, const struct mg_class *cls)
{
    return luaL_testudata(L, arg, cls->metatable);
}

void *
mg_class_check(lua_State *L, int arg, const struct mg_class *cls)
{
    void *self = luaL_testudata(L, arg, cls->metatable);
    if (!self)
        mg_argument_type_error(L, arg, cls->name);
    return self;
}

void *
mg_class_new(lua_State *L, const struct mg_class *cls, size_t size)
{
    void *self = lua_newuserdatauv(L, size, cls->user_values);
    memset(self, 0, size);
    luaL_setmetatable(L, cls->metatable);
    if (cls->user_values > 0) {
        lua_newtable(L);
        lua_setiuservalue(L, -2, 1);
    }
    return self;
}

/* ---- dispatch ------------------------------------------------------------------------------- */

/* Walks the rows of both tables. */
static const struct mg_attr *
attr_first(const struct mg_class *cls)
{
    if (cls->attrs && cls->attrs->name)
        return cls->attrs;
    return cls->more_attrs && cls->more_attrs->name ? cls->more_attrs : NULL;
}

static const struct mg_attr *
attr_next(const struct mg_class *cls, const struct mg_attr *attr)
{
    if ((++attr)->name)
        return attr;
    /* The end of which table? Only the first one is followed by another. */
    const struct mg_attr *end = cls->attrs;
    while (end && end->name)
        end++;
    return attr == end && cls->more_attrs && cls->more_attrs->name ? cls->more_attrs : NULL;
}

static const struct mg_class *
upvalue_class(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

static void *
dispatch_self(lua_State *L, const struct mg_class *cls)
{
    void *self = luaL_testudata(L, 1, cls->metatable);
    if (!self)
        mg_lua_error(L, "TypeError", "%s: expected %s, got %s", cls->name, cls->name,
                     mg_type_name(L, 1));
    return self;
}

static void
name_shown(char out[KEY_SHOWN * 4 + 8], const char *key, size_t len)
{
    struct mg_buf buf = {0};
    mg_buf_add_printable(&buf, key, len > KEY_SHOWN ? KEY_SHOWN : len);
    if (len > KEY_SHOWN)
        mg_buf_adds(&buf, "...");
    mg_str_copy(out, KEY_SHOWN * 4 + 8, buf.failed || !buf.data ? "" : buf.data);
    mg_buf_free(&buf);
}

/* The key at index 2 is none of `names`, a list of that length. */
MG_NORETURN static void
name_error(lua_State *L, const char *where, const char *kind, const char *const *names,
           size_t count)
{
    size_t len;
    const char *key = lua_tolstring(L, 2, &len);
    char shown[KEY_SHOWN * 4 + 8];
    name_shown(shown, key, len);
    const char *near = len <= KEY_SHOWN ? mg_str_nearest(key, names, count) : NULL;
    if (near)
        mg_lua_error(L, "NoMethodError", "%s.%s: no such %s (did you mean %s?)", where, shown, kind,
                     near);
    mg_lua_error(L, "NoMethodError", "%s.%s: no such %s", where, shown, kind);
}

MG_NORETURN static void
unknown_error(lua_State *L, const struct mg_class *cls)
{
    if (lua_type(L, 2) != LUA_TSTRING)
        mg_lua_error(L, "NoMethodError", "%s: no such field: a name is wanted, got %s", cls->name,
                     mg_type_name(L, 2));
    size_t count = 0, n = 0;
    for (const struct mg_attr *a = attr_first(cls); a; a = attr_next(cls, a))
        count++;
    for (const luaL_Reg *m = cls->methods; m && m->name; m++)
        count++;
    const char **names = lua_newuserdatauv(L, (count + 1) * sizeof(*names), 0);
    for (const struct mg_attr *a = attr_first(cls); a; a = attr_next(cls, a))
        names[n++] = a->name;
    for (const luaL_Reg *m = cls->methods; m && m->name; m++)
        names[n++] = m->name;
    name_error(L, cls->name, "field", names, n);
}

/* Pushes what the key at index 2 names: a row (light userdata), a method (function) or nil. */
static int
dispatch_lookup(lua_State *L)
{
    lua_pushvalue(L, 2);
    return lua_rawget(L, lua_upvalueindex(2));
}

static int
class_index(lua_State *L)
{
    const struct mg_class *cls = upvalue_class(L);
    void *self = dispatch_self(L, cls);
    switch (dispatch_lookup(L)) {
    case LUA_TFUNCTION:
        return 1;
    case LUA_TLIGHTUSERDATA: {
        const struct mg_attr *attr = lua_touserdata(L, -1);
        if (!attr->get)
            mg_lua_error(L, "NoMethodError", "%s.%s: cannot be read", cls->name, attr->name);
        lua_settop(L, 2);
        int pushed = attr->get(L, self);
        ERR_clear_error(); /* a reader's question that OpenSSL answered with "no" */
        return pushed;
    }
    default:
        unknown_error(L, cls);
    }
}

static bool
writable_when_frozen(const struct mg_class *cls, const char *name)
{
    for (const char *const *ok = cls->frozen_ok; ok && *ok; ok++)
        if (strcmp(*ok, name) == 0)
            return true;
    return false;
}

static int
class_newindex(lua_State *L)
{
    const struct mg_class *cls = upvalue_class(L);
    void *self = dispatch_self(L, cls);
    lua_settop(L, 3);
    switch (dispatch_lookup(L)) {
    case LUA_TFUNCTION:
        mg_lua_error(L, "NoMethodError", "%s.%s: is a method and cannot be assigned", cls->name,
                     lua_tostring(L, 2));
    case LUA_TLIGHTUSERDATA: {
        const struct mg_attr *attr = lua_touserdata(L, -1);
        if (!attr->set)
            mg_lua_error(L, "NoMethodError", "%s.%s: is read-only", cls->name, attr->name);
        if (cls->is_frozen && cls->is_frozen(self) && !writable_when_frozen(cls, attr->name))
            mg_lua_error(L, "FrozenError", "%s.%s: can't modify frozen %s", cls->name, attr->name,
                         cls->name);
        lua_settop(L, 3);
        attr->set(L, self, 3);
        return 0;
    }
    default:
        unknown_error(L, cls);
    }
}

/*
 * Frees once. The object then loses its metatable, so that whoever still reaches it – a finalizer, a
 * callback that kept its StoreContext – meets "a closed SSLContext", not an empty one.
 */
static int
class_gc(lua_State *L)
{
    const struct mg_class *cls = upvalue_class(L);
    if (!luaL_testudata(L, 1, cls->metatable))
        return 0;
    if (cls->gc) {
        lua_pushcfunction(L, cls->gc);
        lua_pushvalue(L, 1);
        lua_call(L, 1, 0);
    }
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_setmetatable(L, 1);
    return 0;
}

static int
class_tostring(lua_State *L)
{
    const struct mg_class *cls = upvalue_class(L);
    lua_pushfstring(L, "%s: %p", cls->name, lua_topointer(L, 1));
    return 1;
}

static int
closed_access(lua_State *L)
{
    mg_lua_error(L, "RuntimeError", "%s: %s", lua_tostring(L, lua_upvalueindex(1)),
                 lua_tostring(L, lua_upvalueindex(2)));
}

static int
closed_close(lua_State *L MG_UNUSED)
{
    return 0;
}

/* The metatable an object has after it was freed. It may be closed again. */
static void
closed_push(lua_State *L, const struct mg_class *cls)
{
    lua_createtable(L, 0, 5);
    lua_pushcfunction(L, closed_close);
    lua_setfield(L, -2, "__close");
    lua_pushfstring(L, "closed %s", cls->name);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "__name");
    lua_setfield(L, -2, "__metatable");
    lua_pushstring(L, cls->name);
    lua_pushstring(L, cls->closed ? cls->closed : "is closed");
    lua_pushcclosure(L, closed_access, 2);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "__index");
    lua_setfield(L, -2, "__newindex");
}

/* Sets `field` of the metatable below the top to a closure over the class and the table on top. */
static void
closure_field(lua_State *L, const struct mg_class *cls, const char *field, lua_CFunction fn)
{
    lua_pushlightuserdata(L, (void *)(uintptr_t)cls);
    lua_pushvalue(L, -2);
    lua_pushcclosure(L, fn, 2);
    lua_setfield(L, -3, field);
}

/* Pushes the table from name to row or method. */
static void
names_push(lua_State *L, const struct mg_class *cls)
{
    lua_newtable(L);
    for (const struct mg_attr *a = attr_first(cls); a; a = attr_next(cls, a)) {
        lua_pushlightuserdata(L, (void *)(uintptr_t)a);
        lua_setfield(L, -2, a->name);
    }
    for (const luaL_Reg *m = cls->methods; m && m->name; m++) {
        if (lua_getfield(L, -1, m->name) != LUA_TNIL) {
            fprintf(stderr, "moongate: %s.%s is both attribute and method\n", cls->name, m->name);
            abort();
        }
        lua_pop(L, 1);
        mg_function_push(L, lua_pushfstring(L, "%s:%s", cls->name, m->name), m->func);
        lua_setfield(L, -3, m->name);
        lua_pop(L, 1);
    }
}

void
mg_class_register(lua_State *L, const struct mg_class *cls)
{
    if (!luaL_newmetatable(L, cls->metatable)) {
        lua_pop(L, 1);
        return;
    }
    lua_pushstring(L, cls->name);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "__name");
    lua_setfield(L, -2, "__metatable");

    names_push(L, cls);
    closure_field(L, cls, "__index", class_index);
    closure_field(L, cls, "__newindex", class_newindex);
    lua_pop(L, 1);

    closed_push(L, cls);
    closure_field(L, cls, "__gc", class_gc);
    if (cls->closable)
        closure_field(L, cls, "__close", class_gc);
    lua_pop(L, 1);

    if (cls->tostring) {
        lua_pushcfunction(L, cls->tostring);
    } else {
        lua_pushlightuserdata(L, (void *)(uintptr_t)cls);
        lua_pushcclosure(L, class_tostring, 1);
    }
    lua_setfield(L, -2, "__tostring");
    if (cls->eq) {
        lua_pushcfunction(L, cls->eq);
        lua_setfield(L, -2, "__eq");
    }
    lua_pop(L, 1);
}

/* ---- tables of names ------------------------------------------------------------------------ */

void
mg_name_missing(lua_State *L, const char *where)
{
    size_t count = 0, n = 0;
    if (lua_type(L, 2) != LUA_TSTRING)
        mg_lua_error(L, "NoMethodError", "%s: no such name: a name is wanted, got %s", where,
                     mg_type_name(L, 2));
    for (lua_pushnil(L); lua_next(L, 1); lua_pop(L, 1))
        count++;
    const char **names = lua_newuserdatauv(L, (count + 1) * sizeof(*names), 0);
    for (lua_pushnil(L); lua_next(L, 1) && n < count; lua_pop(L, 1))
        if (lua_type(L, -2) == LUA_TSTRING)
            names[n++] = lua_tostring(L, -2); /* the table keeps it */
    name_error(L, where, "name", names, n);
}

static int
names_index(lua_State *L)
{
    mg_name_missing(L, lua_tostring(L, lua_upvalueindex(1)));
}

void
mg_names_close(lua_State *L, const char *where)
{
    int table = lua_gettop(L);
    luaL_checkstack(L, 8, where);
    if (lua_getmetatable(L, table))
        return lua_settop(L, table);
    for (lua_pushnil(L); lua_next(L, table); lua_settop(L, table + 1)) {
        if (!lua_istable(L, -1))
            continue;
        const char *name = lua_pushfstring(L, "%s.%s", where, lua_tostring(L, table + 1));
        lua_insert(L, -2);
        mg_names_close(L, name);
    }
    lua_createtable(L, 0, 1);
    lua_pushstring(L, where);
    lua_pushcclosure(L, names_index, 1);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, table);
}

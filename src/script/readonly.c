/*
 * What an object gives out of its options is a copy, and to write into a copy would do nothing. So the
 * script gets a view: an empty table that reads like the copy – with [], #, ipairs and pairs – and
 * answers an assignment with an error that says what would be right.
 */
#include "script/internal.h"

#include <ctype.h>
#include <string.h>

/* Field of a view's metatable: the table behind. */
static char behind;

/* The name of the field at index 2 below that of the view: ".interval", "[2]". */
static const char *
field_push(lua_State *L)
{
    const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : NULL;
    bool plain = name != NULL && (isalpha((unsigned char)name[0]) || name[0] == '_');

    for (const char *c = name; plain && *c != '\0'; c++)
        plain = isalnum((unsigned char)*c) || *c == '_';
    return plain ? lua_pushfstring(L, ".%s", name)
                 : lua_pushfstring(L, "[%s]", luaL_tolstring(L, 2, NULL));
}

static int
view_newindex(lua_State *L)
{
    mg_lua_error(L, "NoMethodError", "%s%s: read-only: %s", lua_tostring(L, lua_upvalueindex(1)),
                 field_push(L), lua_tostring(L, lua_upvalueindex(2)));
}

static int
view_len(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)lua_rawlen(L, lua_upvalueindex(1)));
    return 1;
}

static int
view_next(lua_State *L)
{
    lua_settop(L, 2);
    return lua_next(L, lua_upvalueindex(1)) != 0 ? 2 : 0;
}

static int
view_pairs(lua_State *L)
{
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushcclosure(L, view_next, 1);
    lua_pushvalue(L, 1);
    lua_pushnil(L);
    return 3;
}

/* Pushes a view of the table at the top in its place. `sentence` is an index. */
static void
view_make(lua_State *L, const char *path, int sentence)
{
    static const luaL_Reg over_table[] = {{"__len", view_len}, {"__pairs", view_pairs}};
    int table = lua_gettop(L), meta = table + 2;

    lua_newtable(L);
    lua_createtable(L, 0, 6);
    lua_pushvalue(L, table);
    lua_rawsetp(L, meta, &behind);
    lua_pushvalue(L, table);
    lua_setfield(L, meta, "__index");
    for (size_t i = 0; i < MG_ARRAY_LEN(over_table); i++) {
        lua_pushvalue(L, table);
        lua_pushcclosure(L, over_table[i].func, 1);
        lua_setfield(L, meta, over_table[i].name);
    }
    lua_pushstring(L, path);
    lua_pushvalue(L, sentence);
    lua_pushcclosure(L, view_newindex, 2);
    lua_setfield(L, meta, "__newindex");
    lua_pushliteral(L, "read-only");
    lua_setfield(L, meta, "__metatable");
    lua_setmetatable(L, -2);
    lua_remove(L, table);
}

void
mg_readonly_push(lua_State *L, const char *object, const char *field, bool assignable)
{
    int table = lua_gettop(L), sentence = table + 1, path = table + 2;

    luaL_checkstack(L, 12, NULL);
    lua_pushfstring(L, "give %s = { … } when the %s is made%s", field, object,
                    assignable ? ", or assign a whole table" : "");
    lua_pushfstring(L, "%s.%s", object, field);
    for (lua_Integer i = 1; lua_rawgeti(L, table, i) != LUA_TNIL; i++) { /* entries of a list */
        if (lua_istable(L, -1)) {
            const char *entry = lua_pushfstring(L, "%s[%I]", lua_tostring(L, path), (LUAI_UACINT)i);

            lua_insert(L, -2);
            view_make(L, entry, sentence);
            lua_remove(L, -2);
        }
        lua_rawseti(L, table, i);
    }
    lua_pop(L, 1);
    lua_pushvalue(L, table);
    view_make(L, lua_tostring(L, path), sentence);
    lua_replace(L, table);
    lua_settop(L, table);
}

/* Pushes the table behind the view at idx; false: it is none, and nothing is pushed. */
static bool
behind_push(lua_State *L, int idx)
{
    if (!lua_istable(L, idx) || !lua_getmetatable(L, idx))
        return false;
    if (lua_rawgetp(L, -1, &behind) == LUA_TTABLE) {
        lua_remove(L, -2);
        return true;
    }
    lua_pop(L, 2);
    return false;
}

bool
mg_readonly_copy(lua_State *L, int idx)
{
    int copy;

    luaL_checkstack(L, 8, NULL);
    if (!behind_push(L, idx))
        return false;
    lua_newtable(L);
    copy = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, copy - 1) != 0; lua_settop(L, copy + 1)) {
        lua_pushvalue(L, copy + 1);
        if (!mg_readonly_copy(L, copy + 2))
            lua_pushvalue(L, copy + 2);
        lua_rawset(L, copy);
    }
    lua_remove(L, copy - 1);
    return true;
}

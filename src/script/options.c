/*
 * Option tables: every key is known or refused with a suggestion, every value is checked and
 * brought to one normal form. The same rows serve a table's keys and, later, assignments to the
 * object's fields.
 *
 * The normal forms live in a table, user value 1 of the object; C reads them only when a config is
 * made.
 */
#include "script/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void
mg_option_error(lua_State *L, const char *what, const char *fmt, ...)
{
    const char *text;
    va_list args;

    va_start(args, fmt);
    text = lua_pushvfstring(L, fmt, args);
    va_end(args);
    mg_script_error(L, "%s: %s", what, text);
}

static size_t
options_count(const struct mg_option *options)
{
    size_t count = 0;

    while (options[count].name != NULL)
        count++;
    return count;
}

/* The option that a wrong key may have been meant for, or NULL. */
static const char *
option_nearest(lua_State *L, const struct mg_option *options, const char *key)
{
    size_t count = options_count(options);
    const char **names = lua_newuserdatauv(L, count * sizeof(*names), 0);

    for (size_t i = 0; i < count; i++)
        names[i] = options[i].name;
    return mg_str_nearest(key, names, count);
}

static MG_NORETURN void
unknown_error(lua_State *L, const char *what, const struct mg_option *options, int key)
{
    char shown[MG_TEXT_SHOWN];
    const char *near = option_nearest(L, options, lua_tostring(L, key));

    mg_text_show(lua_tostring(L, key), lua_rawlen(L, key), shown);
    if (near != NULL)
        mg_option_error(L, what, "unknown option \"%s\" (did you mean \"%s\"?)", shown, near);
    mg_option_error(L, what, "unknown option \"%s\"", shown);
}

static const struct mg_option *
option_find(const struct mg_option *options, const char *name)
{
    for (; options->name != NULL; options++) {
        if (strcmp(options->name, name) == 0)
            return options;
    }
    return NULL;
}

static void
keys_check(lua_State *L, const char *what, const struct mg_option *options, int table)
{
    for (lua_pushnil(L); lua_next(L, table) != 0; lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING)
            mg_option_error(L, what,
                            "expected options like name = value, found one without a name");
        if (strlen(lua_tostring(L, -2)) != lua_rawlen(L, -2) ||
            option_find(options, lua_tostring(L, -2)) == NULL)
            unknown_error(L, what, options, lua_gettop(L) - 1);
    }
}

/* A key of a list, at the top but one, that is none of a list's. */
static MG_NORETURN void
list_key_error(lua_State *L, const char *what, const char *name, const char *entries,
               const struct mg_option *options)
{
    char shown[MG_TEXT_SHOWN];
    const char *near;

    if (lua_type(L, -2) != LUA_TSTRING)
        mg_option_error(L, what, "%s: expected a list of %s, found %s as a key", name, entries,
                        luaL_tolstring(L, -2, NULL));
    mg_text_show(lua_tostring(L, -2), lua_rawlen(L, -2), shown);
    near = options != NULL ? option_nearest(L, options, lua_tostring(L, -2)) : NULL;
    if (near == NULL)
        mg_option_error(L, what, "%s: unknown option \"%s\" in a list of %s", name, shown, entries);
    if (strcmp(near, shown) != 0)
        mg_option_error(L, what, "%s: unknown option \"%s\" (did you mean \"%s\"?)", name, shown,
                        near);
    mg_option_error(L, what,
                    "%s: \"%s\" is an option of one entry, not of the list: "
                    "{ address = \"...\", %s = ... }",
                    name, near, near);
}

void
mg_option_list(lua_State *L, const char *what, const char *name, int table, const char *entries,
               const struct mg_option *options)
{
    lua_Integer count = 0, last = 0;

    for (lua_pushnil(L); lua_next(L, table) != 0; lua_pop(L, 1)) {
        if (!lua_isinteger(L, -2) || lua_tointeger(L, -2) < 1)
            list_key_error(L, what, name, entries, options);
        count++;
        if (lua_tointeger(L, -2) > last)
            last = lua_tointeger(L, -2);
    }
    if (count != last)
        mg_option_error(L, what, "%s: a list with gaps: %I entries, and the last one is number %I",
                        name, (LUAI_UACINT)count, (LUAI_UACINT)last);
}

static void
default_push(lua_State *L, const struct mg_option *option)
{
    if (option->fallback == NULL)
        lua_pushnil(L);
    else if (strcmp(option->fallback, "true") == 0 || strcmp(option->fallback, "false") == 0)
        lua_pushboolean(L, option->fallback[0] == 't');
    else if (lua_stringtonumber(L, option->fallback) == 0)
        lua_pushstring(L, option->fallback);
}

/* Reads the value at the top into the table at `into`; pops it. */
static void
option_store(lua_State *L, const struct mg_option *option, const char *what, int into)
{
    int value = lua_gettop(L);

    if (mg_readonly_copy(L, value)) /* what an object has given out */
        lua_replace(L, value);
    if (lua_isnil(L, value))
        default_push(L, option);
    else
        option->read(L, option, what, value);
    lua_setfield(L, into, option->name);
    lua_settop(L, value - 1);
}

void
mg_options_read(lua_State *L, const char *what, const struct mg_option *options, int table,
                int into)
{
    if (!lua_istable(L, table))
        mg_option_error(L, what, "expected a table of options, got %s", luaL_typename(L, table));
    keys_check(L, what, options, table);
    for (const struct mg_option *o = options; o->name != NULL; o++) {
        lua_getfield(L, table, o->name);
        option_store(L, o, what, into);
    }
}

/* ---- values --------------------------------------------------------------------------------- */

static MG_NORETURN void
type_error(lua_State *L, const struct mg_option *o, const char *what, int value,
           const char *expected)
{
    mg_option_error(L, what, "%s: expected %s, got %s", o->name, expected, luaL_typename(L, value));
}

void
mg_option_string(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    if (lua_type(L, value) != LUA_TSTRING)
        type_error(L, o, what, value, "a string");
    if (lua_rawlen(L, value) == 0)
        mg_option_error(L, what, "%s: an empty string", o->name);
    if (strlen(lua_tostring(L, value)) != lua_rawlen(L, value))
        mg_option_error(L, what, "%s: the string contains a zero byte", o->name);
    lua_pushvalue(L, value);
}

void
mg_option_name(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    char shown[MG_TEXT_SHOWN];

    mg_option_string(L, o, what, value);
    if (lua_rawlen(L, value) > MG_NAME_MAX)
        mg_option_error(L, what, "%s: expected at most %d bytes, got %I", o->name, MG_NAME_MAX,
                        (LUAI_UACINT)lua_rawlen(L, value));
    if (!mg_text_is_printable(lua_tostring(L, value), lua_rawlen(L, value)))
        mg_option_error(L, what, "%s: expected UTF-8 without control characters, got \"%s\"",
                        o->name, mg_text_show(lua_tostring(L, value), lua_rawlen(L, value), shown));
}

/* Pushes "a", "b" or "c". */
static const char *
words_push(lua_State *L, const char *const *words)
{
    lua_pushliteral(L, "");
    for (size_t i = 0; words[i] != NULL; i++) {
        const char *glue = i == 0 ? "" : words[i + 1] != NULL ? ", " : " or ";

        lua_pushfstring(L, "%s\"%s\"", glue, words[i]);
        lua_concat(L, 2);
    }
    return lua_tostring(L, -1);
}

void
mg_option_word(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    const char *word = lua_type(L, value) == LUA_TSTRING ? lua_tostring(L, value) : NULL;

    for (size_t i = 0; word != NULL && o->words[i] != NULL; i++) {
        if (strcmp(o->words[i], word) == 0) {
            lua_pushvalue(L, value);
            return;
        }
    }
    if (word == NULL)
        type_error(L, o, what, value, words_push(L, o->words));
    mg_option_error(L, what, "%s: expected %s, got \"%s\"", o->name, words_push(L, o->words), word);
}

void
mg_option_boolean(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    if (!lua_isboolean(L, value))
        type_error(L, o, what, value, "true or false");
    lua_pushvalue(L, value);
}

static bool
option_is_off(lua_State *L, const struct mg_option *o, int value)
{
    if (!o->may_be_off || !lua_isboolean(L, value) || lua_toboolean(L, value))
        return false;
    lua_pushboolean(L, false);
    return true;
}

static MG_NORETURN void
range_error(lua_State *L, const struct mg_option *o, const char *what, int value, const char *unit)
{
    char min[32], max[32];

    snprintf(min, sizeof(min), "%.15g", o->min);
    snprintf(max, sizeof(max), "%.15g", o->max);
    mg_option_error(L, what, "%s: expected %s from %s to %s%s, got %s", o->name, unit, min, max,
                    o->may_be_off ? ", or false" : "", luaL_tolstring(L, value, NULL));
}

void
mg_option_integer(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    lua_Integer number;
    int exact;

    if (option_is_off(L, o, value))
        return;
    if (lua_type(L, value) != LUA_TNUMBER)
        type_error(L, o, what, value, o->may_be_off ? "a whole number or false" : "a whole number");
    number = lua_tointegerx(L, value, &exact);
    if (!exact || (double)number < o->min || (double)number > o->max)
        range_error(L, o, what, value, "a whole number");
    lua_pushinteger(L, number);
}

static void
number_read(lua_State *L, const struct mg_option *o, const char *what, int value, const char *unit)
{
    double number;

    if (option_is_off(L, o, value))
        return;
    if (lua_type(L, value) != LUA_TNUMBER)
        type_error(L, o, what, value,
                   lua_pushfstring(L, o->may_be_off ? "%s or false" : "%s", unit));
    number = lua_tonumber(L, value);
    if (!(number >= o->min && number <= o->max)) /* not a number is not in range either */
        range_error(L, o, what, value, unit);
    lua_pushvalue(L, value);
}

void
mg_option_number(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    number_read(L, o, what, value, "a number");
}

void
mg_option_duration(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    number_read(L, o, what, value, "a number of seconds");
}

/* Options of later versions: only the default, which means "not used", is taken. */
void
mg_option_later(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    default_push(L, o);
    if (!lua_rawequal(L, value, -1))
        mg_option_error(L, what, "%s is not supported by this version", o->name);
}

/* ---- objects -------------------------------------------------------------------------------- */

int
mg_option_push(lua_State *L, int idx, const char *name)
{
    int type;

    lua_getiuservalue(L, idx, 1);
    type = lua_getfield(L, -1, name);
    lua_remove(L, -2);
    return type;
}

unsigned
mg_option_ms(lua_State *L, int idx, const char *name)
{
    unsigned ms = 0;

    if (mg_option_push(L, idx, name) == LUA_TNUMBER)
        ms = (unsigned)ceil(lua_tonumber(L, -1) * 1000);
    lua_pop(L, 1);
    return ms;
}

/* The dispatcher leaves the field's name at index 2. A table is copied: it is the object's own. */
int
mg_option_get(lua_State *L, void *self)
{
    int table = lua_gettop(L) + 2;
    const char *field = lua_tostring(L, 2);

    (void)self;
    luaL_getmetafield(L, 1, "__name");
    if (mg_option_push(L, 1, field) != LUA_TTABLE)
        return 1;
    lua_createtable(L, (int)lua_rawlen(L, table), 0);
    for (lua_pushnil(L); lua_next(L, table) != 0;) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, table + 1);
    }
    mg_readonly_push(L, lua_tostring(L, table - 1), field, strcmp(field, "address") != 0);
    return 1;
}

void
mg_option_assign(lua_State *L, const char *what, const struct mg_option *options, int value)
{
    const struct mg_option *option = option_find(options, lua_tostring(L, 2));

    lua_getiuservalue(L, 1, 1);
    lua_pushvalue(L, value);
    option_store(L, option, what, lua_gettop(L) - 1);
}

void
mg_option_fixed(lua_State *L, void *self, int value)
{
    (void)self;
    (void)value;
    luaL_getmetafield(L, 1, "__name");
    mg_lua_error(L, "NoMethodError", "%s.%s: is given once, when the object is made",
                 lua_tostring(L, -1), lua_tostring(L, 2));
}

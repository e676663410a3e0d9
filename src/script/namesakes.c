/*
 * Backends of one name. What is known of an address – its health, how many connections it has – is known by the
 * names of backend and address, in all workers and through reloads. So two Backends of one name are one to all that,
 * which is right where they say the same in everything; others have to have names of their own.
 *
 * All of them together have as many addresses as there is room to know something of.
 *
 * Whoever gave no name gets one: "127.0.0.1:80 (2)". Of two that were given the same one the later gets another,
 * with a warning.
 */
#include "script/internal.h"

#include <string.h>

enum { LINES = 1, NAMES, BACKENDS, BACKEND }; /* stack of backends_settle */

/* Whether the option of both is the same value. */
static bool
option_equal(lua_State *L, int a, int b, const char *name)
{
    bool equal;

    mg_option_push(L, a, name);
    mg_option_push(L, b, name);
    equal = lua_rawequal(L, -2, -1);
    lua_pop(L, 2);
    return equal;
}

/* What the canonical text says is the same. Functions are the same only if they are one. */
static bool
functions_equal(lua_State *L, int a, int b)
{
    int top = lua_gettop(L);
    bool equal = true;

    if (mg_option_push(L, a, "servername") == LUA_TFUNCTION)
        equal = option_equal(L, a, b, "servername");
    if (mg_option_push(L, a, "proxy_tlvs") == LUA_TTABLE) {
        mg_option_push(L, b, "proxy_tlvs");
        for (lua_pushnil(L); lua_next(L, top + 2) != 0; lua_settop(L, top + 4)) {
            lua_pushvalue(L, top + 4);
            lua_rawget(L, top + 3);
            equal = equal && lua_rawequal(L, -2, -1);
        }
    }
    lua_settop(L, top);
    return equal;
}

/* Likewise: contexts with callbacks. */
static bool
contexts_equal(lua_State *L, int a, int b)
{
    struct mg_ssl_context_facts facts[2];
    int top = lua_gettop(L);
    bool equal = option_equal(L, a, b, "tls");

    if (!equal && mg_option_push(L, a, "tls") != LUA_TNIL &&
        mg_option_push(L, b, "tls") != LUA_TNIL) {
        mg_ssl_context_facts(L, top + 1, &facts[0]);
        mg_ssl_context_facts(L, top + 2, &facts[1]);
        equal = !facts[0].callbacks && !facts[1].callbacks &&
                memcmp(facts[0].digest, facts[1].digest, sizeof(facts[0].digest)) == 0 &&
                memcmp(facts[0].session_policy, facts[1].session_policy,
                       sizeof(facts[0].session_policy)) == 0;
    }
    lua_settop(L, top);
    return equal;
}

/* Pushes the Backend that is like this one in everything; false: there is none, and later ones may be like this one.
 * `text` is its canonical text. */
static bool
like_push(lua_State *L, const struct mg_buf *text)
{
    int list = BACKEND + 1;

    lua_pushlstring(L, text->data, text->len);
    lua_pushvalue(L, -1);
    if (lua_gettable(L, LINES) == LUA_TNIL) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_pushvalue(L, list);
        lua_pushvalue(L, -2);
        lua_settable(L, LINES);
    }
    lua_replace(L, list);
    for (lua_Integer i = 1; lua_rawgeti(L, list, i) != LUA_TNIL; i++, lua_settop(L, list))
        if (functions_equal(L, list + 1, BACKEND) && contexts_equal(L, list + 1, BACKEND)) {
            lua_replace(L, list);
            return true;
        }
    lua_pushvalue(L, BACKEND);
    lua_rawseti(L, list, (lua_Integer)lua_rawlen(L, list) + 1);
    return false;
}

/* "moongate.lua:3", from what MG_WHERE says. */
static void
place_push(lua_State *L, int object)
{
    size_t len;
    const char *where;

    mg_option_push(L, object, MG_WHERE);
    where = luaL_tolstring(L, -1, &len);
    while (len > 0 && (where[len - 1] == ' ' || where[len - 1] == ':'))
        len--;
    lua_pushlstring(L, where, len);
}

/* Called with the new name at the top, and the old one below the first Backend. */
static void
name_warn(lua_State *L, int first)
{
    int top = lua_gettop(L);

    mg_option_push(L, BACKEND, MG_WHERE);
    place_push(L, first);
    mg_script_warn(L,
                   "%sbackend: name: there is already a backend \"%s\", with other settings, made "
                   "at %s: this one is called \"%s\"",
                   lua_tostring(L, top + 1), lua_tostring(L, first - 1), lua_tostring(L, -1),
                   lua_tostring(L, top));
    lua_settop(L, top);
}

/* The name at the top is the Backend's, and nobody else's. Pops it. */
static void
name_claim(lua_State *L)
{
    lua_getiuservalue(L, BACKEND, 1);
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "name");
    lua_pop(L, 1);
    lua_pushvalue(L, BACKEND);
    lua_settable(L, NAMES);
}

/* Pushes a name like that of the Backend that is free. */
static void
name_make(lua_State *L)
{
    int top = lua_gettop(L);

    mg_option_push(L, BACKEND, "name");
    for (lua_Integer i = 2;; i++) {
        const char *name = lua_pushfstring(L, "%s (%I)", lua_tostring(L, top + 1), (LUAI_UACINT)i);

        if (lua_getfield(L, NAMES, name) == LUA_TNIL)
            break;
        lua_settop(L, top + 1);
    }
    lua_pop(L, 1);
    lua_remove(L, top + 1);
}

static void
name_settle(lua_State *L, struct mg_backend_object *self, struct mg_buf *text)
{
    text->len = 0;
    mg_plan_backend(L, BACKEND, text);
    if (text->failed)
        luaL_error(L, "out of memory");
    if (like_push(L, text)) {
        self->duplicate = true;
        mg_option_push(L, BACKEND + 1, "name"); /* which may have been changed */
        lua_getiuservalue(L, BACKEND, 1);
        lua_insert(L, -2);
        lua_setfield(L, -2, "name");
        return;
    }
    mg_option_push(L, BACKEND, "name");
    lua_pushvalue(L, -1);
    if (lua_gettable(L, NAMES) == LUA_TNIL) {
        lua_pop(L, 1);
        name_claim(L);
        return;
    }
    name_make(L);
    if (self->named)
        name_warn(L, lua_gettop(L) - 1);
    name_claim(L);
}

/* How many addresses the Backend names by themselves; those of a name are not known here. */
static size_t
literal_count(lua_State *L)
{
    int top = lua_gettop(L);
    size_t count = 0;
    struct mg_endpoint ep;
    struct mg_err ignored;

    mg_option_push(L, BACKEND, "address");
    lua_newtable(L); /* what has been counted: an address may be listed twice */
    for (lua_Integer i = 1; lua_rawgeti(L, top + 1, i) == LUA_TSTRING;
         lua_settop(L, top + 2), i++) {
        const char *text = lua_tostring(L, -1);

        if (mg_endpoint_parse(&ep, text, false, &ignored) != 0 || ep.kind == MG_ENDPOINT_NAME ||
            lua_getfield(L, top + 2, text) != LUA_TNIL)
            continue;
        lua_pushboolean(L, true);
        lua_setfield(L, top + 2, text);
        count++;
    }
    lua_settop(L, top);
    return count;
}

/* What is known of an address has a place in memory that all workers share, and there are so many. */
static void
addresses_bound(lua_State *L)
{
    size_t count = 0;

    for (lua_Integer i = 1; lua_rawgeti(L, BACKENDS, i) != LUA_TNIL; i++) {
        struct mg_backend_object *self = mg_backend_test(L, BACKEND);

        if (self->kind == MG_BACKEND_ADDRESSES && !self->duplicate)
            count += literal_count(L);
        if (count > MG_SHARED_ADDRESSES) {
            mg_option_push(L, BACKEND, MG_WHERE);
            mg_option_push(L, BACKEND, "name");
            luaL_error(L, "%sbackend: %s: address: more than %d addresses of all backends together",
                       lua_tostring(L, -2), lua_tostring(L, -1), MG_SHARED_ADDRESSES);
        }
        lua_settop(L, BACKENDS);
    }
    lua_settop(L, BACKENDS);
}

static void
backends_settle(lua_State *L, void *data)
{
    lua_newtable(L); /* LINES: canonical text to list of Backends */
    lua_newtable(L); /* NAMES: to Backend */
    lua_getfield(L, LUA_REGISTRYINDEX, MG_BACKENDS);
    for (int named = 1; named >= 0; named--) { /* a name that was given is nobody else's */
        for (lua_Integer i = 1; lua_rawgeti(L, BACKENDS, i) != LUA_TNIL; i++) {
            struct mg_backend_object *self = mg_backend_test(L, BACKEND);

            if (self->kind == MG_BACKEND_ADDRESSES && self->named == (named == 1))
                name_settle(L, self, data);
            lua_settop(L, BACKENDS);
        }
        lua_settop(L, BACKENDS);
    }
    addresses_bound(L);
}

int
mg_backends_settle(struct mg_script *s, struct mg_err *err)
{
    struct mg_buf text = {0};
    int rc = mg_script_protect(s, backends_settle, &text, err);

    mg_buf_free(&text);
    return rc;
}

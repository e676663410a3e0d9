/*
 * Addresses that a backend lists more than once.
 *
 * Each is one server all the same: with one count, one health and one probe. So the entries become one, of the
 * weights together, and a warning says so; a backup that is listed as none, too, is none. That two names lead to one
 * server is not known here: their records are servers of their own.
 */
#include "script/internal.h"

/* Pushes what is the same for two ways to write one server. */
static void
server_push(lua_State *L, const struct mg_endpoint *ep, const char *text)
{
    char ip[MG_ADDR_TEXT];

    if (ep->kind == MG_ENDPOINT_NAME) {
        luaL_Buffer b;

        luaL_buffinit(L, &b);
        for (const char *c = ep->host; *c != '\0'; c++)
            luaL_addchar(&b, mg_ascii_lower(*c));
        luaL_pushresult(&b);
        lua_pushfstring(L, "%s:%d", lua_tostring(L, -1), (int)ep->port);
        lua_remove(L, -2);
    } else if (ep->kind == MG_ENDPOINT_IP) {
        bool is_v6 =
            ep->addr.u.sa.sa_family == AF_INET6; /* whose text does not have the interface */

        lua_pushfstring(L, "%s %I", mg_addr_text(&ep->addr, ip),
                        (LUAI_UACINT)(is_v6 ? ep->addr.u.in6.sin6_scope_id : 0));
    } else {
        lua_pushstring(L, text);
    }
}

/* The entry at `entry` stands for the server at `at` once more. */
static void
merge(lua_State *L, const char *what, int list, int entry, lua_Integer at)
{
    int top = lua_gettop(L);
    lua_Integer weight, more;
    bool backup, is_backup;

    lua_getfield(L, list, "weights");
    lua_getfield(L, list, "backups");
    lua_rawgeti(L, top + 1, at);
    lua_rawgeti(L, top + 2, at);
    lua_getfield(L, entry, "weight");
    lua_getfield(L, entry, "backup");
    weight = lua_tointeger(L, top + 3);
    more = lua_tointeger(L, top + 5);
    backup = lua_toboolean(L, top + 4);
    is_backup = lua_toboolean(L, top + 6);
    if (backup == is_backup)
        weight = weight + more < MG_WEIGHT_MAX ? weight + more : MG_WEIGHT_MAX;
    else if (backup)
        weight = more;
    lua_pushinteger(L, weight);
    lua_rawseti(L, top + 1, at);
    lua_pushboolean(L, backup && is_backup);
    lua_rawseti(L, top + 2, at);
    mg_script_where(L);
    lua_getfield(L, entry, "address");
    mg_script_warn(L,
                   "%s%s: address: \"%s\" is listed more than once: it is one server, of weight %I",
                   lua_tostring(L, -2), what, lua_tostring(L, -1), (LUAI_UACINT)weight);
    lua_settop(L, top);
}

bool
mg_address_merge(lua_State *L, const char *what, int list, const struct mg_endpoint *ep)
{
    int address = lua_gettop(L);
    bool known;

    lua_getfield(L, list, "places");
    server_push(L, ep, lua_tostring(L, address));
    lua_pushvalue(L, -1);
    known = lua_rawget(L, address + 1) == LUA_TNUMBER;
    if (known) {
        merge(L, what, list, list + 1, lua_tointeger(L, -1));
    } else {
        lua_pushvalue(L, -2);
        lua_pushinteger(L, (lua_Integer)lua_rawlen(L, list) + 1);
        lua_rawset(L, address + 1);
    }
    lua_settop(L, address);
    return known;
}

/* Which address a connection gets, without one: in memory. */
#include "mgtest.h"
#include "proxy/internal.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct mg_backend *
backend_make(lua_State *L, int idx)
{
    struct mg_backend *backend = mg_calloc(1, sizeof(*backend));
    struct mg_err err;

    lua_getfield(L, idx, "balance");
    backend->balance = (enum mg_balance)luaL_checkoption(L, -1, "random_two", mg_balance_names);
    lua_getfield(L, idx, "weights");
    backend->entry_count = lua_rawlen(L, -1);
    backend->entries = mg_calloc(backend->entry_count, sizeof(*backend->entries));
    for (size_t i = 0; i < backend->entry_count; i++) {
        struct mg_backend_entry *entry = &backend->entries[i];

        lua_rawgeti(L, -1, (lua_Integer)i + 1);
        entry->weight = (unsigned)lua_tointeger(L, -1);
        entry->backend = backend;
        snprintf(entry->text, sizeof(entry->text), "10.0.0.%zu:80", i + 1);
        mg_endpoint_parse(&entry->endpoint, entry->text, false, &err);
        mg_backend_address_add(entry, &entry->endpoint.addr, &err);
        lua_pop(L, 1);
    }
    lua_pop(L, 2);
    return backend;
}

static void
client_set(struct mg_addr *client, const char *ip)
{
    memset(client, 0, sizeof(*client));
    if (ip == NULL)
        return;
    if (inet_pton(AF_INET, ip, &client->u.in.sin_addr) == 1) {
        client->u.in.sin_family = AF_INET;
        client->len = sizeof(client->u.in);
    } else if (inet_pton(AF_INET6, ip, &client->u.in6.sin6_addr) == 1) {
        client->u.in6.sin6_family = AF_INET6;
        client->len = sizeof(client->u.in6);
    }
}

/* pick{ balance=, weights={…}, clients={ip…} | count=, keep=, without={[i]=true} [, from=, to=] } → {index…}: what each
 * client, or each of so many, gets; with `keep` the connections stay open. `without` are out, from the `from`-th
 * pick to the `to`-th if there are these; `had` have had their turn. */
static int
pick(lua_State *L)
{
    struct mg_backend *backend = backend_make(L, 1);
    uint64_t random = 88172645463325252u;
    struct mg_addr client;
    lua_Integer count, from, to;
    bool keep;

    lua_getfield(L, 1, "from");
    from = luaL_optinteger(L, -1, 1);
    lua_getfield(L, 1, "to");
    to = luaL_optinteger(L, -1, LUA_MAXINTEGER);
    lua_getfield(L, 1, "had");
    lua_getfield(L, 1, "without");
    lua_getfield(L, 1, "keep");
    keep = lua_toboolean(L, -1);
    lua_getfield(L, 1, "count");
    count = lua_tointeger(L, -1);
    lua_getfield(L, 1, "clients");
    if (lua_istable(L, -1))
        count = (lua_Integer)lua_rawlen(L, -1);
    lua_newtable(L);
    for (lua_Integer i = 1; i <= count; i++) {
        struct mg_backend_address *address;

        for (size_t a = 0; a < backend->address_count; a++) {
            enum mg_turn out[] = {MG_TURN_HAD, MG_TURN_OUT};

            backend->addresses[a]->turn = MG_TURN_MAY;
            for (int w = 0; w < 2; w++) {
                if (!lua_istable(L, 4 + w) || i < from || i > to)
                    continue;
                if (lua_rawgeti(L, 4 + w, (lua_Integer)a + 1) == LUA_TBOOLEAN)
                    backend->addresses[a]->turn = out[w];
                lua_pop(L, 1);
            }
        }
        client_set(&client, NULL);
        if (lua_istable(L, -2)) {
            lua_rawgeti(L, -2, i);
            client_set(&client, lua_tostring(L, -1));
            lua_pop(L, 1);
        }
        address = mg_balance_pick(backend, &client, &random);
        address->active += keep;
        lua_pushinteger(L, (lua_Integer)(address->entry - backend->entries) + 1);
        lua_rawseti(L, -2, i);
    }
    mg_backend_free(backend);
    return 1;
}

int
mgtest_balance(lua_State *L)
{
    static const luaL_Reg functions[] = {{"pick", pick}, {NULL, NULL}};

    luaL_newlib(L, functions);
    return 1;
}

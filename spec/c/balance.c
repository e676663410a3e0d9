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

    lua_getfield(L, idx, "balance");
    backend->balance = (enum mg_balance)luaL_checkoption(L, -1, "random_two", mg_balance_names);
    lua_getfield(L, idx, "weights");
    backend->address_count = lua_rawlen(L, -1);
    backend->addresses = mg_calloc(backend->address_count, sizeof(*backend->addresses));
    for (size_t i = 0; i < backend->address_count; i++) {
        struct mg_backend_address *address = &backend->addresses[i];

        lua_rawgeti(L, -1, (lua_Integer)i + 1);
        address->weight = (unsigned)lua_tointeger(L, -1);
        snprintf(address->text, sizeof(address->text), "10.0.0.%zu:80", i + 1);
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

/* pick{ balance=, weights={…}, without={[i]=true}, clients={ip…} | count=, keep= } → {index…}: what each
 * client, or each of so many, gets; with `keep` the connections stay open. */
static int
pick(lua_State *L)
{
    struct mg_backend *backend = backend_make(L, 1);
    bool *may = mg_calloc(backend->address_count, sizeof(*may));
    uint64_t random = 88172645463325252u;
    struct mg_addr client;
    lua_Integer count;
    bool keep;

    lua_getfield(L, 1, "without");
    for (size_t i = 0; i < backend->address_count; i++) {
        may[i] = true;
        if (lua_istable(L, 2)) {
            lua_rawgeti(L, 2, (lua_Integer)i + 1);
            may[i] = !lua_toboolean(L, -1);
            lua_pop(L, 1);
        }
    }
    lua_getfield(L, 1, "keep");
    keep = lua_toboolean(L, -1);
    lua_getfield(L, 1, "count");
    count = lua_tointeger(L, -1);
    lua_getfield(L, 1, "clients");
    if (lua_istable(L, -1))
        count = (lua_Integer)lua_rawlen(L, -1);
    lua_newtable(L);
    for (lua_Integer i = 1; i <= count; i++) {
        size_t index;

        client_set(&client, NULL);
        if (lua_istable(L, -2)) {
            lua_rawgeti(L, -2, i);
            client_set(&client, lua_tostring(L, -1));
            lua_pop(L, 1);
        }
        index = mg_balance_pick(backend, may, &client, &random);
        backend->addresses[index].active += keep;
        lua_pushinteger(L, (lua_Integer)index + 1);
        lua_rawseti(L, -2, i);
    }
    mg_free(may);
    mg_backend_free(backend);
    return 1;
}

/* order(addresses, first, shunned) → the addresses in the order in which they would be tried: the first-th of them
 * first, those of the list `shunned` last */
static int
order(lua_State *L)
{
    struct mg_backend_address entry = {0};
    struct mg_addr addrs[8] = {0}, out[8];
    struct mg_source source = {0};
    size_t count = lua_rawlen(L, 1), done;
    char text[MG_ADDR_TEXT];

    for (size_t i = 0; i < count && i < MG_ARRAY_LEN(addrs); i++) {
        lua_rawgeti(L, 1, (lua_Integer)i + 1);
        mg_addr_parse_ip(&addrs[i], luaL_checkstring(L, -1));
        lua_pop(L, 1);
    }
    for (lua_Integer i = 1; lua_rawgeti(L, 3, i) != LUA_TNIL; i++)
        mg_addr_shun(&entry, &addrs[lua_tointeger(L, -1) - 1], 1000);
    done = mg_addrs_order(&entry, addrs, count, &source, (unsigned)luaL_checkinteger(L, 2) - 1,
                          1000, out);
    lua_newtable(L);
    for (size_t i = 0; i < done; i++) {
        lua_pushstring(L, mg_addr_ip(&out[i], text));
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    mg_free(entry.shunned);
    return 1;
}

int
mgtest_balance(lua_State *L)
{
    static const luaL_Reg functions[] = {{"pick", pick}, {"order", order}, {NULL, NULL}};

    luaL_newlib(L, functions);
    return 1;
}

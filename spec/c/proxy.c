/* PROXY headers for specs: proxy_protocol.c, and networks. */
#include "mgtest.h"
#include "proxy/internal.h"

#include <string.h>

static void
addr_set(lua_State *L, const char *name, const struct mg_addr *addr)
{
    char text[MG_ADDR_TEXT];

    if (addr->len == 0)
        return;
    lua_pushstring(L, mg_addr_text(addr, text));
    lua_setfield(L, -2, name);
}

static void
header_push(lua_State *L, const struct mg_proxy_header *header)
{
    struct mg_proxy_tlvs list = header->tlvs;
    struct mg_proxy_tlv tlv;

    lua_newtable(L);
    lua_pushinteger(L, header->version);
    lua_setfield(L, -2, "version");
    lua_pushinteger(L, (lua_Integer)header->len);
    lua_setfield(L, -2, "len");
    lua_pushboolean(L, header->local);
    lua_setfield(L, -2, "local_");
    lua_pushboolean(L, header->own_addresses);
    lua_setfield(L, -2, "own");
    addr_set(L, "source", &header->source);
    addr_set(L, "destination", &header->destination);
    lua_newtable(L);
    while (mg_proxy_tlv_next(&list, &tlv)) {
        lua_pushfstring(L, "%d=", (int)tlv.type);
        lua_pushlstring(L, (const char *)tlv.value, tlv.len);
        lua_concat(L, 2);
        lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    }
    lua_setfield(L, -2, "tlvs");
}

/* read(bytes) → "more" | "complete", header | "refused", refusal, detail. The bytes lie in memory of exactly
 * their size, for the sanitizer's sake. */
static int
proxy_read(lua_State *L)
{
    static const char *const refusals[] = {"none", "malformed", "oversize"};
    size_t len;
    const char *bytes = luaL_checklstring(L, 1, &len);
    unsigned char *copy = mg_malloc(len > 0 ? len : 1);
    struct mg_proxy_header header;
    int results = 1;

    memcpy(copy, bytes, len);
    switch (mg_proxy_read(copy, len, &header)) {
    case MG_PROXY_MORE:
        lua_pushliteral(L, "more");
        break;
    case MG_PROXY_COMPLETE:
        lua_pushliteral(L, "complete");
        header_push(L, &header);
        results = 2;
        break;
    case MG_PROXY_REFUSED:
        lua_pushliteral(L, "refused");
        lua_pushstring(L, refusals[header.refusal]);
        lua_pushstring(L, header.detail);
        results = 3;
        break;
    }
    mg_free(copy);
    return results;
}

/* The address at idx ("1.2.3.4:5", "unix:/x", nil: none). */
static void
addr_get(lua_State *L, int idx, struct mg_addr *out)
{
    struct mg_endpoint ep;
    struct mg_err err;

    memset(out, 0, sizeof(*out));
    if (lua_isnoneornil(L, idx))
        return;
    if (mg_endpoint_parse(&ep, luaL_checkstring(L, idx), false, &err) != 0)
        luaL_error(L, "%s", err.text);
    *out = ep.addr;
}

static int
bytes_push(lua_State *L, struct mg_buf *out)
{
    lua_pushlstring(L, out->data != NULL ? out->data : "", out->len);
    mg_buf_free(out);
    return 1;
}

/* write(version, source, destination, { [type] = value }[, { client=, verify=, [type] = value }]) → bytes,
 * or nil: too long */
static int
proxy_write(lua_State *L)
{
    struct mg_addr source, destination;
    struct mg_buf out = {0};
    int rc = 0;

    addr_get(L, 2, &source);
    addr_get(L, 3, &destination);
    if (luaL_checkinteger(L, 1) == 1) {
        mg_proxy_write_v1(&out, &source, &destination);
        return bytes_push(L, &out);
    }
    if (!mg_proxy_v2_begin(&out, &source, &destination))
        return bytes_push(L, &out);
    for (unsigned type = 0; lua_istable(L, 4) && type < 256; type++) {
        if (lua_rawgeti(L, 4, type) == LUA_TSTRING)
            mg_proxy_v2_tlv(&out, type, lua_tostring(L, -1), lua_rawlen(L, -1));
        lua_pop(L, 1);
    }
    if (lua_istable(L, 5)) {
        size_t begun;

        lua_getfield(L, 5, "client");
        lua_getfield(L, 5, "verify");
        begun = mg_proxy_v2_ssl_begin(&out, (unsigned)lua_tointeger(L, -2),
                                      (uint32_t)lua_tointeger(L, -1));
        for (unsigned type = 0; type < 256; type++) {
            if (lua_rawgeti(L, 5, type) == LUA_TSTRING)
                mg_proxy_v2_tlv(&out, type, lua_tostring(L, -1), lua_rawlen(L, -1));
            lua_pop(L, 1);
        }
        mg_proxy_v2_ssl_end(&out, begun);
    }
    rc = mg_proxy_v2_end(&out);
    if (rc == 0)
        return bytes_push(L, &out);
    mg_buf_free(&out);
    lua_pushnil(L);
    return 1;
}

/* write_own(version, local, peer) → bytes */
static int
proxy_write_own(lua_State *L)
{
    struct mg_addr local, peer;
    struct mg_buf out = {0};

    addr_get(L, 2, &local);
    addr_get(L, 3, &peer);
    mg_proxy_write_own(&out, (unsigned)luaL_checkinteger(L, 1), &local, &peer);
    return bytes_push(L, &out);
}

/* network(text[, address]) → canonical text, whether it was inexact, whether the address is in it; or nil,
 * error */
static int
network(lua_State *L)
{
    struct mg_cidr cidr;
    struct mg_addr addr;
    struct mg_err err;
    char text[MG_CIDR_TEXT];

    if (mg_cidr_parse(&cidr, luaL_checkstring(L, 1), &err) != 0) {
        lua_pushnil(L);
        lua_pushstring(L, err.text);
        return 2;
    }
    addr_get(L, 2, &addr);
    lua_pushstring(L, mg_cidr_text(&cidr, text));
    lua_pushboolean(L, cidr.inexact);
    lua_pushboolean(L, mg_cidr_contains(&cidr, &addr));
    return 3;
}

int
mgtest_proxy(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"read", proxy_read}, {"write", proxy_write}, {"write_own", proxy_write_own},
        {"network", network}, {NULL, NULL},
    };

    luaL_newlib(L, functions);
    return 1;
}

/* What of a Backend's options can only be judged together, once all have been given. */
#include "script/internal.h"

#include <stdlib.h>
#include <string.h>

/* Raises "script.lua:12: backend: web: " and what is wrong. */
static MG_NORETURN void
backend_error(lua_State *L, int idx, const char *fmt, ...)
{
    va_list args;

    mg_option_push(L, idx, MG_WHERE);
    mg_option_push(L, idx, "name");
    va_start(args, fmt);
    lua_pushvfstring(L, fmt, args);
    va_end(args);
    lua_pushfstring(L, "%sbackend: %s: %s", lua_tostring(L, -3), lua_tostring(L, -2),
                    lua_tostring(L, -1));
    lua_error(L);
    abort(); /* not reached */
}

/* A name says nothing without TLS, and a unix socket has none that its certificate could be verified for. */
static void
servername_check(lua_State *L, int idx)
{
    struct mg_ssl_context_facts facts = {.verify_hostname = false};
    int top = lua_gettop(L);
    bool has_tls = mg_option_push(L, idx, "tls") != LUA_TNIL;
    bool has_name = mg_option_push(L, idx, "servername") != LUA_TNIL;

    if (has_name && !has_tls)
        backend_error(L, idx,
                      "servername: the backend has no tls, which is what sends and verifies it "
                      "(tls = true, or an SSLContext)");
    if (has_tls)
        mg_ssl_context_facts(L, top + 1, &facts);
    if (facts.verify_hostname && !has_name) {
        mg_option_push(L, idx, "address");
        for (lua_Integer i = 1; lua_rawgeti(L, top + 3, i) == LUA_TSTRING; i++) {
            if (strncmp(lua_tostring(L, -1), "unix:", 5) == 0)
                backend_error(L, idx, "%s has no name to verify: servername is required",
                              lua_tostring(L, -1));
            lua_pop(L, 1);
        }
    }
    lua_settop(L, top);
}

/* Whether connections to such an address can come from the source; names may have records of any family. */
static bool
source_suits(const struct mg_addr *source, const char *address)
{
    struct mg_endpoint ep;
    struct mg_err ignored;

    if (mg_endpoint_parse(&ep, address, false, &ignored) != 0)
        return true;                                   /* said elsewhere */
    if (ep.kind != MG_ENDPOINT_IP || source->len == 0) /* the client's own */
        return ep.kind != MG_ENDPOINT_UNIX;
    return ep.addr.u.sa.sa_family == source->u.sa.sa_family;
}

/* There must be an address that the source is of use for. */
static void
source_check(lua_State *L, int idx)
{
    struct mg_addr source = {0};
    int top = lua_gettop(L);
    bool suits = mg_option_push(L, idx, "source") != LUA_TSTRING;

    if (!suits && strcmp(lua_tostring(L, top + 1), MG_SOURCE_CLIENT) != 0)
        mg_addr_parse_ip(&source, lua_tostring(L, top + 1)); /* it has been checked */
    mg_option_push(L, idx, "address");
    for (lua_Integer i = 1; !suits && lua_rawgeti(L, top + 2, i) == LUA_TSTRING; i++) {
        suits = source_suits(&source, lua_tostring(L, -1));
        lua_settop(L, top + 2);
    }
    if (!suits && source.len == 0)
        backend_error(L, idx, "source: none of the addresses is an IP address");
    if (!suits)
        backend_error(L, idx, "source: %s is an IPv%d address, and none of the backend's is",
                      lua_tostring(L, top + 1), source.u.sa.sa_family == AF_INET ? 4 : 6);
    lua_settop(L, top);
}

/* Only a v2 header carries TLVs. */
static void
proxy_check(lua_State *L, int idx)
{
    int top = lua_gettop(L);

    if (mg_option_push(L, idx, "proxy_tlvs") != LUA_TNIL &&
        (mg_option_push(L, idx, "send_proxy") != LUA_TSTRING ||
         strcmp(lua_tostring(L, -1), "v2") != 0))
        backend_error(L, idx,
                      "proxy_tlvs: only a header of version 2 carries them: send_proxy = \"v2\"");
    lua_settop(L, top);
}

/* A probe shakes hands as connections do, or says why not. */
static void
health_check(lua_State *L, int idx)
{
    int top = lua_gettop(L);
    bool plain = mg_option_push(L, idx, "tls") == LUA_TNIL;

    if (mg_option_push(L, idx, "health") == LUA_TTABLE &&
        lua_getfield(L, -1, "kind") == LUA_TSTRING && plain &&
        strcmp(lua_tostring(L, -1), "tls") == 0)
        backend_error(L, idx, "health: kind = \"tls\" needs the backend's tls");
    lua_settop(L, top);
}

void
mg_backend_check(lua_State *L, int idx)
{
    health_check(L, idx);
    servername_check(L, idx);
    proxy_check(L, idx);
    source_check(L, idx);
}

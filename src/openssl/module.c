/*
 * module: moongate.openssl as scripts see it: SSL, X509, PKey, handshake and errors.
 */
#include "openssl/internal.h"

#include <openssl/crypto.h>

static int
module_fill(lua_State *L)
{
    lua_newtable(L);

    lua_newtable(L);
    mg_open_ssl_constants(L);
    mg_open_ssl_identity(L);
    mg_open_ssl_context(L);
    lua_setfield(L, -2, "SSLContext");
    mg_open_ssl_session(L);
    lua_setfield(L, -2, "Session");
    mg_open_connection(L);
    mg_open_ssl_profiles(L);
    lua_setfield(L, -2, "PROFILES");
    lua_setfield(L, -2, "SSL");

    mg_open_x509(L);
    lua_setfield(L, -2, "X509");

    mg_open_pkey(L);
    lua_setfield(L, -2, "PKey");

    mg_function_push(L, "openssl.handshake", mg_lua_handshake);
    lua_setfield(L, -2, "handshake");
    mg_function_push(L, "openssl.errors", mg_lua_errors);
    lua_setfield(L, -2, "errors");

    lua_pushstring(L, OpenSSL_version(OPENSSL_VERSION));
    lua_setfield(L, -2, "OPENSSL_LIBRARY_VERSION");
    lua_pushinteger(L, (lua_Integer)OpenSSL_version_num());
    lua_setfield(L, -2, "OPENSSL_VERSION_NUMBER");
    lua_pushliteral(L, MG_VERSION);
    lua_setfield(L, -2, "VERSION");
    mg_names_close(L, "openssl");
    return 1;
}

__attribute__((visibility("default"))) int
luaopen_moongate_openssl(lua_State *L)
{
#ifdef MG_GC_STRESS
    lua_gc(L, LUA_GCSETPAUSE, 0);
#endif
    mg_openssl_hooks(L); /* makes the state first, so that lua_close frees it last */
    return module_fill(L);
}

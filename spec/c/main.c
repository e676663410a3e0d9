#include "mgtest.h"

__attribute__((visibility("default"))) int luaopen_mgtest(lua_State *L);

int
luaopen_mgtest(lua_State *L)
{
    static const luaL_Reg rooms[] = {
        {"base", mgtest_base},       {"snapshot", mgtest_snapshot}, {"ipc", mgtest_ipc},
        {"tls", mgtest_tls},         {"net", mgtest_net},           {"engine", mgtest_engine},
        {"cache", mgtest_cache},     {"names", mgtest_names},       {"proxy", mgtest_proxy},
        {"balance", mgtest_balance},
    };
    lua_newtable(L);
    for (size_t i = 0; i < MG_ARRAY_LEN(rooms); i++) {
        if (rooms[i].func == NULL)
            continue;
        lua_pushcfunction(L, rooms[i].func);
        lua_call(L, 0, 1);
        lua_setfield(L, -2, rooms[i].name);
    }
    return 1;
}

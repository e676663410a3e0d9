/* The test-only Lua module mgtest: what specs may see of the C rooms. One file and function per room. */
#ifndef MGTEST_H
#define MGTEST_H

#include "base/base.h"

#include <lauxlib.h>
#include <lua.h>

/* Each pushes a table of functions. Weak, so that one room can be worked on without the others. */
int mgtest_base(lua_State *L) __attribute__((weak));
int mgtest_cache(lua_State *L) __attribute__((weak));
int mgtest_snapshot(lua_State *L) __attribute__((weak));
int mgtest_ipc(lua_State *L) __attribute__((weak));
int mgtest_tls(lua_State *L) __attribute__((weak));
int mgtest_ring(lua_State *L);    /* of tls: makes a ring */
int mgtest_records(lua_State *L); /* of tls: see records.c */
int mgtest_net(lua_State *L) __attribute__((weak));
int mgtest_engine(lua_State *L) __attribute__((weak));
int mgtest_names(lua_State *L) __attribute__((weak));
int mgtest_proxy(lua_State *L) __attribute__((weak));
int mgtest_balance(lua_State *L) __attribute__((weak));

#endif

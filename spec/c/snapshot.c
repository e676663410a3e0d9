#include "mgtest.h"

#include "snapshot/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int
error_push(lua_State *L, const struct mg_err *err)
{
    lua_pushnil(L);
    lua_pushstring(L, err->text);
    return 2;
}

/* write({ { kind, key, value }, ... }[, fail_at]) → fd, or nil, error */
static int
write_(lua_State *L)
{
    struct mg_err err;
    luaL_checktype(L, 1, LUA_TTABLE);
    mg_alloc_fail_at((long)luaL_optinteger(L, 2, 0));
    struct mg_snapshot_writer *w = mg_snapshot_writer_new(&err);
    for (lua_Integer i = 1; w != NULL && lua_rawgeti(L, 1, i) == LUA_TTABLE; i++) {
        size_t key_len, value_len;
        lua_rawgeti(L, -1, 1);
        lua_rawgeti(L, -2, 2);
        lua_rawgeti(L, -3, 3);
        const char *key = lua_tolstring(L, -2, &key_len);
        const char *value = lua_tolstring(L, -1, &value_len);
        mg_snapshot_writer_add(w, (enum mg_record)lua_tointeger(L, -3), key, key_len, value,
                               value_len);
        if (!mg_snapshot_writer_has(w, (enum mg_record)lua_tointeger(L, -3), key, key_len) &&
            luaL_optinteger(L, 2, 0) == 0)
            luaL_error(L, "a record that was added is not there");
        lua_pop(L, 4);
    }
    int fd = w != NULL ? mg_snapshot_writer_seal(w, &err) : -1;
    mg_alloc_fail_at(0);
    if (fd < 0)
        return error_push(L, &err);
    lua_pushinteger(L, fd);
    return 1;
}

/* file(bytes) → fd of an unsealed file with that content */
static int
file(lua_State *L)
{
    size_t len;
    const char *bytes = luaL_checklstring(L, 1, &len);
    int fd = memfd_create("spec", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || mg_fd_write_all(fd, bytes, len) != 0)
        return luaL_error(L, "memfd: %s", strerror(errno));
    lua_pushinteger(L, fd);
    return 1;
}

/* bytes(fd) → its content */
static int
bytes(lua_State *L)
{
    int fd = (int)luaL_checkinteger(L, 1);
    struct mg_buf out = {0};
    struct mg_err err;
    lseek(fd, 0, SEEK_SET);
    if (mg_fd_read_all(fd, &out, 1u << 30, &err) != 0)
        return luaL_error(L, "%s", err.text);
    lua_pushlstring(L, out.data != NULL ? out.data : "", out.len);
    mg_buf_free(&out);
    return 1;
}

/* change(fd) → whether a byte can be written, the file cut, or made longer */
static int
change(lua_State *L)
{
    int fd = (int)luaL_checkinteger(L, 1);
    struct stat st;
    fstat(fd, &st);
    lua_pushboolean(L, pwrite(fd, "x", 1, 0) == 1 || ftruncate(fd, st.st_size / 2) == 0 ||
                           ftruncate(fd, st.st_size * 2) == 0 ||
                           fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0);
    return 1;
}

static int
close_(lua_State *L)
{
    close((int)luaL_checkinteger(L, 1));
    return 0;
}

/* read(fd, require_seals[, fail_at]) → { { kind, key, value }, ... } in order, by kind; or nil, error */
static int
read_(lua_State *L)
{
    struct mg_err err;
    mg_alloc_fail_at((long)luaL_optinteger(L, 3, 0));
    struct mg_snapshot *s =
        mg_snapshot_open((int)luaL_checkinteger(L, 1), lua_toboolean(L, 2), &err);
    mg_alloc_fail_at(0);
    if (s == NULL)
        return error_push(L, &err);
    lua_newtable(L);
    for (int kind = 0; kind < 64; kind++) {
        struct mg_span key, value, found;
        for (size_t cursor = 0; mg_snapshot_next(s, (enum mg_record)kind, &cursor, &key, &value);) {
            lua_createtable(L, 4, 0);
            lua_pushinteger(L, kind);
            lua_rawseti(L, -2, 1);
            lua_pushlstring(L, key.data, key.len);
            lua_rawseti(L, -2, 2);
            lua_pushlstring(L, value.data, value.len);
            lua_rawseti(L, -2, 3);
            lua_pushboolean(L,
                            mg_snapshot_find(s, (enum mg_record)kind, key.data, key.len, &found) &&
                                found.data == value.data);
            lua_setfield(L, -2, "found");
            lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
        }
    }
    struct mg_span none;
    if (mg_snapshot_find(s, MG_RECORD_FILE, "no such key", 11, &none))
        luaL_error(L, "found what is not there");
    mg_snapshot_close(s);
    return 1;
}

/* identity(path) */
static int
identity(lua_State *L)
{
    struct stat st;
    char text[MG_WATCH_IDENTITY];
    mg_watch_identity(stat(luaL_checkstring(L, 1), &st) == 0 ? &st : NULL, text);
    lua_pushstring(L, text);
    return 1;
}

int
mgtest_snapshot(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"write", write_},  {"read", read_},   {"file", file},         {"bytes", bytes},
        {"change", change}, {"close", close_}, {"identity", identity}, {NULL, NULL},
    };
    luaL_newlib(L, functions);
    return 1;
}

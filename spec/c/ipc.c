#include "mgtest.h"

#include "ipc/ipc.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* ---- blocking -------------------------------------------------------------------------------- */

static int
pair(lua_State *L)
{
    int fds[2];
    struct mg_err err;
    if (mg_ipc_pair(fds, &err) != 0)
        return luaL_error(L, "%s", err.text);
    lua_pushinteger(L, fds[0]);
    lua_pushinteger(L, fds[1]);
    return 2;
}

static int
close_(lua_State *L)
{
    close((int)luaL_checkinteger(L, 1));
    return 0;
}

static size_t
fds_of(lua_State *L, int idx, int fds[MG_IPC_FDS + 8])
{
    size_t count = 0;
    if (lua_istable(L, idx))
        for (lua_Integer i = 1; count < MG_IPC_FDS + 8 && lua_rawgeti(L, idx, i) == LUA_TNUMBER;
             i++) {
            fds[count++] = (int)lua_tointeger(L, -1);
            lua_pop(L, 1);
        }
    lua_settop(L, 5);
    return count;
}

/* raw(fd, bytes, fds): one packet as it is */
static int
raw(lua_State *L)
{
    int fds[MG_IPC_FDS + 8];
    size_t len;
    const char *bytes = luaL_checklstring(L, 2, &len);
    size_t count = fds_of(L, 3, fds);
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(fds))];
    } control;
    memset(&control, 0, sizeof(control));
    struct iovec part = {.iov_len = len};
    memcpy(&part.iov_base, &bytes, sizeof(bytes));
    struct msghdr msg = {.msg_iov = &part, .msg_iovlen = 1};
    if (count > 0) {
        msg.msg_control = control.space;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * count);
    }
    lua_pushboolean(L, sendmsg((int)luaL_checkinteger(L, 1), &msg, MSG_NOSIGNAL) >= 0);
    return 1;
}

/* send(fd, type, number, payload, fds) → true, or nil, error */
static int
send_(lua_State *L)
{
    int fds[MG_IPC_FDS + 8];
    size_t len;
    struct mg_err err;
    const char *data = luaL_checklstring(L, 4, &len);
    size_t count = fds_of(L, 5, fds);
    if (mg_ipc_send_blocking((int)luaL_checkinteger(L, 1), (uint32_t)luaL_checkinteger(L, 2),
                             (uint64_t)luaL_checkinteger(L, 3), data, len, fds, count, &err) != 0) {
        lua_pushnil(L);
        lua_pushstring(L, err.text);
        return 2;
    }
    lua_pushboolean(L, true);
    return 1;
}

/* Pushes { type=, number=, data=, fds= } and takes the descriptors. */
static void
message_push(lua_State *L, struct mg_msg *msg)
{
    lua_createtable(L, 0, 4);
    lua_pushinteger(L, msg->type);
    lua_setfield(L, -2, "type");
    lua_pushinteger(L, (lua_Integer)msg->number);
    lua_setfield(L, -2, "number");
    lua_pushlstring(L, msg->data, msg->len);
    lua_setfield(L, -2, "data");
    lua_newtable(L);
    for (size_t i = 0; i < msg->fd_count; i++) {
        lua_pushinteger(L, msg->fds[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
        msg->fds[i] = -1;
    }
    lua_setfield(L, -2, "fds");
}

/* receive(fd, timeout_ms) → message, or false at the end, or nil, error */
static int
receive(lua_State *L)
{
    struct mg_msg msg;
    struct mg_buf buf = {0};
    struct mg_err err;
    int got = mg_ipc_receive_blocking((int)luaL_checkinteger(L, 1), &msg, &buf,
                                      (int)luaL_checkinteger(L, 2), &err);
    if (got == 1)
        message_push(L, &msg);
    else if (got == 0)
        lua_pushboolean(L, false);
    else
        lua_pushnil(L);
    mg_buf_free(&buf);
    if (got >= 0)
        return 1;
    lua_pushstring(L, err.text);
    return 2;
}

/* field(payload, key[, cap]) → value or nil */
static int
field(lua_State *L)
{
    char out[256];
    struct mg_msg msg = {0};
    msg.data = luaL_checklstring(L, 1, &msg.len);
    size_t cap = (size_t)luaL_optinteger(L, 3, sizeof(out));
    if (mg_msg_field(&msg, luaL_checkstring(L, 2), out, cap))
        lua_pushstring(L, out);
    else
        lua_pushnil(L);
    return 1;
}

/* ---- a channel on a loop of its own ---------------------------------------------------------- */

struct channel {
    uv_loop_t loop;
    struct mg_ipc ipc;
    lua_State *L; /* during turn; the list of messages is its top */
    const char *lost;
    bool open, closed, close_in_message;
};

static void
on_close(struct mg_ipc *ipc)
{
    struct channel *ch = ipc->data;
    ch->closed = true;
}

static void
on_message(struct mg_ipc *ipc, struct mg_msg *msg)
{
    struct channel *ch = ipc->data;
    message_push(ch->L, msg);
    lua_rawseti(ch->L, -2, (lua_Integer)lua_rawlen(ch->L, -2) + 1);
    if (ch->close_in_message)
        mg_ipc_close(ipc, on_close);
}

static void
on_lost(struct mg_ipc *ipc, const char *why)
{
    struct channel *ch = ipc->data;
    ch->lost = why;
}

/* open(fd[, close_in_message]) → channel, which owns fd */
static int
open_(lua_State *L)
{
    static const struct mg_ipc_ops ops = {on_message, on_lost, false};
    struct mg_err err;
    bool close_in_message = lua_toboolean(L, 2);
    struct channel *ch = lua_newuserdatauv(L, sizeof(*ch), 0);
    memset(ch, 0, sizeof(*ch));
    luaL_setmetatable(L, "mgtest.channel");
    ch->close_in_message = close_in_message;
    uv_loop_init(&ch->loop);
    if (mg_ipc_open(&ch->ipc, &ch->loop, (int)luaL_checkinteger(L, 1), &ops, ch, &err) != 0)
        return luaL_error(L, "%s", err.text);
    ch->open = true;
    return 1;
}

static struct channel *
channel_of(lua_State *L)
{
    return luaL_checkudata(L, 1, "mgtest.channel");
}

/* channel:send(type, number, payload, fds[, fail_at]) → boolean */
static int
channel_send(lua_State *L)
{
    int fds[MG_IPC_FDS + 8];
    size_t len;
    struct channel *ch = channel_of(L);
    long fail_at = (long)luaL_optinteger(L, 6, 0);
    const char *data = luaL_checklstring(L, 4, &len);
    size_t count = fds_of(L, 5, fds);
    mg_alloc_fail_at(fail_at);
    lua_pushboolean(L, mg_ipc_send(&ch->ipc, (uint32_t)luaL_checkinteger(L, 2),
                                   (uint64_t)luaL_checkinteger(L, 3), data, len, fds, count) == 0);
    mg_alloc_fail_at(0);
    return 1;
}

/* channel:turn() → messages, why it was lost or nil */
static int
channel_turn(lua_State *L)
{
    struct channel *ch = channel_of(L);
    lua_newtable(L);
    ch->L = L;
    uv_run(&ch->loop, UV_RUN_NOWAIT);
    ch->L = NULL;
    lua_pushstring(L, ch->lost);
    return 2;
}

/* channel:waiting() → whether packets wait for the socket */
static int
channel_waiting(lua_State *L)
{
    lua_pushboolean(L, channel_of(L)->ipc.queue != NULL);
    return 1;
}

/* channel:close() → true when on_close came and the loop has nothing left */
static int
channel_close(lua_State *L)
{
    struct channel *ch = channel_of(L);
    if (!ch->open)
        return 0;
    ch->open = false;
    mg_ipc_close(&ch->ipc, on_close);
    mg_ipc_close(&ch->ipc, on_close);
    uv_run(&ch->loop, UV_RUN_DEFAULT);
    lua_pushboolean(L, ch->closed && uv_loop_close(&ch->loop) == 0);
    return 1;
}

int
mgtest_ipc(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"pair", pair},       {"close", close_}, {"raw", raw},    {"send", send_},
        {"receive", receive}, {"field", field},  {"open", open_}, {NULL, NULL},
    };
    static const luaL_Reg methods[] = {
        {"send", channel_send},   {"turn", channel_turn},  {"waiting", channel_waiting},
        {"close", channel_close}, {"__gc", channel_close}, {NULL, NULL},
    };
    luaL_newmetatable(L, "mgtest.channel");
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    luaL_newlib(L, functions);
    lua_pushinteger(L, MG_IPC_MAX);
    lua_setfield(L, -2, "MAX");
    return 1;
}

/* net for specs: a stream whose socket takes no more. */
#include "mgtest.h"
#include "net/net.h"

#include <string.h>
#include <unistd.h>

struct prefixed {
    uv_loop_t loop;
    struct mg_net net;
    struct mg_stream stream;
    struct mg_buf got;
    uv_idle_t idle;
    int other; /* the end that reads */
};

static void
on_drain(struct mg_stream *stream)
{
    (void)stream;
}

static void
on_error(struct mg_stream *stream, int error)
{
    (void)stream;
    (void)error;
}

static void
on_close(struct mg_stream *stream)
{
    (void)stream;
}

static void
on_net_close(struct mg_net *net)
{
    (void)net;
}

/* What the other end has, some bytes per turn, so that there is room again and again; then all is closed. */
static void
on_idle(uv_idle_t *idle)
{
    struct prefixed *p = idle->data;
    char part[64];
    ssize_t got = recv(p->other, part, sizeof(part), MSG_DONTWAIT);

    if (got > 0)
        mg_buf_add(&p->got, part, (size_t)got);
    if (got > 0 || p->stream.writing)
        return;
    mg_stream_close(&p->stream, false);
    uv_close((uv_handle_t *)idle, NULL);
    mg_net_close(&p->net, on_net_close);
}

/* prefixed(filler, prefix, data[, flush]) → all that the other end has got, how the write was answered: the
 * socket is filled with `filler` over and over until it takes no more; then there is a prefix and a write,
 * or a flush first. */
static int
prefixed(lua_State *L)
{
    static const struct mg_stream_ops ops = {
        .on_drain = on_drain, .on_error = on_error, .on_close = on_close};
    size_t filler_len, prefix_len, data_len;
    const char *filler = luaL_checklstring(L, 1, &filler_len);
    const char *prefix = luaL_checklstring(L, 2, &prefix_len);
    const char *data = luaL_checklstring(L, 3, &data_len);
    struct prefixed p = {.other = -1};
    int pair[2], small = 1, rc = 0;
    struct mg_err err;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0)
        return luaL_error(L, "socketpair");
    setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    uv_loop_init(&p.loop);
    mg_net_init(&p.net, &p.loop, &err);
    p.other = pair[1];
    mg_stream_accept(&p.stream, &p.net, pair[0], true, &ops, &p);
    while (filler_len > 0 && send(pair[0], filler, filler_len, MSG_NOSIGNAL) > 0)
        ;
    mg_stream_prefix(&p.stream, prefix, prefix_len);
    if (lua_toboolean(L, 4))
        mg_stream_flush(&p.stream);
    if (data_len > 0)
        rc = mg_stream_write(&p.stream, data, data_len);
    uv_idle_init(&p.loop, &p.idle);
    p.idle.data = &p;
    uv_idle_start(&p.idle, on_idle);
    mg_net_run(&p.net);
    close(p.other);
    lua_pushlstring(L, p.got.data != NULL ? p.got.data : "", p.got.len);
    lua_pushinteger(L, rc);
    lua_pushboolean(L, uv_loop_close(&p.loop) == 0);
    mg_buf_free(&p.got);
    return 3;
}

int
mgtest_net(lua_State *L)
{
    static const luaL_Reg functions[] = {{"prefixed", prefixed}, {NULL, NULL}};

    luaL_newlib(L, functions);
    return 1;
}

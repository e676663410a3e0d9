/* What all streams of a loop share: the read unit, and the list of those that wait for the next
 * turn. */
#include "net/internal.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

void
mg_net_keepalive(int fd, unsigned delay_s)
{
    int delay = (int)delay_s, on = delay_s > 0;

    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    if (on)
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &delay, sizeof(delay));
}

void
mg_net_hold(struct mg_net *net)
{
    net->live++;
}

void
mg_net_release(struct mg_net *net)
{
    net->live--;
    if (net->live > 0 || !net->closing)
        return;
    mg_free(net->unit);
    net->unit = NULL;
    net->on_close(net);
}

/*
 * Check callbacks run after reading and before close callbacks, so a stream that was closed since
 * it was put on the list still has its memory here.
 */
static void
on_check(uv_check_t *check)
{
    struct mg_net *net = check->data;
    struct mg_stream *s = net->paused;

    net->paused = NULL;
    uv_check_stop(check);
    while (s != NULL) {
        struct mg_stream *next = s->paused_next;

        s->paused = false;
        s->paused_next = NULL;
        s = next;
    }
}

void
mg_net_pause(struct mg_net *net, struct mg_stream *s)
{
    s->paused = true;
    s->paused_next = net->paused;
    net->paused = s;
    uv_check_start(&net->check, on_check);
}

int
mg_net_init(struct mg_net *net, uv_loop_t *loop, struct mg_err *err)
{
    memset(net, 0, sizeof(*net));
    net->loop = loop;
    net->unit = mg_malloc(MG_NET_UNIT);
    if (net->unit == NULL) {
        mg_err_setx(err, "read unit: out of memory");
        return -1;
    }
    uv_check_init(loop, &net->check);
    net->check.data = net;
    net->live = 1;
    return 0;
}

static void
on_check_close(uv_handle_t *handle)
{
    mg_net_release(handle->data);
}

void
mg_net_close(struct mg_net *net, void (*on_close)(struct mg_net *net))
{
    net->closing = true;
    net->on_close = on_close;
    uv_close((uv_handle_t *)&net->check, on_check_close);
}

/* What all streams of a loop share: the read unit, the list of those that wait for the next turn, and
 * that of those whose owners are to hear of their close. */
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

/* ---- lists ----------------------------------------------------------------------------------- */

static void
due_add(struct mg_stream **head, struct mg_stream *s)
{
    s->next = *head;
    s->pprev = head;
    if (s->next != NULL)
        s->next->pprev = &s->next;
    *head = s;
}

static void
due_remove(struct mg_stream *s)
{
    if (s->pprev == NULL)
        return;
    *s->pprev = s->next;
    if (s->next != NULL)
        s->next->pprev = s->pprev;
    s->next = NULL;
    s->pprev = NULL;
}

/* Idle callbacks run once per turn, before libuv asks the kernel: who becomes due meanwhile has to wait
 * for the next one. */
static void
on_idle(uv_idle_t *idle)
{
    struct mg_net *net = idle->data;
    struct mg_stream *now = net->due;

    net->due = NULL;
    if (now != NULL)
        now->pprev = &now;
    while (now != NULL) {
        struct mg_stream *s = now;

        due_remove(s);
        mg_stream_due(s);
    }
    if (net->due == NULL)
        uv_idle_stop(&net->idle);
}

void
mg_net_due(struct mg_net *net, struct mg_stream *s)
{
    if (s->pprev != NULL)
        return;
    due_add(&net->due, s);
    uv_idle_start(&net->idle, on_idle);
}

/* ---- closing --------------------------------------------------------------------------------- */

static void sweep_later(struct mg_net *net);

/* Close callbacks are the last thing in a turn: nobody has a pointer to these streams in a list of events
 * any more. */
static void
on_sweep(uv_handle_t *handle)
{
    struct mg_net *net = handle->data;
    struct mg_stream *s = net->closed;

    net->closed = NULL;
    net->sweeping = false;
    while (s != NULL) {
        struct mg_stream *next = s->next;

        s->next = NULL;
        if (mg_ready_closed(s)) {
            mg_stream_closed(s);
        } else {
            s->next = net->closed;
            net->closed = s;
        }
        s = next;
    }
    if (net->closed != NULL)
        sweep_later(net);
    mg_net_release(net);
}

static void
sweep_later(struct mg_net *net)
{
    if (net->sweeping)
        return;
    net->sweeping = true;
    mg_net_hold(net);
    uv_idle_init(net->loop, &net->sweeper);
    net->sweeper.data = net;
    uv_close((uv_handle_t *)&net->sweeper, on_sweep);
}

void
mg_net_closed(struct mg_net *net, struct mg_stream *s)
{
    due_remove(s);
    s->next = net->closed;
    net->closed = s;
    sweep_later(net);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void
on_idle_close(uv_handle_t *handle)
{
    mg_net_release(handle->data);
}

int
mg_net_init(struct mg_net *net, uv_loop_t *loop, struct mg_err *err)
{
    int rc;

    memset(net, 0, sizeof(*net));
    net->loop = loop;
    net->unit = mg_malloc(MG_NET_UNIT);
    if (net->unit == NULL) {
        mg_err_setx(err, "read unit: out of memory");
        return -1;
    }
    rc = mg_ready_init(net);
    if (rc < 0) {
        mg_err_setx(err, "epoll: %s", uv_strerror(rc));
        mg_free(net->unit);
        net->unit = NULL;
        return -1;
    }
    uv_idle_init(loop, &net->idle);
    net->idle.data = net;
    mg_net_hold(net);
    return 0;
}

void
mg_net_close(struct mg_net *net, void (*on_close)(struct mg_net *net))
{
    net->closing = true;
    net->on_close = on_close;
    mg_ready_fini(net);
    uv_close((uv_handle_t *)&net->idle, on_idle_close);
}

/* What all streams of a loop share: its turns, the read unit, the list of those that wait for the next turn,
 * and that of those whose owners are to hear of their close. */
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

/* Who becomes due meanwhile has to wait for the next turn. */
static void
due_run(struct mg_net *net)
{
    struct mg_stream *now = net->due;

    net->due = NULL;
    if (now != NULL)
        now->pprev = &now;
    while (now != NULL) {
        struct mg_stream *s = now;

        due_remove(s);
        mg_stream_due(s);
    }
}

void
mg_net_due(struct mg_net *net, struct mg_stream *s)
{
    if (s->pprev != NULL)
        return;
    due_add(&net->due, s);
}

/* Late in a turn: nobody has a pointer to these streams in a list of events any more. */
static void
closed_tell(struct mg_net *net)
{
    struct mg_stream *s = net->closed;

    net->closed = NULL;
    while (s != NULL) {
        struct mg_stream *next = s->next;

        s->next = NULL;
        if (mg_ready_closed(&s->watch)) {
            mg_stream_closed(s);
        } else {
            s->next = net->closed;
            net->closed = s;
        }
        s = next;
    }
}

void
mg_net_closed(struct mg_net *net, struct mg_stream *s)
{
    due_remove(s);
    s->next = net->closed;
    net->closed = s;
}

/* ---- life ------------------------------------------------------------------------------------ */

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
    mg_deadlines_init(net);
    mg_shortage_init(net);
    return 0;
}

static bool
turn(struct mg_net *net, bool busy)
{
    mg_ready_wait(net, busy || net->due != NULL);
    due_run(net);
    closed_tell(net); /* may give on_turn something to do */
    busy = net->on_turn != NULL && net->on_turn(net);
    return busy || net->closed != NULL;
}

void
mg_net_run(struct mg_net *net)
{
    uv_loop_t *loop = net->loop;
    bool busy = true;

    while (!net->closing || net->live > 0)
        busy = turn(net, busy);
    mg_ready_fini(net);
    mg_free(net->unit);
    net->unit = NULL;
    net->on_close(net);
    uv_run(loop, UV_RUN_DEFAULT);
}

void
mg_net_close(struct mg_net *net, void (*on_close)(struct mg_net *net))
{
    net->closing = true;
    net->on_close = on_close;
    mg_deadlines_fini(net);
    mg_resolving_close(net);
    mg_shortage_fini(net);
}

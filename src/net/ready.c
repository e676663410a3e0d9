/*
 * When is a socket ready?
 *
 * On Linux all streams are in one epoll descriptor of their own, edge-triggered, and libuv's loop wakes
 * for that descriptor. A socket is added once and tells every change once; that it closes removes it. So
 * neither stopping and starting to read nor closing costs a system call, of which libuv's streams need
 * six for each connection. Elsewhere each stream has a uv_poll_t, which is told what is waited for.
 */
#include "net/internal.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#ifdef MG_HAVE_EPOLL

#include <sys/epoll.h>

#define EVENTS_PER_TURN 256

static unsigned
events_of(uint32_t e)
{
    unsigned events = 0;

    if (e & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        events |= MG_EVENT_READ;
    if (e & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        events |= MG_EVENT_WRITE;
    if (e & EPOLLERR)
        events |= MG_EVENT_ERROR | MG_EVENT_ASK;
    else if (e & EPOLLRDHUP)
        events |= MG_EVENT_END;
    if (e & EPOLLPRI)
        events |= MG_EVENT_ASK;
    return events;
}

static void
on_ready(uv_poll_t *poll, int status, int flags)
{
    struct mg_net *net = poll->data;
    struct epoll_event events[EVENTS_PER_TURN];
    int count = status < 0 ? 0 : epoll_wait(net->epoll_fd, events, EVENTS_PER_TURN, 0);

    (void)flags;
    for (int i = 0; i < count; i++) { /* what is left makes the descriptor ready again */
        /* Closed ones are still there, and say so: their memory goes at the end of the turn. */
        mg_stream_events(events[i].data.ptr, events_of(events[i].events));
    }
}

static int
control(struct mg_stream *s, int operation)
{
    struct epoll_event event = {
        .events = EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLET | (s->watching_writes ? EPOLLOUT : 0),
        .data.ptr = s,
    };

    return epoll_ctl(s->net->epoll_fd, operation, s->fd, &event) == 0 ? 0 : -errno;
}

int
mg_ready_init(struct mg_net *net)
{
    int rc;

    net->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (net->epoll_fd < 0)
        return -errno;
    rc = uv_poll_init(net->loop, &net->epoll, net->epoll_fd);
    if (rc < 0) {
        close(net->epoll_fd);
        return rc;
    }
    net->epoll.data = net;
    mg_net_hold(net);
    uv_poll_start(&net->epoll, UV_READABLE, on_ready);
    return 0;
}

static void
on_epoll_close(uv_handle_t *handle)
{
    mg_net_release(handle->data);
}

void
mg_ready_fini(struct mg_net *net)
{
    uv_close((uv_handle_t *)&net->epoll, on_epoll_close);
    close(net->epoll_fd);
    net->epoll_fd = -1;
}

/* A socket that is about to connect says so by becoming writable. */
int
mg_ready_open(struct mg_stream *s)
{
    s->watching_writes = !s->connected;
    return control(s, EPOLL_CTL_ADD);
}

/* Most sockets always take all that is written: it is only asked of those that once did not. */
int
mg_ready_update(struct mg_stream *s)
{
    if (s->watching_writes || !s->writing || s->closing)
        return 0;
    s->watching_writes = true;
    return control(s, EPOLL_CTL_MOD);
}

void
mg_ready_close(struct mg_stream *s)
{
    (void)s;
}

bool
mg_ready_closed(const struct mg_stream *s)
{
    (void)s;
    return true;
}

#else

static void
on_ready(uv_poll_t *poll, int status, int flags)
{
    struct mg_stream *s = poll->data;
    unsigned events = 0;

    if (status < 0 || flags & UV_READABLE)
        events |= MG_EVENT_READ;
    if (status < 0 || flags & UV_WRITABLE)
        events |= MG_EVENT_WRITE | MG_EVENT_ERROR; /* perhaps */
    s->polled = status < 0 ? 0 : s->polled;
    mg_stream_events(s, events);
    mg_ready_update(s);
}

int
mg_ready_init(struct mg_net *net)
{
    (void)net;
    return 0;
}

void
mg_ready_fini(struct mg_net *net)
{
    (void)net;
}

int
mg_ready_open(struct mg_stream *s)
{
    int rc = uv_poll_init_socket(s->net->loop, &s->poll, s->fd);

    if (rc < 0)
        return rc;
    s->poll.data = s;
    s->poll_open = true;
    return mg_ready_update(s);
}

/* Level-triggered: what is known to be readable is not asked again before it has been read. */
int
mg_ready_update(struct mg_stream *s)
{
    int wanted = (s->readable || s->eof || !s->connected ? 0 : UV_READABLE) |
                 (s->writing || !s->connected ? UV_WRITABLE : 0);

    if (s->closing || !s->poll_open || wanted == s->polled)
        return 0;
    s->polled = wanted;
    return wanted != 0 ? uv_poll_start(&s->poll, wanted, on_ready) : uv_poll_stop(&s->poll);
}

static void
on_poll_close(uv_handle_t *handle)
{
    struct mg_stream *s = handle->data;

    s->poll_open = false;
}

void
mg_ready_close(struct mg_stream *s)
{
    if (s->poll_open)
        uv_close((uv_handle_t *)&s->poll, on_poll_close);
}

bool
mg_ready_closed(const struct mg_stream *s)
{
    return !s->poll_open;
}

#endif

/*
 * A listening socket that this process shares with others: poll, then accept until there is nobody.
 *
 * The happy path is: open, resume, ready, at most ACCEPTS_PER_TURN times may_accept +
 * accept4 + on_accept, back to the loop. Possible failure modes are: another process was faster
 * (EAGAIN, normal), the owner is full (may_accept: paused until it resumes), no descriptor or
 * memory left (shortage.c), the socket does not listen yet or fails (starved: the timer tries again).
 */
#include "net/internal.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define ACCEPTS_PER_TURN 16
#define STARVED_MS       100
#define NOT_YET_MS       10
#define LOOK_MS          1000
#define FLUSH_MAX        8192 /* a backlog, and as many as come while it is emptied */

static void starve(struct mg_acceptor *a, unsigned ms);
static void on_look(uv_timer_t *timer);

void
mg_acceptor_update(struct mg_acceptor *a)
{
    bool wanted = !a->paused && !a->starved && a->net->short_of == 0;

    if (a->closing)
        return;
    if (mg_ready_listen(a, wanted) < 0)
        starve(a, STARVED_MS);
    else if (wanted)
        uv_timer_start(&a->retry, on_look, LOOK_MS, LOOK_MS);
}

static void
on_retry(uv_timer_t *timer)
{
    struct mg_acceptor *a = timer->data;

    a->starved = false;
    mg_acceptor_update(a);
}

static void
starve(struct mg_acceptor *a, unsigned ms)
{
    a->starved = true;
    mg_ready_listen(a, false);
    uv_timer_start(&a->retry, on_retry, ms, 0);
}

enum accepted { A_ACCEPTED, A_AGAIN, A_NONE, A_LATER };

static enum accepted
accept_failed(struct mg_acceptor *a, int error)
{
    switch (error) {
    case EAGAIN:
        return A_NONE;
    case EINTR:
    case ECONNABORTED: /* gone while it waited; so are the errors that the kernel passes on: */
    case EPROTO:
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENETUNREACH:
        return A_AGAIN;
    case EINVAL:
        starve(a, NOT_YET_MS);
        return A_LATER;
    default:
        if (mg_net_is_short(-error)) {
            mg_net_shortage(a->net, -error);
            return A_LATER;
        }
        if (!a->starvation_said)
            mg_log(MG_LOG_WARN, "accept: %s; trying again every %d ms", strerror(error),
                   STARVED_MS);
        a->starvation_said = true;
        starve(a, STARVED_MS);
        return A_LATER;
    }
}

static enum accepted
accept_one(struct mg_acceptor *a, bool must)
{
    struct mg_addr peer = {.len = sizeof(peer.u)};
    int fd;

    if (!must && a->net->streams > 0 && mg_memory_is_short(a->net)) {
        if (mg_acceptor_is_waited_for(a))
            mg_net_shortage(a->net, UV_ENOMEM);
        return A_LATER;
    }
    if (a->ops->may_accept != NULL && !a->ops->may_accept(a, must) && !must) {
        mg_acceptor_pause(a);
        return A_LATER;
    }
    fd = accept4(a->fd, &peer.u.sa, &peer.len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        int error = errno;
        if (a->ops->accepted_none != NULL)
            a->ops->accepted_none(a);
        return accept_failed(a, error);
    }
    a->starvation_said = false;
    if (mg_ready_accepted(a) < 0)
        starve(a, STARVED_MS);
    a->ops->on_accept(a, fd, &peer);
    mg_net_accepted(a->net, fd);
    return A_ACCEPTED;
}

/* The error is taken off the socket, or it would be there again at once. Whether there was one or not: whoever
 * told us may have stopped polling (libuv does), and begins again after a while. */
static void
socket_failed(struct mg_acceptor *a)
{
    int error = 0;
    socklen_t len = sizeof(error);

    if (getsockopt(a->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        error = errno;
    if (error != 0 && !a->starvation_said)
        mg_log(MG_LOG_WARN, "listening socket: %s; trying again every %d ms", strerror(error),
               STARVED_MS);
    a->starvation_said = a->starvation_said || error != 0;
    starve(a, STARVED_MS);
}

static void
accept_some(struct mg_acceptor *a)
{
    /* Who comes alone is not followed at once by a look for the next one, who would wake us again. */
    uint64_t now = uv_now(a->net->loop);
    int most = now - a->accepted_at <= 1 ? ACCEPTS_PER_TURN : 1;

    a->accepted_at = now;
    for (int i = 0; i < most && !a->closing && !a->paused && a->net->short_of == 0; i++)
        if (accept_one(a, false) > A_AGAIN)
            return;
}

static void
on_ready(struct mg_watch *watch, unsigned events)
{
    struct mg_acceptor *a = MG_CONTAINER_OF(watch, struct mg_acceptor, watch);

    if (a->closing || a->paused || a->starved || a->net->short_of != 0)
        return;
    if (events & MG_EVENT_ERROR)
        socket_failed(a);
    else
        accept_some(a);
}

/* A connection has woken one process, which may since have died, or have run out of descriptors: then it
 * waits for another that looks. */
static void
on_look(uv_timer_t *timer)
{
    accept_some(timer->data);
}

int
mg_acceptor_open(struct mg_acceptor *a, struct mg_net *net, int fd,
                 const struct mg_acceptor_ops *ops, void *data, struct mg_err *err)
{
    struct mg_addr local = {.len = sizeof(local.u)};
    int rc;

    memset(a, 0, sizeof(*a));
    if (getsockname(fd, &local.u.sa, &local.len) != 0) {
        mg_err_set(err, "listening socket");
        close(fd);
        return -1;
    }
    a->watch.ready = on_ready;
    a->net = net;
    a->fd = fd;
    rc = mg_ready_listen_init(a);
    if (rc < 0) {
        mg_err_setx(err, "listening socket: %s", uv_strerror(rc));
        close(fd);
        return -1;
    }
    uv_timer_init(net->loop, &a->retry);
    a->retry.data = a;
    a->ops = ops;
    a->data = data;
    a->is_unix = local.u.sa.sa_family == AF_UNIX;
    a->paused = true;
    a->next = net->acceptors;
    a->pprev = &net->acceptors;
    if (a->next != NULL)
        a->next->pprev = &a->next;
    net->acceptors = a;
    mg_net_hold(net);
    return 0;
}

void
mg_acceptor_set_tcp(struct mg_acceptor *a, bool nodelay, unsigned keepalive_s)
{
    int at_once = nodelay;

    if (a->is_unix)
        return;
    setsockopt(a->fd, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof(at_once));
    mg_net_keepalive(a->fd, keepalive_s);
}

bool
mg_acceptor_is_waited_for(const struct mg_acceptor *a)
{
    struct pollfd fd = {.fd = a->fd, .events = POLLIN};

    return poll(&fd, 1, 0) > 0;
}

void
mg_acceptor_pause(struct mg_acceptor *a)
{
    a->paused = true;
    mg_acceptor_update(a);
}

void
mg_acceptor_resume(struct mg_acceptor *a)
{
    a->paused = false;
    mg_acceptor_update(a);
}

static void
on_flush(uv_timer_t *timer)
{
    struct mg_acceptor *a = timer->data;
    unsigned wait_ms = 0;

    for (int i = 0; i < ACCEPTS_PER_TURN && wait_ms == 0; i++) {
        enum accepted how = a->flush_left-- > 0 ? accept_one(a, true) : A_NONE;

        if (how == A_LATER && a->net->short_of != 0) {
            wait_ms = STARVED_MS;
        } else if (how > A_AGAIN) {
            mg_acceptor_close(a);
            return;
        }
    }
    uv_timer_start(&a->retry, on_flush, wait_ms, 0);
}

void
mg_acceptor_flush(struct mg_acceptor *a)
{
    mg_acceptor_pause(a);
    a->flush_left = FLUSH_MAX;
    uv_timer_start(&a->retry, on_flush, 0, 0);
}

static void
on_close(uv_handle_t *handle)
{
    struct mg_acceptor *a = handle->data;
    struct mg_net *net = a->net;

    if (!mg_ready_closed(&a->watch)) { /* in the next turn */
        uv_timer_init(net->loop, &a->retry);
        uv_close(handle, on_close);
        return;
    }
    a->ops->on_close(a);
    mg_net_release(net);
}

void
mg_acceptor_close(struct mg_acceptor *a)
{
    if (a->closing)
        return;
    a->closing = true;
    mg_ready_listen(a, false);
    mg_ready_close(&a->watch);
    *a->pprev = a->next;
    if (a->next != NULL)
        a->next->pprev = a->pprev;
    uv_close((uv_handle_t *)&a->retry, on_close);
    close(a->fd);
    a->fd = -1;
}

/*
 * A listening socket that this process shares with others: poll, then accept until there is nobody.
 *
 * The happy path is: open, resume, poll callback, at most ACCEPTS_PER_TURN times may_accept +
 * accept4 + on_accept, back to the loop. Possible failure modes are: another process was faster
 * (EAGAIN, normal), the owner is full (may_accept: paused until it resumes), no descriptor or
 * memory left (starved: the timer tries again), the socket does not listen yet (likewise, sooner
 * and silently).
 */
#include "net/internal.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

#define ACCEPTS_PER_TURN 16
#define STARVED_MS       100
#define NOT_YET_MS       10
#define FLUSH_MAX        8192 /* a backlog, and as many as come while it is emptied */

static void on_poll(uv_poll_t *poll, int status, int events);

static void
polling_update(struct mg_acceptor *a)
{
    if (a->closing)
        return;
    if (a->paused || a->starved)
        uv_poll_stop(&a->poll);
    else
        uv_poll_start(&a->poll, UV_READABLE, on_poll);
}

static void
on_retry(uv_timer_t *timer)
{
    struct mg_acceptor *a = timer->data;

    a->starved = false;
    polling_update(a);
}

static void
starve(struct mg_acceptor *a, unsigned ms)
{
    a->starved = true;
    uv_timer_start(&a->retry, on_retry, ms, 0);
    polling_update(a);
}

/* false: no further try now. */
static bool
accept_failed(struct mg_acceptor *a, int error)
{
    switch (error) {
    case EAGAIN:
        return false;
    case EINTR:
    case ECONNABORTED: /* gone while it waited; so are the errors that the kernel passes on: */
    case EPROTO:
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENETUNREACH:
        return true;
    case EINVAL:
        starve(a, NOT_YET_MS);
        return false;
    default:
        if (!a->starvation_said)
            mg_log(MG_LOG_WARN, "accept: %s; trying again every %d ms", strerror(error),
                   STARVED_MS);
        a->starvation_said = true;
        starve(a, STARVED_MS);
        return false;
    }
}

static bool
accept_one(struct mg_acceptor *a, bool must)
{
    struct mg_addr peer = {.len = sizeof(peer.u)};
    int fd;

    if (a->ops->may_accept != NULL && !a->ops->may_accept(a, must) && !must) {
        mg_acceptor_pause(a);
        return false;
    }
    fd = accept4(a->fd, &peer.u.sa, &peer.len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        int error = errno;
        if (a->ops->accepted_none != NULL)
            a->ops->accepted_none(a);
        return accept_failed(a, error);
    }
    a->starvation_said = false;
    a->ops->on_accept(a, fd, &peer);
    return true;
}

/* libuv has stopped polling. The error is taken off the socket, or it would be there again at once. */
static void
poll_failed(struct mg_acceptor *a, int status)
{
    int error = 0;
    socklen_t len = sizeof(error);

    if (getsockopt(a->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error == 0)
        error = -status;
    if (!a->starvation_said)
        mg_log(MG_LOG_WARN, "listening socket: %s; trying again every %d ms", strerror(error),
               STARVED_MS);
    a->starvation_said = true;
    starve(a, STARVED_MS);
}

static void
on_poll(uv_poll_t *poll, int status, int events)
{
    struct mg_acceptor *a = poll->data;
    uint64_t now;
    int most;

    (void)events;
    if (status < 0) {
        poll_failed(a, status);
        return;
    }
    /* Who comes alone is not followed at once by a look for the next one, who would wake us again. */
    now = uv_now(a->net->loop);
    most = now - a->accepted_at <= 1 ? ACCEPTS_PER_TURN : 1;
    a->accepted_at = now;
    for (int i = 0; i < most && !a->closing && !a->paused; i++)
        if (!accept_one(a, false))
            return;
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
    rc = uv_poll_init(net->loop, &a->poll, fd);
    if (rc < 0) {
        mg_err_setx(err, "listening socket: %s", uv_strerror(rc));
        close(fd);
        return -1;
    }
    uv_timer_init(net->loop, &a->retry);
    a->poll.data = a->retry.data = a;
    a->net = net;
    a->ops = ops;
    a->data = data;
    a->fd = fd;
    a->is_unix = local.u.sa.sa_family == AF_UNIX;
    a->paused = true;
    a->live = 2;
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

void
mg_acceptor_pause(struct mg_acceptor *a)
{
    a->paused = true;
    polling_update(a);
}

void
mg_acceptor_resume(struct mg_acceptor *a)
{
    a->paused = false;
    polling_update(a);
}

static void
on_flush(uv_timer_t *timer)
{
    struct mg_acceptor *a = timer->data;

    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        if (a->flush_left-- == 0 || !accept_one(a, true)) {
            mg_acceptor_close(a);
            return;
        }
    }
    uv_timer_start(&a->retry, on_flush, 0, 0);
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

    if (--a->live > 0)
        return;
    a->ops->on_close(a);
    mg_net_release(net);
}

void
mg_acceptor_close(struct mg_acceptor *a)
{
    if (a->closing)
        return;
    a->closing = true;
    uv_close((uv_handle_t *)&a->poll, on_close);
    uv_close((uv_handle_t *)&a->retry, on_close);
    close(a->fd);
    a->fd = -1;
}

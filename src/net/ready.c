/*
 * Which sockets are ready?
 *
 * On Linux all of them are in one epoll descriptor, and so is libuv's: mg_net_run waits here, not in
 * uv_run, which gets its turn when its own descriptor or one of its timers asks for it. Streams are
 * edge-triggered: a socket is added once and tells every change once; that it closes removes it. So neither
 * stopping and starting to read nor closing costs a system call. Listening sockets are exclusive: a
 * connection wakes one of the workers that sleep, not all of them. That is why this is where we wait: a
 * descriptor within libuv's would be woken with all the others.
 *
 * The kernel asks those who wait for a listening socket in the order in which they came, so the first one
 * would get all connections of a quiet time; now and then a worker therefore goes to the end of the line.
 *
 * Elsewhere each socket has a uv_poll_t, which is told what is waited for.
 */
#include "net/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#ifdef MG_HAVE_EPOLL

#include <sys/epoll.h>

#define EVENTS_PER_TURN  256
#define CROWDED_MS       200
#define ACCEPTS_PER_LINE 16

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

/* ms; 0: libuv's loop has something to do now, and be it to register what it is to wait for. */
static int
loop_timeout(const uv_loop_t *loop)
{
    return uv_loop_alive(loop) ? uv_backend_timeout(loop) : -1;
}

/* There is more to be heard than one turn has taken. Timers come behind it, so that none passes of what has been
 * answered in time, but not much later. */
static bool
crowded(struct mg_net *net)
{
    uint64_t now = uv_now(net->loop);

    if (net->crowded_since == 0)
        net->crowded_since = now;
    return now - net->crowded_since < CROWDED_MS;
}

void
mg_ready_wait(struct mg_net *net, bool busy)
{
    struct epoll_event events[EVENTS_PER_TURN];
    int timeout = busy ? 0 : loop_timeout(net->loop);
    int count = epoll_wait(net->epoll_fd, events, EVENTS_PER_TURN, timeout);
    bool loop_ready = false;

    if (count < 0) /* by a signal: what has come is heard before timers all the same */
        count = epoll_wait(net->epoll_fd, events, EVENTS_PER_TURN, 0);
    uv_update_time(net->loop);
    for (int i = 0; i < count; i++) { /* what is left makes the descriptor ready again */
        struct mg_watch *watch = events[i].data.ptr;

        /* Closed ones are still there, and say so: their memory goes later in this turn. */
        if (watch == NULL)
            loop_ready = true;
        else
            watch->ready(watch, events_of(events[i].events));
    }
    if (count == EVENTS_PER_TURN && crowded(net))
        return;
    net->crowded_since = 0;
    if (loop_ready || loop_timeout(net->loop) == 0)
        uv_run(net->loop, UV_RUN_NOWAIT);
}

static int
control(struct mg_net *net, int operation, int fd, uint32_t events, struct mg_watch *watch)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};

    return epoll_ctl(net->epoll_fd, operation, fd, &event) == 0 ? 0 : -errno;
}

int
mg_ready_init(struct mg_net *net)
{
    int rc;

    net->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (net->epoll_fd < 0)
        return -errno;
    rc = control(net, EPOLL_CTL_ADD, uv_backend_fd(net->loop), EPOLLIN, NULL);
    if (rc < 0)
        close(net->epoll_fd);
    return rc;
}

void
mg_ready_fini(struct mg_net *net)
{
    close(net->epoll_fd);
    net->epoll_fd = -1;
}

/* ---- streams --------------------------------------------------------------------------------- */

static int
stream_control(struct mg_stream *s, int operation)
{
    return control(s->net, operation, s->fd,
                   EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLET | (s->watching_writes ? EPOLLOUT : 0),
                   &s->watch);
}

/* A socket that is about to connect says so by becoming writable. */
int
mg_ready_open(struct mg_stream *s)
{
    s->watching_writes = !s->connected;
    return stream_control(s, EPOLL_CTL_ADD);
}

/* Most sockets always take all that is written: it is only asked of those that once did not. */
int
mg_ready_update(struct mg_stream *s)
{
    if (s->watching_writes || !s->writing || s->closing)
        return 0;
    s->watching_writes = true;
    return stream_control(s, EPOLL_CTL_MOD);
}

void
mg_ready_forget(struct mg_stream *s)
{
    stream_control(s, EPOLL_CTL_DEL);
}

void
mg_ready_close(struct mg_watch *watch)
{
    (void)watch;
}

bool
mg_ready_closed(const struct mg_watch *watch)
{
    (void)watch;
    return true;
}

/* ---- listening sockets ----------------------------------------------------------------------- */

/* Whoever was woken may find that another process was faster. */
int
mg_ready_listen_init(struct mg_acceptor *a)
{
    int flags = fcntl(a->fd, F_GETFL);

    if (flags < 0 || fcntl(a->fd, F_SETFL, flags | O_NONBLOCK) != 0)
        return -errno;
    return 0;
}

/* Closing would not remove it: others have the same open socket. */
int
mg_ready_listen(struct mg_acceptor *a, bool wanted)
{
    int rc;

    if (wanted == a->watched)
        return 0;
    a->accepted = 0;
    rc = control(a->net, wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, a->fd, EPOLLIN | EPOLLEXCLUSIVE,
                 &a->watch);
    a->watched = wanted && rc == 0;
    return rc;
}

int
mg_ready_accepted(struct mg_acceptor *a)
{
    if (++a->accepted < ACCEPTS_PER_LINE || !a->watched)
        return 0;
    mg_ready_listen(a, false);
    return mg_ready_listen(a, true);
}

#else

void
mg_ready_wait(struct mg_net *net, bool busy)
{
    uv_run(net->loop, busy ? UV_RUN_NOWAIT : UV_RUN_ONCE);
}

static void
on_poll(uv_poll_t *poll, int status, int flags)
{
    struct mg_watch *watch = poll->data;
    unsigned events = 0;

    if (status < 0)
        watch->polled = 0;
    if (status < 0 || flags & UV_READABLE)
        events |= MG_EVENT_READ;
    if (status < 0 || flags & UV_WRITABLE)
        events |= MG_EVENT_WRITE | MG_EVENT_ERROR; /* perhaps */
    watch->ready(watch, events);
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

static int
watch_open(struct mg_watch *watch, struct mg_net *net, int fd)
{
    int rc = uv_poll_init(net->loop, &watch->poll, fd);

    if (rc < 0)
        return rc;
    watch->poll.data = watch;
    watch->polled = 0;
    watch->open = true;
    return 0;
}

static int
watch_set(struct mg_watch *watch, int wanted)
{
    if (!watch->open || wanted == watch->polled)
        return 0;
    watch->polled = wanted;
    return wanted != 0 ? uv_poll_start(&watch->poll, wanted, on_poll) : uv_poll_stop(&watch->poll);
}

static void
on_poll_close(uv_handle_t *handle)
{
    struct mg_watch *watch = handle->data;

    watch->open = false;
}

void
mg_ready_close(struct mg_watch *watch)
{
    if (watch->open && !uv_is_closing((uv_handle_t *)&watch->poll))
        uv_close((uv_handle_t *)&watch->poll, on_poll_close);
}

bool
mg_ready_closed(const struct mg_watch *watch)
{
    return !watch->open;
}

int
mg_ready_open(struct mg_stream *s)
{
    int rc = watch_open(&s->watch, s->net, s->fd);

    return rc < 0 ? rc : mg_ready_update(s);
}

/* Level-triggered: what is known to be readable is not asked again before it has been read. */
int
mg_ready_update(struct mg_stream *s)
{
    int wanted = (s->readable || s->eof || !s->connected ? 0 : UV_READABLE) |
                 (s->writing || !s->connected ? UV_WRITABLE : 0);

    return s->closing ? 0 : watch_set(&s->watch, wanted);
}

int
mg_ready_listen_init(struct mg_acceptor *a)
{
    return watch_open(&a->watch, a->net, a->fd);
}

void
mg_ready_forget(struct mg_stream *s)
{
    watch_set(&s->watch, 0);
}

int
mg_ready_listen(struct mg_acceptor *a, bool wanted)
{
    a->watched = wanted;
    return watch_set(&a->watch, wanted ? UV_READABLE : 0);
}

int
mg_ready_accepted(struct mg_acceptor *a)
{
    (void)a;
    return 0;
}

#endif

/*
 * A stream over a TCP or a unix socket.
 *
 * The happy path is: accept or connect, read_start, any number of reads and writes, shutdown,
 * on_eof, close. Possible failure modes are: a connect that fails (on_connect), a read or a write
 * that fails (on_error, or the result of mg_stream_write), an owner who closes at any moment – then
 * nothing but on_close reaches the owner.
 *
 * A socket tells once that there is something to read. Until a read comes back short it is `readable`: it
 * is read again, at most one full unit per turn, or when its owner wants to read again. A short read is
 * taken as the last one – what comes later is told again – but not where there is an error to be heard, or
 * urgent data, at which reads stop. Behind the other side's FIN nothing comes: then a short read is the end.
 *
 * Writing tries the socket at once. What it does not take is copied into the stash, and so is what comes
 * while there is one. An idle stream owns no buffer.
 */
#include "net/internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#ifdef MG_HAVE_SIOCOUTQ
#include <linux/sockios.h>
#include <sys/ioctl.h>
#endif
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static void on_ready(struct mg_watch *watch, unsigned events);

/* ---- opening --------------------------------------------------------------------------------- */

static void
stream_open(struct mg_stream *s, struct mg_net *net, int fd, bool is_unix,
            const struct mg_stream_ops *ops, void *data)
{
    memset(s, 0, sizeof(*s));
    s->watch.ready = on_ready;
    s->net = net;
    s->ops = ops;
    s->data = data;
    s->fd = fd;
    s->is_unix = is_unix;
    s->read_max = MG_NET_UNIT;
    s->open = true;
    net->streams++;
    mg_net_hold(net);
}

int
mg_stream_accept(struct mg_stream *s, struct mg_net *net, int fd, bool is_unix,
                 const struct mg_stream_ops *ops, void *data)
{
    stream_open(s, net, fd, is_unix, ops, data);
    s->connected = true;
    return mg_ready_open(s);
}

/* With IP_BIND_ADDRESS_NO_PORT a port is chosen when it is known where to, so that ports are not the
 * source's alone: there are as many connections as for each address that is connected to. */
static int
source_bind(int fd, const struct mg_source *source)
{
    int on = 1, v6 = source->addr.u.sa.sa_family == AF_INET6;

#ifdef MG_HAVE_TRANSPARENT
    if (source->transparent && setsockopt(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP,
                                          v6 ? IPV6_TRANSPARENT : IP_TRANSPARENT, &on, sizeof(on)))
        return -errno;
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
#else
    (void)on;
    (void)v6;
    if (source->transparent)
        return UV_ENOTSUP;
#endif
    return bind(fd, &source->addr.u.sa, source->addr.len) == 0 ? 0 : -errno;
}

int
mg_source_check(const struct mg_source *source)
{
    int fd = socket(source->addr.u.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), rc;

    if (fd < 0)
        return -errno;
    rc = source_bind(fd, source);
    close(fd);
    return rc;
}

/* Connecting UDP sends nothing, and takes none of TCP's ports. */
bool
mg_net_reaches(const struct mg_addr *to)
{
    int fd = socket(to->u.sa.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool reached = fd >= 0 && connect(fd, &to->u.sa, to->len) == 0;

    if (fd >= 0)
        close(fd);
    return reached;
}

bool
mg_net_is_short(int error)
{
    return error == UV_EMFILE || error == UV_ENFILE || error == UV_ENOMEM || error == UV_ENOBUFS;
}

/* A unix socket connects or fails at once. */
int
mg_stream_connect(struct mg_stream *s, struct mg_net *net, const struct mg_addr *addr,
                  const struct mg_source *source, const struct mg_stream_ops *ops, void *data)
{
    int family = addr->u.sa.sa_family, rc;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), error = errno;

    stream_open(s, net, fd, family == AF_UNIX, ops, data);
    if (fd < 0)
        return -error;
    if (source != NULL && source->addr.len > 0 && !s->is_unix &&
        (rc = source_bind(fd, source)) != 0)
        return rc;
    s->connected = connect(fd, &addr->u.sa, addr->len) == 0;
    if (!s->connected && errno != EINPROGRESS && errno != EINTR)
        return -errno;
    rc = mg_ready_open(s);
    return rc < 0 ? rc : s->connected;
}

static int
socket_error(const struct mg_stream *s)
{
    int error = 0;
    socklen_t len = sizeof(error);

    return getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 ? -error : -errno;
}

static void
connect_end(struct mg_stream *s, unsigned events)
{
    int status = events & MG_EVENT_ERROR ? socket_error(s) : 0;

    s->connected = status == 0;
    s->ops->on_connect(s, status);
}

void
mg_stream_local(const struct mg_stream *s, struct mg_addr *out)
{
    out->len = sizeof(out->u);
    if (!s->open || s->fd < 0 || getsockname(s->fd, &out->u.sa, &out->len) != 0)
        out->len = 0;
}

void
mg_stream_nodelay(struct mg_stream *s, bool on)
{
    s->nodelay_due = on && !s->is_unix;
}

int
mg_stream_keepalive(struct mg_stream *s, unsigned delay_s)
{
    if (!s->is_unix && s->fd >= 0)
        mg_net_keepalive(s->fd, delay_s);
    return 0;
}

/* ---- reading --------------------------------------------------------------------------------- */

static void
input_end(struct mg_stream *s, int status)
{
    s->reading = s->readable = false;
    s->eof = true;
    if (status == 0)
        s->ops->on_eof(s);
    else
        s->ops->on_error(s, status);
}

static ssize_t
receive(const struct mg_stream *s, size_t len)
{
    ssize_t got;

    if (s->drained)
        return 0;
    do
        got = recv(s->fd, s->net->unit, len, 0);
    while (got < 0 && errno == EINTR);
    return got;
}

/* Reads as long as there is something, the owner wants it, and its turn is not over. */
static void
input(struct mg_stream *s)
{
    while (s->readable && s->reading && s->pprev == NULL && !s->closing) {
        size_t len = s->read_max;
        ssize_t got = receive(s, len);

        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            s->readable = false;
        } else if (got <= 0) {
            input_end(s, got == 0 ? 0 : -errno);
        } else {
            s->bytes_in += (uint64_t)got;
            if ((size_t)got == len) /* the others' turn first */
                mg_net_due(s->net, s);
            else if (!s->ask)
                s->drained = s->readable = s->fin;
            s->ops->on_read(s, s->net->unit, (size_t)got);
        }
    }
}

void
mg_stream_due(struct mg_stream *s)
{
    input(s);
    mg_ready_update(s);
}

void
mg_stream_read_start(struct mg_stream *s)
{
    if (s->reading || s->eof || s->closing || !s->open)
        return;
    s->reading = true;
    if (s->readable)
        mg_net_due(s->net, s);
}

void
mg_stream_read_stop(struct mg_stream *s)
{
    s->reading = false;
}

/* ---- writing --------------------------------------------------------------------------------- */

static int
fin_send(struct mg_stream *s)
{
    if (shutdown(s->fd, SHUT_WR) != 0)
        return -errno;
    s->shutdown_done = true;
    return 0;
}

/* How much the kernel took; < 0: a libuv code. */
static ssize_t
transmit(const struct mg_stream *s, const char *data, size_t len, int flags)
{
    ssize_t sent;

    do
        sent = send(s->fd, data, len, MSG_NOSIGNAL | flags);
    while (sent < 0 && errno == EINTR);
    if (sent < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
    return sent;
}

static void
stash_free(struct mg_stream *s)
{
    mg_free(s->stash);
    s->stash = NULL;
    s->stash_len = s->stash_done = 0;
    s->writing = false;
}

/* Until it is empty, the socket takes no more, or a libuv code. */
static int
stash_send(struct mg_stream *s)
{
    while (s->stash_done < s->stash_len) {
        ssize_t sent = transmit(s, s->stash + s->stash_done, s->stash_len - s->stash_done, 0);

        if (sent <= 0)
            return (int)sent;
        s->stash_done += (size_t)sent;
    }
    return 0;
}

static void
output(struct mg_stream *s)
{
    int status = stash_send(s);

    if (status == 0 && s->stash_done < s->stash_len)
        return;
    stash_free(s);
    if (status == 0 && s->shutdown_wanted)
        status = fin_send(s);
    if (status < 0)
        s->ops->on_error(s, status);
    else if (s->shutdown_wanted)
        s->ops->on_shutdown(s);
    else
        s->ops->on_drain(s);
}

/* Behind what is stashed already; len may be 0. */
static int
stash_add(struct mg_stream *s, const char *data, size_t len)
{
    size_t left = s->stash_len - s->stash_done;
    char *grown;
    int rc;

    if (s->stash_done > 0)
        memmove(s->stash, s->stash + s->stash_done, left);
    s->stash_len = left;
    s->stash_done = 0;
    grown = mg_realloc(s->stash, left + len);
    if (grown == NULL)
        return UV_ENOMEM;
    memcpy(grown + left, data, len);
    s->stash = grown;
    s->stash_len = left + len;
    s->writing = true;
    rc = mg_ready_update(s);
    return rc < 0 ? rc : 1;
}

static void
nodelay_set(struct mg_stream *s)
{
    int on = 1;

    s->nodelay_due = false;
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

int
mg_stream_prefix(struct mg_stream *s, const void *data, size_t len)
{
    s->stash = mg_malloc(len);
    if (s->stash == NULL)
        return UV_ENOMEM;
    memcpy(s->stash, data, len);
    s->stash_len = len;
    s->prefixed = true;
    return 0;
}

/* The prefix and this. */
static int
prefixed_write(struct mg_stream *s, const char *data, size_t len, int flags)
{
    struct iovec parts[] = {{s->stash, s->stash_len}, {(char *)(uintptr_t)data, len}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = len > 0 ? 2 : 1};
    size_t prefix = s->stash_len, done;
    ssize_t sent;

    s->prefixed = false;
    s->bytes_out += prefix + len;
    do
        sent = sendmsg(s->fd, &message, MSG_NOSIGNAL | flags);
    while (sent < 0 && errno == EINTR);
    if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
        return -errno;
    done = sent > 0 ? (size_t)sent : 0;
    if (done < prefix) {
        s->stash_done = done;
        return stash_add(s, data, len);
    }
    stash_free(s);
    return done < prefix + len ? stash_add(s, data + (done - prefix), prefix + len - done) : 0;
}

int
mg_stream_flush(struct mg_stream *s)
{
    return s->prefixed && s->connected && !s->closing ? prefixed_write(s, "", 0, 0) : 0;
}

static int
stream_write(struct mg_stream *s, const void *data, size_t len, int flags)
{
    const char *rest = data;
    ssize_t sent;

    if (!s->connected || s->closing || s->shutdown_wanted)
        return UV_EPIPE;
    if (s->prefixed)
        return prefixed_write(s, rest, len, flags);
    if (s->nodelay_due && s->bytes_out > 0)
        nodelay_set(s);
    s->bytes_out += len;
    if (s->writing)
        return stash_add(s, rest, len);
    sent = transmit(s, rest, len, flags);
    if (sent < 0)
        return (int)sent;
    if ((size_t)sent == len)
        return 0;
    if (s->nodelay_due)
        nodelay_set(s);
    return stash_add(s, rest + sent, len - (size_t)sent);
}

int
mg_stream_write(struct mg_stream *s, const void *data, size_t len)
{
    return stream_write(s, data, len, 0);
}

int
mg_stream_write_last(struct mg_stream *s, const void *data, size_t len)
{
#ifdef MSG_MORE
    return stream_write(s, data, len, MSG_MORE);
#else
    return stream_write(s, data, len, 0);
#endif
}

static size_t
kernel_unsent(const struct mg_stream *s)
{
#ifdef MG_HAVE_SIOCOUTQ
    int unsent;

    if (ioctl(s->fd, SIOCOUTQ, &unsent) == 0)
        return (size_t)unsent;
#else
    (void)s;
#endif
    return 0;
}

size_t
mg_stream_unsent(const struct mg_stream *s)
{
    if (!s->connected || s->closing)
        return 0;
    return s->stash_len - s->stash_done + kernel_unsent(s);
}

int
mg_stream_shutdown(struct mg_stream *s)
{
    int rc;

    if (s->shutdown_done)
        return 0;
    if (!s->connected || s->closing)
        return UV_ENOTCONN;
    rc = mg_stream_flush(s);
    if (rc < 0)
        return rc;
    s->shutdown_wanted = true;
    return s->writing ? 1 : fin_send(s);
}

void
mg_stream_shutdown_by_close(struct mg_stream *s)
{
    s->shutdown_wanted = s->shutdown_done = true;
}

/* ---- events ---------------------------------------------------------------------------------- */

static void
stream_events(struct mg_stream *s, unsigned events)
{
    if (s->closing)
        return;
    if (!s->connected) {
        if (events & MG_EVENT_WRITE)
            connect_end(s, events);
        if (!s->connected || s->closing)
            return;
    }
    if (events & MG_EVENT_READ)
        s->readable = !s->eof;
    s->fin = s->fin || events & MG_EVENT_END;
    if (events & MG_EVENT_ASK) {
        s->ask = true;
        s->drained = false;
    }
    input(s);
    if (events & MG_EVENT_WRITE && s->writing)
        output(s);
}

static void
on_ready(struct mg_watch *watch, unsigned events)
{
    struct mg_stream *s = MG_CONTAINER_OF(watch, struct mg_stream, watch);

    stream_events(s, events);
    mg_ready_update(s);
}

/* ---- closing --------------------------------------------------------------------------------- */

void
mg_stream_closed(struct mg_stream *s)
{
    struct mg_net *net = s->net;

    s->open = false;
    net->streams--;
    s->ops->on_close(s);
    mg_net_release(net);
}

int
mg_stream_take_fd(struct mg_stream *s)
{
    int fd = s->fd;

    mg_ready_forget(s);
    s->fd = -1;
    mg_stream_close(s, false);
    return fd;
}

void
mg_stream_close(struct mg_stream *s, bool reset)
{
    if (!s->open || s->closing)
        return;
    s->closing = true;
    s->reading = false;
    stash_free(s);
    mg_ready_close(&s->watch);
    if (reset && !s->is_unix && s->fd >= 0) {
        struct linger at_once = {.l_onoff = 1, .l_linger = 0};
        setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    }
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    mg_net_closed(s->net, s);
}

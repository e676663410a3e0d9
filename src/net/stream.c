/*
 * A stream over a TCP or a unix socket.
 *
 * The happy path is: accept or connect, read_start, any number of reads and writes, shutdown,
 * on_eof, close. Possible failure modes are: a connect that fails (on_connect), a read or a write
 * that fails (on_error, or the result of mg_stream_write), an owner who closes at any moment – then
 * requests under way still call back, see `closing`, and nothing but on_close reaches the owner.
 *
 * Writing tries the socket at once. What it does not take is copied into the stash, which is one
 * libuv write request; what comes while that request is under way waits in `more` and becomes the
 * next stash. An idle stream owns no buffer.
 */
#include "net/internal.h"

#include <errno.h>
#include <string.h>
#ifdef MG_HAVE_SIOCOUTQ
#include <linux/sockios.h>
#include <sys/ioctl.h>
#endif
#include <unistd.h>

static int stash_write(struct mg_stream *s, char *data, size_t len);
static void polling_start(struct mg_stream *s);

/* ---- opening --------------------------------------------------------------------------------- */

/* Neither init can fail on unix: they make no descriptor. */
static void
stream_open(struct mg_stream *s, struct mg_net *net, bool is_unix, const struct mg_stream_ops *ops,
            void *data)
{
    memset(s, 0, sizeof(*s));
    if (is_unix)
        uv_pipe_init(net->loop, &s->uv.pipe, 0);
    else
        uv_tcp_init(net->loop, &s->uv.tcp);
    s->uv.handle.data = s;
    s->net = net;
    s->ops = ops;
    s->data = data;
    s->is_unix = is_unix;
    s->read_max = MG_NET_UNIT;
    s->open = true;
    mg_net_hold(net);
}

static int
fd_take(struct mg_stream *s, int fd)
{
    int rc = s->is_unix ? uv_pipe_open(&s->uv.pipe, fd) : uv_tcp_open(&s->uv.tcp, fd);

    if (rc < 0)
        close(fd);
    else
        s->connected = true;
    return rc;
}

int
mg_stream_accept(struct mg_stream *s, struct mg_net *net, int fd, bool is_unix,
                 const struct mg_stream_ops *ops, void *data)
{
    stream_open(s, net, is_unix, ops, data);
    return fd_take(s, fd);
}

static void
on_connect(uv_connect_t *req, int status)
{
    struct mg_stream *s = req->data;

    if (s->closing)
        return;
    s->connected = status == 0;
    if (s->connected)
        polling_start(s); /* it will be read soon: now this costs libuv the least */
    s->ops->on_connect(s, status);
}

/* libuv's own connect knows no abstract names, and a unix socket connects or fails at once anyway.
 */
static int
unix_connect(struct mg_stream *s, const struct mg_addr *addr)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), rc;

    if (fd < 0)
        return -errno;
    if (connect(fd, &addr->u.sa, addr->len) != 0) {
        rc = -errno;
        close(fd);
        return rc;
    }
    rc = fd_take(s, fd);
    return rc < 0 ? rc : 1;
}

int
mg_stream_connect(struct mg_stream *s, struct mg_net *net, const struct mg_addr *addr,
                  const struct mg_stream_ops *ops, void *data)
{
    bool is_unix = addr->u.sa.sa_family == AF_UNIX;

    stream_open(s, net, is_unix, ops, data);
    if (is_unix)
        return unix_connect(s, addr);
    s->req.connect.data = s;
    return uv_tcp_connect(&s->req.connect, &s->uv.tcp, &addr->u.sa, on_connect);
}

void
mg_stream_local(const struct mg_stream *s, struct mg_addr *out)
{
    uv_os_fd_t fd;

    out->len = sizeof(out->u);
    if (!s->open || uv_fileno(&s->uv.handle, &fd) != 0 ||
        getsockname(fd, &out->u.sa, &out->len) != 0)
        out->len = 0;
}

int
mg_stream_nodelay(struct mg_stream *s, bool on)
{
    return s->is_unix ? 0 : uv_tcp_nodelay(&s->uv.tcp, on);
}

int
mg_stream_keepalive(struct mg_stream *s, unsigned delay_s)
{
    uv_os_fd_t fd;
    int rc = s->is_unix ? 0 : uv_fileno(&s->uv.handle, &fd);

    /* Not by libuv, which also has the other side probed every second once it does not answer. */
    if (rc == 0 && !s->is_unix)
        mg_net_keepalive(fd, delay_s);
    return rc;
}

/* ---- reading --------------------------------------------------------------------------------- */

static void
on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct mg_stream *s = handle->data;

    (void)suggested;
    if (s->paused || !s->reading) /* no buffer: libuv says UV_ENOBUFS and leaves the stream alone */
        *buf = uv_buf_init(NULL, 0);
    else
        *buf = uv_buf_init((char *)s->net->unit, (unsigned)s->read_max);
}

/*
 * What the end of the input really was. libuv takes POLLHUP after a short read for EOF without asking the
 * socket, and so makes a clean end of a reset that arrives right behind the last data.
 */
static int
end_status(struct mg_stream *s)
{
    uv_os_fd_t fd;
    int error = 0;
    socklen_t len = sizeof(error);

    if (uv_fileno(&s->uv.handle, &fd) == 0)
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
    return error != 0 ? -error : UV_EOF;
}

static void
polling_stop(struct mg_stream *s)
{
    s->polling = false;
    uv_read_stop(&s->uv.stream);
}

static void
on_read(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf)
{
    struct mg_stream *s = stream->data;

    if (s->closing || len == 0)
        return;
    if (!s->reading) { /* something is there, or its end; both are told again when reading goes on */
        polling_stop(s);
        return;
    }
    if (len == UV_ENOBUFS && s->paused)
        return;
    if (len < 0) {
        mg_stream_read_stop(s);
        polling_stop(s);
        s->eof = true;
        if (len == UV_EOF)
            len = end_status(s);
        if (len == UV_EOF)
            s->ops->on_eof(s);
        else
            s->ops->on_error(s, (int)len);
        return;
    }
    s->bytes_in += (uint64_t)len;
    /* libuv goes on reading as long as the buffer comes back full: the others' turn first. */
    if ((size_t)len == buf->len)
        mg_net_pause(s->net, s);
    s->ops->on_read(s, (const unsigned char *)buf->base, (size_t)len);
}

static void
polling_start(struct mg_stream *s)
{
    if (s->polling)
        return;
    s->polling = true;
    uv_read_start(&s->uv.stream, on_alloc, on_read);
}

void
mg_stream_read_start(struct mg_stream *s)
{
    if (s->reading || s->eof || s->closing || !s->open)
        return;
    s->reading = true;
    polling_start(s);
}

/* libuv is not told before there is something to read: most stops are followed by a start, and each
 * change costs it two system calls. */
void
mg_stream_read_stop(struct mg_stream *s)
{
    s->reading = false;
}

/* ---- writing --------------------------------------------------------------------------------- */

static int
fin_send(struct mg_stream *s)
{
    uv_os_fd_t fd;
    int rc = uv_fileno(&s->uv.handle, &fd);

    if (rc == 0 && shutdown(fd, SHUT_WR) != 0)
        rc = -errno;
    s->shutdown_done = rc == 0;
    return rc;
}

/* The stash has left: what waited behind it goes next, then the FIN. Libuv code of a failure. */
static int
stash_next(struct mg_stream *s)
{
    char *more = s->more;
    size_t len = s->more_len;

    if (more == NULL)
        return 0;
    s->more = NULL;
    s->more_len = 0;
    return stash_write(s, more, len);
}

static void
on_write(uv_write_t *req, int status)
{
    struct mg_stream *s = req->data;

    s->writing = false;
    mg_free(s->stash);
    s->stash = NULL;
    s->stash_len = 0;
    if (s->closing)
        return;
    if (status == 0)
        status = stash_next(s);
    if (status < 0) {
        s->ops->on_error(s, status);
        return;
    }
    if (s->writing)
        return;
    if (!s->shutdown_wanted) {
        s->ops->on_drain(s);
        return;
    }
    status = fin_send(s);
    if (status < 0)
        s->ops->on_error(s, status);
    else
        s->ops->on_shutdown(s);
}

/* Takes data over. */
static int
stash_write(struct mg_stream *s, char *data, size_t len)
{
    uv_buf_t buf = uv_buf_init(data, (unsigned)len);
    int rc;

    s->stash = data;
    s->stash_len = len;
    s->req.write.data = s;
    rc = uv_write(&s->req.write, &s->uv.stream, &buf, 1, on_write);
    if (rc < 0) {
        mg_free(s->stash);
        s->stash = NULL;
        s->stash_len = 0;
        return rc;
    }
    s->writing = true;
    return 1;
}

static int
more_add(struct mg_stream *s, const char *data, size_t len)
{
    char *grown = mg_realloc(s->more, s->more_len + len);

    if (grown == NULL)
        return UV_ENOMEM;
    memcpy(grown + s->more_len, data, len);
    s->more = grown;
    s->more_len += len;
    return 1;
}

int
mg_stream_write(struct mg_stream *s, const void *data, size_t len)
{
    const char *rest = data;
    uv_buf_t buf = {.len = len};
    char *copy;
    int done;

    if (!s->connected || s->closing || s->shutdown_wanted)
        return UV_EPIPE;
    s->bytes_out += len;
    if (s->writing)
        return more_add(s, rest, len);
    memcpy(&buf.base, &rest, sizeof(rest)); /* libuv's struct has no const; it only reads */
    done = uv_try_write(&s->uv.stream, &buf, 1);
    if (done < 0 && done != UV_EAGAIN)
        return done;
    if (done > 0) {
        rest += done;
        len -= (size_t)done;
    }
    if (len == 0)
        return 0;
    copy = mg_malloc(len);
    if (copy == NULL)
        return UV_ENOMEM;
    memcpy(copy, rest, len);
    return stash_write(s, copy, len);
}

static size_t
kernel_unsent(const struct mg_stream *s)
{
#ifdef MG_HAVE_SIOCOUTQ
    uv_os_fd_t fd;
    int unsent;

    if (uv_fileno(&s->uv.handle, &fd) == 0 && ioctl(fd, SIOCOUTQ, &unsent) == 0)
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
    return (s->writing ? uv_stream_get_write_queue_size(&s->uv.stream) : 0) + s->more_len +
           kernel_unsent(s);
}

int
mg_stream_shutdown(struct mg_stream *s)
{
    if (s->shutdown_done)
        return 0;
    if (!s->connected || s->closing)
        return UV_ENOTCONN;
    s->shutdown_wanted = true;
    return s->writing ? 1 : fin_send(s);
}

/* ---- closing --------------------------------------------------------------------------------- */

static void
on_close(uv_handle_t *handle)
{
    struct mg_stream *s = handle->data;
    struct mg_net *net = s->net;

    mg_free(s->stash); /* a request that was under way has called back by now */
    mg_free(s->more);
    s->stash = s->more = NULL;
    s->open = false;
    s->ops->on_close(s);
    mg_net_release(net);
}

void
mg_stream_close(struct mg_stream *s, bool reset)
{
    uv_os_fd_t fd;

    if (!s->open || s->closing)
        return;
    s->closing = true;
    s->reading = false;
    /* Not uv_tcp_close_reset: that refuses after a shutdown. */
    if (reset && !s->is_unix && uv_fileno(&s->uv.handle, &fd) == 0) {
        struct linger at_once = {.l_onoff = 1, .l_linger = 0};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    }
    uv_close(&s->uv.handle, on_close);
}

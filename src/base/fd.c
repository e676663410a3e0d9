#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

int
mg_fd_write_all(int fd, const void *data, size_t len)
{
    const char *next = data;
    while (len > 0) {
        ssize_t n = write(fd, next, len);
        if (n > 0) {
            next += n;
            len -= (size_t)n;
        } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            if (poll(&wait, 1, 1000) == 0)
                return -1; /* a reader that hangs must not hang us */
        } else if (n == 0 || errno != EINTR) {
            return -1;
        }
    }
    return 0;
}

/* ---- records that must not wait -------------------------------------------------------------- */

static bool
is_writable(int fd)
{
    struct pollfd state = {.fd = fd, .events = POLLOUT};

    return poll(&state, 1, 0) == 1 && (state.revents & (POLLOUT | POLLERR | POLLHUP)) != 0;
}

/*
 * A pipe keeps pages, and fills them to more than the half, as two neighbours would else have become
 * one. What is left is enough for the record, and for those of other processes at the same moment.
 */
static bool
pipe_takes(int fd, size_t len)
{
#ifdef F_GETPIPE_SZ
    const size_t spare = 2 * (size_t)PIPE_BUF;
    int size = fcntl(fd, F_GETPIPE_SZ), used = 0;

    if (size < 0 || ioctl(fd, FIONREAD, &used) != 0)
        return is_writable(fd);
    if (used == 0)
        return len <= (size_t)size;
    return 2 * (size_t)used + len + spare <= (size_t)size;
#else
    return len <= PIPE_BUF && is_writable(fd);
#endif
}

int
mg_fd_write_now(int fd, const void *data, size_t len)
{
    struct stat st;
    ssize_t put;

    if (fstat(fd, &st) != 0)
        return -1;
    if ((S_ISFIFO(st.st_mode) && !pipe_takes(fd, len)) ||
        (S_ISCHR(st.st_mode) && !is_writable(fd))) {
        errno = EAGAIN;
        return -1;
    }
    do {
        put = S_ISSOCK(st.st_mode) ? send(fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL)
                                   : write(fd, data, len);
    } while (put < 0 && errno == EINTR);
    if (put >= 0 && (size_t)put < len)
        errno = S_ISSOCK(st.st_mode) ? EAGAIN : ENOSPC;
    return put == (ssize_t)len ? 0 : -1;
}

/* ---- files ----------------------------------------------------------------------------------- */

static int
type_error(mode_t mode)
{
    return S_ISREG(mode) ? 0 : S_ISDIR(mode) ? EISDIR : EINVAL;
}

int
mg_fd_open_file(const char *path)
{
    struct stat st;
    int fd, error;

    if (stat(path, &st) != 0)
        return -1;
    errno = type_error(st.st_mode); /* to open a pipe or a device may be too much already */
    if (errno != 0)
        return -1;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return -1;
    error = fstat(fd, &st) != 0 ? errno : type_error(st.st_mode);
    if (error == 0)
        return fd;
    close(fd);
    errno = error;
    return -1;
}

const char *
mg_file_error(int error)
{
    return error == EINVAL ? "Not a regular file, but a pipe, a socket or a device"
                           : strerror(error);
}

int
mg_fd_read_all(int fd, struct mg_buf *out, size_t max, struct mg_err *err)
{
    char chunk[16384];
    int result = -1;
    for (;;) {
        ssize_t n = read(fd, chunk, sizeof(chunk));
        if (n == 0) {
            result = out->failed ? -1 : 0;
            if (out->failed)
                mg_err_setx(err, "out of memory");
            break;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            mg_err_set(err, "read");
            break;
        }
        if ((size_t)n > max - out->len) {
            mg_err_setx(err, "longer than %zu bytes", max);
            break;
        }
        mg_buf_add(out, chunk, (size_t)n);
    }
    mg_wipe(chunk, sizeof(chunk)); /* it may have been a private key */
    return result;
}

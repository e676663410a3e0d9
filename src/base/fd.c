#include "base/base.h"

#include <errno.h>
#include <poll.h>
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

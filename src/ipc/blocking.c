/* The channel for processes without a loop: the loader, the command line, a worker's first message.
 */
#include "ipc/internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

int
mg_ipc_send_blocking(int fd, uint32_t type, uint64_t number, const void *data, size_t len,
                     const int *fd_list, size_t fd_count, struct mg_err *err)
{
    if (len > MG_IPC_MAX || fd_count > MG_IPC_FDS) {
        mg_err_setx(err, "a message of %zu bytes is too long", len);
        return -1;
    }
    const char *bytes = data != NULL ? data : "";
    size_t offset = 0;
    do {
        size_t part;
        struct mg_ipc_header header = mg_ipc_packet_header(type, number, len, offset, &part);
        while (mg_ipc_packet_send(fd, 0, &header, bytes + offset, part, fd_list,
                                  offset == 0 ? fd_count : 0) != 0) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            if ((errno != EAGAIN && errno != EWOULDBLOCK) ||
                (poll(&wait, 1, -1) < 0 && errno != EINTR)) {
                mg_err_set(err, "control channel");
                return -1;
            }
        }
        offset += part;
    } while (offset < len);
    return 0;
}

/* Waits until fd can be read or the deadline (0 = none) has passed: 1, 0, or -1 with errno. */
static int
wait_readable(int fd, uint64_t deadline)
{
    for (;;) {
        int timeout = -1;
        if (deadline != 0) {
            uint64_t now = mg_now_ns();
            timeout = now >= deadline ? 0 : (int)((deadline - now + 999999) / 1000000);
        }
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        int n = poll(&wait, 1, timeout);
        if (n >= 0 || errno != EINTR)
            return n;
    }
}

int
mg_ipc_receive_blocking(int fd, struct mg_msg *msg, struct mg_buf *buf, int timeout_ms,
                        struct mg_err *err)
{
    uint64_t deadline = timeout_ms < 0 ? 0 : mg_now_ns() + (uint64_t)timeout_ms * 1000000u;
    struct mg_ipc_inbox inbox = {buf, msg, false};
    const char *why = NULL;
    *msg = (struct mg_msg){0};
    buf->len = 0;
    for (;;) {
        int ready = wait_readable(fd, deadline);
        if (ready <= 0) {
            if (ready < 0)
                mg_err_set(err, "control channel");
            else
                mg_err_setx(err, "control channel: no answer within %d ms", timeout_ms);
            break;
        }
        switch (mg_ipc_packet_receive(fd, MSG_DONTWAIT, &inbox, &why)) {
        case MG_IPC_MESSAGE:
            return 1;
        case MG_IPC_MORE:
        case MG_IPC_EMPTY:
            continue;
        case MG_IPC_EOF:
            mg_msg_close_fds(msg);
            if (buf->len == 0)
                return 0;
            mg_err_setx(err, "control channel: it ended within a message");
            return -1;
        case MG_IPC_BROKEN:
            mg_err_setx(err, "control channel: %s", why);
            break;
        }
        break;
    }
    mg_msg_close_fds(msg);
    return -1;
}

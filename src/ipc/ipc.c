/*
 * The channel on a loop.
 *
 * The happy path is: open, send and message as often as needed, close. What the kernel does not
 * take waits in a queue of packets, each with its own duplicates of the descriptors that go with
 * it. Possible failure modes are: the other end is gone, it breaks the protocol, no memory or
 * descriptor for a part; each stops the polling and is reported once by ops->lost, after which the
 * user closes.
 */
#include "ipc/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PACKETS_PER_TURN 64 /* so that a talkative peer does not hold the loop */

struct mg_ipc_packet {
    struct mg_ipc_packet *next;
    struct mg_ipc_header header;
    int fds[MG_IPC_FDS]; /* owned duplicates */
    size_t fd_count;
    size_t len;
    char data[];
};

static void on_poll(uv_poll_t *poll, int status, int events);

static void
poll_restart(struct mg_ipc *ipc)
{
    uv_poll_start(&ipc->poll, UV_READABLE | (ipc->queue != NULL ? UV_WRITABLE : 0), on_poll);
}

int
mg_ipc_pair(int fds[2], struct mg_err *err)
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) == 0)
        return 0;
    mg_err_set(err, "socketpair");
    return -1;
}

int
mg_ipc_open(struct mg_ipc *ipc, uv_loop_t *loop, int fd, const struct mg_ipc_ops *ops, void *data,
            struct mg_err *err)
{
    memset(ipc, 0, sizeof(*ipc));
    ipc->fd = fd;
    ipc->ops = ops;
    ipc->data = data;
    ipc->queue_tail = &ipc->queue;
    int code = uv_poll_init(loop, &ipc->poll, fd); /* makes fd non-blocking */
    if (code != 0) {
        mg_err_setx(err, "control channel: %s", uv_strerror(code));
        close(fd);
        return -1;
    }
    ipc->poll.data = ipc;
    poll_restart(ipc);
    return 0;
}

/* ---- sending -------------------------------------------------------------------------------- */

static void
packet_free(struct mg_ipc_packet *packet)
{
    for (size_t i = 0; i < packet->fd_count; i++)
        close(packet->fds[i]);
    mg_free_secret(packet, sizeof(*packet) + packet->len);
}

static struct mg_ipc_packet *
packet_new(const struct mg_ipc_header *header, const void *data, size_t len, const int *fds,
           size_t fd_count)
{
    struct mg_ipc_packet *packet = mg_malloc(sizeof(*packet) + len);
    if (packet == NULL)
        return NULL;
    packet->next = NULL;
    packet->header = *header;
    packet->fd_count = 0;
    packet->len = len;
    memcpy(packet->data, data, len);
    for (; packet->fd_count < fd_count; packet->fd_count++) {
        int copy = fcntl(fds[packet->fd_count], F_DUPFD_CLOEXEC, 3);
        if (copy < 0) {
            packet_free(packet);
            return NULL;
        }
        packet->fds[packet->fd_count] = copy;
    }
    return packet;
}

/* Sends what waits until the kernel takes no more; -1 when nothing will ever be sent again. */
static int
queue_flush(struct mg_ipc *ipc)
{
    while (ipc->queue != NULL) {
        struct mg_ipc_packet *packet = ipc->queue;
        if (mg_ipc_packet_send(ipc->fd, MSG_DONTWAIT, &packet->header, packet->data, packet->len,
                               packet->fds, packet->fd_count) != 0)
            return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS ? 0 : -1;
        ipc->queue = packet->next;
        if (ipc->queue == NULL)
            ipc->queue_tail = &ipc->queue;
        packet_free(packet);
    }
    return 0;
}

static void
queue_drop(struct mg_ipc *ipc)
{
    while (ipc->queue != NULL) {
        struct mg_ipc_packet *packet = ipc->queue;
        ipc->queue = packet->next;
        packet_free(packet);
    }
    ipc->queue_tail = &ipc->queue;
}

/* Queues all parts of a message, or none. */
static int
message_queue(struct mg_ipc *ipc, uint32_t type, uint64_t number, const char *bytes, size_t len,
              const int *fds, size_t fd_count)
{
    struct mg_ipc_packet **mark = ipc->queue_tail;
    size_t offset = 0;
    do {
        size_t part;
        struct mg_ipc_header header = mg_ipc_packet_header(type, number, len, offset, &part);
        struct mg_ipc_packet *packet =
            packet_new(&header, bytes + offset, part, fds, offset == 0 ? fd_count : 0);
        if (packet == NULL) {
            while (*mark != NULL) {
                struct mg_ipc_packet *first = *mark;
                *mark = first->next;
                packet_free(first);
            }
            ipc->queue_tail = mark;
            return -1;
        }
        *ipc->queue_tail = packet;
        ipc->queue_tail = &packet->next;
        offset += part;
    } while (offset < len);
    return 0;
}

int
mg_ipc_send(struct mg_ipc *ipc, uint32_t type, uint64_t number, const void *data, size_t len,
            const int *fds, size_t fd_count)
{
    if (ipc->closing || len > MG_IPC_MAX || fd_count > MG_IPC_FDS)
        return -1;
    if (message_queue(ipc, type, number, data != NULL ? data : "", len, fds, fd_count) != 0 ||
        queue_flush(ipc) != 0) {
        /* The other end would wait for it: both shall see that something is missing. */
        queue_drop(ipc);
        shutdown(ipc->fd, SHUT_RDWR);
        return -1;
    }
    if (ipc->queue != NULL)
        poll_restart(ipc);
    return 0;
}

int
mg_ipc_sendf(struct mg_ipc *ipc, uint32_t type, uint64_t number, const char *fmt, ...)
{
    struct mg_buf text = {0};
    va_list args;
    va_start(args, fmt);
    mg_buf_addv(&text, fmt, args);
    va_end(args);
    int result = text.failed ? -1 : mg_ipc_send(ipc, type, number, text.data, text.len, NULL, 0);
    mg_buf_free_secret(&text);
    return result;
}

/* ---- receiving ------------------------------------------------------------------------------ */

static void
inbox_reset(struct mg_ipc *ipc)
{
    mg_msg_close_fds(&ipc->partial_msg);
    mg_buf_free_secret(&ipc->partial);
    ipc->partial_msg = (struct mg_msg){0};
}

static void
lose(struct mg_ipc *ipc, const char *why)
{
    uv_poll_stop(&ipc->poll);
    ipc->ops->lost(ipc, why);
}

/* The message leaves the inbox before the callback, which may send, close, or close the whole loop.
 */
static void
deliver(struct mg_ipc *ipc)
{
    struct mg_msg msg = ipc->partial_msg;
    struct mg_buf payload = ipc->partial;
    ipc->partial_msg = (struct mg_msg){0};
    ipc->partial = (struct mg_buf){0};
    ipc->ops->message(ipc, &msg);
    mg_msg_close_fds(&msg);
    mg_buf_free_secret(&payload);
}

static void
on_poll(uv_poll_t *poll, int status, int events)
{
    struct mg_ipc *ipc = poll->data;
    (void)events;
    bool waited = ipc->queue != NULL;
    if (waited && queue_flush(ipc) != 0) {
        queue_drop(ipc);
        shutdown(ipc->fd, SHUT_RDWR);
    }
    /* After an error uv has stopped polling; it may have been the reset that recvmsg passes over. */
    if (status != 0 || (waited && ipc->queue == NULL))
        poll_restart(ipc);
    struct mg_ipc_inbox inbox = {&ipc->partial, &ipc->partial_msg, ipc->ops->may_lose_fds};
    for (int i = 0; i < PACKETS_PER_TURN && !ipc->closing; i++) {
        const char *why = NULL;
        switch (mg_ipc_packet_receive(ipc->fd, MSG_DONTWAIT, &inbox, &why)) {
        case MG_IPC_MESSAGE:
            deliver(ipc);
            break;
        case MG_IPC_MORE:
            break;
        case MG_IPC_EMPTY:
            return;
        case MG_IPC_EOF:
            lose(ipc, "the other end is gone");
            return;
        case MG_IPC_BROKEN:
            lose(ipc, why);
            return;
        }
    }
}

/* ---- closing -------------------------------------------------------------------------------- */

static void
on_poll_close(uv_handle_t *handle)
{
    struct mg_ipc *ipc = handle->data;
    if (ipc->on_close != NULL)
        ipc->on_close(ipc);
}

void
mg_ipc_close(struct mg_ipc *ipc, void (*on_close)(struct mg_ipc *ipc))
{
    if (ipc->closing)
        return;
    ipc->closing = true;
    ipc->on_close = on_close;
    queue_flush(ipc);
    queue_drop(ipc);
    inbox_reset(ipc);
    uv_poll_stop(&ipc->poll);
    uv_close((uv_handle_t *)&ipc->poll, on_poll_close);
    close(ipc->fd);
    ipc->fd = -1;
}

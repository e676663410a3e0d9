/* One packet out, one packet in. Everything that comes in is checked here and nowhere else. */
#include "ipc/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct mg_ipc_header
mg_ipc_packet_header(uint32_t type, uint64_t number, size_t total, size_t offset, size_t *len)
{
    *len = total - offset < MG_IPC_CHUNK ? total - offset : MG_IPC_CHUNK;
    return (struct mg_ipc_header){MG_IPC_MAGIC, type, number, (uint32_t)total, (uint32_t)offset};
}

int
mg_ipc_packet_send(int fd, int flags, const struct mg_ipc_header *header, const void *data,
                   size_t len, const int *fds, size_t fd_count)
{
    struct mg_ipc_header head = *header;
    struct iovec parts[2] = {{&head, sizeof(head)}, {0}};
    memcpy(&parts[1].iov_base, &data, sizeof(data)); /* sendmsg only reads through it */
    parts[1].iov_len = len;
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * MG_IPC_FDS)];
    } control;
    memset(&control, 0, sizeof(control));
    struct msghdr msg = {.msg_iov = parts, .msg_iovlen = len > 0 ? 2 : 1};
    if (fd_count > 0) {
        msg.msg_control = control.space;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * fd_count);
    }
    for (;;) {
        if (sendmsg(fd, &msg, flags | MSG_NOSIGNAL) >= 0)
            return 0;
        if (errno != EINTR)
            return -1;
    }
}

/* Moves the descriptors that came with a packet into msg; what has no room there is closed. */
static bool
fds_take(struct msghdr *packet, struct mg_msg *msg)
{
    bool fit = true;
    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(packet); cmsg; cmsg = CMSG_NXTHDR(packet, cmsg)) {
        if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(fd));
            if (msg->fd_count < MG_IPC_FDS) {
                msg->fds[msg->fd_count++] = fd;
            } else {
                close(fd);
                fit = false;
            }
        }
    }
    return fit;
}

/* Adds a packet's part to the message; a constant text if it does not belong there. */
static const char *
part_add(struct mg_ipc_inbox *inbox, const struct mg_ipc_header *head, const char *data, size_t len,
         bool first)
{
    struct mg_msg *msg = inbox->msg;
    if (head->magic != MG_IPC_MAGIC)
        return "not a message";
    if (head->total > MG_IPC_MAX)
        return "a message that is too long";
    if (head->offset != inbox->payload->len)
        return "a part out of order";
    if (len > head->total - head->offset || (len == 0 && head->total > 0))
        return "a part of the wrong length";
    if (first) {
        msg->type = head->type;
        msg->number = head->number;
        msg->len = head->total;
    } else if (head->type != msg->type || head->number != msg->number || head->total != msg->len) {
        return "a part of another message";
    }
    mg_buf_add(inbox->payload, data, len);
    return inbox->payload->failed ? "out of memory" : NULL;
}

enum mg_ipc_status
mg_ipc_packet_receive(int fd, int flags, struct mg_ipc_inbox *inbox, const char **why)
{
    struct mg_ipc_header head;
    char data[MG_IPC_CHUNK];
    struct iovec parts[2] = {{&head, sizeof(head)}, {data, sizeof(data)}};
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * MG_IPC_FDS)];
    } control;
    struct msghdr packet = {.msg_iov = parts,
                            .msg_iovlen = 2,
                            .msg_control = control.space,
                            .msg_controllen = sizeof(control.space)};
    ssize_t n = recvmsg(fd, &packet, flags | MSG_CMSG_CLOEXEC);
    if (n == 0)
        return MG_IPC_EOF;
    if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return MG_IPC_EMPTY;
        /* Reset: the peer went without reading all of ours; what it had sent still comes. */
        if (errno == EINTR || errno == ECONNRESET)
            return MG_IPC_MORE;
        *why = "the channel cannot be read";
        return MG_IPC_BROKEN;
    }
    bool first = inbox->payload->len == 0;
    bool came_with_fds = packet.msg_controllen > 0;
    bool fit = fds_take(&packet, inbox->msg);
    inbox->msg->fds_lost = inbox->msg->fds_lost || !fit || (packet.msg_flags & MSG_CTRUNC) != 0;
    if (inbox->msg->fds_lost && !inbox->may_lose_fds)
        *why = "descriptors were lost";
    else if ((packet.msg_flags & MSG_TRUNC) != 0 || (size_t)n < sizeof(head))
        *why = "a packet of the wrong size";
    else if (came_with_fds && !first)
        *why = "descriptors in the middle of a message";
    else
        *why = part_add(inbox, &head, data, (size_t)n - sizeof(head), first);
    mg_wipe(data, n > (ssize_t)sizeof(head) ? (size_t)n - sizeof(head) : 0);
    if (*why != NULL)
        return MG_IPC_BROKEN;
    if (inbox->payload->len < inbox->msg->len)
        return MG_IPC_MORE;
    if (inbox->payload->data == NULL)
        mg_buf_add(inbox->payload, "", 0);
    if (inbox->payload->failed) {
        *why = "out of memory";
        return MG_IPC_BROKEN;
    }
    inbox->msg->data = inbox->payload->data;
    return MG_IPC_MESSAGE;
}

/* ---- what is in a message ------------------------------------------------------------------- */

bool
mg_msg_field(const struct mg_msg *msg, const char *key, char *out, size_t cap)
{
    size_t key_len = strlen(key);
    out[0] = '\0';
    for (const char *line = msg->data, *end = msg->data + msg->len; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        size_t len = (size_t)((stop != NULL ? stop : end) - line);
        if (len > key_len && memcmp(line, key, key_len) == 0 && line[key_len] == '=') {
            size_t value_len = len - key_len - 1;
            if (value_len >= cap)
                return false;
            memcpy(out, line + key_len + 1, value_len);
            out[value_len] = '\0';
            return true;
        }
        line += len + 1;
    }
    return false;
}

int
mg_msg_take_fd(struct mg_msg *msg, const char *name)
{
    char names[128];
    if (!mg_msg_field(msg, "fds", names, sizeof(names)))
        return -1;
    char *next = NULL;
    size_t index = 0;
    for (char *word = strtok_r(names, ",", &next); word != NULL && index < msg->fd_count;
         word = strtok_r(NULL, ",", &next), index++) {
        if (strcmp(word, name) == 0) {
            int fd = msg->fds[index];
            msg->fds[index] = -1;
            return fd;
        }
    }
    return -1;
}

void
mg_msg_close_fds(struct mg_msg *msg)
{
    for (size_t i = 0; i < msg->fd_count; i++)
        if (msg->fds[i] >= 0)
            close(msg->fds[i]);
    msg->fd_count = 0;
}

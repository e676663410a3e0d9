/* Any bytes as packets of a channel: a length, then so many bytes, of which the first are the magic. */
#include "ipc/internal.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void
packet_send(int fd, const uint8_t *data, size_t len)
{
    unsigned char packet[256];
    const uint32_t magic = MG_IPC_MAGIC;

    memcpy(packet, data, len);
    if (len > sizeof(magic) && data[0] != 0)
        memcpy(packet, &magic, sizeof(magic));
    (void)!send(fd, packet, len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct mg_buf payload = {0};
    struct mg_msg msg = {0};
    struct mg_ipc_inbox inbox = {.payload = &payload, .msg = &msg};
    enum mg_ipc_status status = MG_IPC_MORE;
    const char *why;
    char text[32];
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0)
        return 0;
    for (size_t at = 0; at < len && status == MG_IPC_MORE;) {
        size_t size = data[at++];

        if (size > len - at)
            size = len - at;
        if (size > 0)
            packet_send(fds[0], data + at, size);
        at += size;
        status = size > 0 ? mg_ipc_packet_receive(fds[1], MSG_DONTWAIT, &inbox, &why) : MG_IPC_EOF;
    }
    if (status == MG_IPC_MESSAGE) {
        mg_msg_field(&msg, "index", text, sizeof(text));
        mg_msg_take_fd(&msg, "shared");
    }
    mg_msg_close_fds(&msg);
    mg_buf_free(&payload);
    close(fds[0]);
    close(fds[1]);
    return 0;
}

/* Packets: what one sendmsg(2) carries. A message is one packet or several. */
#ifndef MG_IPC_INTERNAL_H
#define MG_IPC_INTERNAL_H

#include "ipc/ipc.h"

#define MG_IPC_MAGIC 0x4d474950u
#define MG_IPC_CHUNK (60u * 1024u) /* payload of one packet; well below any send buffer */

/* In front of every packet; both ends are the same binary, so host byte order. */
struct mg_ipc_header {
    uint32_t magic;
    uint32_t type;
    uint64_t number;
    uint32_t total;  /* payload of the whole message */
    uint32_t offset; /* where this packet's part belongs */
};

/* A message that arrives in parts; all zero is "nothing yet". */
struct mg_ipc_inbox {
    struct mg_buf *payload;
    struct mg_msg *msg;
    bool may_lose_fds;
};

enum mg_ipc_status {
    MG_IPC_MESSAGE, /* *inbox is complete */
    MG_IPC_MORE,    /* a part came, or nothing that counts */
    MG_IPC_EMPTY,   /* nothing to receive now */
    MG_IPC_EOF,
    MG_IPC_BROKEN, /* *why says how */
};

/* Receives one packet. Descriptors of an incomplete or broken message stay in inbox->msg. */
enum mg_ipc_status mg_ipc_packet_receive(int fd, int flags, struct mg_ipc_inbox *inbox,
                                         const char **why);

/* Sends one packet; -1 with errno. */
int mg_ipc_packet_send(int fd, int flags, const struct mg_ipc_header *header, const void *data,
                       size_t len, const int *fds, size_t fd_count);

/* The header of the packet at `offset` of a message, and in *len how much of the payload it
 * carries. */
struct mg_ipc_header mg_ipc_packet_header(uint32_t type, uint64_t number, size_t total,
                                          size_t offset, size_t *len);

#endif

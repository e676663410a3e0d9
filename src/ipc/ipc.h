/*
 * ipc: messages between supervisor, loader, workers and the command line, with fd passing.
 *
 * A channel is one end of a SOCK_SEQPACKET unix socket. A message has a type, a number, up to MG_IPC_FDS
 * descriptors and a payload of any length up to MG_IPC_MAX; what does not fit into one packet is sent
 * as several and delivered as one. Sending never blocks: what the kernel does not take waits in the
 * channel, in order. Bytes from the other end are checked; a malformed packet closes the channel.
 */
#ifndef MG_IPC_IPC_H
#define MG_IPC_IPC_H

#include "base/base.h"

#include <uv.h>

#define MG_IPC_FDS 8
#define MG_IPC_MAX (8u << 20)

/* Who sends it → to whom: S supervisor, L loader, W worker, C command line. */
enum mg_msg_type {
    /* S→W: the first message; payload = "key=value\n" lines (index, user, secret, log …), of which
     * "fds=shared,sessions,current,log,access" names the descriptors in order. */
    MG_MSG_HELLO = 1,
    /* S→W: payload = canonical address, fd = the bound socket. The worker keeps it until UNSOCKET;
     * the supervisor listens on it just before COMMIT. */
    MG_MSG_SOCKET,
    /* S→W: payload = canonical address; accept to EAGAIN, then close. W→S: the same, when done. */
    MG_MSG_UNSOCKET,
    /* S→W: number = generation, fd = snapshot. S→L, the first message: the generation in force with its
     * snapshot, or 0 without one. */
    MG_MSG_BUILD,
    /* W→S: number = generation; it is built and waits for COMMIT or DISCARD. Payload = "key=value\n"
     * lines: how recent clients would fare (total, failing, not_asked, late, and for each reason "reason=N text"). */
    MG_MSG_READY,
    /* W→S: number = generation (0: the worker cannot start), payload = the error text. L→S: likewise;
     * a NUL and the paths touched so far, each with a NUL, follow the text. */
    MG_MSG_FAILED,
    /* S→W: number = generation; new connections take it from now on. */
    MG_MSG_COMMIT,
    /* S→W: number = generation; forget it. */
    MG_MSG_DISCARD,
    /* W→S: number = generation; COMMIT is done, connections are accepted. */
    MG_MSG_SERVING,
    /* W→S: number = generation; its last connection has ended, it is freed. */
    MG_MSG_RETIRED,
    /* W→S: every 200 ms from the loop. What runs is in the shared page called "current". */
    MG_MSG_HEARTBEAT,
    /* S→W: stop accepting, exit 0 with the last connection. number = milliseconds until the rest is
     * closed, 0 = none: QUIT will come. */
    MG_MSG_DRAIN,
    /* S→W: close all connections now and exit 0. number = 1: because drain_timeout is over. */
    MG_MSG_QUIT,
    /* S→W: the log part of HELLO again; after USR1, and when a reload has changed it. */
    MG_MSG_REOPEN,
    /* S→W: number = request. W→S: the same number, payload = "key=value\n" lines for people, a NUL,
     * members of a JSON object. */
    MG_MSG_STATUS,
    /* L→S: fd = snapshot, payload = warnings, one per line, a NUL, and what changes, likewise. number =
     * contexts that had been proved before. */
    MG_MSG_LOADED,
    /* C→S: payload = "reload" | "drain" | "stop" | "status" | "status --json". */
    MG_MSG_COMMAND,
    /* S→C: number = exit code, payload = text for stdout (0) or stderr (else). */
    MG_MSG_ANSWER,
};

struct mg_msg {
    uint32_t type;
    uint64_t number;
    const char *data; /* payload with a NUL behind it (not counted); valid during the callback */
    size_t len;
    int fds[MG_IPC_FDS]; /* the receiver owns them; set an entry to -1 to keep it, else it is closed
                            when the callback returns */
    size_t fd_count;
    bool fds_lost; /* some are missing: this process had no room for them */
};

/* The value of `key` in a payload of "key=value\n" lines; false (and out = "") if it is not there or
 * longer than cap - 1 bytes. */
bool mg_msg_field(const struct mg_msg *msg, const char *key, char *out, size_t cap);

/* Takes the descriptor that the payload's "fds=" line calls `name` out of the message; -1: none. */
int mg_msg_take_fd(struct mg_msg *msg, const char *name);

/* Closes what nobody took. */
void mg_msg_close_fds(struct mg_msg *msg);

struct mg_ipc;

struct mg_ipc_ops {
    void (*message)(struct mg_ipc *ipc, struct mg_msg *msg);
    /* The other end is gone or broke the protocol (why is a constant). mg_ipc_close is still to be
     * called, and may be called here. Not called after mg_ipc_close. */
    void (*lost)(struct mg_ipc *ipc, const char *why);
    bool
        may_lose_fds; /* message() looks at fds_lost; else a message without them breaks the channel */
};

struct mg_ipc {
    uv_poll_t poll; /* embedded; poll.data belongs to ipc */
    int fd;
    const struct mg_ipc_ops *ops;
    void *data; /* the user's */
    void (*on_close)(struct mg_ipc *ipc);
    struct mg_ipc_packet *queue, **queue_tail; /* packets that wait for the socket */
    struct mg_buf partial;                     /* a message of several packets, so far */
    struct mg_msg partial_msg;
    bool closing;
};

/* A connected pair, close-on-exec. */
int mg_ipc_pair(int fds[2], struct mg_err *err);

/* Takes fd over (also on failure, when it is closed). */
int mg_ipc_open(struct mg_ipc *ipc, uv_loop_t *loop, int fd, const struct mg_ipc_ops *ops,
                void *data, struct mg_err *err);

/* fds are duplicated by the kernel: the caller keeps its own. -1: it is not sent. Unless it was too
 * long, the channel is lost with it, at both ends: ops->lost follows, from the loop. */
int mg_ipc_send(struct mg_ipc *ipc, uint32_t type, uint64_t number, const void *data, size_t len,
                const int *fds, size_t fd_count);
int mg_ipc_sendf(struct mg_ipc *ipc, uint32_t type, uint64_t number, const char *fmt, ...)
    MG_PRINTF(4, 5);

/* Asynchronous; tries once to send what waits; `on_close` may be NULL; idempotent. */
void mg_ipc_close(struct mg_ipc *ipc, void (*on_close)(struct mg_ipc *ipc));

/* For processes without a loop (loader, command line); both block. Received fds are close-on-exec. */
int mg_ipc_send_blocking(int fd, uint32_t type, uint64_t number, const void *data, size_t len,
                         const int *fd_list, size_t fd_count, struct mg_err *err);

/* 1 = a message (payload in *buf, msg->data points into it), 0 = end, -1 = error.
 * timeout_ms < 0 waits for ever. */
int mg_ipc_receive_blocking(int fd, struct mg_msg *msg, struct mg_buf *buf, int timeout_ms,
                            struct mg_err *err);

#endif

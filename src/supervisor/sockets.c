/*
 * Listening sockets: one per address, shared by all workers, kept while the current generation
 * names it.
 *
 * The happy path is: prepare binds what is new (BOUND), listen makes it LISTENING when every worker
 * is ready, retire lets an address go that is named no longer (GOING), remove ends it when the
 * workers have emptied its queue and closed their descriptors. Possible failure modes are: an
 * address that cannot be bound or listened on; what was bound for that generation is then given up
 * and the rest stays.
 *
 * They are bound without SO_REUSEPORT, so that a second instance is refused.
 */
#include "supervisor/internal.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#ifdef MG_HAVE_SOCKET_FILTER
#include <linux/filter.h>
#endif
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKLOG_DEFAULT 4096
#define MODE_DEFAULT    0666
#define HANDSHAKE_NS    (400ull * 1000000u) /* for TCP handshakes under way when an address goes */

int
mg_unix_path_claim(const char *path, int type, struct mg_err *err)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    struct stat st;
    if (lstat(path, &st) != 0) {
        if (errno == ENOENT)
            return 0;
        mg_err_set(err, "%s", path);
        return -1;
    }
    if (!S_ISSOCK(st.st_mode)) {
        mg_err_setx(err, "%s: the file exists and is not a socket", path);
        return -1;
    }
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        mg_err_set(err, "%s", path);
        return -1;
    }
    mg_str_copy(to.sun_path, sizeof(to.sun_path), path);
    int result = connect(fd, (const struct sockaddr *)&to, sizeof(to)), why = errno;
    close(fd);
    if (result != 0 && why == ECONNREFUSED) {
        if (unlink(path) == 0 || errno == ENOENT)
            return 0;
        mg_err_set(err, "%s: removing a stale socket", path);
        return -1;
    }
    errno = EADDRINUSE;
    mg_err_set(err, "%s", path);
    return -1;
}

/* ---- a unix socket's file -------------------------------------------------------------------- */

static bool
file_is_ours(const struct mg_socket *socket)
{
    struct stat st;
    return socket->unlink_path != NULL && lstat(socket->unlink_path, &st) == 0 &&
           st.st_dev == socket->unlink_dev && st.st_ino == socket->unlink_ino;
}

/* As it is wanted. Who may no longer, is out before who may is let in. */
static int
file_apply(struct mg_socket *socket, struct mg_err *err)
{
    const struct mg_socket_file *wanted = &socket->file_wanted;
    struct mg_socket_file *file = &socket->file;
    const char *path = socket->unlink_path;
    if (!file_is_ours(socket) ||
        (file->mode == wanted->mode && file->uid == wanted->uid && file->gid == wanted->gid))
        return 0;
    if (file->uid != wanted->uid || file->gid != wanted->gid) {
        uid_t uid = wanted->uid == file->uid   ? (uid_t)-1
                    : wanted->uid == (uid_t)-1 ? geteuid()
                                               : wanted->uid;
        gid_t gid = wanted->gid == file->gid   ? (gid_t)-1
                    : wanted->gid == (gid_t)-1 ? getegid()
                                               : wanted->gid;
        if (chmod(path, file->mode & wanted->mode) != 0 || lchown(path, uid, gid) != 0) {
            mg_err_set(err, "listen: %s: owner or group", socket->address);
            chmod(path, file->mode);
            return -1;
        }
    }
    if (chmod(path, wanted->mode) != 0) {
        mg_err_set(err, "listen: %s: mode", socket->address);
        return -1;
    }
    *file = *wanted;
    return 0;
}

/* Bound so that nobody may connect; file_apply lets them. */
static int
unix_bind(struct mg_socket *socket, const struct mg_endpoint *ep, struct mg_err *err)
{
    const char *path = ep->addr.u.un.sun_path; /* abstract: starts with NUL */
    if (path[0] != '\0' && mg_unix_path_claim(path, SOCK_STREAM, err) != 0) {
        mg_err_prefix(err, "listen");
        return -1;
    }
    mode_t mask = umask(0777);
    int result = bind(socket->fd, &ep->addr.u.sa, ep->addr.len);
    umask(mask);
    struct stat st;
    /* One that does not listen would look stale to another moongate; with this backlog whoever connects
     * before the commit waits, and is refused if there is none. */
    if (result != 0 || listen(socket->fd, 0) != 0) {
        mg_err_set(err, "listen: %s", socket->address);
        return -1;
    }
    if (path[0] == '\0')
        return 0;
    socket->file = (struct mg_socket_file){.mode = 0, .uid = (uid_t)-1, .gid = (gid_t)-1};
    socket->unlink_path = mg_strdup(path);
    if (socket->unlink_path == NULL || stat(path, &st) != 0) {
        mg_err_set(err, "listen: %s", socket->address);
        return -1;
    }
    socket->unlink_dev = st.st_dev;
    socket->unlink_ino = st.st_ino;
    return file_apply(socket, err);
}

static int
socket_new(int family)
{
    return socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* "*:port" where there is no IPv6. */
static void
any_to_ipv4(struct mg_endpoint *ep)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(ep->port)};
    memset(&ep->addr, 0, sizeof(ep->addr));
    ep->addr.u.in = in;
    ep->addr.len = sizeof(in);
}

static int
socket_bind(struct mg_socket *socket, struct mg_err *err)
{
    struct mg_endpoint ep;
    const int on = 1, off = 0;
    if (mg_endpoint_parse(&ep, socket->address, true, err) != 0)
        return -1;
    if (ep.kind == MG_ENDPOINT_NAME) {
        mg_err_setx(err, "listen: %s: expected an IP address, \"*\" or unix:/path",
                    socket->address);
        return -1;
    }
    socket->fd = socket_new(ep.addr.u.sa.sa_family);
    if (socket->fd < 0 && ep.kind == MG_ENDPOINT_ANY && errno == EAFNOSUPPORT) {
        any_to_ipv4(&ep);
        socket->fd = socket_new(AF_INET);
    }
    if (socket->fd < 0)
        goto fail;
    if (ep.kind == MG_ENDPOINT_UNIX)
        return unix_bind(socket, &ep, err);
    setsockopt(socket->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (ep.addr.u.sa.sa_family == AF_INET6)
        setsockopt(socket->fd, IPPROTO_IPV6, IPV6_V6ONLY, ep.kind == MG_ENDPOINT_ANY ? &off : &on,
                   sizeof(on));
    if (bind(socket->fd, &ep.addr.u.sa, ep.addr.len) == 0)
        return 0;
    if (ep.kind == MG_ENDPOINT_ANY && errno == EADDRNOTAVAIL) { /* IPv6 is compiled in but off */
        close(socket->fd);
        any_to_ipv4(&ep);
        socket->fd = socket_new(AF_INET);
        setsockopt(socket->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (socket->fd >= 0 && bind(socket->fd, &ep.addr.u.sa, ep.addr.len) == 0)
            return 0;
    }
fail:
    mg_err_set(err, "listen: %s", socket->address);
    return -1;
}

static void
file_remove(struct mg_socket *socket)
{
    if (file_is_ours(socket))
        unlink(socket->unlink_path);
    mg_free(socket->unlink_path);
    socket->unlink_path = NULL;
}

void
mg_socket_remove(struct mg_socket **list, struct mg_socket *socket)
{
    while (*list != socket)
        list = &(*list)->next;
    *list = socket->next;
    file_remove(socket);
    if (socket->fd >= 0)
        close(socket->fd);
    mg_free(socket->address);
    mg_free(socket);
}

/*
 * Between the moment in which a worker finds the queue empty and the close somebody could still get in, and
 * be reset. So no further SYN gets to the socket: who sends one tries again later, and is refused. True if
 * handshakes may still be under way.
 */
static bool
newcomers_ignore(int fd)
{
#ifdef MG_HAVE_SOCKET_FILTER
    enum { FLAGS_AT = 13, SYN = 0x02, ACK = 0x10 }; /* in the TCP header */
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, FLAGS_AT),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, SYN | ACK),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYN, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
    };
    struct sock_fprog program = {.len = MG_ARRAY_LEN(code), .filter = code};
    int family = AF_UNSPEC;
    socklen_t len = sizeof(family);
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len);
    return (family == AF_INET || family == AF_INET6) &&
           setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0;
#else
    (void)fd;
    return false;
#endif
}

uint64_t
mg_sockets_shut(struct mg_socket *list)
{
    bool any = false;
    for (; list != NULL; list = list->next)
        if (list->state == MG_SOCKET_LISTENING && newcomers_ignore(list->fd))
            any = true;
    return any ? mg_now_ns() + HANDSHAKE_NS : 0;
}

void
mg_socket_retire(struct mg_socket *socket)
{
    bool listening = socket->state == MG_SOCKET_LISTENING;
    socket->emptied = !listening;
    socket->state = MG_SOCKET_GOING;
    socket->unsocket_at_ns = mg_now_ns();
    file_remove(socket);
    if (listening && newcomers_ignore(socket->fd))
        socket->unsocket_at_ns += HANDSHAKE_NS;
}

bool
mg_socket_is_held(const struct mg_socket *socket)
{
    for (size_t i = 0; i < MG_ARRAY_LEN(socket->held); i++)
        if (socket->held[i])
            return true;
    return false;
}

/* ---- what a snapshot says of an address ------------------------------------------------------ */

/* What follows `key` at the start of a line; false: there is no such line, or it does not fit. */
static bool
line_get(const struct mg_span *value, const char *key, char *out, size_t cap)
{
    size_t key_len = strlen(key);
    const char *end = value->data + value->len;
    for (const char *line = value->data; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        size_t len = (size_t)((stop != NULL ? stop : end) - line);
        if (len > key_len && len - key_len < cap && memcmp(line, key, key_len) == 0) {
            memcpy(out, line + key_len, len - key_len);
            out[len - key_len] = '\0';
            return true;
        }
        line += len + 1;
    }
    return false;
}

static unsigned
backlog_get(const struct mg_span *value)
{
    char text[32];
    if (!line_get(value, "backlog=", text, sizeof(text)))
        return BACKLOG_DEFAULT;
    unsigned long backlog = strtoul(text, NULL, 10);
    return backlog >= 1 && backlog <= 1u << 20 ? (unsigned)backlog : BACKLOG_DEFAULT;
}

/* Everybody may connect, unless the script says otherwise: who shall not is kept out of the directory. */
static int
file_get(const struct mg_span *address, const struct mg_span *value, struct mg_socket_file *file,
         struct mg_err *err)
{
    char text[256];
    *file = (struct mg_socket_file){.mode = MODE_DEFAULT, .uid = (uid_t)-1, .gid = (gid_t)-1};
    if (line_get(value, "mode=", text, sizeof(text)))
        file->mode = (mode_t)strtoul(text, NULL, 8) & 0777;
    if (line_get(value, "owner=", text, sizeof(text))) {
        const struct passwd *user = getpwnam(text);
        if (user == NULL) {
            mg_err_setx(err, "listen: %.*s: owner: there is no user \"%s\"", (int)address->len,
                        address->data, text);
            return -1;
        }
        file->uid = user->pw_uid;
    }
    if (line_get(value, "group=", text, sizeof(text))) {
        const struct group *group = getgrnam(text);
        if (group == NULL) {
            mg_err_setx(err, "listen: %.*s: group: there is no group \"%s\"", (int)address->len,
                        address->data, text);
            return -1;
        }
        file->gid = group->gr_gid;
    }
    return 0;
}

static struct mg_socket *
socket_find(struct mg_socket *list, const struct mg_span *address)
{
    for (; list != NULL; list = list->next)
        if (list->state != MG_SOCKET_GOING && strlen(list->address) == address->len &&
            memcmp(list->address, address->data, address->len) == 0)
            return list;
    return NULL;
}

static int
socket_add(struct mg_socket **list, const struct mg_span *address, unsigned backlog,
           const struct mg_socket_file *file, struct mg_err *err)
{
    struct mg_socket *socket = mg_calloc(1, sizeof(*socket));
    if (socket == NULL || (socket->address = mg_strndup(address->data, address->len)) == NULL) {
        mg_free(socket);
        mg_err_setx(err, "listen: out of memory");
        return -1;
    }
    socket->fd = -1;
    socket->state = MG_SOCKET_BOUND;
    socket->backlog = backlog;
    socket->file_wanted = *file;
    socket->wanted = true;
    while (*list != NULL)
        list = &(*list)->next;
    *list = socket;
    return socket_bind(socket, err);
}

/* Gives up what was bound since the last commit. */
static void
bound_remove(struct mg_socket **list)
{
    for (struct mg_socket *socket = *list, *next; socket != NULL; socket = next) {
        next = socket->next;
        if (socket->state == MG_SOCKET_BOUND)
            mg_socket_remove(list, socket);
    }
}

int
mg_sockets_prepare(struct mg_socket **list, const struct mg_snapshot *snapshot, struct mg_err *err)
{
    struct mg_span address, value;
    for (struct mg_socket *socket = *list; socket != NULL; socket = socket->next)
        socket->wanted = false;
    for (size_t cursor = 0;
         mg_snapshot_next(snapshot, MG_RECORD_ADDRESS, &cursor, &address, &value);) {
        struct mg_socket *socket = socket_find(*list, &address);
        struct mg_socket_file file;
        if (file_get(&address, &value, &file, err) != 0) {
            bound_remove(list);
            return -1;
        }
        if (socket != NULL) {
            socket->wanted = true;
            socket->backlog = backlog_get(&value);
            socket->file_wanted = file;
        } else if (socket_add(list, &address, backlog_get(&value), &file, err) != 0) {
            bound_remove(list);
            return -1;
        }
    }
    return 0;
}

int
mg_sockets_listen(struct mg_socket *list, struct mg_err *err)
{
    for (struct mg_socket *socket = list; socket != NULL; socket = socket->next)
        if (socket->wanted && listen(socket->fd, (int)socket->backlog) != 0) {
            mg_err_set(err, "listen: %s", socket->address);
            return -1;
        }
    for (struct mg_socket *socket = list; socket != NULL; socket = socket->next)
        if (socket->wanted && file_apply(socket, err) != 0)
            return -1;
    for (struct mg_socket *socket = list; socket != NULL; socket = socket->next)
        if (socket->state == MG_SOCKET_BOUND)
            socket->state = MG_SOCKET_LISTENING;
    return 0;
}

/*
 * peer.h: what the programs at the two ends of a proxied connection share: options, addresses, a
 * stream of pseudo-random bytes that both ends can compute, and `struct link`: one connection,
 * plain or TLS, that never blocks and knows how the other side ended.
 *
 * How an end is called: "fin" (plain EOF; under TLS that is a truncation), "rst", "close_notify"
 * (TLS, and no FIN followed), "close_notify+fin", "alert:NAME", "timeout", "closed" (we did it),
 * "error:WHY".
 */
#ifndef PEER_H
#define PEER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <arpa/inet.h>

static inline _Noreturn void __attribute__((format(printf, 1, 2))) die(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    exit(2);
}

static inline uint64_t
now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Thousands of connections need more than the usual 1,024 descriptors. */
static inline void
descriptors_raise(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* ---- options: --name value, or --name as a flag -----------------------------------------------
 */

struct options {
    int argc;
    char **argv;
};

/* NULL without it. Not const, because OpenSSL's macros cast it away. */
static inline char *
option_text(const struct options *o, const char *name)
{
    for (int i = 2; i < o->argc; i++)
        if (strcmp(o->argv[i], name) == 0)
            return i + 1 < o->argc ? o->argv[i + 1] : o->argv[i];
    return NULL;
}

static inline const char *
option(const struct options *o, const char *name, const char *fallback)
{
    const char *text = option_text(o, name);

    return text ? text : fallback;
}

static inline bool
option_set(const struct options *o, const char *name)
{
    return option_text(o, name) != NULL;
}

static inline uint64_t
option_number(const struct options *o, const char *name, uint64_t fallback)
{
    const char *text = option_text(o, name);
    char *end;
    uint64_t number;

    if (!text)
        return fallback;
    number = strtoull(text, &end, 10);
    if (*text == '\0' || *end != '\0')
        die("%s: %s is no number", name, text);
    return number;
}

/* ---- addresses --------------------------------------------------------------------------------
 */

struct address {
    socklen_t len;
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    } u;
};

/* "127.0.0.1:80", "[::1]:80", "unix:/path". */
static inline void
address_parse(struct address *a, const char *text)
{
    char host[128];
    const char *colon = strrchr(text, ':');
    uint16_t port;

    memset(a, 0, sizeof(*a));
    if (strncmp(text, "unix:", 5) == 0) {
        a->u.un.sun_family = AF_UNIX;
        if (strlen(text + 5) >= sizeof(a->u.un.sun_path))
            die("%s: path too long", text);
        memcpy(a->u.un.sun_path, text + 5, strlen(text + 5));
        a->len = sizeof(a->u.un);
        return;
    }
    if (!colon || (size_t)(colon - text) >= sizeof(host))
        die("%s is no address", text);
    port = htons((uint16_t)atoi(colon + 1));
    if (text[0] == '[') {
        snprintf(host, sizeof(host), "%.*s", (int)(colon - text) - 2, text + 1);
        a->u.in6.sin6_family = AF_INET6;
        a->u.in6.sin6_port = port;
        a->len = sizeof(a->u.in6);
        if (inet_pton(AF_INET6, host, &a->u.in6.sin6_addr) != 1)
            die("%s is no IPv6 address", host);
        return;
    }
    snprintf(host, sizeof(host), "%.*s", (int)(colon - text), text);
    a->u.in.sin_family = AF_INET;
    a->u.in.sin_port = port;
    a->len = sizeof(a->u.in);
    if (inet_pton(AF_INET, host, &a->u.in.sin_addr) != 1)
        die("%s is no IPv4 address", host);
}

/* Listens and says where on stdout, so that port 0 can be asked for. */
static inline int
listen_open(const char *text)
{
    struct address a;
    int fd, on = 1;

    address_parse(&a, text);
    fd = socket(a.u.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, &a.u.sa, a.len) != 0 || listen(fd, 4096) != 0)
        die("%s: %s", text, strerror(errno));
    getsockname(fd, &a.u.sa, &a.len);
    if (a.u.sa.sa_family == AF_INET)
        printf("listening port=%u\n", ntohs(a.u.in.sin_port));
    else if (a.u.sa.sa_family == AF_INET6)
        printf("listening port=%u\n", ntohs(a.u.in6.sin6_port));
    else
        printf("listening port=0\n");
    fflush(stdout);
    return fd;
}

/* ---- bytes that both ends can compute ---------------------------------------------------------
 */

struct stream {
    uint64_t state, word;
    unsigned left; /* bytes of `word` not yet given out */
};

static inline void
stream_start(struct stream *s, uint64_t seed)
{
    s->state = seed * 0x9E3779B97F4A7C15u + 0x1234567u;
    s->left = 0;
}

static inline uint64_t
stream_word(struct stream *s)
{
    s->state ^= s->state << 13;
    s->state ^= s->state >> 7;
    s->state ^= s->state << 17;
    return s->state * 0x2545F4914F6CDD1Du;
}

/* The same bytes come out however the stream is cut into calls. */
static inline void
stream_fill(struct stream *s, unsigned char *out, size_t len)
{
    while (len > 0) {
        size_t n;

        if (s->left == 0) {
            s->word = stream_word(s);
            s->left = 8;
        }
        n = s->left < len ? s->left : len;
        for (size_t i = 0; i < n; i++) {
            *out++ = (unsigned char)s->word;
            s->word >>= 8;
        }
        s->left -= (unsigned)n;
        len -= n;
    }
}

/* ---- TLS contexts -----------------------------------------------------------------------------
 */

static inline int
version_parse(const char *text)
{
    if (strcmp(text, "1.2") == 0)
        return TLS1_2_VERSION;
    if (strcmp(text, "1.3") == 0)
        return TLS1_3_VERSION;
    die("--tls-version: 1.2 or 1.3, not %s", text);
}

/* "h2,http/1.1" in the form of the wire. */
static inline void
alpn_offer(SSL_CTX *ctx, const char *list)
{
    unsigned char wire[256];
    size_t len = 0;

    while (*list) {
        size_t n = strcspn(list, ",");
        if (len + 1 + n > sizeof(wire))
            die("--alpn: too long");
        wire[len++] = (unsigned char)n;
        memcpy(wire + len, list, n);
        len += n;
        list += n + (list[n] == ',');
    }
    SSL_CTX_set_alpn_protos(ctx, wire, (unsigned)len);
}

/* NULL without --tls. --cert, --key, --cafile, --tls-version, --ciphers, --sigalgs, --alpn. */
static inline SSL_CTX *
context_open(const struct options *o, bool server)
{
    char *text;
    SSL_CTX *ctx;

    if (!option_set(o, "--tls"))
        return NULL;
    ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    if (!ctx)
        die("SSL_CTX_new");
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(ctx, 0);
    if ((text = option_text(o, "--tls-version")) != NULL) {
        SSL_CTX_set_min_proto_version(ctx, version_parse(text));
        SSL_CTX_set_max_proto_version(ctx, version_parse(text));
    }
    if ((text = option_text(o, "--ciphers")) != NULL && SSL_CTX_set_cipher_list(ctx, text) != 1)
        die("--ciphers: %s", text);
    if ((text = option_text(o, "--sigalgs")) != NULL && SSL_CTX_set1_sigalgs_list(ctx, text) != 1)
        die("--sigalgs: %s", text);
    if ((text = option_text(o, "--alpn")) != NULL)
        alpn_offer(ctx, text);
    if ((text = option_text(o, "--cert")) != NULL &&
        (SSL_CTX_use_certificate_chain_file(ctx, text) != 1 ||
         SSL_CTX_use_PrivateKey_file(ctx, option(o, "--key", text), SSL_FILETYPE_PEM) != 1))
        die("--cert %s: cannot be used", text);
    if ((text = option_text(o, "--cafile")) != NULL) {
        if (SSL_CTX_load_verify_locations(ctx, text, NULL) != 1)
            die("--cafile %s: cannot be used", text);
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    }
    return ctx;
}

/* ---- link -------------------------------------------------------------------------------------
 */

struct link {
    int fd;
    SSL *ssl;                           /* NULL = plain */
    bool connecting, shaking, notified; /* notified: close_notify came, FIN is waited for */
    bool told;                          /* ours has left */
    bool ended;                         /* nothing more will come; `end` says how */
    bool want_write;                    /* the last call waits for room, not for bytes */
    bool reset; /* a write met the RST: the kernel reports it only once, and then EOF */
    char end[64];
};

static inline void __attribute__((format(printf, 2, 3)))
link_end(struct link *l, const char *fmt, ...)
{
    va_list args;

    if (l->ended)
        return;
    l->ended = true;
    va_start(args, fmt);
    vsnprintf(l->end, sizeof(l->end), fmt, args);
    va_end(args);
    for (char *c = l->end; *c; c++)
        if (*c == ' ')
            *c = '_';
}

static inline void
link_end_errno(struct link *l, int error)
{
    if (error == ECONNRESET || error == EPIPE)
        link_end(l, "rst");
    else
        link_end(l, "error:%s", strerror(error));
}

/* What OpenSSL said after a call that did not succeed. */
static inline void
link_failed(struct link *l, int result)
{
    int saved = errno, why = SSL_get_error(l->ssl, result);
    unsigned long code = ERR_peek_last_error();

    l->want_write = why == SSL_ERROR_WANT_WRITE;
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
        return;
    if (why == SSL_ERROR_ZERO_RETURN) {
        l->notified = true;
    } else if (why == SSL_ERROR_SYSCALL) {
        if (saved == 0)
            link_end(l, l->reset ? "rst" : "fin");
        else
            link_end_errno(l, saved);
    } else if (ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
        link_end(l, l->reset ? "rst" : "fin");
    } else if (ERR_GET_REASON(code) >= SSL_AD_REASON_OFFSET) {
        link_end(l, "alert:%s",
                 SSL_alert_desc_string_long(ERR_GET_REASON(code) - SSL_AD_REASON_OFFSET));
    } else {
        const char *reason = ERR_reason_error_string(code);
        link_end(l, "error:%s", reason ? reason : "unknown");
    }
}

static inline void
link_start(struct link *l, int fd, SSL_CTX *ctx, bool server)
{
    int on = 1;

    memset(l, 0, sizeof(*l));
    l->fd = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* fails on unix sockets */
    if (!ctx)
        return;
    l->ssl = SSL_new(ctx);
    if (!l->ssl || SSL_set_fd(l->ssl, fd) != 1)
        die("SSL_new");
    l->shaking = true;
    if (server)
        SSL_set_accept_state(l->ssl);
    else
        SSL_set_connect_state(l->ssl);
}

/* Starts connecting; link_ready finishes it. */
static inline void
link_connect(struct link *l, const struct address *to, SSL_CTX *ctx, char *servername)
{
    int fd = socket(to->u.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        die("socket: %s", strerror(errno));
    link_start(l, fd, ctx, false);
    if (l->ssl && servername) {
        SSL_set_tlsext_host_name(l->ssl, servername);
        if (SSL_get_verify_mode(l->ssl) != SSL_VERIFY_NONE)
            SSL_set1_host(l->ssl, servername);
    }
    l->connecting = true;
    l->want_write = true;
    if (connect(fd, &to->u.sa, to->len) != 0 && errno != EINPROGRESS)
        link_end(l, "connect:%s", strerror(errno));
}

/* Moves connect and handshake on; true once bytes may flow. */
static inline bool
link_ready(struct link *l)
{
    if (l->ended)
        return false;
    if (l->connecting) {
        struct pollfd p = {.fd = l->fd, .events = POLLOUT};
        int error = 0;
        socklen_t len = sizeof(error);

        if (poll(&p, 1, 0) == 0)
            return false;
        getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &error, &len);
        if (error == ECONNRESET) { /* connected, and already over */
            link_end_errno(l, error);
            return false;
        }
        if (error) {
            link_end(l, "connect:%s", strerror(error));
            return false;
        }
        l->connecting = false;
        l->want_write = false;
    }
    if (l->shaking) {
        int result;

        ERR_clear_error();
        errno = 0;
        result = SSL_do_handshake(l->ssl);
        if (result != 1) {
            link_failed(l, result);
            return false;
        }
        l->shaking = false;
        l->want_write = false;
    }
    return true;
}

/* > 0: bytes; 0: nothing now, or the end (l->ended, l->notified). */
static inline size_t
link_read(struct link *l, void *buf, size_t len)
{
    ssize_t got;

    if (l->ended)
        return 0;
    errno = 0;
    if (l->ssl && !l->notified) {
        int result;

        ERR_clear_error();
        result = SSL_read(l->ssl, buf, (int)len);
        if (result > 0)
            return (size_t)result;
        link_failed(l, result);
        return 0;
    }
    got = recv(l->fd, buf, len, 0);
    if (got > 0 && !l->notified)
        return (size_t)got;
    if (got > 0)
        link_end(l, "error:bytes after close_notify");
    else if (got == 0)
        link_end(l, l->reset ? "rst" : l->notified ? "close_notify+fin" : "fin");
    else if (errno != EAGAIN && errno != EINTR)
        link_end_errno(l, errno);
    return 0;
}

/* Bytes taken. A broken connection shows on reading: what came before is still to be read. */
static inline size_t
link_write(struct link *l, const void *buf, size_t len, bool *broken)
{
    ssize_t put;

    *broken = false;
    errno = 0;
    if (l->ssl) {
        int result, why;

        ERR_clear_error();
        result = SSL_write(l->ssl, buf, (int)len);
        if (result > 0)
            return (size_t)result;
        l->reset |= errno == ECONNRESET || errno == EPIPE;
        why = SSL_get_error(l->ssl, result);
        l->want_write = why == SSL_ERROR_WANT_WRITE;
        *broken = why != SSL_ERROR_WANT_WRITE && why != SSL_ERROR_WANT_READ;
        return 0;
    }
    put = send(l->fd, buf, len, MSG_NOSIGNAL);
    if (put >= 0)
        return (size_t)put;
    l->want_write = errno == EAGAIN;
    l->reset |= errno == ECONNRESET || errno == EPIPE;
    *broken = errno != EAGAIN && errno != EINTR;
    return 0;
}

/* Sends close_notify; true when it has left (or never can). */
static inline bool
link_notify(struct link *l)
{
    int result;

    if (!l->ssl || l->told) /* libssl calls it sent when it is still to leave */
        return true;
    ERR_clear_error();
    errno = 0;
    result = SSL_shutdown(l->ssl);
    l->reset |= result < 0 && (errno == ECONNRESET || errno == EPIPE);
    l->told = result >= 0 || SSL_get_error(l->ssl, result) != SSL_ERROR_WANT_WRITE;
    return l->told;
}

static inline void
link_close(struct link *l, bool reset)
{
    struct linger now = {1, 0};

    if (l->fd < 0)
        return;
    if (reset)
        setsockopt(l->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    SSL_free(l->ssl);
    close(l->fd);
    l->ssl = NULL;
    l->fd = -1;
}

#endif

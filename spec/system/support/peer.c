/*
 * peer: one connection at a time, watched closely. It prints one line of key=value when a
 * connection has ended; `listen`ing commands print "listening port=N" first.
 *
 *   peer exchange (--connect ADDR | --listen ADDR [--count N]) [options]
 *       Sends --bytes N pseudo-random bytes (--seed) at --rate bytes/s, while it receives at
 * --recv-rate bytes/s, starting after --recv-delay ms. Sending begins --send-when start | eof. When
 * all is sent (--finish-when sent | eof: and the other side has ended | got:N: and N bytes have
 * come) it finishes: --finish half    close_notify (TLS) and FIN, then goes on receiving until the
 * other side ends (default) notify  close_notify only, likewise fin     FIN without close_notify,
 * likewise full    close_notify and close at once rst     RST at once none    nothing; receives
 * until the other side ends
 *       --linger MS: how long to wait for FIN after close_notify (default 2000). --timeout MS
 * (30000). Prints end= (see peer.h), sent=, sent_sha256=, got=, got_sha256=, ms=, version=,
 * cipher=, key= (type of the other side's key), sni=, alpn=.
 *
 *   peer vanish --connect ADDR --count N --sizes 0,1,5,100 [--servername NAME]
 *       Connects N times per size, sends that many first bytes of a ClientHello and is gone: by
 * FIN, and every other time by RST. Prints connected=, refused=.
 *
 * A server for which nobody comes within --timeout prints end=nobody.
 *
 * TLS: --tls, --servername, --cafile, --cert, --key, --tls-version, --ciphers, --sigalgs, --alpn.
 */
#include "peer.h"

#include <openssl/evp.h>

#define UNIT (64 * 1024)

/* ---- exchange ---------------------------------------------------------------------------------
 */

enum finish { FINISH_HALF, FINISH_NOTIFY, FINISH_FIN, FINISH_FULL, FINISH_RST, FINISH_NONE };

struct plan {
    uint64_t bytes, seed, rate, recv_rate, recv_delay, timeout, linger;
    bool send_at_eof;
    bool finish_at_eof;
    uint64_t finish_got;
    enum finish finish;
};

struct exchange {
    const struct plan *plan;
    struct link link;
    struct stream stream;
    EVP_MD_CTX *sent_hash, *got_hash;
    uint64_t sent, got, start, ended_at;
    size_t out_len, out_off; /* what was made and not yet taken */
    bool broken, finished;
    unsigned char out[UNIT], in[UNIT];
};

static enum finish
finish_parse(const char *text)
{
    static const char *const names[] = {"half", "notify", "fin", "full", "rst", "none"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(names[i], text) == 0)
            return (enum finish)i;
    die("--finish %s is unknown", text);
}

static void
plan_read(struct plan *plan, const struct options *o)
{
    const char *when = option(o, "--finish-when", "sent");

    plan->bytes = option_number(o, "--bytes", 0);
    plan->seed = option_number(o, "--seed", 1);
    plan->rate = option_number(o, "--rate", 0);
    plan->recv_rate = option_number(o, "--recv-rate", 0);
    plan->recv_delay = option_number(o, "--recv-delay", 0);
    plan->timeout = option_number(o, "--timeout", 30000);
    plan->linger = option_number(o, "--linger", 2000);
    plan->send_at_eof = strcmp(option(o, "--send-when", "start"), "eof") == 0;
    plan->finish_at_eof = strcmp(when, "eof") == 0;
    plan->finish_got = strncmp(when, "got:", 4) == 0 ? strtoull(when + 4, NULL, 10) : 0;
    plan->finish = finish_parse(option(o, "--finish", "half"));
}

static bool
other_side_ended(const struct exchange *x)
{
    return x->link.ended || x->link.notified;
}

/* What a rate allows now; everything without one. */
static uint64_t
allowance(const struct exchange *x, uint64_t rate, uint64_t done, uint64_t since)
{
    uint64_t now = now_ms() - x->start;

    if (now < since)
        return 0;
    if (!rate)
        return UINT64_MAX;
    now = (now - since) * rate / 1000;
    return now > done ? now - done : 0;
}

/* true if something moved. */
static bool
send_some(struct exchange *x)
{
    uint64_t most = allowance(x, x->plan->rate, x->sent, 0);
    size_t put;

    if (x->broken || x->finished || (x->plan->send_at_eof && !other_side_ended(x)))
        return false;
    if (x->out_off == x->out_len) {
        uint64_t left = x->plan->bytes - x->sent;
        if (most > left)
            most = left;
        if (most > UNIT)
            most = UNIT;
        if (most == 0)
            return false;
        x->out_off = 0;
        x->out_len = (size_t)most;
        stream_fill(&x->stream, x->out, x->out_len);
        EVP_DigestUpdate(x->sent_hash, x->out, x->out_len);
    }
    put = link_write(&x->link, x->out + x->out_off, x->out_len - x->out_off, &x->broken);
    x->out_off += put;
    x->sent += put;
    return put > 0;
}

static bool
receive_some(struct exchange *x)
{
    uint64_t most = allowance(x, x->plan->recv_rate, x->got, x->plan->recv_delay);
    size_t got;

    if (x->link.ended || most == 0)
        return false;
    got = link_read(&x->link, x->in, most < UNIT ? (size_t)most : UNIT);
    EVP_DigestUpdate(x->got_hash, x->in, got);
    x->got += got;
    if (other_side_ended(x) && !x->ended_at)
        x->ended_at = now_ms();
    return got > 0;
}

/* Carries the finish out once its time has come; true when the connection is ours no longer. */
static bool
finish_when_due(struct exchange *x)
{
    const struct plan *plan = x->plan;

    if (x->finished || (x->sent < plan->bytes && !x->broken) ||
        (plan->send_at_eof && !other_side_ended(x)) ||
        (plan->finish_at_eof && !other_side_ended(x)) || x->got < plan->finish_got)
        return false;
    switch (plan->finish) {
    case FINISH_HALF:
        if (!link_notify(&x->link))
            return false;
        shutdown(x->link.fd, SHUT_WR);
        break;
    case FINISH_NOTIFY:
        if (!link_notify(&x->link))
            return false;
        break;
    case FINISH_FIN:
        shutdown(x->link.fd, SHUT_WR);
        break;
    case FINISH_FULL:
        if (!link_notify(&x->link))
            return false;
        link_end(&x->link, "closed");
        break;
    case FINISH_RST:
        link_end(&x->link, "closed");
        break;
    case FINISH_NONE:
        break;
    }
    x->finished = true;
    return plan->finish == FINISH_FULL || plan->finish == FINISH_RST;
}

/* After close_notify a FIN should follow; whoever does not send one is reported as such. */
static bool
over(struct exchange *x)
{
    if (x->link.notified && !x->link.ended && x->finished &&
        now_ms() - x->ended_at > x->plan->linger)
        link_end(&x->link, "close_notify");
    return x->link.ended && (x->finished || x->broken || strcmp(x->link.end, "rst") == 0);
}

static void
wait_for_events(struct exchange *x)
{
    bool sends = !x->finished && !x->broken &&
                 (x->sent < x->plan->bytes || x->out_off < x->out_len) &&
                 !(x->plan->send_at_eof && !other_side_ended(x)) &&
                 allowance(x, x->plan->rate, x->sent, 0) > 0;
    bool receives =
        !x->link.ended && allowance(x, x->plan->recv_rate, x->got, x->plan->recv_delay) > 0;
    struct pollfd p = {.fd = x->link.fd};

    if (receives || x->link.shaking)
        p.events |= POLLIN;
    if (sends || x->link.want_write || x->link.connecting)
        p.events |= POLLOUT;
    if (!p.events)
        p.fd = -1; /* or POLLHUP would make us spin */
    poll(&p, 1, 10);
}

static const char *
hash_text(EVP_MD_CTX *hash, char out[65])
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned len = 0;

    EVP_DigestFinal_ex(hash, sum, &len);
    for (unsigned i = 0; i < len && i < 32; i++)
        snprintf(out + 2 * i, 3, "%02x", sum[i]);
    EVP_MD_CTX_free(hash);
    return out;
}

static void
exchange_report(struct exchange *x)
{
    char sent[65], got[65];
    const unsigned char *alpn = NULL;
    unsigned alpn_len = 0;
    SSL *ssl = x->link.ssl;
    X509 *certificate = ssl ? SSL_get1_peer_certificate(ssl) : NULL;
    const char *key = certificate ? EVP_PKEY_get0_type_name(X509_get0_pubkey(certificate)) : NULL;
    const char *sni = ssl ? SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name) : NULL;

    printf("end=%s sent=%llu sent_sha256=%s got=%llu got_sha256=%s ms=%llu", x->link.end,
           (unsigned long long)x->sent, hash_text(x->sent_hash, sent), (unsigned long long)x->got,
           hash_text(x->got_hash, got), (unsigned long long)(now_ms() - x->start));
    if (ssl) {
        SSL_get0_alpn_selected(ssl, &alpn, &alpn_len);
        printf(" version=%s cipher=%s key=%s sni=%s alpn=%.*s", SSL_get_version(ssl),
               SSL_get_cipher(ssl), key ? key : "none", sni ? sni : "none", (int)alpn_len,
               alpn_len ? (const char *)alpn : "");
    }
    printf("\n");
    fflush(stdout);
    X509_free(certificate);
}

static void
exchange_run(struct exchange *x)
{
    while (!over(x)) {
        bool moved;

        if (now_ms() - x->start > x->plan->timeout) {
            link_end(&x->link, "timeout");
            break;
        }
        if (!x->link.ended && !link_ready(&x->link)) {
            if (x->link.ended)
                break;
            wait_for_events(x);
            continue;
        }
        moved = send_some(x);
        moved |= receive_some(x);
        if (finish_when_due(x))
            break;
        if (!moved && !over(x))
            wait_for_events(x);
    }
}

static struct exchange *
exchange_new(const struct plan *plan)
{
    struct exchange *x = calloc(1, sizeof(*x));

    if (!x)
        die("no memory");
    x->plan = plan;
    x->start = now_ms();
    x->sent_hash = EVP_MD_CTX_new();
    x->got_hash = EVP_MD_CTX_new();
    EVP_DigestInit_ex(x->sent_hash, EVP_sha256(), NULL);
    EVP_DigestInit_ex(x->got_hash, EVP_sha256(), NULL);
    stream_start(&x->stream, plan->seed);
    return x;
}

static void
exchange_end(struct exchange *x)
{
    exchange_run(x);
    exchange_report(x);
    link_close(&x->link, x->plan->finish == FINISH_RST);
    free(x);
}

/* -1: nobody came in time. */
static int
accept_one(int listener, uint64_t timeout)
{
    struct pollfd p = {.fd = listener, .events = POLLIN};
    uint64_t end = now_ms() + timeout, now;
    int fd = -1;

    while (fd < 0 && (now = now_ms()) < end) {
        poll(&p, 1, (int)(end - now));
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    }
    return fd;
}

static int
command_exchange(const struct options *o)
{
    const char *to = option(o, "--connect", NULL), *at = option(o, "--listen", NULL);
    SSL_CTX *ctx = context_open(o, at != NULL);
    struct plan plan;
    struct exchange *x;

    plan_read(&plan, o);
    if (to) {
        struct address address;
        address_parse(&address, to);
        x = exchange_new(&plan);
        link_connect(&x->link, &address, ctx, option_text(o, "--servername"));
        exchange_end(x);
    } else if (at) {
        int listener = listen_open(at);
        for (uint64_t left = option_number(o, "--count", 1); left > 0; left--) {
            int fd = accept_one(listener, plan.timeout);
            if (fd < 0) {
                printf("end=nobody\n");
                break;
            }
            x = exchange_new(&plan);
            link_start(&x->link, fd, ctx, true);
            exchange_end(x);
        }
        close(listener);
    } else {
        die("exchange: --connect or --listen");
    }
    SSL_CTX_free(ctx);
    return 0;
}

/* ---- vanish -----------------------------------------------------------------------------------
 */

/* What a client sends first. */
static size_t
hello_make(char *servername, unsigned char *out, size_t cap)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL *ssl = ctx ? SSL_new(ctx) : NULL;
    BIO *wire = BIO_new(BIO_s_mem());
    int len;

    if (!ssl || !wire)
        die("no ClientHello");
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), wire);
    if (servername)
        SSL_set_tlsext_host_name(ssl, servername);
    SSL_set_connect_state(ssl);
    SSL_do_handshake(ssl);
    len = BIO_read(wire, out, (int)cap);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    return len > 0 ? (size_t)len : 0;
}

static int
command_vanish(const struct options *o)
{
    struct address to;
    unsigned char hello[2048];
    size_t hello_len = hello_make(option_text(o, "--servername"), hello, sizeof(hello));
    uint64_t count = option_number(o, "--count", 1), connected = 0, refused = 0;
    const char *size = option(o, "--sizes", "0");

    address_parse(&to, option(o, "--connect", ""));
    for (;;) {
        char *next;
        size_t bytes = strtoul(size, &next, 10);

        if (bytes > hello_len)
            die("--sizes: a ClientHello has %zu bytes", hello_len);
        for (uint64_t i = 0; i < count; i++) {
            struct linger now = {1, 0};
            int fd = socket(to.u.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

            if (connect(fd, &to.u.sa, to.len) != 0) {
                refused++;
            } else {
                connected++;
                if (send(fd, hello, bytes, MSG_NOSIGNAL) != (ssize_t)bytes)
                    refused++;
                if (i % 2)
                    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
            }
            close(fd);
        }
        if (*next != ',')
            break;
        size = next + 1;
    }
    printf("connected=%llu refused=%llu\n", (unsigned long long)connected,
           (unsigned long long)refused);
    return 0;
}

int
main(int argc, char **argv)
{
    struct options o = {argc, argv};

    signal(SIGPIPE, SIG_IGN);
    descriptors_raise();
    if (argc > 1 && strcmp(argv[1], "exchange") == 0)
        return command_exchange(&o);
    if (argc > 1 && strcmp(argv[1], "vanish") == 0)
        return command_vanish(&o);
    die("usage: peer exchange|vanish …");
}

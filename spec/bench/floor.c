/*
 * floor: what OpenSSL's server side costs in memory, without a socket, a kernel and a proxy. Together
 * with the relay it is the limit that no proxy on OpenSSL can pass.
 *
 *   floor handshake  a connection: SSL object, handshake, an ask read, an answer of 16 bytes written,
 *                    close_notify both ways, freed; ns= of one
 *   floor encrypt    records of --size (16384) bytes; ns= of one, bytes= of one
 *   floor decrypt    the same, received
 *   floor request    --size bytes received and --size bytes sent
 *
 * --cert --key, --tls-version, --ciphers, --ciphersuites, --sigalgs, --resume ticket|id, --tickets N
 * (of TLS 1.3; 1), --seconds S. Only the server's steps are timed, each by the thread's own CPU clock; the
 * figure is the tenth percentile, because nothing makes a step cheaper than it is.
 */
#include "measure.h"

struct pair {
    SSL *server, *client;
    uint64_t spent; /* ns of the server */
};

static SSL_CTX *server_ctx, *client_ctx;
static SSL_SESSION *session;
static bool keep_sessions;
static unsigned char unit[UNIT];

static uint64_t
thread_ns(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

static void
pair_open(struct pair *p)
{
    BIO *to_server = BIO_new(BIO_s_mem()), *to_client = BIO_new(BIO_s_mem());
    uint64_t begun;

    p->client = SSL_new(client_ctx);
    begun = thread_ns();
    p->server = SSL_new(server_ctx);
    if (!p->client || !p->server || !to_server || !to_client)
        die("no memory");
    SSL_set_accept_state(p->server);
    p->spent = thread_ns() - begun;
    BIO_up_ref(to_server);
    BIO_up_ref(to_client);
    SSL_set_bio(p->server, to_server, to_client);
    SSL_set_bio(p->client, to_client, to_server);
    SSL_set_connect_state(p->client);
    if (session)
        SSL_set_session(p->client, session);
}

static void
pair_shake(struct pair *p)
{
    for (int step = 0; step < 10; step++) {
        int client = SSL_do_handshake(p->client), server;
        uint64_t begun = thread_ns();

        server = SSL_do_handshake(p->server);
        p->spent += thread_ns() - begun;
        if (client == 1 && server == 1)
            return;
    }
    ERR_print_errors_fp(stderr);
    die("the handshake does not end");
}

static void
must(bool well, const char *what)
{
    if (well)
        return;
    ERR_print_errors_fp(stderr);
    die("%s failed", what);
}

/* The client sends `brings` bytes, the server answers with `wants`. */
static void
pair_exchange(struct pair *p, size_t brings, size_t wants)
{
    uint64_t begun;
    size_t left, done;

    if (brings)
        must(SSL_write_ex(p->client, unit, brings, &done) == 1, "the client's write");
    begun = thread_ns();
    for (left = brings; left > 0; left -= done)
        must(SSL_read_ex(p->server, unit, left, &done) == 1, "the server's read");
    if (wants)
        must(SSL_write_ex(p->server, unit, wants, &done) == 1, "the server's write");
    p->spent += thread_ns() - begun;
    for (left = wants; left > 0; left -= done)
        must(SSL_read_ex(p->client, unit, left, &done) == 1, "the client's read");
}

static void
pair_close(struct pair *p)
{
    uint64_t begun;

    SSL_shutdown(p->client);
    begun = thread_ns();
    SSL_read(p->server, unit, 1);
    SSL_shutdown(p->server);
    SSL_free(p->server);
    p->spent += thread_ns() - begun;
    SSL_free(p->client);
    ERR_clear_error();
}

static int
on_session(SSL *ssl, SSL_SESSION *made)
{
    (void)ssl;
    if (!keep_sessions)
        return 0;
    SSL_SESSION_free(session);
    session = made;
    return 1;
}

static uint64_t
connection_once(void)
{
    struct pair p;

    pair_open(&p);
    pair_shake(&p);
    must(!session || keep_sessions || SSL_session_reused(p.server), "resumption");
    pair_exchange(&p, ASK_SIZE, 16);
    pair_close(&p);
    return p.spent;
}

static void
contexts_open(const struct options *o)
{
    const char *resume = option(o, "--resume", "");
    char *text;

    server_ctx = context_open(o, true);
    client_ctx = context_open(o, false);
    if (!server_ctx || !client_ctx)
        die("--tls, --cert and --key are needed");
    SSL_CTX_set_verify(client_ctx, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_num_tickets(server_ctx, option_number(o, "--tickets", 1));
    SSL_CTX_set_session_id_context(server_ctx, (const unsigned char *)"floor", 5);
    SSL_CTX_clear_mode(client_ctx, SSL_MODE_RELEASE_BUFFERS);
    if ((text = option_text(o, "--ciphersuites")) &&
        SSL_CTX_set_ciphersuites(client_ctx, text) != 1)
        die("--ciphersuites: %s", text);
    if (strcmp(resume, "id") == 0) {
        SSL_CTX_set_options(client_ctx, SSL_OP_NO_TICKET);
        SSL_CTX_set_session_cache_mode(server_ctx, SSL_SESS_CACHE_SERVER);
    }
    if (!*resume)
        return;
    SSL_CTX_set_session_cache_mode(client_ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(client_ctx, on_session);
    keep_sessions = true;
    connection_once();
    keep_sessions = false;
    /* otherwise a new ticket makes the session it came with one that is not resumed again */
    SSL_CTX_set_session_cache_mode(client_ctx, SSL_SESS_CACHE_OFF);
    must(session != NULL, "getting a session");
}

int
main(int argc, char **argv)
{
    struct options o = {argc, argv};
    const char *command = argc > 1 ? argv[1] : "";
    uint64_t until;
    size_t size = option_number(&o, "--size", 16384), brings = 0, wants = 0;
    struct samples samples = {0};
    struct pair p;

    contexts_open(&o);
    if (strcmp(command, "decrypt") == 0 || strcmp(command, "request") == 0)
        brings = size;
    if (strcmp(command, "encrypt") == 0 || strcmp(command, "request") == 0)
        wants = size;
    if (strcmp(command, "handshake") != 0 && brings + wants == 0)
        die("usage: floor handshake|encrypt|decrypt|request …");
    if (brings + wants > 0) {
        pair_open(&p);
        pair_shake(&p);
    }
    until = now_ns() + (uint64_t)(option_double(&o, "--seconds", 0.2) * 1e9);
    do {
        if (brings + wants > 0) {
            p.spent = 0;
            pair_exchange(&p, brings, wants);
            samples_add(&samples, p.spent);
        } else {
            samples_add(&samples, connection_once());
        }
    } while (now_ns() < until);
    samples_sort(&samples);
    printf("ns=%.0f bytes=%zu units=%zu\n", samples_at(&samples, 0.1) * 1e3, brings + wants,
           samples.count);
    free(samples.ns);
    return 0;
}

/*
 * handshake: two ends of a connection in memory, for the proof of a script and for tests of
 * policies. What Lua sees of them is in connection.c.
 *
 * The happy path is: both ends are stepped in turn, each fed with what the other wrote, until both
 * have finished their handshake and the client has read the tickets; then data goes both ways.
 * Where the ClientHello decides the server's SSL object is made of what was decided, as in the engine.
 * Possible failure modes are: one end fails (its alert is delivered to the other, which then fails
 * too), nothing moves any more (the end that still waits says so).
 */
#include "openssl/internal.h"

#include <string.h>

struct mg_memory_pair *
mg_memory_pair_new(void)
{
    return mg_calloc(1, sizeof(struct mg_memory_pair));
}

static void
end_close(struct mg_memory_end *end)
{
    mg_tls_conn_close(&end->conn);
    mg_buf_free_secret(&end->inbox);
}

void
mg_memory_pair_free(struct mg_memory_pair *pair)
{
    if (!pair)
        return;
    end_close(&pair->server);
    end_close(&pair->client);
    SSL_CTX_free(pair->undecided);
    mg_free(pair);
}

static void
end_fail(struct mg_memory_end *end, const char *text)
{
    end->failed = true;
    mg_err_setx(&end->err, "%s", text);
}

/* What the other end wrote, for one call into libssl; io_end says what became of it. */
static struct mg_tls_io
io_begin(struct mg_memory_pair *pair, struct mg_memory_end *end)
{
    return (struct mg_tls_io){
        .in = (const unsigned char *)end->inbox.data + end->inbox_used,
        .in_len = end->inbox.len - end->inbox_used,
        .out = pair->out,
        .out_cap = sizeof(pair->out),
    };
}

static void
io_end(struct mg_memory_pair *pair, struct mg_memory_end *end, const struct mg_tls_io *io)
{
    struct mg_memory_end *peer = end == &pair->server ? &pair->client : &pair->server;
    end->inbox_used += io->in_used;
    if (end->inbox_used == end->inbox.len)
        end->inbox_used = end->inbox.len = 0;
    mg_buf_add(&peer->inbox, pair->out, io->out_len);
    if (peer->inbox.failed)
        end_fail(end, "out of memory");
}

/* ---- the server's context ------------------------------------------------------------------- */

/* As the engine does it: the decision precedes the SSL object, refusal is an alert in plain. */
static void
server_refuse(struct mg_memory_pair *pair, int alert, const char *text)
{
    struct mg_memory_end *server = &pair->server;
    unsigned char record[MG_TLS_ALERT_RECORD];
    if (alert >= 0) {
        mg_tls_alert_record(alert, record);
        mg_buf_add(&pair->client.inbox, record, sizeof(record));
        server->conn.alert_sent = (int16_t)alert;
    }
    end_fail(server, text);
}

static void
servername_ask(struct mg_memory_pair *pair, const struct mg_hello *hello)
{
    const struct mg_ssl_context_extra *extra = mg_ssl_context_extra(pair->undecided);
    const char *error;
    SSL_CTX *chosen = NULL;
    char name[256];
    int alert;
    if (!extra || !extra->callbacks.servername_cb || !hello->servername.data)
        return;
    memcpy(name, hello->servername.data, hello->servername.len); /* at most 255 */
    name[hello->servername.len] = '\0';
    if (mg_ssl_context_servername(extra->link->L, pair->undecided, &pair->server.conn, name,
                                  &chosen, &alert) < 0) {
        error = pair->server.conn.callback_error;
        server_refuse(pair, alert, error ? error : "refused");
        return;
    }
    SSL_CTX_free(pair->undecided);
    pair->undecided = chosen;
}

/* By a whole ClientHello, or by what the parser has refused: that is left to libssl, which says why. */
static void
server_choose(struct mg_memory_pair *pair, const struct mg_hello *hello, bool is_complete)
{
    struct mg_err err;
    int alert = -1;
    if (pair->decide) {
        mg_err_setx(&err, "the ClientHello is malformed");
        if (is_complete)
            pair->undecided = pair->decide(pair->decide_data, hello, &alert, &err);
        if (!pair->undecided) {
            server_refuse(pair, alert, err.text);
            return;
        }
    }
    if (is_complete)
        servername_ask(pair, hello);
}

/* true if the ClientHello was there: the server has its SSL object, or has failed. */
static bool
server_decide(struct mg_memory_pair *pair)
{
    struct mg_memory_end *server = &pair->server;
    unsigned char *room = mg_malloc(MG_HELLO_MAX);
    struct mg_hello hello;
    if (!room) {
        end_fail(server, "out of memory");
        return true;
    }
    enum mg_hello_status status = mg_hello_read(
        &pair->hello, (const unsigned char *)server->inbox.data, server->inbox.len, room, &hello);
    if (status != MG_HELLO_MORE)
        server_choose(pair, &hello, status == MG_HELLO_COMPLETE);
    mg_free(room);
    if (status == MG_HELLO_MORE || server->failed)
        return server->failed;
    server->failed =
        mg_tls_conn_open(&server->conn, pair->undecided, MG_TLS_SERVER, NULL, &server->err) < 0;
    server->conn.noting = true; /* alpn_protocols */
    SSL_CTX_free(pair->undecided);
    pair->undecided = NULL;
    pair->deciding = false;
    return true;
}

/* ---- both ends ------------------------------------------------------------------------------- */

/* One call into libssl; true if anything moved. */
static bool
end_step(struct mg_memory_pair *pair, struct mg_memory_end *end)
{
    unsigned char plain[1024];
    struct mg_tls_io io = io_begin(pair, end);
    bool was_done = end->conn.handshake_done;
    size_t got = 0;
    if (end->failed)
        return false;
    if (end == &pair->server && pair->deciding)
        return server_decide(pair);
    enum mg_tls_status status =
        was_done ? mg_tls_conn_read(&end->conn, &io, plain, sizeof(plain), &got, &end->err)
                 : mg_tls_conn_handshake(&end->conn, &io, &end->err);
    end->failed = status == MG_TLS_ERROR;
    io_end(pair, end, &io);
    return io.in_used > 0 || io.out_len > 0 || end->failed || was_done != end->conn.handshake_done;
}

static int
server_open(struct mg_memory_pair *pair, SSL_CTX *ctx, struct mg_err *err)
{
    const struct mg_ssl_context_extra *extra = ctx ? mg_ssl_context_extra(ctx) : NULL;
    if (!pair->decide && !(pair->asks_servername && extra && extra->callbacks.servername_cb))
        return mg_tls_conn_open(&pair->server.conn, ctx, MG_TLS_SERVER, NULL, err);
    mg_tls_conn_init(&pair->server.conn, NULL);
    pair->deciding = true;
    if (ctx)
        SSL_CTX_up_ref(ctx);
    pair->undecided = ctx;
    return 0;
}

int
mg_memory_pair_open(struct mg_memory_pair *pair, SSL_CTX *server, SSL_CTX *client,
                    const char *servername, SSL_SESSION *session, struct mg_err *err)
{
    const struct mg_ssl_context_extra *extra = mg_ssl_context_extra(client);
    if (server_open(pair, server, err) < 0 ||
        mg_tls_conn_open(&pair->client.conn, client, MG_TLS_CLIENT, NULL, err) < 0)
        return -1;
    pair->server.conn.noting = true;
    if (servername && mg_tls_conn_set_servername(&pair->client.conn, servername,
                                                 extra && extra->verify_hostname, err) < 0)
        return -1;
    SSL_set_tlsext_status_type(pair->client.conn.ssl, TLSEXT_STATUSTYPE_ocsp); /* as browsers do */
    if (mg_ssl_session_offer(pair->client.conn.ssl, servername, session) < 0) {
        mg_tls_err_take(err, "SSL_set_session");
        return -1;
    }
    return 0;
}

void
mg_memory_pair_run(struct mg_memory_pair *pair)
{
    struct mg_memory_end *server = &pair->server, *client = &pair->client;
    bool moved = true;
    while (moved) {
        moved = end_step(pair, client);
        moved = end_step(pair, server) || moved;
    }
    if (!server->failed && !server->conn.handshake_done)
        end_fail(server, "the handshake did not finish");
    if (!client->failed && !client->conn.handshake_done)
        end_fail(client, "the handshake did not finish");
}

int
mg_memory_pair_alert(const struct mg_memory_pair *pair)
{
    return pair->server.conn.alert_sent >= 0 ? pair->server.conn.alert_sent
                                             : pair->client.conn.alert_sent;
}

/* ---- data ------------------------------------------------------------------------------------ */

enum mg_tls_status
mg_memory_end_read(struct mg_memory_pair *pair, struct mg_memory_end *end, void *buf, size_t cap,
                   size_t *got)
{
    struct mg_tls_io io;
    enum mg_tls_status status;
    *got = 0;
    if (end->failed)
        return MG_TLS_ERROR;
    do { /* the output is full only of answers to key updates */
        size_t part;
        io = io_begin(pair, end);
        status =
            mg_tls_conn_read(&end->conn, &io, (char *)buf + *got, cap - *got, &part, &end->err);
        *got += part;
        end->failed = status == MG_TLS_ERROR;
        io_end(pair, end, &io);
    } while (status == MG_TLS_WANT_WRITE && !end->failed);
    return end->failed ? MG_TLS_ERROR : status;
}

int
mg_memory_end_write(struct mg_memory_pair *pair, struct mg_memory_end *end, const void *data,
                    size_t len)
{
    size_t done = 0;
    while (done < len && !end->failed) {
        struct mg_tls_io io = io_begin(pair, end);
        size_t used;
        enum mg_tls_status status = mg_tls_conn_write(&end->conn, &io, (const char *)data + done,
                                                      len - done, &used, &end->err);
        done += used;
        if (status == MG_TLS_CLOSED || (status == MG_TLS_WANT_READ && io.out_len == 0))
            end_fail(end, "the connection does not take data");
        else
            end->failed = status == MG_TLS_ERROR;
        io_end(pair, end, &io);
    }
    return end->failed ? -1 : 0;
}

void
mg_memory_end_shutdown(struct mg_memory_pair *pair, struct mg_memory_end *end)
{
    struct mg_tls_io io = io_begin(pair, end);
    if (end->failed || !end->conn.handshake_done)
        return;
    end->failed = mg_tls_conn_shutdown(&end->conn, &io, &end->err) == MG_TLS_ERROR;
    io_end(pair, end, &io);
}

/* ---- for the proof --------------------------------------------------------------------------- */

/* Most of a handshake's time goes into what its client parses. */
static bool
pair_bare(struct mg_memory_pair *pair, X509 *x509)
{
    SSL *server = pair->server.conn.ssl;
    SSL_set_mode(server, SSL_MODE_NO_AUTO_CHAIN);
    SSL_set_num_tickets(server, 0);
    SSL_set_options(pair->client.conn.ssl, SSL_OP_NO_TICKET);
    return SSL_select_current_cert(server, x509) == 1 && SSL_set0_chain(server, NULL) == 1;
}

int
mg_memory_handshake(struct mg_memory_handshake *hs, struct mg_err *err)
{
    struct mg_memory_pair *pair = mg_memory_pair_new();
    hs->ok = false;
    hs->alert = -1;
    hs->server_cert = NULL;
    hs->version[0] = hs->cipher[0] = hs->key_type[0] = '\0';
    hs->server_error[0] = hs->client_error[0] = '\0';
    if (!pair) {
        mg_err_setx(err, "out of memory");
        return -1;
    }
    int rc = mg_memory_pair_open(pair, hs->server, hs->client, hs->servername, NULL, err);
    if (rc == 0 && hs->bare && !pair_bare(pair, hs->bare)) {
        mg_tls_err_take(err, "SSL_set0_chain");
        rc = -1;
    }
    if (rc < 0)
        goto done;
    mg_memory_pair_run(pair);
    SSL *ssl = pair->client.conn.ssl;
    hs->ok = !pair->server.failed && !pair->client.failed;
    hs->alert = mg_memory_pair_alert(pair);
    if (pair->server.failed)
        mg_str_copy(hs->server_error, sizeof(hs->server_error), pair->server.err.text);
    if (pair->client.failed)
        mg_str_copy(hs->client_error, sizeof(hs->client_error), pair->client.err.text);
    if (SSL_get_current_cipher(ssl)) {
        mg_str_copy(hs->version, sizeof(hs->version), SSL_get_version(ssl));
        mg_str_copy(hs->cipher, sizeof(hs->cipher),
                    SSL_CIPHER_get_name(SSL_get_current_cipher(ssl)));
    }
    hs->server_cert = SSL_get1_peer_certificate(ssl);
    if (hs->server_cert && X509_get0_pubkey(hs->server_cert))
        mg_str_copy(hs->key_type, sizeof(hs->key_type),
                    mg_pkey_type_name(X509_get0_pubkey(hs->server_cert)));
done:
    mg_memory_pair_free(pair);
    ERR_clear_error();
    return rc;
}

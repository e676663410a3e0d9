/*
 * One TLS connection as a function of buffers.
 *
 * The happy path is: open, set_servername (client), handshake until OK, then read and write in any
 * order, shutdown when our side has said everything, close. Possible failure modes are: the
 * handshake fails (ERROR; what is in the output then is the alert and should leave), a record does
 * not authenticate (likewise), the output is full (WANT_WRITE; the same call again after flushing).
 *
 * ERR_clear_error stands before every SSL_* I/O call and SSL_get_error right after it: an entry
 * that somebody else left in the queue would otherwise turn "try again" into a failure.
 */
#include "tls/internal.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

static int conn_index = -1, threads_index = -1;
static pthread_once_t index_once = PTHREAD_ONCE_INIT;

static void
index_make(void)
{
    conn_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    threads_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

/* Without memory it stays as it is for a new context: not allowed. */
void
mg_tls_threads_allow(SSL_CTX *ctx, bool allowed)
{
    pthread_once(&index_once, index_make);
    if (threads_index >= 0)
        SSL_CTX_set_ex_data(ctx, threads_index, allowed ? &threads_index : NULL);
}

bool
mg_tls_threads_allowed(const SSL_CTX *ctx)
{
    return threads_index >= 0 && SSL_CTX_get_ex_data(ctx, threads_index) != NULL;
}

struct mg_tls_conn *
mg_tls_conn_of(const SSL *ssl)
{
    return conn_index < 0 ? NULL : SSL_get_ex_data(ssl, conn_index);
}

/* ---- what libssl tells us on the way --------------------------------------------------------- */

static void
on_info(const SSL *ssl, int where, int ret)
{
    struct mg_tls_conn *conn = mg_tls_conn_of(ssl);
    void (*of_context)(const SSL *, int, int) = SSL_CTX_get_info_callback(SSL_get_SSL_CTX(ssl));

    if (of_context != NULL)
        of_context(ssl, where, ret);
    if (conn == NULL)
        return;
    if (conn->handshake_done && ++conn->steps > MG_TLS_STEPS_MAX)
        conn->flood = where & SSL_CB_ALERT ? MG_TLS_FLOOD_WARNINGS : MG_TLS_FLOOD_KEY_UPDATES;
    if (where == SSL_CB_WRITE_ALERT && (ret & 0xff) == SSL_AD_NO_RENEGOTIATION &&
        ++conn->renegotiations > MG_TLS_RENEGOTIATIONS_MAX)
        conn->flood = MG_TLS_FLOOD_RENEGOTIATIONS;
    if (!(where & SSL_CB_ALERT) || (ret >> 8) != SSL3_AL_FATAL)
        return;
    if (where & SSL_CB_READ)
        conn->alert_received = (int16_t)(ret & 0xff);
    else
        conn->alert_sent = (int16_t)(ret & 0xff);
}

/* Of the first one only: what follows a request for another key share says no more. */
static void
hello_keep(struct mg_tls_conn *conn, const unsigned char *msg, size_t len)
{
    if (conn->ring == NULL || conn->ring_number != 0 || len == 0 || msg[0] != SSL3_MT_CLIENT_HELLO)
        return;
    conn->ring_number = mg_ring_add(conn->ring, conn->ring_listener, msg, len);
    if (conn->ring_number == 0)
        conn->ring = NULL;
}

/* Server, until the handshake is done: libssl forgets what the client had offered. */
static void
on_message(int outgoing, int version, int content_type, const void *data, size_t len, SSL *ssl,
           void *arg)
{
    struct mg_tls_conn *conn = arg;
    struct mg_hello hello;

    (void)version;
    (void)ssl;
    if (outgoing || content_type != SSL3_RT_HANDSHAKE)
        return;
    hello_keep(conn, data, len);
    if (conn->noting && conn->ja4 == NULL && mg_hello_parse(data, len, &hello) == MG_HELLO_COMPLETE)
        mg_tls_conn_note_hello(conn, &hello);
}

void
mg_tls_conn_note_hello(struct mg_tls_conn *conn, const struct mg_hello *hello)
{
    struct mg_buf offered = {0};
    char ja4[MG_HELLO_JA4];

    mg_hello_protocols(hello, &offered);
    if (offered.len > 0 && conn->alpn_offered == NULL)
        conn->alpn_offered = mg_buf_take(&offered);
    mg_buf_free(&offered);
    if (conn->ja4 == NULL && mg_hello_ja4(hello, ja4) == 0)
        conn->ja4 = mg_strdup(ja4);
}

/* ---- life ------------------------------------------------------------------------------------ */

void
mg_tls_conn_init(struct mg_tls_conn *conn, void *owner)
{
    memset(conn, 0, sizeof(*conn));
    conn->owner = owner;
    conn->alert_sent = conn->alert_received = -1;
}

int
mg_tls_conn_open(struct mg_tls_conn *conn, SSL_CTX *ctx, enum mg_tls_role role, void *owner,
                 struct mg_err *err)
{
    BIO *bio;

    mg_tls_conn_init(conn, owner);
    pthread_once(&index_once, index_make);
    ERR_clear_error();
    conn->ssl = conn_index >= 0 ? SSL_new(ctx) : NULL;
    bio = conn->ssl != NULL ? mg_tls_bio_new() : NULL;
    if (bio == NULL || !SSL_set_ex_data(conn->ssl, conn_index, conn)) {
        mg_tls_err_take(err, "SSL_new");
        BIO_free(bio);
        SSL_free(conn->ssl);
        conn->ssl = NULL;
        return -1;
    }
    SSL_set_bio(conn->ssl, bio, bio);
    SSL_set_mode(conn->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                SSL_MODE_RELEASE_BUFFERS);
    SSL_set_options(conn->ssl, SSL_OP_NO_RENEGOTIATION);
    SSL_set_info_callback(conn->ssl, on_info);
    if (role == MG_TLS_SERVER) {
        SSL_set_msg_callback(conn->ssl, on_message);
        SSL_set_msg_callback_arg(conn->ssl, conn);
        SSL_set_accept_state(conn->ssl);
    } else {
        SSL_set_connect_state(conn->ssl);
    }
    return 0;
}

void
mg_tls_conn_close(struct mg_tls_conn *conn)
{
    if (conn->ssl != NULL) {
        /* Without this libssl takes the end for an accident and drops the session from its cache.
         */
        if (conn->handshake_done)
            SSL_set_shutdown(conn->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
        SSL_free(conn->ssl);
        conn->ssl = NULL;
    }
    mg_free(conn->callback_error);
    mg_free(conn->alpn_offered);
    mg_free(conn->ja4);
    conn->callback_error = conn->alpn_offered = conn->ja4 = NULL;
}

void
mg_tls_conn_keep_hello(struct mg_tls_conn *conn, struct mg_ring *ring, const char *listener)
{
    conn->ring = ring;
    conn->ring_listener = ring != NULL ? mg_str_hash(listener, strlen(listener)) : 0;
}

void
mg_tls_conn_kept_hello(struct mg_tls_conn *conn, struct mg_ring *ring, uint64_t number)
{
    conn->ring = number != 0 ? ring : NULL;
    conn->ring_number = number;
}

/* libssl asks for the certificate in full handshakes only; after a request for another key share, once more. */
static int
on_certificate(SSL *ssl, void *arg)
{
    struct mg_tls_conn *conn = arg;

    (void)ssl;
    if (conn->asked_full)
        return 1;
    conn->asked_full = true;
    return conn->full(conn);
}

void
mg_tls_conn_ask_full(struct mg_tls_conn *conn, bool (*full)(struct mg_tls_conn *conn))
{
    conn->full = full;
    SSL_set_cert_cb(conn->ssl, on_certificate, conn);
}

void
mg_tls_conn_fail(struct mg_tls_conn *conn, const char *text)
{
    if (conn->callback_error == NULL)
        conn->callback_error = mg_strdup(text);
}

/* ---- the name of the server ------------------------------------------------------------------ */

/* Whether name is an IP literal. Of one with a zone ("fe80::1%eth0") the zone is cut off: it is this
 * machine's business, no certificate has it. */
static bool
name_is_ip(char *name)
{
    unsigned char addr[sizeof(struct in6_addr)];
    char *zone = strchr(name, '%');
    bool is_ip;

    if (zone != NULL)
        *zone = '\0';
    is_ip = inet_pton(AF_INET6, name, addr) == 1 ||
            (zone == NULL && inet_pton(AF_INET, name, addr) == 1);
    if (zone != NULL && !is_ip)
        *zone = '%';
    return is_ip;
}

static int
ip_set(SSL *ssl, const char *ip, bool verify)
{
    return !verify || X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), ip);
}

static int
host_set(SSL *ssl, char *host, bool verify)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);

    if (!SSL_set_tlsext_host_name(ssl, host))
        return 0;
    if (!verify)
        return 1;
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return X509_VERIFY_PARAM_set1_host(param, host, 0);
}

int
mg_tls_conn_set_servername(struct mg_tls_conn *conn, const char *name, bool verify,
                           struct mg_err *err)
{
    char host[256];
    size_t len = strlen(name);
    int done;

    if (len > 0 && name[len - 1] == '.')
        len--; /* the dot of a fully qualified name is for the resolver only */
    if (len >= sizeof(host)) {
        mg_err_setx(err, "server name longer than %zu bytes", sizeof(host) - 1);
        return -1;
    }
    memcpy(host, name, len);
    host[len] = '\0';
    if (len == 0) {
        if (!verify || SSL_get_verify_mode(conn->ssl) == SSL_VERIFY_NONE)
            return 0;
        mg_err_setx(err, "no name to verify the certificate against");
        return -1;
    }
    ERR_clear_error();
    done = name_is_ip(host) ? ip_set(conn->ssl, host, verify) : host_set(conn->ssl, host, verify);
    if (!done) {
        mg_tls_err_take(err, host);
        return -1;
    }
    return 0;
}

/* ---- I/O ------------------------------------------------------------------------------------- */

/* Why the last call failed, as a person wants to read it. Empties the queue. */
static void
failure_describe(struct mg_tls_conn *conn, struct mg_err *err)
{
    char reason[512];

    conn->error_code = (uint32_t)mg_tls_err_drain(reason, sizeof(reason));
    if (ERR_GET_LIB(conn->error_code) == ERR_LIB_SSL &&
        ERR_GET_REASON(conn->error_code) == SSL_R_CERTIFICATE_VERIFY_FAILED)
        mg_err_setx(err, "certificate verify failed (%s)",
                    X509_verify_cert_error_string(SSL_get_verify_result(conn->ssl)));
    else
        mg_err_setx(err, "%s", reason[0] != '\0' ? reason : "TLS failed without a reason");
    if (conn->callback_error != NULL) {
        mg_err_prefix(err, "%s", conn->callback_error);
    }
}

/* Called right after the SSL_* call whose result is rc. */
static enum mg_tls_status
call_end(struct mg_tls_conn *conn, int rc, struct mg_err *err)
{
    int code = SSL_get_error(conn->ssl, rc);

    conn->io = NULL;
    /* Some callbacks cannot make the call itself fail: then it fails here. */
    if (conn->callback_error != NULL && code != SSL_ERROR_SSL && code != SSL_ERROR_SYSCALL) {
        ERR_clear_error();
        conn->error_code = 0;
        mg_err_setx(err, "%s", conn->callback_error);
        return MG_TLS_ERROR;
    }
    switch (code) {
    case SSL_ERROR_NONE:
        return MG_TLS_OK;
    case SSL_ERROR_WANT_READ:
        return MG_TLS_WANT_READ;
    case SSL_ERROR_WANT_WRITE:
        return MG_TLS_WANT_WRITE;
    case SSL_ERROR_ZERO_RETURN:
        conn->close_notify_received = true;
        return MG_TLS_CLOSED;
    default:
        failure_describe(conn, err);
        return MG_TLS_ERROR;
    }
}

static void
call_begin(struct mg_tls_conn *conn, struct mg_tls_io *io)
{
    ERR_clear_error();
    conn->io = io;
    BIO_set_data(SSL_get_rbio(conn->ssl), conn);
}

enum mg_tls_status
mg_tls_conn_handshake(struct mg_tls_conn *conn, struct mg_tls_io *io, struct mg_err *err)
{
    enum mg_tls_status status;

    call_begin(conn, io);
    status = call_end(conn, SSL_do_handshake(conn->ssl), err);
    if (status == MG_TLS_OK && !conn->handshake_done) {
        conn->handshake_done = true;
        if (conn->ring_number != 0)
            mg_ring_confirm(conn->ring, conn->ring_number);
        SSL_set_msg_callback(conn->ssl, NULL); /* it would be called for every record from now on */
    }
    return status;
}

void
mg_tls_conn_share(struct mg_tls_conn *conn)
{
    BIO *bio = mg_tls_bio_shared();

    if (bio != NULL)
        SSL_set_bio(conn->ssl, bio, bio);
}

/* Setting the type empties a key, and what was private in it is overwritten. libssl keeps its own reference
 * as long as the connection lives. */
static void
key_wipe(EVP_PKEY *key)
{
    EVP_PKEY_set_type(key, EVP_PKEY_X25519);
    EVP_PKEY_free(key);
}

void
mg_tls_conn_wipe_keys(struct mg_tls_conn *conn, bool asked)
{
    EVP_PKEY *key = NULL;

    if (SSL_get_tmp_key(conn->ssl, &key) == 1)
        key_wipe(key);
    key = NULL;
    if (!asked && mg_tls_threads_allowed(SSL_get_SSL_CTX(conn->ssl)) &&
        SSL_get_peer_tmp_key(conn->ssl, &key) == 1)
        key_wipe(key);
    ERR_clear_error();
}

static enum mg_tls_status
flooded(const struct mg_tls_conn *conn, struct mg_err *err)
{
    static const char *const texts[] = {
        [MG_TLS_FLOOD_KEY_UPDATES] = "too many key updates",
        [MG_TLS_FLOOD_RENEGOTIATIONS] = "too many renegotiations",
        [MG_TLS_FLOOD_QUIET] = "too many records without data",
        [MG_TLS_FLOOD_WARNINGS] = "too many warnings",
    };

    mg_err_setx(err, "%s", texts[conn->flood]);
    return MG_TLS_FLOODED;
}

static void
data_came(struct mg_tls_conn *conn, size_t len)
{
    conn->quiet = 0;
    conn->delivered += (uint32_t)len;
    if (conn->delivered >= MG_TLS_STEPS_PER) {
        conn->delivered = 0;
        conn->steps = 0;
    }
}

enum mg_tls_status
mg_tls_conn_read(struct mg_tls_conn *conn, struct mg_tls_io *io, void *buf, size_t cap, size_t *got,
                 struct mg_err *err)
{
    enum mg_tls_status status = MG_TLS_OK;

    *got = 0;
    while (status == MG_TLS_OK && *got < cap) {
        size_t n = 0;

        call_begin(conn, io);
        status = call_end(conn, SSL_read_ex(conn->ssl, (unsigned char *)buf + *got, cap - *got, &n),
                          err);
        *got += n;
        if (n > 0)
            data_came(conn, n);
    }
    return conn->flood != MG_TLS_FLOOD_NONE && status == MG_TLS_WANT_READ ? flooded(conn, err)
                                                                          : status;
}

enum mg_tls_status
mg_tls_conn_write(struct mg_tls_conn *conn, struct mg_tls_io *io, const void *data, size_t len,
                  size_t *used, struct mg_err *err)
{
    enum mg_tls_status status = MG_TLS_OK;

    *used = 0;
    while (status == MG_TLS_OK && *used < len) {
        size_t n = 0;

        call_begin(conn, io);
        status = call_end(
            conn, SSL_write_ex(conn->ssl, (const unsigned char *)data + *used, len - *used, &n),
            err);
        *used += n;
    }
    return status;
}

enum mg_tls_status
mg_tls_conn_shutdown(struct mg_tls_conn *conn, struct mg_tls_io *io, struct mg_err *err)
{
    enum mg_tls_status status;
    int rc;

    if (conn->close_notify_sent)
        return MG_TLS_OK;
    if (SSL_in_init(conn->ssl)) /* libssl refuses, and takes it for a failure */
        return MG_TLS_WANT_READ;
    call_begin(conn, io);
    rc = SSL_shutdown(conn->ssl);
    if (rc == 0 || rc == 1) { /* sent; whether the peer's has come is told by reading */
        conn->io = NULL;
        conn->close_notify_sent = true;
        return MG_TLS_OK;
    }
    status = call_end(conn, rc, err);
    return status;
}

/*
 * libssl sends an alert when its state machine fails, and offers no other way to send a fatal one. After
 * the handshake a server has two ways into the state machine: TLS 1.3 sends one more ticket, which needs
 * a session id that we refuse to make (internal_error); TLS 1.2 asks for a renegotiation, for which the
 * connection has no cipher any more (handshake_failure).
 */
static int
on_session_id(SSL *ssl, unsigned char *id, unsigned int *id_len)
{
    (void)ssl;
    (void)id;
    (void)id_len;
    return 0;
}

static int
state_machine_fail(SSL *ssl)
{
    if (SSL_version(ssl) >= TLS1_3_VERSION)
        return SSL_set_generate_session_id(ssl, on_session_id) && SSL_new_session_ticket(ssl);
    SSL_clear_options(ssl, SSL_OP_NO_RENEGOTIATION);
    SSL_set_cipher_list(ssl, "NONE"); /* an error, and afterwards the list is empty */
    return SSL_renegotiate(ssl);
}

void
mg_tls_conn_abort(struct mg_tls_conn *conn, struct mg_tls_io *io)
{
    if (!conn->handshake_done || conn->close_notify_sent || SSL_in_init(conn->ssl) ||
        !SSL_is_server(conn->ssl))
        return;
    call_begin(conn, io);
    if (state_machine_fail(conn->ssl))
        SSL_do_handshake(conn->ssl);
    conn->io = NULL;
    ERR_clear_error();
}

/* ---- alerts ---------------------------------------------------------------------------------- */

/* The registry's names; OpenSSL's own are longer sentences and differ between versions. */
const char *
mg_tls_alert_name(int alert)
{
    static const struct {
        int number;
        const char *name;
    } names[] = {
        {0, "close_notify"},
        {10, "unexpected_message"},
        {20, "bad_record_mac"},
        {22, "record_overflow"},
        {40, "handshake_failure"},
        {42, "bad_certificate"},
        {43, "unsupported_certificate"},
        {44, "certificate_revoked"},
        {45, "certificate_expired"},
        {46, "certificate_unknown"},
        {47, "illegal_parameter"},
        {48, "unknown_ca"},
        {49, "access_denied"},
        {50, "decode_error"},
        {51, "decrypt_error"},
        {70, "protocol_version"},
        {71, "insufficient_security"},
        {80, "internal_error"},
        {86, "inappropriate_fallback"},
        {90, "user_canceled"},
        {100, "no_renegotiation"},
        {109, "missing_extension"},
        {110, "unsupported_extension"},
        {112, "unrecognized_name"},
        {113, "bad_certificate_status_response"},
        {115, "unknown_psk_identity"},
        {116, "certificate_required"},
        {120, "no_application_protocol"},
    };
    static _Thread_local char unknown[16];

    for (size_t i = 0; i < MG_ARRAY_LEN(names); i++)
        if (names[i].number == alert)
            return names[i].name;
    snprintf(unknown, sizeof(unknown), "alert %d", alert);
    return unknown;
}

void
mg_tls_alert_record(int alert, unsigned char out[MG_TLS_ALERT_RECORD])
{
    const unsigned char record[MG_TLS_ALERT_RECORD] = {
        SSL3_RT_ALERT, 3, 3, 0, 2, SSL3_AL_FATAL, (unsigned char)alert};

    memcpy(out, record, sizeof(record));
}

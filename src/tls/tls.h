/*
 * tls: OpenSSL without I/O and without Lua. A connection is a pure function of buffers: ciphertext in,
 * plaintext out, and back. The only file that calls SSL_do_handshake, SSL_read, SSL_write and
 * SSL_shutdown is conn.c, because only there ERR_clear_error stands before and SSL_get_error right
 * after each of them.
 */
#ifndef MG_TLS_TLS_H
#define MG_TLS_TLS_H

#include "base/base.h"

#include <openssl/ssl.h>

/* ---- error ---------------------------------------------------------------------------------- */

/*
 * Takes the whole OpenSSL queue (oldest first), empties it and formats "what: reason (data)" with the
 * last entry's reason – the useful one – as err->text. With an empty queue only "what" is said.
 */
void mg_tls_err_take(struct mg_err *err, const char *what);

/* ---- conn ----------------------------------------------------------------------------------- */

enum mg_tls_role { MG_TLS_SERVER, MG_TLS_CLIENT };

enum mg_tls_status {
    MG_TLS_OK,         /* done, or some bytes moved */
    MG_TLS_WANT_READ,  /* the input is used up */
    MG_TLS_WANT_WRITE, /* the output is full: flush it, then call again */
    MG_TLS_CLOSED,     /* the peer's close_notify: a clean end */
    MG_TLS_ERROR, /* over; err says why; the output may hold an alert that should still leave */
};

/* The buffers of one call; usually the worker's big units. The BIO reads at in+in_used and writes at
 * out+out_len, never past in_len and out_cap. Valid during the call only. */
struct mg_tls_io {
    const unsigned char *in;
    size_t in_len;
    size_t in_used;
    unsigned char *out;
    size_t out_len;
    size_t out_cap;
};

/* One SSL object. Embedded in its owner; the owner's address must not change while it is open. */
struct mg_tls_conn {
    SSL *ssl;             /* owned */
    struct mg_tls_io *io; /* during a call, else NULL */
    void *owner;          /* whoever opened it; mg_tls_conn_of(ssl)->owner in callbacks */
    /* A callback that failed in Lua leaves its message here; it is part of the handshake's error. */
    char *callback_error; /* owned, or NULL */
    /* Server: what the ClientHello offered, "h2,http/1.1", printable; owned, or NULL. */
    char *alpn_offered;
    unsigned long error_code; /* OpenSSL's packed code of the last MG_TLS_ERROR, or 0 */
    bool handshake_done;
    bool close_notify_sent;
    bool close_notify_received;
    int16_t alert_sent;     /* the last fatal alert's number, or -1 */
    int16_t alert_received; /* likewise */
};

/*
 * The room a call may need in `out` beyond what it is told to write: a handshake flight with a long
 * chain, or the records around the plaintext. Output never overflows; WANT_WRITE says it is full.
 */
#define MG_TLS_OUT_SLACK (16u * 1024u)

/* Adds a reference to ctx. -1: no memory or OpenSSL refused. */
int mg_tls_conn_open(struct mg_tls_conn *conn, SSL_CTX *ctx, enum mg_tls_role role, void *owner,
                     struct mg_err *err);

/*
 * Client only, before the handshake: the name that is sent as SNI (unless it is an IP literal) and
 * verified against the certificate – as IP SAN if it is an IP literal – where `verify` is set.
 */
int mg_tls_conn_set_servername(struct mg_tls_conn *conn, const char *name, bool verify,
                               struct mg_err *err);

enum mg_tls_status mg_tls_conn_handshake(struct mg_tls_conn *conn, struct mg_tls_io *io,
                                         struct mg_err *err);

/* Decrypts into buf until it is full (OK with *got == cap: call again) or the input is used up
 * (WANT_READ; *got may be > 0 then, as with CLOSED and ERROR). */
enum mg_tls_status mg_tls_conn_read(struct mg_tls_conn *conn, struct mg_tls_io *io, void *buf,
                                    size_t cap, size_t *got, struct mg_err *err);

/* Encrypts as much as fits into the output; *used says how much of data was taken. */
enum mg_tls_status mg_tls_conn_write(struct mg_tls_conn *conn, struct mg_tls_io *io,
                                     const void *data, size_t len, size_t *used,
                                     struct mg_err *err);

/* Writes close_notify into the output (once). OK, or WANT_WRITE. */
enum mg_tls_status mg_tls_conn_shutdown(struct mg_tls_conn *conn, struct mg_tls_io *io,
                                        struct mg_err *err);

/* Frees the SSL object; the session stays resumable. Idempotent. */
void mg_tls_conn_close(struct mg_tls_conn *conn);

/* The connection of an SSL object inside OpenSSL's callbacks; NULL if it is not one of ours. */
struct mg_tls_conn *mg_tls_conn_of(const SSL *ssl);

/* Called by a callback that failed: text is copied (the first one stays). */
void mg_tls_conn_fail(struct mg_tls_conn *conn, const char *text);

/* "unknown_ca" for 48; "alert 200" for an unknown number. Constant or static storage per thread. */
const char *mg_tls_alert_name(int alert);

/* ---- resume --------------------------------------------------------------------------------- */

/*
 * Session ticket keys from a secret and the clock, so that workers, generations and machines that know
 * the secret accept each other's tickets: HKDF-SHA-256(secret, "moongate ticket" || period number). The
 * key of the current period encrypts; the previous and the next one still decrypt. `previous` may be
 * NULL. Copies the secrets; they are wiped with the last reference to ctx.
 */
int mg_tls_ticket_setup(SSL_CTX *ctx, const void *secret, size_t secret_len, const void *previous,
                        size_t previous_len, unsigned rotation_s, struct mg_err *err);

#endif

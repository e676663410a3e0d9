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

/* ---- fetch ----------------------------------------------------------------------------------- */

/* Looked up in OpenSSL's providers once; EVP_sha256() has that done anew for each use. */
const EVP_MD *mg_tls_sha256(void);
const EVP_CIPHER *mg_tls_aes_256_cbc(void);

/* ---- hello: reading a ClientHello before there is an SSL object ------------------------------ */

#define MG_HELLO_MAX      (64u * 1024u)           /* of the message with its header */
#define MG_HELLO_WIRE_MAX (MG_HELLO_MAX + 16384u) /* with the headers of the records around it */

/* Bytes of the message: valid as long as those that were parsed. data is NULL where there is none. */
struct mg_hello_span {
    const unsigned char *data;
    size_t len;
};

enum mg_hello_status { MG_HELLO_MORE, MG_HELLO_COMPLETE, MG_HELLO_REFUSED };

enum mg_hello_refusal {
    MG_HELLO_HTTP,      /* a request in plain text */
    MG_HELLO_SSL2,      /* a ClientHello in SSL 2's form */
    MG_HELLO_NOT_TLS,   /* something else */
    MG_HELLO_OVERSIZE,  /* longer than the limits above, or than the protocol's */
    MG_HELLO_MALFORMED, /* detail says where */
};

struct mg_hello {
    struct mg_hello_span raw;           /* the message with its header */
    struct mg_hello_span session_id;    /* as it is, often empty */
    struct mg_hello_span servername;    /* 1 to 255 bytes without NUL */
    struct mg_hello_span alpn;          /* for mg_hello_next_protocol */
    struct mg_hello_span cipher_suites; /* from here on: for mg_hello_next_number */
    struct mg_hello_span versions;      /* none: legacy_version is the highest one */
    struct mg_hello_span groups, signature_algorithms;
    struct mg_hello_span extensions; /* for mg_hello_next_extension */
    uint16_t legacy_version;
    /* of REFUSED */
    enum mg_hello_refusal refusal;
    int alert;          /* what to answer, or -1: nothing */
    const char *detail; /* constant; or NULL */
};

/* Parses a whole message, header included: COMPLETE or REFUSED. */
enum mg_hello_status mg_hello_parse(const unsigned char *msg, size_t len, struct mg_hello *hello);

/* How far a client's first records have been read; all zero at first. */
struct mg_hello_reader {
    size_t record; /* where the record begins whose end has not come yet */
    size_t before; /* bytes of the message in the records before that */
    size_t length; /* of the whole message; 0 = not yet known */
    unsigned char header[4];
};

/*
 * `wire` is everything that the client has sent so far; it may have moved since the last call. A message
 * that lies in one record is parsed in place, any other in `room` (MG_HELLO_MAX bytes, untouched
 * otherwise). After COMPLETE or REFUSED the reader is used up.
 */
enum mg_hello_status mg_hello_read(struct mg_hello_reader *reader, const unsigned char *wire,
                                   size_t len, unsigned char *room, struct mg_hello *hello);

/* Take the first entry off a list; false at its end. */
bool mg_hello_next_number(struct mg_hello_span *list, uint16_t *number);
bool mg_hello_next_protocol(struct mg_hello_span *list, struct mg_hello_span *name);
bool mg_hello_next_extension(struct mg_hello_span *list, uint16_t *type);

/* RFC 8701: a number that stands for nothing, to keep servers tolerant. */
static inline bool
mg_hello_is_grease(uint16_t number)
{
    return (number & 0x0f0f) == 0x0a0a && number >> 8 == (number & 0xff);
}

/* Adds the offered protocols as "h2,http/1.1" with unprintable bytes escaped. */
void mg_hello_protocols(const struct mg_hello *hello, struct mg_buf *out);

/* ---- ring: recent ClientHellos, to try a new policy with -------------------------------------- */

#define MG_RING_HELLO_MAX 4096u /* a longer message is not kept */

struct mg_ring;

/* One hello, copied out. */
struct mg_ring_hello {
    uint64_t number;   /* in the order in which they came, from 1 */
    uint64_t listener; /* mg_str_hash of its name */
    bool accepted;     /* its handshake came through, and would under the policy in force */
    size_t len;
    unsigned char data[MG_RING_HELLO_MAX];
};

struct mg_ring_counts {
    size_t capacity, held;
    uint64_t skipped; /* too long, since the start */
};

/* Holds nothing until it is resized. Every function but _free may be called from any thread. */
struct mg_ring *mg_ring_new(void);
void mg_ring_free(struct mg_ring *ring);

/* Keeps the newest `count` from now on (0: none), fewer if they are longer than usual. -1: no memory,
 * and it stays as it is. */
int mg_ring_resize(struct mg_ring *ring, size_t count);

/* The hello's number, or 0: it is not kept. Its handshake is taken for failed until it is confirmed. */
uint64_t mg_ring_add(struct mg_ring *ring, uint64_t listener, const void *hello, size_t len);
void mg_ring_confirm(struct mg_ring *ring, uint64_t number);

/* Copies the first one that is there from *number on, and moves *number past it; false at the end. */
bool mg_ring_next(struct mg_ring *ring, uint64_t *number, struct mg_ring_hello *out);

/* Under that generation's policy the hello would fail; and that generation is the one in force now. */
void mg_ring_refuse(struct mg_ring *ring, uint64_t number, uint64_t generation);
void mg_ring_adopt(struct mg_ring *ring, uint64_t generation);

void mg_ring_counts(struct mg_ring *ring, struct mg_ring_counts *out);

/* ---- replay: a ClientHello that came once, against another context ---------------------------- */

/* Whether a server of that context would answer with a ServerHello (or ask for another key share);
 * if not, `why` is OpenSSL's reason in a few words. No session is resumed, nothing is sent. */
bool mg_hello_replay(SSL_CTX *ctx, const unsigned char *msg, size_t len, struct mg_err *why);

/* The same for hellos that a server cannot but treat alike: what a client can do, without chance,
 * names and keys. */
uint64_t mg_hello_kind(const struct mg_hello *hello);
/* Whether the client could verify an ECDSA certificate, as far as its ClientHello tells. */
bool mg_hello_supports_ecdsa(const struct mg_hello *hello);

/* The JA4 fingerprint "t13d1516h2_8daaf6152771_e5627efa2ab1". -1: no memory. */
#define MG_HELLO_JA4 37
int mg_hello_ja4(const struct mg_hello *hello, char out[MG_HELLO_JA4]);

/* ---- registry: names of numbers -------------------------------------------------------------- */

enum mg_tls_registry { MG_TLS_VERSION, MG_TLS_CIPHER_SUITE, MG_TLS_GROUP, MG_TLS_SIGNATURE_SCHEME };

/* "TLS_AES_128_GCM_SHA256", constant; or "0x1234" in the caller's room. */
#define MG_TLS_UNKNOWN_NAME 7
const char *mg_tls_number_name(enum mg_tls_registry registry, uint16_t number,
                               char unknown[MG_TLS_UNKNOWN_NAME]);

/* ---- conn ----------------------------------------------------------------------------------- */

enum mg_tls_role { MG_TLS_SERVER, MG_TLS_CLIENT };

enum mg_tls_status {
    MG_TLS_OK,         /* done, or some bytes moved */
    MG_TLS_WANT_READ,  /* the input is used up */
    MG_TLS_WANT_WRITE, /* the output is full: flush it, then call again */
    MG_TLS_CLOSED,     /* the peer's close_notify: a clean end */
    MG_TLS_FLOODED,    /* reading only: the peer keeps libssl busy and says nothing; err says how */
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
    /* Server: within it its sessions are resumed, e.g. the listener's name. Set after opening, borrowed
     * until the handshake is done; NULL is a scope, too. */
    const char *scope;
    /* Client, or NULL: told of every session that may be resumed later. Takes its own reference. */
    void (*on_session)(struct mg_tls_conn *conn, SSL_SESSION *session);
    /* Server: where its ClientHello is kept, and as what; see mg_tls_conn_keep_hello. */
    struct mg_ring *ring;   /* or NULL */
    uint64_t ring_listener; /* hash of the listener's name */
    uint64_t ring_number;   /* 0 = not kept */
    /* Server, or NULL: see mg_tls_conn_ask_full. It may leave a constant reason. */
    bool (*full)(struct mg_tls_conn *conn);
    const char *refusal;
    /* A callback that failed in Lua leaves its message here; it is part of the handshake's error. */
    char *callback_error; /* owned, or NULL */
    /* Server: what the ClientHello offered, "h2,http/1.1", printable; owned, or NULL. */
    char *alpn_offered;
    char *ja4;           /* likewise: the ClientHello's fingerprint; owned, or NULL */
    uint32_t error_code; /* OpenSSL's packed code of the last MG_TLS_ERROR, or 0 */
    bool noting;         /* Server: the two above are kept. Set after opening. */
    bool handshake_done;
    bool close_notify_sent;
    bool close_notify_received;
    bool asked_full;        /* Server: `full` has been */
    uint8_t renegotiations; /* wanted by the peer; refused */
    enum mg_tls_flood {
        MG_TLS_FLOOD_NONE,
        MG_TLS_FLOOD_KEY_UPDATES,
        MG_TLS_FLOOD_RENEGOTIATIONS,
        MG_TLS_FLOOD_QUIET, /* records that bring nothing */
        MG_TLS_FLOOD_WARNINGS,
    } flood;                /* more of it than the limits below allow; no more input is taken */
    int16_t alert_sent;     /* the last fatal alert's number, or -1 */
    int16_t alert_received; /* likewise */
    uint16_t steps;         /* of libssl's state machine since the handshake, or ... */
    uint16_t quiet;         /* reads of the input that gave whole headers and bodies, but no data */
    uint32_t delivered;     /* ... since this many bytes of data, at most MG_TLS_STEPS_PER */
};

/*
 * What a peer may have libssl do on its own account after the handshake: a key update that wants an
 * answer costs seven steps and the time of many records, and libssl answers any number of them. A data
 * record costs two reads and no step.
 */
#define MG_TLS_STEPS_MAX 256u
#define MG_TLS_STEPS_PER (1024u * 1024u)
#define MG_TLS_QUIET_MAX 512u

/* An honest peer takes one no for an answer. */
#define MG_TLS_RENEGOTIATIONS_MAX 8u

/*
 * The room a call may need in `out` beyond what it is told to write: a handshake flight with a long
 * chain, or the records around the plaintext. Output never overflows; WANT_WRITE says it is full.
 */
#define MG_TLS_OUT_SLACK (16u * 1024u)

/* A connection that has no SSL object yet, because its ClientHello decides on the context. */
void mg_tls_conn_init(struct mg_tls_conn *conn, void *owner);

/* Keeps what the ClientHello says of the client (alpn_offered, ja4), as far as there is memory. A server's
 * conn that is `noting` does so by itself when libssl reads it. */
void mg_tls_conn_note_hello(struct mg_tls_conn *conn, const struct mg_hello *hello);

/* Adds a reference to ctx. -1: no memory or OpenSSL refused. */
int mg_tls_conn_open(struct mg_tls_conn *conn, SSL_CTX *ctx, enum mg_tls_role role, void *owner,
                     struct mg_err *err);

/* Server only, before the handshake: its ClientHello goes into the ring (NULL: nowhere). */
void mg_tls_conn_keep_hello(struct mg_tls_conn *conn, struct mg_ring *ring, const char *listener);

/* The same where it was added before; number 0: it is not kept. */
void mg_tls_conn_kept_hello(struct mg_tls_conn *conn, struct mg_ring *ring, uint64_t number);

/*
 * Server only, before the handshake: `full` is asked once, when it is known that no session is resumed, and before any
 * key exchange or signature – in whatever thread the handshake runs. false: the handshake fails, with the alert
 * internal_error, which says nothing against the client's offer.
 */
void mg_tls_conn_ask_full(struct mg_tls_conn *conn, bool (*full)(struct mg_tls_conn *conn));

/*
 * Client only, before the handshake: the name that is sent as SNI (unless it is an IP literal) and
 * verified against the certificate – as IP SAN if it is an IP literal – where `verify` is set.
 */
int mg_tls_conn_set_servername(struct mg_tls_conn *conn, const char *name, bool verify,
                               struct mg_err *err);

/* After the handshake: from here on only the thread that calls this, always the same one of the process,
 * touches conn. All such connections share what libssl needs to reach their buffers: 200 bytes less. */
void mg_tls_conn_share(struct mg_tls_conn *conn);

/*
 * After the handshake: the ephemeral keys of a TLS 1.3 key exchange, which libssl would keep as long as the
 * connection lives. Ours is overwritten; the peer's share goes with it, unless scripts may ask for it later:
 * if they are `asked` about the connection, or the context has callbacks. 400 bytes less with X25519,
 * several KiB with ML-KEM.
 */
void mg_tls_conn_wipe_keys(struct mg_tls_conn *conn, bool asked);

enum mg_tls_status mg_tls_conn_handshake(struct mg_tls_conn *conn, struct mg_tls_io *io,
                                         struct mg_err *err);

/* Decrypts into buf until it is full (OK with *got == cap: call again) or the input is used up
 * (WANT_READ; *got may be > 0 then, as with CLOSED, FLOODED and ERROR). */
enum mg_tls_status mg_tls_conn_read(struct mg_tls_conn *conn, struct mg_tls_io *io, void *buf,
                                    size_t cap, size_t *got, struct mg_err *err);

/* Encrypts as much as fits into the output; *used says how much of data was taken. */
enum mg_tls_status mg_tls_conn_write(struct mg_tls_conn *conn, struct mg_tls_io *io,
                                     const void *data, size_t len, size_t *used,
                                     struct mg_err *err);

/* Writes close_notify into the output (once). OK, WANT_WRITE, or WANT_READ in the middle of a message of
 * the peer's. */
enum mg_tls_status mg_tls_conn_shutdown(struct mg_tls_conn *conn, struct mg_tls_io *io,
                                        struct mg_err *err);

/* Server, after the handshake: writes a fatal alert into the output – internal_error, in TLS 1.2
 * handshake_failure – and ends the connection for good. Where that cannot be, nothing is written. */
void mg_tls_conn_abort(struct mg_tls_conn *conn, struct mg_tls_io *io);

/* Frees the SSL object; the session stays resumable. Idempotent. */
void mg_tls_conn_close(struct mg_tls_conn *conn);

/*
 * Handshakes of the context may run on another thread than the loop's, several at a time: the callbacks that
 * it has touch nothing but their connection, or lock. Not so until it is said.
 */
void mg_tls_threads_allow(SSL_CTX *ctx, bool allowed);
bool mg_tls_threads_allowed(const SSL_CTX *ctx);

/* The connection of an SSL object inside OpenSSL's callbacks; NULL if it is not one of ours. */
struct mg_tls_conn *mg_tls_conn_of(const SSL *ssl);

/* Called by a callback that failed: text is copied (the first one stays). */
void mg_tls_conn_fail(struct mg_tls_conn *conn, const char *text);

/* "unknown_ca" for 48; "alert 200" for an unknown number. Constant or static storage per thread. */
const char *mg_tls_alert_name(int alert);

/* A fatal alert as the plain record that may leave before there is an SSL object. */
#define MG_TLS_ALERT_RECORD 7
void mg_tls_alert_record(int alert, unsigned char out[MG_TLS_ALERT_RECORD]);

/* ---- resume --------------------------------------------------------------------------------- */

/*
 * Session ticket keys from a secret and the clock, so that workers, generations and machines that know
 * the secret accept each other's tickets: HKDF-SHA-256(secret, "moongate ticket" || period number). The
 * key of the current period encrypts; the previous and the next one still decrypt. `previous` may be
 * NULL. Copies the secrets; they are wiped with the last reference to ctx.
 */
int mg_tls_ticket_setup(SSL_CTX *ctx, const void *secret, size_t secret_len, const void *previous,
                        size_t previous_len, unsigned rotation_s, struct mg_err *err);

/* When a session was made, in Unix seconds. */
int64_t mg_tls_session_time(const SSL_SESSION *session);

/* Gives ctx the keys of `from`, if that has any and ctx has none. */
int mg_tls_ticket_share(SSL_CTX *ctx, const SSL_CTX *from, struct mg_err *err);

#endif

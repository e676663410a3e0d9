/*
 * S_HELLO: the decision precedes the SSL object.
 *
 * The happy path is: the ClientHello comes, in pieces as they happen to be, and is held; once it is
 * whole the policy chooses a context by it; the SSL object is made of that context and takes the
 * same bytes, so that the whole of its policy applies: versions, options, verification, sessions.
 * Possible failure modes are: the bytes are no ClientHello, or too many; the policy refuses. The
 * client then gets the alert as a plain record, and S_LINGER waits until it has read it. Vanishing
 * and lateness are session.c's.
 */
#include "proxy/internal.h"

#include <string.h>

#define ALERT_INTERNAL_ERROR    80
#define ALERT_UNRECOGNIZED_NAME 112

void
mg_session_hello_open(struct mg_session *s)
{
    s->state = S_HELLO;
    s->down.deciding = true;
    mg_tls_conn_init(&s->down.tls, s);
}

static void
refuse(struct mg_session *s, int alert, const char *reason, const char *detail)
{
    unsigned char record[MG_TLS_ALERT_RECORD];
    int rc;

    if (alert >= 0) {
        mg_tls_alert_record(alert, record);
        s->down.tls.alert_sent = (int16_t)alert;
        rc = mg_stream_write(&s->down.stream, record, sizeof(record));
        if (rc < 0) {
            mg_session_socket_error(&s->down, rc);
            return;
        }
    }
    mg_handshake_refused(s, reason, detail);
}

static void
refuse_malformed(struct mg_session *s, const struct mg_hello *hello)
{
    static const char *const reasons[] = {
        [MG_HELLO_HTTP] = "down: plain HTTP instead of TLS",
        [MG_HELLO_SSL2] = "down: SSL 2",
        [MG_HELLO_NOT_TLS] = "down: not TLS",
        [MG_HELLO_OVERSIZE] = "down: ClientHello too long",
        [MG_HELLO_MALFORMED] = "down: malformed ClientHello",
    };

    refuse(s, hello->alert, reasons[hello->refusal], hello->detail);
}

/* What the policy and the record may want to know while there is no SSL object. -1: no memory. */
static int
remember(struct mg_session *s, const struct mg_hello *hello)
{
    struct mg_buf offered = {0};

    mg_hello_protocols(hello, &offered);
    if (offered.len > 0)
        s->down.tls.alpn_offered = mg_buf_take(&offered);
    mg_buf_free(&offered);
    if (hello->servername.data == NULL)
        return 0;
    s->servername = mg_strndup((const char *)hello->servername.data, hello->servername.len);
    return s->servername != NULL ? 0 : -1;
}

/* The context with a reference, or NULL: refused, and the session lingers or closes. */
static SSL_CTX *
choose(struct mg_session *s, const struct mg_hello *hello)
{
    const struct mg_policy *policy = s->config->policy;
    SSL_CTX *chosen = NULL;
    int alert = ALERT_UNRECOGNIZED_NAME;
    struct mg_err err = {{0}};

    if (policy != NULL && policy->hello != NULL &&
        policy->hello(s->config->policy_data, s, s->listener, hello, &chosen, &alert, &err) != 0) {
        refuse(s, alert, "down: refused by name", err.text[0] != '\0' ? err.text : NULL);
        return NULL;
    }
    if (chosen == NULL && s->listener->tls != NULL && SSL_CTX_up_ref(s->listener->tls))
        chosen = s->listener->tls;
    if (chosen == NULL)
        refuse(s, ALERT_INTERNAL_ERROR, "down: no TLS", "no context was chosen");
    return chosen;
}

static bool
decide(struct mg_session *s, const struct mg_hello *hello)
{
    SSL_CTX *ctx;
    struct mg_err err;
    int rc;

    if (remember(s, hello) != 0) {
        mg_session_close(s, "session: out of memory", NULL);
        return false;
    }
    ctx = choose(s, hello);
    if (ctx == NULL)
        return false;
    mg_tls_conn_close(&s->down.tls); /* libssl tells the rest anew */
    rc = mg_tls_conn_open(&s->down.tls, ctx, MG_TLS_SERVER, s, &err);
    SSL_CTX_free(ctx);
    if (rc != 0) {
        mg_session_close(s, "down: no TLS", err.text);
        return false;
    }
    s->down.tls.scope = s->listener->name;
    mg_tls_conn_keep_hello(&s->down.tls, s->engine->options.ring, s->listener->name);
    s->down.deciding = false;
    mg_free(s->servername);
    s->servername = NULL;
    mg_session_handshake(s);
    return s->state == S_HANDSHAKE; /* dialling may have ended it */
}

bool
mg_session_hello_step(struct mg_session *s)
{
    struct mg_hello hello;

    /* `plain` is free: nothing is decrypted meanwhile. */
    switch (mg_hello_read(&s->hello, (const unsigned char *)s->down.held, s->down.held_len,
                          s->engine->plain, &hello)) {
    case MG_HELLO_MORE:
        mg_stream_read_start(&s->down.stream);
        return false;
    case MG_HELLO_COMPLETE:
        return decide(s, &hello);
    default:
        refuse_malformed(s, &hello);
        return false;
    }
}

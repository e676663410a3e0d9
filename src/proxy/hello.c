/*
 * S_HELLO: the decision precedes the SSL object.
 *
 * The happy path is: the ClientHello comes, in pieces as they happen to be, and is held; once it is
 * whole the listener's names or the policy choose a context by it; the SSL object is made of that context and takes the
 * same bytes, so that the whole of its policy applies: versions, options, verification, sessions. Or
 * it is passed through: the bytes go to the backend as they came, and the session is like one of a
 * plain listener from then on.
 * Where TLS is optional the first byte decides before all that; whoever says nothing is told nothing.
 * Possible failure modes are: the bytes are no ClientHello, or too many; the policy refuses. The
 * client then gets the alert as a plain record, and S_LINGER waits until it has read it. Vanishing
 * and lateness are session.c's.
 */
#include "proxy/internal.h"

#include <stdio.h>
#include <string.h>

#define HANDSHAKE_RECORD        22
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
    if (mg_session_notes_hello(s))
        mg_tls_conn_note_hello(&s->down.tls, hello);
    if (hello->servername.data == NULL)
        return 0;
    s->servername = mg_strndup((const char *)hello->servername.data, hello->servername.len);
    return s->servername != NULL ? 0 : -1;
}

/* What names and the listener's own context say, without asking anybody. Whether policy is to be asked. */
static bool
target_find(const struct mg_listener *listener, const struct mg_hello *hello,
            struct mg_target *target)
{
    const struct mg_target *found;
    const char *pattern;

    if (listener->names == NULL) {
        *target = (struct mg_target){.kind = MG_TARGET_REFUSE};
        if (listener->tls != NULL)
            *target = (struct mg_target){.kind = MG_TARGET_TERMINATE,
                                         .tls = listener->tls,
                                         .asks_hello = listener->hello_asked};
        return listener->hello_asked;
    }
    found = mg_names_find(listener->names, hello->servername.data, hello->servername.len, &pattern);
    *target = found != NULL ? *found : (struct mg_target){.kind = MG_TARGET_REFUSE};
    return target->asks_hello;
}

/* The engine's own reference, also where nobody is asked. false: refused; the session lingers. */
static bool
choose(struct mg_session *s, const struct mg_hello *hello, struct mg_target *target)
{
    const struct mg_policy *policy = s->config->policy;
    struct mg_choice choice = {.alert = ALERT_UNRECOGNIZED_NAME};
    struct mg_err err = {{0}};

    if (target_find(s->listener, hello, &choice.target)) {
        if (policy->hello(s->config->policy_data, s, s->listener, hello, &choice, &err) != 0) {
            refuse(s, choice.alert, "down: refused by name", err.text[0] != '\0' ? err.text : NULL);
            return false;
        }
    } else if (choice.target.kind == MG_TARGET_TERMINATE) {
        SSL_CTX_up_ref(choice.target.tls);
    }
    *target = choice.target;
    if (target->kind != MG_TARGET_REFUSE)
        return true;
    refuse(s, choice.alert, "down: refused by name",
           s->servername != NULL ? "nothing is served under this name"
                                 : "nothing is served without a name");
    return false;
}

/* For the replay at a reload: taken for failed until it is confirmed. 0: it is not kept. */
static uint64_t
hello_keep(struct mg_session *s, const struct mg_hello *hello)
{
    struct mg_ring *ring = s->engine->options.ring;
    const char *name = s->listener->name;

    if (ring == NULL)
        return 0;
    return mg_ring_add(ring, mg_str_hash(name, strlen(name)), hello->raw.data, hello->raw.len);
}

/* true: the handshake begins. */
static bool
terminate(struct mg_session *s, SSL_CTX *ctx, uint64_t ring_number)
{
    bool opened;

    mg_tls_conn_close(&s->down.tls); /* libssl tells the rest anew */
    opened = mg_session_tls_open(s, ctx);
    SSL_CTX_free(ctx);
    if (!opened)
        return false;
    mg_tls_conn_kept_hello(&s->down.tls, s->engine->options.ring, ring_number);
    s->down.deciding = false;
    mg_free(s->servername);
    s->servername = NULL;
    mg_session_handshake(s);
    return s->state == S_HANDSHAKE; /* dialling may have ended it */
}

bool
mg_session_pass_refused(struct mg_session *s)
{
    char detail[512];

    if (!s->passed || s->backend->tls == NULL)
        return false;
    snprintf(detail, sizeof(detail),
             "backend %s has tls, but what is passed through is encrypted already",
             s->backend->name);
    refuse(s, ALERT_INTERNAL_ERROR, "route: backend with tls for a passthrough", detail);
    return true;
}

/* The client's bytes, ClientHello first, are held: the relay begins with them. */
static void
pass(struct mg_session *s)
{
    s->passed = true;
    s->down.deciding = false;
    mg_session_route(s);
}

static bool
decide(struct mg_session *s, const struct mg_hello *hello)
{
    struct mg_target target;
    uint64_t ring_number;

    if (remember(s, hello) != 0) {
        mg_session_close(s, "session: out of memory", NULL);
        return false;
    }
    ring_number = hello_keep(s, hello);
    if (!choose(s, hello, &target))
        return false;
    if (target.kind == MG_TARGET_TERMINATE)
        return terminate(s, target.tls, ring_number);
    if (ring_number != 0)
        mg_ring_confirm(s->engine->options.ring, ring_number);
    pass(s);
    return false;
}

/* Of a listener whose own context waits for those who speak TLS. */
static bool
first_byte_decide(struct mg_session *s)
{
    if (s->down.held[0] != HANDSHAKE_RECORD) {
        s->plain = true;
        s->down.deciding = false;
        s->hello_us = 0; /* it was none */
        mg_session_route(s);
        return false;
    }
    if (!mg_session_tls_open(s, s->listener->tls))
        return false;
    mg_tls_conn_keep_hello(&s->down.tls, s->engine->options.ring, s->listener->name);
    s->down.deciding = false;
    mg_session_handshake(s);
    return s->state == S_HANDSHAKE;
}

bool
mg_session_hello_step(struct mg_session *s)
{
    struct mg_hello hello;

    if (s->listener->tls_optional &&
        (s->down.held[0] != HANDSHAKE_RECORD || !mg_listener_reads_hello(s->listener)))
        return first_byte_decide(s);

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

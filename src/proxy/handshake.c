/*
 * Handshakes, down and up: input is kept until the engine's queue gives the peer its turn.
 *
 * The happy path is: bytes come, they are held and reading stops; the step takes them – here, or in
 * the helper thread (offload.c) – its answer leaves in one write, reading starts again; after the last
 * step what is left of the input stays held for the relay. Possible failure modes are: the step fails (down: the
 * alert leaves and the session lingers; up: the next address), the peer closes in the middle (session.c sees
 * it), nothing comes (the timer).
 */
#include "proxy/internal.h"

#include <openssl/err.h>
#include <openssl/sslerr.h>
#include <string.h>

static void
out_of_memory(struct mg_session *s)
{
    mg_session_close(s, "session: out of memory", NULL);
}

bool
mg_peer_hold(struct mg_peer *peer, const unsigned char *data, size_t len)
{
    char *grown = mg_realloc(peer->held, peer->held_len + len);

    if (grown == NULL) {
        out_of_memory(peer->session);
        return false;
    }
    memcpy(grown + peer->held_len, data, len);
    peer->held = grown;
    peer->held_len += len;
    return true;
}

void
mg_handshake_input(struct mg_peer *peer, const unsigned char *data, size_t len)
{
    if (!mg_peer_hold(peer, data, len))
        return;
    mg_stream_read_stop(&peer->stream);
    mg_handshake_enqueue(peer);
}

void
mg_peer_consume(struct mg_peer *peer, size_t used)
{
    peer->held_len -= used;
    if (peer->held_len > 0) {
        memmove(peer->held, peer->held + used, peer->held_len);
        return;
    }
    mg_free(peer->held);
    peer->held = NULL;
}

/* ---- why it failed --------------------------------------------------------------------------- */

static bool
ssl_reason_is(const struct mg_tls_conn *tls, int reason)
{
    return ERR_GET_LIB(tls->error_code) == ERR_LIB_SSL && ERR_GET_REASON(tls->error_code) == reason;
}

const char *
mg_peer_flood_reason(const struct mg_peer *peer)
{
    const struct mg_tls_conn *tls = &peer->tls;

    if (tls->flood == MG_TLS_FLOOD_KEY_UPDATES)
        return mg_peer_reason(peer, "down: too many key updates", "up: too many key updates");
    if (tls->flood == MG_TLS_FLOOD_RENEGOTIATIONS)
        return mg_peer_reason(peer, "down: too many renegotiations", "up: too many renegotiations");
    if (tls->flood == MG_TLS_FLOOD_QUIET || ssl_reason_is(tls, SSL_R_RECORD_TOO_SMALL))
        return mg_peer_reason(peer, "down: too many records without data",
                              "up: too many records without data");
    if (tls->flood == MG_TLS_FLOOD_WARNINGS || ssl_reason_is(tls, SSL_R_TOO_MANY_WARN_ALERTS))
        return mg_peer_reason(peer, "down: too many warnings", "up: too many warnings");
    return NULL;
}

static const char *
failure_reason(const struct mg_peer *peer)
{
    const struct mg_tls_conn *tls = &peer->tls;
    const char *flood = mg_peer_flood_reason(peer);

    if (tls->refusal != NULL)
        return tls->refusal;
    if (flood != NULL)
        return flood;
    if (ssl_reason_is(tls, SSL_R_HTTP_REQUEST) || ssl_reason_is(tls, SSL_R_HTTPS_PROXY_REQUEST))
        return mg_peer_reason(peer, "down: plain HTTP instead of TLS",
                              "up: plain HTTP instead of TLS");
    if (ssl_reason_is(tls, SSL_R_CERTIFICATE_VERIFY_FAILED))
        return mg_peer_reason(peer, "down: certificate not accepted",
                              "up: certificate not accepted");
    if (ssl_reason_is(tls, SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE))
        return mg_peer_reason(peer, "down: no certificate given", "up: no certificate given");
    if (ssl_reason_is(tls, SSL_R_WRONG_VERSION_NUMBER))
        return mg_peer_reason(peer, "down: not TLS", "up: not TLS");
    if (tls->callback_error != NULL)
        return mg_peer_reason(peer, "down: callback failed", "up: callback failed");
    if (tls->alert_received >= 0)
        return mg_peer_reason(peer, "down: handshake refused by the client",
                              "up: handshake refused by the server");
    return mg_peer_reason(peer, "down: handshake failed", "up: handshake failed");
}

/* The alert is in the kernel's hands. The client must be able to read it. */
void
mg_handshake_refused(struct mg_session *s, const char *reason, const char *detail)
{
    mg_peer_consume(&s->down, s->down.held_len);
    mg_dial_cancel(s);
    mg_stream_close(&s->up.stream, true);
    if (mg_stream_shutdown(&s->down.stream) < 0)
        mg_session_close(s, reason, detail);
    else
        mg_session_linger(s, reason, detail, true);
}

/* The limits' answer is cheap: nobody is waited for, and whoever sent no more than a ClientHello gets the alert. */
static bool
failed_by_limit(struct mg_peer *peer, const char *reason)
{
    if (peer->tls.refusal == NULL || mg_stream_shutdown(&peer->stream) != 0)
        return false;
    mg_session_close(peer->session, reason, NULL);
    return true;
}

static void
failed(struct mg_peer *peer, const char *reason, const char *detail)
{
    if (failed_by_limit(peer, reason))
        return;
    if (mg_peer_is_down(peer)) {
        mg_handshake_refused(peer->session, reason, detail);
    } else {
        mg_peer_consume(peer, peer->held_len);
        mg_dial_failed(peer->session, reason, detail);
    }
}

/* ---- a step ---------------------------------------------------------------------------------- */

static void
done(struct mg_peer *peer)
{
    struct mg_session *s = peer->session;

    mg_tls_conn_share(&peer->tls);
    peer->stream.read_max = MG_NET_UNIT;
    if (mg_peer_is_down(peer)) {
        s->handshake_us = mg_session_elapsed_us(s);
        s->engine->handshakes_done++;
        mg_session_route(s);
    } else {
        mg_dial_done(s);
    }
}

/* Sends what the step wrote. false: the peer's socket has failed and that was dealt with. */
static bool
answer_send(struct mg_peer *peer, const void *data, size_t len)
{
    int rc = len > 0 ? mg_stream_write(&peer->stream, data, len) : 0;

    if (rc >= 0)
        return true;
    if (mg_peer_is_down(peer))
        mg_session_socket_error(peer, rc);
    else
        mg_dial_failed(peer->session, "up: reset during the handshake", uv_strerror(rc));
    return false;
}

static void
step_over(struct mg_peer *peer, enum mg_tls_status status, size_t used, const struct mg_err *err)
{
    mg_peer_consume(peer, used);
    switch (status) {
    case MG_TLS_OK:
        done(peer);
        break;
    case MG_TLS_WANT_READ:
        mg_stream_read_start(&peer->stream);
        if (mg_peer_is_down(peer))
            mg_session_dial_early(peer->session);
        break;
    case MG_TLS_CLOSED:
        failed(peer,
               mg_peer_reason(peer, "down: closed during the handshake",
                              "up: closed during the handshake"),
               NULL);
        break;
    default:
        failed(peer, failure_reason(peer), err->text);
        break;
    }
}

static void
step(struct mg_peer *peer)
{
    struct mg_engine *engine = peer->session->engine;
    struct mg_tls_io io = {
        .in = (const unsigned char *)peer->held,
        .in_len = peer->held_len,
        .out = engine->out,
        .out_cap = MG_OUT_UNIT,
    };
    enum mg_tls_status status;
    struct mg_err err;

    do {
        status = mg_tls_conn_handshake(&peer->tls, &io, &err);
        if (!answer_send(peer, io.out, io.out_len))
            return;
        io.out_len = 0;
    } while (status == MG_TLS_WANT_WRITE);
    step_over(peer, status, io.in_used, &err);
}

void
mg_handshake_answered(struct mg_peer *peer, const struct mg_handshake_answer *answer)
{
    if (answer->out.failed)
        out_of_memory(peer->session);
    else if (answer_send(peer, answer->out.data, answer->out.len))
        step_over(peer, answer->status, answer->used, &answer->err);
}

void
mg_handshake_step(struct mg_peer *peer)
{
    if (peer->deciding && !mg_session_hello_step(peer->session))
        return;
    if (!mg_peer_is_down(peer))
        mg_dial_turn(peer->session);
    if (!mg_offload_take(peer))
        step(peer);
}

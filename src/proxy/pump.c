/*
 * Moving bytes. TLS to plain, plain to TLS, TLS to TLS and plain to plain are one path: what a
 * peer's socket gives is decrypted if that side has TLS, and what a peer is sent is encrypted if
 * that side has.
 *
 * The units belong to the engine: a read of up to 256 KiB is decrypted into `plain`, encrypted into
 * `out` and written at once, so that all records of a turn leave in one write. What the kernel does
 * not take is copied into the stream's stash, and the sender is not read until the stash is gone;
 * so a session holds at most one unit per direction, and none while it is idle.
 *
 * In the middle of a message of its own (a ticket that spans two records) libssl takes no data before it
 * has read the rest. What it refuses then is parked with the peer, the sender is not read, and it goes on
 * when the peer's next input has been read.
 *
 * Only bytes that are relayed count as a sign of life: who sends a record byte by byte holds libssl's buffer for it no
 * longer than idle_timeout. What keeps libssl busy without saying anything has an end, too (tls.h).
 *
 * An end (FIN on a plain side, close_notify on a TLS side) is passed on in the receiver's own way,
 * and the other direction goes on. An EOF without close_notify is no end but a truncation.
 */
#include "proxy/internal.h"

#include <string.h>

/* Bytes of libssl's own answers that may wait for a peer which is still read. */
#define ANSWERS_MAX 4096u

/* ---- writing --------------------------------------------------------------------------------- */

/* What came of a write. false: the session has closed. */
static bool
socket_written(struct mg_peer *peer, size_t len, bool stashed, int rc)
{
    if (rc < 0) {
        mg_session_socket_error(peer, rc);
        return false;
    }
    if (rc == 0)
        return true;
    if (stashed) {
        peer->unsent_seen += len; /* that there is more now is no sign of life */
    } else {
        peer->unsent_seen = mg_stream_unsent(&peer->stream);
        peer->moved_at = uv_now(peer->session->engine->net.loop);
    }
    mg_stream_read_stop(&peer->twin->stream);
    return true;
}

/* As it is: ciphertext on a TLS side. false: the session has closed. */
static bool
socket_write(struct mg_peer *peer, const void *data, size_t len)
{
    bool stashed = peer->stream.writing;

    return len == 0 ||
           socket_written(peer, len, stashed, mg_stream_write(&peer->stream, data, len));
}

/* FIN follows. */
static bool
socket_write_last(struct mg_peer *peer, const void *data, size_t len)
{
    bool stashed = peer->stream.writing;

    return len == 0 ||
           socket_written(peer, len, stashed, mg_stream_write_last(&peer->stream, data, len));
}

/* Reads unless its twin cannot take more, or it does not take libssl's answers to itself. */
static void
reading_start(struct mg_peer *peer)
{
    const struct mg_peer *twin = peer->twin;

    if (peer->stream.open && !twin->stream.writing && (twin->parked == NULL || twin == peer) &&
        peer->answers < ANSWERS_MAX)
        mg_stream_read_start(&peer->stream);
}

static struct mg_tls_io
io_begin(struct mg_engine *engine, const unsigned char *in, size_t len)
{
    return (struct mg_tls_io){.in = in, .in_len = len, .out = engine->out, .out_cap = MG_OUT_UNIT};
}

static void
tls_failed(struct mg_peer *peer, const struct mg_err *err)
{
    const char *reason = mg_peer_flood_reason(peer);

    if (reason == NULL)
        reason = mg_peer_reason(peer, "down: TLS error", "up: TLS error");
    mg_session_close(peer->session, reason, err->text);
}

static bool
park(struct mg_peer *peer, const unsigned char *data, size_t len)
{
    char *grown = mg_realloc(peer->parked, peer->parked_len + len);

    if (grown == NULL) {
        mg_session_close(peer->session, "session: out of memory", NULL);
        return false;
    }
    memcpy(grown + peer->parked_len, data, len);
    peer->parked = grown;
    peer->parked_len += len;
    if (peer->twin != peer) /* whose next input is what it waits for */
        mg_stream_read_stop(&peer->twin->stream);
    return true;
}

static bool
encrypted_send(struct mg_peer *peer, const unsigned char *data, size_t len)
{
    struct mg_tls_io io = io_begin(peer->session->engine, NULL, 0);
    enum mg_tls_status status;
    struct mg_err err;

    if (peer->parked != NULL)
        return park(peer, data, len);
    err.text[0] = '\0';
    do {
        size_t used;

        status = mg_tls_conn_write(&peer->tls, &io, data, len, &used, &err);
        data += used;
        len -= used;
        if (!socket_write(peer, io.out, io.out_len))
            return false;
        io.out_len = 0;
    } while (status == MG_TLS_WANT_WRITE);
    if (status == MG_TLS_OK)
        return true;
    if (status == MG_TLS_WANT_READ)
        return park(peer, data, len);
    tls_failed(peer, &err);
    return false;
}

/* false: the session has closed. */
static bool
peer_send(struct mg_peer *peer, const unsigned char *data, size_t len)
{
    if (peer == &peer->session->down)
        peer->session->bytes_down += len;
    if (peer->tls.ssl != NULL)
        return encrypted_send(peer, data, len);
    return socket_write(peer, data, len);
}

/* The peer is the last to be told an end, so the session closes now. */
static bool
is_last(const struct mg_peer *peer)
{
    const struct mg_peer *twin = peer->twin;

    return twin != peer && twin->ended && twin->finished && twin->stream.shutdown_done &&
           peer->ended && peer->stream.eof && !peer->stream.writing;
}

/* Tells the peer that its twin has said everything. false: the session has closed. */
static bool
finish(struct mg_peer *peer)
{
    struct mg_tls_io io = io_begin(peer->session->engine, NULL, 0);
    struct mg_err err;
    int rc;

    if (peer->finished)
        return true;
    peer->finish_wanted = true;
    if (peer->parked != NULL)
        return true;
    err.text[0] = '\0';
    if (peer->tls.ssl != NULL) {
        enum mg_tls_status status = mg_tls_conn_shutdown(&peer->tls, &io, &err);

        if (status == MG_TLS_WANT_READ)
            return true; /* as if it were parked */
        if (status != MG_TLS_OK) {
            tls_failed(peer, &err);
            return false;
        }
        if (!socket_write_last(peer, io.out, io.out_len))
            return false;
    }
    if (is_last(peer)) {
        mg_stream_shutdown_by_close(&peer->stream);
        peer->finished = true;
        return true;
    }
    rc = mg_stream_shutdown(&peer->stream);
    if (rc < 0) {
        mg_session_socket_error(peer, rc);
        return false;
    }
    peer->finished = true;
    return true;
}

/* Both directions are over, or a reply is, and nothing of it is parked. */
static void
done_check(struct mg_session *s)
{
    bool replied = s->backend->kind == MG_BACKEND_REPLY && s->down.finished && !s->down.ended;
    bool over = s->down.ended && s->down.finished &&
                (!s->up.stream.open || (s->up.ended && s->up.finished));

    if (replied || over)
        mg_session_linger(s, "relay: done", NULL, replied);
}

/* Tries again what libssl had refused. false: the session has closed. */
static bool
unpark(struct mg_peer *peer)
{
    char *parked = peer->parked;
    size_t len = peer->parked_len;
    bool open;

    if (parked == NULL && (!peer->finish_wanted || peer->finished))
        return true;
    peer->parked = NULL;
    peer->parked_len = 0;
    open = parked == NULL || encrypted_send(peer, (unsigned char *)parked, len);
    mg_free(parked);
    if (!open || peer->parked != NULL)
        return open;
    if (!peer->finish_wanted) {
        reading_start(peer->twin);
        return true;
    }
    if (!finish(peer))
        return false;
    done_check(peer->session);
    return true;
}

/* ---- what arrives ---------------------------------------------------------------------------- */

/* The reply backend has heard something: it answers, once, and says goodbye. */
static void
reply(struct mg_session *s)
{
    const struct mg_backend *backend = s->backend;
    size_t done = 0;

    if (s->down.finish_wanted)
        return;
    while (done < backend->reply_len) {
        size_t part = backend->reply_len - done;

        if (part > MG_NET_UNIT)
            part = MG_NET_UNIT;
        if (!peer_send(&s->down, (const unsigned char *)backend->reply + done, part))
            return;
        done += part;
    }
    if (finish(&s->down))
        done_check(s);
}

/* false: the session takes no more of it. */
static bool
deliver(struct mg_peer *peer, const unsigned char *data, size_t len)
{
    struct mg_session *s = peer->session;

    s->active_at = uv_now(s->engine->net.loop);
    if (peer == &s->down)
        s->bytes_up += len;
    if (s->backend->kind == MG_BACKEND_REPLY) {
        reply(s);
        return s->state == S_RELAY;
    }
    return peer_send(peer->twin, data, len);
}

static void
end(struct mg_peer *peer)
{
    struct mg_session *s = peer->session;

    if (peer->ended)
        return;
    peer->ended = true;
    s->active_at = uv_now(s->engine->net.loop);
    peer->told = peer->stream.writing || peer->parked != NULL ? UINT64_MAX : mg_peer_told(peer);
    if (!finish(peer->twin))
        return;
    done_check(s);
    mg_session_arm(s);
}

/* What libssl had to answer on its own (a key update) leaves before the relayed bytes. Some of it may
 * wait behind a stash: a peer that writes before it reads must be able to go on. */
static bool
own_flush(struct mg_peer *peer, struct mg_tls_io *io)
{
    bool open = peer->finished || socket_write(peer, io->out, io->out_len);

    if (open && peer->stream.writing) {
        peer->answers += io->out_len;
        if (peer->answers >= ANSWERS_MAX)
            mg_stream_read_stop(&peer->stream);
    }
    io->out_len = 0;
    return open;
}

static void
encrypted_input(struct mg_peer *peer, const unsigned char *data, size_t len)
{
    struct mg_session *s = peer->session;
    struct mg_tls_io io = io_begin(s->engine, data, len);
    enum mg_tls_status status;
    struct mg_err err;

    do {
        size_t got;

        status = mg_tls_conn_read(&peer->tls, &io, s->engine->plain, MG_NET_UNIT, &got, &err);
        if (!own_flush(peer, &io))
            return;
        if (got > 0 && !deliver(peer, s->engine->plain, got))
            return;
    } while (status == MG_TLS_OK || status == MG_TLS_WANT_WRITE);
    if (status == MG_TLS_FLOODED)
        mg_session_close(s, mg_peer_flood_reason(peer), NULL);
    else if (status == MG_TLS_ERROR)
        tls_failed(peer, &err);
    else if (unpark(peer) && status == MG_TLS_CLOSED && s->state == S_RELAY)
        end(peer);
}

void
mg_pump_input(struct mg_peer *peer, const unsigned char *data, size_t len)
{
    if (peer->ended)
        mg_stream_read_stop(&peer->stream); /* after close_notify: nothing we have a use for */
    else if (peer->tls.ssl != NULL)
        encrypted_input(peer, data, len);
    else
        deliver(peer, data, len);
}

void
mg_pump_eof(struct mg_peer *peer)
{
    if (peer->tls.ssl == NULL)
        end(peer);
    else if (!peer->ended)
        mg_session_close(peer->session, mg_peer_reason(peer, "down: truncated", "up: truncated"),
                         NULL);
}

void
mg_pump_drain(struct mg_peer *peer)
{
    struct mg_session *s = peer->session;

    s->active_at = uv_now(s->engine->net.loop);
    peer->answers = 0;
    if (s->state != S_RELAY)
        return;
    reading_start(peer->twin);
    reading_start(peer);
}

void
mg_pump_look(struct mg_peer *peer, uint64_t now)
{
    size_t unsent = mg_stream_unsent(&peer->stream);

    if (unsent == peer->unsent_seen)
        return;
    peer->unsent_seen = unsent;
    peer->moved_at = now;
    if (unsent > 0)
        peer->session->active_at = now;
}

/* ---- the start ------------------------------------------------------------------------------- */

static void
held_input(struct mg_peer *peer)
{
    char *held = peer->held;
    size_t len = peer->held_len;

    peer->held = NULL;
    peer->held_len = 0;
    if (held != NULL)
        mg_pump_input(peer, (const unsigned char *)held, len);
    mg_free(held);
}

void
mg_pump_start(struct mg_session *s)
{
    held_input(&s->down);
    if (s->state == S_RELAY && s->down.stream.eof) /* while we were connecting */
        mg_pump_eof(&s->down);
    if (s->state == S_RELAY)
        held_input(&s->up);
    if (s->state != S_RELAY)
        return;
    reading_start(&s->down);
    reading_start(&s->up);
}

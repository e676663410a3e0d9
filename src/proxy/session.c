/*
 * A session: one client, and what serves it.
 *
 * The happy path is: S_PROXY (only where a PROXY header comes first, see proxied.c) – S_HELLO (only where
 * the policy chooses the context, or TLS is optional, see hello.c) – S_HANDSHAKE
 * (skipped on a plain listener) – S_ROUTE (the backend is chosen; a fixed one has been dialled since
 * the client's first bytes, or since the choice, side by side with the handshake) – S_CONNECT until
 * the backend takes bytes – S_RELAY until both directions have ended – S_LINGER until what was
 * written has left – S_CLOSING until both streams are closed, then the memory is freed.
 *
 * Possible failure modes are: the handshake fails (its alert leaves, S_LINGER reads on for a moment
 * so that no reset destroys the alert on its way), no address of the backend answers, a side is cut
 * off or resets, a deadline passes, the engine closes us. They all end in mg_session_close, which
 * resets every side that was not told a proper end: half an answer must never look like a whole
 * one.
 *
 * All deadlines of a session share one of net's. It is set to the earliest of them and not touched when
 * they move away, as they do with every byte; when it passes too early it is set again.
 */
#include "proxy/internal.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

const char *const mg_state_names[] = {
    [S_PROXY] = "proxy",   [S_HELLO] = "hello",     [S_HANDSHAKE] = "handshake",
    [S_ROUTE] = "route",   [S_CONNECT] = "connect", [S_RELAY] = "relay",
    [S_LINGER] = "linger", [S_CLOSING] = "closing",
};

/* ---- deadlines ------------------------------------------------------------------------------- */

struct deadline {
    uint64_t at; /* loop time; UINT64_MAX = none */
    const char *reason;
};

static void
deadline_consider(struct deadline *best, uint64_t from, unsigned after_ms, const char *reason)
{
    if (after_ms > 0 && from + after_ms < best->at) {
        best->at = from + after_ms;
        best->reason = reason;
    }
}

static const char reason_connect[] = "up: connect timeout"; /* or what mg_dial_timeout finds */
static const char reason_lingered[] = "down: linger timeout";
static const char reason_keepalive[] = "up: keepalive"; /* nothing ends then */

/* A side that does not read while the other one goes on talking is idle too. */
static void
deadline_consider_stuck(struct deadline *best, const struct mg_peer *peer, const char *reason)
{
    if (peer->stream.writing)
        deadline_consider(best, peer->moved_at, peer->session->listener->idle_timeout_ms, reason);
}

static struct deadline
deadline_next(const struct mg_session *s)
{
    const struct mg_listener *l = s->listener;
    struct deadline best = {.at = UINT64_MAX};
    uint64_t dial = mg_dial_deadline(s);

    deadline_consider(&best, s->born_at, l->max_lifetime_ms, "session: lifetime over");
    if (s->state == S_PROXY)
        deadline_consider(&best, s->born_at, l->handshake_timeout_ms, "down: PROXY header timeout");
    if (s->state == S_HELLO || s->state == S_HANDSHAKE)
        deadline_consider(&best, s->born_at, l->handshake_timeout_ms, "down: handshake timeout");
    if (s->state == S_RELAY || s->state == S_LINGER) {
        deadline_consider_stuck(&best, &s->down, "down: not reading");
        deadline_consider_stuck(&best, &s->up, "up: not reading");
        deadline_consider(&best, s->active_at, l->idle_timeout_ms, "relay: idle timeout");
        if (s->down.ended || s->up.ended || s->state == S_LINGER)
            deadline_consider(&best, s->active_at, l->half_close_timeout_ms,
                              "relay: half-close timeout");
    }
    if (dial != 0 && dial < best.at)
        best = (struct deadline){dial, reason_connect};
    if (s->linger_until != 0 && s->linger_until < best.at)
        best = (struct deadline){s->linger_until, reason_lingered};
    if (s->keepalive_at != 0 && s->keepalive_at < best.at)
        best = (struct deadline){s->keepalive_at, reason_keepalive};
    return best;
}

/* Most connections are over by then, and save the system calls; down has it from the listener. */
static void
keepalive_begin(struct mg_session *s)
{
    s->keepalive_at = 0;
    mg_stream_keepalive(&s->up.stream, s->listener->tcp_keepalive_s);
    mg_session_arm(s);
}

void
mg_session_on_deadline(struct mg_net *net, struct mg_deadline *deadline)
{
    struct mg_session *s = MG_CONTAINER_OF(deadline, struct mg_session, deadline);
    uint64_t now = uv_now(net->loop);
    struct deadline next;

    mg_pump_look(&s->down, now);
    mg_pump_look(&s->up, now);
    next = deadline_next(s);
    if (next.at > now)
        mg_session_arm(s);
    else if (next.reason == reason_connect)
        mg_dial_timeout(s);
    else if (next.reason == reason_lingered)
        mg_session_close(s, s->reason, NULL);
    else if (next.reason == reason_keepalive)
        keepalive_begin(s);
    else
        mg_session_close(s, next.reason, NULL);
}

void
mg_session_arm(struct mg_session *s)
{
    struct deadline next;

    if (s->state == S_CLOSING)
        return;
    next = deadline_next(s);
    if (next.at != UINT64_MAX && (s->deadline.at == 0 || next.at < s->deadline.at))
        mg_deadline_set(&s->engine->net, &s->deadline, next.at);
}

uint32_t
mg_session_elapsed_us(const struct mg_session *s)
{
    uint64_t us = (mg_now_ns() - s->born_ns) / 1000;

    return us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

/* ---- freeing --------------------------------------------------------------------------------- */

static void
peer_fini(struct mg_peer *peer)
{
    mg_tls_conn_close(&peer->tls);
    mg_free(peer->held);
    mg_free(peer->parked);
}

static void
session_release(struct mg_session *s)
{
    struct mg_engine *engine = s->engine;

    if (--s->live > 0)
        return;
    peer_fini(&s->down);
    peer_fini(&s->up);
    mg_link_remove(&s->link);
    if (s->backend != NULL)
        mg_given_leave(s->backend);
    s->config->sessions--;
    mg_config_unref(s->config);
    mg_free(s->detail);
    mg_free(s->failures);
    mg_free(s->servername);
    mg_free(s->remote);
    mg_origin_free(s->origin);
    mg_free(s->up_addr);
    mg_free(s);
    if (--engine->session_count == 0 && engine->on_idle != NULL)
        engine->on_idle(engine->on_idle_data);
    mg_engine_release(engine);
}

static void
on_stream_close(struct mg_stream *stream)
{
    struct mg_peer *peer = stream->data;
    struct mg_session *s = peer->session;

    if (s->state == S_CLOSING) {
        session_release(s);
        return;
    }
    s->live--; /* an address that failed: down is still there */
    mg_dial_closed(s);
}

/* ---- closing --------------------------------------------------------------------------------- */

void
mg_session_settle(struct mg_session *s)
{
    if (!s->settled)
        s->engine->net.wanted--;
    s->settled = true;
}

static void
detail_set(struct mg_session *s, const char *detail)
{
    if (detail == NULL || s->detail != NULL)
        return;
    s->detail = mg_strdup(detail); /* without memory the record has no detail */
}

/* A stream that has no proper end behind it gets a reset. */
static void
peer_close(struct mg_peer *peer)
{
    mg_link_remove(&peer->handshake_link);
    mg_stream_close(&peer->stream, !peer->stream.shutdown_done);
}

void
mg_session_close(struct mg_session *s, const char *reason, const char *detail)
{
    struct mg_engine *engine = s->engine;

    if (s->state == S_CLOSING)
        return;
    s->reason = reason;
    detail_set(s, detail);
    mg_offload_cancel(s);
    mg_session_settle(s);
    mg_record_write(s);
    s->state = S_CLOSING;
    mg_limits_end(s);
    mg_limits_give_back(s);
    s->listener->open--;
    mg_count_closed(s);
    engine->bytes_up += s->bytes_up;
    engine->bytes_down += s->bytes_down;
    if (s->config->policy != NULL && s->config->policy->forget != NULL)
        s->config->policy->forget(s->config->policy_data, s);
    mg_dial_cancel(s);
    if (s->address != NULL)
        mg_balance_leave(s->address);
    s->address = NULL;
    peer_close(&s->down);
    peer_close(&s->up);
    mg_deadline_close(&engine->net, &s->deadline);
    mg_frontend_give_back(engine, s->listener);
}

static bool
peer_done(const struct mg_peer *peer)
{
    return !peer->stream.open || peer->stream.closing ||
           (peer->stream.shutdown_done && (peer->ended || peer->stream.eof));
}

static void
linger_check(struct mg_session *s)
{
    if (s->state == S_LINGER && peer_done(&s->down) && peer_done(&s->up))
        mg_session_close(s, s->reason, NULL);
}

void
mg_session_linger(struct mg_session *s, const char *reason, const char *detail, bool drain)
{
    if (s->state == S_CLOSING || s->state == S_LINGER)
        return;
    s->state = S_LINGER;
    s->reason = reason;
    detail_set(s, detail);
    s->active_at = uv_now(s->engine->net.loop);
    if (drain) {
        if (s->down.stream.shutdown_done || mg_peer_in_handshake(&s->down))
            s->linger_until = s->active_at + MG_LINGER_MS;
        mg_stream_read_start(&s->down.stream);
    }
    mg_session_arm(s);
    linger_check(s);
}

static void
linger_input(struct mg_session *s, size_t len)
{
    s->lingered += (uint32_t)len;
    if (s->lingered > MG_LINGER_BYTES)
        mg_session_close(s, s->reason, NULL);
}

uint64_t
mg_peer_told(const struct mg_peer *peer)
{
    const struct mg_session *s = peer->session;

    return peer == &s->down ? s->bytes_down : s->bytes_up;
}

/* Both sides have said everything, and since its own end there was nothing to tell this one but ours: that it
 * did not wait for it cuts nothing off. */
static bool
is_over(const struct mg_peer *peer)
{
    return peer->ended && peer->twin->ended && mg_peer_told(peer) == peer->told;
}

void
mg_session_socket_error(struct mg_peer *peer, int error)
{
    struct mg_session *s = peer->session;

    if (s->state == S_LINGER)
        mg_session_close(s, s->reason, uv_strerror(error));
    else if (is_over(peer))
        mg_session_close(s, "relay: done", NULL);
    else if (error == UV_ECONNRESET || error == UV_EPIPE || error == UV_ENOTCONN)
        mg_session_close(s, mg_peer_reason(peer, "down: reset", "up: reset"), NULL);
    else
        mg_session_close(s, mg_peer_reason(peer, "down: socket error", "up: socket error"),
                         uv_strerror(error));
}

/* ---- the streams' callbacks ------------------------------------------------------------------ */

static void
on_connect(struct mg_stream *stream, int status)
{
    struct mg_peer *peer = stream->data;

    mg_dial_connected(peer->session, status);
}

static void
backend_choose(struct mg_session *s, struct mg_backend *backend)
{
    if (s->backend == backend) /* it was dialled early */
        return;
    s->backend = backend;
    mg_given_use(backend);
    mg_count_chosen(s);
}

/* Whoever merely opens a connection, or never ends its ClientHello, costs the backend nothing, nor does who has
 * yet to show a certificate. */
static bool
is_earnest(SSL *ssl)
{
    OSSL_HANDSHAKE_STATE state = SSL_get_state(ssl);

    return state != TLS_ST_BEFORE && state != TLS_ST_SR_CLNT_HELLO &&
           (SSL_get_verify_mode(ssl) & SSL_VERIFY_PEER) == 0;
}

/* Only where the name to send does not depend on what the handshake brings. */
void
mg_session_dial_early(struct mg_session *s)
{
    struct mg_backend *backend = s->listener->backend;

    if (backend != NULL && is_earnest(s->down.tls.ssl) && backend->kind == MG_BACKEND_ADDRESSES &&
        !backend->servername_asked && s->backend == NULL && !mg_backend_proxy_waits(backend)) {
        backend_choose(s, backend);
        mg_dial_start(s);
    }
}

void
mg_session_handshake(struct mg_session *s)
{
    s->state = S_HANDSHAKE;
}

static void
first_bytes(struct mg_session *s)
{
    s->hello_us = mg_session_elapsed_us(s) | 1; /* 0 = has not come */
}

static void
on_read(struct mg_stream *stream, const unsigned char *data, size_t len)
{
    struct mg_peer *peer = stream->data;
    struct mg_session *s = peer->session;
    uint64_t now = uv_now(s->engine->net.loop);

    if (s->state == S_LINGER) {
        linger_input(s, len);
        return;
    }
    if (s->state == S_PROXY) {
        mg_session_proxy_input(s, data, len);
    } else if (mg_peer_in_handshake(peer)) {
        mg_handshake_input(peer, data, len);
        if (peer == &s->down && s->hello_us == 0 && s->state <= S_HANDSHAKE)
            first_bytes(s);
    } else if (s->state == S_CONNECT) {
        if (mg_peer_hold(peer, data, len) && peer->held_len >= MG_HANDSHAKE_READ)
            mg_stream_read_stop(stream);
    } else {
        if (now - s->born_at >= MG_ESTABLISHED_MS)
            s->engine->heard_at = now;
        mg_pump_input(peer, data, len);
    }
}

static const char reason_vanished[] = "down: closed while connecting";

/* Nobody waits for the backend any more, unless the end is that of what is held: a plain client's
 * half-close, or close_notify behind a request. The pump tells. */
static void
connect_eof(struct mg_session *s)
{
    if (s->down.tls.ssl != NULL && s->down.held == NULL)
        mg_session_close(s, reason_vanished, NULL);
}

static void
on_eof(struct mg_stream *stream)
{
    struct mg_peer *peer = stream->data;
    struct mg_session *s = peer->session;

    if (s->state == S_LINGER)
        linger_check(s);
    else if (s->state == S_PROXY)
        mg_session_proxy_eof(s);
    else if (s->state == S_CONNECT && peer == &s->down)
        connect_eof(s);
    else if (!mg_peer_in_handshake(peer))
        mg_pump_eof(peer);
    else if (peer == &s->up)
        mg_dial_failed(s, "up: closed during the handshake", NULL);
    else if (s->hello_us == 0)
        mg_session_close(s, "down: closed before the handshake", NULL);
    else
        mg_session_close(s, "down: closed during the handshake", NULL);
}

static void
on_error(struct mg_stream *stream, int error)
{
    struct mg_peer *peer = stream->data;
    struct mg_session *s = peer->session;

    if (peer == &s->up && s->dial != NULL)
        mg_dial_failed(s, "up: reset during the handshake", uv_strerror(error));
    else if (s->state == S_CONNECT && peer == &s->down)
        mg_session_close(s, reason_vanished, uv_strerror(error));
    else
        mg_session_socket_error(peer, error);
}

static void
on_drain(struct mg_stream *stream)
{
    struct mg_peer *peer = stream->data;

    mg_pump_drain(peer);
}

static void
on_shutdown(struct mg_stream *stream)
{
    struct mg_peer *peer = stream->data;
    struct mg_session *s = peer->session;

    s->active_at = uv_now(s->engine->net.loop);
    if (s->state == S_LINGER && peer == &s->down && !peer->ended) {
        s->linger_until = s->active_at + MG_LINGER_MS;
        mg_session_arm(s);
    }
    linger_check(s);
}

const struct mg_stream_ops mg_peer_ops = {
    .on_connect = on_connect,
    .on_read = on_read,
    .on_eof = on_eof,
    .on_error = on_error,
    .on_drain = on_drain,
    .on_shutdown = on_shutdown,
    .on_close = on_stream_close,
};

/* ---- route and relay ------------------------------------------------------------------------- */

static void
relay(struct mg_session *s)
{
    bool direct = s->backend->kind == MG_BACKEND_ADDRESSES;

    if (s->down.tls.ssl != NULL)
        mg_tls_conn_wipe_keys(&s->down.tls, s->listener->backend == NULL);
    if (s->up.tls.ssl != NULL)
        mg_tls_conn_wipe_keys(&s->up.tls, false);
    s->state = S_RELAY;
    mg_session_settle(s);
    s->active_at = uv_now(s->engine->net.loop);
    s->down.stream.read_max = MG_NET_UNIT;
    s->down.twin = direct ? &s->up : &s->down;
    s->up.twin = &s->down;
    mg_session_arm(s);
    mg_pump_start(s);
}

/* There is no backend for this client: it is told so by an alert. A plain one gets a reset. */
static void
route_refused(struct mg_session *s, const char *reason, const char *detail)
{
    struct mg_tls_io io = {.out = s->engine->out, .out_cap = MG_OUT_UNIT};
    int rc = 0;

    if (s->down.tls.ssl != NULL)
        mg_tls_conn_abort(&s->down.tls, &io);
    if (io.out_len > 0)
        rc = mg_stream_write(&s->down.stream, io.out, io.out_len);
    if (io.out_len > 0 && rc >= 0)
        mg_handshake_refused(s, reason, detail);
    else
        mg_session_close(s, reason, detail);
}

/* The script's answer, for a listener without a fixed backend. */
static bool
route_ask(struct mg_session *s)
{
    const struct mg_policy *policy = s->config->policy;
    struct mg_route route = {0};

    if (policy == NULL || policy->route == NULL) {
        route_refused(s, "route: no backend", NULL);
        return false;
    }
    if (policy->route(s->config->policy_data, s, s->listener, &route) != 0) {
        if (route.full) {
            route_refused(s, "route: too many addresses", NULL);
            return false;
        }
        if (!route.failed)
            mg_log(MG_LOG_INFO, "connection %llu: listener %s: refused: %s",
                   (unsigned long long)s->id, s->listener->name,
                   route.reason[0] != '\0' ? route.reason : "without a reason");
        route_refused(s, route.failed ? "route: callback failed" : "route: refused",
                      route.reason[0] != '\0' ? route.reason : NULL);
        return false;
    }
    backend_choose(s, route.backend);
    return true;
}

void
mg_session_route(struct mg_session *s)
{
    s->state = S_ROUTE;
    mg_limits_end(s);
    if (s->listener->backend != NULL)
        backend_choose(s, s->listener->backend);
    else if (!route_ask(s))
        return;
    if (mg_session_pass_refused(s))
        return;
    if (s->backend->kind != MG_BACKEND_ADDRESSES || s->up_ready) {
        relay(s);
        return;
    }
    s->state = S_CONNECT;
    if (s->dial == NULL)
        mg_dial_start(s);
    else
        mg_session_arm(s);
    if (s->state != S_CONNECT || s->down.held_len >= MG_HANDSHAKE_READ)
        return;
    s->down.stream.read_max = MG_HANDSHAKE_READ;
    mg_stream_read_start(
        &s->down.stream); /* to see it go, and no more than the pump's start can hold */
}

void
mg_session_up_ready(struct mg_session *s)
{
    s->up_ready = s->connected = true;
    if (s->state == S_CONNECT)
        relay(s);
}

/* ---- opening --------------------------------------------------------------------------------- */

static struct mg_session *
session_new(struct mg_engine *engine, struct mg_config *config, struct mg_listener *listener)
{
    struct mg_session *s = mg_calloc(1, sizeof(*s));

    if (s == NULL || mg_deadline_open(&engine->net, &s->deadline) < 0) {
        mg_free(s);
        return NULL;
    }
    s->engine = engine;
    s->config = config;
    s->listener = listener;
    s->down.session = s->up.session = s;
    mg_link_init(&s->down.handshake_link);
    mg_link_init(&s->up.handshake_link);
    mg_link_init(&s->unfinished_link);
    s->limits_place = MG_LIMITS_UNCOUNTED;
    mg_link_append(&engine->sessions, &s->link);
    mg_config_ref(config);
    config->sessions++;
    engine->session_count++;
    engine->net.wanted++;
    engine->accepted++;
    listener->accepted++;
    listener->open++;
    mg_count_accepted(s);
    s->id =
        atomic_fetch_add_explicit(&engine->options.shared->next_id, 1, memory_order_relaxed) + 1;
    s->born_at = s->active_at = uv_now(engine->net.loop);
    s->born_ns = mg_now_ns();
    return s;
}

bool
mg_session_tls_open(struct mg_session *s, SSL_CTX *ctx)
{
    struct mg_err err;

    if (mg_tls_conn_open(&s->down.tls, ctx, MG_TLS_SERVER, s, &err) != 0) {
        mg_session_close(s, "down: no TLS", err.text);
        return false;
    }
    s->down.tls.scope = s->listener->name;
    s->down.tls.noting = mg_session_notes_hello(s);
    mg_limits_watch(s);
    return true;
}

static void
tls_begin(struct mg_session *s)
{
    mg_limits_begin(s);
    if (mg_listener_reads_hello(s->listener) || s->listener->tls_optional) {
        mg_session_hello_open(s);
    } else {
        s->state = S_HANDSHAKE;
        if (!mg_session_tls_open(s, s->listener->tls))
            return;
        mg_tls_conn_keep_hello(&s->down.tls, s->engine->options.ring, s->listener->name);
    }
    s->down.stream.read_max = MG_HANDSHAKE_READ;
    mg_session_arm(s);
    if (s->down.held == NULL) {
        mg_stream_read_start(&s->down.stream);
        return;
    }
    mg_handshake_enqueue(&s->down); /* came with the PROXY header */
    first_bytes(s);
}

void
mg_session_begin(struct mg_session *s)
{
    if (!mg_limits_admit(s))
        return;
    if (mg_listener_waits(s->listener))
        tls_begin(s);
    else
        mg_session_route(s);
}

static void
proxy_begin(struct mg_session *s)
{
    s->state = S_PROXY;
    mg_limits_begin(s);
    s->down.stream.read_max = MG_HANDSHAKE_READ;
    mg_session_arm(s);
    mg_stream_read_start(&s->down.stream);
}

int
mg_session_open(struct mg_engine *engine, struct mg_config *config, struct mg_listener *listener,
                int fd, const struct mg_addr *remote, bool is_unix)
{
    struct mg_session *s = session_new(engine, config, listener);
    int rc;

    if (s == NULL) {
        close(fd);
        return -1;
    }
    s->remote = mg_addr_keep(remote);
    rc = mg_stream_accept(&s->down.stream, &engine->net, fd, is_unix, &mg_peer_ops, &s->down);
    s->live = 1;
    if (s->remote == NULL)
        mg_session_close(s, "session: out of memory", NULL);
    else if (rc < 0)
        mg_session_close(s, "down: socket error", uv_strerror(rc));
    else if (listener->accept_proxy != MG_ACCEPT_PROXY_NONE && mg_session_proxy_expected(s))
        proxy_begin(s);
    else
        mg_session_begin(s);
    return 0;
}

/* ---- what others may know -------------------------------------------------------------------- */

void
mg_session_info(const struct mg_session *s, struct mg_session_info *info)
{
    struct mg_session *self = s->down.session; /* the same, without const */

    mg_offload_settle(self);
    *info = (struct mg_session_info){
        .id = s->id,
        .generation = s->config->generation,
        .listener = s->listener,
        .config = s->config,
        .remote = s->remote,
        .socket_remote = mg_session_socket(s),
        .tls = self->down.deciding || self->down.tls.ssl != NULL ? &self->down.tls : NULL,
        .hello =
            s->passed || self->down.deciding || self->down.tls.ssl != NULL ? &self->down.tls : NULL,
        .servername = s->servername,
        .backend = s->backend,
        .bytes_up = s->bytes_up,
        .bytes_down = s->bytes_down,
    };
    if (s->origin != NULL)
        info->proxy_tlvs = (struct mg_proxy_tlvs){s->origin->tlvs, s->origin->tlv_len};
}

void
mg_session_local(const struct mg_session *s, struct mg_addr *out)
{
    const struct mg_addr *target = s->origin != NULL ? s->origin->target : NULL;

    if (target == NULL) {
        mg_stream_local(&s->down.stream, out);
        return;
    }
    memset(out, 0, sizeof(*out));
    out->len = target->len;
    memcpy(&out->u, &target->u, target->len);
}

void *
mg_session_user(const struct mg_session *s)
{
    return s->user;
}

void
mg_session_set_user(struct mg_session *s, void *user)
{
    s->user = user;
}

struct mg_session *
mg_session_of_tls(const struct mg_tls_conn *tls)
{
    struct mg_session *s = tls->owner;

    /* Not every owner is a session: one whose connections are elsewhere is not. Nothing is read
     * here. */
    if (s == NULL || (tls != &s->down.tls && tls != &s->up.tls))
        return NULL;
    return s;
}

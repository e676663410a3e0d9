/*
 * Probes: whether an address of a backend serves, asked every interval.
 *
 * The happy path is: every worker has a probe for each address of the config in use, those that a name leads to
 * included: they come and go with its answers. The first whose time comes claims the address in the memory that
 * the workers share, and alone goes on: connect, TLS (with the backend's own context), `send`, `expect`, close, a
 * verdict for health.c, and the same again after the interval. The others' only look whether the claim is free.
 * Possible failure modes are: any of the steps fails or they take longer than `timeout` together; the worker that
 * has the claim dies (the supervisor frees it, another one takes it) or has no use for the address any more
 * (mg_engine_stop_probes, mg_probe_stop).
 *
 * A probe reads its address until it is stopped; its handles may outlive that by a turn of the loop.
 */
#include "proxy/internal.h"

#include <stdio.h>
#include <string.h>

#define HEARD_MAX (64u * 1024u) /* in which `expect` has to come */
#define LATE_MS   50u           /* a loop that was held up for that long has not heard everything */

struct mg_probe {
    struct mg_link link; /* in engine->probes */
    struct mg_engine *engine;
    const struct mg_backend *backend; /* borrowed; not to be touched any more once it is stopped */
    struct mg_backend_address *address; /* likewise */
    uv_timer_t timer;                   /* the next one, or the end of this one */
    struct mg_stream stream;
    struct mg_tls_conn tls;
    struct mg_buf held;  /* of a TLS stream: not yet decrypted */
    struct mg_buf heard; /* plaintext */
    uint64_t began_at;   /* loop time */
    bool asking;         /* begun, and without a verdict */
    bool late;           /* the loop was: what has come meanwhile is to be heard */
    bool stopped;
    unsigned live; /* timer, stream */
};

/* ---- life ------------------------------------------------------------------------------------ */

static void
release(struct mg_probe *p)
{
    struct mg_engine *engine = p->engine;

    if (--p->live > 0)
        return;
    mg_tls_conn_close(&p->tls);
    mg_buf_free(&p->held);
    mg_buf_free(&p->heard);
    mg_free(p);
    engine->handles--;
    mg_engine_release(engine);
}

static void
on_timer_close(uv_handle_t *handle)
{
    release(handle->data);
}

static uint32_t
claim_mark(const struct mg_probe *p)
{
    return p->engine->options.worker + 1;
}

/* Whether it is for us to probe. */
static bool
claim_take(const struct mg_probe *p)
{
    uint32_t holder = 0;

    return atomic_compare_exchange_strong(&p->address->shared->prober, &holder, claim_mark(p)) ||
           holder == claim_mark(p);
}

static void
claim_drop(const struct mg_probe *p)
{
    uint32_t holder = claim_mark(p);

    atomic_compare_exchange_strong(&p->address->shared->prober, &holder, 0);
}

static void
probe_stop(struct mg_probe *p)
{
    mg_link_remove(&p->link);
    claim_drop(p);
    p->stopped = true;
    p->asking = false;
    p->address->probe = NULL;
    mg_stream_close(&p->stream, true);
    uv_close((uv_handle_t *)&p->timer, on_timer_close);
}

void
mg_probe_stop(struct mg_backend_address *address)
{
    if (address->probe != NULL)
        probe_stop(address->probe);
}

void
mg_engine_stop_probes(struct mg_engine *engine)
{
    const struct mg_config *config = engine->config;

    for (size_t i = 0; config != NULL && i < config->backend_count; i++)
        config->backends[i]->probed = false;
    while (!mg_link_empty(&engine->probes))
        probe_stop(MG_CONTAINER_OF(engine->probes.next, struct mg_probe, link));
}

/* ---- the verdict ----------------------------------------------------------------------------- */

static void on_time(uv_timer_t *timer);

static void
wait_for_next(struct mg_probe *p)
{
    uint64_t now = uv_now(p->engine->net.loop), next = p->began_at + p->backend->health.interval_ms;

    uv_timer_start(&p->timer, on_time, next > now ? next - now : 0, 0);
}

/* why is NULL: it serves. */
static void
verdict(struct mg_probe *p, const char *why)
{
    if (!p->asking)
        return;
    p->asking = false;
    mg_health_probed(p->address, why);
    wait_for_next(p);
    mg_stream_close(&p->stream, why != NULL);
}

/* There is none: it says nothing of the address. */
static void
no_verdict(struct mg_probe *p, const char *why)
{
    mg_log(MG_LOG_DEBUG, "backend %s: %s could not be probed: %s", p->backend->name,
           p->address->text, why);
    p->asking = false;
    wait_for_next(p);
    mg_stream_close(&p->stream, true);
}

/* ---- talking --------------------------------------------------------------------------------- */

static bool
heard_enough(const struct mg_probe *p)
{
    const struct mg_health *health = &p->backend->health;

    return health->expect == NULL ||
           (p->heard.len > 0 &&
            memmem(p->heard.data, p->heard.len, health->expect, health->expect_len) != NULL);
}

/* Our end of TLS is told, so that the server does not take it for a truncation. */
static void
farewell(struct mg_probe *p)
{
    struct mg_tls_io io = {.out = p->engine->out, .out_cap = MG_OUT_UNIT};
    struct mg_err err;

    if (p->tls.ssl == NULL)
        return;
    mg_tls_conn_shutdown(&p->tls, &io, &err);
    if (io.out_len > 0)
        mg_stream_write(&p->stream, io.out, io.out_len);
}

static void
listen_to(struct mg_probe *p)
{
    if (heard_enough(p)) {
        farewell(p);
        verdict(p, NULL);
    } else if (p->heard.failed) {
        no_verdict(p, "out of memory");
    } else if (p->heard.len > HEARD_MAX) {
        verdict(p, "what was expected did not come in the first 64 KiB");
    }
}

static bool
say(struct mg_probe *p, const void *data, size_t len)
{
    int rc = len > 0 ? mg_stream_write(&p->stream, data, len) : 0;

    if (rc < 0)
        verdict(p, uv_strerror(rc));
    return rc >= 0;
}

/* TCP, and TLS where there is any, are there. */
static void
established(struct mg_probe *p)
{
    const struct mg_health *health = &p->backend->health;
    struct mg_tls_io io = {.out = p->engine->out, .out_cap = MG_OUT_UNIT};
    struct mg_err err;
    size_t used = 0;

    if (health->send != NULL && p->tls.ssl == NULL) {
        if (!say(p, health->send, health->send_len))
            return;
    } else if (health->send != NULL) { /* it is far shorter than the unit */
        if (mg_tls_conn_write(&p->tls, &io, health->send, health->send_len, &used, &err) ==
            MG_TLS_ERROR) {
            verdict(p, err.text);
            return;
        }
        if (!say(p, io.out, io.out_len))
            return;
    }
    listen_to(p);
}

/* ---- TLS ------------------------------------------------------------------------------------- */

/* What is held goes through `call` until it is used up or an end is reached. */
static enum mg_tls_status
decrypt(struct mg_probe *p, struct mg_tls_io *io, struct mg_err *err)
{
    enum mg_tls_status status;

    do {
        size_t got = 0;

        status = mg_tls_conn_read(&p->tls, io, p->engine->plain, MG_NET_UNIT, &got, err);
        mg_buf_add(&p->heard, p->engine->plain, got);
    } while (status == MG_TLS_OK && p->heard.len <= HEARD_MAX && !p->heard.failed);
    return status;
}

static void
held_consume(struct mg_probe *p, size_t used)
{
    p->held.len -= used;
    if (p->held.len > 0)
        memmove(p->held.data, p->held.data + used, p->held.len);
}

static void
tls_step(struct mg_probe *p)
{
    struct mg_tls_io io = {.in = (const unsigned char *)p->held.data,
                           .in_len = p->held.len,
                           .out = p->engine->out,
                           .out_cap = MG_OUT_UNIT};
    bool talking = p->tls.handshake_done;
    enum mg_tls_status status;
    struct mg_err err;

    do {
        status = talking ? decrypt(p, &io, &err) : mg_tls_conn_handshake(&p->tls, &io, &err);
        if (!say(p, io.out, io.out_len) || !p->stream.open || p->stream.closing)
            return;
        io.out_len = 0;
    } while (status == MG_TLS_WANT_WRITE);
    held_consume(p, io.in_used);
    if (talking)
        listen_to(p);
    if (!p->asking || p->stream.closing)
        return;
    if (!talking && status == MG_TLS_OK) {
        established(p);
        if (p->asking && !p->stream.closing && p->held.len > 0)
            tls_step(p);
    } else if (status == MG_TLS_ERROR || status == MG_TLS_FLOODED) {
        verdict(p, err.text);
    } else if (status == MG_TLS_CLOSED) {
        verdict(p, "it has closed before what was expected came");
    }
}

/* A function that gives a name per client has none for us: then the certificate is verified, but for the
 * host of the address only where the script has said so. */
static void
tls_begin(struct mg_probe *p)
{
    const struct mg_backend *backend = p->backend;
    struct mg_err err;
    char name[256];

    mg_backend_servername(p->address, name);
    if (mg_tls_conn_open(&p->tls, backend->tls, MG_TLS_CLIENT, NULL, &err) != 0 ||
        mg_tls_conn_set_servername(
            &p->tls, name, backend->verify_hostname && !backend->servername_asked, &err) != 0)
        verdict(p, err.text);
    else
        tls_step(p);
}

/* ---- the stream ------------------------------------------------------------------------------ */

/* Who wants a PROXY header takes nothing without one: of a connection of our own. */
static bool
proxy_say(struct mg_probe *p)
{
    struct mg_buf header = {0};
    struct mg_addr local;
    bool said;

    if (p->backend->send_proxy == 0)
        return true;
    mg_stream_local(&p->stream, &local);
    mg_proxy_write_own(&header, p->backend->send_proxy, &local, &p->address->addr);
    if (header.failed)
        no_verdict(p, "out of memory");
    said = !header.failed && say(p, header.data, header.len);
    mg_buf_free(&header);
    return said;
}

static void
connected(struct mg_probe *p, int status)
{
    if (mg_net_is_short(status) ||
        (status == UV_EADDRNOTAVAIL && mg_net_reaches(&p->address->addr))) {
        no_verdict(p, uv_strerror(status));
        return;
    }
    if (status < 0) {
        verdict(p, uv_strerror(status));
        return;
    }
    if (!proxy_say(p))
        return;
    mg_stream_read_start(&p->stream);
    if (p->backend->health.tls)
        tls_begin(p);
    else
        established(p);
}

static void
on_connect(struct mg_stream *stream, int status)
{
    connected(stream->data, status);
}

static void
on_read(struct mg_stream *stream, const unsigned char *data, size_t len)
{
    struct mg_probe *p = stream->data;

    mg_buf_add(p->tls.ssl != NULL ? &p->held : &p->heard, data, len);
    if (p->held.failed)
        no_verdict(p, "out of memory");
    else if (p->tls.ssl != NULL)
        tls_step(p);
    else
        listen_to(p);
}

static void
on_eof(struct mg_stream *stream)
{
    struct mg_probe *p = stream->data;

    verdict(p, p->backend->health.tls && !p->tls.handshake_done
                   ? "it has closed during the handshake"
                   : "it has closed before what was expected came");
}

static void
on_error(struct mg_stream *stream, int error)
{
    verdict(stream->data, uv_strerror(error));
}

static void
on_nothing(struct mg_stream *stream)
{
    (void)stream;
}

static void
on_close(struct mg_stream *stream)
{
    struct mg_probe *p = stream->data;

    mg_tls_conn_close(&p->tls);
    release(p);
}

static const struct mg_stream_ops stream_ops = {
    .on_connect = on_connect,
    .on_read = on_read,
    .on_eof = on_eof,
    .on_error = on_error,
    .on_drain = on_nothing,
    .on_shutdown = on_nothing,
    .on_close = on_close,
};

/* ---- beginning ------------------------------------------------------------------------------- */

static void
begin(struct mg_probe *p)
{
    struct mg_source source = p->backend->source;
    int rc;

    source.transparent = false; /* there is no client */
    p->held.len = p->heard.len = 0;
    rc = mg_stream_connect(&p->stream, &p->engine->net, &p->address->addr, &source, &stream_ops, p);
    p->live++;
    if (rc != 0)
        connected(p, rc < 0 ? rc : 0);
}

/* A loop that was held up runs its timers before it reads what has come: that gets its turn first. So does a
 * stream that still closes. */
static void
on_time(uv_timer_t *timer)
{
    struct mg_probe *p = timer->data;
    char text[48];

    if (p->asking && !p->late &&
        uv_now(p->engine->net.loop) > p->began_at + p->backend->health.timeout_ms + LATE_MS) {
        p->late = true;
        uv_timer_start(&p->timer, on_time, LATE_MS, 0);
        return;
    }
    if (p->asking) {
        snprintf(text, sizeof(text), "no answer within %g s",
                 p->backend->health.timeout_ms / 1000.0);
        verdict(p, text);
        return;
    }
    p->began_at = uv_now(p->engine->net.loop);
    if (p->stream.open || !claim_take(p)) {
        wait_for_next(p);
        return;
    }
    p->asking = true;
    p->late = false;
    p->address->probed++;
    p->heard.failed = p->held.failed = false;
    uv_timer_start(&p->timer, on_time, p->backend->health.timeout_ms, 0);
    begin(p);
}

/* What nobody would know the verdict of, or can connect to, is not probed. */
static bool
is_probed(const struct mg_backend_address *address)
{
    const struct mg_source *source = &address->entry->backend->source;

    return address->shared != NULL &&
           (source->transparent || mg_source_reaches(source, &address->addr));
}

void
mg_probe_start(struct mg_backend_address *address)
{
    const struct mg_backend *backend = address->entry->backend;
    struct mg_engine *engine = backend->engine;
    struct mg_probe *p = is_probed(address) ? mg_calloc(1, sizeof(*p)) : NULL;

    if (p == NULL) {
        if (is_probed(address))
            mg_log(MG_LOG_ERROR, "backend %s: %s is not probed: out of memory", backend->name,
                   address->text);
        return;
    }
    p->engine = engine;
    p->backend = backend;
    p->address = address;
    address->probe = p;
    uv_timer_init(engine->net.loop, &p->timer);
    p->timer.data = p;
    p->live = 1;
    engine->handles++;
    mg_link_append(&engine->probes, &p->link);
    uv_timer_start(&p->timer, on_time, 0, 0);
}

void
mg_probes_start(struct mg_engine *engine)
{
    const struct mg_config *config = engine->config;

    for (size_t i = 0; i < config->backend_count; i++) {
        struct mg_backend *backend = config->backends[i];

        backend->probed = backend->health.probes && !backend->duplicate;
        for (size_t a = 0; backend->probed && a < backend->address_count; a++)
            if (!backend->addresses[a]->gone)
                mg_probe_start(backend->addresses[a]);
    }
}

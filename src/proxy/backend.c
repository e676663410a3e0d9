/*
 * Connecting to a backend.
 *
 * The happy path is: an address is picked by the backend's balance, a name is resolved, TCP
 * connects, TLS (where the backend has it) is established through the engine's queue,
 * mg_session_up_ready. Possible failure modes are: the name has no address, the connect or the
 * handshake fails or takes longer than connect_timeout – then the next address, each at most once,
 * and with the last one the session closes with the last reason; the session closes in the middle
 * (mg_dial_cancel). What the handshake waits for its turn in our own queue is not the address's time: each
 * such wait has a connect_timeout of its own, and says nothing of the address when that is over.
 *
 * A dial exists only while it is needed: an established session does not carry its memory. Between
 * two addresses up's stream has to close first, so the next one starts in mg_dial_closed.
 */
#include "proxy/internal.h"

#include <string.h>

struct mg_dial {
    struct mg_resolve_wait wait;
    struct mg_race *race; /* where there are several addresses; NULL unless it runs */
    struct mg_source source;
    uint64_t started_ns;
    uint64_t deadline; /* loop time; 0 = none */
    uint64_t
        queued_at; /* loop time since which the handshake waits for its turn; 0 = it does not */
    struct mg_addr *addrs; /* what the current entry resolved to; owned */
    size_t addr_count, addr_next;
    bool short_of;       /* descriptors, when it was tried to connect */
    size_t entry;        /* the current one */
    bool *tried;         /* per entry, behind the struct; and as many for mg_balance_next */
    struct mg_buf proxy; /* the PROXY header, once it is made; the same for each address; owned */
    const char *reason;  /* of the last failure, constant */
    char *detail;        /* owned, or NULL */
    bool flags[];
};

#define FAILURES_TEXT 1000u

static void entry_next(struct mg_session *s);
static void address_next(struct mg_session *s);

uint64_t
mg_dial_deadline(const struct mg_session *s)
{
    const struct mg_dial *dial = s->dial;

    if (dial == NULL || dial->deadline == 0)
        return 0;
    return dial->queued_at != 0 ? dial->queued_at + s->backend->connect_timeout_ms : dial->deadline;
}

void
mg_dial_queued(struct mg_session *s)
{
    s->dial->queued_at = uv_now(s->engine->net.loop);
}

void
mg_dial_turn(struct mg_session *s)
{
    struct mg_dial *dial = s->dial;

    if (dial->deadline != 0)
        dial->deadline += uv_now(s->engine->net.loop) - dial->queued_at;
    dial->queued_at = 0;
}

static void
deadline_set(struct mg_session *s)
{
    unsigned ms = s->backend->connect_timeout_ms;

    s->dial->deadline = ms > 0 ? uv_now(s->engine->net.loop) + ms : 0;
    mg_session_arm(s);
}

static void
dial_free(struct mg_session *s)
{
    struct mg_dial *dial = s->dial;

    s->dial = NULL;
    mg_buf_free(&dial->proxy);
    mg_free(dial->addrs);
    mg_free(dial->detail);
    mg_free(dial);
}

void
mg_dial_cancel(struct mg_session *s)
{
    mg_link_remove(&s->up.handshake_link);
    if (s->dial == NULL)
        return;
    mg_resolver_cancel(&s->dial->wait);
    mg_race_cancel(s->dial->race);
    dial_free(s);
}

/* ---- failing --------------------------------------------------------------------------------- */

/* For the record; without memory, or where there are very many, it has fewer. */
static void
failure_record(struct mg_session *s, const struct mg_addr *addr, const char *reason)
{
    const char *before = s->failures != NULL ? s->failures : "";
    char text[MG_ADDR_TEXT];
    struct mg_buf all = {0};

    s->tries += s->tries < UINT16_MAX;
    if (strlen(before) < FAILURES_TEXT)
        mg_buf_addf(&all, "%s%s%s: %s", before, before[0] != '\0' ? "; " : "",
                    addr != NULL ? mg_addr_text(addr, text) : s->address->text, reason);
    if (all.data != NULL && !all.failed) {
        mg_free(s->failures);
        s->failures = mg_buf_take(&all);
    }
    mg_buf_free(&all);
}

/* The last failure is what the session ends with, if there is nobody else to ask. */
static void
failure_note(struct mg_session *s, const struct mg_addr *addr, const char *reason,
             const char *detail)
{
    struct mg_dial *dial = s->dial;
    char text[MG_ADDR_TEXT];

    dial->reason = reason;
    mg_free(dial->detail);
    dial->detail = detail != NULL ? mg_strdup(detail) : NULL;
    failure_record(s, dial->addr_count > 0 ? addr : NULL, reason);
    mg_log(MG_LOG_DEBUG, "connection %llu: backend %s: %s: %s%s%s", (unsigned long long)s->id,
           s->backend->name, addr != NULL ? mg_addr_text(addr, text) : "?", reason,
           detail != NULL ? ": " : "", detail != NULL ? detail : "");
}

static const char reason_unresolved[] = "up: name not resolved";

void
mg_dial_failed(struct mg_session *s, const char *reason, const char *detail)
{
    struct mg_dial *dial = s->dial;

    mg_reuse_forget(s);
    dial->deadline = dial->queued_at = 0;
    failure_note(s, s->up_addr, reason, detail);
    mg_link_remove(&s->up.handshake_link);
    mg_free(s->up.held);
    s->up.held = NULL;
    s->up.held_len = 0;
    if (s->up.stream.open)
        mg_stream_close(&s->up.stream, false); /* an alert may be on its way */
    else
        address_next(s);
}

/* What is it that took too long? */
void
mg_dial_timeout(struct mg_session *s)
{
    struct mg_dial *dial = s->dial;

    if (dial->wait.pprev != NULL) {
        mg_resolver_cancel(&dial->wait);
        mg_dial_failed(s, reason_unresolved, "no answer in time");
    } else if (dial->queued_at != 0) {
        mg_dial_failed(s, "up: worker too busy", "the handshake waited for its turn");
    } else {
        mg_dial_failed(s, "up: connect timeout", NULL);
    }
}

void
mg_dial_closed(struct mg_session *s)
{
    if (s->dial != NULL)
        address_next(s);
}

static const char *
connect_reason(const struct mg_session *s, const struct mg_addr *addr, int error)
{
    const struct mg_source *source = &s->dial->source;

    /* The same codes come of connect, too. */
    if (source->addr.len > 0 && error != UV_ECONNREFUSED && error != UV_ETIMEDOUT &&
        !mg_net_is_short(error) && mg_source_check(source) == error)
        return "up: source not usable";
    switch (error) {
    case UV_ECONNREFUSED:
    case UV_ENOENT: /* a unix socket that nobody has made, */
    case UV_EAGAIN: /* or whose queue is full */
        return "up: connection refused";
    case UV_ECONNRESET: /* it was accepted, and that was all */
        return "up: reset while connecting";
    case UV_ETIMEDOUT:
        return "up: connect timeout";
    case UV_EHOSTUNREACH:
    case UV_ENETUNREACH:
        return "up: unreachable";
    case UV_EADDRNOTAVAIL: /* or no IPv6 here */
        return mg_net_reaches(addr) ? "up: no local port left" : "up: unreachable";
    case UV_EMFILE:
    case UV_ENFILE:
        return "up: no descriptor left";
    case UV_ENOMEM:
    case UV_ENOBUFS:
        return "up: no memory for a socket";
    default:
        return "up: connect failed";
    }
}

/* ---- TLS ------------------------------------------------------------------------------------- */

void
mg_backend_servername(const struct mg_backend *backend, const struct mg_backend_address *address,
                      char out[256])
{
    const struct mg_endpoint *endpoint = &address->endpoint;
    char ip[MG_ADDR_TEXT];

    if (backend->servername != NULL)
        mg_str_copy(out, 256, backend->servername);
    else if (endpoint->kind == MG_ENDPOINT_IP)
        mg_str_copy(out, 256, mg_addr_ip(&endpoint->addr, ip));
    else
        mg_str_copy(out, 256, endpoint->host);
}

/* The name that is sent and verified. -1: err is set. */
static int
servername_get(struct mg_session *s, char out[256], struct mg_err *err)
{
    const struct mg_backend *backend = s->backend;
    const struct mg_policy *policy = s->config->policy;

    if (backend->servername_asked && policy != NULL && policy->servername != NULL)
        return policy->servername(s->config->policy_data, s, backend, out, err);
    mg_backend_servername(backend, s->address, out);
    return 0;
}

static void
tls_start(struct mg_session *s)
{
    struct mg_err err;
    char name[256] = "";

    if (servername_get(s, name, &err) != 0) {
        mg_dial_failed(s, "up: no server name", err.text);
        return;
    }
    if (mg_tls_conn_open(&s->up.tls, s->backend->tls, MG_TLS_CLIENT, s, &err) != 0) {
        mg_dial_failed(s, "up: no TLS", err.text);
        return;
    }
    if (mg_tls_conn_set_servername(&s->up.tls, name, s->backend->verify_hostname, &err) != 0) {
        mg_dial_failed(s, "up: certificate not accepted", err.text);
        return;
    }
    mg_reuse_offer(s, name);
    s->up.stream.read_max = MG_HANDSHAKE_READ;
    mg_handshake_enqueue(&s->up);
}

void
mg_dial_done(struct mg_session *s)
{
    int rc;

    s->connect_us = (uint32_t)((mg_now_ns() - s->dial->started_ns) / 1000);
    s->tries += s->tries < UINT16_MAX;
    mg_health_served(s);
    if (s->address->shared != NULL) /* it was down while we connected, and has served since */
        s->downs = atomic_load(&s->address->shared->downs);
    dial_free(s);
    mg_session_up_ready(s);
    rc = mg_stream_flush(&s->up.stream); /* the PROXY header, if nothing was there to go with it */
    if (rc < 0)
        mg_session_socket_error(&s->up, rc);
}

/* ---- TCP ------------------------------------------------------------------------------------- */

/* What is written first begins with the PROXY header. -1: the session has closed. */
static int
proxy_put(struct mg_session *s)
{
    struct mg_buf header = {0};

    if (s->dial->proxy.len == 0) {
        if (mg_session_proxy_header(s, &header) != 0)
            return -1;
        s->dial->proxy = header;
    }
    if (mg_stream_prefix(&s->up.stream, s->dial->proxy.data, s->dial->proxy.len) == 0)
        return 0;
    mg_session_close(s, "session: out of memory", NULL);
    return -1;
}

void
mg_dial_connected(struct mg_session *s, int status)
{
    if (status < 0) {
        mg_dial_failed(s, connect_reason(s, s->up_addr, status), uv_strerror(status));
        return;
    }
    mg_session_settle(s);
    mg_stream_nodelay(&s->up.stream, s->listener->tcp_nodelay);
    /* In time: the kernel counts from the last byte, whenever it is told. */
    s->keepalive_at = s->listener->tcp_keepalive_s > 0
                          ? uv_now(s->engine->net.loop) + s->listener->tcp_keepalive_s * 500u
                          : 0;
    if (s->backend->send_proxy != 0 && proxy_put(s) != 0)
        return;
    if (s->backend->tls != NULL)
        tls_start(s);
    else
        mg_dial_done(s);
}

/* It is tried, or has won. false: no memory, the session has closed. */
static bool
up_addr_set(struct mg_session *s, const struct mg_addr *addr)
{
    struct mg_addr *kept = mg_addr_keep(addr);

    mg_free(s->up_addr);
    s->up_addr = kept;
    if (kept == NULL)
        mg_session_close(s, "session: out of memory", NULL);
    return kept != NULL;
}

static void
on_race_failed(void *data, const struct mg_addr *addr, int error)
{
    struct mg_session *s = data;

    if (!mg_net_is_short(error))
        mg_addr_shun(s->address, addr, uv_now(s->engine->net.loop));
    failure_note(s, addr, connect_reason(s, addr, error), uv_strerror(error));
    up_addr_set(s, addr); /* whose failure the record may have to tell */
}

static void
on_race_over(void *data, size_t tried, const struct mg_addr *addr, int fd, uint64_t started_at)
{
    struct mg_session *s = data;
    struct mg_dial *dial = s->dial;
    int rc;

    dial->race = NULL;
    dial->addr_next += tried;
    if (fd < 0) {
        address_next(s);
        return;
    }
    for (const struct mg_addr *a = dial->addrs + dial->addr_next - tried; a != addr; a++)
        mg_addr_shun(s->address, a, uv_now(s->engine->net.loop)); /* they were first */
    rc = mg_stream_accept(&s->up.stream, &s->engine->net, fd, false, &mg_peer_ops, &s->up);
    s->live++;
    if (!up_addr_set(s, addr))
        return;
    dial->deadline =
        s->backend->connect_timeout_ms > 0 ? started_at + s->backend->connect_timeout_ms : 0;
    mg_session_arm(s);
    mg_dial_connected(s, rc);
}

static const struct mg_race_ops race_ops = {
    .on_failed = on_race_failed,
    .on_over = on_race_over,
};

/* To those not yet tried, the next one first. */
static void
addresses_race(struct mg_session *s)
{
    struct mg_dial *dial = s->dial;

    dial->deadline = 0; /* the race has one for each attempt */
    mg_session_arm(s);
    dial->race = mg_race_start(&s->engine->net, dial->addrs + dial->addr_next,
                               dial->addr_count - dial->addr_next, &dial->source,
                               s->backend->connect_timeout_ms, &race_ops, s);
    if (dial->race == NULL)
        mg_session_close(s, "session: out of memory", NULL);
}

/* One address needs no race, unless there is no descriptor: that can wait for one. */
static void
address_connect(struct mg_session *s)
{
    struct mg_dial *dial = s->dial;
    const struct mg_addr *addr = &dial->addrs[dial->addr_next];
    int rc;

    rc = mg_stream_connect(&s->up.stream, &s->engine->net, addr, &dial->source, &mg_peer_ops,
                           &s->up);
    s->live++;
    if (mg_net_is_short(rc)) {
        mg_net_shortage(&s->engine->net, rc);
        dial->short_of = true;
        dial->deadline = 0;
        mg_stream_close(&s->up.stream, false); /* and then address_next */
        return;
    }
    dial->addr_next++;
    deadline_set(s);
    if (rc != 0)
        mg_dial_connected(s, rc < 0 ? rc : 0);
}

/* The current entry's next address, or the next entry. */
static void
address_next(struct mg_session *s)
{
    struct mg_dial *dial = s->dial;
    size_t left = dial->addr_count - dial->addr_next;

    if (left == 0) {
        entry_next(s);
        return;
    }
    if (!up_addr_set(s, &dial->addrs[dial->addr_next]))
        return;
    mg_tls_conn_close(&s->up.tls); /* kept so far: the record tells of the last one */
    if (left > 1 || dial->short_of)
        addresses_race(s);
    else
        address_connect(s);
}

/* ---- which entry ----------------------------------------------------------------------------- */

static void
on_resolved(struct mg_resolve_wait *wait, const struct mg_addr *addrs, size_t count, int error)
{
    struct mg_session *s = wait->data;
    struct mg_dial *dial = s->dial;
    struct mg_backend_address *entry = &s->backend->addresses[dial->entry];
    struct mg_addr *copy = count > 0 ? mg_calloc(count, sizeof(*copy)) : NULL;

    if (copy == NULL) {
        mg_dial_failed(s, reason_unresolved, uv_strerror(count > 0 ? UV_ENOMEM : error));
        return;
    }
    mg_source_get(s, &dial->source);
    mg_free(dial->addrs);
    dial->addrs = copy;
    dial->addr_next = 0;
    dial->addr_count =
        mg_addrs_order(entry, addrs, count, &dial->source, mg_balance_record(s, addrs, count),
                       uv_now(s->engine->net.loop), copy);
    if (dial->addr_count > 0)
        address_next(s);
    else
        mg_dial_failed(s, "up: source not usable", "it is not of the address's family");
}

/* None of the current entry's addresses would do: it is left. */
static void
entry_leave(struct mg_session *s)
{
    if (s->address != NULL && mg_health_blames(s, s->dial->reason))
        mg_health_failed(s, s->dial->reason);
    mg_balance_leave(s);
}

static void
entry_next(struct mg_session *s)
{
    struct mg_dial *dial = s->dial;
    const char *why;

    entry_leave(s);
    if (!mg_balance_next(s, dial->tried, dial->tried + s->backend->address_count, &dial->entry,
                         &why)) {
        mg_session_close(s, dial->reason != NULL ? dial->reason : why, dial->detail);
        return;
    }
    dial->tried[dial->entry] = true;
    dial->addr_count = dial->addr_next = 0;
    if (s->address->resolver != NULL) {
        deadline_set(s);
        mg_resolver_ask(s->address->resolver, &dial->wait);
    } else {
        on_resolved(&dial->wait, &s->address->endpoint.addr, 1, 0);
    }
}

void
mg_dial_start(struct mg_session *s)
{
    size_t count = s->backend->address_count;
    struct mg_dial *dial = mg_calloc(1, sizeof(*dial) + 2 * count * sizeof(dial->flags[0]));

    if (dial == NULL) {
        mg_session_close(s, "session: out of memory", NULL);
        return;
    }
    s->dial = dial;
    dial->wait.done = on_resolved;
    dial->wait.data = s;
    dial->tried = dial->flags;
    dial->started_ns = mg_now_ns();
    entry_next(s);
}

/*
 * Connecting to a backend.
 *
 * The happy path is: an address is picked by the backend's balance, TCP connects, TLS (where the backend has it)
 * is established through the engine's queue, mg_session_up_ready. Of a name with several addresses the picked one
 * goes first; if it is slow or fails, the others that may be picked are tried beside it or in its place (a race,
 * RFC 8305), and who connects first has the connection. Possible failure modes are: the connect or the handshake
 * fails or takes longer than connect_timeout – then the next address, of the same name if there is one, each at
 * most once, and with the last one the session closes with the last reason; others are faster than an address,
 * which is no failure, but they come first for a while; there is only a name without an answer yet – then the dial
 * waits for it, as long as connect_timeout; there is no local port for any of them – then it waits for one
 * (ports.c), likewise; the session closes in the middle (mg_dial_cancel). What the handshake
 * waits for its turn in our own queue is not the address's time: each such wait has a connect_timeout of its own,
 * and says nothing of the address when that is over.
 *
 * Each try counts at its address from the pick on (max_connections holds for those being made, too), until it
 * has failed, was overtaken, or the session has closed; the one that wins hands its count to the session. Tries
 * keep their addresses, whatever a name's answers are meanwhile. A dial exists only while it is needed: an
 * established session does not carry its memory. Between two addresses up's stream has to close first, so the
 * next one starts in mg_dial_closed.
 */
#include "proxy/internal.h"

#include <stdio.h>
#include <string.h>

/* What has had its turn: an address that was tried, or a name that was waited for. */
struct dial_try {
    struct mg_backend_address *address; /* one reference; or NULL */
    struct mg_backend_entry *entry;
    bool counted;  /* until mg_balance_leave */
    bool trial;    /* the address's rest is over, and we are the first to see whether it serves */
    bool portless; /* it has failed for want of a local port */
};

struct mg_dial {
    struct mg_resolve_wait wait;
    struct mg_port_wait port;
    struct mg_race *race; /* NULL unless it runs */
    size_t race_first;    /* the try that is its attempt 0; the others follow */
    struct mg_source source;
    uint64_t started_ns;
    uint64_t deadline;  /* loop time; 0 = none */
    uint64_t queued_at; /* likewise: since when the handshake waits for its turn; 0 = it does not */
    struct dial_try *tries; /* owned, unless it is ... */
    struct dial_try few[2]; /* ... enough for nearly all */
    size_t try_count, try_room, current;
    bool rests;          /* the current one was picked because nothing else is left */
    bool short_of;       /* descriptors, when it was tried to connect */
    struct mg_buf proxy; /* the PROXY header, once it is made; the same for each address; owned */
    const char *reason;  /* of the last failure, constant */
    char *detail;        /* owned, or NULL */
};

#define FAILURES_TEXT 1000u

static void dial_next(struct mg_session *s);
static void race_begin(struct mg_session *s);

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
    mg_session_arm(s); /* that may be sooner than the wait's own end */
}

static void
deadline_set(struct mg_session *s)
{
    unsigned ms = s->backend->connect_timeout_ms;

    s->dial->deadline = ms > 0 ? uv_now(s->engine->net.loop) + ms : 0;
    mg_session_arm(s);
}

/* ---- sources --------------------------------------------------------------------------------- */

/* ::ffff:1.2.3.4 is what a client of IPv4 is called on a socket that takes both. */
static void
addr_unmap(struct mg_addr *addr)
{
    struct sockaddr_in in = {.sin_family = AF_INET};

    if (addr->u.sa.sa_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&addr->u.in6.sin6_addr))
        return;
    memcpy(&in.sin_addr, addr->u.in6.sin6_addr.s6_addr + 12, sizeof(in.sin_addr));
    addr->u.in = in;
    addr->len = sizeof(in);
}

void
mg_source_get(const struct mg_session *s, struct mg_source *source)
{
    *source = s->backend->source;
    if (!source->transparent)
        return;
    memset(&source->addr, 0, sizeof(source->addr));
    source->addr.len = s->remote->len;
    memcpy(&source->addr.u, &s->remote->u, s->remote->len);
    addr_unmap(&source->addr);
    mg_addr_set_port(&source->addr, 0);
}

bool
mg_source_reaches(const struct mg_source *source, const struct mg_addr *addr)
{
    int family = addr->u.sa.sa_family;

    return (source->addr.len == 0 && !source->transparent) || family == AF_UNIX ||
           family == source->addr.u.sa.sa_family;
}

/* ---- tries ----------------------------------------------------------------------------------- */

static struct dial_try *
try_current(const struct mg_session *s)
{
    return &s->dial->tries[s->dial->current];
}

/* Before something is picked. false: no memory. */
static bool
try_room(struct mg_dial *dial)
{
    size_t room = 2 * dial->try_room;
    struct dial_try *grown;

    if (dial->try_count < dial->try_room)
        return true;
    grown = mg_realloc(dial->tries != dial->few ? dial->tries : NULL, room * sizeof(*grown));
    if (grown == NULL)
        return false;
    if (dial->tries == dial->few)
        memcpy(grown, dial->few, sizeof(dial->few));
    dial->tries = grown;
    dial->try_room = room;
    return true;
}

static void
try_add(struct mg_session *s, const struct mg_pick *pick)
{
    struct mg_backend_address *address = pick->address;

    s->dial->current = s->dial->try_count++;
    *try_current(s) = (struct dial_try){address, address != NULL ? address->entry : pick->entry,
                                        address != NULL, pick->trial, false};
    s->address = address;
    if (address == NULL)
        return;
    mg_backend_address_ref(address);
    s->dial->rests = pick->rests;
}

static void
try_leave(struct dial_try *one)
{
    if (one->counted)
        mg_balance_leave(one->address);
    one->counted = false;
}

/* For mg_balance_next: all that has had its turn has it. */
static uint64_t
tries_mark(const struct mg_session *s)
{
    uint64_t mark = ++s->engine->marks;

    for (size_t i = 0; i < s->dial->try_count; i++) {
        const struct dial_try *one = &s->dial->tries[i];

        if (one->address != NULL)
            one->address->mark = mark;
        else
            one->entry->mark = mark;
    }
    return mark;
}

static void
dial_free(struct mg_session *s)
{
    struct mg_dial *dial = s->dial;

    s->dial = NULL;
    for (size_t i = 0; i < dial->try_count; i++) {
        try_leave(&dial->tries[i]);
        if (dial->tries[i].address != NULL)
            mg_backend_address_unref(dial->tries[i].address);
    }
    mg_ports_leave(&dial->port);
    mg_buf_free(&dial->proxy);
    if (dial->tries != dial->few)
        mg_free(dial->tries);
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
    s->address = NULL;
    dial_free(s);
}

/* ---- failing --------------------------------------------------------------------------------- */

/* For the record; without memory, or where there are very many, it has fewer. */
static void
failure_record(struct mg_session *s, const char *text, const char *reason, const char *detail)
{
    const char *before = s->failures != NULL ? s->failures : "";
    struct mg_buf all = {0};

    s->tries += s->tries < UINT16_MAX;
    mg_log(MG_LOG_DEBUG, "connection %llu: backend %s: %s: %s%s%s", (unsigned long long)s->id,
           s->backend->name, text, reason, detail != NULL ? ": " : "",
           detail != NULL ? detail : "");
    if (strlen(before) < FAILURES_TEXT)
        mg_buf_addf(&all, "%s%s%s: %s", before, before[0] != '\0' ? "; " : "", text, reason);
    if (all.data != NULL && !all.failed) {
        mg_free(s->failures);
        s->failures = mg_buf_take(&all);
    }
    mg_buf_free(&all);
}

/* The last failure is what the session ends with, if there is nobody else to ask. */
static void
failure_note(struct mg_session *s, const char *text, const char *reason, const char *detail)
{
    struct mg_dial *dial = s->dial;

    dial->reason = reason;
    mg_free(dial->detail);
    dial->detail = detail != NULL ? mg_strdup(detail) : NULL;
    mg_count_failed(s, text, reason);
    failure_record(s, text, reason, detail);
}

static const char reason_portless[] = "up: no local port left";

static void
try_failed(struct mg_session *s, struct dial_try *one, const char *reason, const char *detail)
{
    char text[MG_ADDR_TEXT];

    one->portless = reason == reason_portless;
    if (one->portless && s->dial->port.since != 0)
        one->address->used--; /* it has been said, and counted */
    else
        failure_note(s, mg_addr_text(&one->address->addr, text), reason, detail);
    if (mg_health_blames(s, reason))
        mg_health_failed(one->address, one->trial, reason);
    try_leave(one);
    if (one->portless && s->backend->address_count == 1)
        mg_ports_want(&s->dial->port);
}

static const char reason_unresolved[] = "up: name not resolved";

static void
wait_failed(struct mg_session *s, const char *detail)
{
    struct mg_backend_entry *entry = try_current(s)->entry;

    entry->unanswered = entry->address_count == 0;
    s->dial->deadline = 0;
    failure_note(s, entry->text, reason_unresolved, detail);
    dial_next(s);
}

void
mg_dial_failed(struct mg_session *s, const char *reason, const char *detail)
{
    struct mg_dial *dial = s->dial;

    mg_reuse_forget(s);
    dial->deadline = dial->queued_at = 0;
    try_failed(s, try_current(s), reason, detail);
    mg_link_remove(&s->up.handshake_link);
    mg_free(s->up.held);
    s->up.held = NULL;
    s->up.held_len = 0;
    if (s->up.stream.open)
        mg_stream_close(&s->up.stream, false); /* an alert may be on its way */
    else
        dial_next(s);
}

static void
port_failed(struct mg_session *s)
{
    char detail[64];

    snprintf(detail, sizeof(detail), "none within %g s", s->backend->connect_timeout_ms / 1000.0);
    mg_session_close(s, reason_portless, detail);
}

/* What is it that took too long? */
void
mg_dial_timeout(struct mg_session *s)
{
    struct mg_dial *dial = s->dial;

    if (dial->wait.pprev != NULL) {
        mg_resolver_cancel(&dial->wait);
        wait_failed(s, "no answer in time");
    } else if (!mg_link_empty(&dial->port.link)) {
        port_failed(s);
    } else if (dial->queued_at != 0) {
        mg_dial_failed(s, "up: worker too busy", "the handshake waited for its turn");
    } else {
        mg_dial_failed(s, "up: connect timeout", NULL);
    }
}

void
mg_dial_closed(struct mg_session *s)
{
    if (s->dial == NULL)
        return;
    if (s->dial->short_of)
        race_begin(s);
    else
        dial_next(s);
}

static const char *
connect_reason(const struct mg_session *s, const struct mg_addr *addr, int error)
{
    const struct mg_source *source = &s->dial->source;

    /* The same codes come of connect, too. */
    if (source->addr.len > 0 && error != UV_ECONNREFUSED && error != UV_ETIMEDOUT &&
        error != UV_EADDRINUSE && !mg_net_is_short(error) && mg_source_check(source) == error)
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
        return mg_net_reaches(addr) ? reason_portless : "up: unreachable";
    case UV_EADDRINUSE: /* of bind to source, where it has to choose the port */
        return reason_portless;
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
mg_backend_servername(const struct mg_backend_address *address, char out[256])
{
    const struct mg_endpoint *endpoint = &address->entry->endpoint;
    const struct mg_backend *backend = address->entry->backend;
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
    mg_backend_servername(s->address, out);
    return 0;
}

static void
tls_start(struct mg_session *s)
{
    struct mg_err err;
    char name[256] = "";

    if (servername_get(s, name, &err) != 0) { /* it would be asked the same for any address */
        mg_session_close(s, "up: callback failed", err.text);
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
    mg_count_served(s);
    mg_health_served(s->address);
    if (s->address->shared != NULL) /* it may have been down before, and has served since */
        s->downs = atomic_load(&s->address->shared->downs);
    try_current(s)->counted = false; /* it is the session's now */
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

static bool
race_next(void *data, struct mg_addr *addr)
{
    struct mg_session *s = data;
    struct mg_pick pick;

    if (!try_room(s->dial) || !mg_balance_sibling(s, tries_mark(s), &s->dial->source,
                                                  try_current(s)->address, s->dial->rests, &pick))
        return false;
    try_add(s, &pick);
    *addr = pick.address->addr;
    return true;
}

static void
on_race_failed(void *data, size_t attempt, int error)
{
    struct mg_session *s = data;
    struct dial_try *one = &s->dial->tries[s->dial->race_first + attempt];

    try_failed(s, one, connect_reason(s, &one->address->addr, error), uv_strerror(error));
    up_addr_set(s, &one->address->addr); /* whose failure the record may have to tell */
}

static void
on_race_port(void *data)
{
    struct mg_session *s = data;

    mg_ports_leave(&s->dial->port);
}

/* Those that were there before `winner` are avoided for a while; those that came after are just not needed. */
static void
race_losers_leave(struct mg_session *s, size_t winner)
{
    struct mg_dial *dial = s->dial;

    for (size_t i = dial->race_first; i < dial->try_count; i++) {
        struct dial_try *one = &dial->tries[i];
        char text[MG_ADDR_TEXT];

        if (!one->counted || i == winner)
            continue;
        if (i < winner) {
            mg_backend_address_shun(one->address, uv_now(s->engine->net.loop));
            mg_count_tried(s);
            failure_record(s, mg_addr_text(&one->address->addr, text), "up: overtaken", NULL);
        }
        try_leave(one);
    }
}

static void
on_race_over(void *data, size_t attempt, int fd, uint64_t started_at)
{
    struct mg_session *s = data;
    struct mg_dial *dial = s->dial;
    int rc;

    dial->race = NULL;
    if (fd < 0) {
        dial_next(s);
        return;
    }
    dial->current = dial->race_first + attempt;
    race_losers_leave(s, dial->current);
    s->address = try_current(s)->address;
    rc = mg_stream_accept(&s->up.stream, &s->engine->net, fd, false, &mg_peer_ops, &s->up);
    s->live++;
    if (!up_addr_set(s, &s->address->addr))
        return;
    dial->deadline =
        s->backend->connect_timeout_ms > 0 ? started_at + s->backend->connect_timeout_ms : 0;
    mg_session_arm(s);
    mg_dial_connected(s, rc);
}

static const struct mg_race_ops race_ops = {
    .next = race_next,
    .on_failed = on_race_failed,
    .on_port = on_race_port,
    .on_over = on_race_over,
};

/* With the current try. */
static void
race_begin(struct mg_session *s)
{
    struct mg_dial *dial = s->dial;

    dial->short_of = false;
    dial->deadline = 0; /* the race has one for each attempt */
    dial->race_first = dial->current;
    mg_session_arm(s);
    dial->race = mg_race_start(&s->engine->net, &try_current(s)->address->addr, &dial->source,
                               s->backend->connect_timeout_ms, &race_ops, s);
    if (dial->race == NULL)
        mg_session_close(s, "session: out of memory", NULL);
}

/* One address needs no race, unless there is no descriptor: that can wait for one. */
static void
address_connect(struct mg_session *s)
{
    struct mg_dial *dial = s->dial;
    int rc;

    rc = mg_stream_connect(&s->up.stream, &s->engine->net, &s->address->addr, &dial->source,
                           &mg_peer_ops, &s->up);
    s->live++;
    if (mg_net_is_short(rc)) {
        mg_net_shortage(&s->engine->net, rc);
        dial->short_of = true;
        dial->deadline = 0;
        mg_stream_close(&s->up.stream, false); /* and then race_begin */
        return;
    }
    if (rc >= 0)
        mg_ports_leave(&dial->port);
    deadline_set(s);
    if (rc != 0)
        mg_dial_connected(s, rc < 0 ? rc : 0);
}

/* ---- which one ------------------------------------------------------------------------------- */

/* The answer has made addresses of it by now. */
static void
on_resolved(struct mg_resolve_wait *wait, int error)
{
    struct mg_session *s = wait->data;

    if (error == 0)
        dial_next(s);
    else
        wait_failed(s, uv_strerror(error));
}

/* Within a name as long as there are others of it. */
static enum mg_pick_kind
pick_next(struct mg_session *s, struct mg_pick *pick)
{
    const struct mg_dial *dial = s->dial;
    uint64_t mark = tries_mark(s);
    const struct mg_backend_address *last = dial->try_count > 0 ? try_current(s)->address : NULL;

    if (last != NULL && last->entry->resolver != NULL &&
        mg_balance_sibling(s, mark, &dial->source, last, dial->rests, pick))
        return MG_PICK_ADDRESS;
    return mg_balance_next(s, mark, &dial->source, pick);
}

/* In line; the time began when it first was. */
static void
port_wait(struct mg_session *s)
{
    struct mg_dial *dial = s->dial;
    unsigned ms = s->backend->connect_timeout_ms;

    s->address = NULL;
    mg_ports_wait(&dial->port, &dial->source);
    dial->deadline = ms > 0 ? dial->port.since + ms : 0;
    mg_session_arm(s);
}

/* What had no port may be picked again. false: there is nothing of the kind. */
static bool
tries_forget_portless(struct mg_dial *dial)
{
    size_t kept = 0, before = dial->try_count;

    for (size_t i = 0; i < before; i++) {
        if (dial->tries[i].portless)
            mg_backend_address_unref(dial->tries[i].address);
        else
            dial->tries[kept++] = dial->tries[i];
    }
    dial->try_count = kept;
    dial->current = kept > 0 ? kept - 1 : 0;
    return kept < before;
}

static void
dial_next(struct mg_session *s)
{
    struct mg_dial *dial = s->dial;
    struct mg_pick pick;

    if (!try_room(dial)) {
        mg_session_close(s, "session: out of memory", NULL);
        return;
    }
    switch (pick_next(s, &pick)) {
    case MG_PICK_NONE:
        if (tries_forget_portless(dial)) {
            port_wait(s);
            return;
        }
        mg_session_close(s, dial->reason != NULL ? dial->reason : pick.reason,
                         dial->reason != NULL ? dial->detail : pick.detail);
        break;
    case MG_PICK_WAIT:
        try_add(s, &pick);
        deadline_set(s);
        mg_resolver_ask(pick.entry->resolver, &dial->wait);
        break;
    case MG_PICK_ADDRESS:
        try_add(s, &pick);
        if (!up_addr_set(s, &pick.address->addr))
            return;
        mg_tls_conn_close(&s->up.tls); /* kept so far: the record tells of the last one */
        if (pick.address->entry->address_count > 1)
            race_begin(s);
        else
            address_connect(s);
        break;
    }
}

/* Nobody keeps a name up to date that a function has given: it may be a while since anybody was sent there. */
static bool
given_waits(struct mg_session *s)
{
    struct mg_backend_entry *entry = s->backend->entries;
    struct mg_pick pick = {.entry = entry};

    if (s->backend->given == NULL || entry->resolver == NULL || !try_room(s->dial) ||
        !mg_resolver_use(entry->resolver, &s->dial->wait))
        return false;
    try_add(s, &pick);
    deadline_set(s);
    return true;
}

static void
dial_begin(struct mg_session *s)
{
    if (!given_waits(s))
        dial_next(s);
}

void
mg_dial_port(struct mg_session *s)
{
    s->dial->deadline = 0;
    dial_begin(s);
}

void
mg_dial_start(struct mg_session *s)
{
    struct mg_dial *dial = mg_calloc(1, sizeof(*dial));

    if (dial == NULL) {
        mg_session_close(s, "session: out of memory", NULL);
        return;
    }
    s->dial = dial;
    dial->tries = dial->few;
    dial->try_room = MG_ARRAY_LEN(dial->few);
    dial->wait.done = on_resolved;
    dial->wait.data = s;
    dial->started_ns = mg_now_ns();
    mg_ports_init(s, &dial->port);
    mg_source_get(s, &dial->source);
    if (mg_ports_awaited(s->backend))
        port_wait(s);
    else
        dial_begin(s);
}

unsigned
mg_dial_trying(const struct mg_session *s)
{
    unsigned count = 0;

    for (size_t i = 0; s->dial != NULL && i < s->dial->try_count; i++)
        count += s->dial->tries[i].counted;
    return count;
}

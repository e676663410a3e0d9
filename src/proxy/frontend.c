/*
 * A listening socket and the listener it accepts for.
 *
 * max_connections counts over all workers: room is reserved in the shared counters before the
 * kernel is asked for a connection, so that one too many stays in its queue, where another worker
 * or a later moment finds it. A frontend without room stops polling; it tries again when one of our
 * own sessions ends, and every FULL_RETRY_MS for the sake of those that end in other workers. The same
 * holds where too many handshakes are unfinished (limits.c), or its backend cannot be connected to for want of a
 * local port (ports.c).
 */
#include "proxy/internal.h"

#include <string.h>
#include <unistd.h>

#define FULL_RETRY_MS 20

struct mg_frontend {
    struct mg_link link; /* in engine->frontends */
    struct mg_engine *engine;
    struct mg_acceptor acceptor;
    struct mg_config *config; /* borrowed; the worker keeps it current */
    struct mg_listener *listener;
    bool full;
    void (*on_closed)(void *data);
    void *on_closed_data;
    char address[]; /* canonical text */
};

/* ---- counting -------------------------------------------------------------------------------- */

/* Those that wait for room in that slot, or all when it is NULL. */
static void
full_resume(struct mg_engine *engine, const struct mg_shared_listener *shared)
{
    for (struct mg_link *link = engine->frontends.next; link != &engine->frontends;
         link = link->next) {
        struct mg_frontend *f = MG_CONTAINER_OF(link, struct mg_frontend, link);

        if (!f->full || (shared != NULL && f->listener->shared != shared))
            continue;
        f->full = false;
        mg_acceptor_resume(&f->acceptor);
    }
}

static void
on_full_timer(uv_timer_t *timer)
{
    full_resume(timer->data, NULL);
}

static _Atomic int32_t *
row_of(const struct mg_engine *engine, const struct mg_listener *listener)
{
    return &listener->shared->open[engine->options.worker];
}

/* With the one that is counted already. */
static bool
has_room(const struct mg_listener *l)
{
    return l->max_connections == 0 || mg_shared_listener_open(l->shared) <= l->max_connections;
}

/* Counts first and asks then: of two workers that see the last room, none or one takes it. */
static bool
may_accept(struct mg_acceptor *acceptor, bool must)
{
    struct mg_frontend *f = acceptor->data;
    const struct mg_listener *l = f->listener;
    enum mg_limit limit = MG_LIMIT_NONE;

    atomic_fetch_add(row_of(f->engine, l), 1);
    if (must)
        return true;
    if (!has_room(l))
        limit = MG_LIMIT_CONNECTIONS;
    else if (l->backend != NULL && mg_ports_awaited(l->backend))
        limit = MG_LIMIT_PORTS; /* ports.c tells */
    else if (mg_listener_hears_first(l) && !mg_limits_room(f->engine))
        limit = MG_LIMIT_UNFINISHED;
    if (limit == MG_LIMIT_NONE)
        return true;
    if (limit != MG_LIMIT_PORTS && mg_acceptor_is_waited_for(acceptor))
        mg_told_waits(f->engine, l, limit);
    atomic_fetch_sub(row_of(f->engine, l), 1);
    f->full = true;
    if (!uv_is_active((uv_handle_t *)&f->engine->full_timer))
        uv_timer_start(&f->engine->full_timer, on_full_timer, FULL_RETRY_MS, 0);
    return false;
}

static void
accepted_none(struct mg_acceptor *acceptor)
{
    struct mg_frontend *f = acceptor->data;

    atomic_fetch_sub(row_of(f->engine, f->listener), 1);
}

void
mg_frontend_give_back(struct mg_engine *engine, struct mg_listener *listener)
{
    atomic_fetch_sub(row_of(engine, listener), 1);
    full_resume(engine, listener->shared);
}

void
mg_frontends_go_on(struct mg_engine *engine)
{
    full_resume(engine, NULL);
}

/* ---- accepting ------------------------------------------------------------------------------- */

static void
on_accept(struct mg_acceptor *acceptor, int fd, const struct mg_addr *peer)
{
    struct mg_frontend *f = acceptor->data;

    if (f->listener->max_connections > 0)
        mg_told_accepted(f->listener);
    if (mg_session_open(f->engine, f->config, f->listener, fd, peer, acceptor->is_unix) != 0)
        accepted_none(acceptor);
}

static void
on_close(struct mg_acceptor *acceptor)
{
    struct mg_frontend *f = acceptor->data;
    struct mg_engine *engine = f->engine;
    void (*closed)(void *) = f->on_closed;
    void *data = f->on_closed_data;

    mg_link_remove(&f->link);
    mg_free(f);
    if (closed != NULL)
        closed(data);
    mg_engine_release(engine);
}

static const struct mg_acceptor_ops acceptor_ops = {
    .may_accept = may_accept,
    .accepted_none = accepted_none,
    .on_accept = on_accept,
    .on_close = on_close,
};

/* ---- life ------------------------------------------------------------------------------------ */

struct mg_frontend *
mg_frontend_open(struct mg_engine *engine, const char *address, int fd, struct mg_err *err)
{
    size_t len = strlen(address) + 1;
    struct mg_frontend *f = mg_calloc(1, sizeof(*f) + len);

    if (f == NULL) {
        mg_err_setx(err, "%s: out of memory", address);
        close(fd);
        return NULL;
    }
    memcpy(f->address, address, len);
    f->engine = engine;
    if (mg_acceptor_open(&f->acceptor, &engine->net, fd, &acceptor_ops, f, err) != 0) {
        mg_err_prefix(err, "%s", address);
        mg_free(f);
        return NULL;
    }
    mg_link_append(&engine->frontends, &f->link);
    return f;
}

const char *
mg_frontend_address(const struct mg_frontend *f)
{
    return f->address;
}

void
mg_frontend_set(struct mg_frontend *f, struct mg_config *config, struct mg_listener *listener)
{
    f->config = config;
    f->listener = listener;
    f->full = false;
    mg_acceptor_set_tcp(&f->acceptor, listener->tcp_nodelay, listener->tcp_keepalive_s);
    mg_acceptor_resume(&f->acceptor);
}

void
mg_frontend_close(struct mg_frontend *f, bool flush, void (*closed)(void *data), void *data)
{
    f->on_closed = closed;
    f->on_closed_data = data;
    f->full = false;
    if (flush && f->listener != NULL)
        mg_acceptor_flush(&f->acceptor);
    else
        mg_acceptor_close(&f->acceptor);
}

void
mg_frontends_stop(struct mg_engine *engine)
{
    for (struct mg_link *link = engine->frontends.next; link != &engine->frontends;
         link = link->next)
        mg_acceptor_close(&MG_CONTAINER_OF(link, struct mg_frontend, link)->acceptor);
}

/* ---- status ---------------------------------------------------------------------------------- */

void
mg_frontend_status(const struct mg_engine *engine, struct mg_buf *out)
{
    const char *comma = "";

    for (struct mg_link *link = engine->frontends.next; link != &engine->frontends;
         link = link->next) {
        const struct mg_frontend *f = MG_CONTAINER_OF(link, struct mg_frontend, link);

        if (f->listener == NULL)
            continue;
        mg_buf_addf(out, "%s{\"address\":", comma);
        mg_buf_add_json(out, f->address, strlen(f->address));
        mg_buf_adds(out, ",\"listener\":");
        mg_buf_add_json(out, f->listener->name, strlen(f->listener->name));
        mg_buf_addf(out,
                    ",\"generation\":%llu,\"accepted\":%llu,\"open\":%u,"
                    "\"full\":%s}",
                    (unsigned long long)f->config->generation,
                    (unsigned long long)f->listener->accepted, f->listener->open,
                    f->full ? "true" : "false");
        comma = ",";
    }
}

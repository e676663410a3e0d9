/*
 * Without a local port to connect from.
 *
 * Ports are counted for each source and each destination, so they run out for one backend and not for the process:
 * descriptors that are short are net's to see (net/shortage.c), these are a backend's.
 *
 * The happy path is: there are enough, and nothing here runs. The failure mode is: none of a backend's addresses can
 * be connected to for want of a port. Then the connection stands in line with the others of its backend, those that
 * come later behind it. Every RETRY_MS the first RETRIES of each backend try again – no more, since a search in
 * vain goes through all ports – and who gets a port lets the next ones try at once. It waits for connect_timeout,
 * which is the dial's to see (backend.c); nobody is blamed for it, no address rests.
 *
 * Meanwhile listeners that have this backend accept nobody (frontend.c), in all workers, so that the kernel's queue
 * holds the rest, and whoever waits is not overtaken in another worker. That is right where all of a listener's
 * connections want those ports. They do not where a function chooses the backend – others may be well served –
 * nor with source = "client", where ports are one client's. Then it is only the connection that waits. How many do is
 * counted where the workers share what they know of the backend's first address: so a reload that leads to other
 * addresses is not paused, one that leads to the same is, and a worker that dies takes its part along.
 */
#include "proxy/internal.h"

#define RETRY_MS 100
#define RETRIES  4

void
mg_ports_init(struct mg_session *s, struct mg_port_wait *wait)
{
    mg_link_init(&wait->link);
    wait->session = s;
}

bool
mg_ports_awaited(const struct mg_backend *backend)
{
    const struct mg_shared_address *shared =
        backend->address_count > 0 ? backend->addresses[0]->shared : NULL;

    if (backend->source.transparent)
        return false;
    return backend->portless > 0 || (shared != NULL && mg_shared_address_portless(shared) > 0);
}

/* In the order in which they began; those that begin are the last. */
static void
line_up(struct mg_engine *engine, struct mg_port_wait *wait)
{
    struct mg_link *before = engine->portless.prev;

    while (before != &engine->portless &&
           MG_CONTAINER_OF(before, struct mg_port_wait, link)->since > wait->since)
        before = before->prev;
    mg_link_append(before->next, &wait->link);
}

static void
next_round(struct mg_engine *engine, unsigned after_ms)
{
    if (!mg_link_empty(&engine->portless) && !engine->closing)
        uv_timer_start(&engine->ports_timer, mg_ports_on_timer, after_ms, 0);
}

static void
count_add(struct mg_port_wait *wait, int by)
{
    const struct mg_session *s = wait->session;

    s->backend->portless += (unsigned)by;
    if (wait->shared != NULL)
        atomic_fetch_add(&wait->shared->portless[s->engine->options.worker], by);
}

void
mg_ports_want(struct mg_port_wait *wait)
{
    const struct mg_backend *backend = wait->session->backend;

    if (wait->wants)
        return;
    wait->wants = true;
    if (backend->address_count > 0) {
        wait->counted_at = backend->addresses[0];
        wait->shared = wait->counted_at->shared;
        mg_backend_address_ref(wait->counted_at);
    }
    count_add(wait, 1);
}

/* Of that backend's listeners. */
static bool
pauses_listener(const struct mg_session *s)
{
    return s->listener->backend == s->backend && !s->backend->source.transparent;
}

void
mg_ports_wait(struct mg_port_wait *wait, const struct mg_source *source)
{
    struct mg_session *s = wait->session;
    bool first = wait->since == 0;

    if (first)
        wait->since = uv_now(s->engine->net.loop);
    mg_ports_want(wait);
    mg_told_portless(s, &source->addr, pauses_listener(s), first);
    line_up(s->engine, wait);
    if (!uv_is_active((uv_handle_t *)&s->engine->ports_timer))
        next_round(s->engine, RETRY_MS);
}

void
mg_ports_leave(struct mg_port_wait *wait)
{
    struct mg_session *s = wait->session;

    mg_link_remove(&wait->link);
    if (!wait->wants)
        return;
    wait->wants = false;
    count_add(wait, -1);
    if (wait->counted_at != NULL)
        mg_backend_address_unref(wait->counted_at);
    wait->counted_at = NULL;
    if (s->backend->portless == 0)
        mg_frontends_go_on(s->engine);
    next_round(s->engine, 0);
}

static bool
may_try(struct mg_engine *engine, struct mg_backend *backend)
{
    if (backend->port_round != engine->ports_round) {
        backend->port_round = engine->ports_round;
        backend->port_tries = 0;
    }
    return backend->source.transparent || backend->port_tries++ < RETRIES;
}

void
mg_ports_on_timer(uv_timer_t *timer)
{
    struct mg_engine *engine = timer->data;
    struct mg_link line = engine->portless;

    if (mg_link_empty(&engine->portless))
        return;
    line.next->prev = line.prev->next = &line;
    mg_link_init(&engine->portless);
    engine->ports_round++;
    while (!mg_link_empty(&line)) {
        struct mg_port_wait *wait = MG_CONTAINER_OF(line.next, struct mg_port_wait, link);

        mg_link_remove(&wait->link);
        if (may_try(engine, wait->session->backend))
            mg_dial_port(wait->session);
        else
            line_up(engine, wait);
    }
    if (!uv_is_active((uv_handle_t *)timer))
        next_round(engine, RETRY_MS);
}

/*
 * Who may come: limits that are decided before anything costs much.
 *
 * max_connections_per_ip, as soon as the client's address is known: before there is an SSL object.
 *
 * handshake_rate, when libssl knows that no session is resumed, and before any key exchange or signature: it asks
 * for the certificate only then (mg_tls_conn_ask_full), in the helper thread, too. First the listener's
 * bucket, so that while it is empty the table of clients is left alone; a token whose client may not have it goes back.
 *
 * The number of unfinished handshakes: the oldest one that waits for its client gives way to a new
 * connection, if it has had GRACE_MS, in which an honest one is long over. Where none has, the kernel's queue holds the
 * new ones. Those that wait for us – for the CPU – stay: they will get through. So thousands of silent clients
 * keep nobody else out, and a crowd of honest ones is not turned away. The same ones give way, several at a time,
 * where the process has no descriptors or memory left and therefore accepts nobody.
 *
 * Whose a connection is: mg_limits_client. A connection without an IP address – unix sockets – is nobody's.
 */
#include "proxy/internal.h"

#include <string.h>
#include <sys/resource.h>

#define UNFINISHED_MAX                                                                             \
    4096 /* 40 MB of silent clients; 20,000 honest ones a second who are 200 ms away */
#define GRACE_MS  1000
#define LOOKS_MAX 64 /* at one time, for one that may give way */
#define SPARE_MAX 16 /* that give way at one time when there are no descriptors */

/* ---- whose a connection is ------------------------------------------------------------------- */

/* false: nobody's. */
static bool
client_key(const struct mg_session *s, uint64_t *key)
{
    const struct mg_shared *shared = s->engine->options.shared;
    uint32_t slot = (uint32_t)(s->listener->shared - shared->listener);
    unsigned char bytes[sizeof(slot) + MG_LIMITS_CLIENT];

    memcpy(bytes, &slot, sizeof(slot));
    if (!mg_limits_client(s->remote, bytes + sizeof(slot)))
        return false;
    *key = mg_names_hash(s->engine->limits_secret, (const char *)bytes, sizeof(bytes));
    if (*key == 0)
        *key = 1;
    return true;
}

/* ---- connections of one client --------------------------------------------------------------- */

bool
mg_limits_admit(struct mg_session *s)
{
    int64_t most = s->listener->max_connections_per_ip;
    uint64_t key;

    if (most == 0 || !client_key(s, &key))
        return true;
    s->limits_place =
        mg_limits_enter(s->engine->options.shared, s->engine->options.worker, key, (uint64_t)most);
    if (s->limits_place != MG_LIMITS_REFUSED)
        return true;
    mg_session_close(s, "down: too many connections of this address", NULL);
    return false;
}

void
mg_limits_give_back(struct mg_session *s)
{
    if (s->limits_place >= 0)
        mg_limits_leave(s->engine->options.shared, s->engine->options.worker, s->limits_place);
    s->limits_place = MG_LIMITS_UNCOUNTED;
}

/* ---- full handshakes ------------------------------------------------------------------------- */

/* Touches what is frozen or shared: it may be the helper thread that asks. */
static bool
on_full_handshake(struct mg_tls_conn *conn)
{
    const struct mg_session *s = conn->owner;
    const struct mg_listener *l = s->listener;
    struct mg_shared *shared = s->engine->options.shared;
    _Atomic uint64_t *of_listener = &shared->limits.listener_full_at[l->shared - shared->listener];
    uint64_t now = mg_now_ns(), key;

    if (l->rate.interval_ns != 0 && !mg_bucket_take(of_listener, &l->rate, now)) {
        conn->refusal = "down: handshake rate";
        return false;
    }
    if (l->rate_per_ip.interval_ns == 0 || !client_key(s, &key) ||
        mg_bucket_take(mg_limits_bucket(shared, key), &l->rate_per_ip, now))
        return true;
    if (l->rate.interval_ns != 0)
        mg_bucket_give_back(of_listener, &l->rate);
    conn->refusal = "down: handshake rate of this address";
    return false;
}

void
mg_limits_watch(struct mg_session *s)
{
    if (mg_listener_has_rate(s->listener))
        mg_tls_conn_ask_full(&s->down.tls, on_full_handshake);
}

/* ---- unfinished handshakes ------------------------------------------------------------------- */

void
mg_limits_init(struct mg_engine *engine)
{
    struct rlimit descriptors;

    mg_link_init(&engine->unfinished);
    mg_limits_secret(engine->options.shared, engine->limits_secret);
    engine->unfinished_max = engine->options.unfinished_max;
    if (engine->unfinished_max != 0)
        return;
    engine->unfinished_max = UNFINISHED_MAX;
    if (getrlimit(RLIMIT_NOFILE, &descriptors) == 0 &&
        descriptors.rlim_cur / 4 < engine->unfinished_max)
        engine->unfinished_max = (unsigned)(descriptors.rlim_cur / 4) + 1;
}

void
mg_limits_begin(struct mg_session *s)
{
    if (!mg_link_empty(&s->unfinished_link))
        return;
    mg_link_append(&s->engine->unfinished, &s->unfinished_link);
    s->engine->unfinished_count++;
}

void
mg_limits_end(struct mg_session *s)
{
    if (mg_link_empty(&s->unfinished_link))
        return;
    mg_link_remove(&s->unfinished_link);
    s->engine->unfinished_count--;
}

static bool
waits_for_us(const struct mg_session *s)
{
    return s->job != NULL || !mg_link_empty(&s->down.handshake_link);
}

/* The oldest one that may. false: none. */
static bool
give_way(struct mg_engine *engine, const char *reason)
{
    uint64_t now = uv_now(engine->net.loop);
    struct mg_link *link = engine->unfinished.next;

    for (int i = 0; i < LOOKS_MAX && link != &engine->unfinished; i++, link = link->next) {
        struct mg_session *s = MG_CONTAINER_OF(link, struct mg_session, unfinished_link);

        if (now - s->born_at < GRACE_MS)
            return false; /* those behind it are younger */
        if (waits_for_us(s))
            continue;
        mg_session_close(s, reason, NULL);
        return true;
    }
    return false;
}

bool
mg_limits_room(struct mg_engine *engine)
{
    return engine->unfinished_count < engine->unfinished_max ||
           give_way(engine, "down: too many unfinished handshakes");
}

void
mg_limits_spare(struct mg_net *net)
{
    struct mg_engine *engine = MG_CONTAINER_OF(net, struct mg_engine, net);

    bool descriptors = net->short_of == UV_EMFILE || net->short_of == UV_ENFILE;
    const char *reason = descriptors ? "down: no descriptor left" : "down: no memory left";

    for (int i = 0; i < SPARE_MAX && give_way(engine, reason); i++)
        ;
}

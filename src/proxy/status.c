/* The engine's counts as JSON. Asked for by a person now and then, so it may walk the sessions. */
#include "proxy/internal.h"

#include <string.h>

struct totals {
    uint64_t bytes_up, bytes_down;
    unsigned long in_state[S_CLOSING + 1];
};

static void
totals_count(const struct mg_engine *engine, struct totals *totals)
{
    totals->bytes_up = engine->bytes_up;
    totals->bytes_down = engine->bytes_down;
    for (struct mg_link *link = engine->sessions.next; link != &engine->sessions;
         link = link->next) {
        const struct mg_session *s = MG_CONTAINER_OF(link, struct mg_session, link);

        totals->in_state[s->state]++;
        if (s->state == S_CLOSING)
            continue; /* counted when it closed */
        totals->bytes_up += s->bytes_up;
        totals->bytes_down += s->bytes_down;
    }
}

void
mg_engine_status(const struct mg_engine *engine, struct mg_buf *out)
{
    struct totals totals = {0};
    const char *comma = "";

    totals_count(engine, &totals);
    mg_buf_addf(out,
                "{\"sessions\":%zu,\"unfinished\":%u,\"accepted\":%llu,\"handshakes\":%llu,"
                "\"offloaded\":%llu,"
                "\"bytes_up\":%llu,"
                "\"bytes_down\":%llu,\"states\":{",
                engine->session_count, engine->unfinished_count,
                (unsigned long long)engine->accepted, (unsigned long long)engine->handshakes_done,
                (unsigned long long)mg_offload_steps(engine->offload),
                (unsigned long long)totals.bytes_up, (unsigned long long)totals.bytes_down);
    for (int i = 0; i <= S_CLOSING; i++)
        mg_buf_addf(out, "%s\"%s\":%lu", i > 0 ? "," : "", mg_state_names[i], totals.in_state[i]);
    mg_buf_adds(out, "},\"closes\":{");
    for (size_t i = 0; i < MG_REASONS && engine->closes[i].reason != NULL; i++) {
        const char *reason = engine->closes[i].reason;

        if (engine->closes[i].count == 0)
            continue;
        mg_buf_adds(out, comma);
        comma = ",";
        mg_buf_add_json(out, reason, strlen(reason));
        mg_buf_addf(out, ":%llu", (unsigned long long)engine->closes[i].count);
    }
    mg_buf_adds(out, "},\"frontends\":[");
    mg_frontend_status(engine, out);
    mg_buf_adds(out, "],\"backends\":[");
    mg_health_status(engine, out);
    mg_buf_adds(out, "],\"names\":[");
    mg_resolvers_status(&engine->net, out);
    mg_buf_addf(out, "],\"lookups\":%llu,\"given\":",
                (unsigned long long)mg_resolvers_lookups(&engine->net));
    mg_givens_status(engine, out);
    mg_buf_adds(out, "}");
}

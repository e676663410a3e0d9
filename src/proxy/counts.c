/*
 * What is counted of listeners and backends (base/metrics.c has the numbers).
 *
 * A backend's tries are the addresses that have served, failed or were overtaken, and the connections that ended
 * without an address: there was none to be had, or a callback failed before one served. Each of them fails at most
 * once: an address in vain, or one that had served and then was cut off, stopped reading or went down; or the
 * connection for want of one.
 */
#include "proxy/internal.h"

#include <string.h>

/* Reasons are constants, so the pointer nearly always answers; one text may have two of them. */
static struct mg_reason_count *
reason_row(struct mg_engine *engine, const char *reason)
{
    struct mg_reason_count *row = engine->closes;

    while (row < engine->closes + MG_REASONS - 1 && row->reason != NULL && row->reason != reason &&
           strcmp(row->reason, reason) != 0)
        row++;
    if (row->reason == NULL) {
        row->reason = reason;
        row->index = mg_metrics_reason(engine->metrics, reason);
        row->limit = mg_limit_of_reason(reason);
    }
    return row;
}

void
mg_count_accepted(const struct mg_session *s)
{
    mg_metric_add(&s->listener->metric->begun);
}

void
mg_count_chosen(const struct mg_session *s)
{
    mg_metric_add(&s->backend->metric->begun);
}

void
mg_count_served(struct mg_session *s)
{
    s->counted = NULL;
    mg_metric_add(&s->backend->metric->tries);
}

void
mg_count_tried(const struct mg_session *s)
{
    mg_metric_add(&s->backend->metric->tries);
}

/* address may be NULL. */
static void
failure_count(const struct mg_session *s, const char *address, const char *reason)
{
    unsigned index = reason_row(s->engine, reason)->index;
    struct mg_metric *of_address = NULL;

    mg_metric_add(&s->backend->metric->by[index]);
    if (address != NULL)
        of_address = mg_metrics_address(s->engine->metrics, s->backend->metric, address);
    if (of_address != NULL)
        mg_metric_add(&of_address->by[index]);
}

void
mg_count_failed(struct mg_session *s, const char *address, const char *reason)
{
    s->counted = reason;
    mg_metric_add(&s->backend->metric->tries);
    failure_count(s, address, reason);
}

static bool
is_of_backend(const char *reason)
{
    return strncmp(reason, "up: ", 4) == 0;
}

void
mg_count_closed(struct mg_session *s)
{
    struct mg_reason_count *row = reason_row(s->engine, s->reason);
    char text[MG_ADDR_TEXT];

    row->count++;
    if (row->limit != MG_LIMIT_NONE)
        mg_told_closed(s, row->limit);
    mg_metric_add(&s->listener->metric->by[row->index]);
    if (s->backend == NULL || s->reason == s->counted || !is_of_backend(s->reason))
        return;
    if (!s->connected)
        mg_count_tried(s);
    failure_count(s, s->up_addr != NULL && s->up_ready ? mg_addr_text(s->up_addr, text) : NULL,
                  s->reason);
}

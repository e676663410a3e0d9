/* What is counted of listeners and backends, for `moongate status`. */
#include "supervisor/internal.h"

#include "ipc/ipc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- JSON ------------------------------------------------------------------------------------ */

struct json {
    struct mg_buf *out;
    const char *comma;         /* before the next name */
    const char *address_comma; /* before the next address; NULL: not in a backend */
};

static void
reasons_add(struct mg_buf *out, const char *member, const struct mg_metric_sum *sum)
{
    mg_buf_addf(out, ",\"%s\":{", member);
    for (size_t i = 0; i < sum->reason_count; i++) {
        mg_buf_adds(out, i > 0 ? "," : "");
        mg_buf_add_json(out, sum->reasons[i].text, strlen(sum->reasons[i].text));
        mg_buf_addf(out, ":%llu", (unsigned long long)sum->reasons[i].count);
    }
    mg_buf_adds(out, "}");
}

static unsigned long long
open_of(const struct mg_metric_sum *sum)
{
    return sum->begun > sum->ended ? sum->begun - sum->ended : 0;
}

static void
backend_close(struct json *json)
{
    if (json->address_comma != NULL)
        mg_buf_adds(json->out, "}}");
    json->address_comma = NULL;
}

static void
address_add(struct json *json, const struct mg_metric_sum *sum)
{
    if (json->address_comma == NULL)
        return;
    mg_buf_adds(json->out, json->address_comma);
    mg_buf_add_json(json->out, sum->text, strlen(sum->text));
    mg_buf_addf(json->out, ":{\"failed\":%llu", (unsigned long long)sum->ended);
    reasons_add(json->out, "failures", sum);
    mg_buf_adds(json->out, "}");
    json->address_comma = ",";
}

static void
json_visit(const struct mg_metric_sum *sum, void *data)
{
    struct json *json = data;

    if (sum->kind == MG_METRIC_ADDRESS) {
        address_add(json, sum);
        return;
    }
    backend_close(json);
    mg_buf_adds(json->out, json->comma);
    json->comma = ",";
    mg_buf_add_json(json->out, sum->text, strlen(sum->text));
    if (sum->kind == MG_METRIC_LISTENER) {
        mg_buf_addf(json->out, ":{\"accepted\":%llu,\"open\":%llu", (unsigned long long)sum->begun,
                    open_of(sum));
        reasons_add(json->out, "closed", sum);
        mg_buf_adds(json->out, "}");
        return;
    }
    mg_buf_addf(json->out, ":{\"connections\":%llu,\"tries\":%llu,\"failed\":%llu",
                (unsigned long long)sum->begun, (unsigned long long)sum->tries,
                (unsigned long long)sum->ended);
    reasons_add(json->out, "failures", sum);
    mg_buf_adds(json->out, ",\"addresses\":{");
    json->address_comma = "";
}

void
mg_metrics_json(const struct mg_super *super, unsigned worker, struct mg_buf *out)
{
    struct json json = {.out = out, .comma = ""};

    if (out->len >
        MG_IPC_MAX / 2) /* thousands of names and dozens of workers: the sums came first */
        return;
    mg_buf_adds(out, ",\"counts\":{\"listeners\":{");
    mg_metrics_each(super->shared, worker, MG_METRIC_LISTENER, json_visit, &json);
    mg_buf_adds(out, "},\"backends\":{");
    json.comma = "";
    mg_metrics_each(super->shared, worker, MG_METRIC_BACKEND, json_visit, &json);
    backend_close(&json);
    mg_buf_adds(out, "}}");
}

/* ---- text ------------------------------------------------------------------------------------ */

#define LINES_MAX   50 /* of listeners, and of backends with their addresses */
#define REASONS_MAX 4  /* of each, the most frequent */

struct lines {
    struct mg_buf *out;
    unsigned count;
};

static int
by_count(const void *a, const void *b)
{
    const struct mg_metric_reason *left = a, *right = b;

    return left->count < right->count   ? 1
           : left->count > right->count ? -1
                                        : strcmp(left->text, right->text);
}

static void
text_add(struct mg_buf *out, const char *text, int width)
{
    struct mg_buf printable = {0};

    mg_buf_add_printable(&printable, text, strlen(text));
    mg_buf_addf(out, "%-*s", width, printable.data != NULL ? printable.data : "");
    mg_buf_free(&printable);
}

static void
reasons_text(struct mg_buf *out, const struct mg_metric_sum *sum)
{
    struct mg_metric_reason sorted[MG_METRICS_REASONS];
    size_t shown = sum->reason_count < REASONS_MAX ? sum->reason_count : REASONS_MAX;
    uint64_t rest = 0;

    memcpy(sorted, sum->reasons, sum->reason_count * sizeof(sorted[0]));
    qsort(sorted, sum->reason_count, sizeof(sorted[0]), by_count);
    for (size_t i = 0; i < shown; i++) {
        mg_buf_addf(out, "%s%llu ", i > 0 ? ", " : "", (unsigned long long)sorted[i].count);
        mg_buf_add_printable(out, sorted[i].text, strlen(sorted[i].text));
    }
    for (size_t i = shown; i < sum->reason_count; i++)
        rest += sorted[i].count;
    if (sum->reason_count > shown)
        mg_buf_addf(out, ", %llu for %zu other reason%s", (unsigned long long)rest,
                    sum->reason_count - shown, sum->reason_count - shown == 1 ? "" : "s");
    mg_buf_adds(out, sum->reason_count > 0 ? "\n" : "-\n");
}

static void
text_visit(const struct mg_metric_sum *sum, void *data)
{
    struct lines *lines = data;
    struct mg_buf *out = lines->out;

    if (lines->count++ >= LINES_MAX)
        return;
    mg_buf_adds(out, sum->kind == MG_METRIC_ADDRESS ? "  " : "");
    text_add(out, sum->text, sum->kind == MG_METRIC_ADDRESS ? 26 : 28);
    if (sum->kind == MG_METRIC_ADDRESS)
        mg_buf_addf(out, "  %-10s  %-10s  ", "", "");
    else
        mg_buf_addf(out, "  %-10llu  %-10llu  ", (unsigned long long)sum->begun,
                    sum->kind == MG_METRIC_LISTENER ? open_of(sum)
                                                    : (unsigned long long)sum->tries);
    reasons_text(out, sum);
}

static void
table_add(const struct mg_super *super, enum mg_metric_kind kind, const char *heads,
          struct mg_buf *out)
{
    struct lines lines = {.out = out};

    mg_buf_adds(out, heads);
    mg_metrics_each(super->shared, MG_SHARED_WORKERS, kind, text_visit, &lines);
    if (lines.count > LINES_MAX)
        mg_buf_addf(out, "and %u more: moongate status --json\n", lines.count - LINES_MAX);
}

void
mg_metrics_text(const struct mg_super *super, struct mg_buf *out)
{
    table_add(super, MG_METRIC_LISTENER,
              "\nLISTENER                      ACCEPTED    OPEN        CLOSED\n", out);
    table_add(super, MG_METRIC_BACKEND,
              "\nBACKEND                       CONNECTIONS TRIES       FAILED\n", out);
}

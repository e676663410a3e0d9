/* What `moongate status` shows: our own view, and what each worker has answered. */
#include "supervisor/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *
phase_name(const struct mg_super *super)
{
    static const char *const names[] = {"starting", "running",  "stopping",
                                        "draining", "quitting", "stopped"};
    return super->phase == MG_PHASE_RUNNING && super->drained ? "drained" : names[super->phase];
}

static const char *
worker_state(const struct mg_worker *w)
{
    return !w->running          ? "restarting"
           : w->leaving         ? "leaving"
           : w->serving == 0    ? "building"
           : w->answer.len == 0 ? "silent"
                                : "serving";
}

static double
seconds_since(uint64_t ns)
{
    return (double)(mg_now_ns() - ns) / 1e9;
}

/* The worker's answer as a message, so that its lines can be read. */
static struct mg_msg
answer_of(const struct mg_worker *w)
{
    return (struct mg_msg){.data = w->answer.data != NULL ? w->answer.data : "",
                           .len = w->answer.data != NULL ? strlen(w->answer.data) : 0};
}

/* Members of a JSON object that follow the lines; "" if there is no answer. */
static const char *
answer_json(const struct mg_worker *w)
{
    if (w->answer.data == NULL || w->answer.failed)
        return "";
    size_t lines = strlen(w->answer.data);
    return lines < w->answer.len ? w->answer.data + lines + 1 : "";
}

static void
uptime_add(struct mg_buf *out, double seconds)
{
    char text[32];
    if (seconds < 60)
        snprintf(text, sizeof(text), "%.0f s", seconds);
    else if (seconds < 3600)
        snprintf(text, sizeof(text), "%.0f min", seconds / 60);
    else if (seconds < 48 * 3600)
        snprintf(text, sizeof(text), "%.1f h", seconds / 3600);
    else
        snprintf(text, sizeof(text), "%.0f d", seconds / 86400);
    mg_buf_addf(out, "%-8s", text);
}

/* ---- addresses of backends that do not serve --------------------------------------------------- */

#define UNWELL_MAX 50

/* A worker's word, for somebody's terminal: it has made it printable, if it is what it should be. */
static void
word_add(struct mg_buf *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        bool control = (unsigned char)text[i] < ' ' || text[i] == 0x7F;

        mg_buf_add(out, control ? "?" : text + i, 1);
    }
}

static void
cell_add(struct mg_buf *out, const char *text, size_t len, size_t width)
{
    word_add(out, text, len);
    mg_buf_addf(out, "%*s  ", (int)(len < width ? width - len : 0), "");
}

/* BACKEND TAB ADDRESS TAB STATE TAB SECONDS TAB WHY, of `len` bytes. */
static void
unwell_add(struct mg_buf *out, const char *line, size_t len)
{
    static const size_t widths[] = {28, 26, 10};
    const char *end = line + len, *tab;
    unsigned tabs = 0;

    for (const char *c = line; c < end; c++)
        tabs += *c == '\t';
    if (tabs != MG_ARRAY_LEN(widths) + 1)
        return;
    for (size_t i = 0; i < MG_ARRAY_LEN(widths); i++, line = tab + 1) {
        tab = memchr(line, '\t', (size_t)(end - line));
        cell_add(out, line, (size_t)(tab - line), widths[i]);
    }
    tab = memchr(line, '\t', (size_t)(end - line));
    if (line[0] == '-')
        mg_buf_addf(out, "%-8s", "-");
    else
        uptime_add(out, strtod(line, NULL));
    mg_buf_adds(out, "  ");
    word_add(out, tab + 1, (size_t)(end - tab - 1));
    mg_buf_adds(out, "\n");
}

/* All workers know the same of an address, and each looks names up for itself; one that has answered speaks for all. */
static const struct mg_worker *
answered_first(const struct mg_super *super)
{
    for (size_t i = 0; i < MG_ARRAY_LEN(super->workers); i++) {
        const struct mg_worker *w = super->workers[i];

        if (w != NULL && w->running && !w->leaving && w->serving != 0 && w->answer.data != NULL &&
            !w->answer.failed)
            return w;
    }
    return NULL;
}

static void
unwell_text(const struct mg_super *super, struct mg_buf *out)
{
    static const char key[] = "unwell=";
    const struct mg_worker *w = answered_first(super);
    const char *line = w != NULL ? w->answer.data : "", *end;
    unsigned count = 0;

    for (; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        if (strncmp(line, key, sizeof(key) - 1) != 0)
            continue;
        if (count++ == 0)
            mg_buf_adds(out, "\nNOT READY                     ADDRESS                     "
                             "STATE       FOR       WHY\n");
        if (count <= UNWELL_MAX)
            unwell_add(out, line + sizeof(key) - 1, (size_t)(end - line) - (sizeof(key) - 1));
    }
    if (count > UNWELL_MAX)
        mg_buf_addf(out, "and %u more: moongate status --json\n", count - UNWELL_MAX);
}

void
mg_status_text(const struct mg_super *super, struct mg_buf *out)
{
    mg_buf_addf(out, "moongate %s, pid %d, %s, up ", MG_VERSION, (int)getpid(), phase_name(super));
    uptime_add(out, seconds_since(super->started_ns));
    mg_buf_addf(out, "\nscript      %s\ngeneration  %llu (%llu reloads, %llu failed)\n",
                super->script, (unsigned long long)super->generation,
                (unsigned long long)(super->reload.succeeded > 0 ? super->reload.succeeded - 1 : 0),
                (unsigned long long)super->reload.failed);
    if (super->reload.last_error != NULL)
        mg_buf_addf(out, "last error  %s\n", super->reload.last_error);
    for (const struct mg_socket *socket = super->sockets; socket != NULL; socket = socket->next)
        mg_buf_addf(out, "listening   %s%s\n", socket->address,
                    socket->state == MG_SOCKET_GOING ? " (until its queue is empty)" : "");
    mg_buf_adds(out, "\nWORKER  PID      STATE       UP       CONNECTIONS  GENERATIONS\n");
    for (size_t i = 0; i < MG_ARRAY_LEN(super->workers); i++) {
        const struct mg_worker *w = super->workers[i];
        if (w == NULL)
            continue;
        char connections[24], generations[256];
        struct mg_msg answer = answer_of(w);
        mg_msg_field(&answer, "connections", connections, sizeof(connections));
        mg_msg_field(&answer, "generations", generations, sizeof(generations));
        mg_buf_addf(out, "%-6u  %-7d  %-10s  ", w->index, w->running ? (int)w->process.pid : 0,
                    worker_state(w));
        uptime_add(out, w->running ? seconds_since(w->started_ns) : 0);
        mg_buf_addf(out, " %-11s  %s\n", connections[0] != '\0' ? connections : "-",
                    generations[0] != '\0' ? generations : "-");
    }
    mg_metrics_text(super, out);
    unwell_text(super, out);
}

void
mg_status_json(const struct mg_super *super, struct mg_buf *out)
{
    const struct mg_reload *reload = &super->reload;
    mg_buf_addf(out, "{\"version\":\"%s\",\"pid\":%d,\"state\":\"%s\",\"uptime\":%.3f,\"script\":",
                MG_VERSION, (int)getpid(), phase_name(super), seconds_since(super->started_ns));
    mg_buf_add_json(out, super->script, strlen(super->script));
    mg_buf_addf(out,
                ",\"generation\":%llu,\"reloads\":{\"succeeded\":%llu,\"failed\":%llu,"
                "\"last_error\":",
                (unsigned long long)super->generation,
                (unsigned long long)(reload->succeeded > 0 ? reload->succeeded - 1 : 0),
                (unsigned long long)reload->failed);
    if (reload->last_error != NULL)
        mg_buf_add_json(out, reload->last_error, strlen(reload->last_error));
    else
        mg_buf_adds(out, "null");
    mg_buf_adds(out, "},\"addresses\":[");
    bool first = true;
    for (const struct mg_socket *socket = super->sockets; socket != NULL; socket = socket->next) {
        if (socket->state != MG_SOCKET_LISTENING)
            continue;
        mg_buf_adds(out, first ? "" : ",");
        mg_buf_add_json(out, socket->address, strlen(socket->address));
        first = false;
    }
    mg_buf_adds(out, "]");
    mg_metrics_json(super, MG_SHARED_WORKERS, out);
    mg_buf_adds(out, ",\"workers\":[");
    first = true;
    for (size_t i = 0; i < MG_ARRAY_LEN(super->workers); i++) {
        const struct mg_worker *w = super->workers[i];
        if (w == NULL)
            continue;
        const char *members = answer_json(w);
        mg_buf_addf(
            out, "%s{\"index\":%u,\"pid\":%d,\"state\":\"%s\",\"uptime\":%.3f,\"restarts\":%u%s%s",
            first ? "" : ",", w->index, w->running ? (int)w->process.pid : 0, worker_state(w),
            w->running ? seconds_since(w->started_ns) : 0.0, w->restarts,
            members[0] != '\0' ? "," : "", members);
        mg_metrics_json(super, w->index, out);
        mg_buf_adds(out, "}");
        first = false;
    }
    mg_buf_adds(out, "]}\n");
}

/*
 * The listening sockets that the supervisor has passed. They belong to the worker, not to a
 * generation: a connection takes the generation that is current when it is accepted.
 *
 * The happy path is: SOCKET (the socket waits), COMMIT (a frontend takes it and accepts), any
 * number of further COMMITs, UNSOCKET (its queue is emptied, it is closed, UNSOCKET goes back).
 * Possible failure modes are: no frontend can be made (logged; the other workers accept).
 */
#include "worker/internal.h"

#include <string.h>
#include <unistd.h>

static void
address_free(struct mg_address *a)
{
    struct mg_worker_process *w = a->worker;
    struct mg_address **at = &w->addresses;
    while (*at != a)
        at = &(*at)->next;
    *at = a->next;
    if (a->config != NULL)
        mg_config_unref(a->config);
    if (a->fd >= 0)
        close(a->fd);
    if (a->report)
        mg_worker_send(w, MG_MSG_UNSOCKET, 0, a->text);
    mg_free(a->text);
    mg_free(a);
    mg_worker_check_done(w);
}

static void
on_frontend_closed(void *data)
{
    address_free(data);
}

static void
address_close(struct mg_address *a, bool flush)
{
    if (a->closing && (flush || a->frontend == NULL))
        return;
    a->closing = true;
    if (a->frontend != NULL)
        mg_frontend_close(a->frontend, flush, on_frontend_closed, a);
    else
        address_free(a);
}

static struct mg_address *
address_find(const struct mg_worker_process *w, const char *text)
{
    struct mg_address *a = w->addresses;
    while (a != NULL && (a->closing || strcmp(a->text, text) != 0))
        a = a->next;
    return a;
}

void
mg_address_add(struct mg_worker_process *w, const char *text, int fd)
{
    struct mg_address *a = mg_calloc(1, sizeof(*a));
    if (w->leaving || a == NULL || (a->text = mg_strdup(text)) == NULL) {
        if (!w->leaving)
            mg_log(MG_LOG_ERROR, "%s: out of memory; this worker does not accept there", text);
        mg_free(a);
        close(fd);
        return;
    }
    a->worker = w;
    a->fd = fd;
    a->next = w->addresses;
    w->addresses = a;
}

void
mg_address_remove(struct mg_worker_process *w, const char *text)
{
    struct mg_address *a = address_find(w, text);
    if (a == NULL) {
        mg_worker_send(w, MG_MSG_UNSOCKET, 0, text);
        return;
    }
    a->report = true;
    address_close(a, true);
}

void
mg_addresses_close(struct mg_worker_process *w, bool flush)
{
    for (struct mg_address *a = w->addresses, *next; a != NULL; a = next) {
        next = a->next;
        address_close(a, flush);
    }
}

static void
address_use(struct mg_address *a, struct mg_config *config, struct mg_listener *listener)
{
    struct mg_err err;
    if (a->frontend == NULL && a->fd >= 0) {
        int fd = a->fd;
        a->fd = -1;
        a->frontend = mg_frontend_open(a->worker->engine, a->text, fd, &err);
        if (a->frontend == NULL)
            mg_log(MG_LOG_ERROR, "%s; this worker does not accept there", err.text);
    }
    if (a->frontend == NULL)
        return;
    struct mg_config *old = a->config;
    mg_config_ref(config);
    a->config = config;
    mg_frontend_set(a->frontend, config, listener);
    if (old != NULL)
        mg_config_unref(old);
}

void
mg_addresses_use(struct mg_worker_process *w, struct mg_config *config)
{
    for (size_t i = 0; i < config->listener_count; i++) {
        struct mg_listener *listener = &config->listeners[i];
        for (size_t j = 0; j < listener->address_count; j++) {
            /* None after `drain`: the supervisor has closed it. */
            struct mg_address *a = address_find(w, listener->addresses[j]);
            if (a != NULL)
                address_use(a, config, listener);
        }
    }
}

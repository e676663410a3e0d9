/* A config's life: counted by the sessions that run under it, freed by its owner at the last one.
 */
#include "proxy/internal.h"

#include <string.h>

void
mg_config_ref(struct mg_config *config)
{
    config->refs++;
}

void
mg_config_unref(struct mg_config *config)
{
    if (--config->refs == 0 && config->on_unused != NULL)
        config->on_unused(config);
}

void
mg_backend_free(struct mg_backend *backend)
{
    if (backend == NULL)
        return;
    mg_entries_free(backend);
    if (backend->watched)
        mg_health_unwatch(backend->engine);
    if (backend->metric != NULL)
        mg_metrics_release(backend->metric);
    for (size_t i = 0; i < backend->proxy_tlv_count; i++)
        mg_free(backend->proxy_tlvs[i].value);
    mg_free(backend->proxy_tlvs);
    SSL_CTX_free(backend->tls);
    mg_free(backend->name);
    mg_free(backend->servername);
    mg_free(backend->health.send);
    mg_free(backend->health.expect);
    mg_free(backend->reply);
    mg_free(backend);
}

static void
listener_fini(struct mg_listener *listener)
{
    if (listener->shared != NULL)
        mg_shared_listener_release(listener->shared, listener->worker);
    if (listener->metric != NULL)
        mg_metrics_release(listener->metric);
    for (size_t i = 0; i < listener->address_count; i++)
        mg_free(listener->addresses[i]);
    mg_free(listener->addresses);
    mg_free(listener->proxy_networks);
    mg_free(listener->name);
    SSL_CTX_free(listener->tls);
    mg_names_unref(listener->names);
}

void
mg_config_fini(struct mg_config *config)
{
    if (config->engine != NULL && config->engine->config == config) {
        mg_engine_stop_probes(config->engine);
        config->engine->config = NULL;
    }
    for (size_t i = 0; i < config->listener_count; i++)
        listener_fini(&config->listeners[i]);
    for (size_t i = 0; i < config->backend_count; i++)
        mg_backend_free(config->backends[i]);
    if (config->engine != NULL)
        mg_givens_forget(config->engine, config);
    mg_free(config->listeners);
    mg_free(config->backends);
    config->listeners = NULL;
    config->backends = NULL;
    config->listener_count = config->backend_count = 0;
}

/* ---- run-time parts -------------------------------------------------------------------------- */

/* Better now than at the first connection. */
static int
source_permitted(const struct mg_backend *backend, struct mg_err *err)
{
    struct mg_source loopback = {.transparent = true};
    int rc;

    if (!backend->source.transparent)
        return 0;
    mg_addr_parse_ip(&loopback.addr, "127.0.0.1");
    rc = mg_source_check(&loopback);
    if (rc == 0 || mg_net_is_short(rc))
        return 0;
    if (rc == UV_ENOTSUP)
        mg_err_setx(err,
                    "backend %s: source = \"client\": this system has no transparent connections",
                    backend->name);
    else
        mg_err_setx(
            err,
            "backend %s: source = \"client\": %s: workers need CAP_NET_RAW, which they have if "
            "moongate is started as root, or with that capability, under a script that asks "
            "for it (a reload cannot give it back)",
            backend->name, uv_strerror(rc));
    return -1;
}

/* What a function gives has one address and no limits, so that nothing depends on what is known of it: only what
 * the script has made `shares`. */
static int
backend_activate(struct mg_engine *engine, struct mg_backend *backend, bool shares,
                 struct mg_err *err)
{
    if (source_permitted(backend, err) != 0 ||
        mg_backend_activate(engine, backend, shares, err) != 0)
        return -1;
    backend->watched = shares && backend->close_on_down;
    if (backend->watched)
        mg_health_watch(engine);
    return 0;
}

int
mg_backend_begin(struct mg_engine *engine, const struct mg_config *config,
                 struct mg_backend *backend, bool by_function, struct mg_err *err)
{
    if (backend_activate(engine, backend, !by_function, err) != 0)
        return -1;
    backend->metric = mg_metrics_hold(engine->metrics, MG_METRIC_BACKEND, backend->name,
                                      config->generation, by_function);
    return 0;
}

int
mg_engine_activate(struct mg_engine *engine, struct mg_config *config, struct mg_err *err)
{
    for (size_t i = 0; i < config->listener_count; i++) {
        struct mg_listener *listener = &config->listeners[i];

        listener->worker = engine->options.worker;
        listener->shared =
            mg_shared_listener_hold(engine->options.shared, listener->name, listener->worker);
        if (listener->shared == NULL) {
            mg_err_setx(err,
                        "listener %s: more than %d listeners, those of old generations included",
                        listener->name, MG_SHARED_LISTENERS);
            return -1;
        }
        listener->metric = mg_metrics_hold(engine->metrics, MG_METRIC_LISTENER, listener->name,
                                           config->generation, false);
    }
    for (size_t i = 0; i < config->backend_count; i++)
        if (mg_backend_begin(engine, config, config->backends[i], false, err) != 0)
            return -1;
    config->engine = engine;
    return 0;
}

/*
 * Worker side: replays the loader's run from a snapshot and makes the config. Runs on a thread of
 * its own; only Lua, OpenSSL and plain structs come of it.
 *
 * Failure mode: a run that gives another result than the loader's – the first differing line of the
 * manifests is the error – is never served.
 */
#include "script/internal.h"

#include <stdlib.h>
#include <string.h>

/* The record's value as a string of our own; "" where there is none. */
static char *
record_copy(const struct mg_snapshot *snapshot, enum mg_record kind, const char *key)
{
    struct mg_span value;

    if (!mg_snapshot_find(snapshot, kind, key, strlen(key), &value))
        return mg_strdup("");
    return mg_strndup(value.data, value.len);
}

/* The directory of an absolute path, owned by the caller. */
char *
mg_script_dir(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL || slash == path ? mg_strdup("/")
                                          : mg_strndup(path, (size_t)(slash - path));
}

/* The script's own record: there is exactly one. */
static int
script_find(const struct mg_snapshot *snapshot, char **path, struct mg_span *text,
            struct mg_err *err)
{
    struct mg_span key;
    size_t cursor = 0;

    if (!mg_snapshot_next(snapshot, MG_RECORD_SCRIPT, &cursor, &key, text)) {
        mg_err_setx(err, "the snapshot has no script");
        return -1;
    }
    *path = mg_strndup(key.data, key.len);
    if (*path == NULL)
        mg_err_setx(err, "out of memory");
    return *path != NULL ? 0 : -1;
}

static struct mg_script *
script_replay(const struct mg_snapshot *snapshot, struct mg_err *err)
{
    struct mg_script *s = NULL;
    struct mg_span text;
    char *path, *dir, *name;

    if (script_find(snapshot, &path, &text, err) != 0)
        return NULL;
    dir = mg_script_dir(path);
    name = record_copy(snapshot, MG_RECORD_NAME, "");
    if (dir == NULL || name == NULL)
        mg_err_setx(err, "out of memory");
    else
        s = mg_script_new(name[0] != '\0' ? name : path, dir, snapshot, err);
    mg_free(path);
    mg_free(dir);
    mg_free(name);
    if (s != NULL && mg_script_run(s, text.data, text.len, err) != 0) {
        mg_script_delete(s);
        s = NULL;
    }
    return s;
}

static int
manifest_compare(struct mg_script *s, const struct mg_snapshot *snapshot, struct mg_err *err)
{
    struct mg_span recorded;
    struct mg_buf here = {0};
    int status = mg_plan_manifest(s, &here, err);

    if (status == 0) {
        if (!mg_snapshot_find(snapshot, MG_RECORD_MANIFEST, "", 0, &recorded))
            recorded = (struct mg_span){.data = "", .len = 0};
        if (recorded.len != here.len || memcmp(recorded.data, here.data, here.len) != 0) {
            mg_plan_difference(recorded.data, recorded.len, here.data, here.len, err);
            status = -1;
        }
    }
    mg_buf_free(&here);
    return status;
}

/* Every context that a listener terminates with seals its tickets with the keys that all workers
 * share; those that are made later get them when they are chosen. */
static int
tickets_make(struct mg_script *s, const struct mg_script_build *build, struct mg_err *err)
{
    const struct mg_settings *set = &s->settings;
    const char *secret = set->secret != NULL ? set->secret : build->ticket_secret;
    size_t len = set->secret != NULL ? set->secret_len : build->ticket_secret_len;
    unsigned rotation = (unsigned)strtoul(mg_settings_text(set, "ticket_rotation"), NULL, 10);

    if (secret == NULL)
        return 0;
    s->tickets = SSL_CTX_new(TLS_server_method());
    if (s->tickets == NULL) {
        mg_tls_err_take(err, "ticket keys");
        return -1;
    }
    return mg_tls_ticket_setup(s->tickets, secret, len, set->previous, set->previous_len, rotation,
                               err);
}

static int
tickets_setup(struct mg_script *s, const struct mg_config *config,
              const struct mg_script_build *build, struct mg_err *err)
{
    if (tickets_make(s, build, err) != 0)
        return -1;
    for (size_t i = 0; s->tickets != NULL && i < config->listener_count; i++) {
        const struct mg_listener *listener = &config->listeners[i];
        const struct mg_target *target;

        if (listener->tls != NULL && mg_tls_ticket_share(listener->tls, s->tickets, err) != 0)
            return -1;
        for (size_t t = 0;
             listener->names != NULL && (target = mg_names_target_at(listener->names, t)) != NULL;
             t++)
            if (target->tls != NULL && mg_tls_ticket_share(target->tls, s->tickets, err) != 0)
                return -1;
    }
    return 0;
}

struct mg_config *
mg_script_build(const struct mg_script_build *build, struct mg_err *err)
{
    struct mg_config *config = mg_calloc(1, sizeof(*config));
    struct mg_script *s;

    if (config == NULL) {
        mg_err_setx(err, "out of memory");
        return NULL;
    }
    mg_pem_run_begin();
    s = script_replay(build->snapshot, err);
    if (s == NULL) {
        mg_free(config);
        return NULL;
    }
    config->generation = build->generation;
    config->policy = &mg_script_policy;
    config->policy_data = s;
    s->config = config;
    if (manifest_compare(s, build->snapshot, err) == 0 && mg_plan_config(s, config, err) == 0 &&
        tickets_setup(s, config, build, err) == 0) {
        struct mg_pem_counts counts = mg_pem_run_end();

        mg_log(MG_LOG_DEBUG, "generation %llu: certificates and keys: %zu parsed, %zu known",
               (unsigned long long)build->generation, counts.parsed, counts.known);
        return config;
    }
    mg_script_free(config);
    return NULL;
}

void
mg_script_free(struct mg_config *config)
{
    struct mg_script *s = config->policy_data;

    mg_config_fini(config);
    mg_script_delete(s);
    mg_free(config);
}

/* What a snapshot and the command line say to the supervisor. */
#include "supervisor/internal.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The text of a setting; false if it is not set. A value that is too long is an error of its own.
 */
static bool
setting_get(const struct mg_snapshot *snapshot, const char *name, char *out, size_t cap)
{
    struct mg_span value;
    if (snapshot == NULL ||
        !mg_snapshot_find(snapshot, MG_RECORD_SETTING, name, strlen(name), &value) ||
        value.len == 0 || value.len >= cap || memchr(value.data, '\0', value.len) != NULL)
        return false;
    memcpy(out, value.data, value.len);
    out[value.len] = '\0';
    return true;
}

/* Seconds as milliseconds; "false" is 0. */
static int
seconds_get(const struct mg_snapshot *snapshot, const char *name, double fallback, uint64_t *out,
            struct mg_err *err)
{
    char text[64], *end = text;
    double seconds = fallback;
    if (setting_get(snapshot, name, text, sizeof(text))) {
        seconds = strcmp(text, "false") == 0 ? 0 : strtod(text, &end);
        if ((*end != '\0' && seconds != 0) || !(seconds >= 0 && seconds < 1e9)) {
            mg_err_setx(err, "settings.%s: expected seconds, got \"%s\"", name, text);
            return -1;
        }
    }
    *out = (uint64_t)(seconds * 1000 + 0.5);
    return 0;
}

/* "stderr", "syslog" or a path; a relative one is relative to the script. "false" is "". */
static int
path_get(const struct mg_snapshot *snapshot, const char *name, const char *fallback,
         const char *script, char out[MG_PATH_CAP], struct mg_err *err)
{
    char text[MG_PATH_CAP];
    if (!setting_get(snapshot, name, text, sizeof(text)))
        mg_str_copy(text, sizeof(text), fallback);
    if (strcmp(text, "false") == 0)
        text[0] = '\0';
    bool word = text[0] == '\0' || strcmp(text, "stderr") == 0 || strcmp(text, "syslog") == 0;
    const char *slash = strrchr(script, '/');
    int dir = word || text[0] == '/' || slash == NULL ? 0 : (int)(slash - script) + 1;
    if (snprintf(out, MG_PATH_CAP, "%.*s%s", dir, script, text) >= MG_PATH_CAP) {
        mg_err_setx(err, "settings.%s: the path is too long", name);
        return -1;
    }
    return 0;
}

/* "USER[:GROUP]" of the command line, or the script's; both must exist. */
static int
user_get(struct mg_settings *out, const struct mg_snapshot *snapshot, const char *option,
         struct mg_err *err)
{
    setting_get(snapshot, "user", out->user, sizeof(out->user));
    setting_get(snapshot, "group", out->group, sizeof(out->group));
    if (option != NULL) {
        const char *colon = strchr(option, ':');
        size_t len = colon != NULL ? (size_t)(colon - option) : strlen(option);
        if (len == 0 || len >= sizeof(out->user) ||
            (colon != NULL && (colon[1] == '\0' || strlen(colon + 1) >= sizeof(out->group)))) {
            mg_err_setx(err, "--user: expected USER or USER:GROUP, got \"%s\"", option);
            return -1;
        }
        memcpy(out->user, option, len);
        out->user[len] = '\0';
        mg_str_copy(out->group, sizeof(out->group), colon != NULL ? colon + 1 : "");
    }
    if (strcmp(out->user, "false") == 0)
        out->user[0] = '\0';
    if (strcmp(out->group, "false") == 0)
        out->group[0] = '\0';
    if (out->user[0] != '\0' && getpwnam(out->user) == NULL) {
        mg_err_setx(err, "user: there is no user \"%s\"", out->user);
        return -1;
    }
    if (out->group[0] != '\0' && getgrnam(out->group) == NULL) {
        mg_err_setx(err, "group: there is no group \"%s\"", out->group);
        return -1;
    }
    return 0;
}

static int
workers_get(struct mg_settings *out, const struct mg_snapshot *snapshot, unsigned option,
            struct mg_err *err)
{
    char text[32];
    out->workers = option;
    if (option == 0 && setting_get(snapshot, "workers", text, sizeof(text)) &&
        strcmp(text, "false") != 0) {
        char *end;
        double count = strtod(text, &end); /* the script may have said 2.0 */
        if (*end != '\0' || !(count >= 1 && count <= MG_SHARED_WORKERS) ||
            count != (double)(unsigned)count) {
            mg_err_setx(err, "settings.workers: expected a number from 1 to %d, got \"%s\"",
                        MG_SHARED_WORKERS, text);
            return -1;
        }
        out->workers = (unsigned)count;
    }
    if (out->workers == 0)
        out->workers = mg_platform_processors();
    return 0;
}

/* A share from 0 to 1; "false" is -1. */
static int
share_get(const struct mg_snapshot *snapshot, const char *name, double *out, struct mg_err *err)
{
    char text[64], *end = text;
    *out = -1;
    if (!setting_get(snapshot, name, text, sizeof(text)) || strcmp(text, "false") == 0)
        return 0;
    *out = strtod(text, &end);
    if (*end == '\0' && *out >= 0 && *out <= 1)
        return 0;
    mg_err_setx(err, "settings.%s: expected a number from 0 to 1, or false, got \"%s\"", name,
                text);
    return -1;
}

static int
log_names_get(struct mg_settings *out, const struct mg_snapshot *snapshot,
              const struct mg_supervisor_options *options, struct mg_err *err)
{
    char level[16] = "info", format[16] = "text";
    setting_get(snapshot, "log_level", level, sizeof(level));
    setting_get(snapshot, "log_format", format, sizeof(format));
    if (options->log_level != NULL)
        mg_str_copy(level, sizeof(level), options->log_level);
    if (options->log_format != NULL)
        mg_str_copy(format, sizeof(format), options->log_format);
    int level_value = mg_log_level_parse(level), format_value = mg_log_format_parse(format);
    if (level_value < 0) {
        mg_err_setx(err, "log_level: expected debug, info, warn or error, got \"%s\"", level);
        return -1;
    }
    if (format_value < 0) {
        mg_err_setx(err, "log_format: expected text or json, got \"%s\"", format);
        return -1;
    }
    out->log_level = (enum mg_log_level)level_value;
    out->log_format = (enum mg_log_format)format_value;
    return 0;
}

int
mg_settings_read(struct mg_settings *out, const struct mg_snapshot *snapshot,
                 const struct mg_supervisor_options *options, const char *script,
                 struct mg_err *err)
{
    char text[8];
    *out = (struct mg_settings){0};
    out->transparent = setting_get(snapshot, "transparent", text, sizeof(text));
    if (workers_get(out, snapshot, options->workers, err) != 0 ||
        user_get(out, snapshot, options->user, err) != 0 ||
        log_names_get(out, snapshot, options, err) != 0 ||
        path_get(snapshot, "log", "stderr", script, out->log, err) != 0 ||
        path_get(snapshot, "access_log", "", script, out->access_log, err) != 0 ||
        seconds_get(snapshot, "drain_timeout", 30, &out->drain_timeout_ms, err) != 0 ||
        seconds_get(snapshot, "generation_timeout", 0, &out->generation_timeout_ms, err) != 0 ||
        seconds_get(snapshot, "drain_delay", 0, &out->drain_delay_ms, err) != 0 ||
        seconds_get(snapshot, "watchdog", 5, &out->watchdog_ms, err) != 0 ||
        seconds_get(snapshot, "reload_timeout", 60, &out->reload_timeout_ms, err) != 0 ||
        share_get(snapshot, "refuse_reload_above", &out->refuse_reload_above, err) != 0)
        return -1;
    if (out->log[0] == '\0')
        mg_str_copy(out->log, sizeof(out->log), "stderr");
    return 0;
}

/* Log files: opened here, with the supervisor's rights, and passed to the workers. */
#include "supervisor/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* A named pipe that nobody reads is an error: waiting for a reader would stop the supervisor. */
static int
file_open(const char *path, struct mg_err *err)
{
    const int flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    int fd = strcmp(path, "stderr") == 0 ? fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)
                                         : open(path, flags, 0640);
    if (fd < 0)
        mg_err_set(err, "log file %s", path);
    return fd;
}

int
mg_logs_open(struct mg_logs *logs, const struct mg_settings *settings, struct mg_err *err)
{
    *logs = (struct mg_logs){-1, -1};
    if (strcmp(settings->log, "syslog") != 0 && (logs->log = file_open(settings->log, err)) < 0)
        return -1;
    if (settings->access_log[0] != '\0' &&
        (logs->access = file_open(settings->access_log, err)) < 0) {
        mg_logs_close(logs);
        return -1;
    }
    return 0;
}

void
mg_logs_close(struct mg_logs *logs)
{
    if (logs->log >= 0)
        close(logs->log);
    if (logs->access >= 0)
        close(logs->access);
    *logs = (struct mg_logs){-1, -1};
}

void
mg_logs_describe(const struct mg_super *super, struct mg_buf *text, struct mg_buf *names,
                 int fds[MG_IPC_FDS], size_t *count)
{
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    static const char *const formats[] = {"text", "json"};
    mg_buf_addf(text, "log_level=%s\nlog_format=%s\n", levels[super->settings.log_level],
                formats[super->settings.log_format]);
    int log = super->logs.log;
    if (log < 0 && strcmp(super->settings.log, "syslog") != 0)
        log = STDERR_FILENO; /* before the first script has said where to */
    if (log >= 0) {
        fds[(*count)++] = log;
        mg_buf_adds(names, names->len > 0 ? ",log" : "log");
    }
    if (super->logs.access >= 0) {
        fds[(*count)++] = super->logs.access;
        mg_buf_adds(names, names->len > 0 ? ",access" : "access");
    }
}

void
mg_logs_use(struct mg_super *super, struct mg_logs *logs)
{
    struct mg_logs old = super->logs;
    super->logs = *logs;
    *logs = (struct mg_logs){-1, -1};
    mg_log_open(super->logs.log, super->settings.log_format, super->settings.log_level,
                "supervisor");
    mg_logs_close(&old);

    struct mg_buf text = {0}, names = {0};
    int fds[MG_IPC_FDS];
    size_t count = 0;
    mg_logs_describe(super, &text, &names, fds, &count);
    mg_buf_addf(&text, "fds=%s\n", names.data != NULL ? names.data : "");
    for (size_t i = 0; i < MG_ARRAY_LEN(super->workers) && !text.failed && !names.failed; i++) {
        struct mg_worker *w = super->workers[i];
        if (w != NULL && w->connected)
            mg_ipc_send(&w->ipc, MG_MSG_REOPEN, 0, text.data, text.len, fds, count);
    }
    mg_buf_free(&text);
    mg_buf_free(&names);
}

void
mg_logs_reopen(struct mg_super *super)
{
    struct mg_logs fresh;
    struct mg_err err;
    if (mg_logs_open(&fresh, &super->settings, &err) != 0) {
        mg_log(MG_LOG_ERROR, "reopening the logs: %s; the open ones stay", err.text);
        return;
    }
    mg_logs_use(super, &fresh);
    mg_log(MG_LOG_INFO, "log files reopened");
}

/* The log: a record is formatted whole and leaves in one write(2), so that processes do not mix. */
#include "base/base.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {"debug", "info", "warn", "error"};
static const char *const format_names[] = {"text", "json"};
static const int level_priorities[] = {LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERR};

static struct {
    int fd;
    enum mg_log_format format;
    enum mg_log_level level;
    char who[32];
    bool waits;         /* for the reader */
    unsigned long lost; /* records that the reader has not taken */
} log_state = {STDERR_FILENO, MG_LOG_TEXT, MG_LOG_INFO, "moongate", false, 0};

static int
name_index(const char *name, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(name, names[i]) == 0)
            return (int)i;
    return -1;
}

int
mg_log_level_parse(const char *name)
{
    return name_index(name, level_names, MG_ARRAY_LEN(level_names));
}

int
mg_log_format_parse(const char *name)
{
    return name_index(name, format_names, MG_ARRAY_LEN(format_names));
}

void
mg_log_open(int fd, enum mg_log_format format, enum mg_log_level level, const char *who)
{
    log_state.fd = fd;
    mg_log_set(format, level);
    mg_str_copy(log_state.who, sizeof(log_state.who), who);
    if (fd < 0)
        openlog("moongate", LOG_PID | LOG_NDELAY, LOG_DAEMON);
}

void
mg_log_set(enum mg_log_format format, enum mg_log_level level)
{
    log_state.format = format;
    log_state.level = level;
}

enum mg_log_format
mg_log_format(void)
{
    return log_state.format;
}

bool
mg_log_enabled(enum mg_log_level level)
{
    return level >= log_state.level;
}

void
mg_log_wait(void)
{
    log_state.waits = true;
}

/* Text of the message with control characters made visible; further lines are indented. */
static void
message_add(struct mg_buf *out, const char *message)
{
    for (const char *line = message;;) {
        size_t len = strcspn(line, "\n");
        mg_buf_add_printable(out, line, len);
        if (line[len] == '\0')
            return;
        line += len + 1;
        if (*line == '\0')
            return;
        mg_buf_adds(out, "\n    ");
    }
}

static void
record_add(struct mg_buf *out, enum mg_log_level level, const char *text)
{
    char now[32];
    mg_time_text(now);
    if (log_state.format == MG_LOG_JSON) {
        mg_buf_addf(out, "{\"time\":\"%s\",\"level\":\"%s\",\"process\":\"%s\",\"message\":", now,
                    level_names[level], log_state.who);
        mg_buf_add_json(out, text, strlen(text));
        mg_buf_adds(out, "}");
    } else {
        mg_buf_addf(out, "%s %-5s %s: ", now, level_names[level], log_state.who);
        message_add(out, text);
    }
    mg_buf_adds(out, "\n");
}

static void
record_write(enum mg_log_level level, const char *text)
{
    struct mg_buf line = {0};
    if (log_state.lost > 0) {
        char said[64];
        snprintf(said, sizeof(said), "%lu records of this log were lost", log_state.lost);
        record_add(&line, MG_LOG_WARN, said);
    }
    record_add(&line, level, text);
    int (*put)(int, const void *, size_t) = log_state.waits ? mg_fd_write_all : mg_fd_write_now;
    if (!line.failed && put(log_state.fd, line.data, line.len) == 0)
        log_state.lost = 0;
    else
        log_state.lost++;
    mg_buf_free(&line);
}

/* One record for each line: what reads syslog may take a line break for the end of a record. */
static void
syslog_write(enum mg_log_level level, const char *text)
{
    struct mg_buf lines = {0};
    message_add(&lines, text);
    for (const char *line = lines.data; line != NULL && !lines.failed;) {
        int len = (int)strcspn(line, "\n");
        syslog(level_priorities[level], "%s: %.*s", log_state.who, len, line);
        line = line[len] != '\0' ? line + len + 1 : NULL;
    }
    mg_buf_free(&lines);
}

void
mg_logv(enum mg_log_level level, const char *fmt, va_list args)
{
    if (!mg_log_enabled(level))
        return;
    int saved = errno;
    struct mg_buf message = {0};
    mg_buf_addv(&message, fmt, args);
    const char *text = message.data != NULL ? message.data : fmt;
    if (log_state.fd < 0)
        syslog_write(level, text);
    else
        record_write(level, text);
    mg_buf_free(&message);
    errno = saved;
}

void
mg_log(enum mg_log_level level, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    mg_logv(level, fmt, args);
    va_end(args);
}

uint64_t
mg_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void
mg_time_text(char out[32])
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t len = strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(out + len, 32 - len, ".%03ldZ", now.tv_nsec / 1000000);
}

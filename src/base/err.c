#include "base/base.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void
mg_err_set(struct mg_err *err, const char *fmt, ...)
{
    int saved = errno;
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(err->text, sizeof(err->text), fmt, args);
    va_end(args);
    if (len >= 0 && (size_t)len < sizeof(err->text))
        snprintf(err->text + len, sizeof(err->text) - (size_t)len, ": %s", strerror(saved));
    errno = saved;
}

void
mg_err_setx(struct mg_err *err, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, args);
    va_end(args);
}

void
mg_err_prefix(struct mg_err *err, const char *fmt, ...)
{
    char prefix[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(prefix, sizeof(prefix), fmt, args);
    va_end(args);
    size_t room = sizeof(err->text) - 1;
    size_t prefix_len = strlen(prefix);
    size_t text_len = strlen(err->text);
    if (prefix_len + 2 + text_len > room)
        text_len = room - prefix_len - 2;
    memmove(err->text + prefix_len + 2, err->text, text_len);
    memcpy(err->text, prefix, prefix_len);
    memcpy(err->text + prefix_len, ": ", 2);
    err->text[prefix_len + 2 + text_len] = '\0';
}

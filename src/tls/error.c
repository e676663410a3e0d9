/* OpenSSL's error queue as text. The strings of an entry die with the queue, so they are copied
 * first. */
#include "tls/internal.h"

#include <openssl/err.h>
#include <stdio.h>
#include <string.h>

/* An entry of the system's library has errno as its reason and no text of OpenSSL's. */
static void
entry_format(unsigned long code, const char *data, int flags, char *out, size_t cap)
{
    const char *reason =
        ERR_SYSTEM_ERROR(code) ? strerror(ERR_GET_REASON(code)) : ERR_reason_error_string(code);
    char number[32];

    if (reason == NULL) {
        snprintf(number, sizeof(number), "error %08lX", code);
        reason = number;
    }
    if ((flags & ERR_TXT_STRING) && data != NULL && data[0] != '\0')
        snprintf(out, cap, "%s (%s)", reason, data);
    else
        snprintf(out, cap, "%s", reason);
}

unsigned long
mg_tls_err_drain(char *out, size_t cap)
{
    unsigned long code, last = 0;
    const char *data;
    int flags;

    out[0] = '\0';
    while ((code = ERR_get_error_all(NULL, NULL, NULL, &data, &flags)) != 0) {
        last = code;
        entry_format(code, data, flags, out, cap);
    }
    return last;
}

void
mg_tls_err_take(struct mg_err *err, const char *what)
{
    char reason[512];

    if (mg_tls_err_drain(reason, sizeof(reason)) != 0)
        mg_err_setx(err, "%s: %s", what, reason);
    else
        mg_err_setx(err, "%s", what);
}

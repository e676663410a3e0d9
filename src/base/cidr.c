/* Networks as users write them: "10.0.0.0/8", "2001:db8::/32", one address, or "unix:". */
#include "base/base.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAPPED_BITS 96

/* An IPv4 address in IPv6 is an IPv4 address. */
static void
unmap(struct mg_cidr *cidr)
{
    static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};

    if (cidr->family != AF_INET6 || cidr->bits < MAPPED_BITS ||
        memcmp(cidr->bytes, mapped, sizeof(mapped)) != 0)
        return;
    cidr->family = AF_INET;
    cidr->bits -= MAPPED_BITS;
    memmove(cidr->bytes, cidr->bytes + sizeof(mapped), 4);
    memset(cidr->bytes + 4, 0, sizeof(cidr->bytes) - 4);
}

/* Clears what lies behind the prefix. Whether there was something. */
static bool
host_bits_clear(struct mg_cidr *cidr)
{
    bool any = false;

    for (unsigned i = 0; i < sizeof(cidr->bytes); i++) {
        unsigned kept = cidr->bits <= 8 * i ? 0 : cidr->bits - 8 * i;
        unsigned char mask = kept >= 8 ? 0xff : (unsigned char)(0xff00 >> kept);

        any = any || (cidr->bytes[i] & ~mask) != 0;
        cidr->bytes[i] &= mask;
    }
    return any;
}

static bool
bits_parse(const char *text, unsigned max, unsigned *bits)
{
    char *end;
    unsigned long value;

    if (*text < '0' || *text > '9' || (text[0] == '0' && text[1] != '\0'))
        return false;
    value = strtoul(text, &end, 10);
    *bits = (unsigned)value;
    return *end == '\0' && end - text <= 3 && value <= max;
}

int
mg_cidr_parse(struct mg_cidr *cidr, const char *text, struct mg_err *err)
{
    const char *slash = strchr(text, '/');
    size_t len = slash != NULL ? (size_t)(slash - text) : strlen(text);
    char host[INET6_ADDRSTRLEN];
    unsigned max;

    memset(cidr, 0, sizeof(*cidr));
    if (strcmp(text, "unix:") == 0) {
        cidr->family = AF_UNIX;
        return 0;
    }
    mg_str_copy(host, len + 1 < sizeof(host) ? len + 1 : sizeof(host), text);
    cidr->family = inet_pton(AF_INET, host, cidr->bytes) == 1    ? AF_INET
                   : inet_pton(AF_INET6, host, cidr->bytes) == 1 ? AF_INET6
                                                                 : AF_UNSPEC;
    if (cidr->family == AF_UNSPEC || len >= sizeof(host)) {
        mg_err_setx(err,
                    "\"%s\": expected an IP address or a network like 10.0.0.0/8 or 2001:db8::/32",
                    text);
        return -1;
    }
    max = cidr->family == AF_INET ? 32 : 128;
    cidr->bits = max;
    if (slash != NULL && !bits_parse(slash + 1, max, &cidr->bits)) {
        mg_err_setx(err, "\"%s\": behind the slash a number from 0 to %u is expected", text, max);
        return -1;
    }
    cidr->inexact = host_bits_clear(cidr);
    unmap(cidr);
    return 0;
}

const char *
mg_cidr_text(const struct mg_cidr *cidr, char out[MG_CIDR_TEXT])
{
    char ip[INET6_ADDRSTRLEN];

    if (cidr->family == AF_UNIX)
        return mg_str_copy(out, MG_CIDR_TEXT, "unix:");
    inet_ntop(cidr->family, cidr->bytes, ip, sizeof(ip));
    snprintf(out, MG_CIDR_TEXT, "%s/%u", ip, cidr->bits);
    return out;
}

bool
mg_cidr_contains(const struct mg_cidr *cidr, const struct mg_addr *addr)
{
    struct mg_cidr one = {.family = addr->u.sa.sa_family, .bits = cidr->bits};

    if (one.family == AF_INET) {
        memcpy(one.bytes, &addr->u.in.sin_addr, 4);
    } else if (one.family == AF_INET6) {
        memcpy(one.bytes, &addr->u.in6.sin6_addr, 16);
        one.bits = 128;
        unmap(&one);
        one.bits = cidr->bits;
    }
    host_bits_clear(&one);
    return one.family == cidr->family && memcmp(one.bytes, cidr->bytes, sizeof(one.bytes)) == 0;
}

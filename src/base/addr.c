/* Addresses as users write them, and as socket calls take them. */
#include "base/base.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int
port_parse(const char *text, uint16_t *port)
{
    char *end;
    if (*text < '0' || *text > '9')
        return -1;
    unsigned long value = strtoul(text, &end, 10);
    if (*end != '\0' || end - text > 5 || value < 1 || value > 65535)
        return -1;
    *port = (uint16_t)value;
    return 0;
}

static int
unix_parse(struct mg_endpoint *ep, const char *text, const char *path, struct mg_err *err)
{
    struct sockaddr_un *un = &ep->addr.u.un;
    size_t len = strlen(path);
    bool abstract = path[0] == '@';
    char shown[MG_TEXT_SHOWN];
    mg_text_show(text, strlen(text), shown);
    if (len < 1 + (size_t)abstract || (!abstract && path[0] != '/')) {
        mg_err_setx(err, "\"%s\": expected unix:/absolute/path or unix:@name", shown);
        return -1;
    }
    if (len >= sizeof(un->sun_path)) {
        mg_err_setx(err, "\"%s\": the path is longer than %zu bytes", shown,
                    sizeof(un->sun_path) - 1);
        return -1;
    }
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)path[i] < ' ' || path[i] == 0x7F) {
            mg_err_setx(err, "\"%s\": the path has a control character", shown);
            return -1;
        }
    }
    ep->kind = MG_ENDPOINT_UNIX;
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, len + 1);
    if (abstract)
        un->sun_path[0] = '\0';
    ep->addr.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (abstract ? 0 : 1));
    return 0;
}

/* A literal IPv4 or IPv6 address, the latter with an optional %zone. */
static bool
ip_parse(struct mg_addr *addr, const char *host, uint16_t port)
{
    memset(addr, 0, sizeof(*addr));
    if (inet_pton(AF_INET, host, &addr->u.in.sin_addr) == 1) {
        addr->u.in.sin_family = AF_INET;
        addr->u.in.sin_port = htons(port);
        addr->len = sizeof(addr->u.in);
        return true;
    }
    char bare[INET6_ADDRSTRLEN];
    const char *zone = strchr(host, '%');
    size_t len = zone != NULL ? (size_t)(zone - host) : strlen(host);
    if (len >= sizeof(bare))
        return false;
    memcpy(bare, host, len);
    bare[len] = '\0';
    if (inet_pton(AF_INET6, bare, &addr->u.in6.sin6_addr) != 1)
        return false;
    if (zone != NULL && (addr->u.in6.sin6_scope_id = if_nametoindex(zone + 1)) == 0)
        return false;
    addr->u.in6.sin6_family = AF_INET6;
    addr->u.in6.sin6_port = htons(port);
    addr->len = sizeof(addr->u.in6);
    return true;
}

bool
mg_addr_parse_ip(struct mg_addr *addr, const char *text)
{
    return ip_parse(addr, text, 0);
}

static bool
is_alphanumeric(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static const char *
label_fault(const char *label, size_t len)
{
    if (len == 0)
        return "it has an empty label";
    if (len > 63)
        return "one of its labels is longer than 63 bytes";
    if (label[0] == '-' || label[len - 1] == '-')
        return "one of its labels begins or ends with a hyphen";
    return NULL;
}

/* As what reads IPv4 addresses takes it: decimal, octal or hexadecimal. */
static bool
label_is_number(const char *label, size_t len)
{
    bool hex = len >= 2 && label[0] == '0' && (label[1] == 'x' || label[1] == 'X');
    size_t i = hex ? 2 : 0;

    while (i < len && strchr(hex ? "0123456789abcdefABCDEF" : "0123456789", label[i]) != NULL)
        i++;
    return i == len;
}

const char *
mg_host_fault(const char *host, size_t len)
{
    size_t label = 0;

    if (len > 0 && host[len - 1] == '.')
        len--;
    if (len == 0)
        return "it is empty";
    if (len > 253)
        return "it is longer than 253 bytes";
    for (size_t i = 0; i <= len; i++) {
        const char *fault;

        if (i < len && (unsigned char)host[i] >= 0x80)
            return "an international name is written in its ASCII form (\"xn--...\")";
        if (i < len && host[i] != '.' && host[i] != '-' && host[i] != '_' &&
            !is_alphanumeric(host[i]))
            return "it has a character that is in no host name";
        if (i < len && host[i] != '.')
            continue;
        if ((fault = label_fault(host + label, i - label)) != NULL)
            return fault;
        if (i == len && label_is_number(host + label, i - label))
            return "it ends in a number, as IPv4 addresses do: these have four, from 0 to 255";
        label = i + 1;
    }
    return NULL;
}

const char *
mg_addr_fault(const struct mg_addr *addr)
{
    static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
    static const unsigned char everyone[4] = {0xff, 0xff, 0xff, 0xff};
    unsigned char ip[16];
    bool v4;

    if (!mg_addr_ip16(addr, ip))
        return NULL;
    v4 = memcmp(ip, mapped, sizeof(mapped)) == 0;
    if (v4 ? ip[12] >= 224 && ip[12] <= 239 : ip[0] == 0xff)
        return "this is a multicast address, not one of a host";
    if (v4 && memcmp(ip + 12, everyone, sizeof(everyone)) == 0)
        return "this is the broadcast address, not one of a host";
    if (!v4 && ip[0] == 0xfe && (ip[1] & 0xc0) == 0x80 && addr->u.in6.sin6_scope_id == 0)
        return "a link-local address needs its network interface (\"fe80::1%eth0\")";
    return NULL;
}

bool
mg_addr_is_any(const struct mg_addr *addr)
{
    if (addr->u.sa.sa_family == AF_INET)
        return addr->u.in.sin_addr.s_addr == htonl(INADDR_ANY);
    return addr->u.sa.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&addr->u.in6.sin6_addr);
}

/* Why that is no host, with the interface of an IPv6 address that is not there. */
static void
host_error(struct mg_err *err, const char *shown, const char *host, bool bracketed)
{
    char name[MG_TEXT_SHOWN];
    const char *zone = bracketed ? strchr(host, '%') : NULL;
    const char *fault = bracketed ? NULL : mg_host_fault(host, strlen(host));

    if (zone != NULL)
        mg_err_setx(err, "\"%s\": expected an IPv6 address and a network interface of this machine",
                    shown);
    else
        mg_err_setx(err, "\"%s\": \"%s\" is neither an IP address nor a host name%s%s", shown,
                    mg_text_show(host, strlen(host), name), fault != NULL ? ": " : "",
                    fault != NULL ? fault : "");
}

int
mg_endpoint_parse(struct mg_endpoint *ep, const char *text, bool allow_any, struct mg_err *err)
{
    char shown[MG_TEXT_SHOWN];
    const char *fault;
    memset(ep, 0, sizeof(*ep));
    if (strncmp(text, "unix:", 5) == 0)
        return unix_parse(ep, text, text + 5, err);
    mg_text_show(text, strlen(text), shown);
    const char *colon = strrchr(text, ':');
    bool bracketed = text[0] == '[' && colon != NULL && colon > text && colon[-1] == ']';
    if (colon == NULL || (!bracketed && memchr(text, ':', (size_t)(colon - text)) != NULL)) {
        mg_err_setx(err, "\"%s\": expected host:port, [ipv6]:port%s or unix:/path", shown,
                    allow_any ? ", *:port" : "");
        return -1;
    }
    if (port_parse(colon + 1, &ep->port) != 0) {
        mg_err_setx(err, "\"%s\": the port must be a number from 1 to 65535", shown);
        return -1;
    }
    const char *host = bracketed ? text + 1 : text;
    size_t len = (size_t)(colon - host) - (bracketed ? 1 : 0);
    if (len >= sizeof(ep->host)) {
        mg_err_setx(err, "\"%s\": the host name is longer than 253 bytes", shown);
        return -1;
    }
    memcpy(ep->host, host, len);
    ep->host[len] = '\0';
    if (allow_any && !bracketed && strcmp(ep->host, "*") == 0) {
        ep->kind = MG_ENDPOINT_ANY;
        ip_parse(&ep->addr, "::", ep->port);
        return 0;
    }
    bool is_ip = ip_parse(&ep->addr, ep->host, ep->port);
    if (is_ip ? ep->addr.u.sa.sa_family == AF_INET6 && !bracketed
              : bracketed || mg_host_fault(ep->host, len) != NULL) {
        host_error(err, shown, ep->host, bracketed);
        return -1;
    }
    ep->kind = is_ip ? MG_ENDPOINT_IP : MG_ENDPOINT_NAME;
    if (is_ip && (fault = mg_addr_fault(&ep->addr)) != NULL) {
        mg_err_setx(err, "\"%s\": %s", shown, fault);
        return -1;
    }
    return 0;
}

const char *
mg_addr_ip(const struct mg_addr *addr, char out[MG_ADDR_TEXT])
{
    out[0] = '\0';
    if (addr->u.sa.sa_family == AF_INET) {
        inet_ntop(AF_INET, &addr->u.in.sin_addr, out, MG_ADDR_TEXT);
    } else if (addr->u.sa.sa_family == AF_INET6) {
        const struct in6_addr *ip = &addr->u.in6.sin6_addr;
        if (IN6_IS_ADDR_V4MAPPED(ip))
            inet_ntop(AF_INET, ip->s6_addr + 12, out, MG_ADDR_TEXT);
        else
            inet_ntop(AF_INET6, ip, out, MG_ADDR_TEXT);
    }
    return out;
}

bool
mg_addr_ip16(const struct mg_addr *addr, unsigned char out[16])
{
    static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};

    if (addr->len == 0)
        return false;
    switch (addr->u.sa.sa_family) {
    case AF_INET:
        memcpy(out, mapped, sizeof(mapped));
        memcpy(out + sizeof(mapped), &addr->u.in.sin_addr, 4);
        return true;
    case AF_INET6:
        memcpy(out, &addr->u.in6.sin6_addr, 16);
        return true;
    default:
        return false;
    }
}

uint16_t
mg_addr_port(const struct mg_addr *addr)
{
    if (addr->u.sa.sa_family == AF_INET)
        return ntohs(addr->u.in.sin_port);
    if (addr->u.sa.sa_family == AF_INET6)
        return ntohs(addr->u.in6.sin6_port);
    return 0;
}

void
mg_addr_set_port(struct mg_addr *addr, uint16_t port)
{
    if (addr->u.sa.sa_family == AF_INET)
        addr->u.in.sin_port = htons(port);
    if (addr->u.sa.sa_family == AF_INET6)
        addr->u.in6.sin6_port = htons(port);
}

struct mg_addr *
mg_addr_keep(const struct mg_addr *addr)
{
    size_t room = addr->len > sizeof(addr->u.sa) ? addr->len : sizeof(addr->u.sa);
    struct mg_addr *kept = mg_malloc(offsetof(struct mg_addr, u) + room);

    if (kept == NULL)
        return NULL;
    kept->len = addr->len;
    memcpy(&kept->u, &addr->u, room);
    return kept;
}

const char *
mg_addr_text(const struct mg_addr *addr, char out[MG_ADDR_TEXT])
{
    if (addr->u.sa.sa_family == AF_UNIX) {
        size_t head = offsetof(struct sockaddr_un, sun_path);
        int len = addr->len > head ? (int)(addr->len - head) : 0;
        if (len == 0)
            snprintf(out, MG_ADDR_TEXT, "unix:");
        else if (addr->u.un.sun_path[0] == '\0')
            snprintf(out, MG_ADDR_TEXT, "unix:@%.*s", len - 1, addr->u.un.sun_path + 1);
        else
            snprintf(out, MG_ADDR_TEXT, "unix:%.*s", len, addr->u.un.sun_path);
        return out;
    }
    char ip[MG_ADDR_TEXT];
    mg_addr_ip(addr, ip);
    snprintf(out, MG_ADDR_TEXT, strchr(ip, ':') != NULL ? "[%.100s]:%u" : "%.100s:%u", ip,
             mg_addr_port(addr));
    return out;
}

/*
 * ssl_identity: Ruby's verify_certificate_identity, verify_hostname and verify_wildcard – whether a
 * certificate is for a host. They are what Ruby programs call; handshakes use OpenSSL's matcher, which
 * takes no partial wildcards.
 */
#include "openssl/internal.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <string.h>

struct text {
    const char *data;
    size_t len;
};

static bool
text_equal(struct text a, struct text b)
{
    if (a.len != b.len)
        return false;
    for (size_t i = 0; i < a.len; i++)
        if (tolower((unsigned char)a.data[i]) != tolower((unsigned char)b.data[i]))
            return false;
    return true;
}

static bool
text_is_ascii(struct text text)
{
    for (size_t i = 0; i < text.len; i++)
        if ((unsigned char)text.data[i] > 127)
            return false;
    return true;
}

/* The part before the first dot; the rest, without dots at its end, stays in *text. */
static struct text
label_take(struct text *text)
{
    const char *dot = text->len > 0 ? memchr(text->data, '.', text->len) : NULL;
    struct text label = {text->data, dot ? (size_t)(dot - text->data) : text->len};
    size_t taken = label.len + (dot ? 1 : 0);
    text->data += taken;
    text->len -= taken;
    while (text->len > 0 && text->data[text->len - 1] == '.')
        text->len--;
    return label;
}

/* One label against one that may hold one "*", which stands for at least one character. */
static bool
wildcard_matches(struct text label, struct text pattern)
{
    const char *star = pattern.len > 0 ? memchr(pattern.data, '*', pattern.len) : NULL;
    if (!star)
        return text_equal(label, pattern);
    struct text before = {pattern.data, (size_t)(star - pattern.data)};
    struct text after = {star + 1, pattern.len - before.len - 1};
    if (after.len > 0 && memchr(after.data, '*', after.len))
        return false;
    /* An A-label means something else than its letters say. */
    if (label.len >= 4 && memcmp(label.data, "xn--", 4) == 0 && pattern.len > 1)
        return false;
    return before.len + after.len < label.len &&
           text_equal((struct text){label.data, before.len}, before) &&
           text_equal((struct text){label.data + label.len - after.len, after.len}, after);
}

/* A name of one label is compared as it is, as Ruby does. */
static bool
hostname_matches(struct text host, struct text san)
{
    if (!text_is_ascii(host) || !text_is_ascii(san))
        return false;
    struct text san_rest = san, host_rest = host;
    struct text san_label = label_take(&san_rest);
    if (san_rest.len == 0)
        return host.len == san.len && memcmp(host.data, san.data, host.len) == 0;
    struct text host_label = label_take(&host_rest);
    return wildcard_matches(host_label, san_label) && text_equal(host_rest, san_rest);
}

static bool
address_matches(struct text host, struct text san)
{
    char name[64];
    unsigned char address[16];
    if (host.len >= sizeof(name) || memchr(host.data, '\0', host.len))
        return false;
    memcpy(name, host.data, host.len);
    name[host.len] = '\0';
    return ((san.len == 4 && inet_pton(AF_INET, name, address) == 1) ||
            (san.len == 16 && inet_pton(AF_INET6, name, address) == 1)) &&
           memcmp(san.data, address, san.len) == 0;
}

static struct text
text_of(const ASN1_STRING *string)
{
    return (struct text){(const char *)ASN1_STRING_get0_data(string),
                         (size_t)ASN1_STRING_length(string)};
}

/* 1: a name fits; 0: there are names, and none fits; -1: there are none. */
static int
alternatives_match(const X509 *x509, struct text host)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(x509, NID_subject_alt_name, NULL, NULL);
    int answer = -1;
    for (int i = 0; i < sk_GENERAL_NAME_num(names) && answer != 1; i++) {
        int type;
        const ASN1_STRING *value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);
        if (type == GEN_DNS)
            answer = hostname_matches(host, text_of(value));
        else if (type == GEN_IPADD)
            answer = address_matches(host, text_of(value));
    }
    GENERAL_NAMES_free(names);
    return answer;
}

bool
mg_ssl_identity_matches(X509 *x509, const char *data, size_t len)
{
    const struct text host = {data, len};
    const X509_NAME *subject = X509_get_subject_name(x509);
    int answer = alternatives_match(x509, host);
    ERR_clear_error();
    for (int i = X509_NAME_get_index_by_NID(subject, NID_commonName, -1); answer == -1 && i >= 0;
         i = X509_NAME_get_index_by_NID(subject, NID_commonName, i))
        if (hostname_matches(host,
                             text_of(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, i)))))
            return true;
    return answer == 1;
}

/* ---- the names that a context's certificates are for ----------------------------------------- */

/* Each DNS name with a NUL, and, if that is wanted, with the kind of key in front. */
static void
names_add(X509 *x509, const char *kind, struct mg_buf *out)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(x509, NID_subject_alt_name, NULL, NULL);
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        int type;
        const ASN1_STRING *value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);
        if (type != GEN_DNS)
            continue;
        struct text name = text_of(value);
        if (name.len == 0 || memchr(name.data, '\0', name.len))
            continue;
        if (kind)
            mg_buf_add(out, kind, strlen(kind) + 1);
        mg_buf_add(out, name.data, name.len);
        mg_buf_add(out, "", 1);
    }
    GENERAL_NAMES_free(names);
    ERR_clear_error();
}

static int
on_certificate(SSL_CTX *ctx MG_UNUSED, X509 *x509, void *out)
{
    names_add(x509, mg_pkey_type_name(X509_get0_pubkey(x509)), out);
    return 0;
}

int
mg_ssl_context_names(SSL_CTX *ctx, struct mg_buf *out)
{
    mg_ssl_context_each_certificate(ctx, on_certificate, out);
    return out->failed ? -1 : 0;
}

struct holder {
    const char *kind, *name, *file;
};

static int
on_candidate(SSL_CTX *ctx MG_UNUSED, X509 *x509, void *data)
{
    struct holder *wanted = data;
    struct mg_buf names = {0};
    if (!wanted->file &&
        (!wanted->kind || strcmp(wanted->kind, mg_pkey_type_name(X509_get0_pubkey(x509))) == 0)) {
        names_add(x509, NULL, &names);
        for (size_t at = 0; at < names.len; at += strlen(names.data + at) + 1)
            if (strcasecmp(names.data + at, wanted->name) == 0)
                wanted->file = mg_x509_file(x509);
    }
    mg_buf_free(&names);
    return 0;
}

const char *
mg_ssl_context_file(SSL_CTX *ctx, const char *kind, const char *name)
{
    struct holder wanted = {kind, name, NULL};
    mg_ssl_context_each_certificate(ctx, on_candidate, &wanted);
    return wanted.file;
}

const char *
mg_x509_identity(lua_State *L, int idx, struct mg_buf *names)
{
    X509 *x509 = mg_x509_test(L, idx);
    const EVP_PKEY *key = x509 ? X509_get0_pubkey(x509) : NULL;
    ERR_clear_error();
    if (!x509)
        return NULL;
    names_add(x509, NULL, names);
    return names->failed ? NULL : key ? mg_pkey_type_name(key) : "unknown";
}

/* ---- SSL.verify_* ---------------------------------------------------------------------------- */

static struct text
check_name(lua_State *L, int arg)
{
    struct text text;
    text.data = mg_check_string(L, arg, &text.len);
    return text;
}

/* verify_certificate_identity(certificate, hostname) */
static int
verify_certificate_identity(lua_State *L)
{
    mg_check_count(L, 2, 2);
    mg_class_check(L, 1, &mg_certificate_class);
    struct text host = check_name(L, 2);
    lua_pushboolean(L, mg_ssl_identity_matches(mg_x509_test(L, 1), host.data, host.len));
    return 1;
}

/* verify_hostname(hostname, san) */
static int
verify_hostname(lua_State *L)
{
    mg_check_count(L, 2, 2);
    struct text host = check_name(L, 1), san = check_name(L, 2);
    lua_pushboolean(L, hostname_matches(host, san));
    return 1;
}

/* verify_wildcard(label, san_label) */
static int
verify_wildcard(lua_State *L)
{
    mg_check_count(L, 2, 2);
    struct text label = check_name(L, 1), san_label = check_name(L, 2);
    lua_pushboolean(L, wildcard_matches(label, san_label));
    return 1;
}

void
mg_open_ssl_identity(lua_State *L)
{
    mg_function_push(L, "SSL.verify_certificate_identity", verify_certificate_identity);
    lua_setfield(L, -2, "verify_certificate_identity");
    mg_function_push(L, "SSL.verify_hostname", verify_hostname);
    lua_setfield(L, -2, "verify_hostname");
    mg_function_push(L, "SSL.verify_wildcard", verify_wildcard);
    lua_setfield(L, -2, "verify_wildcard");
}

/*
 * ssl_staple: OCSP responses that a server sends with its certificate (RFC 6066, 8446).
 *
 * A context has a list of staples, one for each certificate that has a response: its own, which
 * add_certificate was given, or else the context's, if that is about it. The callback finds the one of
 * the certificate that is being sent. A response that has ended is not sent: a client would refuse the
 * connection for it, and without one most go on.
 */
#include "openssl/internal.h"

#include <openssl/ocsp.h>

#include <string.h>
#include <time.h>

struct mg_staple {
    struct mg_staple *next;
    X509 *x509; /* one reference */
    bool own;   /* not the context's */
    time_t end; /* nextUpdate; 0: none is given */
    size_t len;
    unsigned char der[];
};

static void
staple_free(void *ptr)
{
    struct mg_staple *staple = ptr;
    if (!staple)
        return;
    X509_free(staple->x509);
    mg_free(staple);
}

void
mg_staples_free(struct mg_staple *list)
{
    while (list) {
        struct mg_staple *next = list->next;
        staple_free(list);
        list = next;
    }
}

/* ---- what a response says -------------------------------------------------------------------- */

/* NULL unless all of it is one response, and one whose content we know if it has any. */
static OCSP_RESPONSE *
response_parse(const char *der, size_t len, OCSP_BASICRESP **basic)
{
    const unsigned char *at = (const unsigned char *)der, *end = at + len;
    OCSP_RESPONSE *response = d2i_OCSP_RESPONSE(NULL, &at, (long)len);
    *basic = NULL;
    if (response && at == end &&
        (OCSP_response_status(response) != OCSP_RESPONSE_STATUS_SUCCESSFUL ||
         (*basic = OCSP_response_get1_basic(response)) != NULL))
        return response;
    OCSP_RESPONSE_free(response);
    return NULL;
}

static bool
single_is_about(const OCSP_SINGLERESP *single, const X509 *x509)
{
    OCSP_CERTID *id = (OCSP_CERTID *)(uintptr_t)OCSP_SINGLERESP_get0_id(single);
    ASN1_OCTET_STRING *name;
    ASN1_OBJECT *digest;
    ASN1_INTEGER *serial;
    unsigned char hash[EVP_MAX_MD_SIZE];
    unsigned len;
    if (OCSP_id_get0_info(&name, &digest, NULL, &serial, id) != 1 ||
        ASN1_INTEGER_cmp(serial, X509_get0_serialNumber(x509)) != 0)
        return false;
    const EVP_MD *md = EVP_get_digestbyobj(digest);
    return md && X509_NAME_digest(X509_get_issuer_name(x509), md, hash, &len) == 1 &&
           ASN1_STRING_length(name) == (int)len &&
           memcmp(ASN1_STRING_get0_data(name), hash, len) == 0;
}

static time_t
time_of(const ASN1_GENERALIZEDTIME *when)
{
    struct tm tm;
    return when && ASN1_TIME_to_tm(when, &tm) == 1 ? timegm(&tm) : 0;
}

/* Whether basic is about x509, and until when. One without content (NULL) is about any. */
static bool
basic_is_about(OCSP_BASICRESP *basic, const X509 *x509, time_t *end)
{
    *end = 0;
    for (int i = 0; basic && i < OCSP_resp_count(basic); i++) {
        OCSP_SINGLERESP *single = OCSP_resp_get0(basic, i);
        ASN1_GENERALIZEDTIME *next = NULL;
        if (!single_is_about(single, x509))
            continue;
        OCSP_single_get0_status(single, NULL, NULL, NULL, &next);
        *end = time_of(next);
        return true;
    }
    return basic == NULL;
}

static bool
der_is_about(const char *der, size_t len, const X509 *x509, time_t *end)
{
    OCSP_BASICRESP *basic;
    OCSP_RESPONSE *response = response_parse(der, len, &basic);
    bool answer = response && basic_is_about(basic, x509, end);
    OCSP_BASICRESP_free(basic);
    OCSP_RESPONSE_free(response);
    return answer;
}

void
mg_staple_check(lua_State *L, int value, const char *where, X509 *x509)
{
    size_t len;
    time_t end;
    const char *der = lua_tolstring(L, value, &len);
    OCSP_BASICRESP *basic;
    ERR_clear_error();
    OCSP_RESPONSE *response = response_parse(der, len, &basic);
    bool is_response = response != NULL;
    OCSP_BASICRESP_free(basic);
    OCSP_RESPONSE_free(response);
    if (!is_response)
        mg_lua_openssl_error(L, "ArgumentError", "%s: not an OCSP response in DER", where);
    if (x509 && !der_is_about(der, len, x509, &end))
        mg_lua_error(L, "ArgumentError", "%s: is about another certificate", where);
    ERR_clear_error();
}

/* ---- a context's staples --------------------------------------------------------------------- */

/* NULL: no memory. */
static struct mg_staple *
staple_new(const char *der, size_t len, X509 *x509, time_t end)
{
    struct mg_staple *staple = mg_malloc(sizeof(*staple) + len);
    if (!staple)
        return NULL;
    *staple = (struct mg_staple){.x509 = x509, .end = end, .len = len};
    X509_up_ref(x509);
    memcpy(staple->der, der, len);
    return staple;
}

struct mg_box *
mg_staple_push(lua_State *L, int value, X509 *x509)
{
    size_t len;
    time_t end = 0;
    const char *der = lua_tolstring(L, value, &len);
    struct mg_box *box = mg_box_push(L, staple_free);
    der_is_about(der, len, x509, &end);
    struct mg_staple *staple = box->ptr = staple_new(der, len, x509, end);
    if (!staple)
        mg_lua_error(L, "NoMemoryError", "SSLContext: out of memory");
    staple->own = true;
    return box;
}

static struct mg_staple *
staple_find(const SSL_CTX *ctx, const X509 *x509)
{
    struct mg_staple *staple = mg_ssl_context_extra(ctx)->staples;
    while (staple && X509_cmp(staple->x509, x509) != 0)
        staple = staple->next;
    return staple;
}

static bool
staple_has_ended(const struct mg_staple *staple)
{
    return staple->end != 0 && staple->end <= time(NULL);
}

bool
mg_staples_ended(const SSL_CTX *ctx)
{
    const struct mg_staple *staple = mg_ssl_context_extra(ctx)->staples;
    while (staple && !staple_has_ended(staple))
        staple = staple->next;
    return staple != NULL;
}

/* On a server: what the certificate that is being sent has. On a client that asked: no objection. */
static int
on_status(SSL *ssl, void *arg MG_UNUSED)
{
    const X509 *x509 = SSL_get_certificate(ssl);
    if (!SSL_is_server(ssl))
        return 1;
    const struct mg_staple *staple = x509 ? staple_find(SSL_get_SSL_CTX(ssl), x509) : NULL;
    if (!staple || staple_has_ended(staple))
        return SSL_TLSEXT_ERR_NOACK;
    unsigned char *copy = OPENSSL_memdup(staple->der, staple->len);
    if (!copy)
        return SSL_TLSEXT_ERR_NOACK;
    SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long)staple->len); /* takes it */
    return SSL_TLSEXT_ERR_OK;
}

static void
staple_add(SSL_CTX *ctx, struct mg_staple *staple)
{
    struct mg_ssl_context_extra *extra = mg_ssl_context_extra(ctx);
    staple->next = extra->staples;
    extra->staples = staple;
    SSL_CTX_set_tlsext_status_cb(ctx, on_status);
}

static bool
is_same_kind(const X509 *a, const X509 *b)
{
    const EVP_PKEY *key = X509_get0_pubkey(a), *other = X509_get0_pubkey(b);
    return key && other && EVP_PKEY_is_a(key, mg_pkey_type_name(other));
}

void
mg_staple_set(SSL_CTX *ctx, struct mg_box *box, const X509 *x509)
{
    struct mg_staple **at = &mg_ssl_context_extra(ctx)->staples;
    while (*at) {
        struct mg_staple *staple = *at;
        if (!is_same_kind(staple->x509, x509)) {
            at = &staple->next;
            continue;
        }
        *at = staple->next;
        staple_free(staple);
    }
    if (!box)
        return;
    staple_add(ctx, box->ptr);
    box->ptr = NULL;
}

/* ---- setup: the context's response ------------------------------------------------------------ */

struct search {
    const char *der;
    size_t len;
    int certificates, about;
};

static int
search_visit(SSL_CTX *ctx MG_UNUSED, X509 *x509, void *data)
{
    struct search *search = data;
    time_t end;
    search->certificates++;
    search->about += der_is_about(search->der, search->len, x509, &end);
    return 0;
}

void
mg_staples_check(lua_State *L, SSL_CTX *ctx, int value, X509 *x509)
{
    struct search search = {0};
    search.der = lua_tolstring(L, value, &search.len);
    mg_ssl_context_each_certificate(ctx, search_visit, &search);
    if (x509)
        search_visit(ctx, x509, &search);
    ERR_clear_error();
    if (search.certificates > 0 && search.about == 0)
        mg_lua_error(L, "ArgumentError",
                     "SSLContext.ocsp_response: is about none of the context's certificates");
}

/* The context's response becomes that of a certificate without one. */
static int
apply_visit(SSL_CTX *ctx, X509 *x509, void *data)
{
    const struct search *search = data;
    time_t end;
    if (staple_find(ctx, x509) || !der_is_about(search->der, search->len, x509, &end))
        return 0;
    struct mg_staple *staple = staple_new(search->der, search->len, x509, end);
    if (!staple)
        return -1;
    staple_add(ctx, staple);
    return 0;
}

int
mg_staples_apply(lua_State *L, SSL_CTX *ctx, int value)
{
    struct search search = {0};
    for (struct mg_staple **at = &mg_ssl_context_extra(ctx)->staples; *at;) {
        struct mg_staple *staple = *at;
        if (staple->own) {
            at = &staple->next;
            continue;
        }
        *at = staple->next;
        staple_free(staple);
    }
    if (lua_type(L, value) != LUA_TSTRING)
        return 0;
    search.der = lua_tolstring(L, value, &search.len);
    int rc = mg_ssl_context_each_certificate(ctx, apply_visit, &search);
    ERR_clear_error();
    return rc;
}

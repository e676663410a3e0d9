/*
 * ssl_staple: OCSP responses that a server sends with its certificate (RFC 6066, 8446).
 *
 * A context has a list of staples, one for each certificate that has a response: its own, which
 * add_certificate was given, or else one of load_ocsp's, or the context's, if that is about it. The callback finds the one of
 * the certificate that is being sent. A response that has ended is not sent: a client would refuse the
 * connection for it, and without one most go on.
 */
#include "openssl/internal.h"

#include <openssl/ocsp.h>

#include <string.h>
#include <time.h>

#define CLOCK_SKEW_SECONDS 300

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

/* ---- load_ocsp ------------------------------------------------------------------------------- */

/* Name of the list of what load_ocsp has read: { response, what errors begin with }. */
#define LOADED "loaded ocsp responses"

static bool
der_is_successful(const char *der, size_t len)
{
    OCSP_BASICRESP *basic;
    OCSP_RESPONSE *response = response_parse(der, len, &basic);
    bool is_successful = basic != NULL;
    OCSP_BASICRESP_free(basic);
    OCSP_RESPONSE_free(response);
    ERR_clear_error();
    return is_successful;
}

/* load_ocsp(path) -> self; which certificate it is about is asked at setup */
int
mg_ssl_context_load_ocsp(lua_State *L)
{
    size_t len;
    mg_ssl_context_check_writable(L);
    mg_check_count(L, 1, 1);
    const char *path = mg_check_text(L, 2);
    const char *what = lua_pushfstring(L, "load_ocsp: %s", path);
    struct mg_buf *file = mg_file_push(L, "SystemCallError", "load_ocsp", path);
    lua_createtable(L, 2, 0);
    int entry = lua_gettop(L);
    const char *der = lua_pushlstring(L, file->data ? file->data : "", file->len);
    mg_buf_free(file);
    len = lua_rawlen(L, -1);
    mg_staple_check(L, lua_gettop(L), what, NULL);
    if (!der_is_successful(der, len))
        mg_lua_error(L, "ArgumentError",
                     "%s: the responder tells of an error instead of a certificate", what);
    lua_rawseti(L, entry, 1);
    lua_pushvalue(L, 3);
    lua_rawseti(L, entry, 2);
    if (mg_ssl_context_value(L, 1, LOADED) == LUA_TNIL) {
        lua_newtable(L);
        mg_ssl_context_store(L, 1, LOADED, lua_gettop(L));
    }
    lua_pushvalue(L, entry);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    lua_settop(L, 1);
    return 1;
}

/* Pushes the i-th response and what errors begin with; false and nothing: there are no more. The list is at `list`. */
static bool
loaded_push(lua_State *L, int list, lua_Integer i)
{
    if (!lua_istable(L, list) || lua_rawgeti(L, list, i) != LUA_TTABLE)
        return false;
    lua_rawgeti(L, -1, 1);
    lua_rawgeti(L, -2, 2);
    lua_remove(L, -3);
    return true;
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

/* That the response at value is about one of them, if there are any. */
static void
response_check(lua_State *L, SSL_CTX *ctx, int value, X509 *x509, const char *what)
{
    struct search search = {0};
    search.der = lua_tolstring(L, value, &search.len);
    mg_ssl_context_each_certificate(ctx, search_visit, &search);
    if (x509)
        search_visit(ctx, x509, &search);
    ERR_clear_error();
    if (search.certificates > 0 && search.about == 0)
        mg_lua_error(L, "ArgumentError", "%s: is about none of the context's certificates", what);
}

void
mg_staples_check(lua_State *L, int idx, SSL_CTX *ctx, X509 *x509)
{
    int top = lua_gettop(L);
    if (mg_ssl_context_value(L, idx, "ocsp_response") == LUA_TSTRING)
        response_check(L, ctx, top + 1, x509, "SSLContext.ocsp_response");
    mg_ssl_context_value(L, idx, LOADED);
    for (lua_Integer i = 1; loaded_push(L, top + 2, i); i++) {
        response_check(L, ctx, top + 3, x509, lua_tostring(L, top + 4));
        lua_settop(L, top + 2);
    }
    lua_settop(L, top);
}

/* The response becomes that of a certificate without one. */
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

static int
response_apply(lua_State *L, SSL_CTX *ctx, int value)
{
    struct search search = {0};
    search.der = lua_tolstring(L, value, &search.len);
    int rc = mg_ssl_context_each_certificate(ctx, apply_visit, &search);
    ERR_clear_error();
    return rc;
}

int
mg_staples_apply(lua_State *L, int idx, SSL_CTX *ctx)
{
    int top = lua_gettop(L), rc = 0;
    for (struct mg_staple **at = &mg_ssl_context_extra(ctx)->staples; *at;) {
        struct mg_staple *staple = *at;
        if (staple->own) {
            at = &staple->next;
            continue;
        }
        *at = staple->next;
        staple_free(staple);
    }
    mg_ssl_context_value(L, idx, LOADED);
    lua_Integer count = lua_istable(L, top + 1) ? (lua_Integer)lua_rawlen(L, top + 1) : 0;
    for (lua_Integer i = count; rc == 0 && i > 0; i--) {
        if (loaded_push(L, top + 1, i)) /* the last one about a certificate counts */
            rc = response_apply(L, ctx, top + 2);
        lua_settop(L, top + 1);
    }
    if (rc == 0 && mg_ssl_context_value(L, idx, "ocsp_response") == LUA_TSTRING)
        rc = response_apply(L, ctx, lua_gettop(L));
    lua_settop(L, top);
    return rc;
}

/* ---- what a report says ---------------------------------------------------------------------- */

/* Whether the certificate's issuer, which is in its chain, or somebody of his has signed it; true, too, if the chain has
 * no issuer. */
static bool
signature_fits(SSL_CTX *ctx, OCSP_BASICRESP *basic, X509 *x509)
{
    STACK_OF(X509) *chain = NULL;
    X509 *issuer = NULL;
    SSL_CTX_get0_chain_certs(ctx, &chain);
    for (int i = 0; i < sk_X509_num(chain) && !issuer; i++)
        if (X509_check_issued(sk_X509_value(chain, i), x509) == X509_V_OK)
            issuer = sk_X509_value(chain, i);
    X509_STORE *store = issuer ? X509_STORE_new() : NULL;
    bool fits = !store || X509_STORE_add_cert(store, issuer) != 1 ||
                OCSP_basic_verify(basic, chain, store, OCSP_PARTIAL_CHAIN) == 1;
    X509_STORE_free(store);
    return fits;
}

static const char *
staple_fault(SSL_CTX *ctx, const struct mg_staple *staple, OCSP_BASICRESP *basic)
{
    for (int i = 0; i < OCSP_resp_count(basic); i++) {
        OCSP_SINGLERESP *single = OCSP_resp_get0(basic, i);
        ASN1_GENERALIZEDTIME *from = NULL;
        if (!single_is_about(single, staple->x509))
            continue;
        int status = OCSP_single_get0_status(single, NULL, NULL, &from, NULL);
        if (staple_has_ended(staple))
            return "has ended, and is not sent";
        if (time_of(from) > time(NULL) + CLOCK_SKEW_SECONDS)
            return "is not valid yet";
        if (status != V_OCSP_CERTSTATUS_GOOD)
            return status == V_OCSP_CERTSTATUS_REVOKED ? "says that it is revoked"
                                                       : "says that its CA does not know it";
        return signature_fits(ctx, basic, staple->x509) ? NULL : "is not signed by its CA";
    }
    return NULL;
}

static int
fault_visit(SSL_CTX *ctx, X509 *x509, void *out)
{
    OCSP_BASICRESP *basic = NULL;
    const struct mg_staple *staple = staple_find(ctx, x509);
    OCSP_RESPONSE *response =
        staple ? response_parse((const char *)staple->der, staple->len, &basic) : NULL;
    const char *fault = basic ? staple_fault(ctx, staple, basic) : NULL;
    OCSP_BASICRESP_free(basic);
    OCSP_RESPONSE_free(response);
    if (fault)
        mg_fault_add(out, "the OCSP response for ", X509_get_subject_name(x509), fault);
    return 0;
}

void
mg_staple_faults(SSL_CTX *ctx, struct mg_buf *out)
{
    mg_ssl_context_each_certificate(ctx, fault_visit, out);
}

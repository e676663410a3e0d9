/*
 * crl_signed: the signature of a CRL is verified once. OpenSSL does it in every handshake, which for a list of 100,000
 * entries means to copy and hash megabytes each time.
 *
 * Each CRL that is in the process's cache (pem.c) has a memo of the certificate that it was found to be signed by;
 * contexts hold a reference. A store of a context with CRLs asks on_check: where nothing but the signature is left to be
 * verified – a plain list, by the certificate's issuer, who is next in the chain, within its time – and that was, OpenSSL
 * is not asked. Everything else is its own business, errors and all.
 */
#include "openssl/internal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

struct mg_crl_memo {
    _Atomic unsigned refs;
    _Atomic(X509 *) signer; /* set once; one reference */
    bool has_digest;
    unsigned char digest[32]; /* SHA-256 of the encoding */
};

struct mg_crl_memo *
mg_crl_memo_new(const unsigned char digest[32])
{
    struct mg_crl_memo *memo = mg_calloc(1, sizeof(*memo));
    if (!memo)
        return NULL;
    memo->refs = 1;
    memo->has_digest = digest != NULL;
    if (digest)
        memcpy(memo->digest, digest, sizeof(memo->digest));
    return memo;
}

int
mg_crl_digest(X509_CRL *crl, unsigned char digest[32])
{
    struct mg_crl_memo *memo = mg_pem_crl_memo(crl);
    bool known = memo && memo->has_digest;
    unsigned len = 32;
    if (known)
        memcpy(digest, memo->digest, sizeof(memo->digest));
    mg_crl_memo_unref(memo);
    return known || X509_CRL_digest(crl, EVP_sha256(), digest, &len) == 1 ? 0 : -1;
}

struct mg_crl_memo *
mg_crl_memo_ref(struct mg_crl_memo *memo)
{
    if (memo)
        memo->refs++;
    return memo;
}

void
mg_crl_memo_unref(struct mg_crl_memo *memo)
{
    if (!memo || --memo->refs > 0)
        return;
    X509_free(memo->signer);
    mg_free(memo);
}

/* The certificate may sign CRLs, and has signed this one. */
static bool
signature_verify(X509_CRL *crl, X509 *issuer)
{
    EVP_PKEY *key = X509_get0_pubkey(issuer);
    return key && (X509_get_key_usage(issuer) & KU_CRL_SIGN) != 0 && X509_CRL_verify(crl, key) == 1;
}

static bool
memo_knows(const struct mg_crl_memo *memo, const X509 *issuer)
{
    const X509 *signer = memo ? memo->signer : NULL;
    return signer && X509_cmp(signer, issuer) == 0;
}

bool
mg_crl_signed_by(struct mg_crl_memo *memo, X509_CRL *crl, X509 *issuer)
{
    X509 *nobody = NULL;
    if (memo_knows(memo, issuer))
        return true;
    if (!signature_verify(crl, issuer))
        return false;
    if (memo && X509_up_ref(issuer) == 1 &&
        !atomic_compare_exchange_strong(&memo->signer, &nobody, issuer))
        X509_free(issuer); /* another thread was first, or it has another certificate of that key */
    return true;
}

/* ---- while a chain is verified --------------------------------------------------------------- */

static int (*openssl_check)(X509_STORE_CTX *ctx, X509_CRL *crl);
static pthread_once_t check_once = PTHREAD_ONCE_INIT;

/* OpenSSL tells its own function only to a verification whose store has no other. */
static void
check_find(void)
{
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    if (store && ctx && X509_STORE_CTX_init(ctx, store, NULL, NULL) == 1)
        openssl_check = X509_STORE_CTX_get_check_crl(ctx);
    X509_STORE_CTX_free(ctx);
    X509_STORE_free(store);
}

static bool
is_in_time(X509_STORE_CTX *ctx, const X509_CRL *crl)
{
    const ASN1_TIME *next = X509_CRL_get0_nextUpdate(crl);
    unsigned long flags = X509_VERIFY_PARAM_get_flags(X509_STORE_CTX_get0_param(ctx));
    return (flags & (X509_V_FLAG_USE_CHECK_TIME | X509_V_FLAG_NO_CHECK_TIME |
                     X509_V_FLAG_SUITEB_128_LOS)) == 0 &&
           X509_cmp_current_time(X509_CRL_get0_lastUpdate(crl)) < 0 &&
           (!next || X509_cmp_current_time(next) > 0);
}

/* The issuer of the certificate that is being looked at – a root is its own –, if the CRL is his; NULL: it is not that
 * simple. */
static X509 *
plain_issuer(X509_STORE_CTX *ctx, X509_CRL *crl)
{
    const STACK_OF(X509) *chain = X509_STORE_CTX_get0_chain(ctx);
    int depth = X509_STORE_CTX_get_error_depth(ctx);
    X509 *x509 = sk_X509_value(chain, depth), *issuer = sk_X509_value(chain, depth + 1);
    const X509 *current = X509_STORE_CTX_get0_current_issuer(ctx);
    if (!issuer && x509 && X509_check_issued(x509, x509) == X509_V_OK)
        issuer = x509;
    if (!x509 || !issuer || (current && current != issuer) ||
        X509_NAME_cmp(X509_CRL_get_issuer(crl), X509_get_issuer_name(x509)) != 0)
        return NULL;
    return issuer;
}

static const struct mg_crl_signed *
signed_find(X509_STORE_CTX *ctx, const X509_CRL *crl)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(ctx, SSL_get_ex_data_X509_STORE_CTX_idx());
    const struct mg_ssl_context_extra *extra =
        ssl ? mg_ssl_context_extra(SSL_get_SSL_CTX(ssl)) : NULL;
    const struct mg_crl_signed *list = extra ? extra->crl_check.list : NULL;
    while (list && list->crl != crl)
        list = list->next;
    return list;
}

static int
on_check(X509_STORE_CTX *ctx, X509_CRL *crl)
{
    const struct mg_crl_signed *known = signed_find(ctx, crl);
    X509 *issuer = known && known->is_plain ? plain_issuer(ctx, crl) : NULL;
    if (issuer && is_in_time(ctx, crl) && mg_crl_signed_by(known->memo, crl, issuer))
        return 1;
    return openssl_check(ctx, crl);
}

/* ---- setup ----------------------------------------------------------------------------------- */

void
mg_crl_signed_free(struct mg_crl_signed *list)
{
    while (list) {
        struct mg_crl_signed *next = list->next;
        mg_crl_memo_unref(list->memo);
        X509_CRL_free(list->crl);
        mg_free(list);
        list = next;
    }
}

/* By a CA that the store has, now, so that no handshake waits for it; others come with their chains. */
static void
signer_find(const struct mg_crl_signed *one, X509_STORE *store)
{
    const STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(store);
    for (int i = 0; i < sk_X509_OBJECT_num(objects); i++) {
        X509 *x509 = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(objects, i));
        if (x509 &&
            X509_NAME_cmp(X509_get_subject_name(x509), X509_CRL_get_issuer(one->crl)) == 0 &&
            mg_crl_signed_by(one->memo, one->crl, x509))
            return;
    }
}

struct mg_crl_signed *
mg_crl_signed_new(X509_STORE *store, X509_CRL *crl)
{
    struct mg_crl_signed *one = mg_calloc(1, sizeof(*one));
    if (!one)
        return NULL;
    X509_CRL_up_ref(crl);
    one->crl = crl;
    one->memo = mg_pem_crl_memo(crl);
    one->is_plain = X509_CRL_get_ext_by_NID(crl, NID_issuing_distribution_point, -1) < 0 &&
                    X509_CRL_get_ext_by_NID(crl, NID_delta_crl, -1) < 0;
    if (!one->memo)
        one->memo = mg_crl_memo_new(NULL);
    pthread_once(&check_once, check_find);
    if (openssl_check)
        X509_STORE_set_check_crl(store, on_check);
    signer_find(one, store);
    ERR_clear_error();
    return one;
}

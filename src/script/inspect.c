/* What a certificate says, and what is wrong with it whatever handshake it is used in. */
#include "script/internal.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define DAY_S     86400
#define SOON_DAYS 14

/* "RSA", "RSA-PSS", "EC", "ED25519": as mg_memory_handshake names kinds of keys. */
static void
key_describe(struct mg_proof_certificate *out, X509 *x509)
{
    const EVP_PKEY *key = X509_get0_pubkey(x509);
    const char *name = key != NULL ? EVP_PKEY_get0_type_name(key) : NULL;

    mg_str_copy(out->type, sizeof(out->type), name != NULL ? name : "unknown");
    out->bits = key != NULL ? EVP_PKEY_get_bits(key) : 0;
}

static char *
name_text(const X509_NAME *name)
{
    struct mg_buf out = {0};
    BIO *bio = BIO_new(BIO_s_mem());
    char *data;
    long len;

    if (bio == NULL ||
        X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB) < 0)
        out.failed = true;
    else if ((len = BIO_get_mem_data(bio, &data)) > 0)
        mg_buf_add_printable(&out, data, (size_t)len);
    else
        mg_buf_adds(&out, "(no subject)");
    BIO_free(bio);
    return mg_buf_take(&out);
}

static void
name_add(struct mg_buf *names, const GENERAL_NAME *name)
{
    int type, len;
    const void *value = GENERAL_NAME_get0_value(name, &type);
    const unsigned char *data;
    char ip[INET6_ADDRSTRLEN];

    if (type != GEN_DNS && type != GEN_IPADD)
        return;
    data = ASN1_STRING_get0_data(value);
    len = ASN1_STRING_length(value);
    if (type == GEN_DNS && len > 0 && memchr(data, 0, (size_t)len) == NULL) {
        mg_buf_add_printable(names, (const char *)data, (size_t)len);
        mg_buf_add(names, "", 1);
    } else if (type == GEN_IPADD && (len == 4 || len == 16) &&
               inet_ntop(len == 4 ? AF_INET : AF_INET6, data, ip, sizeof(ip)) != NULL) {
        mg_buf_addf(names, "IP %s", ip);
        mg_buf_add(names, "", 1);
    }
}

static void
names_describe(struct mg_proof_certificate *out, X509 *x509)
{
    GENERAL_NAMES *san = X509_get_ext_d2i(x509, NID_subject_alt_name, NULL, NULL);

    for (int i = 0; i < sk_GENERAL_NAME_num(san); i++)
        name_add(&out->names, sk_GENERAL_NAME_value(san, i));
    GENERAL_NAMES_free(san);
}

static int64_t
time_seconds(const ASN1_TIME *time)
{
    struct tm tm;

    return ASN1_TIME_to_tm(time, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

int
mg_proof_describe(struct mg_proof_certificate *out, X509 *x509, struct mg_err *err)
{
    unsigned len = sizeof(out->fingerprint);
    int64_t now = (int64_t)time(NULL);

    key_describe(out, x509);
    names_describe(out, x509);
    out->subject = name_text(X509_get_subject_name(x509));
    out->not_before = time_seconds(X509_get0_notBefore(x509));
    out->not_after = time_seconds(X509_get0_notAfter(x509));
    /* Rounded down, also below zero: what ended an hour ago has -1 days left. */
    out->days_left = (int)((out->not_after - now - (out->not_after < now ? DAY_S - 1 : 0)) / DAY_S);
    X509_digest(x509, EVP_sha256(), out->fingerprint, &len);
    ERR_clear_error();
    if (out->subject == NULL || out->names.failed) {
        mg_err_setx(err, "out of memory");
        return -1;
    }
    return 0;
}

/* ---- chain ---------------------------------------------------------------------------------- */

static bool
is_issued_by(X509 *subject, X509 *issuer)
{
    return X509_check_issued(issuer, subject) == X509_V_OK;
}

static bool
store_has_issuer(X509_STORE *store, X509 *subject)
{
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    X509 *issuer = NULL;
    bool found = false;

    if (ctx != NULL && store != NULL && X509_STORE_CTX_init(ctx, store, subject, NULL) == 1)
        found = X509_STORE_CTX_get1_issuer(&issuer, ctx, subject) == 1;
    X509_free(issuer);
    X509_STORE_CTX_free(ctx);
    ERR_clear_error();
    return found;
}

/* Whether a client that knows the usual roots could end the chain with this certificate. */
static bool
issuer_is_known(struct mg_proof *proof, X509 *last, SSL_CTX *ctx)
{
    if (store_has_issuer(SSL_CTX_get_cert_store(ctx), last))
        return true;
    if (proof->usual == NULL) { /* many files: read once */
        proof->usual = X509_STORE_new();
        if (proof->usual != NULL)
            X509_STORE_set_default_paths(proof->usual);
        ERR_clear_error();
    }
    return store_has_issuer(proof->usual, last);
}

static void
chain_inspect(struct mg_proof *proof, const char *who, X509 *x509, const STACK_OF(X509) * chain,
              SSL_CTX *ctx)
{
    X509 *last = x509;
    char *issuer;

    for (int i = 0; i < sk_X509_num(chain); i++) {
        X509 *next = sk_X509_value(chain, i);

        if (!is_issued_by(last, next)) {
            mg_proof_warn(proof,
                          "%s: the chain is out of order: certificate %d of it did not issue "
                          "the one before",
                          who, i + 1);
            return;
        }
        last = next;
    }
    if (is_issued_by(last, last) || issuer_is_known(proof, last, ctx))
        return;
    issuer = name_text(X509_get_issuer_name(last));
    mg_proof_warn(proof,
                  "%s: the chain is incomplete: the issuer %s is neither sent nor a root that "
                  "is known here",
                  who, issuer != NULL ? issuer : "(no memory)");
    mg_free(issuer);
}

void
mg_proof_inspect(struct mg_proof *proof, const struct mg_proof_entry *entry,
                 const struct mg_proof_certificate *certificate, X509 *x509,
                 const STACK_OF(X509) * chain, SSL_CTX *ctx)
{
    char place[MG_PROOF_WHO], who[MG_PROOF_WHO + 256];

    mg_proof_who(entry, place);
    snprintf(who, sizeof(who), "%s: %s certificate %s", place, certificate->type,
             certificate->subject);
    if (certificate->not_before > (int64_t)time(NULL))
        mg_proof_warn(proof, "%s is not valid yet", who);
    if (certificate->days_left < 0)
        mg_proof_warn(proof, "%s has expired", who);
    else if (certificate->days_left < SOON_DAYS)
        mg_proof_warn(proof, "%s expires in %d days", who, certificate->days_left);
    chain_inspect(proof, who, x509, chain, ctx);
}

/* ---- names ---------------------------------------------------------------------------------- */

/* The first name that both claim, or NULL. */
static const char *
common_name(const struct mg_buf *a, const struct mg_buf *b)
{
    for (size_t i = 0; i < a->len; i += strlen(a->data + i) + 1) {
        for (size_t j = 0; j < b->len; j += strlen(b->data + j) + 1) {
            if (strcasecmp(a->data + i, b->data + j) == 0)
                return a->data + i;
        }
    }
    return NULL;
}

static void
pair_compare(struct mg_proof *proof, const struct mg_proof_entry *ea,
             const struct mg_proof_certificate *a, const struct mg_proof_entry *eb,
             const struct mg_proof_certificate *b)
{
    const char *name;

    if (strcmp(a->type, b->type) != 0 ||
        memcmp(a->fingerprint, b->fingerprint, sizeof(a->fingerprint)) == 0)
        return;
    name = common_name(&a->names, &b->names);
    if (name != NULL)
        mg_proof_warn(proof,
                      "%slistener %s: %s is also on another %s certificate, that of listener %s",
                      eb->where, eb->name, name, a->type, ea->name);
}

void
mg_proof_compare(struct mg_proof *proof)
{
    for (size_t i = 0; i < proof->entry_count; i++) {
        for (size_t j = i + 1; j < proof->entry_count; j++) {
            const struct mg_proof_entry *a = &proof->entries[i], *b = &proof->entries[j];

            if (a->by_name && b->by_name)
                continue;
            for (size_t ca = 0; ca < a->certificate_count; ca++) {
                for (size_t cb = 0; cb < b->certificate_count; cb++)
                    pair_compare(proof, a, &a->certificates[ca], b, &b->certificates[cb]);
            }
        }
    }
}

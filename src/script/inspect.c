/* What a certificate says, and what is wrong with it whatever handshake it is used in. */
#include "script/internal.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
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

static void
chain_describe(struct mg_proof_certificate *out, const STACK_OF(X509) * chain)
{
    for (int i = 0; i < sk_X509_num(chain); i++) {
        char *subject = name_text(X509_get_subject_name(sk_X509_value(chain, i)));

        if (subject != NULL)
            mg_buf_add(&out->chain, subject, strlen(subject) + 1);
        else
            out->chain.failed = true;
        mg_free(subject);
    }
}

int
mg_proof_describe(struct mg_proof_certificate *out, X509 *x509, const STACK_OF(X509) * chain,
                  struct mg_err *err)
{
    unsigned len = sizeof(out->fingerprint);
    int64_t now = (int64_t)time(NULL);
    const char *file = mg_x509_file(x509);

    key_describe(out, x509);
    names_describe(out, x509);
    chain_describe(out, chain);
    if (file != NULL && (out->file = mg_strdup(file)) == NULL)
        out->names.failed = true;
    out->subject = name_text(X509_get_subject_name(x509));
    out->not_before = time_seconds(X509_get0_notBefore(x509));
    out->not_after = time_seconds(X509_get0_notAfter(x509));
    /* Rounded down, also below zero: what ended an hour ago has -1 days left. */
    out->days_left = (int)((out->not_after - now - (out->not_after < now ? DAY_S - 1 : 0)) / DAY_S);
    X509_digest(x509, EVP_sha256(), out->fingerprint, &len);
    ERR_clear_error();
    if (out->subject == NULL || out->names.failed || out->chain.failed) {
        mg_err_setx(err, "out of memory");
        return -1;
    }
    return 0;
}

#define FILE_TEXT 512

/* " (web.crt)", or "". */
static void
file_text(const struct mg_proof_certificate *c, char out[FILE_TEXT])
{
    out[0] = '\0';
    if (c->file != NULL)
        snprintf(out, FILE_TEXT, " (%s)", c->file);
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
    if (proof->usual == NULL && (proof->usual = X509_STORE_new()) != NULL)
        X509_STORE_set_default_paths(proof->usual); /* reads them when they are first needed */
    ERR_clear_error();
    return store_has_issuer(proof->usual, last);
}

static void
chain_inspect(struct mg_proof *proof, const char *who, X509 *x509, const STACK_OF(X509) * chain,
              SSL_CTX *ctx, const char *file)
{
    X509 *last = x509;
    char *issuer;

    for (int i = 0; i < sk_X509_num(chain); i++) {
        X509 *next = sk_X509_value(chain, i);

        if (!is_issued_by(last, next)) {
            mg_proof_warn(proof,
                          "%s: the chain is out of order: certificate %d of it did not issue "
                          "the one before%s",
                          who, i + 1, file);
            return;
        }
        last = next;
    }
    if (is_issued_by(last, last) || issuer_is_known(proof, last, ctx))
        return;
    issuer = name_text(X509_get_issuer_name(last));
    mg_proof_warn(proof,
                  "%s: the chain is incomplete: the issuer %s is neither sent nor a root that "
                  "is known here%s",
                  who, issuer != NULL ? issuer : "(no memory)", file);
    mg_free(issuer);
}

/* ---- strength -------------------------------------------------------------------------------- */

#define WEAK_BITS 112 /* RSA of 2048 bits, curves of 224 */

static bool
key_is_weak(X509 *x509)
{
    const EVP_PKEY *key = X509_get0_pubkey(x509);

    return key != NULL && EVP_PKEY_get_security_bits(key) < WEAK_BITS;
}

/* The name of a digest that signatures must not use any more, or NULL. What a root has signed itself with
 * says nothing. */
static const char *
weak_digest(X509 *x509)
{
    int digest = NID_undef;

    if (is_issued_by(x509, x509) || X509_get_signature_info(x509, &digest, NULL, NULL, NULL) != 1)
        return NULL;
    return digest == NID_sha1 || digest == NID_md5 || digest == NID_md5_sha1 ? OBJ_nid2sn(digest)
                                                                             : NULL;
}

static void
strength_inspect(struct mg_proof *proof, const char *who, X509 *x509, const char *what,
                 const char *file)
{
    const char *digest = weak_digest(x509);

    if (key_is_weak(x509))
        mg_proof_warn(proof, "%s%s has a weak key (%d bits)%s", who, what,
                      EVP_PKEY_get_bits(X509_get0_pubkey(x509)), file);
    if (digest != NULL)
        mg_proof_warn(proof, "%s%s has a weak signature (%s)%s", who, what, digest, file);
}

void
mg_proof_inspect(struct mg_proof *proof, const struct mg_proof_entry *entry,
                 const struct mg_proof_certificate *certificate, X509 *x509,
                 const STACK_OF(X509) * chain, SSL_CTX *ctx)
{
    char place[MG_PROOF_WHO], who[MG_PROOF_WHO + 256], file[FILE_TEXT], link[64];

    mg_proof_who(entry, place);
    snprintf(who, sizeof(who), "%s: %s certificate %s", place, certificate->type,
             certificate->subject);
    file_text(certificate, file);
    if (certificate->not_before > (int64_t)time(NULL))
        mg_proof_warn(proof, "%s is not valid yet%s", who, file);
    if (certificate->days_left < 0)
        mg_proof_warn(proof, "%s has expired%s", who, file);
    else if (certificate->days_left < SOON_DAYS)
        mg_proof_warn(proof, "%s expires in %d days%s", who, certificate->days_left, file);
    strength_inspect(proof, who, x509, "", file);
    for (int i = 0; i < sk_X509_num(chain); i++) {
        snprintf(link, sizeof(link), ": certificate %d of its chain", i + 1);
        strength_inspect(proof, who, sk_X509_value(chain, i), link, file);
    }
    chain_inspect(proof, who, x509, chain, ctx, file);
}

/* ---- names ---------------------------------------------------------------------------------- */

#define NAMES_SHOWN 20

/* A wildcard stands for one label; of a wildcard that is served only the same one has all members. */
static bool
name_covers(const char *of_certificate, const char *name)
{
    const char *rest = strchr(name, '.');

    return strcasecmp(of_certificate, name) == 0 ||
           (strncmp(of_certificate, "*.", 2) == 0 && rest != NULL &&
            strcasecmp(of_certificate + 1, rest) == 0);
}

static bool
certificate_covers(const struct mg_proof_certificate *c, const char *name)
{
    for (size_t at = 0; at < c->names.len; at += strlen(c->names.data + at) + 1)
        if (name_covers(c->names.data + at, name))
            return true;
    return false;
}

struct uncovered {
    struct mg_buf text; /* the first ones */
    size_t count;
};

static void
uncovered_add(struct uncovered *u, const struct mg_proof_certificate *c, const char *name)
{
    if (strcmp(name, "none") == 0 || strcmp(name, "default") == 0 || certificate_covers(c, name))
        return;
    if (++u->count <= NAMES_SHOWN)
        mg_buf_addf(&u->text, "%s%s", u->count > 1 ? ", " : "", name);
}

/* The names that lead to the certificate and that it does not have; `asked` (or NULL) is the one of `check --sni`. */
static void
uncovered_list(const struct mg_proof_entry *entry, const struct mg_proof_certificate *c,
               const char *asked, struct uncovered *u)
{
    const struct mg_buf *served = &entry->served;

    u->text.len = u->count = 0;
    for (size_t at = 0; at < served->len; at += strlen(served->data + at) + 1) {
        uncovered_add(u, c, served->data + at);
        if (asked != NULL && name_covers(served->data + at, asked))
            asked = NULL; /* it is told of as the name that it matches */
    }
    if (asked != NULL)
        uncovered_add(u, c, asked);
    if (u->count > NAMES_SHOWN)
        mg_buf_addf(&u->text, " and %zu more names", u->count - NAMES_SHOWN);
}

int
mg_proof_cover(struct mg_proof *proof, const struct mg_proof_entry *entry)
{
    char who[MG_PROOF_WHO], file[FILE_TEXT];
    struct uncovered u = {{0}, 0};
    bool failed;

    mg_proof_who(entry, who);
    for (size_t i = 0; i < entry->certificate_count; i++) {
        const struct mg_proof_certificate *c = &entry->certificates[i];

        uncovered_list(entry, c, proof->sni, &u);
        if (u.count == 0 || u.text.failed)
            continue;
        file_text(c, file);
        mg_proof_warn(proof, "%s: %s certificate %s is served under %s, but is not for %s%s", who,
                      c->type, c->subject, u.text.data, u.count > 1 ? "these names" : "this name",
                      file);
    }
    failed = u.text.failed;
    mg_buf_free(&u.text);
    return failed ? -1 : 0;
}

/* One name of one certificate; sorted, those that clash are neighbours. */
struct claim {
    const char *name;
    const struct mg_proof_entry *entry;
    const struct mg_proof_certificate *certificate;
    size_t order; /* in which they came */
};

static int
claim_order(const void *a, const void *b)
{
    const struct claim *x = a, *y = b;
    int order = strcasecmp(x->name, y->name);

    if (order == 0)
        order = strcmp(x->certificate->type, y->certificate->type);
    return order != 0 ? order : x->order < y->order ? -1 : x->order > y->order;
}

static size_t
claims_collect(const struct mg_proof *proof, struct claim *out)
{
    size_t count = 0;

    for (size_t i = 0; i < proof->entry_count; i++) {
        const struct mg_proof_entry *e = &proof->entries[i];

        for (size_t c = 0; c < e->certificate_count && !e->is_chosen; c++) {
            const struct mg_buf *names = &e->certificates[c].names;

            for (size_t at = 0; at < names->len; at += strlen(names->data + at) + 1) {
                if (out != NULL)
                    out[count] = (struct claim){names->data + at, e, &e->certificates[c], count};
                count++;
            }
        }
    }
    return count;
}

static bool
is_same(const struct mg_proof_certificate *a, const struct mg_proof_certificate *b)
{
    return memcmp(a->fingerprint, b->fingerprint, sizeof(a->fingerprint)) == 0;
}

static void
pair_compare(struct mg_proof *proof, const struct claim *a, const struct claim *b)
{
    const char *file_a = a->certificate->file, *file_b = b->certificate->file;

    if (strcasecmp(a->name, b->name) != 0 ||
        strcmp(a->certificate->type, b->certificate->type) != 0 ||
        is_same(a->certificate, b->certificate) || (a->entry->by_name && b->entry->by_name))
        return;
    mg_proof_warn(
        proof, "%slistener %s: %s is also on another %s certificate, that of listener %s%s%s%s%s%s",
        b->entry->where, b->entry->name, b->name, a->certificate->type, a->entry->name,
        file_b != NULL || file_a != NULL ? " (" : "", file_b != NULL ? file_b : "",
        file_b != NULL && file_a != NULL ? " and " : "", file_a != NULL ? file_a : "",
        file_b != NULL || file_a != NULL ? ")" : "");
}

/* Two certificates that have many names in common are mentioned once for each. */
int
mg_proof_compare(struct mg_proof *proof, struct mg_err *err)
{
    size_t count = claims_collect(proof, NULL);
    struct claim *claims = mg_calloc(count > 0 ? count : 1, sizeof(*claims));

    if (claims == NULL) {
        mg_err_setx(err, "out of memory");
        return -1;
    }
    claims_collect(proof, claims);
    qsort(claims, count, sizeof(*claims), claim_order);
    for (size_t i = 1; i < count; i++)
        pair_compare(proof, &claims[i - 1], &claims[i]);
    mg_free(claims);
    return 0;
}

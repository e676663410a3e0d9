/*
 * What the policy in force was proved with, so that at a reload only what has changed is proved again.
 *
 * A context that came through without complaint is remembered by a digest of all that its handshakes
 * depend on, a kind of contexts with what it offers. Both go into the snapshot. What is no handshake,
 * such as dates, is looked at each time.
 */
#include "script/internal.h"

#include <openssl/err.h>
#include <openssl/evp.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIGEST 32

/* ---- digests --------------------------------------------------------------------------------- */

static bool
x509_hash(EVP_MD_CTX *md, const X509 *x509)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len;

    return X509_digest(x509, EVP_sha256(), digest, &len) == 1 &&
           EVP_DigestUpdate(md, digest, len) == 1;
}

static bool
certificates_hash(EVP_MD_CTX *md, SSL_CTX *ctx)
{
    SSL *ssl = SSL_new(ctx);
    bool ok = ssl != NULL;

    for (long which = SSL_CERT_SET_FIRST; ok && SSL_set_current_cert(ssl, which) == 1;
         which = SSL_CERT_SET_NEXT) {
        STACK_OF(X509) *chain = NULL;

        ok = x509_hash(md, SSL_get_certificate(ssl));
        SSL_get0_chain_certs(ssl, &chain);
        for (int i = 0; ok && i < sk_X509_num(chain); i++)
            ok = x509_hash(md, sk_X509_value(chain, i));
    }
    SSL_free(ssl);
    ERR_clear_error();
    return ok;
}

int
mg_proved_digest(struct mg_proof_entry *e, SSL_CTX *ctx, struct mg_err *err)
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    const char *versions = MG_VERSION " " OPENSSL_VERSION_TEXT;
    const char *runs_with = OpenSSL_version(OPENSSL_VERSION);
    bool ok = md != NULL && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
              EVP_DigestUpdate(md, versions, strlen(versions)) == 1 &&
              EVP_DigestUpdate(md, runs_with, strlen(runs_with)) == 1 &&
              EVP_DigestUpdate(md, e->kind, sizeof(e->kind)) == 1 &&
              EVP_DigestUpdate(md, e->digest, sizeof(e->digest)) == 1 &&
              certificates_hash(md, ctx) && EVP_DigestFinal_ex(md, e->proof, NULL) == 1;

    EVP_MD_CTX_free(md);
    if (ok)
        return 0;
    mg_tls_err_take(err, "a context's digest");
    return -1;
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool
record_find(const struct mg_snapshot *snapshot, const char *key, struct mg_span *value)
{
    return snapshot != NULL &&
           mg_snapshot_find(snapshot, MG_RECORD_REPORT, key, strlen(key), value);
}

static int
digest_order(const void *a, const void *b)
{
    return memcmp(a, b, DIGEST);
}

bool
mg_proved_has(const struct mg_proof *proof, const struct mg_proof_entry *e)
{
    struct mg_span value;

    return !e->unique && record_find(proof->before, "proved", &value) &&
           bsearch(e->proof, value.data, value.len / DIGEST, DIGEST, digest_order) != NULL;
}

/* The words of a field up to `end`, each with a NUL. */
static void
words_read(struct mg_buf *out, const char *at, const char *end)
{
    while (at < end) {
        const char *space = memchr(at, ' ', (size_t)(end - at));
        size_t len = (size_t)((space != NULL ? space : end) - at);

        mg_buf_add(out, at, len);
        mg_buf_add(out, "", 1);
        at += len + 1;
    }
}

/* A kind's line is its digest in hex and three fields, with tabs between. */
bool
mg_proved_offer(const struct mg_proof *proof, const struct mg_proof_entry *e,
                struct mg_proof_offer *offer)
{
    struct mg_buf *const fields[] = {&offer->versions, &offer->suites, &offer->groups};
    char key[2 * DIGEST + 2];
    struct mg_span value;
    const char *line, *end;

    if (e->unique || !record_find(proof->before, "kinds", &value))
        return false;
    for (size_t i = 0; i < DIGEST; i++)
        snprintf(key + 2 * i, 3, "%02x", e->kind[i]);
    line = memmem(value.data, value.len, key, 2 * DIGEST);
    if (line == NULL)
        return false;
    end = value.data + value.len;
    line += 2 * DIGEST;
    for (size_t i = 0; i < MG_ARRAY_LEN(fields); i++) {
        const char *stop;

        if (line >= end || *line != '\t')
            return false;
        line++;
        stop = memchr(line, i + 1 < MG_ARRAY_LEN(fields) ? '\t' : '\n', (size_t)(end - line));
        if (stop == NULL)
            return false;
        words_read(fields[i], line, stop);
        line = stop;
    }
    return true;
}

/* ---- writing --------------------------------------------------------------------------------- */

static bool
is_proved(const struct mg_proof_entry *e)
{
    if (e->offer == NULL || e->complained || e->unique || e->certificate_count == 0)
        return false;
    for (size_t i = 0; i < e->certificate_count; i++)
        if (!mg_proof_is_flawless(&e->certificates[i]))
            return false;
    return true;
}

static void
words_write(struct mg_buf *out, const struct mg_buf *list)
{
    mg_buf_adds(out, "\t");
    for (size_t at = 0; at < list->len; at += strlen(list->data + at) + 1)
        mg_buf_addf(out, "%s%s", at > 0 ? " " : "", list->data + at);
}

void
mg_proved_write(const struct mg_proof *proof, struct mg_buf *proved, struct mg_buf *kinds)
{
    for (size_t i = 0; i < proof->entry_count; i++)
        if (is_proved(&proof->entries[i]))
            mg_buf_add(proved, proof->entries[i].proof, DIGEST);
    if (proved->len > 0 && !proved->failed)
        qsort(proved->data, proved->len / DIGEST, DIGEST, digest_order);
    for (size_t i = 0; i < proof->kind_count; i++) {
        const struct mg_proof_kind *kind = proof->kinds[i];

        for (size_t b = 0; b < sizeof(kind->digest); b++)
            mg_buf_addf(kinds, "%02x", kind->digest[b]);
        words_write(kinds, &kind->offer.versions);
        words_write(kinds, &kind->offer.suites);
        words_write(kinds, &kind->offer.groups);
        mg_buf_adds(kinds, "\n");
    }
}

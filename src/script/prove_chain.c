/*
 * Chains that a proof has sent. Most of a handshake's time goes into what the client parses, and all
 * certificates of a CA have one chain: once it has come through with a context of a kind, further
 * contexts of that kind are proved with their own certificate and key alone.
 */
#include "script/internal.h"

#include <openssl/evp.h>

#include <string.h>

static bool
chain_digest(const struct mg_proof_entry *entry, const STACK_OF(X509) * chain,
             unsigned char digest[32])
{
    unsigned char one[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    unsigned len;
    bool ok = md != NULL && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
              EVP_DigestUpdate(md, entry->kind, sizeof(entry->kind)) == 1;

    for (int i = 0; ok && i < sk_X509_num(chain); i++)
        ok = X509_digest(sk_X509_value(chain, i), EVP_sha256(), one, &len) == 1 &&
             EVP_DigestUpdate(md, one, len) == 1;
    ok = ok && EVP_DigestFinal_ex(md, digest, NULL) == 1;
    EVP_MD_CTX_free(md);
    return ok;
}

bool *
mg_proof_chain_find(struct mg_proof *proof, const struct mg_proof_entry *entry, SSL_CTX *ctx,
                    const STACK_OF(X509) * chain)
{
    STACK_OF(X509) *extra = NULL;
    struct mg_proof_chain *one;
    unsigned char digest[32];

    /* Without a chain of the certificate's own, extra_chain_cert would take its place. */
    SSL_CTX_get_extra_chain_certs_only(ctx, &extra);
    if (sk_X509_num(chain) <= 0 || sk_X509_num(extra) > 0 || !chain_digest(entry, chain, digest))
        return NULL;
    for (size_t i = 0; i < proof->chain_count; i++)
        if (memcmp(proof->chains[i].digest, digest, sizeof(digest)) == 0)
            return &proof->chains[i].proved;
    if (proof->chain_count == MG_ARRAY_LEN(proof->chains))
        return NULL;
    one = &proof->chains[proof->chain_count++];
    memcpy(one->digest, digest, sizeof(digest));
    one->proved = false;
    return &one->proved;
}

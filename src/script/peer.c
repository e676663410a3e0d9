/*
 * The other ends of the proof's handshakes: clients and servers that refuse nothing, so that what
 * fails is the doing of the context that is proved. They have throw-away keys and certificates of
 * their own where one is wanted.
 */
#include "script/internal.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>

#include <string.h>

#define ANY_CIPHER "ALL:!aNULL:@SECLEVEL=0"
#define DAY_S      86400

/* What a peer offers that can use only one kind of certificate. */
static const char *
sigalgs_of(const char *type)
{
    static const char *const table[][2] = {
        {"RSA", "RSA+SHA256:RSA+SHA384:RSA+SHA512:"
                "rsa_pss_rsae_sha256:rsa_pss_rsae_sha384:rsa_pss_rsae_sha512"},
        {"RSA-PSS", "rsa_pss_pss_sha256:rsa_pss_pss_sha384:rsa_pss_pss_sha512"},
        {"EC", "ECDSA+SHA256:ECDSA+SHA384:ECDSA+SHA512"},
        {"ED25519", "ed25519"},
        {"ED448", "ed448"},
    };

    for (size_t i = 0; i < MG_ARRAY_LEN(table); i++) {
        if (strcmp(table[i][0], type) == 0)
            return table[i][1];
    }
    return NULL;
}

bool
mg_peer_limit(SSL_CTX *ctx, int version)
{
    return SSL_CTX_set_min_proto_version(ctx, version) == 1 &&
           SSL_CTX_set_max_proto_version(ctx, version) == 1;
}

SSL_CTX *
mg_peer_client(const char *type, int version)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    const char *sigalgs = sigalgs_of(type);

    if (ctx == NULL)
        return NULL;
    SSL_CTX_set_security_level(ctx, 0);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, NULL);
    if (mg_peer_limit(ctx, version) && SSL_CTX_set_cipher_list(ctx, ANY_CIPHER) == 1 &&
        (sigalgs == NULL || SSL_CTX_set1_sigalgs_list(ctx, (char *)(uintptr_t)sigalgs) == 1))
        return ctx;
    SSL_CTX_free(ctx);
    return NULL;
}

/* ---- certificates --------------------------------------------------------------------------- */

/* Self-signed. */
static X509 *
certificate_make(EVP_PKEY *key)
{
    X509 *x509 = X509_new();
    X509_NAME *name;

    if (x509 == NULL)
        return NULL;
    name = X509_get_subject_name(x509);
    if (X509_set_version(x509, X509_VERSION_3) == 1 &&
        ASN1_INTEGER_set(X509_get_serialNumber(x509), 1) == 1 &&
        X509_gmtime_adj(X509_getm_notBefore(x509), -DAY_S) != NULL &&
        X509_gmtime_adj(X509_getm_notAfter(x509), DAY_S) != NULL &&
        X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"proof", -1, -1,
                                   0) == 1 &&
        X509_set_issuer_name(x509, name) == 1 && X509_set_pubkey(x509, key) == 1 &&
        X509_sign(x509, key, EVP_sha256()) > 0)
        return x509;
    X509_free(x509);
    return NULL;
}

/* Gives ctx the key, which becomes its own, and a certificate for it. */
static bool
identity_use(SSL_CTX *ctx, EVP_PKEY *key)
{
    X509 *x509 = key != NULL ? certificate_make(key) : NULL;
    bool ok = x509 != NULL && SSL_CTX_use_certificate(ctx, x509) == 1 &&
              SSL_CTX_use_PrivateKey(ctx, key) == 1;

    X509_free(x509);
    EVP_PKEY_free(key);
    return ok;
}

bool
mg_peer_identify(SSL_CTX *ctx)
{
    return identity_use(ctx, EVP_EC_gen("P-256"));
}

static int
on_verify_any(int ok, X509_STORE_CTX *store)
{
    (void)ok;
    (void)store;
    return 1;
}

SSL_CTX *
mg_peer_server(void)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

    if (ctx == NULL)
        return NULL;
    SSL_CTX_set_security_level(ctx, 0);
    SSL_CTX_set_dh_auto(ctx, 1);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER,
                       on_verify_any); /* a client's own certificate is used too */
    if (SSL_CTX_set_cipher_list(ctx, ANY_CIPHER) == 1 && identity_use(ctx, EVP_RSA_gen(2048)) &&
        mg_peer_identify(ctx))
        return ctx;
    SSL_CTX_free(ctx);
    return NULL;
}

/*
 * pem: certificates, keys and CRLs that are parsed once. Thousands of certificates come with each reload, or CRLs
 * with thousands of entries, most of them unchanged, and all of a CA's have the same chain: what was parsed is kept
 * under the SHA-256 of its encoding and shared, within a run of a script and with the next one.
 *
 * The cache is the process's. It holds one reference to each object; a run that ends well forgets
 * what it has not asked for, so that it never holds more than two runs need. Objects are not changed
 * once they are in it: scripts get them frozen.
 *
 * Possible failure modes are: the text is not PEM, or something in it cannot be read (the caller's
 * slower way says why).
 */
#include "openssl/internal.h"

#include <openssl/decoder.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <pthread.h>
#include <string.h>

#define DIGEST_LEN 32

struct entry {
    struct entry *next; /* in its bucket */
    unsigned char digest[DIGEST_LEN];
    X509 *x509; /* one of the three; one reference */
    EVP_PKEY *key;
    X509_CRL *crl;
    struct mg_crl_memo *memo; /* of crl, whose method data it is as long as the entry lives */
    unsigned run;             /* the last one that asked for it */
};

static struct {
    pthread_mutex_t
        mutex; /* of all below: a run and the end of another may be on different threads */
    struct entry **buckets; /* owned; a power of two */
    size_t bucket_count, count;
    unsigned run;
    struct mg_pem_counts counts; /* of this run */
    OSSL_DECODER_CTX *decoder; /* of unencrypted PKCS#8: to make one takes longer than to use it */
    EVP_PKEY *decoded;         /* where that puts its result */
} cache = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* ---- the cache: with the mutex held ---------------------------------------------------------- */

static size_t
bucket_of(const unsigned char digest[DIGEST_LEN], size_t bucket_count)
{
    size_t hash;
    memcpy(&hash, digest, sizeof(hash));
    return hash & (bucket_count - 1);
}

static struct entry *
entry_find(const unsigned char digest[DIGEST_LEN])
{
    struct entry *entry = NULL;
    if (cache.bucket_count > 0)
        entry = cache.buckets[bucket_of(digest, cache.bucket_count)];
    while (entry && memcmp(entry->digest, digest, DIGEST_LEN) != 0)
        entry = entry->next;
    if (entry) {
        entry->run = cache.run;
        cache.counts.known++;
    } else {
        cache.counts.parsed++;
    }
    return entry;
}

static int
buckets_grow(void)
{
    size_t count = cache.bucket_count > 0 ? 2 * cache.bucket_count : 64;
    struct entry **buckets = mg_calloc(count, sizeof(struct entry *));
    if (!buckets)
        return -1;
    for (size_t i = 0; i < cache.bucket_count; i++) {
        struct entry *next;
        for (struct entry *entry = cache.buckets[i]; entry; entry = next) {
            struct entry **bucket = &buckets[bucket_of(entry->digest, count)];
            next = entry->next;
            entry->next = *bucket;
            *bucket = entry;
        }
    }
    mg_free(cache.buckets);
    cache.buckets = buckets;
    cache.bucket_count = count;
    return 0;
}

/* The caller puts its object in, with a reference. NULL: there is no memory, it is not kept, that is all. */
static struct entry *
entry_add(const unsigned char digest[DIGEST_LEN])
{
    if (cache.count >= cache.bucket_count && buckets_grow() < 0)
        return NULL;
    struct entry *entry = mg_calloc(1, sizeof(*entry));
    if (!entry)
        return NULL;
    struct entry **bucket = &cache.buckets[bucket_of(digest, cache.bucket_count)];
    memcpy(entry->digest, digest, DIGEST_LEN);
    entry->run = cache.run;
    entry->next = *bucket;
    *bucket = entry;
    cache.count++;
    return entry;
}

void
mg_pem_run_begin(void)
{
    pthread_mutex_lock(&cache.mutex);
    cache.run++;
    cache.counts = (struct mg_pem_counts){0};
    pthread_mutex_unlock(&cache.mutex);
}

struct mg_pem_counts
mg_pem_run_end(void)
{
    pthread_mutex_lock(&cache.mutex);
    struct mg_pem_counts counts = cache.counts;
    for (size_t i = 0; i < cache.bucket_count; i++) {
        struct entry **at = &cache.buckets[i];
        while (*at) {
            struct entry *entry = *at;
            if (entry->run == cache.run) {
                at = &entry->next;
                continue;
            }
            *at = entry->next;
            X509_free(entry->x509);
            EVP_PKEY_free(entry->key);
            if (entry->crl)
                X509_CRL_set_meth_data(entry->crl, NULL);
            X509_CRL_free(entry->crl);
            mg_crl_memo_unref(entry->memo);
            mg_free(entry);
            cache.count--;
        }
    }
    pthread_mutex_unlock(&cache.mutex);
    return counts;
}

/* ---- one object ------------------------------------------------------------------------------ */

/* The certificate of an encoding, with a reference; NULL: it is none. */
static X509 *
x509_get(const unsigned char *der, long len)
{
    unsigned char digest[DIGEST_LEN];
    const unsigned char *at = der;
    if (EVP_Digest(der, (size_t)len, digest, NULL, EVP_sha256(), NULL) != 1)
        return NULL;
    pthread_mutex_lock(&cache.mutex);
    struct entry *entry = entry_find(digest);
    X509 *x509 = entry ? entry->x509 : NULL;
    if (x509)
        X509_up_ref(x509);
    else if ((x509 = d2i_X509(NULL, &at, len)) != NULL) {
        X509_check_purpose(x509, -1, 0); /* parses extensions, which are kept as long: next to it */
        entry = entry_add(digest);
        if (entry && X509_up_ref(x509) == 1)
            entry->x509 = x509;
    }
    pthread_mutex_unlock(&cache.mutex);
    return x509;
}

/* As PKCS#8 by the kept decoder, else, and whatever else it is, by a new one. */
static EVP_PKEY *
key_decode(const unsigned char *der, long len, bool pkcs8)
{
    const unsigned char *at = der;
    size_t left = (size_t)len;
    if (pkcs8 && !cache.decoder)
        cache.decoder = OSSL_DECODER_CTX_new_for_pkey(&cache.decoded, "DER", "PrivateKeyInfo", NULL,
                                                      EVP_PKEY_KEYPAIR, NULL, NULL);
    cache.decoded = NULL;
    if (pkcs8 && cache.decoder && OSSL_DECODER_from_data(cache.decoder, &at, &left) == 1 &&
        cache.decoded)
        return cache.decoded;
    EVP_PKEY_free(cache.decoded);
    OSSL_DECODER_CTX_free(cache.decoder); /* one that has failed is not used again */
    cache.decoder = NULL;
    at = der;
    return d2i_AutoPrivateKey(NULL, &at, len);
}

static EVP_PKEY *
key_get(const unsigned char *der, long len, bool pkcs8)
{
    unsigned char digest[DIGEST_LEN];
    if (EVP_Digest(der, (size_t)len, digest, NULL, EVP_sha256(), NULL) != 1)
        return NULL;
    pthread_mutex_lock(&cache.mutex);
    struct entry *entry = entry_find(digest);
    EVP_PKEY *key = entry ? entry->key : NULL;
    if (key)
        EVP_PKEY_up_ref(key);
    else if ((key = key_decode(der, len, pkcs8)) != NULL) {
        entry = entry_add(digest);
        if (entry && EVP_PKEY_up_ref(key) == 1)
            entry->key = key;
    }
    pthread_mutex_unlock(&cache.mutex);
    return key;
}

X509_CRL *
mg_pem_crl(const unsigned char *der, long len)
{
    unsigned char digest[DIGEST_LEN];
    const unsigned char *at = der;
    X509_REVOKED *ignored;
    if (EVP_Digest(der, (size_t)len, digest, NULL, EVP_sha256(), NULL) != 1)
        return NULL;
    pthread_mutex_lock(&cache.mutex);
    struct entry *entry = entry_find(digest);
    X509_CRL *crl = entry ? entry->crl : NULL;
    if (crl)
        X509_CRL_up_ref(crl);
    else if ((crl = d2i_X509_CRL(NULL, &at, len)) != NULL && at != der + len) {
        X509_CRL_free(crl);
        crl = NULL;
        ERR_raise(ERR_LIB_ASN1, ASN1_R_TOO_LONG);
    }
    if (crl && !entry) {
        ASN1_INTEGER *none = ASN1_INTEGER_new();
        if (none)
            X509_CRL_get0_by_serial(crl, &ignored,
                                    none); /* sorts, else the first handshake would */
        ASN1_INTEGER_free(none);
        entry = entry_add(digest);
        if (entry && X509_CRL_up_ref(crl) == 1) {
            entry->crl = crl;
            entry->memo = mg_crl_memo_new(digest);
            X509_CRL_set_meth_data(crl, entry->memo); /* OpenSSL's own method has none */
        }
    }
    pthread_mutex_unlock(&cache.mutex);
    return crl;
}

struct mg_crl_memo *
mg_pem_crl_memo(X509_CRL *crl)
{
    pthread_mutex_lock(&cache.mutex);
    struct mg_crl_memo *memo = mg_crl_memo_ref(X509_CRL_get_meth_data(crl));
    pthread_mutex_unlock(&cache.mutex);
    return memo;
}

/* ---- a text ---------------------------------------------------------------------------------- */

static void
x509_stack_free(void *stack)
{
    sk_X509_pop_free((STACK_OF(X509) *)stack, X509_free);
}

static void
pkey_free(void *key)
{
    EVP_PKEY_free(key);
}

struct pem {
    STACK_OF(X509) * certs;
    struct mg_box *key; /* the first one */
    bool is_encrypted;  /* a key is there that needs a passphrase */
};

static bool
is_certificate(const char *name)
{
    return strcmp(name, PEM_STRING_X509) == 0 || strcmp(name, PEM_STRING_X509_OLD) == 0;
}

static bool
is_key(const char *name)
{
    size_t len = strlen(name), suffix = strlen(PEM_STRING_PKCS8INF);
    return len >= suffix && strcmp(name + len - suffix, PEM_STRING_PKCS8INF) == 0;
}

/* One block; false: it cannot be read. */
static bool
block_take(struct pem *pem, const char *name, const char *header, const unsigned char *data,
           long len)
{
    if (is_certificate(name)) {
        X509 *x509 = x509_get(data, len);
        if (x509 && sk_X509_push(pem->certs, x509) > 0)
            return true;
        X509_free(x509);
        return false;
    }
    if (!is_key(name) || pem->key->ptr)
        return true;
    if (header[0] != '\0' || strcmp(name, PEM_STRING_PKCS8) == 0) {
        pem->is_encrypted = true;
        return true;
    }
    pem->key->ptr = key_get(data, len, strcmp(name, PEM_STRING_PKCS8INF) == 0);
    return pem->key->ptr != NULL;
}

/* All blocks of the text; false: it has none, or one that cannot be read. Does not raise. */
static bool
text_take(struct pem *pem, BIO *bio)
{
    bool ok = true, any = false;
    while (ok) {
        char *name = NULL, *header = NULL;
        unsigned char *data = NULL;
        long len;
        if (PEM_read_bio(bio, &name, &header, &data, &len) != 1)
            break;
        ok = block_take(pem, name, header, data, len);
        any = true;
        OPENSSL_free(name);
        OPENSSL_free(header);
        OPENSSL_clear_free(data, (size_t)len);
    }
    unsigned long last = ERR_peek_last_error();
    return ok && any && ERR_GET_LIB(last) == ERR_LIB_PEM &&
           ERR_GET_REASON(last) == PEM_R_NO_START_LINE;
}

bool
mg_pem_push(lua_State *L, const char *data, size_t len)
{
    int top = lua_gettop(L);
    struct pem pem = {.is_encrypted = false};
    luaL_checkstack(L, 8, NULL);
    BIO *bio = mg_box_push_bio(L, data, len);
    struct mg_box *certs = mg_box_push(L, x509_stack_free);
    pem.certs = certs->ptr = sk_X509_new_null();
    pem.key = mg_box_push(L, pkey_free);
    ERR_clear_error();
    bool ok = pem.certs && text_take(&pem, bio);
    ERR_clear_error();
    mg_box_free(lua_touserdata(L, top + 1));
    if (!ok)
        return lua_settop(L, top), false;
    mg_lua_push_x509_list(L, pem.certs);
    if (pem.key->ptr)
        mg_lua_push_pkey(L, pem.key->ptr);
    else if (pem.is_encrypted)
        lua_pushboolean(L, false);
    else
        lua_pushnil(L);
    mg_box_free(certs);
    mg_box_free(pem.key);
    lua_rotate(L, top + 1, 2);
    lua_settop(L, top + 2);
    return true;
}

/*
 * Session tickets without state: their keys follow from a secret and the clock.
 *
 * Time is cut into periods of `rotation_s`. The key of the current period encrypts; those of the
 * previous and the next one decrypt as well, so that neither a ticket taken just before the turn
 * nor a machine whose clock is a little ahead costs a full handshake. With two secrets the current
 * one encrypts and both decrypt, so that a fleet can change its secret one machine after the other.
 *
 * The derived keys of three periods are kept and made again when the period turns. They and the
 * secrets belong to the SSL_CTX (ex data) and are wiped with it. Handshakes of one context may be on
 * several threads, so what changes is under a lock, and what one of them uses is a copy.
 */
#include "tls/internal.h"

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#define SECRETS 2 /* current, previous */
#define PERIODS 3 /* current, previous, next */

static const char label[] = "moongate ticket";

struct ticket_key {
    unsigned char name[16];
    unsigned char cipher[32];
    unsigned char mac[32];
    bool known;
};

struct ticket_keys {
    unsigned char *secret[SECRETS]; /* owned; [1] may be NULL */
    size_t secret_len[SECRETS];
    unsigned rotation_s;
    pthread_mutex_t mutex; /* of all below */
    uint64_t period;       /* the one that key[][0] is for */
    bool derived;
    struct ticket_key key[SECRETS][PERIODS];
};

static int keys_index = -1;
static pthread_once_t index_once = PTHREAD_ONCE_INIT;

static void
keys_free(struct ticket_keys *keys)
{
    if (keys == NULL)
        return;
    for (int i = 0; i < SECRETS; i++)
        mg_free_secret(keys->secret[i], keys->secret_len[i]);
    pthread_mutex_destroy(&keys->mutex);
    mg_free_secret(keys, sizeof(*keys));
}

static void
on_ctx_free(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    (void)parent;
    (void)ad;
    (void)idx;
    (void)argl;
    (void)argp;
    keys_free(ptr);
}

static void
index_make(void)
{
    keys_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, on_ctx_free);
}

static int
secret_copy(struct ticket_keys *keys, int which, const void *secret, size_t len)
{
    if (secret == NULL)
        return 0;
    keys->secret[which] = mg_malloc(len);
    if (keys->secret[which] == NULL)
        return -1;
    memcpy(keys->secret[which], secret, len);
    keys->secret_len[which] = len;
    return 0;
}

/* ---- derivation ------------------------------------------------------------------------------ */

static bool
key_derive(EVP_KDF *kdf, unsigned char *secret, size_t len, uint64_t period, struct ticket_key *key)
{
    unsigned char info[sizeof(label) - 1 + 8], out[80];
    char digest[] = "SHA256";
    EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, secret, len),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, sizeof(info)),
        OSSL_PARAM_construct_end(),
    };

    memcpy(info, label, sizeof(label) - 1);
    for (int i = 0; i < 8; i++)
        info[sizeof(label) - 1 + i] = (unsigned char)(period >> (56 - 8 * i));
    key->known = ctx != NULL && EVP_KDF_derive(ctx, out, sizeof(out), params) == 1;
    EVP_KDF_CTX_free(ctx);
    if (key->known) {
        memcpy(key->name, out, 16);
        memcpy(key->cipher, out + 16, 32);
        memcpy(key->mac, out + 48, 32);
    }
    mg_wipe(out, sizeof(out));
    return key->known;
}

/* Brings the keys up to the clock. A key that could not be derived is not known and never matches.
 */
static void
keys_update(struct ticket_keys *keys)
{
    uint64_t period = (uint64_t)time(NULL) / keys->rotation_s;
    const uint64_t of[PERIODS] = {period, period - 1, period + 1};
    EVP_KDF *kdf;

    if (keys->derived && keys->period == period)
        return;
    kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    keys->derived = kdf != NULL;
    keys->period = period;
    for (int s = 0; s < SECRETS; s++) {
        for (int p = 0; p < PERIODS; p++) {
            keys->key[s][p].known = false;
            if (kdf != NULL && keys->secret[s] != NULL &&
                !key_derive(kdf, keys->secret[s], keys->secret_len[s], of[p], &keys->key[s][p]))
                keys->derived = false;
        }
    }
    EVP_KDF_free(kdf);
}

/* ---- libssl's question ----------------------------------------------------------------------- */

static bool
mac_init(EVP_MAC_CTX *mac, struct ticket_key *key)
{
    char digest[] = "SHA256";
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key->mac, sizeof(key->mac)),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end(),
    };

    return EVP_MAC_CTX_set_params(mac, params) == 1;
}

/* The key that encrypts now. */
static bool
key_current(struct ticket_keys *keys, struct ticket_key *out)
{
    pthread_mutex_lock(&keys->mutex);
    keys_update(keys);
    *out = keys->key[0][0];
    pthread_mutex_unlock(&keys->mutex);
    return out->known;
}

/* The key of that name; *current: it is the one that encrypts now. */
static bool
key_find(struct ticket_keys *keys, const unsigned char name[16], struct ticket_key *out,
         bool *current)
{
    bool found = false;

    pthread_mutex_lock(&keys->mutex);
    keys_update(keys);
    for (int i = 0; i < SECRETS * PERIODS && !found; i++) {
        const struct ticket_key *key = &keys->key[i / PERIODS][i % PERIODS];

        found = key->known && memcmp(name, key->name, sizeof(key->name)) == 0;
        if (found) {
            *out = *key;
            *current = i == 0;
        }
    }
    pthread_mutex_unlock(&keys->mutex);
    return found;
}

/* 1: sealed; 0: no ticket this time. */
static int
ticket_seal(struct ticket_keys *keys, unsigned char name[16], unsigned char *iv,
            EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac)
{
    struct ticket_key key;
    int sealed = 0;

    if (key_current(keys, &key) &&
        RAND_bytes(iv, EVP_CIPHER_get_iv_length(mg_tls_aes_256_cbc())) == 1) {
        memcpy(name, key.name, sizeof(key.name));
        sealed = EVP_EncryptInit_ex2(cipher, mg_tls_aes_256_cbc(), key.cipher, iv, NULL) == 1 &&
                 mac_init(mac, &key);
    }
    mg_wipe(&key, sizeof(key));
    return sealed;
}

/* 1: opened with the current key; 2: with another, so the client gets a new one; 0: not ours. */
static int
ticket_open(struct ticket_keys *keys, const unsigned char name[16], const unsigned char *iv,
            EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac)
{
    struct ticket_key key;
    bool current, opened;

    if (!key_find(keys, name, &key, &current))
        return 0;
    opened = EVP_DecryptInit_ex2(cipher, mg_tls_aes_256_cbc(), key.cipher, iv, NULL) == 1 &&
             mac_init(mac, &key);
    mg_wipe(&key, sizeof(key));
    if (!opened)
        return -1;
    return current ? 1 : 2;
}

static int
on_ticket(SSL *ssl, unsigned char name[16], unsigned char *iv, EVP_CIPHER_CTX *cipher,
          EVP_MAC_CTX *mac, int seal)
{
    struct ticket_keys *keys = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), keys_index);

    if (keys == NULL)
        return 0;
    return seal ? ticket_seal(keys, name, iv, cipher, mac)
                : ticket_open(keys, name, iv, cipher, mac);
}

int
mg_tls_ticket_setup(SSL_CTX *ctx, const void *secret, size_t secret_len, const void *previous,
                    size_t previous_len, unsigned rotation_s, struct mg_err *err)
{
    struct ticket_keys *keys;

    if (secret_len == 0 || rotation_s == 0) {
        mg_err_setx(err, "ticket keys need a secret and a rotation of at least a second");
        return -1;
    }
    pthread_once(&index_once, index_make);
    keys = mg_calloc(1, sizeof(*keys));
    if (keys == NULL || pthread_mutex_init(&keys->mutex, NULL) != 0) {
        mg_free(keys);
        keys = NULL;
        goto no_memory;
    }
    if (keys_index < 0)
        goto no_memory;
    keys->rotation_s = rotation_s;
    if (secret_copy(keys, 0, secret, secret_len) != 0 ||
        secret_copy(keys, 1, previous, previous_len) != 0)
        goto no_memory;
    keys_free(SSL_CTX_get_ex_data(ctx, keys_index));
    if (!SSL_CTX_set_ex_data(ctx, keys_index, keys)) {
        SSL_CTX_set_ex_data(ctx, keys_index, NULL);
        goto no_memory;
    }
    SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, on_ticket);
    return 0;

no_memory:
    keys_free(keys);
    ERR_clear_error();
    mg_err_setx(err, "ticket keys: out of memory");
    return -1;
}

int
mg_tls_ticket_share(SSL_CTX *ctx, const SSL_CTX *from, struct mg_err *err)
{
    const struct ticket_keys *keys = keys_index < 0 ? NULL : SSL_CTX_get_ex_data(from, keys_index);

    if (keys == NULL || SSL_CTX_get_ex_data(ctx, keys_index) != NULL)
        return 0;
    return mg_tls_ticket_setup(ctx, keys->secret[0], keys->secret_len[0], keys->secret[1],
                               keys->secret_len[1], keys->rotation_s, err);
}

int64_t
mg_tls_session_time(const SSL_SESSION *session)
{
#ifdef MG_HAVE_SSL_SESSION_TIME_EX
    return (int64_t)SSL_SESSION_get_time_ex(session);
#else
    return (int64_t)SSL_SESSION_get_time(session);
#endif
}

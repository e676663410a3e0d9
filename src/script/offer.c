/*
 * What clients can really get from a context: each version, suite and group is tried by a handshake with
 * a client that can do nothing else, because what is left of a list after security level, versions
 * and certificates only libssl knows. Contexts of one kind are tried once.
 */
#include "script/internal.h"

#include <openssl/err.h>
#include <openssl/evp.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* So many contexts of a kind are proved with all that there is; more would only cost time. */
#define PROVED_WELL 16

static const struct {
    int number;
    const char *id;
} all_versions[] = {
    {TLS1_VERSION, "TLSv1"},
    {TLS1_1_VERSION, "TLSv1.1"},
    {TLS1_2_VERSION, "TLSv1.2"},
    {TLS1_3_VERSION, "TLSv1.3"},
};

/* What this OpenSSL does not know is left out. */
static const char *const all_groups[] = {
    "X25519MLKEM768",
    "SecP256r1MLKEM768",
    "SecP384r1MLKEM1024",
    "X25519",
    "X448",
    "P-256",
    "P-384",
    "P-521",
    "brainpoolP256r1tls13",
    "brainpoolP384r1tls13",
    "brainpoolP512r1tls13",
    "ffdhe2048",
    "ffdhe3072",
    "ffdhe4096",
};

/* ---- kinds ----------------------------------------------------------------------------------- */

static void
number_add(struct mg_buf *out, long long number)
{
    mg_buf_addf(out, "%lld,", number);
}

/* The kinds and sizes of the keys, in the order in which libssl has them. */
static void
keys_add(struct mg_buf *out, SSL_CTX *ctx)
{
    SSL *ssl = SSL_new(ctx);

    for (long which = SSL_CERT_SET_FIRST; ssl != NULL && SSL_set_current_cert(ssl, which) == 1;
         which = SSL_CERT_SET_NEXT) {
        const EVP_PKEY *key = X509_get0_pubkey(SSL_get_certificate(ssl));

        if (key != NULL)
            mg_buf_addf(out, "%s %d,", EVP_PKEY_get0_type_name(key), EVP_PKEY_get_bits(key));
    }
    SSL_free(ssl);
    ERR_clear_error();
}

void
mg_proof_kind(lua_State *L, struct mg_proof_entry *entry, SSL_CTX *ctx)
{
    static const char *const texts[] = {"groups", "sigalgs", "client_sigalgs"};
    const STACK_OF(SSL_CIPHER) *ciphers = SSL_CTX_get_ciphers(ctx);
    int context = lua_gettop(L);
    struct mg_buf *out = mg_bytes_push(L);

    for (int i = 0; i < sk_SSL_CIPHER_num(ciphers); i++)
        number_add(out, SSL_CIPHER_get_id(sk_SSL_CIPHER_value(ciphers, i)));
    number_add(out, (long long)SSL_CTX_get_options(ctx));
    number_add(out, SSL_CTX_get_min_proto_version(ctx));
    number_add(out, SSL_CTX_get_max_proto_version(ctx));
    number_add(out, SSL_CTX_get_security_level(ctx));
    number_add(out, SSL_CTX_get_verify_mode(ctx));
    for (size_t i = 0; i < MG_ARRAY_LEN(texts); i++) {
        lua_getfield(L, context, texts[i]);
        mg_buf_addf(out, "%s,", luaL_tolstring(L, -1, NULL));
        lua_pop(L, 2);
    }
    /* Parameters of its own are not looked into: such a context is a kind of its own. */
    if (lua_getfield(L, context, "tmp_dh") != LUA_TNIL ||
        lua_getfield(L, context, "tmp_dh_callback") != LUA_TNIL)
        entry->unique = true;
    keys_add(out, ctx);
    mg_buf_add(out, entry->alpn.data, entry->alpn.len);
    if (out->failed || EVP_Digest(out->data, out->len, entry->kind, NULL, EVP_sha256(), NULL) != 1)
        luaL_error(L, "out of memory");
    lua_settop(L, context);
}

static int
kind_order(const void *key, const void *member)
{
    const struct mg_proof_kind *const *kind = member;

    return memcmp(key, (*kind)->digest, sizeof((*kind)->digest));
}

static struct mg_proof_kind *
kind_find(const struct mg_proof *proof, const unsigned char digest[32])
{
    struct mg_proof_kind **found = proof->kind_count == 0
                                       ? NULL
                                       : bsearch(digest, proof->kinds, proof->kind_count,
                                                 sizeof(struct mg_proof_kind *), kind_order);

    return found != NULL ? *found : NULL;
}

/* NULL: no memory. */
static struct mg_proof_kind *
kind_add(struct mg_proof *proof, const unsigned char digest[32])
{
    struct mg_proof_kind *kind = mg_calloc(1, sizeof(*kind));
    struct mg_proof_kind **grown =
        kind != NULL
            ? mg_realloc(proof->kinds, (proof->kind_count + 1) * sizeof(struct mg_proof_kind *))
            : NULL;
    size_t at = proof->kind_count;

    if (grown == NULL) {
        mg_free(kind);
        return NULL;
    }
    memcpy(kind->digest, digest, sizeof(kind->digest));
    proof->kinds = grown;
    for (; at > 0 && memcmp(digest, grown[at - 1]->digest, sizeof(kind->digest)) < 0; at--)
        grown[at] = grown[at - 1];
    grown[at] = kind;
    proof->kind_count++;
    return kind;
}

void
mg_proof_kinds_free(struct mg_proof *proof)
{
    for (size_t i = 0; i < proof->kind_count; i++) {
        mg_buf_free(&proof->kinds[i]->offer.versions);
        mg_buf_free(&proof->kinds[i]->offer.suites);
        mg_buf_free(&proof->kinds[i]->offer.groups);
        mg_free(proof->kinds[i]);
    }
    mg_free(proof->kinds);
}

/* ---- trying ---------------------------------------------------------------------------------- */

/* Whether the server answers this client; how the handshake ends is not asked. */
static bool
is_answered(SSL_CTX *server, SSL_CTX *client, struct mg_err *err, int *status)
{
    struct mg_memory_handshake hs = {.server = server, .client = client};

    *status = mg_memory_handshake(&hs, err);
    X509_free(hs.server_cert);
    return *status == 0 && hs.cipher[0] != '\0';
}

static void
text_add(struct mg_buf *list, const char *text)
{
    mg_buf_add(list, text, strlen(text) + 1);
}

static bool
list_has(const struct mg_buf *list, const char *text)
{
    for (size_t at = 0; at < list->len; at += strlen(list->data + at) + 1)
        if (strcmp(list->data + at, text) == 0)
            return true;
    return false;
}

static int
versions_try(struct mg_proof_offer *offer, SSL_CTX *ctx, SSL_CTX *client, struct mg_err *err)
{
    int status = 0;

    for (size_t i = 0; i < MG_ARRAY_LEN(all_versions) && status == 0; i++) {
        if (mg_peer_limit(client, all_versions[i].number) && is_answered(ctx, client, err, &status))
            text_add(&offer->versions, all_versions[i].id);
    }
    return status;
}

/* Under the latest version that has the suite and is offered at all. */
static bool
suite_limit(const struct mg_proof_offer *offer, SSL_CTX *client, const SSL_CIPHER *cipher)
{
    const char *name = SSL_CIPHER_get_name(cipher);
    char list[160];

    if (strcmp(SSL_CIPHER_get_version(cipher), "TLSv1.3") == 0)
        return list_has(&offer->versions, "TLSv1.3") && mg_peer_limit(client, TLS1_3_VERSION) &&
               SSL_CTX_set_ciphersuites(client, name) == 1;
    snprintf(list, sizeof(list), "%s:@SECLEVEL=0", name);
    return SSL_CTX_set_min_proto_version(client, TLS1_VERSION) == 1 &&
           SSL_CTX_set_max_proto_version(client, TLS1_2_VERSION) == 1 &&
           SSL_CTX_set_cipher_list(client, list) == 1;
}

static int
suites_try(struct mg_proof_offer *offer, SSL_CTX *ctx, SSL_CTX *client, struct mg_err *err)
{
    const STACK_OF(SSL_CIPHER) *ciphers = SSL_CTX_get_ciphers(ctx);
    int status = 0;

    for (int i = 0; i < sk_SSL_CIPHER_num(ciphers) && status == 0; i++) {
        const SSL_CIPHER *cipher = sk_SSL_CIPHER_value(ciphers, i);

        if (suite_limit(offer, client, cipher) && is_answered(ctx, client, err, &status))
            text_add(&offer->suites, SSL_CIPHER_get_name(cipher));
    }
    return status;
}

static int
groups_try(struct mg_proof_offer *offer, SSL_CTX *ctx, SSL_CTX *client, struct mg_err *err)
{
    bool modern = list_has(&offer->versions, "TLSv1.3");
    int status = 0;

    if (!mg_peer_limit(client, modern ? TLS1_3_VERSION : TLS1_2_VERSION) ||
        SSL_CTX_set_cipher_list(client, "kECDHE:@SECLEVEL=0") != 1)
        return 0;
    for (size_t i = 0; i < MG_ARRAY_LEN(all_groups) && status == 0; i++) {
        if (SSL_CTX_set1_groups_list(client, (char *)(uintptr_t)all_groups[i]) == 1 &&
            is_answered(ctx, client, err, &status))
            text_add(&offer->groups, all_groups[i]);
        ERR_clear_error();
    }
    return status;
}

static int
offer_try(struct mg_proof_offer *offer, SSL_CTX *ctx, struct mg_err *err)
{
    int (*const tries[])(struct mg_proof_offer *, SSL_CTX *, SSL_CTX *,
                         struct mg_err *) = {versions_try, suites_try, groups_try};
    int status = 0;

    for (size_t i = 0; i < MG_ARRAY_LEN(tries) && status == 0; i++) {
        SSL_CTX *client = mg_peer_client("", TLS1_2_VERSION);

        if (client == NULL) {
            mg_tls_err_take(err, "a client for the proof");
            return -1;
        }
        status = tries[i](offer, ctx, client, err);
        SSL_CTX_free(client);
    }
    ERR_clear_error();
    if (status == 0 && (offer->versions.failed || offer->suites.failed || offer->groups.failed)) {
        mg_err_setx(err, "out of memory");
        status = -1;
    }
    return status;
}

int
mg_proof_offer(struct mg_proof *proof, struct mg_proof_entry *entry, SSL_CTX *ctx, bool *known,
               struct mg_err *err)
{
    struct mg_proof_kind *kind = entry->unique ? NULL : kind_find(proof, entry->kind);

    *known = kind != NULL && kind->proved >= PROVED_WELL;
    if (kind == NULL) {
        kind = kind_add(proof, entry->kind);
        if (kind == NULL) {
            mg_err_setx(err, "out of memory");
            return -1;
        }
        kind->offer.first = entry;
        if (!mg_proved_offer(proof, entry, &kind->offer) && offer_try(&kind->offer, ctx, err) != 0)
            return -1;
    }
    kind->proved++;
    entry->offer = &kind->offer;
    return 0;
}

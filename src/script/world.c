/*
 * The store of facts that makes every run of a script the same.
 *
 * The happy path: the loader asks the system each question once and keeps the answer (record); at
 * the end all facts become records of the snapshot. A worker finds the answers there (replay). When
 * the script has returned, the world is live: callbacks get the real clock, and files are out of
 * reach.
 *
 * Failure modes: a replayed script that asks what was never recorded took another path than the
 * loader's run; that is an error, because its result could not be trusted.
 */
#include "script/internal.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mg_fact {
    struct mg_fact *next;   /* in the order of asking */
    struct mg_fact *bucket; /* with the same hash */
    enum mg_record kind;
    char *key;   /* owned */
    char *value; /* owned; may be a secret */
    size_t len;
};

static size_t
bucket_index(enum mg_record kind, const char *key)
{
    return (mg_str_hash(key, strlen(key)) + (uint64_t)kind) %
           MG_ARRAY_LEN(((struct mg_world *)NULL)->buckets);
}

int
mg_world_init(struct mg_world *w, const char *dir, const struct mg_snapshot *snapshot,
              struct mg_err *err)
{
    memset(w, 0, sizeof(*w));
    w->mode = snapshot != NULL ? MG_WORLD_REPLAY : MG_WORLD_RECORD;
    w->snapshot = snapshot;
    w->last = &w->first;
    w->dir = mg_strdup(dir);
    if (w->dir == NULL) {
        mg_err_setx(err, "out of memory");
        return -1;
    }
    return 0;
}

void
mg_world_fini(struct mg_world *w)
{
    struct mg_fact *next;

    for (struct mg_fact *f = w->first; f != NULL; f = next) {
        next = f->next;
        mg_free(f->key);
        mg_free_secret(f->value, f->len);
        mg_free(f);
    }
    mg_free(w->dir);
    memset(w, 0, sizeof(*w));
}

bool
mg_world_find(const struct mg_world *w, enum mg_record kind, const char *key, struct mg_span *value)
{
    if (w->mode == MG_WORLD_REPLAY)
        return mg_snapshot_find(w->snapshot, kind, key, strlen(key), value);
    for (struct mg_fact *f = w->buckets[bucket_index(kind, key)]; f != NULL; f = f->bucket) {
        if (f->kind == kind && strcmp(f->key, key) == 0) {
            *value = (struct mg_span){.data = f->value, .len = f->len};
            return true;
        }
    }
    return false;
}

int
mg_world_add(struct mg_world *w, enum mg_record kind, const char *key, const void *value,
             size_t len, struct mg_err *err)
{
    struct mg_fact *f = mg_calloc(1, sizeof(*f));
    size_t index = bucket_index(kind, key);

    if (f == NULL)
        goto fail;
    f->kind = kind;
    f->len = len;
    f->key = mg_strdup(key);
    f->value = mg_malloc(len + 1);
    if (f->key == NULL || f->value == NULL)
        goto fail;
    if (len > 0)
        memcpy(f->value, value, len);
    f->value[len] = '\0';
    f->bucket = w->buckets[index];
    w->buckets[index] = f;
    *w->last = f;
    w->last = &f->next;
    return 0;

fail:
    if (f != NULL) {
        mg_free(f->key);
        mg_free(f->value);
        mg_free(f);
    }
    mg_err_setx(err, "out of memory");
    return -1;
}

void
mg_world_depend(struct mg_world *w, enum mg_record kind, const char *key, struct mg_span value)
{
    EVP_MD_CTX *md;
    char name[16];

    if (w->mode == MG_WORLD_LIVE)
        return;
    snprintf(name, sizeof(name), "%d:", (int)kind);
    md = EVP_MD_CTX_new();
    if (md == NULL || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1 ||
        EVP_DigestUpdate(md, w->digest, sizeof(w->digest)) != 1 ||
        EVP_DigestUpdate(md, name, strlen(name)) != 1 ||
        EVP_DigestUpdate(md, key, strlen(key) + 1) != 1 ||
        EVP_DigestUpdate(md, value.data, value.len) != 1 ||
        EVP_DigestFinal_ex(md, w->digest, NULL) != 1)
        memset(w->digest, 0, sizeof(w->digest)); /* the manifests will differ, and say so */
    EVP_MD_CTX_free(md);
}

void
mg_world_write(const struct mg_world *w, struct mg_snapshot_writer *writer)
{
    for (const struct mg_fact *f = w->first; f != NULL; f = f->next)
        mg_snapshot_writer_add(writer, f->kind, f->key, strlen(f->key), f->value, f->len);
}

void
mg_world_watched(const struct mg_world *w, struct mg_buf *out)
{
    for (const struct mg_fact *f = w->first; f != NULL; f = f->next) {
        if (f->kind == MG_RECORD_WATCH)
            mg_buf_add(out, f->key, strlen(f->key) + 1);
    }
}

/* The next answer of a numbered kind. 1: found; 0: to be asked and recorded under `key`; -1: not
 * there. */
static int
numbered_find(struct mg_world *w, enum mg_record kind, unsigned long *count, char key[24],
              struct mg_span *value, struct mg_err *err)
{
    snprintf(key, 24, "%lu", (*count)++);
    if (mg_world_find(w, kind, key, value))
        return 1;
    if (w->mode == MG_WORLD_RECORD)
        return 0;
    mg_err_setx(err, "this run of the script differs from the loader's: it asks for more");
    return -1;
}

int
mg_world_number(struct mg_world *w, double (*ask)(void), double *out, struct mg_err *err)
{
    struct mg_span value;
    char key[24], text[40];
    int known;

    if (w->mode == MG_WORLD_LIVE) {
        *out = ask();
        return 0;
    }
    known = numbered_find(w, MG_RECORD_TIME, &w->times, key, &value, err);
    if (known < 0)
        return -1;
    if (known > 0) {
        mg_str_copy(text, value.len < sizeof(text) ? value.len + 1 : sizeof(text), value.data);
        *out = strtod(text, NULL);
        return 0;
    }
    *out = ask();
    snprintf(text, sizeof(text), "%.17g", *out);
    return mg_world_add(w, MG_RECORD_TIME, key, text, strlen(text), err);
}

bool
mg_world_getenv(struct mg_world *w, const char *name, struct mg_span *value)
{
    const char *here;
    struct mg_buf record = {0};
    struct mg_err ignored;
    bool known = mg_world_find(w, MG_RECORD_ENV, name, value);

    if (!known && w->mode != MG_WORLD_REPLAY) {
        here = getenv(name);
        if (w->mode == MG_WORLD_LIVE) {
            *value = (struct mg_span){.data = here, .len = here != NULL ? strlen(here) : 0};
            return here != NULL;
        }
        mg_buf_adds(&record, here != NULL ? "V" : "N");
        mg_buf_adds(&record, here != NULL ? here : "");
        known = !record.failed &&
                mg_world_add(w, MG_RECORD_ENV, name, record.data, record.len, &ignored) == 0 &&
                mg_world_find(w, MG_RECORD_ENV, name, value);
        mg_buf_free_secret(&record);
    }
    if (!known)
        return false;
    mg_world_depend(w, MG_RECORD_ENV, name, *value);
    if (value->len == 0 || value->data[0] != 'V')
        return false;
    value->data++;
    value->len--;
    return true;
}

int
mg_world_seed(struct mg_world *w, unsigned char out[16], struct mg_err *err)
{
    struct mg_span value;

    if (w->mode != MG_WORLD_LIVE && mg_world_find(w, MG_RECORD_SEED, "", &value) &&
        value.len == 16) {
        memcpy(out, value.data, 16);
        return 0;
    }
    if (w->mode == MG_WORLD_REPLAY) {
        mg_err_setx(err, "the snapshot has no random seed");
        return -1;
    }
    if (RAND_bytes(out, 16) != 1) {
        mg_err_setx(err, "no random bytes");
        return -1;
    }
    return w->mode == MG_WORLD_LIVE ? 0 : mg_world_add(w, MG_RECORD_SEED, "", out, 16, err);
}

/* Appends the addresses of a host as text, each with a NUL. */
static int
addresses_ask(const char *host, struct mg_buf *out, struct mg_err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_ADDRCONFIG};
    struct addrinfo *list;
    int error = getaddrinfo(host, NULL, &hints, &list);

    if (error != 0) {
        mg_err_setx(err, "%s: %s", host, gai_strerror(error));
        return -1;
    }
    for (struct addrinfo *ai = list; ai != NULL; ai = ai->ai_next) {
        char text[NI_MAXHOST];

        if (getnameinfo(ai->ai_addr, ai->ai_addrlen, text, sizeof(text), NULL, 0, NI_NUMERICHOST) ==
            0)
            mg_buf_add(out, text, strlen(text) + 1);
    }
    freeaddrinfo(list);
    return 0;
}

int
mg_world_lookup(struct mg_world *w, const char *host, struct mg_buf *out, struct mg_err *err)
{
    struct mg_span value;

    if (mg_world_find(w, MG_RECORD_LOOKUP, host, &value)) {
        mg_buf_add(out, value.data, value.len);
        return 0;
    }
    if (w->mode != MG_WORLD_RECORD) {
        mg_err_setx(err, "%s: names are looked up by the loader only", host);
        return -1;
    }
    if (addresses_ask(host, out, err) != 0)
        return -1;
    if (out->failed) {
        mg_err_setx(err, "out of memory");
        return -1;
    }
    return mg_world_add(w, MG_RECORD_LOOKUP, host, out->data, out->len, err);
}

static int
key_replay(EVP_PKEY **key, struct mg_span der, struct mg_err *err)
{
    const unsigned char *p = (const unsigned char *)der.data;
    EVP_PKEY *recorded = d2i_AutoPrivateKey(NULL, &p, (long)der.len);

    if (recorded == NULL) {
        mg_tls_err_take(err, "a recorded key");
        return -1;
    }
    EVP_PKEY_free(*key);
    *key = recorded;
    return 0;
}

int
mg_world_made_key(struct mg_world *w, EVP_PKEY **key, struct mg_err *err)
{
    unsigned char *der = NULL;
    struct mg_span value;
    char name[24];
    int known, len, status;

    if (w->mode == MG_WORLD_LIVE)
        return 0;
    known = numbered_find(w, MG_RECORD_KEY, &w->keys, name, &value, err);
    if (known < 0)
        return -1;
    if (known > 0)
        return key_replay(key, value, err);
    len = i2d_PrivateKey(*key, &der);
    if (len <= 0) {
        mg_tls_err_take(err, "recording a generated key");
        return -1;
    }
    status = mg_world_add(w, MG_RECORD_KEY, name, der, (size_t)len, err);
    OPENSSL_clear_free(der, (size_t)len);
    return status;
}

int
mg_world_made_signature(struct mg_world *w, struct mg_buf *signature, struct mg_err *err)
{
    struct mg_span value;
    char name[24];
    int known;

    if (w->mode == MG_WORLD_LIVE)
        return 0;
    known = numbered_find(w, MG_RECORD_SIGNATURE, &w->signatures, name, &value, err);
    if (known < 0)
        return -1;
    if (known == 0)
        return mg_world_add(w, MG_RECORD_SIGNATURE, name, signature->data, signature->len, err);
    signature->len = 0;
    mg_buf_add(signature, value.data, value.len);
    if (signature->failed)
        mg_err_setx(err, "out of memory");
    return signature->failed ? -1 : 0;
}

/*
 * TLS sessions with backends, kept by the worker so that the next connection resumes.
 *
 * The happy path is: a connection is about to begin, mg_reuse_offer binds it to a key and gives it the
 * newest session of that key; libssl tells of each new session, which is kept under the key that it
 * was bound to. Possible failure modes are: the backend does not take the session (a full handshake),
 * the handshake fails (mg_reuse_forget: all sessions of the key go, in case they are the reason), a
 * reload has other contexts (mg_engine_use).
 *
 * The key is a digest of all that a session may depend on: the context's policy, the backend's name,
 * the server's name, the address. It is the session_id_context of the connection, too, so that a
 * session carries its own key and libssl refuses it under another. A session of TLS 1.3 is used once,
 * so that nobody who watches can tell connections of one client by their tickets.
 */
#include "proxy/internal.h"

#include <openssl/evp.h>
#include <string.h>
#include <time.h>

#define KEYS_MAX 512u
#define PER_KEY  4u /* sessions, the newest */
#define ID_LEN   32u
#define TEXT_MAX (ID_LEN + 256u + MG_ADDR_TEXT + 2u)
#define BUCKETS  64u

struct key {
    struct mg_link link;   /* in reuse->keys: the one used last at the end */
    struct mg_link bucket; /* in reuse->buckets */
    unsigned char id[ID_LEN], backend[ID_LEN];
    SSL_SESSION *sessions[PER_KEY]; /* the newest last; one reference each */
    size_t count;
};

struct mg_reuse {
    struct mg_link keys, buckets[BUCKETS];
    size_t count;
};

/* ---- keys ------------------------------------------------------------------------------------ */

static struct mg_link *
bucket_of(struct mg_reuse *reuse, const unsigned char id[ID_LEN])
{
    return &reuse->buckets[id[0] % BUCKETS];
}

static struct key *
key_find(struct mg_reuse *reuse, const unsigned char id[ID_LEN])
{
    struct mg_link *head = bucket_of(reuse, id);

    for (struct mg_link *at = head->next; at != head; at = at->next) {
        struct key *key = MG_CONTAINER_OF(at, struct key, bucket);

        if (memcmp(key->id, id, ID_LEN) == 0)
            return key;
    }
    return NULL;
}

static void
key_free(struct mg_reuse *reuse, struct key *key)
{
    while (key->count > 0)
        SSL_SESSION_free(key->sessions[--key->count]);
    mg_link_remove(&key->link);
    mg_link_remove(&key->bucket);
    mg_free(key);
    reuse->count--;
}

static struct key *
key_need(struct mg_reuse *reuse, const unsigned char id[ID_LEN],
         const unsigned char backend[ID_LEN])
{
    struct key *key = key_find(reuse, id);

    if (key != NULL)
        return key;
    key = mg_calloc(1, sizeof(*key));
    if (key == NULL)
        return NULL;
    if (reuse->count == KEYS_MAX)
        key_free(reuse, MG_CONTAINER_OF(reuse->keys.next, struct key, link));
    memcpy(key->id, id, ID_LEN);
    memcpy(key->backend, backend, ID_LEN);
    mg_link_append(&reuse->keys, &key->link);
    mg_link_append(bucket_of(reuse, id), &key->bucket);
    reuse->count++;
    return key;
}

/* What stands for a backend with its policy. */
static bool
backend_id(const struct mg_backend *backend, unsigned char out[ID_LEN])
{
    unsigned char text[TEXT_MAX];
    size_t used = sizeof(backend->tls_policy);

    memcpy(text, backend->tls_policy, used);
    /* A name of any length, as a number that cannot run into anything else. */
    return EVP_Digest(backend->name, strlen(backend->name), text + used, NULL, EVP_sha256(),
                      NULL) == 1 &&
           EVP_Digest(text, used + ID_LEN, out, NULL, EVP_sha256(), NULL) == 1;
}

static bool
key_id(const struct mg_session *s, const char *servername, unsigned char backend[ID_LEN],
       unsigned char out[ID_LEN])
{
    unsigned char text[TEXT_MAX];
    char address[MG_ADDR_TEXT];
    size_t used = ID_LEN, len = strlen(servername) + 1; /* at most 256 with the NUL */

    if (len > 256 || !backend_id(s->backend, backend))
        return false;
    memcpy(text, backend, ID_LEN);
    memcpy(text + used, servername, len);
    used += len;
    mg_addr_text(s->up_addr, address);
    len = strlen(address);
    memcpy(text + used, address, len);
    return EVP_Digest(text, used + len, out, NULL, EVP_sha256(), NULL) == 1;
}

/* ---- sessions -------------------------------------------------------------------------------- */

static bool
session_is_live(const SSL_SESSION *session)
{
    int64_t age = (int64_t)time(NULL) - (int64_t)mg_tls_session_time(session);
    int64_t hint = (int64_t)SSL_SESSION_get_ticket_lifetime_hint(session);

    return SSL_SESSION_is_resumable(session) && age <= SSL_SESSION_get_timeout(session) &&
           (hint == 0 || age <= hint);
}

/* The newest that may still be resumed, with a reference for the caller; NULL: none. */
static SSL_SESSION *
session_take(struct key *key)
{
    while (key->count > 0) {
        SSL_SESSION *session = key->sessions[key->count - 1];

        if (session_is_live(session)) {
            if (SSL_SESSION_get_protocol_version(session) >= TLS1_3_VERSION)
                key->count--;
            else
                SSL_SESSION_up_ref(session);
            return session;
        }
        SSL_SESSION_free(session);
        key->count--;
    }
    return NULL;
}

/* The session says itself where it belongs. */
static void
on_session(struct mg_tls_conn *conn, SSL_SESSION *session)
{
    const struct mg_session *s = conn->owner;
    struct mg_reuse *reuse = s->engine->reuse;
    unsigned char backend[ID_LEN];
    unsigned len;
    const unsigned char *id = SSL_SESSION_get0_id_context(session, &len);
    struct key *key = len == ID_LEN && SSL_SESSION_is_resumable(session) && s->backend != NULL &&
                              backend_id(s->backend, backend)
                          ? key_need(reuse, id, backend)
                          : NULL;

    if (key == NULL)
        return;
    if (key->count == PER_KEY) {
        SSL_SESSION_free(key->sessions[0]);
        key->count--;
        for (size_t i = 0; i < key->count; i++)
            key->sessions[i] = key->sessions[i + 1];
    }
    SSL_SESSION_up_ref(session);
    key->sessions[key->count++] = session;
}

void
mg_reuse_offer(struct mg_session *s, const char *servername)
{
    struct mg_reuse *reuse = s->engine->reuse;
    SSL *ssl = s->up.tls.ssl;
    unsigned char id[ID_LEN], backend[ID_LEN];
    SSL_SESSION *session;
    struct key *key;

    if (!s->backend->tls_resumes || !key_id(s, servername, backend, id) ||
        SSL_set_session_id_context(ssl, id, sizeof(id)) != 1)
        return;
    s->up.tls.on_session = on_session;
    key = key_find(reuse, id);
    if (key == NULL)
        return;
    mg_link_remove(&key->link);
    mg_link_append(&reuse->keys, &key->link);
    session = session_take(key);
    if (session != NULL)
        SSL_set_session(ssl, session); /* without memory: a full handshake */
    SSL_SESSION_free(session);
}

void
mg_reuse_forget(struct mg_session *s)
{
    const SSL_SESSION *offered = s->up.tls.ssl != NULL ? SSL_get0_session(s->up.tls.ssl) : NULL;
    unsigned len = 0;
    const unsigned char *id = offered != NULL ? SSL_SESSION_get0_id_context(offered, &len) : NULL;
    struct key *key = len == ID_LEN ? key_find(s->engine->reuse, id) : NULL;

    if (key != NULL)
        key_free(s->engine->reuse, key);
}

/* ---- life ------------------------------------------------------------------------------------ */

void
mg_reuse_keep(struct mg_reuse *reuse, const struct mg_config *config)
{
    for (struct mg_link *at = reuse->keys.next, *next; at != &reuse->keys; at = next) {
        struct key *key = MG_CONTAINER_OF(at, struct key, link);
        bool found = false;

        next = at->next;
        for (size_t i = 0; i < config->backend_count && !found; i++) {
            unsigned char id[ID_LEN];

            found = config->backends[i]->tls_resumes && backend_id(config->backends[i], id) &&
                    memcmp(id, key->backend, ID_LEN) == 0;
        }
        if (!found)
            key_free(reuse, key);
    }
}

struct mg_reuse *
mg_reuse_new(void)
{
    struct mg_reuse *reuse = mg_calloc(1, sizeof(*reuse));

    if (reuse == NULL)
        return NULL;
    mg_link_init(&reuse->keys);
    for (size_t i = 0; i < BUCKETS; i++)
        mg_link_init(&reuse->buckets[i]);
    return reuse;
}

void
mg_reuse_free(struct mg_reuse *reuse)
{
    if (reuse == NULL)
        return;
    while (!mg_link_empty(&reuse->keys))
        key_free(reuse, MG_CONTAINER_OF(reuse->keys.next, struct key, link));
    mg_free(reuse);
}

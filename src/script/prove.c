/*
 * The proof: in-memory handshakes with every frozen context, before anything is served.
 *
 * For each certificate of a listener's context and each version that the context offers, a
 * permissive client that can use only that kind of certificate shakes hands: without SNI, and with
 * each name of the certificate. What fails in every way is an error, since no client could use it;
 * what fails in some is a warning.
 *
 * Under each version there is one more client that offers the context's own ALPN protocols, and one
 * that shows a certificate where one is asked for. No CA of the script's has signed it; that it is
 * refused for this reason is as far as the proof goes.
 *
 * The script's callbacks are not run. The report says what therefore remains unproved.
 */
#include "script/internal.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include <stdlib.h>
#include <string.h>

/* So many names of one certificate are proved; more would say nothing new and cost time. */
#define NAMES_MAX 32

const char *const mg_proof_version_names[MG_PROOF_VERSIONS] = {"TLS 1.2", "TLS 1.3"};
const char *const mg_proof_version_ids[MG_PROOF_VERSIONS] = {"TLSv1.2", "TLSv1.3"};

const int mg_proof_version_numbers[MG_PROOF_VERSIONS] = {TLS1_2_VERSION, TLS1_3_VERSION};

static void text_add(struct mg_buf *list, const char *fmt, va_list args) MG_PRINTF(2, 0);

static void
text_add(struct mg_buf *list, const char *fmt, va_list args)
{
    mg_buf_addv(list, fmt, args);
    mg_buf_add(list, "", 1);
}

void
mg_proof_warn(struct mg_proof *proof, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    text_add(&proof->warnings, fmt, args);
    va_end(args);
}

void
mg_proof_fail(struct mg_proof *proof, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    text_add(&proof->errors, fmt, args);
    va_end(args);
}

void
mg_proof_unproved(struct mg_proof_entry *entry, const char *text)
{
    mg_buf_add(&entry->unproved, text, strlen(text) + 1);
}

/* "script.lua:12: listener web", with the context's name where it has one. */
void
mg_proof_who(const struct mg_proof_entry *entry, char out[MG_PROOF_WHO])
{
    if (entry->is_chosen) {
        snprintf(out, MG_PROOF_WHO, "%s%s", entry->where,
                 entry->context[0] != '\0' ? entry->name : "context");
        return;
    }
    snprintf(out, MG_PROOF_WHO, "%s%s %s%s%s%s", entry->where,
             entry->is_backend ? "backend" : "listener", entry->name,
             entry->context[0] != '\0' ? " (context " : "", entry->context,
             entry->context[0] != '\0' ? ")" : "");
}

/* ---- servers -------------------------------------------------------------------------------- */

/* A context's bounds leave a version in; 0 means no bound. */
static bool
version_enabled(SSL_CTX *ctx, int number, uint64_t off)
{
    long min = SSL_CTX_get_min_proto_version(ctx);
    long max = SSL_CTX_get_max_proto_version(ctx);

    return (min == 0 || min <= number) && (max == 0 || max >= number) &&
           (SSL_CTX_get_options(ctx) & off) == 0;
}

bool
mg_proof_enabled(SSL_CTX *ctx, enum mg_proof_version version)
{
    static const uint64_t off[MG_PROOF_VERSIONS] = {SSL_OP_NO_TLSv1_2, SSL_OP_NO_TLSv1_3};

    return version_enabled(ctx, mg_proof_version_numbers[version], off[version]);
}

/* The proof looks at TLS 1.2 and 1.3; a context for older versions alone is not empty, though. */
bool
mg_proof_older_enabled(SSL_CTX *ctx)
{
    return version_enabled(ctx, TLS1_VERSION, SSL_OP_NO_TLSv1) ||
           version_enabled(ctx, TLS1_1_VERSION, SSL_OP_NO_TLSv1_1);
}

struct attempt {
    struct mg_proof_certificate *certificate;
    bool brief; /* contexts of this kind have been proved before */
    bool known; /* this very one has, for the policy in force */
    bool bare;  /* such a chain has been sent in a context of this kind: it need not be again */
    X509 *x509;
    SSL_CTX *server;
    SSL_CTX *client;
    const struct mg_ssl_context_facts *facts;
    enum mg_proof_version version;
};

static void
result_add(const struct attempt *a, const char *servername, const char *cipher, const char *cause)
{
    struct mg_buf *out = &a->certificate->results;

    mg_buf_addf(out, "%s{\"version\":\"%s\",\"servername\":", out->len > 0 ? "," : "",
                mg_proof_version_ids[a->version]);
    if (servername != NULL)
        mg_buf_add_json(out, servername, strlen(servername));
    else
        mg_buf_adds(out, "null");
    mg_buf_addf(out, ",\"ok\":%s,\"%s\":", cause[0] == '\0' ? "true" : "false",
                cause[0] == '\0' ? "cipher" : "cause");
    mg_buf_add_json(out, cause[0] == '\0' ? cipher : cause,
                    strlen(cause[0] == '\0' ? cipher : cause));
    mg_buf_adds(out, "}");
}

/* A certificate of ours is known to nobody, or of no kind that is asked for; callbacks are not run. */
bool
mg_proof_is_expected(const char *error)
{
    return strstr(error, "certificate verify failed") != NULL ||
           strstr(error, "peer did not return a certificate") != NULL ||
           strstr(error, MG_NOT_RUN) != NULL;
}

/* A server that insists on a client certificate gets no further than asking; that is proof enough
 * of its own. */
static bool
stopped_for_client_certificate(const struct attempt *a, const struct mg_memory_handshake *hs)
{
    return (a->facts->verify_mode & SSL_VERIFY_FAIL_IF_NO_PEER_CERT) != 0 &&
           strstr(hs->server_error, "peer did not return a certificate") != NULL;
}

/* Why the handshake did not come through, or "". */
static void
handshake_judge(const struct attempt *a, const struct mg_memory_handshake *hs, char *cause,
                size_t cap)
{
    cause[0] = '\0';
    if (!hs->ok && !stopped_for_client_certificate(a, hs))
        snprintf(cause, cap, "%s",
                 hs->server_error[0] != '\0'   ? hs->server_error
                 : hs->client_error[0] != '\0' ? hs->client_error
                                               : "the handshake failed");
    else if (hs->server_cert != NULL && X509_cmp(hs->server_cert, a->x509) != 0)
        snprintf(cause, cap, "another certificate (%s) is served instead", hs->key_type);
}

static int
handshake_prove(const struct attempt *a, const char *servername, struct mg_err *err)
{
    struct mg_memory_handshake hs = {.server = a->server,
                                     .client = a->client,
                                     .servername = servername,
                                     .bare = a->bare ? a->x509 : NULL};
    struct mg_proof_cell *cell = &a->certificate->cells[a->version];
    char cause[sizeof(cell->cause)];

    if (mg_memory_handshake(&hs, err) != 0)
        return -1;
    handshake_judge(a, &hs, cause, sizeof(cause));
    result_add(a, servername, hs.cipher, cause);
    if (cell->cipher[0] == '\0')
        mg_str_copy(cell->cipher, sizeof(cell->cipher), hs.cipher);
    if (cause[0] != '\0' && cell->ok)
        mg_str_copy(cell->cause, sizeof(cell->cause), cause);
    cell->ok = cell->ok && cause[0] == '\0';
    X509_free(hs.server_cert);
    return 0;
}

/* A wildcard stands for its simplest member. */
static int
name_prove(const struct attempt *a, const char *name, struct mg_err *err)
{
    char member[300];

    if (strncmp(name, "*.", 2) != 0)
        return handshake_prove(a, name, err);
    snprintf(member, sizeof(member), "www%s", name + 1);
    return handshake_prove(a, member, err);
}

/* Without SNI, with each name, and with the one that was asked for. */
static int
version_prove(const struct mg_proof *proof, const struct attempt *a, struct mg_err *err)
{
    const struct mg_buf *names = &a->certificate->names;
    size_t count = 0;

    a->certificate->cells[a->version].ok = true;
    if (!a->brief && handshake_prove(a, NULL, err) != 0)
        return -1;
    for (size_t at = 0; at < names->len && count < (a->brief ? 1 : NAMES_MAX);
         at += strlen(names->data + at) + 1) {
        if (strncmp(names->data + at, "IP ", 3) == 0)
            continue; /* an address is no SNI */
        if (name_prove(a, names->data + at, err) != 0)
            return -1;
        count++;
    }
    if (a->brief && count == 0 && handshake_prove(a, NULL, err) != 0)
        return -1;
    return proof->sni != NULL ? handshake_prove(a, proof->sni, err) : 0;
}

/* Borrowed from the proof; NULL: OpenSSL's queue says why. */
static SSL_CTX *
client_for(struct mg_proof *proof, const char *type, enum mg_proof_version version)
{
    struct mg_proof_client *client = proof->clients;

    while (client != NULL && (client->version != version || strcmp(client->type, type) != 0))
        client = client->next;
    if (client != NULL)
        return client->ctx;
    client = mg_calloc(1, sizeof(*client));
    if (client == NULL)
        return NULL;
    mg_str_copy(client->type, sizeof(client->type), type);
    client->version = version;
    client->ctx = mg_peer_client(type, mg_proof_version_numbers[version]);
    client->next = proof->clients;
    proof->clients = client;
    return client->ctx;
}

static int
certificate_prove(struct mg_proof *proof, const struct mg_proof_entry *entry, struct attempt *a,
                  struct mg_err *err)
{
    bool any = false;

    for (int v = 0; v < MG_PROOF_VERSIONS; v++) {
        struct mg_proof_cell *cell = &a->certificate->cells[v];
        int status;

        cell->enabled = entry->enabled[v];
        if (!cell->enabled)
            continue;
        a->version = (enum mg_proof_version)v;
        if (a->known) {
            cell->ok = any = true;
            continue;
        }
        a->client = client_for(proof, a->certificate->type, a->version);
        if (a->client == NULL) {
            mg_tls_err_take(err, "a client for the proof");
            return -1;
        }
        status = version_prove(proof, a, err);
        if (status != 0)
            return -1;
        any = any || cell->ok;
    }
    return any ? 1 : 0;
}

bool
mg_proof_is_flawless(const struct mg_proof_certificate *c)
{
    for (int v = 0; v < MG_PROOF_VERSIONS; v++)
        if (c->cells[v].enabled && !c->cells[v].ok)
            return false;
    return true;
}

/* NULL: no memory. */
static struct mg_proof_certificate *
certificate_add(struct mg_proof_entry *entry)
{
    struct mg_proof_certificate *grown = mg_realloc(
        entry->certificates, (entry->certificate_count + 1) * sizeof(*entry->certificates));

    if (grown == NULL)
        return NULL;
    entry->certificates = grown;
    grown += entry->certificate_count++;
    memset(grown, 0, sizeof(*grown));
    return grown;
}

/* All certificates, whichever was added last. 1 if some client could use some of them, 0, or -1. */
static int
certificates_prove(struct mg_proof *proof, struct mg_proof_entry *entry, SSL *probe,
                   struct attempt *a, struct mg_err *err)
{
    int usable = 0;

    for (long which = SSL_CERT_SET_FIRST; entry->certificate_count < MG_PROOF_CERTIFICATES &&
                                          SSL_set_current_cert(probe, which) == 1;
         which = SSL_CERT_SET_NEXT) {
        STACK_OF(X509) *chain = NULL;
        bool *chain_known;
        int status;

        a->x509 = SSL_get_certificate(probe);
        SSL_get0_chain_certs(probe, &chain);
        a->certificate = certificate_add(entry);
        if (a->certificate == NULL)
            mg_err_setx(err, "out of memory");
        if (a->certificate == NULL || mg_proof_describe(a->certificate, a->x509, chain, err) != 0)
            return -1;
        mg_proof_inspect(proof, entry, a->certificate, a->x509, chain, a->server);
        chain_known = a->brief ? mg_proof_chain_find(proof, entry, a->server, chain) : NULL;
        a->bare = chain_known != NULL && *chain_known;
        status = certificate_prove(proof, entry, a, err);
        if (status < 0)
            return -1;
        if (chain_known != NULL)
            *chain_known = *chain_known || mg_proof_is_flawless(a->certificate);
        usable |= status;
    }
    ERR_clear_error();
    return usable;
}

/* What works for some clients, but not for all that it is there for. */
static void
failures_warn(struct mg_proof *proof, const struct mg_proof_entry *entry, const char *who)
{
    for (size_t i = 0; i < entry->certificate_count; i++) {
        const struct mg_proof_certificate *c = &entry->certificates[i];

        for (int v = 0; v < MG_PROOF_VERSIONS; v++) {
            if (c->cells[v].enabled && !c->cells[v].ok)
                mg_proof_warn(proof, "%s: %s certificate %s: %s: %s", who, c->type, c->subject,
                              mg_proof_version_names[v], c->cells[v].cause);
        }
    }
}

/* A client with something more to offer, under each version; what stops it is a warning. */
static int
offer_prove(struct mg_proof *proof, const struct mg_proof_entry *entry, SSL_CTX *ctx,
            const char *offer, bool (*equip)(SSL_CTX *client, const struct mg_proof_entry *entry),
            struct mg_err *err)
{
    char who[MG_PROOF_WHO];

    mg_proof_who(entry, who);
    for (int v = 0; v < MG_PROOF_VERSIONS; v++) {
        struct mg_memory_handshake hs = {.server = ctx};
        int status = -1;

        if (!entry->enabled[v])
            continue;
        hs.client = mg_peer_client("", mg_proof_version_numbers[v]);
        if (hs.client == NULL || !equip(hs.client, entry))
            mg_tls_err_take(err, "a client for the proof");
        else
            status = mg_memory_handshake(&hs, err);
        SSL_CTX_free(hs.client);
        if (status != 0)
            return -1;
        X509_free(hs.server_cert);
        if (!hs.ok && !mg_proof_is_expected(hs.server_error))
            mg_proof_warn(proof, "%s: %s: a client with %s: %s", who, mg_proof_version_names[v],
                          offer, hs.server_error[0] != '\0' ? hs.server_error : hs.client_error);
    }
    return 0;
}

static bool
certificate_equip(SSL_CTX *client, const struct mg_proof_entry *entry)
{
    (void)entry;
    return mg_peer_identify(client);
}

static bool
alpn_equip(SSL_CTX *client, const struct mg_proof_entry *entry)
{
    return SSL_CTX_set_alpn_protos(client, (const unsigned char *)entry->alpn.data,
                                   (unsigned)entry->alpn.len) == 0;
}

static int
offers_prove(struct mg_proof *proof, const struct mg_proof_entry *entry, SSL_CTX *ctx,
             const struct mg_ssl_context_facts *facts, struct mg_err *err)
{
    bool asks = (facts->verify_mode & SSL_VERIFY_PEER) != 0;

    if (asks && offer_prove(proof, entry, ctx, "a certificate", certificate_equip, err) != 0)
        return -1;
    /* Without a certificate a server that insists on one gets no further. */
    if (entry->alpn.len == 0 || (facts->verify_mode & SSL_VERIFY_FAIL_IF_NO_PEER_CERT) != 0)
        return 0;
    return offer_prove(proof, entry, ctx, "ALPN", alpn_equip, err);
}

/* The first cause that kept clients out, for the error. */
static const char *
first_cause(const struct mg_proof_entry *entry)
{
    for (size_t i = 0; i < entry->certificate_count; i++) {
        for (int v = 0; v < MG_PROOF_VERSIONS; v++) {
            if (entry->certificates[i].cells[v].cause[0] != '\0')
                return entry->certificates[i].cells[v].cause;
        }
    }
    return "the handshake failed";
}

static void
callbacks_note(struct mg_proof_entry *entry, const struct mg_ssl_context_facts *facts)
{
    if (facts->callbacks)
        mg_proof_unproved(entry, "the script's callbacks (they are not run)");
    if ((facts->verify_mode & SSL_VERIFY_PEER) != 0)
        mg_proof_unproved(entry, "a client certificate of the CA (its key is not here)");
}

/* client_ca only tells clients what to send; what is verified with lies in the store. */
static bool
store_is_empty(X509_STORE *store)
{
    const STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(store);

    for (int i = 0; i < sk_X509_OBJECT_num(objects); i++) {
        if (X509_OBJECT_get_type(sk_X509_OBJECT_value(objects, i)) == X509_LU_X509)
            return false;
    }
    return true;
}

int
mg_proof_server(struct mg_proof *proof, struct mg_proof_entry *entry, SSL_CTX *ctx,
                const struct mg_ssl_context_facts *facts, struct mg_err *err)
{
    struct attempt attempt = {.server = ctx, .facts = facts};
    char who[MG_PROOF_WHO];
    SSL *probe;
    size_t warned;
    int usable;

    mg_proof_who(entry, who);
    callbacks_note(entry, facts);
    for (int v = 0; v < MG_PROOF_VERSIONS; v++)
        entry->enabled[v] = mg_proof_enabled(ctx, (enum mg_proof_version)v);
    if (!entry->enabled[MG_PROOF_TLS12] && !entry->enabled[MG_PROOF_TLS13]) {
        if (mg_proof_older_enabled(ctx))
            mg_proof_unproved(entry, "versions before TLS 1.2");
        else
            mg_proof_fail(proof,
                          "%s: no protocol version is left between min_version, max_version "
                          "and options",
                          who);
        return 0;
    }
    if (mg_proved_digest(entry, ctx, err) != 0 ||
        mg_proof_offer(proof, entry, ctx, &attempt.brief, err) != 0)
        return -1;
    attempt.known = mg_proved_has(proof, entry);
    proof->known += attempt.known;
    probe = SSL_new(ctx);
    if (probe == NULL) {
        mg_tls_err_take(err, who);
        return -1;
    }
    usable = certificates_prove(proof, entry, probe, &attempt, err);
    SSL_free(probe);
    if (usable < 0)
        return -1;
    if (entry->certificate_count == 0)
        mg_proof_fail(proof,
                      "%s: no certificate (add_certificate or load_certificate gives it one)", who);
    else if (usable == 0)
        mg_proof_fail(proof, "%s: no client could use it: %s", who, first_cause(entry));
    else
        failures_warn(proof, entry, who);
    warned = proof->warnings.len;
    if (usable > 0 && !attempt.brief && !attempt.known &&
        offers_prove(proof, entry, ctx, facts, err) != 0)
        return -1;
    entry->complained = usable <= 0 || proof->warnings.len > warned;
    if ((facts->verify_mode & SSL_VERIFY_PEER) != 0 && !facts->verify_callback &&
        store_is_empty(SSL_CTX_get_cert_store(ctx)))
        mg_proof_warn(proof,
                      "%s: verify_mode asks for client certificates, but there is no CA to verify "
                      "them with (ca_file, ca_path or a cert_store that has one)",
                      who);
    if (facts->replaced != NULL)
        mg_proof_warn(proof, "%s: %s: a context has one of a type", who, facts->replaced);
    return mg_proof_revocation(proof, who, ctx, facts, err);
}

/* ---- everything ----------------------------------------------------------------------------- */

static char *
addresses_join(lua_State *L, int object)
{
    struct mg_buf out = {0};

    if (mg_option_push(L, object, "address") == LUA_TTABLE) {
        for (lua_Integer i = 1; lua_rawgeti(L, -1, i) != LUA_TNIL; i++) {
            mg_buf_addf(&out, "%s%s", i > 1 ? ", " : "", lua_tostring(L, -1));
            lua_pop(L, 1);
        }
        lua_pop(L, 1);
    } else {
        mg_option_push(L, object, "name");
        mg_buf_adds(&out, lua_tostring(L, -1));
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return mg_buf_take(&out);
}

/* The ALPN protocols of the context at the top, in wire form; none where a callback decides. */
static void
alpn_take(lua_State *L, struct mg_proof_entry *entry)
{
    int context = lua_gettop(L);

    entry->alpn_asked = lua_getfield(L, context, "alpn_select_cb") != LUA_TNIL;
    if (!entry->alpn_asked && lua_getfield(L, context, "alpn_protocols") == LUA_TTABLE) {
        for (lua_Integer i = 1; lua_rawgeti(L, -1, i) == LUA_TSTRING; i++) {
            size_t len;
            const char *name = lua_tolstring(L, -1, &len);
            unsigned char prefix = (unsigned char)len;

            mg_buf_add(&entry->alpn, &prefix, 1);
            mg_buf_add(&entry->alpn, name, len);
            lua_pop(L, 1);
        }
    }
    lua_settop(L, context);
    if (entry->alpn.failed)
        luaL_error(L, "out of memory");
}

/* What is proved of the context at `context`, or nothing where it is none. */
void
mg_proof_context(lua_State *L, struct mg_proof *proof, struct mg_proof_entry *entry, int context)
{
    struct mg_ssl_context_facts facts;
    SSL_CTX *ctx = mg_ssl_context_test(L, context);
    struct mg_err err;

    if (ctx == NULL) {
        entry->is_asked = lua_isfunction(L, context);
        if (entry->is_asked)
            mg_proof_unproved(entry, "what the tls function decides (it is not run)");
        proof->functions_choose = proof->functions_choose || entry->is_asked;
        return;
    }
    entry->server = ctx;
    mg_ssl_context_facts(L, context, &facts);
    proof->functions_choose = proof->functions_choose || facts.servername_cb;
    mg_str_copy(entry->context, sizeof(entry->context), facts.name);
    lua_pushvalue(L, context);
    alpn_take(L, entry);
    entry->verify_mode = facts.verify_mode;
    memcpy(entry->digest, facts.digest, sizeof(entry->digest));
    entry->tickets = (SSL_CTX_get_options(ctx) & SSL_OP_NO_TICKET) == 0;
    entry->sessions = (SSL_CTX_get_session_cache_mode(ctx) & SSL_SESS_CACHE_SERVER) != 0;
    if (!entry->is_backend)
        mg_proof_kind(L, entry, ctx);
    if ((entry->is_backend ? mg_proof_client : mg_proof_server)(proof, entry, ctx, &facts, &err) !=
        0)
        luaL_error(L, "%s", err.text);
}

void
mg_proof_entry_add(lua_State *L, struct mg_proof *proof, bool is_backend, int object, int context)
{
    struct mg_proof_entry *entry = &proof->entries[proof->entry_count++];

    entry->is_backend = is_backend;
    entry->outcome = MG_TARGET_TERMINATE;
    mg_option_push(L, object, "name");
    entry->name = mg_strdup(lua_tostring(L, -1));
    entry->addresses = addresses_join(L, object);
    if (entry->name == NULL || entry->addresses == NULL)
        luaL_error(L, "out of memory");
    mg_option_push(L, object, MG_WHERE);
    mg_str_copy(entry->where, sizeof(entry->where), lua_tostring(L, -1));
    mg_facts_options(L, object, entry);
    entry->tls = !lua_isnil(L, context);
    if (entry->tls)
        mg_proof_context(L, proof, entry, context);
}

/* The object at the top of the stack, into the next entry, or into several. */
static void
entry_fill(lua_State *L, struct mg_proof *proof, bool is_backend)
{
    const struct mg_servernames_object *names;
    int object = lua_gettop(L);

    mg_option_push(L, object, "tls");
    names = mg_servernames_test(L, -1);
    if (names != NULL)
        mg_proof_names_add(L, proof, object, names->names);
    else
        mg_proof_entry_add(L, proof, is_backend, object, object + 1);
    lua_settop(L, object);
}

static void
list_prove(lua_State *L, struct mg_proof *proof, const char *list, const char *only)
{
    bool is_backend = strcmp(list, MG_BACKENDS) == 0;

    lua_getfield(L, LUA_REGISTRYINDEX, list);
    for (lua_Integer i = 1; lua_rawgeti(L, -1, i) != LUA_TNIL; i++) {
        mg_option_push(L, lua_gettop(L), "name");
        if (only == NULL || strcmp(lua_tostring(L, -1), only) == 0) {
            lua_pop(L, 1);
            entry_fill(L, proof, is_backend);
        } else {
            lua_pop(L, 1);
        }
        lua_pop(L, 1);
    }
    lua_pop(L, 2);
}

/* `check --listener` names one that is not there. */
static MG_NORETURN void
listener_missing(lua_State *L, const char *only)
{
    const char *near;
    const char **names;
    size_t count;

    lua_getfield(L, LUA_REGISTRYINDEX, MG_LISTENERS);
    count = lua_rawlen(L, 1);
    names = lua_newuserdatauv(L, count * sizeof(*names), 0);
    luaL_checkstack(L, 8, NULL);
    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, 1, (lua_Integer)i + 1);
        mg_option_push(L, lua_gettop(L), "name");
        names[i] = lua_tostring(L, -1); /* lives in the Listener */
        lua_pop(L, 2);
    }
    near = mg_str_nearest(only, names, count);
    if (near != NULL)
        mg_script_error(L, "no listener \"%s\" (did you mean \"%s\"?)", only, near);
    mg_script_error(L, "no listener \"%s\"", only);
}

static void
lines_take(lua_State *L, const char *list, struct mg_buf *out)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, list);
    for (lua_Integer i = 1; lua_rawgeti(L, -1, i) == LUA_TSTRING; i++) {
        mg_buf_add(out, lua_tostring(L, -1), lua_rawlen(L, -1) + 1);
        lua_pop(L, 1);
    }
    lua_pop(L, 2);
}

/* What the script's own run had to say. */
static void
run_take(lua_State *L, void *data)
{
    struct mg_proof *proof = data;

    lines_take(L, MG_WARNINGS, &proof->warnings);
    lines_take(L, MG_FAULTS, &proof->errors);
}

struct prove {
    struct mg_proof *proof;
    const char *only;
};

static void
prove_body(lua_State *L, void *data)
{
    struct prove *p = data;
    size_t count;

    lua_getfield(L, LUA_REGISTRYINDEX, MG_LISTENERS);
    lua_getfield(L, LUA_REGISTRYINDEX, MG_BACKENDS);
    count = lua_rawlen(L, 1) + lua_rawlen(L, 2);
    for (lua_Integer i = 1; lua_rawgeti(L, 1, i) != LUA_TNIL; i++) {
        mg_option_push(L, 3, "tls");
        if (mg_servernames_test(L, -1) != NULL) {
            mg_proof_contexts_push(L);
            count += lua_rawlen(L, -1) + 1; /* and other outcomes */
        }
        lua_settop(L, 2);
    }
    count += mg_proof_chosen_count(L);
    lua_settop(L, 0);
    p->proof->entries = mg_calloc(count, sizeof(*p->proof->entries));
    if (p->proof->entries == NULL)
        mg_script_error(L, "out of memory");
    list_prove(L, p->proof, MG_LISTENERS, p->only);
    if (p->only != NULL && p->proof->entry_count == 0)
        listener_missing(L, p->only);
    if (p->only != NULL)
        return;
    list_prove(L, p->proof, MG_BACKENDS, NULL);
    mg_proof_chosen_prove(L, p->proof);
}

static void
proof_fini(struct mg_proof *proof)
{
    for (size_t i = 0; i < proof->entry_count; i++) {
        struct mg_proof_entry *entry = &proof->entries[i];

        for (size_t c = 0; c < entry->certificate_count; c++) {
            mg_free(entry->certificates[c].subject);
            mg_free(entry->certificates[c].file);
            mg_buf_free(&entry->certificates[c].chain);
            mg_buf_free(&entry->certificates[c].names);
            mg_buf_free(&entry->certificates[c].results);
        }
        mg_free(entry->certificates);
        mg_free(entry->name);
        mg_free(entry->addresses);
        mg_buf_free(&entry->alpn);
        mg_buf_free(&entry->options);
        mg_buf_free(&entry->unproved);
        mg_buf_free(&entry->served);
    }
    while (proof->clients != NULL) {
        struct mg_proof_client *client = proof->clients;

        proof->clients = client->next;
        SSL_CTX_free(client->ctx);
        mg_free(client);
    }
    SSL_CTX_free(proof->server);
    X509_STORE_free(proof->usual);
    mg_proof_kinds_free(proof);
    mg_free(proof->entries);
    mg_buf_free(&proof->warnings);
    mg_buf_free(&proof->errors);
}

/* The texts of a list as lines. */
static void
lines_add(struct mg_buf *out, const struct mg_buf *list)
{
    for (size_t at = 0; at < list->len; at += strlen(list->data + at) + 1)
        mg_buf_addf(out, "%s\n", list->data + at);
}

int
mg_prove(struct mg_script *s, struct mg_script_load *load, struct mg_err *err)
{
    struct mg_proof proof = {.script = s, .sni = load->sni, .before = load->before};
    struct prove p = {.proof = &proof, .only = load->listener};
    int status;

    s->proving = true;
    status = mg_script_protect(s, run_take, &proof, err);
    if (status == 0)
        status = mg_script_protect(s, prove_body, &p, err);
    s->proving = false;
    if (status == 0)
        status = mg_proof_compare(&proof, err);
    if (status == 0) {
        lines_add(&load->warnings, &proof.warnings);
        mg_report_text(&proof, &load->report);
        mg_report_json(&proof, &load->report_json);
        mg_proved_write(&proof, &load->proved, &load->kinds);
        mg_facts_add(&proof, &load->facts);
        load->contexts_known = proof.known;
        if (proof.errors.len > 0) {
            mg_faults_join(&proof.errors, NULL, err);
            status = -1;
        }
    }
    proof_fini(&proof);
    return status;
}

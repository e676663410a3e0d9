/*
 * The proof of backends' contexts: bounds and verification, and handshakes with a server whose
 * certificate nobody knows. What a real one would have to show, only the network can tell.
 */
#include "script/internal.h"

#include <string.h>

/* Why the client got no further than it can with a server whose certificate nobody knows, or "". */
static void
client_judge(const struct mg_memory_handshake *hs, char *cause, size_t cap)
{
    const char *error = hs->client_error[0] != '\0' ? hs->client_error : hs->server_error;

    cause[0] = '\0';
    if (!hs->ok && !mg_proof_is_expected(hs->client_error))
        mg_str_copy(cause, cap, error[0] != '\0' ? error : "the handshake failed");
}

static int
client_prove(struct mg_proof *proof, SSL_CTX *client, int version, char *cause, size_t cap,
             struct mg_err *err)
{
    struct mg_memory_handshake hs = {.client = client};

    if (proof->server == NULL) /* keys take their time: one server for all */
        proof->server = mg_peer_server();
    hs.server = proof->server;
    if (hs.server == NULL || !mg_peer_limit(hs.server, version)) {
        mg_tls_err_take(err, "a server for the proof");
        return -1;
    }
    if (mg_memory_handshake(&hs, err) != 0)
        return -1;
    client_judge(&hs, cause, cap);
    X509_free(hs.server_cert);
    return 0;
}

static int
backend_prove(struct mg_proof *proof, const struct mg_proof_entry *entry, SSL_CTX *ctx,
              const char *who, struct mg_err *err)
{
    char causes[MG_PROOF_VERSIONS][256] = {""};
    const char *first = NULL;
    bool usable = mg_proof_older_enabled(ctx);

    for (int v = 0; v < MG_PROOF_VERSIONS; v++) {
        if (!entry->enabled[v])
            continue;
        if (client_prove(proof, ctx, mg_proof_version_numbers[v], causes[v], sizeof(causes[v]),
                         err) != 0)
            return -1;
        usable = usable || causes[v][0] == '\0';
        if (first == NULL && causes[v][0] != '\0')
            first = causes[v];
    }
    if (!usable) {
        mg_proof_fail(proof, "%s: no server could be reached with it: %s", who, first);
        return 0;
    }
    for (int v = 0; v < MG_PROOF_VERSIONS; v++) {
        if (causes[v][0] != '\0')
            mg_proof_warn(proof, "%s: %s: %s", who, mg_proof_version_names[v], causes[v]);
    }
    return 0;
}

int
mg_proof_client(struct mg_proof *proof, struct mg_proof_entry *entry, SSL_CTX *ctx,
                const struct mg_ssl_context_facts *facts, struct mg_err *err)
{
    char who[MG_PROOF_WHO];

    mg_proof_who(entry, who);
    for (int v = 0; v < MG_PROOF_VERSIONS; v++)
        entry->enabled[v] = mg_proof_enabled(ctx, (enum mg_proof_version)v);
    if (!entry->enabled[MG_PROOF_TLS12] && !entry->enabled[MG_PROOF_TLS13] &&
        !mg_proof_older_enabled(ctx))
        mg_proof_fail(proof,
                      "%s: no protocol version is left between min_version, max_version and "
                      "options",
                      who);
    else if (backend_prove(proof, entry, ctx, who, err) != 0)
        return -1;
    if (facts->verify_mode == SSL_VERIFY_NONE)
        mg_proof_warn(proof, "%s: verify_mode is VERIFY_NONE: whoever answers is believed", who);
    else if (!facts->verify_hostname)
        mg_proof_warn(proof, "%s: verify_hostname is false: any certificate of the CA is believed",
                      who);
    mg_proof_unproved(entry, "the backend's certificate (no network in a proof)");
    if (facts->callbacks)
        mg_proof_unproved(entry, "the script's callbacks (they are not run)");
    return mg_proof_revocation(proof, who, ctx, facts, err);
}

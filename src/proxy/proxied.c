/*
 * PROXY headers of sessions: S_PROXY, in which a proxy in front of us says who its client is; and what we say
 * of ours to a backend that wants to know.
 *
 * The happy path is: the bytes of the client are held until its header is whole; its addresses become the
 * session's, its TLVs are kept, and what follows it goes on to S_HELLO, S_HANDSHAKE or the relay. Later the
 * backend's header is made, once, when the first of its addresses has connected, and leaves in one
 * write with what is there to be sent.
 * Possible failure modes are: the bytes are no header, or not a proper one, or its sender is gone before it is
 * whole: the session closes, and nothing was looked at or relayed. Lateness is session.c's. A function of the
 * script for one of our TLVs fails: the session closes, too.
 *
 * What is passed on of a header that came: the UNIQUE_ID, which is to be the same on all the way; AUTHORITY,
 * where the client has asked us for no name; ALPN and SSL, where the TLS that they speak of has ended before us;
 * and what applications have agreed on (0xE0 to 0xEF). Not passed on is what is about the header itself (CRC32C,
 * NOOP) or the machine of its sender (NETNS), what is experimental, and what we cannot know the meaning of.
 */
#include "proxy/internal.h"

#include <openssl/evp.h>
#include <openssl/objects.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

/* ---- what came ------------------------------------------------------------------------------- */

bool
mg_session_proxy_expected(const struct mg_session *s)
{
    const struct mg_listener *l = s->listener;

    for (size_t i = 0; i < l->proxy_network_count; i++)
        if (mg_cidr_contains(&l->proxy_networks[i], s->remote))
            return true;
    return l->accept_proxy == MG_ACCEPT_PROXY_ALL;
}

void
mg_origin_free(struct mg_origin *origin)
{
    if (origin == NULL)
        return;
    mg_free(origin->socket);
    mg_free(origin->target);
    mg_free(origin);
}

const struct mg_addr *
mg_session_socket(const struct mg_session *s)
{
    return s->origin != NULL && s->origin->socket != NULL ? s->origin->socket : s->remote;
}

/* -1: no memory; then the session's addresses are what they were. */
static int
origin_take(struct mg_session *s, const struct mg_proxy_header *header)
{
    struct mg_origin *origin = mg_calloc(1, sizeof(*origin) + header->tlvs.len);
    struct mg_addr *remote;

    if (origin == NULL)
        return -1;
    origin->version = header->version;
    origin->local = header->local;
    origin->own_addresses = header->own_addresses;
    origin->tlv_len = header->tlvs.len;
    if (header->tlvs.len > 0)
        memcpy(origin->tlvs, header->tlvs.data, header->tlvs.len);
    if (!header->own_addresses) {
        remote = mg_addr_keep(&header->source);
        origin->target = mg_addr_keep(&header->destination);
        if (remote == NULL || origin->target == NULL) {
            mg_free(remote);
            mg_origin_free(origin);
            return -1;
        }
        origin->socket = s->remote;
        s->remote = remote;
    }
    s->origin = origin;
    return 0;
}

/* What came instead, as far as one byte tells; the bytes themselves may be a secret. */
static const char *
kind_of(unsigned char first)
{
    if (first == 0x16)
        return "a TLS handshake instead";
    return first >= ' ' && first <= '~' ? "text instead" : "other bytes instead";
}

static void
refuse(struct mg_session *s, const struct mg_proxy_header *header)
{
    static const char *const reasons[] = {
        [MG_PROXY_NONE] = "down: no PROXY header",
        [MG_PROXY_MALFORMED] = "down: malformed PROXY header",
        [MG_PROXY_OVERSIZE] = "down: PROXY header too long",
    };
    char detail[160];

    if (header->refusal == MG_PROXY_NONE)
        mg_str_copy(detail, sizeof(detail), kind_of((unsigned char)s->down.held[0]));
    else
        snprintf(detail, sizeof(detail), "version %u: %s", header->version, header->detail);
    mg_session_close(s, reasons[header->refusal], detail);
}

void
mg_session_proxy_input(struct mg_session *s, const unsigned char *data, size_t len)
{
    struct mg_proxy_header header;

    if (!mg_peer_hold(&s->down, data, len))
        return;
    switch (mg_proxy_read((const unsigned char *)s->down.held, s->down.held_len, &header)) {
    case MG_PROXY_MORE:
        return;
    case MG_PROXY_REFUSED:
        refuse(s, &header);
        return;
    case MG_PROXY_COMPLETE:
        break;
    }
    mg_stream_read_stop(&s->down.stream);
    if (origin_take(s, &header) != 0) {
        mg_session_close(s, "session: out of memory", NULL);
        return;
    }
    mg_peer_consume(&s->down, header.len);
    mg_session_begin(s);
}

void
mg_session_proxy_eof(struct mg_session *s)
{
    char detail[64];

    snprintf(detail, sizeof(detail), "after %zu bytes of it", s->down.held_len);
    mg_session_close(s, "down: closed before the PROXY header", detail);
}

/* ---- what a backend is told: TLS -------------------------------------------------------------- */

static void
text_tlv(struct mg_buf *out, unsigned type, const char *text)
{
    if (text != NULL && text[0] != '\0')
        mg_proxy_v2_tlv(out, type, text, strlen(text));
}

static void
common_name_tlv(struct mg_buf *out, X509 *client)
{
    X509_NAME *subject = X509_get_subject_name(client);
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    unsigned char *text = NULL;
    int len = at < 0 ? -1
                     : ASN1_STRING_to_UTF8(
                           &text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));

    if (len >= 0)
        mg_proxy_v2_tlv(out, MG_PROXY_SSL_CN, text, (size_t)len);
    OPENSSL_free(text);
}

/* Of the certificate that we have shown. "RSA-SHA256"; "RSA2048", "EC256", "ED25519". */
static void
algorithm_tlvs(struct mg_buf *out, X509 *own)
{
    EVP_PKEY *key = X509_get0_pubkey(own);
    const char *type = key != NULL ? EVP_PKEY_get0_type_name(key) : NULL;
    bool sized = type != NULL && strncmp(type, "ED", 2) != 0;
    char name[64];

    text_tlv(out, MG_PROXY_SSL_SIG_ALG, OBJ_nid2sn(X509_get_signature_nid(own)));
    if (type == NULL)
        return;
    snprintf(name, sizeof(name), "%.40s", type);
    if (sized)
        snprintf(name, sizeof(name), "%.40s%d", type, EVP_PKEY_get_bits(key));
    text_tlv(out, MG_PROXY_SSL_KEY_ALG, name);
}

/* A resumed session brings its client's certificate back, but none was shown, and none of ours either. */
static void
ssl_tlv(struct mg_buf *out, SSL *ssl)
{
    X509 *client = SSL_get0_peer_certificate(ssl);
    X509 *own = SSL_session_reused(ssl) ? NULL : SSL_get_certificate(ssl);
    unsigned flags = MG_PROXY_CLIENT_SSL;
    uint32_t verify = X509_V_ERR_UNSPECIFIED; /* no certificate was verified */
    size_t begun;

    if (client != NULL) {
        flags |= MG_PROXY_CLIENT_CERT_SESS;
        flags |= SSL_session_reused(ssl) ? 0 : MG_PROXY_CLIENT_CERT_CONN;
        verify = (uint32_t)SSL_get_verify_result(ssl);
    }
    begun = mg_proxy_v2_ssl_begin(out, flags, verify);
    text_tlv(out, MG_PROXY_SSL_VERSION, SSL_get_version(ssl));
    if (client != NULL)
        common_name_tlv(out, client);
    text_tlv(out, MG_PROXY_SSL_CIPHER, SSL_get_cipher_name(ssl));
    if (own != NULL)
        algorithm_tlvs(out, own);
    mg_proxy_v2_ssl_end(out, begun);
}

/* ---- what a backend is told ------------------------------------------------------------------- */

static struct mg_proxy_tlvs
tlvs_of(const struct mg_session *s)
{
    if (s->origin == NULL)
        return (struct mg_proxy_tlvs){NULL, 0};
    return (struct mg_proxy_tlvs){s->origin->tlvs, s->origin->tlv_len};
}

static void
pass_on(const struct mg_session *s, struct mg_buf *out, unsigned type)
{
    struct mg_proxy_tlv tlv;

    if (mg_proxy_tlv_find(tlvs_of(s), type, &tlv))
        mg_proxy_v2_tlv(out, type, tlv.value, tlv.len);
}

static void
alpn_add(const struct mg_session *s, struct mg_buf *out)
{
    const unsigned char *chosen;
    unsigned len;

    if (s->down.tls.ssl == NULL) {
        pass_on(s, out, MG_PROXY_ALPN);
        return;
    }
    SSL_get0_alpn_selected(s->down.tls.ssl, &chosen, &len);
    if (len > 0)
        mg_proxy_v2_tlv(out, MG_PROXY_ALPN, chosen, len);
}

static void
authority_add(const struct mg_session *s, struct mg_buf *out)
{
    const char *name = s->servername; /* of what is passed through */

    if (s->down.tls.ssl != NULL)
        name = SSL_get_servername(s->down.tls.ssl, TLSEXT_NAMETYPE_host_name);
    if (name != NULL)
        text_tlv(out, MG_PROXY_AUTHORITY, name);
    else
        pass_on(s, out, MG_PROXY_AUTHORITY);
}

void
mg_session_unique_id(const struct mg_session *s, struct mg_buf *out)
{
    struct mg_proxy_tlv tlv;

    if (mg_proxy_tlv_find(tlvs_of(s), MG_PROXY_UNIQUE_ID, &tlv) && tlv.len > 0)
        mg_buf_add(out, tlv.value, tlv.len);
    else
        mg_buf_addf(out, "%016llx-%llu", (unsigned long long)s->engine->instance,
                    (unsigned long long)s->id);
}

static void
unique_id_add(const struct mg_session *s, struct mg_buf *out)
{
    struct mg_buf id = {0};

    mg_session_unique_id(s, &id);
    out->failed = out->failed || id.failed;
    mg_proxy_v2_tlv(out, MG_PROXY_UNIQUE_ID, id.data, id.len);
    mg_buf_free(&id);
}

static bool
is_own(const struct mg_backend *backend, unsigned type)
{
    for (size_t i = 0; i < backend->proxy_tlv_count; i++)
        if (backend->proxy_tlvs[i].type == type)
            return true;
    return false;
}

/* What applications have agreed on, unless the script says something else for that type. */
static void
customs_pass_on(const struct mg_session *s, struct mg_buf *out)
{
    struct mg_proxy_tlvs list = tlvs_of(s);
    struct mg_proxy_tlv tlv;

    while (mg_proxy_tlv_next(&list, &tlv))
        if (tlv.type >= MG_PROXY_CUSTOM_FIRST && tlv.type <= MG_PROXY_CUSTOM_LAST &&
            !is_own(s->backend, tlv.type))
            mg_proxy_v2_tlv(out, tlv.type, tlv.value, tlv.len);
}

static int
custom_ask(struct mg_session *s, const struct mg_backend_tlv *tlv, struct mg_buf *out,
           struct mg_err *err)
{
    const struct mg_policy *policy = s->config->policy;
    struct mg_buf value = {0};
    int rc = policy->proxy_tlv(s->config->policy_data, s, s->backend, tlv->type, &value, err);

    out->failed = out->failed || value.failed;
    if (rc > 0)
        mg_proxy_v2_tlv(out, tlv->type, value.data, value.len);
    mg_buf_free(&value);
    return rc < 0 ? -1 : 0;
}

static int
customs_add(struct mg_session *s, struct mg_buf *out, struct mg_err *err)
{
    for (size_t i = 0; i < s->backend->proxy_tlv_count; i++) {
        const struct mg_backend_tlv *tlv = &s->backend->proxy_tlvs[i];

        if (!tlv->asked)
            mg_proxy_v2_tlv(out, tlv->type, tlv->value, tlv->len);
        else if (custom_ask(s, tlv, out, err) != 0)
            return -1;
    }
    return 0;
}

/* NULL, or why there is no header. */
static const char *
v2_fill(struct mg_session *s, const struct mg_addr *local, struct mg_buf *out, struct mg_err *err)
{
    if (!mg_proxy_v2_begin(out, s->remote, local))
        return NULL;
    alpn_add(s, out);
    authority_add(s, out);
    unique_id_add(s, out);
    if (s->down.tls.ssl != NULL)
        ssl_tlv(out, s->down.tls.ssl);
    else
        pass_on(s, out, MG_PROXY_SSL);
    customs_pass_on(s, out);
    if (customs_add(s, out, err) != 0)
        return "up: callback failed";
    if (mg_proxy_v2_end(out) == 0 || out->failed)
        return NULL;
    mg_err_setx(err, "it is longer than %u bytes", MG_PROXY_HEADER_MAX);
    return "up: no PROXY header";
}

bool
mg_backend_proxy_waits(const struct mg_backend *backend)
{
    return backend->send_proxy == 2;
}

int
mg_session_proxy_header(struct mg_session *s, struct mg_buf *out)
{
    struct mg_addr local;
    struct mg_err err = {{0}};
    const char *reason = NULL;

    if (s->backend->send_proxy == 0)
        return 0;
    mg_session_local(s, &local);
    if (s->backend->send_proxy == 2)
        reason = v2_fill(s, &local, out, &err);
    else
        mg_proxy_write_v1(out, s->remote, &local);
    if (reason == NULL && !out->failed)
        return 0;
    mg_buf_free(out);
    mg_session_close(s, reason != NULL ? reason : "session: out of memory",
                     reason != NULL ? err.text : NULL);
    return -1;
}

/*
 * The access record: one line per connection, whether it succeeded or not, made at the moment of
 * its close, while the SSL objects can still be asked. Text is key=value, with the value as a JSON
 * string where it has more than plain characters; JSON is one object. A field that has nothing to
 * say is left out.
 */
#include "proxy/internal.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/objects.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

#define LOST_QUIET_MS 1000 /* after the last lost record */

struct record {
    struct mg_buf line;
    bool json;
};

/* ---- fields ---------------------------------------------------------------------------------- */

static void
field_name(struct record *r, const char *name)
{
    if (r->line.len > (r->json ? 1 : 0))
        mg_buf_adds(&r->line, r->json ? "," : " ");
    mg_buf_addf(&r->line, r->json ? "\"%s\":" : "%s=", name);
}

static bool
is_plain(const char *text)
{
    for (; *text != '\0'; text++)
        if (*text <= ' ' || *text > '~' || strchr("\"\\=", *text) != NULL)
            return false;
    return true;
}

static void
field_text(struct record *r, const char *name, const char *text)
{
    if (text == NULL || text[0] == '\0')
        return;
    field_name(r, name);
    if (!r->json && is_plain(text))
        mg_buf_adds(&r->line, text);
    else
        mg_buf_add_json(&r->line, text, strlen(text));
}

static void
field_number(struct record *r, const char *name, uint64_t value)
{
    field_name(r, name);
    mg_buf_addf(&r->line, "%llu", (unsigned long long)value);
}

static void
field_ms(struct record *r, const char *name, uint64_t us)
{
    field_name(r, name);
    mg_buf_addf(&r->line, "%llu.%03llu", (unsigned long long)(us / 1000),
                (unsigned long long)(us % 1000));
}

static void
field_addr(struct record *r, const char *name, const struct mg_addr *addr)
{
    char text[MG_ADDR_TEXT];

    if (addr != NULL && addr->len > 0)
        field_text(r, name, mg_addr_text(addr, text));
}

static void
field_alert(struct record *r, const char *name, int alert)
{
    if (alert >= 0)
        field_text(r, name, mg_tls_alert_name(alert));
}

/* ---- TLS ------------------------------------------------------------------------------------- */

/* The registry's name of what our certificate signed with, put together as libssl has no such
 * reader. */
static void
sigalg_field(struct record *r, SSL *ssl)
{
    X509 *cert = SSL_get_certificate(ssl);
    int type, hash;
    char digest[16], name[40];

    if (SSL_session_reused(ssl) || cert == NULL || !SSL_get_signature_type_nid(ssl, &type))
        return;
    if (!SSL_get_signature_nid(ssl, &hash))
        hash = NID_undef;
    snprintf(digest, sizeof(digest), "%s", hash != NID_undef ? OBJ_nid2ln(hash) : "");
    switch (type) {
    case EVP_PKEY_RSA_PSS:
        snprintf(name, sizeof(name), "rsa_pss_%s_%s",
                 EVP_PKEY_is_a(X509_get0_pubkey(cert), "RSA-PSS") ? "pss" : "rsae", digest);
        break;
    case EVP_PKEY_RSA:
        snprintf(name, sizeof(name), "rsa_pkcs1_%s", digest);
        break;
    case EVP_PKEY_EC:
        snprintf(name, sizeof(name), "ecdsa_%s%s",
                 hash == NID_sha256   ? "secp256r1_"
                 : hash == NID_sha384 ? "secp384r1_"
                 : hash == NID_sha512 ? "secp521r1_"
                                      : "",
                 digest);
        break;
    default:
        snprintf(name, sizeof(name), "%s", OBJ_nid2ln(type));
        break;
    }
    for (char *c = name; *c != '\0'; c++)
        *c = mg_ascii_lower(*c);
    field_text(r, "sigalg", name);
}

static void
alpn_field(struct record *r, const SSL *ssl)
{
    const unsigned char *chosen;
    unsigned len;
    struct mg_buf text = {0};

    SSL_get0_alpn_selected(ssl, &chosen, &len);
    if (len == 0)
        return;
    mg_buf_add_printable(&text, (const char *)chosen, len);
    if (!text.failed)
        field_text(r, "alpn", text.data);
    mg_buf_free(&text);
}

/* Also of one that was refused, of which only the chain that was looked at is there: who it claims to be. */
static X509 *
client_cert(const SSL *ssl)
{
    X509 *cert = SSL_get0_peer_certificate(ssl);

    return cert != NULL ? cert : sk_X509_value(SSL_get0_verified_chain(ssl), 0);
}

static void
client_cert_fields(struct record *r, SSL *ssl)
{
    X509 *cert = client_cert(ssl);
    BIO *subject = cert != NULL ? BIO_new(BIO_s_mem()) : NULL;
    unsigned char digest[EVP_MAX_MD_SIZE];
    char hex[2 * EVP_MAX_MD_SIZE + 1] = "";
    unsigned len;

    if (subject == NULL)
        return;
    if (X509_NAME_print_ex(subject, X509_get_subject_name(cert), 0,
                           XN_FLAG_RFC2253 & ~(unsigned long)ASN1_STRFLGS_ESC_MSB) >= 0 &&
        BIO_write(subject, "", 1) == 1) {
        char *text;

        BIO_get_mem_data(subject, &text);
        field_text(r, "client_subject", text);
    }
    BIO_free(subject);
    if (!X509_digest(cert, EVP_sha256(), digest, &len))
        return;
    for (unsigned i = 0; i < len; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    field_text(r, "client_sha256", hex);
}

static void
down_tls_fields(struct record *r, const struct mg_tls_conn *tls)
{
    SSL *ssl = tls->ssl;
    int group;

    field_text(r, "sni", SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name));
    field_text(r, "alpn_offered", tls->alpn_offered);
    field_text(r, "ja4", tls->ja4);
    if (tls->handshake_done) {
        alpn_field(r, ssl);
        field_text(r, "version", SSL_get_version(ssl));
        field_text(r, "cipher", SSL_get_cipher_name(ssl));
        group = (int)SSL_get_negotiated_group(ssl);
        field_text(r, "group", group > 0 ? SSL_group_to_name(ssl, group) : NULL);
        sigalg_field(r, ssl);
        field_text(r, "resumed", SSL_session_reused(ssl) ? "yes" : "no");
    }
    client_cert_fields(r, ssl);
    field_alert(r, "alert_sent", tls->alert_sent);
    field_alert(r, "alert_received", tls->alert_received);
}

/* Of a connection whose ClientHello came to nothing here. */
static void
hello_fields(struct record *r, const struct mg_session *s)
{
    field_text(r, "sni", s->servername);
    field_text(r, "alpn_offered", s->down.tls.alpn_offered);
    field_text(r, "ja4", s->down.tls.ja4);
    if (s->passed)
        field_text(r, "passthrough", "yes");
    field_alert(r, "alert_sent", s->down.tls.alert_sent);
}

static void
up_tls_fields(struct record *r, const struct mg_tls_conn *tls)
{
    if (tls->handshake_done) {
        field_text(r, "backend_version", SSL_get_version(tls->ssl));
        field_text(r, "backend_cipher", SSL_get_cipher_name(tls->ssl));
    }
    field_alert(r, "backend_alert_sent", tls->alert_sent);
    field_alert(r, "backend_alert_received", tls->alert_received);
}

/* ---- the PROXY header ------------------------------------------------------------------------ */

/* So much of a header's TLVs is told: bytes of each value, bytes of the whole text. */
#define TLV_BYTES_MAX 256u
#define TLV_TEXT_MAX  2048u

/* "0x02=example.com 0x05=…", unprintable bytes escaped. */
static void
tlvs_field(struct record *r, const struct mg_origin *origin)
{
    struct mg_proxy_tlvs list = {origin->tlvs, origin->tlv_len};
    struct mg_proxy_tlv tlv;
    struct mg_buf text = {0};

    while (text.len < TLV_TEXT_MAX && mg_proxy_tlv_next(&list, &tlv)) {
        mg_buf_addf(&text, "%s0x%02X=", text.len > 0 ? " " : "", tlv.type);
        mg_buf_add_printable(&text, (const char *)tlv.value,
                             tlv.len < TLV_BYTES_MAX ? tlv.len : TLV_BYTES_MAX);
    }
    if (!text.failed)
        field_text(r, "proxy_tlvs", text.data);
    mg_buf_free(&text);
}

static void
proxy_fields(struct record *r, const struct mg_session *s)
{
    const struct mg_origin *origin = s->origin;
    struct mg_buf id = {0};

    if (origin != NULL) {
        field_text(r, "proxy", origin->version == 1 ? "v1" : "v2");
        if (origin->own_addresses)
            field_text(r, "proxy_command",
                       origin->local          ? "LOCAL"
                       : origin->version == 1 ? "UNKNOWN"
                                              : "UNSPEC");
        field_addr(r, "socket", mg_session_socket(s));
        tlvs_field(r, origin);
    }
    if (s->backend == NULL || s->backend->send_proxy != 2 || s->remote == NULL ||
        s->remote->u.sa.sa_family == AF_UNIX)
        return;
    mg_session_unique_id(s, &id);
    if (!id.failed) { /* one that came may be any bytes */
        struct mg_buf text = {0};

        mg_buf_add_printable(&text, id.data, id.len);
        field_text(r, "unique_id", text.data);
        mg_buf_free(&text);
    }
    mg_buf_free(&id);
}

/* ---- the record ------------------------------------------------------------------------------ */

static void
record_fill(struct record *r, const struct mg_session *s)
{
    struct mg_addr local;
    char time[32];

    mg_session_local(s, &local);
    mg_time_text(time);
    field_text(r, "time", time);
    field_number(r, "id", s->id);
    field_text(r, "listener", s->listener->name);
    field_number(r, "generation", s->config->generation);
    field_addr(r, "remote", s->remote);
    field_addr(r, "local", &local);
    proxy_fields(r, s);
    if (s->down.tls.ssl != NULL)
        down_tls_fields(r, &s->down.tls);
    else if (s->down.deciding || s->passed)
        hello_fields(r, s);
    else if (s->plain)
        field_text(r, "plaintext", "yes");
    if (s->backend != NULL)
        field_text(r, "backend", s->backend->name);
    field_addr(r, "backend_address", s->up_addr);
    if (s->tries + mg_dial_trying(s) > 0)
        field_number(r, "tries", s->tries + mg_dial_trying(s));
    field_text(r, "failures", s->failures);
    if (s->up.tls.ssl != NULL)
        up_tls_fields(r, &s->up.tls);
    field_number(r, "bytes_up", s->bytes_up);
    field_number(r, "bytes_down", s->bytes_down);
    if (s->hello_us > 0)
        field_ms(r, "hello_ms", s->hello_us);
    if (s->down.tls.ssl != NULL && s->down.tls.handshake_done)
        field_ms(r, "handshake_ms", s->handshake_us);
    if (s->connected)
        field_ms(r, "connect_ms", s->connect_us);
    field_ms(r, "total_ms", (mg_now_ns() - s->born_ns) / 1000);
    field_text(r, "reason", s->reason);
    field_text(r, "detail", s->detail);
}

/* Said once; a reader that takes one now and then has not recovered. */
static void
lost(struct mg_engine *engine, int error)
{
    if (engine->records_lost++ == 0)
        mg_log(MG_LOG_WARN, "access log: %s; records are lost",
               error == EAGAIN ? "its reader does not keep up" : strerror(error));
    engine->records_lost_at = uv_now(engine->net.loop);
}

static void
kept(struct mg_engine *engine)
{
    if (engine->records_lost == 0 ||
        uv_now(engine->net.loop) - engine->records_lost_at < LOST_QUIET_MS)
        return;
    mg_log(MG_LOG_WARN, "access log: goes on; %llu records were lost",
           (unsigned long long)engine->records_lost);
    engine->records_lost = 0;
}

void
mg_record_write(const struct mg_session *s)
{
    int fd = s->engine->options.access_fd;
    struct record r = {.json = s->engine->options.access_format == MG_LOG_JSON};

    if (fd < 0)
        return;
    if (r.json)
        mg_buf_adds(&r.line, "{");
    record_fill(&r, s);
    mg_buf_adds(&r.line, r.json ? "}\n" : "\n");
    if (r.line.failed)
        mg_log(MG_LOG_WARN, "access record of connection %llu: out of memory",
               (unsigned long long)s->id);
    else if (mg_fd_write_now(fd, r.line.data, r.line.len) != 0)
        lost(s->engine, errno);
    else
        kept(s->engine);
    mg_buf_free(&r.line);
}

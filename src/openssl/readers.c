/*
 * readers: what Ruby's SSLSocket tells about a connection, by name. Every reader is safe before the
 * handshake and after the connection is closed.
 */
#include "openssl/internal.h"

#include <string.h>

static void
push_text_or_nil(lua_State *L, const char *text)
{
    if (text)
        lua_pushstring(L, text);
    else
        lua_pushnil(L);
}

static void
push_x509_or_nil(lua_State *L, X509 *x509)
{
    if (x509)
        mg_lua_push_x509(L, x509);
    else
        lua_pushnil(L);
}

void
mg_lua_push_cipher(lua_State *L, const SSL_CIPHER *cipher)
{
    int alg_bits = 0, bits = SSL_CIPHER_get_bits(cipher, &alg_bits);
    lua_createtable(L, 4, 0);
    lua_pushstring(L, SSL_CIPHER_get_name(cipher));
    lua_rawseti(L, -2, 1);
    lua_pushstring(L, SSL_CIPHER_get_version(cipher));
    lua_rawseti(L, -2, 2);
    lua_pushinteger(L, bits);
    lua_rawseti(L, -2, 3);
    lua_pushinteger(L, alg_bits);
    lua_rawseti(L, -2, 4);
}

static void
read_ssl_version(lua_State *L, SSL *ssl)
{
    lua_pushstring(L, SSL_get_version(ssl));
}

static void
read_cipher(lua_State *L, SSL *ssl)
{
    const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl);
    if (cipher)
        mg_lua_push_cipher(L, cipher);
    else
        lua_pushnil(L);
}

static void
read_alpn_protocol(lua_State *L, SSL *ssl)
{
    const unsigned char *name;
    unsigned len;
    SSL_get0_alpn_selected(ssl, &name, &len);
    if (len > 0)
        lua_pushlstring(L, (const char *)name, len);
    else
        lua_pushnil(L);
}

void
mg_protocols_push(lua_State *L, const char *text)
{
    lua_newtable(L);
    for (lua_Integer i = 1; text && *text; i++) {
        size_t len = strcspn(text, ",");
        lua_pushlstring(L, text, len);
        lua_rawseti(L, -2, i);
        text += len + (text[len] == ',');
    }
}

/* What the client offered, on a server that keeps it. */
static void
read_alpn_protocols(lua_State *L, SSL *ssl)
{
    const struct mg_tls_conn *conn = mg_tls_conn_of(ssl);
    if (SSL_is_server(ssl) && conn)
        mg_protocols_push(L, conn->alpn_offered);
    else
        lua_pushnil(L);
}

#ifdef MG_HAVE_NPN
static void
read_npn_protocol(lua_State *L, SSL *ssl)
{
    const unsigned char *name;
    unsigned len;
    SSL_get0_next_proto_negotiated(ssl, &name, &len);
    if (len > 0)
        lua_pushlstring(L, (const char *)name, len);
    else
        lua_pushnil(L);
}
#endif

static void
read_servername(lua_State *L, SSL *ssl)
{
    push_text_or_nil(L, SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name));
}

static void
read_cert(lua_State *L, SSL *ssl)
{
    push_x509_or_nil(L, SSL_get_certificate(ssl));
}

static void
read_peer_cert(lua_State *L, SSL *ssl)
{
    push_x509_or_nil(L, SSL_get0_peer_certificate(ssl));
}

static void
read_peer_cert_chain(lua_State *L, SSL *ssl)
{
    mg_lua_push_x509_list(L, SSL_get_peer_cert_chain(ssl));
}

static void
read_verify_result(lua_State *L, SSL *ssl)
{
    lua_pushinteger(L, SSL_get_verify_result(ssl));
}

static void
read_session(lua_State *L, SSL *ssl)
{
    SSL_SESSION *session = SSL_get_session(ssl);
    if (session)
        mg_lua_push_ssl_session(L, session);
    else
        lua_pushnil(L);
}

static void
read_session_reused(lua_State *L, SSL *ssl)
{
    lua_pushboolean(L, SSL_session_reused(ssl));
}

static void
pkey_free(void *key)
{
    EVP_PKEY_free(key);
}

static void
read_tmp_key(lua_State *L, SSL *ssl)
{
    struct mg_box *box = mg_box_push(L, pkey_free);
    EVP_PKEY *key = NULL;

    /* Both sides' word for it: the server's key in TLS 1.2 and, on either side, the peer's share. A copy,
     * because the connection's own is wiped (mg_tls_conn_wipe_keys). */
    if (SSL_get_session(ssl) && SSL_get_peer_tmp_key(ssl, &key) == 1 && key) {
        box->ptr = EVP_PKEY_dup(key);
        EVP_PKEY_free(key);
    }
    if (box->ptr != NULL) {
        mg_lua_push_pkey(L, box->ptr);
    } else {
        ERR_clear_error();
        lua_pushnil(L);
    }
    mg_box_free(box);
    lua_remove(L, -2);
}

/* The IANA name of a TLS 1.2/1.3 signature scheme, from its parts where OpenSSL has no name reader.
 */
static const char *
signature_name(int hash_nid, int type_nid)
{
    static const struct {
        int hash, type;
        const char *name;
    } names[] = {
        {NID_sha256, EVP_PKEY_RSA, "rsa_pkcs1_sha256"},
        {NID_sha384, EVP_PKEY_RSA, "rsa_pkcs1_sha384"},
        {NID_sha512, EVP_PKEY_RSA, "rsa_pkcs1_sha512"},
        {NID_sha1, EVP_PKEY_RSA, "rsa_pkcs1_sha1"},
        {NID_sha256, EVP_PKEY_RSA_PSS, "rsa_pss_rsae_sha256"},
        {NID_sha384, EVP_PKEY_RSA_PSS, "rsa_pss_rsae_sha384"},
        {NID_sha512, EVP_PKEY_RSA_PSS, "rsa_pss_rsae_sha512"},
        {NID_sha256, EVP_PKEY_EC, "ecdsa_secp256r1_sha256"},
        {NID_sha384, EVP_PKEY_EC, "ecdsa_secp384r1_sha384"},
        {NID_sha512, EVP_PKEY_EC, "ecdsa_secp521r1_sha512"},
        {NID_sha1, EVP_PKEY_EC, "ecdsa_sha1"},
        {NID_undef, EVP_PKEY_ED25519, "ed25519"},
        {NID_undef, EVP_PKEY_ED448, "ed448"},
    };
    for (size_t i = 0; i < MG_ARRAY_LEN(names); i++)
        if (names[i].type == type_nid && (names[i].hash == hash_nid || names[i].hash == NID_undef))
            return names[i].name;
    return NULL;
}

static void
read_sigalg(lua_State *L, SSL *ssl)
{
#ifdef MG_HAVE_SSL_SIGNATURE_NAME
    const char *name = NULL;
    if (SSL_get0_signature_name(ssl, &name) == 1) {
        push_text_or_nil(L, name);
        return;
    }
#endif
    int hash = NID_undef, type = NID_undef;
    bool known = SSL_get_signature_type_nid(ssl, &type) == 1;
    if (known)
        SSL_get_signature_nid(ssl, &hash);
    ERR_clear_error();
    push_text_or_nil(L, known ? signature_name(hash, type) : NULL);
}

static void
read_peer_sigalg(lua_State *L, SSL *ssl)
{
#ifdef MG_HAVE_SSL_SIGNATURE_NAME
    const char *name = NULL;
    if (SSL_get0_peer_signature_name(ssl, &name) == 1) {
        push_text_or_nil(L, name);
        return;
    }
#endif
    int hash = NID_undef, type = NID_undef;
    bool known = SSL_get_peer_signature_type_nid(ssl, &type) == 1;
    if (known)
        SSL_get_peer_signature_nid(ssl, &hash);
    ERR_clear_error();
    push_text_or_nil(L, known ? signature_name(hash, type) : NULL);
}

static void
read_group(lua_State *L, SSL *ssl)
{
    const char *name = NULL;
    if (SSL_get_session(ssl)) {
#ifdef MG_HAVE_SSL_GROUP_NAME
        name = SSL_get0_group_name(ssl);
#else
        long nid = SSL_get_negotiated_group(ssl);
        if (nid > 0)
            name = SSL_group_to_name(ssl, (int)nid);
#endif
    }
    ERR_clear_error();
    push_text_or_nil(L, name);
}

static void
read_state(lua_State *L, SSL *ssl)
{
    lua_pushstring(L, SSL_state_string(ssl));
}

static void
read_pending(lua_State *L, SSL *ssl)
{
    lua_pushinteger(L, SSL_pending(ssl));
}

static void
finished_push(lua_State *L, const SSL *ssl, size_t (*read)(const SSL *ssl, void *buf, size_t count))
{
    unsigned char message[EVP_MAX_MD_SIZE];
    size_t len = read(ssl, message, sizeof(message));
    if (len > 0)
        lua_pushlstring(L, (const char *)message, len < sizeof(message) ? len : sizeof(message));
    else
        lua_pushnil(L);
}

static void
read_finished_message(lua_State *L, SSL *ssl)
{
    finished_push(L, ssl, SSL_get_finished);
}

static void
read_peer_finished_message(lua_State *L, SSL *ssl)
{
    finished_push(L, ssl, SSL_get_peer_finished);
}

static void
read_client_ca(lua_State *L, SSL *ssl)
{
    const STACK_OF(X509_NAME) *names = SSL_get_client_CA_list(ssl);
    lua_newtable(L);
    for (int i = 0; names && i < sk_X509_NAME_num(names); i++) {
        mg_lua_push_name(L, sk_X509_NAME_value(names, i));
        lua_rawseti(L, -2, i + 1);
    }
}

/* On a server what it has sent, on a client what has come. */
static void
read_ocsp_response(lua_State *L, SSL *ssl)
{
    const unsigned char *der = NULL;
    long len = SSL_get_tlsext_status_ocsp_resp(ssl, &der);
    if (der && len > 0)
        lua_pushlstring(L, (const char *)der, (size_t)len);
    else
        lua_pushnil(L);
}

#define READER_NAME(name)     #name,
#define READER_FUNCTION(name) read_##name,

const char *const mg_ssl_reader_names[] = {MG_SSL_READERS(READER_NAME) NULL};

static void (*const reader_functions[])(lua_State *L, SSL *ssl) = {MG_SSL_READERS(READER_FUNCTION)};

bool
mg_ssl_reader_push(lua_State *L, struct mg_tls_conn *conn, const char *name)
{
    for (size_t i = 0; mg_ssl_reader_names[i]; i++) {
        if (strcmp(mg_ssl_reader_names[i], name) != 0)
            continue;
        if (conn->ssl)
            reader_functions[i](L, conn->ssl);
        else
            lua_pushnil(L);
        return true;
    }
    return false;
}

/*
 * What the files of this room share. Everything below raises Lua errors unless it says otherwise; nothing
 * here may be called from OpenSSL's stack except through mg_callback_call.
 */
#ifndef MG_OPENSSL_INTERNAL_H
#define MG_OPENSSL_INTERNAL_H

#include "openssl/binding.h"

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

/* ---- state: one per lua_State --------------------------------------------------------------- */

/*
 * The way from an SSL_CTX back to Lua. Every context of a state holds a reference through its ex_data;
 * lua_close sets L to NULL, so that a context which outlives its state finds nobody instead of freed
 * memory. A state and its contexts belong to one thread at a time, so the count is not atomic.
 */
struct mg_lua_link {
    lua_State
        *L; /* the coroutine a handshake runs in, else the main thread; NULL after lua_close */
    const struct mg_openssl_hooks *hooks; /* in the state's userdata, valid while L is set */
    unsigned refs;
    lua_Integer contexts; /* how many were made */
    lua_Integer alive;    /* of them, not yet collected */
    lua_Integer settled;  /* how many were alive when the collector had last gone round ... */
    lua_Integer grown;    /* ... and how many were made since */
};

struct mg_lua_link *mg_lua_link(lua_State *L);
void mg_lua_link_unref(struct mg_lua_link *link);

/* ---- class.c: what methods and constructors say about their arguments ----------------------- */

/* Pushes fn as a function that knows its name for errors: "Certificate.new", "SSLContext:setup". */
void mg_function_push(lua_State *L, const char *name, lua_CFunction fn);

/* Pushes a table of functions "cls.name"; ended by a NULL name. */
void mg_functions_push(lua_State *L, const char *cls, const luaL_Reg *functions);

/* The name given to the running function, or what Lua knows of it. */
const char *mg_function_name(lua_State *L);

/* ArgumentError unless min..max arguments were given, self not counted. */
void mg_check_count(lua_State *L, int min, int max);

/* As luaL_check*, but naming the function and the type; strings are never numbers, nor numbers strings. */
const char *mg_check_string(lua_State *L, int arg, size_t *len);
lua_Integer mg_check_integer(lua_State *L, int arg);
bool mg_check_boolean(lua_State *L, int arg);
void mg_check_table(lua_State *L, int arg);
const char *mg_opt_string(lua_State *L, int arg, size_t *len); /* NULL for nil and none */

/* A string without a NUL inside, as OpenSSL's char * functions need it. */
const char *mg_check_text(lua_State *L, int arg);

/* For the __index of a table of names: raises "where.VERIFY_PEERS: no such name (did you mean …?)". */
MG_NORETURN void mg_name_missing(lua_State *L, const char *where);

/* The table on top, and tables of names inside it, raise that for a name they do not have: a mistyped
 * constant must not be nil. One with a metatable of its own is left alone. */
void mg_names_close(lua_State *L, const char *where);

/* "Certificate", "string", "no value": what errors call the value at idx. */
const char *mg_type_name(lua_State *L, int idx);

/* TypeError "name: argument 2: expected X, got Y" for a function. */
MG_NORETURN void mg_argument_type_error(lua_State *L, int arg, const char *expected);

/* ---- error.c -------------------------------------------------------------------------------- */

/* TypeError "cls.name: expected X, got Y". */
MG_NORETURN void mg_attr_type_error(lua_State *L, int idx, const char *cls, const char *name,
                                    const char *expected);

/* An integer as Ruby takes it: a float is truncated. */
lua_Integer mg_attr_integer(lua_State *L, int idx, const char *cls, const char *name);

/* A string without a NUL inside. */
const char *mg_attr_text(lua_State *L, int idx, const char *cls, const char *name);

/* Puts `where` in front of the error value at idx if it is ours and has no position yet. */
void mg_lua_error_locate(lua_State *L, int idx, const char *where);

/* "script.lua:12:" of the innermost Lua function, or "". Pushes it. */
const char *mg_lua_where_push(lua_State *L);

/* openssl.errors(): the queue as a list of strings, emptied. For specs. */
int mg_lua_errors(lua_State *L);

/* ---- convert.c: values between OpenSSL and Lua ---------------------------------------------- */

/* A value that OpenSSL allocates and that must survive a Lua error: freed by the collector, or at once by
 * mg_box_free. */
struct mg_box {
    void *ptr;
    void (*free)(void *ptr);
};
struct mg_box *mg_box_push(lua_State *L, void (*free_fn)(void *ptr));
void mg_box_free(struct mg_box *box);

/* A growing buffer with the lifetime of a box; wiped when freed. */
struct mg_buf *mg_box_push_buf(lua_State *L);

/* A read-only BIO over bytes that stay on the Lua stack; box owns it. */
BIO *mg_box_push_bio(lua_State *L, const void *data, size_t len);

/* A memory BIO to write to, and its content as a string. */
BIO *mg_box_push_mem(lua_State *L);
void mg_push_mem(lua_State *L, BIO *bio);

/* Unix seconds, or nil for a time that is missing or unreadable. */
void mg_push_time(lua_State *L, const ASN1_TIME *time);

/* A serial number as upper-case hexadecimal. */
void mg_push_serial(lua_State *L, const ASN1_INTEGER *serial);

/* Reads path through the hooks and leaves the buffer's box on the stack. */
struct mg_buf *mg_file_push(lua_State *L, const char *cls, const char *what, const char *path);

/* The passphrase callback of everything that is not a key: there is none, and no terminal is asked. */
int mg_no_passphrase(char *buf, int size, int writing, void *data);

/* Whether data holds PEM rather than DER. */
bool mg_is_pem(const char *data, size_t len);

/* ---- x509 ----------------------------------------------------------------------------------- */

extern const struct mg_class mg_certificate_class, mg_name_class, mg_extension_class,
    mg_store_class, mg_store_context_class, mg_crl_class, mg_revoked_class, mg_pkey_class,
    mg_ssl_context_class;

/* Objects hold one reference; the pointer is NULL only before construction is complete. */
struct mg_certificate {
    X509 *x509;
    bool shared; /* a context, a store or a connection has it too: it can no longer be changed */
};
struct mg_crl {
    X509_CRL *crl;
    bool shared; /* a store has it too: it can no longer be changed */
};
struct mg_revoked {
    X509_REVOKED *revoked;
};
struct mg_name {
    X509_NAME *name;
};
struct mg_extension {
    X509_EXTENSION *ext;
};
struct mg_store {
    X509_STORE *store;
    int purpose, trust; /* as assigned: OpenSSL 3.0 has no readers */
    int error;          /* of the last verify */
    bool frozen;        /* a frozen context verifies with it */
};
struct mg_store_context {
    X509_STORE_CTX *ctx; /* borrowed: closed when the callback returns */
};

extern const luaL_Reg mg_certificate_functions[], mg_name_functions[], mg_extension_functions[],
    mg_store_functions[], mg_crl_functions[], mg_revoked_functions[];

/* Writers of Certificate (x509_build.c): what its rows and methods need for building and signing. */
void mg_x509_set_version(lua_State *L, void *self, int value);
void mg_x509_set_serial(lua_State *L, void *self, int value);
void mg_x509_set_subject(lua_State *L, void *self, int value);
void mg_x509_set_issuer(lua_State *L, void *self, int value);
void mg_x509_set_not_before(lua_State *L, void *self, int value);
void mg_x509_set_not_after(lua_State *L, void *self, int value);
void mg_x509_set_public_key(lua_State *L, void *self, int value);
int mg_x509_add_extension(lua_State *L);
int mg_x509_sign(lua_State *L);

/* Rows of Certificate for rules about peers (x509_facts.c). */
extern const struct mg_attr mg_certificate_facts[];

/* A hexadecimal string, as the readers give it, or an integer; a time in seconds. Pushes its boxes. */
const ASN1_INTEGER *mg_attr_serial(lua_State *L, int value, const char *cls, const char *name);
const ASN1_TIME *mg_attr_time(lua_State *L, int value, const char *cls, const char *name);

/* Takes a signature that failed away: its length may be -1, where ECDSA had no memory at the end. */
void mg_signature_drop(const ASN1_BIT_STRING *failed);

/* Replaces a fresh signature, in place, by the one that this run of the script is to have. */
void mg_signature_keep(lua_State *L, const ASN1_BIT_STRING *fresh);

X509 *mg_x509_test(lua_State *L, int idx);  /* NULL if it is something else */
X509 *mg_x509_share(lua_State *L, int idx); /* likewise, for keeping: freezes the Certificate */
void mg_x509_parse_all(lua_State *L, const char *cls, const char *what, const char *data,
                       size_t len);

void mg_lua_push_x509_list(lua_State *L, const STACK_OF(X509) * certs); /* nil for NULL */
void mg_lua_push_name(lua_State *L, const X509_NAME *name);
void mg_lua_push_extension(lua_State *L, X509_EXTENSION *ext);
void mg_lua_push_extensions(lua_State *L, const STACK_OF(X509_EXTENSION) * list);
void mg_lua_push_crl(lua_State *L, X509_CRL *crl);
X509_CRL *mg_crl_share(lua_State *L, int arg); /* checks, and freezes the CRL */

/* The CRL of an encoding, from the process's cache (pem.c) if it was read before; a reference. NULL: it is
 * none, OpenSSL's queue says why. */
X509_CRL *mg_pem_crl(const unsigned char *der, long len);

/* Pushes the list of CRLs in a text, frozen; it may be empty for PEM of other things. Raises CRLError
 * "what: …" for what cannot be read. */
void mg_crl_parse_all(lua_State *L, const char *what, const char *data, size_t len);

/* The Name at idx, or one made from a string "/CN=x/O=y" (left on the stack in its place). */
X509_NAME *mg_attr_name(lua_State *L, int idx, const char *cls, const char *name);

/* Pushes the process-wide default store of this state: made on first need. */
void mg_default_store_push(lua_State *L);

/*
 * Adds every certificate and CRL of a PEM file, or of a directory's files with hash names, to store.
 * Files are read through the hooks. A missing directory is accepted, as in Ruby.
 */
void mg_store_load_file(lua_State *L, X509_STORE *store, const char *cls, const char *what,
                        const char *path);
void mg_store_load_dir(lua_State *L, X509_STORE *store, const char *path);

/* Pushes a StoreContext that is valid until it is closed. */
void mg_store_context_push(lua_State *L, X509_STORE_CTX *ctx);

/* ---- pkey ----------------------------------------------------------------------------------- */

EVP_PKEY *mg_pkey_test(lua_State *L, int idx);

/* Pushes a box with the signature that this run of the script is to have instead of a fresh one. */
struct mg_buf *mg_signature_push(lua_State *L, const void *fresh, size_t len);
bool mg_pkey_has_private(const EVP_PKEY *key);

/* Pushes the public half of key; `what` starts the PKeyError. */
void mg_pkey_push_public(lua_State *L, const EVP_PKEY *key, const char *what);

/* "RSA", "EC", "ED25519"; and "rsaEncryption", "id-ecPublicKey". */
const char *mg_pkey_type_name(const EVP_PKEY *key);
const char *mg_pkey_oid(const EVP_PKEY *key);

/* What OpenSSL gets when it asks for a passphrase. */
struct mg_passphrase {
    const char *text; /* NULL: none was given */
    size_t len;
    bool asked;
};
int mg_on_passphrase(char *buf, int size, int writing, void *passphrase);
void mg_passphrase_check(lua_State *L, const char *what, size_t len); /* that it is not too long */

/* The index of the string or function at arg, or of the function after a nil; 0: there is none. */
int mg_check_passphrase(lua_State *L, int arg);

/* Pushes the key in data, or raises PKeyError "what: …". passphrase as above: never asks a terminal. */
void mg_pkey_parse(lua_State *L, const char *what, const char *data, size_t len, int passphrase);
int mg_pkey_read(lua_State *L);
int mg_pkey_load_file(lua_State *L);

/* Rows and constructors that are in pkey_params.c. */
int mg_pkey_get_params(lua_State *L, void *self);
int mg_pkey_get_p(lua_State *L, void *self);
int mg_pkey_get_g(lua_State *L, void *self);
int mg_pkey_new_raw_private_key(lua_State *L);
int mg_pkey_new_raw_public_key(lua_State *L);

/* A PKey that waits for its key. */
EVP_PKEY **mg_pkey_push_empty(lua_State *L);

/* The digest named at idx; NULL for nil, which Ed25519 needs. */
const EVP_MD *mg_check_digest(lua_State *L, int arg);

/* ---- SSLContext ----------------------------------------------------------------------------- */

/* User value 1 holds what was assigned, by the attribute's name; OpenSSL hears of most of it at setup. */
struct mg_ssl_context {
    SSL_CTX *ctx;
    lua_Integer number; /* in the order of making */
    bool frozen;
    bool verify_mode_set;     /* by the script, not by a default */
    bool serves;              /* frozen for a listener */
    bool client;              /* a backend's defaults were applied */
    unsigned char digest[32]; /* policy digest, once frozen */
};

/* A new SSLContext, pushed. */
void mg_ssl_context_create(lua_State *L);

/* FrozenError of a method; attributes are checked by the dispatcher. */
struct mg_ssl_context *mg_ssl_context_check_writable(lua_State *L);

/* Name of a value that no script assigns: what there is to tell of certificates that others replaced. */
#define REPLACED "replaced certificates"

/* The assigned value of `name` of the context at idx, pushed; its type is returned. */
int mg_ssl_context_value(lua_State *L, int idx, const char *name);
void mg_ssl_context_store(lua_State *L, int idx, const char *name, int value);

/* { name, version, bits, alg_bits }. */
void mg_lua_push_cipher(lua_State *L, const SSL_CIPHER *cipher);

/* Rows that OpenSSL takes at once (ssl_protocol.c). */
extern const struct mg_attr mg_ssl_protocol_attrs[];

/* Methods in files of their own. */
int mg_ssl_context_setup(lua_State *L);           /* ssl_setup.c */
int mg_ssl_context_add_certificate(lua_State *L); /* ssl_certificate.c */
int mg_ssl_context_load_certificate(lua_State *L);
int mg_ssl_context_set_params(lua_State *L); /* ssl_params.c */
int mg_ssl_context_use_profile(lua_State *L);
void mg_open_ssl_params(lua_State *L); /* DEFAULT_PARAMS into the class on top */

/* Puts certificate, key and chain (NULL: keeps the one of that key type) into ctx, or changes nothing
 * and fails with OpenSSL's queue filled. */
int mg_ssl_context_put_certificate(SSL_CTX *ctx, X509 *cert, EVP_PKEY *key, STACK_OF(X509) * chain);

/* Visits ctx's certificates, each being the current one meanwhile, until visit returns non-zero. */
int mg_ssl_context_each_certificate(SSL_CTX *ctx,
                                    int (*visit)(SSL_CTX *ctx, X509 *x509, void *data), void *data);

/* alpn_protocols in wire form; raises where an entry is none. */
void mg_protocols_encode(lua_State *L, int value, const char *name, struct mg_buf *out);

/* The list of Certificates at idx as a stack in a box that is pushed; `what` starts the TypeError. */
STACK_OF(X509) * mg_x509_stack_push(lua_State *L, int idx, const char *what);

/* ---- OCSP responses (ssl_staple.c) ----------------------------------------------------------- */

struct mg_staple;

/* Raises ArgumentError "where: …" unless value is the DER of an OCSP response; x509, if given, must be
 * what it is about. */
void mg_staple_check(lua_State *L, int value, const char *where, X509 *x509);

/* A box with a staple of the DER at value, which must be one, for x509; pushed. */
struct mg_box *mg_staple_push(lua_State *L, int value, X509 *x509);

/* From now on certificates of x509's kind of key have that staple, or none (NULL: x509 comes without). */
void mg_staple_set(SSL_CTX *ctx, struct mg_box *staple, const X509 *x509);

/* setup of the context at idx, whose SSL_CTX is ctx: raises if a response – ocsp_response, or load_ocsp's – is about no
 * certificate of ctx nor x509 (NULL: none), and there are some; they become theirs as far as they have none of
 * their own (-1: no memory). */
void mg_staples_check(lua_State *L, int idx, SSL_CTX *ctx, X509 *x509);
int mg_staples_apply(lua_State *L, int idx, SSL_CTX *ctx);
int mg_ssl_context_load_ocsp(lua_State *L);
void mg_staple_faults(SSL_CTX *ctx, struct mg_buf *out); /* appends texts by mg_fault_add */
void mg_staples_free(struct mg_staple *list);

/* ---- CRLs of a context (ssl_crl.c) ------------------------------------------------------------ */

/* Whom they concern: issuers without any are let off, but where the cert_store's own flags say otherwise. */
struct mg_crl_check {
    struct mg_crl_signed *list;     /* owned by the context's extra */
    bool lenient;                   /* the context has CRLs of its own */
    bool strict_leaf, strict_chain; /* the peer's certificate, and those above it, need one */
    bool indirect;                  /* one of them may be about any issuer's certificates */
};

/* Who has signed a CRL, as far as that was verified (crl_signed.c). Threads share it. */
struct mg_crl_memo;
struct mg_crl_memo *mg_crl_memo_new(const unsigned char digest[32]); /* or NULL; NULL: no memory */
struct mg_crl_memo *mg_crl_memo_ref(struct mg_crl_memo *memo);
void mg_crl_memo_unref(struct mg_crl_memo *memo);

/* SHA-256 of a CRL's encoding, which a memo has already; -1: OpenSSL's queue says why not. */
int mg_crl_digest(X509_CRL *crl, unsigned char digest[32]);

/* Whether issuer has signed crl; verified unless the memo (or NULL) knows it. */
bool mg_crl_signed_by(struct mg_crl_memo *memo, X509_CRL *crl, X509 *issuer);

/* The memo of a CRL in the process's cache, with a reference, or NULL. */
struct mg_crl_memo *mg_pem_crl_memo(X509_CRL *crl);

/* A CRL of a context. */
struct mg_crl_signed {
    struct mg_crl_signed *next;
    X509_CRL *crl;            /* one reference */
    struct mg_crl_memo *memo; /* one reference, or NULL without memory */
    bool is_plain;            /* about all certificates of its issuer, in full */
};

/* For a store that has the CRL and the CAs; verifies the signature if one of them has made it. NULL: no memory. */
struct mg_crl_signed *mg_crl_signed_new(X509_STORE *store, X509_CRL *crl);
void mg_crl_signed_free(struct mg_crl_signed *list);

int mg_ssl_context_add_crl(lua_State *L);
int mg_ssl_context_load_crl(lua_State *L);

/* setup: puts the list at index crls into store, with the flags, and pushes a box with what becomes check->list. Raises. */
struct mg_box *mg_crls_add(lua_State *L, X509_STORE *store, int crls, struct mg_crl_check *check);

/* Whether the error of a verification is only that an issuer has no CRL, of whom none is wanted. */
bool mg_crl_excused(const SSL_CTX *ssl_ctx, X509_STORE_CTX *ctx);

/* Appends "<what> <name> <fault>" and a NUL. */
void mg_fault_add(struct mg_buf *out, const char *what, const X509_NAME *name, const char *fault);

/* ---- callbacks: the attributes that hold a function ------------------------------------------ */

#ifdef MG_HAVE_NPN
#define MG_CALLBACKS_NPN(X) X(npn_select_cb)
#else
#define MG_CALLBACKS_NPN(X)
#endif
#define MG_CALLBACKS(X)                                                                            \
    X(verify_callback)                                                                             \
    X(alpn_select_cb)                                                                              \
    MG_CALLBACKS_NPN(X)                                                                            \
    X(client_cert_cb)                                                                              \
    X(tmp_dh_callback)                                                                             \
    X(session_get_cb)                                                                              \
    X(session_new_cb)                                                                              \
    X(session_remove_cb)                                                                           \
    X(renegotiation_cb)                                                                            \
    X(keylog_cb)                                                                                   \
    X(servername_cb)

#define MG_CALLBACK_FLAG(name) bool name;
struct mg_callbacks {
    MG_CALLBACKS(MG_CALLBACK_FLAG)
};

/* The session cache of a context (ssl_cache.c). Atomic: what may change while handshakes are on several
 * threads. */
struct mg_ssl_cache {
    uint64_t owner;        /* of its entries in the memory */
    bool own;              /* nobody else has that number: the entries go with the context */
    bool originates;       /* sessions with backends are wanted, whatever mode says */
    _Atomic uint32_t mode; /* as assigned */
    _Atomic long size;     /* entries at most; 0 = any number */
    _Atomic int64_t misses, cb_hits, full;
    /* What other workers have been told of our statistics. */
    _Atomic int64_t published[MG_CACHE_EVENTS];
    _Atomic long cleared_at; /* connections at the last sweep */
};

/* What an SSL_CTX carries for callbacks and in-memory handshakes, in its ex_data. */
struct mg_ssl_context_extra {
    struct mg_lua_link *link; /* one reference, or NULL */
    /* The hooks' of the time when the context was made: guests of one state have their own. */
    int (*call)(void *data, lua_State *L, int nargs, int nresults, const char *what,
                struct mg_tls_conn *conn);
    void *call_data;
    unsigned char *alpn; /* alpn_protocols in wire form, owned: what a server chooses from */
    size_t alpn_len;
    unsigned char *npn; /* npn_protocols, likewise */
    size_t npn_len;
    struct mg_callbacks callbacks; /* which are set */
    struct mg_ssl_cache cache;
    struct mg_staple *staples; /* the certificates' OCSP responses (ssl_staple.c), owned */
    bool cache_locked;         /* session_remove_cb is running */
    bool verify_hostname;
    struct mg_crl_check crl_check;
    unsigned char session_id_context[32]; /* once set up; mixed with the SNI per connection */
};
struct mg_ssl_context_extra *mg_ssl_context_extra(const SSL_CTX *ctx);

/* Gives a new SSL_CTX its extra; -1 without memory. Does not raise. */
int mg_ssl_context_link(SSL_CTX *ctx, struct mg_lua_link *link);

/* Notes which userdata belongs to ctx, for callbacks; it stays collectable. */
void mg_ssl_context_remember(lua_State *L, int idx, const SSL_CTX *ctx);

/*
 * The only way from OpenSSL to Lua. Calls body(L) with args as light userdata, protected and under the
 * callback budget; body pushes the function by mg_callback_push and calls it. -1: it failed, and the
 * connection knows the message. OpenSSL's queue is as it was. The second form is for what concerns a
 * context and no connection.
 */
int mg_callback_call(const SSL *ssl, const char *what, lua_CFunction body, void *args);
int mg_callback_call_context(const SSL_CTX *ctx, const char *what, lua_CFunction body, void *args);

/* Inside body: the function `what` of the connection's current context; the connection's object. */
void mg_callback_push(lua_State *L, const SSL *ssl, const char *what);
void mg_callback_push_conn(lua_State *L, const SSL *ssl);

/* Tells OpenSSL which of our C callbacks to call. The parts are in ssl_decide.c and ssl_notify.c. */
void mg_callbacks_install(SSL_CTX *ctx, const struct mg_callbacks *set, int verify_mode);
void mg_callbacks_install_deciding(SSL_CTX *ctx, const struct mg_callbacks *set);
void mg_callbacks_install_notifying(SSL_CTX *ctx, const struct mg_callbacks *set);

/* A server's handshake starts; it has taken a step. */
void mg_callback_renegotiation(const SSL *ssl);
void mg_callback_tmp_dh(const SSL *ssl);

/* ---- the session cache (ssl_cache.c) --------------------------------------------------------- */

/* None of these raises. */
void mg_ssl_cache_init(SSL_CTX *ctx);
void mg_ssl_cache_fini(const struct mg_ssl_cache *cache);

/* The context's sessions carry that id from now on: what workers share is found by it. */
void mg_ssl_cache_bind(SSL_CTX *ctx, const unsigned char id[32]);

/* Clients of that context tell about their sessions also where session_cache_mode says nothing of them. */
void mg_ssl_cache_originate(SSL_CTX *ctx);

/* A handshake is done: what it counts, counts for all workers. */
void mg_ssl_cache_publish(SSL_CTX *ctx);

/* libssl has made a session; wants one (adds a reference; NULL: none); has got it from session_get_cb;
 * drops it (whether it was there). */
void mg_ssl_cache_store(SSL *ssl, SSL_SESSION *session);
SSL_SESSION *mg_ssl_cache_find(SSL *ssl, const unsigned char *id, size_t id_len);
void mg_ssl_cache_given(SSL *ssl, SSL_SESSION *session);
bool mg_ssl_cache_forget(const SSL_CTX *ctx, const SSL_SESSION *session);

/* The session's time or timeout was assigned: so is that of the entry it is, if it is one. */
void mg_ssl_cache_refresh(SSL_SESSION *session);

/* Calls session_remove_cb (ssl_notify.c). */
void mg_callback_session_remove(SSL_CTX *ctx, SSL_SESSION *session);

int mg_ssl_cache_get_mode(lua_State *L, void *self);
void mg_ssl_cache_set_mode(lua_State *L, void *self, int value);
int mg_ssl_cache_get_size(lua_State *L, void *self);
void mg_ssl_cache_set_size(lua_State *L, void *self, int value);
int mg_ssl_cache_get_stats(lua_State *L, void *self);
int mg_ssl_context_session_add(lua_State *L);
int mg_ssl_context_session_remove(lua_State *L);
int mg_ssl_context_flush_sessions(lua_State *L);

/* ---- sessions (ssl_session.c) ---------------------------------------------------------------- */

extern const struct mg_class mg_ssl_session_class;

struct mg_ssl_session {
    SSL_SESSION *session; /* one reference */
};

void mg_lua_push_ssl_session(lua_State *L, SSL_SESSION *session); /* adds a reference */
SSL_SESSION *mg_ssl_session_test(lua_State *L, int idx);
SSL_SESSION *mg_ssl_session_check(lua_State *L, int arg);
SSL_SESSION *mg_attr_ssl_session(lua_State *L, int idx, const char *cls, const char *name);

/* From now on sessions of ctx carry that id, mixed with the SNI; others are not resumed. */
int mg_ssl_session_bind(SSL_CTX *ctx, const unsigned char id[32]);

/* Whether the certificate it was agreed with is still in time. */
bool mg_ssl_session_is_current(SSL_SESSION *session);

/* Lets session end with that certificate at the latest, for caches that look only at its timeout.
 * false: the certificate has ended already. */
bool mg_ssl_session_limit(SSL_SESSION *session);

/* Client, before the handshake: binds the connection to the name and offers session (or NULL), unless
 * it was made under another policy or name, or its peer's certificate has ended: then it is as if
 * there were none. -1: OpenSSL's queue says why. */
int mg_ssl_session_offer(SSL *ssl, const char *servername, SSL_SESSION *session);

/* ---- handshakes in memory (handshake.c, connection.c) ---------------------------------------- */

#define MG_MEMORY_OUT 32768

struct mg_memory_end {
    struct mg_tls_conn conn;
    struct mg_buf inbox; /* what the other end wrote and this one has not read */
    size_t inbox_used;
    bool failed;
    struct mg_err err; /* valid if failed */
};

struct mg_memory_pair {
    struct mg_memory_end server, client;
    /* Set before opening: the server's servername_cb is asked. The proof leaves it alone. */
    bool asks_servername;
    /* Likewise, and in the place of the server's context: who is asked for it when the ClientHello has come. NULL:
     * refused, with that alert (-1: none) and err; else with a reference for the pair. */
    SSL_CTX *(*decide)(void *data, const struct mg_hello *hello, int *alert, struct mg_err *err);
    void *decide_data;
    bool deciding;      /* the server has no SSL object yet: the ClientHello has not come */
    SSL_CTX *undecided; /* what it begins with; owned; NULL with `decide` */
    struct mg_hello_reader hello;
    unsigned char out[MG_MEMORY_OUT]; /* of one step: not on the stack, callbacks may nest pairs */
};

/* None of these raises. NULL: no memory. */
struct mg_memory_pair *mg_memory_pair_new(void);
int mg_memory_pair_open(struct mg_memory_pair *pair, SSL_CTX *server, SSL_CTX *client,
                        const char *servername, SSL_SESSION *session, struct mg_err *err);
void mg_memory_pair_free(struct mg_memory_pair *pair); /* NULL is fine */

/* The handshake, until nothing moves any more. An end that failed says why. */
void mg_memory_pair_run(struct mg_memory_pair *pair);
int mg_memory_pair_alert(const struct mg_memory_pair *pair); /* that crossed; -1: none */

/* OK: cap bytes; WANT_READ: *got bytes, and no more for now; CLOSED, ERROR likewise. */
enum mg_tls_status mg_memory_end_read(struct mg_memory_pair *pair, struct mg_memory_end *end,
                                      void *buf, size_t cap, size_t *got);
int mg_memory_end_write(struct mg_memory_pair *pair, struct mg_memory_end *end, const void *data,
                        size_t len);
void mg_memory_end_shutdown(struct mg_memory_pair *pair, struct mg_memory_end *end);

/* The Connection of conn, pushed; false and nothing: conn is not in memory. */
bool mg_memory_connection_push(lua_State *L, const struct mg_tls_conn *conn);

/* Keeps the SSLContext at idx for as long as that Connection lives; nothing if there is none. */
void mg_memory_connection_keep(lua_State *L, const struct mg_tls_conn *conn, int idx);

/* One table for names and functions of what SSLSocket tells, in the order of the reference. */
#ifdef MG_HAVE_NPN
#define MG_SSL_READERS_NPN(X) X(npn_protocol)
#else
#define MG_SSL_READERS_NPN(X)
#endif
#define MG_SSL_READERS(X)                                                                          \
    X(ssl_version)                                                                                 \
    X(cipher)                                                                                      \
    X(alpn_protocol)                                                                               \
    X(alpn_protocols)                                                                              \
    MG_SSL_READERS_NPN(X)                                                                          \
    X(servername)                                                                                  \
    X(cert)                                                                                        \
    X(peer_cert)                                                                                   \
    X(peer_cert_chain)                                                                             \
    X(verify_result)                                                                               \
    X(session)                                                                                     \
    X(session_reused)                                                                              \
    X(tmp_key)                                                                                     \
    X(sigalg)                                                                                      \
    X(peer_sigalg)                                                                                 \
    X(group)                                                                                       \
    X(state)                                                                                       \
    X(pending)                                                                                     \
    X(finished_message)                                                                            \
    X(peer_finished_message)                                                                       \
    X(client_ca)                                                                                   \
    X(ocsp_response)

/* ---- names of certificates (ssl_identity.c) -------------------------------------------------- */

/* Ruby's verify_certificate_identity. */
bool mg_ssl_identity_matches(X509 *x509, const char *host, size_t len);

/* ---- module parts: each pushes its table unless it says so -------------------------- */

void mg_open_ssl_constants(lua_State *L);     /* into the SSL table on top */
void mg_open_context_constants(lua_State *L); /* into the SSLContext table on top */
void mg_open_x509_constants(lua_State *L);    /* into the X509 table on top */
void mg_open_ssl_context(lua_State *L);       /* SSL.SSLContext */
void mg_open_x509(lua_State *L);              /* X509.* */
void mg_open_pkey(lua_State *L);              /* PKey.* */
void mg_open_ssl_profiles(lua_State *L);      /* SSL.PROFILES */
void mg_open_ssl_identity(lua_State *L);      /* verify_* into the SSL table on top */
void mg_open_ssl_session(lua_State *L);       /* SSL.Session */
void mg_open_connection(lua_State *L);        /* pushes nothing: there is no constructor */
int mg_lua_handshake(lua_State *L);           /* openssl.handshake */

#endif

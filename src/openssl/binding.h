/*
 * openssl: the Lua module moongate.openssl, Ruby's OpenSSL API in Lua. Loads in stock lua5.4 and inside
 * moongate; where the two differ (files, keys, callbacks) it asks struct mg_openssl_hooks.
 *
 * Rules: userdata first, OpenSSL object second, calls that can raise third. Functions set on a context
 * live in its user value, so that the collector sees every cycle. No Lua error ever unwinds through
 * OpenSSL: mg_callback_call is the only way from there to Lua.
 */
#ifndef MG_OPENSSL_BINDING_H
#define MG_OPENSSL_BINDING_H

#include "base/base.h"
#include "tls/tls.h"

#include <lauxlib.h>
#include <lua.h>

int luaopen_moongate_openssl(lua_State *L);

/* ---- hooks ---------------------------------------------------------------------------------- */

/*
 * What the module needs of the world. One set per Lua state, kept in the registry; the defaults read
 * files and make keys directly and call functions by lua_pcall with a traceback to stderr.
 */
struct mg_openssl_hooks {
    void *data;
    /* The whole file into out; -1 with the text "path: reason". Paths as the script gave them. */
    int (*read_file)(void *data, const char *path, struct mg_buf *out, struct mg_err *err);
    /* The names in a directory, each followed by NUL. */
    int (*list_dir)(void *data, const char *path, struct mg_buf *out, struct mg_err *err);
    /* Called with the freshly generated key; may replace *key by a recorded one (frees the old). */
    int (*made_key)(void *data, EVP_PKEY **key, struct mg_err *err);
    /* Called with a fresh signature, which of most algorithms is another one each time; may replace its
     * bytes by recorded ones. */
    int (*made_signature)(void *data, struct mg_buf *signature, struct mg_err *err);
    /* As lua_pcall(L, nargs, nresults, 0) with the callback budget; on failure the error's
     * text is on the stack, and the hook has logged it with its traceback. `what` is "alpn_select_cb" etc.; conn
     * is the connection that it is called for, or NULL. */
    int (*call)(void *data, lua_State *L, int nargs, int nresults, const char *what,
                struct mg_tls_conn *conn);
    /* Pushes the object that callbacks get as conn, or nil. */
    void (*push_conn)(void *data, lua_State *L, struct mg_tls_conn *conn);
    /* SHA-256 over what a verify_callback may depend on: the script's files. It becomes part of the
     * policy digest of contexts that have one. NULL: nothing is mixed in. */
    void (*script_digest)(void *data, unsigned char out[32]);
};

/* Copies; NULL members keep the default. Called before luaopen_moongate_openssl or after. */
void mg_openssl_set_hooks(lua_State *L, const struct mg_openssl_hooks *hooks);
const struct mg_openssl_hooks *mg_openssl_hooks(lua_State *L);

/* Sessions of every context of this process are kept in there from now on, found by their policy. To be
 * called before the first context is made; borrowed. Without it each context has its own in the
 * process's memory. */
void mg_openssl_set_cache(struct mg_cache *cache);

/* ---- class: the attribute dispatcher -------------------------------------------------------- */

struct mg_class;

/* A row per attribute. get pushes one value and returns 1. set finds the value at stack index `value`;
 * NULL = read-only. Both find the object at index 1 and the attribute's name at 2, and raise through mg_attr_error and its relatives, never through luaL_check*. */
struct mg_attr {
    const char *name;
    int (*get)(lua_State *L, void *self);
    void (*set)(lua_State *L, void *self, int value);
};

struct mg_class {
    const char *name;                 /* "SSLContext": what errors say */
    const char *metatable;            /* "moongate.SSLContext": registry key */
    const struct mg_attr *attrs;      /* ended by a NULL name */
    const struct mg_attr *more_attrs; /* rows kept in another file, likewise; or NULL */
    const luaL_Reg *methods; /* ended by a NULL name; self at index 1, checked by mg_class_check */
    bool (*is_frozen)(const void *self); /* NULL = never frozen */
    const char *const
        *frozen_ok;         /* attributes that may be written all the same; NULL-ended, or NULL */
    lua_CFunction gc;       /* must accept an empty object; or NULL */
    lua_CFunction eq;       /* or NULL */
    lua_CFunction tostring; /* or NULL: "SSLContext: 0x…" */
    int user_values;
    const char *closed; /* what errors say of an object after gc; or NULL: "is closed" */
    bool closable;      /* gc is __close, too: only where C has no use for it beyond the block */
};

/* Makes the metatable (once per state). A name that is attribute and method is a fatal error. */
void mg_class_register(lua_State *L, const struct mg_class *cls);

/* A zeroed userdata of that class on the stack; user value 1 (if any) is an empty table. */
void *mg_class_new(lua_State *L, const struct mg_class *cls, size_t size);

/* The object at `arg`, or a TypeError that names `what` ("SSLContext:add_certificate: argument 1: "). */
void *mg_class_check(lua_State *L, int arg, const struct mg_class *cls);
void *mg_class_test(lua_State *L, int arg, const struct mg_class *cls);

/* ---- errors --------------------------------------------------------------------------------- */

/*
 * Raises { class =, message =, errors = {…} } whose tostring is "script.lua:12: Class: message". The
 * position is that of the innermost Lua function of the script on the stack.
 */
MG_NORETURN void mg_lua_error(lua_State *L, const char *cls, const char *fmt, ...) MG_PRINTF(3, 4);

/* The same with OpenSSL's queue: message "what: reason (data)", errors = the queue; queue emptied. */
MG_NORETURN void mg_lua_openssl_error(lua_State *L, const char *cls, const char *fmt, ...)
    MG_PRINTF(3, 4);

/* Text of any error value at idx (string, our table, anything): with position and class. Pushes it. */
const char *mg_lua_error_text(lua_State *L, int idx);

/* The C object that a function of ours was called with by our own C. Scripts have no light userdata: one
 * that got hold of such a function gets an error. */
void *mg_lua_pointer(lua_State *L, int arg);

/* Typed readers of a value for attributes and options: raise TypeError "SSLContext.timeout: expected
 * an integer, got string". `cls`.`name` form the prefix; cls may be "listen" for options. */
lua_Integer mg_arg_integer(lua_State *L, int idx, const char *cls, const char *name);
const char *mg_arg_string(lua_State *L, int idx, const char *cls, const char *name, size_t *len);
bool mg_arg_boolean(lua_State *L, int idx, const char *cls, const char *name);

/* ---- objects other rooms handle ------------------------------------------------------------- */

/* The SSL_CTX of the SSLContext at idx (borrowed), or NULL if it is something else. */
SSL_CTX *mg_ssl_context_test(lua_State *L, int idx);
bool mg_ssl_context_frozen(lua_State *L, int idx);

/* The userdata of ctx, pushed, or nothing and false: it was collected, or is not ours. */
bool mg_ssl_context_push(lua_State *L, const SSL_CTX *ctx);

/*
 * setup() on the context at idx, raising as it does. as_client applies what a backend needs: where
 * verify_mode was never set, VERIFY_PEER, verify_hostname and the default CAs. Idempotent.
 */
void mg_ssl_context_freeze(lua_State *L, int idx, bool as_client);

/* Pushes the contexts that somebody holds, as a set (context → true), without those in the set at
 * index `others` (0: none). */
void mg_ssl_contexts_push(lua_State *L, int others);

/* The same as a list, in the order in which they were made. */
void mg_ssl_contexts_list_push(lua_State *L, int others);

/* setup() on every context that somebody still holds and that is not frozen: those that callbacks
 * return. `others` are left alone. Raises as it does. */
void mg_ssl_contexts_freeze(lua_State *L, int others);

/* Facts of a frozen context for the engine and the report. */
struct mg_ssl_context_facts {
    bool callbacks; /* some deciding or notifying callback is set */
    bool servername_cb;
    bool verify_hostname;
    bool verify_callback;
    bool verify_mode_set; /* assigned by the script, or by set_params */
    int verify_mode;
    bool has_client_ca; /* client_ca, ca_file, ca_path or cert_store given */
    bool has_crls;      /* by add_crl or load_crl */
    const char *
        replaced; /* words for certificates that others of their type replaced, or NULL; the context's */
    char name[128]; /* ctx.name or "" */
    bool client_cert_cb;
    unsigned char digest[32];         /* policy digest: ARCHITECTURE 7 */
    unsigned char session_policy[32]; /* that with session_id_context: what sessions are bound to */
};
void mg_ssl_context_facts(lua_State *L, int idx, struct mg_ssl_context_facts *facts);

/* What is wrong with CRLs and OCSP responses of a frozen context: texts, each with a NUL. Takes its time: for reports. Does
 * not raise; -1 without memory. */
int mg_ssl_context_faults(SSL_CTX *ctx, struct mg_buf *out);

/* Pushes what a report calls the context at idx: its name, or where it was made. */
const char *mg_ssl_context_label_push(lua_State *L, int idx);

/* The DNS names of a context's certificates: for each the kind of key and the name, both with a NUL. Does
 * not raise; -1 without memory. */
int mg_ssl_context_names(SSL_CTX *ctx, struct mg_buf *out);

/* The file of the context's certificate that has this DNS name, of this kind if one is given; NULL if none has it or
 * it came from no file. The certificate owns the text. */
const char *mg_ssl_context_file(SSL_CTX *ctx, const char *kind, const char *name);

/*
 * Asks the servername_cb of ctx about the name a client sent. 0: *chosen is the context to go on with
 * – ctx itself, or another one, which is frozen by now –, with a reference that the caller gives back.
 * -1: it raised or answered nonsense; *alert says how the handshake ends, and conn (NULL: none yet)
 * has the message. Does not raise. OpenSSL itself never calls servername_cb.
 */
int mg_ssl_context_servername(lua_State *L, SSL_CTX *ctx, struct mg_tls_conn *conn,
                              const char *name, SSL_CTX **chosen, int *alert);

/*
 * Pushes the list of certificates in a PEM text and its first private key (nil: there is none; false: it
 * is encrypted), which come from the process's cache if they have been read before. false and nothing:
 * it is no PEM, or something in it cannot be read. Between begin and end a run of a script asks for what
 * it needs; the end of one that went well forgets everything else, and says how much was asked for.
 */
struct mg_pem_counts {
    size_t known,
        parsed; /* certificates, keys and CRLs that were in the cache, and that were not */
};
bool mg_pem_push(lua_State *L, const char *data, size_t len);
void mg_pem_run_begin(void);
struct mg_pem_counts mg_pem_run_end(void);

/* The kind of key of the Certificate at idx, constant, and its DNS names, each with a NUL. NULL: it is something
 * else, or out is without memory. */
const char *mg_x509_identity(lua_State *L, int idx, struct mg_buf *names);

/* Push a Lua object for an OpenSSL one (adds a reference). */
void mg_lua_push_x509(lua_State *L, X509 *cert);
void mg_lua_push_pkey(lua_State *L, EVP_PKEY *key);

/* The file that a certificate was read from, as the script gave it, or NULL. Noted once; borrowed. */
void mg_x509_note_file(X509 *x509, const char *path);
const char *mg_x509_file(const X509 *x509);

/* Notes the file of all Certificates in the list. */
void mg_x509_note_files(lua_State *L, int list, const char *path);

/* SSLSocket's readers for a connection: pushes the value of `name` and returns true, or false if there
 * is no such reader. names: NULL-ended list of all of them. */
bool mg_ssl_reader_push(lua_State *L, struct mg_tls_conn *conn, const char *name);

/* Pushes a list of mg_hello_protocols' text, which may be NULL. */
void mg_protocols_push(lua_State *L, const char *text);
extern const char *const mg_ssl_reader_names[];

/* conn:export_keying_material(label, length[, context]) for a method whose self is at index 1; conn
 * may be NULL. */
int mg_lua_export_keying_material(lua_State *L, struct mg_tls_conn *conn);

/* ---- in-memory handshakes ------------------------------------------------------------------- */

struct mg_memory_handshake {
    /* in */
    SSL_CTX *server, *client;
    const char *servername; /* or NULL */
    X509 *bare; /* this certificate of the server's goes without its chain and a ticket; or NULL */
    /* out */
    bool ok;
    char version[16], cipher[64];
    char server_error[256], client_error[256];
    int alert;         /* the fatal alert that crossed, or -1 */
    char key_type[16]; /* of the server's certificate: "RSA", "EC", "ED25519" */
    X509 *server_cert; /* what the client saw, owned by the caller, or NULL */
};

/* Runs both sides over memory; callbacks into Lua are not suppressed here. -1 only without memory. */
int mg_memory_handshake(struct mg_memory_handshake *hs, struct mg_err *err);

#endif

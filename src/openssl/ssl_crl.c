/*
 * ssl_crl: what a context knows of revoked certificates – add_crl, load_crl – and whom that concerns.
 *
 * CRLs of a context are in a store of its own, which then looks at every certificate of a chain: those of an issuer that
 * has a CRL there must not be on it, and it must be valid. An issuer without any has nothing to say: OpenSSL would
 * refuse its certificates, so its complaint is answered here (on_verify in ssl_callback.c asks). Whoever wants a CRL
 * from every issuer says so by the flags of the cert_store.
 *
 * Possible failure modes are: a file is no CRL or has none (load_crl raises), a CRL has ended or is signed by somebody
 * else (its issuer's certificates are refused, check warns), a delta comes without its base, or a list is about less
 * than a certificate needs (it is refused), one is indirect (then nobody is let off).
 */
#include "openssl/internal.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#define CLS "SSLContext"

#define CRL_FLAGS ((unsigned long)(X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL))

/* ---- add_crl, load_crl ----------------------------------------------------------------------- */

/* Appends the CRL at index value to those of the context at index 1. */
static void
crl_append(lua_State *L, int value)
{
    value = lua_absindex(L, value);
    if (mg_ssl_context_value(L, 1, "crls") == LUA_TNIL) {
        lua_pop(L, 1);
        lua_newtable(L);
        mg_ssl_context_store(L, 1, "crls", lua_gettop(L));
    }
    lua_pushvalue(L, value);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    lua_pop(L, 1);
}

/* add_crl(crl) -> self */
int
mg_ssl_context_add_crl(lua_State *L)
{
    mg_ssl_context_check_writable(L);
    mg_check_count(L, 1, 1);
    mg_class_check(L, 2, &mg_crl_class);
    crl_append(L, 2);
    lua_settop(L, 1);
    return 1;
}

static bool
has_suffix(const char *name, const char *suffix)
{
    size_t len = strlen(name), suffix_len = strlen(suffix);
    return len > suffix_len && strcmp(name + len - suffix_len, suffix) == 0;
}

/* "9a2b3c4d.r0": what c_rehash makes. */
static bool
is_hashed(const char *name)
{
    return strspn(name, "0123456789abcdef") == 8 && strncmp(name + 8, ".r", 2) == 0 && name[10] &&
           name[10 + strspn(name + 10, "0123456789")] == '\0';
}

static bool
is_crl_name(const char *name)
{
    return name[0] != '.' && (has_suffix(name, ".crl") || has_suffix(name, ".pem"));
}

static int
name_compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Pushes the list of names of a directory's files that are wanted, in order: those of the pattern, or (NULL) those with
 * hash names, or else those that are called like CRLs. */
static void
names_push(lua_State *L, const struct mg_buf *listing, const char *pattern)
{
    size_t capacity = 0, count = 0;
    bool any_hashed = false;
    for (size_t at = 0; at < listing->len; at += strlen(listing->data + at) + 1) {
        any_hashed = any_hashed || is_hashed(listing->data + at);
        capacity++;
    }
    const char **names = lua_newuserdatauv(L, (capacity + 1) * sizeof(*names), 0);
    for (size_t at = 0; at < listing->len; at += strlen(listing->data + at) + 1) {
        const char *name = listing->data + at;
        if (pattern      ? fnmatch(pattern, name, FNM_PERIOD) == 0
            : any_hashed ? is_hashed(name)
                         : is_crl_name(name))
            names[count++] = name;
    }
    qsort(names, count, sizeof(*names), name_compare);
    lua_createtable(L, (int)count, 0);
    for (size_t i = 0; i < count; i++) {
        lua_pushstring(L, names[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_remove(L, -2);
}

/* Appends the CRLs of a file to the list at index 3. */
static void
file_read(lua_State *L, const char *path)
{
    int top = lua_gettop(L);
    const char *what = lua_pushfstring(L, "load_crl: %s", path);
    struct mg_buf *text = mg_file_push(L, "SystemCallError", "load_crl", path);
    mg_crl_parse_all(L, what, text->data ? text->data : "", text->len);
    mg_buf_free(text);
    for (lua_Integer i = 1; lua_rawgeti(L, top + 3, i) != LUA_TNIL; i++)
        lua_rawseti(L, 3, (lua_Integer)lua_rawlen(L, 3) + 1);
    lua_settop(L, top);
}

/* The last component of path if that is a pattern. */
static const char *
pattern_of(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    return strpbrk(name, "*?[") ? name : NULL;
}

/* Pushes how the paths of the files begin that path, a directory or a pattern, stands for, and their names. false and
 * nothing: it is a file. */
static bool
directory_push(lua_State *L, const char *path)
{
    int top = lua_gettop(L);
    const struct mg_openssl_hooks *hooks = mg_openssl_hooks(L);
    const char *pattern = pattern_of(path);
    size_t dir_len = pattern ? (size_t)(pattern - path) : strlen(path);
    const char *dir = dir_len > 0 ? lua_pushlstring(L, path, dir_len) : lua_pushliteral(L, ".");
    lua_pushfstring(L, pattern ? "%s" : "%s/", dir_len > 0 ? dir : "");
    struct mg_buf *listing = mg_box_push_buf(L);
    struct mg_err err;
    if (hooks->list_dir(hooks->data, dir, listing, &err) < 0) {
        if (pattern)
            mg_lua_error(L, "SystemCallError", "load_crl: %s: %s", path, err.text);
        lua_settop(L, top);
        return false;
    }
    names_push(L, listing, pattern);
    mg_buf_free(listing);
    lua_remove(L, top + 3);
    lua_remove(L, top + 1);
    return true;
}

/* load_crl(path) -> self; a file, a directory, or a pattern for files in one. An error adds nothing. */
int
mg_ssl_context_load_crl(lua_State *L)
{
    mg_ssl_context_check_writable(L);
    mg_check_count(L, 1, 1);
    const char *path = mg_check_text(L, 2);
    luaL_checkstack(L, 20, CLS ":load_crl");
    lua_newtable(L);               /* 3: the CRLs */
    if (directory_push(L, path)) { /* 4: prefix, 5: names */
        for (lua_Integer i = 1; lua_rawgeti(L, 5, i) != LUA_TNIL; i++) {
            file_read(L, lua_pushfstring(L, "%s%s", lua_tostring(L, 4), lua_tostring(L, -1)));
            lua_settop(L, 5);
        }
    } else {
        file_read(L, path);
    }
    if (lua_rawlen(L, 3) == 0)
        mg_lua_error(L, "CRLError", "load_crl: %s: no CRL found", path);
    lua_settop(L, 3);
    for (lua_Integer i = 1; lua_rawgeti(L, 3, i) != LUA_TNIL; i++) {
        crl_append(L, -1);
        lua_settop(L, 3);
    }
    lua_settop(L, 1);
    return 1;
}

/* ---- setup ----------------------------------------------------------------------------------- */

/* What OpenSSL has to be told to expect: deltas, of which one would else be taken for the whole, and lists that are
 * about other issuers' certificates or some reasons only. */
static unsigned long
crl_flags(X509_CRL *crl, bool *indirect)
{
    ISSUING_DIST_POINT *idp = X509_CRL_get_ext_d2i(crl, NID_issuing_distribution_point, NULL, NULL);
    bool is_delta = X509_CRL_get_ext_by_NID(crl, NID_delta_crl, -1) >= 0;
    bool is_indirect = idp && idp->indirectCRL > 0;
    bool is_special = is_delta || is_indirect || (idp && idp->onlysomereasons);
    ISSUING_DIST_POINT_free(idp);
    *indirect = *indirect || is_indirect;
    return (is_special ? X509_V_FLAG_EXTENDED_CRL_SUPPORT : 0) |
           (is_delta ? X509_V_FLAG_USE_DELTAS : 0);
}

static void
signed_free(void *list)
{
    mg_crl_signed_free(list);
}

/* All that are in the store: those of ca_file and cert_store count now, too. */
static unsigned long
signed_list(lua_State *L, X509_STORE *store, struct mg_box *box, struct mg_crl_check *check)
{
    const STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(store);
    unsigned long flags = 0;
    for (int i = 0; i < sk_X509_OBJECT_num(objects); i++) {
        X509_CRL *crl = X509_OBJECT_get0_X509_CRL(sk_X509_OBJECT_value(objects, i));
        if (!crl)
            continue;
        struct mg_crl_signed *one = mg_crl_signed_new(store, crl);
        if (!one)
            mg_lua_error(L, "NoMemoryError", CLS ":add_crl: out of memory");
        one->next = box->ptr;
        box->ptr = one;
        flags |= crl_flags(crl, &check->indirect);
    }
    return flags;
}

struct mg_box *
mg_crls_add(lua_State *L, X509_STORE *store, int crls, struct mg_crl_check *check)
{
    struct mg_box *box = mg_box_push(L, signed_free);
    unsigned long flags = X509_VERIFY_PARAM_get_flags(X509_STORE_get0_param(store));
    check->lenient = true;
    check->strict_leaf = flags & X509_V_FLAG_CRL_CHECK;
    check->strict_chain = (flags & CRL_FLAGS) == CRL_FLAGS;
    for (lua_Integer i = 1; lua_rawgeti(L, crls, i) != LUA_TNIL; i++) {
        if (X509_STORE_add_crl(store, mg_crl_share(L, -1)) != 1)
            mg_lua_openssl_error(L, "SSLError", CLS ":add_crl");
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    X509_STORE_set_flags(store, CRL_FLAGS | signed_list(L, store, box, check));
    ERR_clear_error();
    return box;
}

/* ---- while a chain is verified --------------------------------------------------------------- */

/* Allocates nothing: without memory nobody may be let off. */
static bool
issuer_has_crl(const struct mg_crl_check *check, const X509 *x509)
{
    const struct mg_crl_signed *one = check->list;
    while (one && X509_NAME_cmp(X509_CRL_get_issuer(one->crl), X509_get_issuer_name(x509)) != 0)
        one = one->next;
    return one != NULL;
}

bool
mg_crl_excused(const SSL_CTX *ssl_ctx, X509_STORE_CTX *ctx)
{
    const struct mg_ssl_context_extra *extra = mg_ssl_context_extra(ssl_ctx);
    const struct mg_crl_check *check = extra ? &extra->crl_check : NULL;
    const X509 *x509 = X509_STORE_CTX_get_current_cert(ctx);
    if (!check || !check->lenient || !x509 || check->indirect ||
        X509_STORE_CTX_get_error(ctx) != X509_V_ERR_UNABLE_TO_GET_CRL)
        return false;
    if (X509_STORE_CTX_get_error_depth(ctx) == 0 ? check->strict_leaf : check->strict_chain)
        return false;
    return !issuer_has_crl(check, x509);
}

/* ---- what a report says ---------------------------------------------------------------------- */

/* Whether a CA that the store knows by the CRL's issuer has signed it; true, too, if it knows none. */
static bool
signature_fits(const STACK_OF(X509_OBJECT) * objects, X509_CRL *crl)
{
    struct mg_crl_memo *memo = mg_pem_crl_memo(crl);
    bool any = false, fits = false;
    for (int i = 0; i < sk_X509_OBJECT_num(objects) && !fits; i++) {
        X509 *x509 = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(objects, i));
        if (!x509 || X509_NAME_cmp(X509_get_subject_name(x509), X509_CRL_get_issuer(crl)) != 0)
            continue;
        any = true;
        fits = mg_crl_signed_by(memo, crl, x509);
    }
    mg_crl_memo_unref(memo);
    return fits || !any;
}

static const char *
crl_fault(const STACK_OF(X509_OBJECT) * objects, X509_CRL *crl)
{
    const ASN1_TIME *next = X509_CRL_get0_nextUpdate(crl);
    if (next && X509_cmp_current_time(next) < 0)
        return "has ended: certificates of that CA are refused";
    if (X509_cmp_current_time(X509_CRL_get0_lastUpdate(crl)) > 0)
        return "is not valid yet: certificates of that CA are refused";
    return signature_fits(objects, crl)
               ? NULL
               : "is not signed by the CA of that name, whose certificates are refused";
}

/* Whether there is one of the same issuer that is as it should be: then that one counts. */
static bool
is_replaced(const STACK_OF(X509_OBJECT) * objects, X509_CRL *crl)
{
    for (int i = 0; i < sk_X509_OBJECT_num(objects); i++) {
        X509_CRL *other = X509_OBJECT_get0_X509_CRL(sk_X509_OBJECT_value(objects, i));
        if (other && other != crl && X509_CRL_cmp(crl, other) == 0 && !crl_fault(objects, other))
            return true;
    }
    return false;
}

static void
crl_faults(SSL_CTX *ctx, struct mg_buf *out)
{
    const struct mg_ssl_context_extra *extra = mg_ssl_context_extra(ctx);
    const STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(SSL_CTX_get_cert_store(ctx));
    if (!extra || !extra->crl_check.lenient)
        return;
    for (int i = 0; i < sk_X509_OBJECT_num(objects); i++) {
        X509_CRL *crl = X509_OBJECT_get0_X509_CRL(sk_X509_OBJECT_value(objects, i));
        const char *fault = crl ? crl_fault(objects, crl) : NULL;
        if (fault && !is_replaced(objects, crl))
            mg_fault_add(out, "the CRL of ", X509_CRL_get_issuer(crl), fault);
    }
}

void
mg_fault_add(struct mg_buf *out, const char *what, const X509_NAME *name, const char *fault)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *text = NULL;
    if (bio)
        X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253 & ~(unsigned long)ASN1_STRFLGS_ESC_MSB);
    long len = bio ? BIO_get_mem_data(bio, &text) : 0;
    mg_buf_adds(out, what);
    mg_buf_add_printable(out, text ? text : "?", len > 0 ? (size_t)len : 0);
    mg_buf_adds(out, " ");
    mg_buf_add(out, fault, strlen(fault) + 1);
    BIO_free(bio);
}

int
mg_ssl_context_faults(SSL_CTX *ctx, struct mg_buf *out)
{
    crl_faults(ctx, out);
    mg_staple_faults(ctx, out);
    ERR_clear_error();
    return out->failed ? -1 : 0;
}

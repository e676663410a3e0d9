/*
 * x509_name: X509.Name and X509.Extension. Both are immutable here: what Ruby builds by add_entry
 * is given to the constructor as a whole.
 */
#include "openssl/internal.h"

#include <openssl/pem.h>

#include <limits.h>
#include <string.h>

/* ---- Name ----------------------------------------------------------------------------------- */

static X509_NAME *
self_name(lua_State *L)
{
    return ((struct mg_name *)mg_class_check(L, 1, &mg_name_class))->name;
}

static int
name_gc(lua_State *L)
{
    struct mg_name *self = lua_touserdata(L, 1);
    X509_NAME_free(self->name);
    self->name = NULL;
    return 0;
}

static struct mg_name *
name_push(lua_State *L)
{
    struct mg_name *self = mg_class_new(L, &mg_name_class, sizeof(*self));
    self->name = X509_NAME_new();
    if (!self->name)
        mg_lua_openssl_error(L, "NameError", "X509_NAME_new");
    return self;
}

void
mg_lua_push_name(lua_State *L, const X509_NAME *name)
{
    struct mg_name *self = mg_class_new(L, &mg_name_class, sizeof(*self));
    self->name = X509_NAME_dup(name);
    if (!self->name)
        mg_lua_openssl_error(L, "NameError", "X509_NAME_dup");
}

static void
entry_add(lua_State *L, X509_NAME *name, const char *what, const char *type, const char *value,
          size_t len, int asn1_type)
{
    if (len > INT_MAX)
        mg_lua_error(L, "NameError", "%s: a value is longer than %d bytes", what, INT_MAX);
    if (X509_NAME_add_entry_by_txt(name, type, asn1_type, (const unsigned char *)value, (int)len,
                                   -1, 0) != 1)
        mg_lua_openssl_error(L, "NameError", "%s: X509_NAME_add_entry_by_txt", what);
}

/* "/CN=x/O=y"; a slash that no "type=" follows belongs to the value, as in Ruby. */
static void
name_parse(lua_State *L, X509_NAME *name, const char *what, const char *text)
{
    const char *p = text;
    if (*p != '/')
        mg_lua_error(L, "NameError", "%s: expected \"/CN=…\", got \"%.80s\"", what, text);
    while (*p == '/') {
        const char *type = ++p, *equals = strchr(p, '=');
        char type_text[80];
        if (!equals || equals == type || (size_t)(equals - type) >= sizeof(type_text))
            mg_lua_error(L, "NameError", "%s: expected \"/CN=…\", got \"%.80s\"", what, text);
        memcpy(type_text, type, (size_t)(equals - type));
        type_text[equals - type] = '\0';
        const char *value = equals + 1, *end = value;
        for (;;) {
            end += strcspn(end, "/");
            if (*end == '\0')
                break;
            size_t word = strcspn(end + 1, "/=");
            if (word > 0 && end[1 + word] == '=')
                break;
            end++;
        }
        entry_add(L, name, what, type_text, value, (size_t)(end - value), MBSTRING_UTF8);
        p = end;
    }
}

X509_NAME *
mg_attr_name(lua_State *L, int idx, const char *cls, const char *name)
{
    const struct mg_name *given = mg_class_test(L, idx, &mg_name_class);
    if (given)
        return given->name;
    if (lua_type(L, idx) != LUA_TSTRING)
        mg_attr_type_error(L, idx, cls, name, "a Name or a string \"/CN=…\"");
    const char *text = mg_attr_text(L, idx, cls, name);
    const char *what = lua_pushfstring(L, "%s.%s", cls, name);
    struct mg_name *parsed = name_push(L);
    name_parse(L, parsed->name, what, text);
    lua_replace(L, idx);
    lua_pop(L, 1);
    return parsed->name;
}

/* Name.new(der) */
static int
name_read(lua_State *L)
{
    size_t len;
    const char *der = lua_tolstring(L, 1, &len);
    const unsigned char *at = (const unsigned char *)der, *end = at + len;
    struct mg_name *self = mg_class_new(L, &mg_name_class, sizeof(*self));
    ERR_clear_error();
    self->name = d2i_X509_NAME(NULL, &at, (long)len);
    if (!self->name || at != end)
        mg_lua_openssl_error(L, "NameError",
                             "Name.new: expected a list or DER (Name.parse reads \"/CN=…\")");
    return 1;
}

/* Name.new([{ { "CN", "localhost"[, asn1_type] }, … }]), or from DER */
static int
name_new(lua_State *L)
{
    mg_check_count(L, 0, 1);
    if (lua_type(L, 1) == LUA_TSTRING)
        return name_read(L);
    if (!lua_isnoneornil(L, 1))
        mg_check_table(L, 1);
    struct mg_name *self = name_push(L);
    if (!lua_istable(L, 1))
        return 1;
    ERR_clear_error();
    lua_Integer count = (lua_Integer)lua_rawlen(L, 1);
    for (lua_Integer i = 1; i <= count; i++) {
        size_t len;
        if (lua_rawgeti(L, 1, i) != LUA_TTABLE || lua_rawgeti(L, -1, 1) != LUA_TSTRING ||
            lua_rawgeti(L, -2, 2) != LUA_TSTRING)
            mg_lua_error(L, "TypeError", "Name.new: entry %d: expected {type, value}", (int)i);
        const char *value = lua_tolstring(L, -1, &len);
        lua_rawgeti(L, -3, 3);
        int asn1_type = lua_isinteger(L, -1) ? (int)lua_tointeger(L, -1) : MBSTRING_UTF8;
        entry_add(L, self->name, "Name.new", lua_tostring(L, -3), value, len, asn1_type);
        lua_pop(L, 4);
    }
    return 1;
}

/* Name.parse("/CN=localhost/O=x") */
static int
name_parse_function(lua_State *L)
{
    mg_check_count(L, 1, 1);
    const char *text = mg_check_text(L, 1);
    ERR_clear_error();
    name_parse(L, name_push(L)->name, "Name.parse", text);
    return 1;
}

static void
name_print(lua_State *L, const X509_NAME *name, unsigned long flags)
{
    BIO *bio = mg_box_push_mem(L);
    if (X509_NAME_print_ex(bio, name, 0, flags) < 0)
        mg_lua_openssl_error(L, "NameError", "X509_NAME_print_ex");
    mg_push_mem(L, bio);
}

static void
text_free(void *text)
{
    OPENSSL_free(text);
}

static void
object_free(void *object)
{
    ASN1_OBJECT_free(object);
}

/* to_s([flags]): "/CN=localhost" without flags */
static int
name_to_s(lua_State *L)
{
    X509_NAME *name = self_name(L);
    mg_check_count(L, 0, 1);
    if (!lua_isnoneornil(L, 2)) {
        name_print(L, name, (unsigned long)mg_check_integer(L, 2));
        return 1;
    }
    struct mg_box *text = mg_box_push(L, text_free);
    text->ptr = X509_NAME_oneline(name, NULL, 0);
    if (!text->ptr)
        mg_lua_openssl_error(L, "NameError", "X509_NAME_oneline");
    lua_pushstring(L, text->ptr);
    mg_box_free(text);
    return 1;
}

static int
name_to_utf8(lua_State *L)
{
    X509_NAME *name = self_name(L);
    mg_check_count(L, 0, 0);
    name_print(L, name, XN_FLAG_RFC2253 & ~(unsigned long)ASN1_STRFLGS_ESC_MSB);
    return 1;
}

static int
name_to_a(lua_State *L)
{
    const X509_NAME *name = self_name(L);
    mg_check_count(L, 0, 0);
    int count = X509_NAME_entry_count(name);
    lua_createtable(L, count, 0);
    for (int i = 0; i < count; i++) {
        const X509_NAME_ENTRY *entry = X509_NAME_get_entry(name, i);
        const ASN1_STRING *value = X509_NAME_ENTRY_get_data(entry);
        const ASN1_OBJECT *object = X509_NAME_ENTRY_get_object(entry);
        char type[128];
        int nid = OBJ_obj2nid(object);
        if (nid != NID_undef)
            mg_str_copy(type, sizeof(type), OBJ_nid2sn(nid));
        else
            OBJ_obj2txt(type, sizeof(type), object, 1);
        lua_createtable(L, 3, 0);
        lua_pushstring(L, type);
        lua_rawseti(L, -2, 1);
        lua_pushlstring(L, (const char *)ASN1_STRING_get0_data(value),
                        (size_t)ASN1_STRING_length(value));
        lua_rawseti(L, -2, 2);
        lua_pushinteger(L, ASN1_STRING_type(value));
        lua_rawseti(L, -2, 3);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* The object that "CN", "commonName" or "2.5.4.3" names, in a box that is pushed. */
static const ASN1_OBJECT *
type_push(lua_State *L, int arg)
{
    const char *text = mg_check_text(L, arg);
    struct mg_box *box = mg_box_push(L, object_free);
    ERR_clear_error();
    box->ptr = OBJ_txt2obj(text, 0);
    ERR_clear_error();
    if (!box->ptr)
        mg_lua_error(L, "NameError", "%s: \"%.80s\" is no type of an entry (\"CN\", \"OU\", …)",
                     mg_function_name(L), text);
    return box->ptr;
}

/* Pushes an entry's value in UTF-8. */
static void
value_push(lua_State *L, const X509_NAME_ENTRY *entry)
{
    const ASN1_STRING *value = X509_NAME_ENTRY_get_data(entry);
    struct mg_box *text = mg_box_push(L, text_free);
    unsigned char *utf8 = NULL;
    int len = ASN1_STRING_to_UTF8(&utf8, value);
    text->ptr = utf8;
    if (len < 0)
        mg_lua_openssl_error(L, "NameError", "%s: ASN1_STRING_to_UTF8", mg_function_name(L));
    lua_pushlstring(L, (const char *)utf8, (size_t)len);
    mg_box_free(text);
    lua_remove(L, -2);
}

/* values(type) -> list */
static int
name_values(lua_State *L)
{
    const X509_NAME *name = self_name(L);
    mg_check_count(L, 1, 1);
    const ASN1_OBJECT *object = type_push(L, 2);
    lua_newtable(L);
    int at = -1;
    for (lua_Integer i = 1; (at = X509_NAME_get_index_by_OBJ(name, object, at)) >= 0; i++) {
        value_push(L, X509_NAME_get_entry(name, at));
        lua_rawseti(L, -2, i);
    }
    return 1;
}

/* get(type) -> the value; nil where there is none, or more than one: a rule must not see only one of them */
static int
name_get(lua_State *L)
{
    const X509_NAME *name = self_name(L);
    mg_check_count(L, 1, 1);
    const ASN1_OBJECT *object = type_push(L, 2);
    int at = X509_NAME_get_index_by_OBJ(name, object, -1);
    if (at >= 0 && X509_NAME_get_index_by_OBJ(name, object, at) < 0)
        value_push(L, X509_NAME_get_entry(name, at));
    else
        lua_pushnil(L);
    return 1;
}

static int
name_to_der(lua_State *L)
{
    const unsigned char *der;
    size_t len;
    const X509_NAME *name = self_name(L);
    mg_check_count(L, 0, 0);
    if (X509_NAME_get0_der(name, &der, &len) != 1)
        mg_lua_openssl_error(L, "NameError", "X509_NAME_get0_der");
    lua_pushlstring(L, (const char *)der, len);
    return 1;
}

/* cmp(other) -> -1, 0, 1 */
static int
name_cmp(lua_State *L)
{
    const X509_NAME *name = self_name(L);
    mg_check_count(L, 1, 1);
    const struct mg_name *other = mg_class_check(L, 2, &mg_name_class);
    int order = X509_NAME_cmp(name, other->name);
    lua_pushinteger(L, (order > 0) - (order < 0));
    return 1;
}

static int
name_eq(lua_State *L)
{
    const struct mg_name *a = mg_class_test(L, 1, &mg_name_class);
    const struct mg_name *b = mg_class_test(L, 2, &mg_name_class);
    lua_pushboolean(L, a && b && a->name && b->name && X509_NAME_cmp(a->name, b->name) == 0);
    return 1;
}

static int
name_eql(lua_State *L)
{
    self_name(L);
    mg_check_count(L, 1, 1);
    return name_eq(L);
}

/* The number in ca_path's file names: "%08x.0". */
static int
name_get_hash(lua_State *L, void *self)
{
    lua_pushinteger(
        L, (lua_Integer)X509_NAME_hash_ex(((struct mg_name *)self)->name, NULL, NULL, NULL));
    return 1;
}

static const struct mg_attr name_attrs[] = {
    {"hash", name_get_hash, NULL},
    {NULL, NULL, NULL},
};

static const luaL_Reg name_methods[] = {
    {"to_s", name_to_s},     {"to_utf8", name_to_utf8}, {"to_a", name_to_a},
    {"to_der", name_to_der}, {"cmp", name_cmp},         {"eql", name_eql},
    {"get", name_get},       {"values", name_values},   {NULL, NULL},
};

const struct mg_class mg_name_class = {
    .name = "Name",
    .metatable = "moongate.X509.Name",
    .attrs = name_attrs,
    .methods = name_methods,
    .gc = name_gc,
    .eq = name_eq,
    .tostring = name_to_s,
};

const luaL_Reg mg_name_functions[] = {
    {"new", name_new},
    {"parse", name_parse_function},
    {NULL, NULL},
};

/* ---- Extension ------------------------------------------------------------------------------ */

static int
extension_gc(lua_State *L)
{
    struct mg_extension *self = lua_touserdata(L, 1);
    X509_EXTENSION_free(self->ext);
    self->ext = NULL;
    return 0;
}

void
mg_lua_push_extension(lua_State *L, X509_EXTENSION *ext)
{
    struct mg_extension *self = mg_class_new(L, &mg_extension_class, sizeof(*self));
    self->ext = X509_EXTENSION_dup(ext);
    if (!self->ext)
        mg_lua_openssl_error(L, "ExtensionError", "X509_EXTENSION_dup");
}

void
mg_lua_push_extensions(lua_State *L, const STACK_OF(X509_EXTENSION) * list)
{
    lua_newtable(L);
    for (int i = 0; i < sk_X509_EXTENSION_num(list); i++) {
        mg_lua_push_extension(L, sk_X509_EXTENSION_value(list, i));
        lua_rawseti(L, -2, i + 1);
    }
}

/* Extension.new(oid, value_der[, critical]); text values are ExtensionFactory's. */
static int
extension_new(lua_State *L)
{
    size_t len;
    mg_check_count(L, 2, 3);
    const char *oid = mg_check_text(L, 1);
    const char *der = mg_check_string(L, 2, &len);
    bool critical = !lua_isnoneornil(L, 3) && mg_check_boolean(L, 3);
    if (len > INT_MAX)
        mg_lua_error(L, "ExtensionError", "Extension.new: longer than %d bytes", INT_MAX);
    struct mg_extension *self = mg_class_new(L, &mg_extension_class, sizeof(*self));
    ERR_clear_error();
    ASN1_OBJECT *object = OBJ_txt2obj(oid, 0);
    ASN1_OCTET_STRING *value = ASN1_OCTET_STRING_new();
    if (object && value && ASN1_OCTET_STRING_set(value, (const unsigned char *)der, (int)len) == 1)
        self->ext = X509_EXTENSION_create_by_OBJ(NULL, object, critical, value);
    ASN1_OBJECT_free(object);
    ASN1_OCTET_STRING_free(value);
    if (!self->ext)
        mg_lua_openssl_error(L, "ExtensionError", "Extension.new: \"%s\"", oid);
    return 1;
}

static int
get_oid(lua_State *L, void *self)
{
    const ASN1_OBJECT *object = X509_EXTENSION_get_object(((struct mg_extension *)self)->ext);
    int nid = OBJ_obj2nid(object);
    char text[128];
    if (nid != NID_undef)
        mg_str_copy(text, sizeof(text), OBJ_nid2sn(nid));
    else
        OBJ_obj2txt(text, sizeof(text), object, 1);
    lua_pushstring(L, text);
    return 1;
}

static int
get_value(lua_State *L, void *self)
{
    X509_EXTENSION *ext = ((struct mg_extension *)self)->ext;
    BIO *bio = mg_box_push_mem(L);
    if (X509V3_EXT_print(bio, ext, 0, 0) != 1)
        ASN1_STRING_print(bio, X509_EXTENSION_get_data(ext));
    ERR_clear_error();
    mg_push_mem(L, bio);
    return 1;
}

static int
get_value_der(lua_State *L, void *self)
{
    const ASN1_OCTET_STRING *value = X509_EXTENSION_get_data(((struct mg_extension *)self)->ext);
    lua_pushlstring(L, (const char *)ASN1_STRING_get0_data(value),
                    (size_t)ASN1_STRING_length(value));
    return 1;
}

static int
get_critical(lua_State *L, void *self)
{
    lua_pushboolean(L, X509_EXTENSION_get_critical(((struct mg_extension *)self)->ext));
    return 1;
}

static const struct mg_attr extension_attrs[] = {
    {"oid", get_oid, NULL},
    {"value", get_value, NULL},
    {"value_der", get_value_der, NULL},
    {"critical", get_critical, NULL},
    {NULL, NULL, NULL},
};

const struct mg_class mg_extension_class = {
    .name = "Extension",
    .metatable = "moongate.X509.Extension",
    .attrs = extension_attrs,
    .gc = extension_gc,
};

const luaL_Reg mg_extension_functions[] = {
    {"new", extension_new},
    {NULL, NULL},
};

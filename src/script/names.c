/*
 * A ServerNames becomes the engine's table: its contexts are set up, the names of certificates are read.
 *
 * Names that the script gives win over those of certificates. Of two contexts that claim one name by their
 * certificates the first one gets it, and the script's warnings say so.
 */
#include "script/internal.h"

#include <openssl/evp.h>

#include <string.h>

/* Of one ServerNames so many clashes are told one by one. */
#define CLASHES_MAX 200

struct filling {
    lua_State *L;
    struct mg_names *names;
    struct mg_buf *facts; /* all that the digest is made of */
    const char *place;    /* "script.lua:12: listen: web: tls" */
    int given;            /* stack index of the ServerNames' user value */
    int targets;          /* of a table from context to its target's index */
    int contexts;         /* of the list of contexts */
    int named;            /* targets below this one have their names from the script */
    size_t clashes;
};

static int
target_add(struct filling *f, const struct mg_target *target, const unsigned char digest[32])
{
    int index = mg_names_target(f->names, target);

    if (index < 0)
        luaL_error(f->L, "out of memory");
    mg_buf_add(f->facts, &target->kind, sizeof(target->kind));
    mg_buf_add(f->facts, digest, 32);
    return index;
}

/* The context at the top is set up and gets a target. */
static int
context_add(struct filling *f, const char *entry)
{
    lua_State *L = f->L;
    int context = lua_gettop(L);
    struct mg_ssl_context_facts facts;
    struct mg_target target = {.kind = MG_TARGET_TERMINATE, .tls = mg_ssl_context_test(L, context)};
    int index;

    mg_context_setup(L, context, false, lua_pushfstring(L, "%s%s", f->place, entry));
    mg_ssl_context_facts(L, context, &facts);
    target.asks_hello = facts.servername_cb;
    index = target_add(f, &target, facts.digest);
    lua_pushvalue(L, context);
    lua_rawseti(L, f->contexts, (lua_Integer)lua_rawlen(L, f->contexts) + 1);
    lua_pushvalue(L, context);
    lua_pushinteger(L, index);
    lua_rawset(L, f->targets);
    lua_settop(L, context);
    return index;
}

/* The target of the value at the top. */
static int
target_of(struct filling *f, const char *entry)
{
    lua_State *L = f->L;
    static const unsigned char none[32];
    struct mg_target target = {.kind = MG_TARGET_REFUSE};
    int index;

    if (mg_ssl_context_test(L, -1) == NULL) {
        if (mg_passthrough_test(L, -1))
            target.kind = MG_TARGET_PASS;
        return target_add(f, &target, none);
    }
    lua_pushvalue(L, -1);
    if (lua_rawget(L, f->targets) != LUA_TNUMBER) {
        lua_pop(L, 1);
        return context_add(f, entry);
    }
    index = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    return index;
}

/* ---- names that the script gives ------------------------------------------------------------- */

static void
name_add(struct filling *f, const char *name, size_t len, int target)
{
    int other;

    mg_buf_add(f->facts, name, len + 1);
    mg_buf_add(f->facts, &target, sizeof(target));
    if (strcmp(name, "none") == 0 || strcmp(name, "default") == 0) {
        mg_names_set(f->names, name[0] == 'n' ? MG_NAMES_NONE : MG_NAMES_DEFAULT, target);
        return;
    }
    if (mg_names_add(f->names, name, len, target, &other) != 0)
        luaL_error(f->L, "out of memory");
    if (other >= 0)
        luaL_error(f->L, "%s[\"%s\"]: the name is given twice, in another spelling", f->place,
                   name);
}

static void
named_fill(struct filling *f)
{
    lua_State *L = f->L;
    int names = lua_gettop(L) + 1, values = names + 1;

    lua_rawgeti(L, f->given, MG_SERVERNAMES_NAMES);
    lua_rawgeti(L, f->given, MG_SERVERNAMES_VALUES);
    for (lua_Integer i = 1; lua_rawgeti(L, names, i) == LUA_TSTRING; i++) {
        size_t len;
        const char *name = lua_tolstring(L, -1, &len);
        const char *entry = lua_pushfstring(L, "[\"%s\"]", name);

        lua_rawgeti(L, values, i);
        name_add(f, name, len, target_of(f, entry));
        lua_settop(L, values);
    }
    lua_settop(L, names - 1);
}

/* ---- names of certificates ------------------------------------------------------------------- */

/* Pushes what a warning calls the context of a target: its label and, unless that says it already, the file of the
 * certificate that has the name. */
static const char *
label_push(struct filling *f, int target, const char *type, const char *name)
{
    const struct mg_target *found = mg_names_target_at(f->names, (size_t)target);
    const char *label, *file;

    if (found == NULL || !mg_ssl_context_push(f->L, found->tls))
        return lua_pushliteral(f->L, "another context");
    label = mg_ssl_context_label_push(f->L, -1);
    file = mg_ssl_context_file(found->tls, type, name);
    if (file == NULL || strstr(label, file) != NULL)
        return label;
    return lua_pushfstring(f->L, "%s (%s)", label, file);
}

static void
clash_tell(struct filling *f, const char *type, const char *name, int first, int target)
{
    lua_State *L = f->L;
    int top = lua_gettop(L);

    if (++f->clashes <= CLASHES_MAX)
        mg_script_warn(L,
                       "%s: %s is a name of two contexts: %s gets it, as the first; the %s "
                       "certificate of %s is not served under it",
                       f->place, name, label_push(f, first, NULL, name), type,
                       label_push(f, target, type, name));
    lua_settop(L, top);
}

/* Names of the certificates of the context at the top. Returns how many can be asked for. */
static size_t
certificate_names_add(struct filling *f, int target)
{
    lua_State *L = f->L;
    int context = lua_gettop(L);
    struct mg_buf *list = mg_bytes_push(L);
    const char *type, *name, *end;
    size_t count = 0;

    if (mg_ssl_context_names(mg_ssl_context_test(L, context), list) != 0)
        luaL_error(L, "out of memory");
    end = list->data + list->len;
    for (type = list->data; list->len > 0 && type < end; type = name + strlen(name) + 1) {
        int other;

        name = type + strlen(type) + 1;
        if (mg_name_fault(name, strlen(name)) != NULL)
            continue;
        count++;
        mg_buf_add(f->facts, name, strlen(name) + 1);
        mg_buf_add(f->facts, &target, sizeof(target));
        if (mg_names_add(f->names, name, strlen(name), target, &other) != 0)
            luaL_error(L, "out of memory");
        if (other >= f->named && other != target)
            clash_tell(f, type, name, other, target);
    }
    lua_settop(L, context);
    return count;
}

static void
listed_fill(struct filling *f)
{
    lua_State *L = f->L;
    int listed = lua_gettop(L) + 1;

    lua_rawgeti(L, f->given, MG_SERVERNAMES_LISTED);
    for (lua_Integer i = 1; lua_rawgeti(L, listed, i) != LUA_TNIL; i++) {
        char entry[32];
        int target;

        snprintf(entry, sizeof(entry), "[%d]", (int)i);
        target = target_of(f, entry);
        if (certificate_names_add(f, target) == 0)
            luaL_error(L,
                       "%s%s: no certificate of %s has a name (subjectAltName): give it one as a "
                       "key, [\"www.example.com\"] = ...",
                       f->place, entry, mg_ssl_context_label_push(L, -1));
        lua_settop(L, listed);
    }
    lua_settop(L, listed - 1);
    if (f->clashes > CLASHES_MAX)
        mg_script_warn(L, "%s: %d more names are names of two contexts", f->place,
                       (int)(f->clashes - CLASHES_MAX));
}

/* ---- all of it ------------------------------------------------------------------------------- */

void
mg_servernames_freeze(lua_State *L, int idx, const char *place)
{
    struct mg_servernames_object *self = mg_servernames_test(L, idx);
    struct filling f = {.L = L, .place = place};
    int top = lua_gettop(L);

    if (self->names != NULL)
        return;
    self->names = mg_names_new(); /* freed with the object, whatever happens */
    if (self->names == NULL)
        luaL_error(L, "out of memory");
    f.names = self->names;
    luaL_checkstack(L, 24, NULL);
    lua_getiuservalue(L, idx, 1);
    f.given = lua_gettop(L);
    lua_newtable(L);
    f.targets = lua_gettop(L);
    lua_newtable(L);
    f.contexts = lua_gettop(L);
    f.facts = mg_bytes_push(L);
    named_fill(&f);
    f.named = (int)mg_names_target_count(f.names);
    listed_fill(&f);
    if (f.facts->failed || EVP_Digest(f.facts->data != NULL ? f.facts->data : "", f.facts->len,
                                      self->digest, NULL, EVP_sha256(), NULL) != 1)
        luaL_error(L, "out of memory");
    lua_pushvalue(L, f.contexts);
    lua_rawseti(L, f.given, MG_SERVERNAMES_CONTEXTS);
    lua_settop(L, top);
}

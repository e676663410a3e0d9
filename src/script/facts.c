/*
 * What a policy amounts to as plain facts: what each listener and backend offers, shows and does.
 *
 * A fact is a line "subject, key, value", with tabs between; a key may have several values. A name of a
 * ServerNames is a subject, "web: a.example"; what its context offers is another one, which it refers to
 * by its key "policy", since many are alike. Facts lie in the snapshot, so that the loader can compare the
 * policy in force with a new one (difference.c).
 */
#include "script/internal.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---- options --------------------------------------------------------------------------------- */

static void
option_add(struct mg_proof_entry *e, const char *name, const char *value)
{
    mg_buf_add(&e->options, name, strlen(name) + 1);
    mg_buf_add(&e->options, value, strlen(value) + 1);
}

static void
rate_add(struct mg_proof_entry *e, const char *name, const struct mg_option_rate *rate)
{
    const double values[] = {rate->per_second, rate->burst, rate->per_ip};
    static const char *const names[] = {"per_second", "burst", "per_ip"};
    char text[128] = "";
    size_t len = 0;

    for (size_t i = 0; i < MG_ARRAY_LEN(values); i++)
        if (values[i] > 0)
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s %.14g",
                                    len > 0 ? ", " : "", names[i], values[i]);
    option_add(e, name, text);
}

/* The value at the top as people write it, popped. */
static void
value_add(lua_State *L, struct mg_proof_entry *e, const char *name)
{
    struct mg_backend_object *backend = mg_backend_test(L, -1);
    struct mg_option_rate rate;
    char number[40];
    int top = lua_gettop(L);

    if (mg_option_rate(L, top, &rate)) {
        rate_add(e, name, &rate);
    } else if (lua_type(L, top) == LUA_TTABLE && strcmp(name, "address") != 0) {
        lua_pushliteral(L, "");
        for (lua_Integer i = 1; lua_rawgeti(L, top, i) == LUA_TSTRING; i++) {
            lua_pushfstring(L, "%s%s%s", lua_tostring(L, -2), i > 1 ? ", " : "",
                            lua_tostring(L, -1));
            lua_replace(L, top + 1);
            lua_settop(L, top + 1);
        }
        option_add(e, name, lua_tostring(L, top + 1));
    } else if (lua_type(L, top) == LUA_TTABLE) {
        for (lua_Integer i = 1; lua_rawgeti(L, top, i) == LUA_TSTRING; i++) {
            option_add(e, name, lua_tostring(L, -1));
            lua_pop(L, 1);
        }
    } else if (lua_type(L, top) == LUA_TNUMBER) {
        snprintf(number, sizeof(number), "%.14g", lua_tonumber(L, top));
        option_add(e, name, number);
    } else if (backend != NULL) {
        mg_option_push(L, top, "name");
        option_add(e, name, lua_tostring(L, -1));
    } else if (lua_isfunction(L, top)) {
        option_add(e, name, "a function");
    } else if (!lua_isnil(L, top)) {
        option_add(e, name, luaL_tolstring(L, top, NULL));
    }
    lua_settop(L, top - 1);
}

static void
values_add(lua_State *L, struct mg_proof_entry *e, int object, const char *const *names)
{
    for (; *names != NULL; names++) {
        mg_option_push(L, object, *names);
        value_add(L, e, *names);
    }
}

/* Replaces the string at the top, which may be a password, by what tells it from another one and no more. */
static void
secret_text(lua_State *L)
{
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    char told[48];

    snprintf(told, sizeof(told), "%zu bytes #%04x", len,
             (unsigned)(mg_str_hash(text, len) & 0xffff));
    lua_pushstring(L, told);
    lua_replace(L, -2);
}

/* Replaces the value at the top by "0xE0=5 bytes #1234". */
static void
tlv_text(lua_State *L, unsigned type)
{
    char name[16];

    snprintf(name, sizeof(name), "0x%02X=", type);
    if (lua_type(L, -1) == LUA_TSTRING) {
        secret_text(L);
    } else {
        lua_pushliteral(L, "a function");
        lua_replace(L, -2);
    }
    lua_pushfstring(L, "%s%s", name, lua_tostring(L, -1));
    lua_replace(L, -2);
}

/* "0xE0=5 bytes #1234, 0xE1=a function", by type; may raise. */
static void
tlvs_add(lua_State *L, struct mg_proof_entry *e, int object)
{
    int list = lua_gettop(L) + 1;

    if (mg_option_push(L, object, "proxy_tlvs") == LUA_TTABLE) {
        lua_pushliteral(L, "");
        for (unsigned type = MG_PROXY_CUSTOM_FIRST; type <= MG_PROXY_EXPERIMENT_LAST; type++) {
            lua_pushstring(L, lua_rawlen(L, list + 1) > 0 ? ", " : "");
            if (lua_rawgeti(L, list, type) != LUA_TNIL) {
                tlv_text(L, type);
                lua_concat(L, 3);
            }
            lua_settop(L, list + 1);
        }
        option_add(e, "proxy_tlvs", lua_tostring(L, list + 1));
    }
    lua_settop(L, list - 1);
}

/* A list that goes with the addresses as one value, "3, 1, 1"; popped. */
static void
beside_addresses_add(lua_State *L, struct mg_proof_entry *e, int object, const char *field)
{
    int top = lua_gettop(L);

    if (mg_option_push(L, object, "address") == LUA_TTABLE) {
        lua_getfield(L, -1, field);
        lua_pushliteral(L, "");
        for (lua_Integer i = 1; lua_rawgeti(L, top + 2, i) != LUA_TNIL; i++) {
            luaL_tolstring(L, -1, NULL);
            lua_remove(L, -2);
            lua_pushstring(L, i > 1 ? ", " : "");
            lua_insert(L, -2);
            lua_concat(L, 3);
        }
        lua_pop(L, 1);
        option_add(e, field, lua_tostring(L, -1));
    }
    lua_settop(L, top);
}

static void
health_options_add(lua_State *L, struct mg_proof_entry *e, int object)
{
    int top = lua_gettop(L);
    char key[40];

    if (mg_option_push(L, object, "health") == LUA_TTABLE) {
        lua_getfield(L, -1, "probes");
        option_add(e, "health", lua_toboolean(L, -1) ? "probes" : "failed connections");
        for (const char *const *name = mg_backend_health; *name != NULL; name++) {
            snprintf(key, sizeof(key), "health %s", *name);
            if (lua_getfield(L, top + 1, *name) == LUA_TSTRING && strcmp(*name, "kind") != 0)
                secret_text(L);
            value_add(L, e, key);
        }
    } else if (lua_isboolean(L, -1)) {
        option_add(e, "health", "off");
    }
    lua_settop(L, top);
}

void
mg_facts_options(lua_State *L, int object, struct mg_proof_entry *e)
{
    static const char *const of_listener[] = {"address", "backend", NULL};
    static const char *const of_backend[] = {
        "address", "balance",    "connect_timeout", "resolve_interval", "max_connections",
        "on_down", "send_proxy", "servername",      "source",           NULL,
    };

    values_add(L, e, object, e->is_backend ? of_backend : of_listener);
    if (e->is_backend) {
        tlvs_add(L, e, object);
        beside_addresses_add(L, e, object, "weights");
        beside_addresses_add(L, e, object, "backups");
        health_options_add(L, e, object);
    } else {
        values_add(L, e, object, mg_listener_limits);
    }
    if (e->options.failed)
        luaL_error(L, "out of memory");
}

/* ---- facts ----------------------------------------------------------------------------------- */

static void
fact_add(struct mg_buf *out, const char *subject, const char *key, const char *value)
{
    mg_buf_add_printable(out, subject, strlen(subject));
    mg_buf_addf(out, "\t%s\t", key);
    mg_buf_add_printable(out, value, strlen(value));
    mg_buf_adds(out, "\n");
}

static void
list_add(struct mg_buf *out, const char *subject, const char *key, const struct mg_buf *list)
{
    for (size_t at = 0; at < list->len; at += strlen(list->data + at) + 1)
        fact_add(out, subject, key, list->data + at);
}

/* "TLS 1.2" for "TLSv1.2". */
static const char *
version_words(const char *id, char out[16])
{
    snprintf(out, 16, "TLS %s", strcmp(id, "TLSv1") == 0 ? "1.0" : id + strlen("TLSv"));
    return out;
}

static void
offer_add(struct mg_buf *out, const char *subject, const struct mg_proof_entry *e)
{
    const struct mg_buf *versions = &e->offer->versions;
    char text[16];

    for (size_t at = 0; at < versions->len; at += strlen(versions->data + at) + 1)
        fact_add(out, subject, "TLS version", version_words(versions->data + at, text));
    list_add(out, subject, "suite", &e->offer->suites);
    list_add(out, subject, "group", &e->offer->groups);
    fact_add(out, subject, "verification", mg_proof_verification(e));
    fact_add(out, subject, "resumption", mg_proof_resumption(e));
}

static void
alpn_add(struct mg_buf *out, const char *subject, const struct mg_proof_entry *e)
{
    char name[256];

    if (e->alpn_asked)
        fact_add(out, subject, "alpn", "whatever alpn_select_cb decides");
    for (size_t at = 0; at < e->alpn.len; at += 1 + (unsigned char)e->alpn.data[at]) {
        size_t len = (unsigned char)e->alpn.data[at];

        memcpy(name, e->alpn.data + at + 1, len);
        name[len] = '\0';
        fact_add(out, subject, "alpn", name);
    }
}

/* "2027-02-01 CN=localhost 5f3a…": by its beginning a date, by its end the certificate. */
static void
certificate_add(struct mg_buf *out, const char *subject, const struct mg_proof_certificate *c)
{
    time_t end = (time_t)c->not_after;
    char key[40], value[128], date[16] = "";
    struct tm tm;
    size_t len;

    if (gmtime_r(&end, &tm) != NULL)
        strftime(date, sizeof(date), "%Y-%m-%d", &tm);
    snprintf(key, sizeof(key), "certificate %s", c->type);
    len = (size_t)snprintf(value, sizeof(value), "%s ", date);
    for (size_t i = 0; i < sizeof(c->fingerprint); i++)
        len += (size_t)snprintf(value + len, sizeof(value) - len, "%02x", c->fingerprint[i]);
    fact_add(out, subject, key, value);
}

static void
options_add(struct mg_buf *out, const char *subject, const struct mg_proof_entry *e)
{
    for (size_t at = 0; at < e->options.len;) { /* name, value */
        const char *name = e->options.data + at, *value = name + strlen(name) + 1;

        fact_add(out, subject, name, value);
        at += strlen(name) + strlen(value) + 2;
    }
}

static void
policy_add(struct mg_buf *out, const char *subject, const struct mg_proof_entry *e)
{
    char digest[65];

    if (e->offer != NULL)
        offer_add(out, subject, e);
    alpn_add(out, subject, e);
    for (size_t i = 0; i < sizeof(e->digest); i++)
        snprintf(digest + 2 * i, 3, "%02x", e->digest[i]);
    fact_add(out, subject, "digest", digest);
}

static void
certificates_add(struct mg_buf *out, const char *subject, const struct mg_proof_entry *e)
{
    for (size_t i = 0; i < e->certificate_count; i++)
        certificate_add(out, subject, &e->certificates[i]);
}

/* ---- facts by name --------------------------------------------------------------------------- */

/* Policies that were added; many names have one. */
struct policies {
    uint64_t *ids; /* owned */
    size_t count;
};

/* A subject of its own for the policy of a context, named by a hash of what it says. */
static void
policy_subject(struct mg_buf *out, struct policies *seen, const struct mg_proof_entry *e,
               char subject[MG_FACTS_POLICY])
{
    struct mg_buf text = {0};
    uint64_t id;
    size_t i = 0;

    policy_add(&text, "", e);
    id = text.data != NULL ? mg_str_hash(text.data, text.len) : 0;
    snprintf(subject, MG_FACTS_POLICY, MG_FACTS_POLICY_MARK "%016llx", (unsigned long long)id);
    if (text.failed)
        out->failed = true;
    mg_buf_free(&text);
    while (i < seen->count && seen->ids[i] != id)
        i++;
    if (i < seen->count)
        return;
    seen->ids[seen->count++] = id;
    policy_add(out, subject, e);
}

static void
names_add(struct mg_buf *out, struct policies *seen, const struct mg_proof_entry *e)
{
    static const char *const outcomes[] = {
        [MG_TARGET_REFUSE] = "refused",
        [MG_TARGET_TERMINATE] = "served",
        [MG_TARGET_PASS] = "passed through",
    };
    char subject[512], policy[MG_FACTS_POLICY];

    if (e->outcome == MG_TARGET_TERMINATE)
        policy_subject(out, seen, e, policy);
    for (size_t at = 0; at < e->served.len; at += strlen(e->served.data + at) + 1) {
        snprintf(subject, sizeof(subject), "%s: %s", e->name, e->served.data + at);
        fact_add(out, subject, "is", outcomes[e->outcome]);
        fact_add(out, subject, "listener", e->name);
        if (e->outcome == MG_TARGET_TERMINATE)
            fact_add(out, subject, "policy", policy);
        certificates_add(out, subject, e);
    }
}

/* The entries of one listener lie together. */
static bool
is_first(const struct mg_proof *proof, const struct mg_proof_entry *e)
{
    return e == proof->entries || e[-1].is_backend != e->is_backend ||
           strcmp(e[-1].name, e->name) != 0;
}

#define CHOSEN_MAX 1000

/* A context of no listener has a subject if it has a name that no other one has; lines change too easily. */
static bool
is_known_by_name(const struct mg_proof *proof, const struct mg_proof_entry *e)
{
    const struct mg_proof_entry *end = proof->entries + proof->entry_count;
    size_t count = 0;

    for (const struct mg_proof_entry *other = end; other > proof->entries && other[-1].is_chosen;)
        if (++count > CHOSEN_MAX || (--other != e && strcmp(other->name, e->name) == 0))
            return false;
    return e->context[0] != '\0';
}

void
mg_facts_add(const struct mg_proof *proof, struct mg_buf *out)
{
    struct policies seen = {mg_calloc(proof->entry_count + 1, sizeof(uint64_t)), 0};
    char subject[512];

    if (seen.ids == NULL)
        out->failed = true;
    for (size_t i = 0; i < proof->entry_count && seen.ids != NULL; i++) {
        const struct mg_proof_entry *e = &proof->entries[i];

        if (e->is_chosen && !is_known_by_name(proof, e))
            continue;
        snprintf(subject, sizeof(subject), "%s%s", e->is_backend ? "backend " : "", e->name);
        if (is_first(proof, e)) {
            fact_add(out, subject, "is",
                     !e->tls       ? "plain"
                     : e->by_name  ? "TLS by name"
                     : e->is_asked ? "TLS by a function"
                                   : "TLS");
            options_add(out, subject, e);
        }
        if (e->by_name) {
            names_add(out, &seen, e);
        } else if (e->tls && !e->is_asked) {
            policy_add(out, subject, e);
            certificates_add(out, subject, e);
        }
    }
    mg_free(seen.ids);
}

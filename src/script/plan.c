/*
 * What a run of the script amounts to, once everything is frozen: as canonical text, by which a
 * worker knows that its run was the loader's, and as the struct mg_config that the engine runs
 * under.
 */
#include "script/internal.h"

#include <math.h>
#include <string.h>

struct protected
{
    void (*body)(lua_State * L, void *data);
    void *data;
};

static int
protected_body(lua_State *L)
{
    struct protected *p = mg_lua_pointer(L, 1);

    lua_settop(L, 0);
    p->body(L, p->data);
    return 0;
}

int
mg_script_protect(struct mg_script *s, void (*body)(lua_State *L, void *data), void *data,
                  struct mg_err *err)
{
    struct protected p = {.body = body, .data = data};
    int top = lua_gettop(s->L);

    if (!lua_checkstack(s->L, 8)) {
        mg_err_setx(err, "stack overflow");
        return -1;
    }
    lua_pushcfunction(s->L, protected_body);
    lua_pushlightuserdata(s->L, &p);
    if (lua_pcall(s->L, 1, 0, 0) == LUA_OK)
        return 0;
    mg_err_setx(err, "%s", mg_lua_error_text(s->L, -1));
    lua_settop(s->L, top);
    return -1;
}

/* ---- manifest ------------------------------------------------------------------------------- */

/* " name=value" for an option, whatever its type; a function is only named as such. */
static void
option_add(lua_State *L, int object, const char *name, struct mg_buf *out)
{
    size_t len;
    const char *text;
    struct mg_option_rate rate;

    mg_buf_addf(out, " %s=", name);
    switch (mg_option_push(L, object, name)) {
    case LUA_TTABLE:
        if (mg_option_rate(L, -1, &rate))
            mg_buf_addf(out, "%.14g,%.14g,%.14g", rate.per_second, rate.burst, rate.per_ip);
        for (lua_Integer i = 1; lua_rawgeti(L, -1, i) != LUA_TNIL; i++) {
            mg_buf_addf(out, "%s%s", i > 1 ? "," : "", lua_tostring(L, -1));
            lua_pop(L, 1);
        }
        lua_pop(L, 1);
        break;
    case LUA_TFUNCTION:
        mg_buf_adds(out, "function");
        break;
    case LUA_TSTRING:
        text = lua_tolstring(L, -1, &len);
        mg_buf_add_json(out, text, len);
        break;
    default:
        mg_buf_adds(out, luaL_tolstring(L, -1, NULL));
        lua_pop(L, 1);
        break;
    }
    lua_pop(L, 1);
}

static void
options_add(lua_State *L, int object, const char *const *names, struct mg_buf *out)
{
    for (; *names != NULL; names++)
        option_add(L, object, *names, out);
}

static void
digest_add(struct mg_buf *out, const char *kind, const unsigned char digest[32])
{
    mg_buf_adds(out, kind);
    for (size_t i = 0; i < 32; i++)
        mg_buf_addf(out, "%02x", digest[i]);
}

static void
context_add(lua_State *L, int object, struct mg_buf *out)
{
    const struct mg_servernames_object *names;
    struct mg_ssl_context_facts facts;
    int type;

    mg_buf_adds(out, " tls=");
    type = mg_option_push(L, object, "tls");
    names = mg_servernames_test(L, -1);
    if (type == LUA_TNIL) {
        mg_buf_adds(out, "no");
    } else if (type == LUA_TFUNCTION) {
        mg_buf_adds(out, "function");
    } else if (names != NULL) {
        digest_add(out, "names ", names->digest);
    } else {
        mg_ssl_context_facts(L, lua_gettop(L), &facts);
        digest_add(out, "", facts.digest);
    }
    lua_pop(L, 1);
}

/* Registry field: Backends' places in their list. */
#define PLACES "moongate.backend places"

static void
places_make(lua_State *L)
{
    lua_newtable(L);
    lua_getfield(L, LUA_REGISTRYINDEX, MG_BACKENDS);
    for (lua_Integer i = 1; lua_rawgeti(L, -1, i) != LUA_TNIL; i++) {
        lua_pushinteger(L, i);
        lua_rawset(L, -4);
    }
    lua_pop(L, 2);
    lua_setfield(L, LUA_REGISTRYINDEX, PLACES);
}

/* "backend=" with the place of the Backend in the list, so that two of the same name differ. */
static void
target_add(lua_State *L, int listener, struct mg_buf *out)
{
    if (mg_option_push(L, listener, "backend") == LUA_TFUNCTION) {
        mg_buf_adds(out, " backend=function");
    } else {
        lua_getfield(L, LUA_REGISTRYINDEX, PLACES);
        lua_pushvalue(L, -2);
        if (lua_rawget(L, -2) == LUA_TNUMBER)
            mg_buf_addf(out, " backend=%d", (int)lua_tointeger(L, -1));
        lua_pop(L, 2);
    }
    lua_pop(L, 1);
}

const char *const mg_listener_limits[] = {
    "accept_proxy",
    "max_connections",
    "max_connections_per_ip",
    "handshake_rate",
    "handshake_timeout",
    "idle_timeout",
    "max_lifetime",
    "half_close_timeout",
    "tls_optional",
    "backlog",
    "tcp_nodelay",
    "tcp_keepalive",
    NULL,
};

static void
listener_add(lua_State *L, int object, struct mg_buf *out)
{
    static const char *const names[] = {"name", "address", NULL};

    mg_buf_adds(out, "listener");
    options_add(L, object, names, out);
    options_add(L, object, mg_listener_limits, out);
    context_add(L, object, out);
    target_add(L, object, out);
    mg_buf_adds(out, "\n");
}

/* proxy_tlvs, in the order of their types. */
static void
tlvs_add(lua_State *L, int object, struct mg_buf *out)
{
    size_t len;

    if (mg_option_push(L, object, "proxy_tlvs") == LUA_TTABLE) {
        for (unsigned type = MG_PROXY_CUSTOM_FIRST; type <= MG_PROXY_EXPERIMENT_LAST; type++) {
            int kind = lua_rawgeti(L, -1, type);

            if (kind == LUA_TFUNCTION)
                mg_buf_addf(out, " 0x%02X=function", type);
            if (kind == LUA_TSTRING) {
                mg_buf_addf(out, " 0x%02X=", type);
                mg_buf_add_json(out, lua_tolstring(L, -1, &len), lua_rawlen(L, -1));
            }
            lua_pop(L, 1);
        }
    }
    lua_pop(L, 1);
}

/* The weights of the addresses, and which are backups. */
static void
weights_add(lua_State *L, int object, struct mg_buf *out)
{
    static const char *const fields[] = {"weights", "backups"};
    int top = lua_gettop(L);

    if (mg_option_push(L, object, "address") == LUA_TTABLE) {
        for (size_t f = 0; f < MG_ARRAY_LEN(fields); f++) {
            lua_getfield(L, top + 1, fields[f]);
            mg_buf_addf(out, " %s=", fields[f]);
            for (lua_Integer i = 1; lua_rawgeti(L, top + 2, i) != LUA_TNIL; i++) {
                mg_buf_addf(out, "%s%s", i > 1 ? "," : "", luaL_tolstring(L, -1, NULL));
                lua_pop(L, 2);
            }
            lua_settop(L, top + 1);
        }
    }
    lua_settop(L, top);
}

const char *const mg_backend_health[] = {
    "fall", "rest", "interval", "timeout", "rise", "kind", "send", "expect", NULL,
};

static void
health_add(lua_State *L, int object, struct mg_buf *out)
{
    int top = lua_gettop(L);
    size_t len;
    const char *text;

    if (mg_option_push(L, object, "health") == LUA_TTABLE) {
        lua_getfield(L, top + 1, "probes");
        mg_buf_adds(out, lua_toboolean(L, -1) ? " probes" : " health");
        for (const char *const *name = mg_backend_health; *name != NULL; name++) {
            lua_getfield(L, top + 1, *name);
            text = luaL_tolstring(L, -1, &len);
            mg_buf_adds(out, " ");
            mg_buf_add_json(out, text, len);
        }
    } else {
        mg_buf_addf(out, " health=%s", luaL_typename(L, top + 1));
    }
    lua_settop(L, top);
}

void
mg_plan_backend(lua_State *L, int object, struct mg_buf *out)
{
    static const char *const names[] = {
        "name",
        "address",
        "servername",
        "balance",
        "connect_timeout",
        "resolve_interval",
        "max_connections",
        "on_down",
        "source",
        "reply",
        "send_proxy",
        NULL,
    };

    mg_buf_addf(out, "backend kind=%d", (int)mg_backend_test(L, object)->kind);
    options_add(L, object, names, out);
    tlvs_add(L, object, out);
    weights_add(L, object, out);
    health_add(L, object, out);
    context_add(L, object, out);
    mg_buf_adds(out, "\n");
}

static void
list_walk(lua_State *L, const char *list, void (*visit)(lua_State *, int, void *), void *data)
{
    lua_getfield(L, LUA_REGISTRYINDEX, list);
    for (lua_Integer i = 1; lua_rawgeti(L, -1, i) != LUA_TNIL; i++) {
        visit(L, lua_gettop(L), data);
        lua_pop(L, 1);
    }
    lua_pop(L, 2);
}

static void
listener_visit(lua_State *L, int object, void *out)
{
    listener_add(L, object, out);
}

static void
backend_visit(lua_State *L, int object, void *out)
{
    mg_plan_backend(L, object, out);
}

static void
manifest_body(lua_State *L, void *out)
{
    places_make(L);
    list_walk(L, MG_LISTENERS, listener_visit, out);
    list_walk(L, MG_BACKENDS, backend_visit, out);
}

int
mg_plan_manifest(struct mg_script *s, struct mg_buf *out, struct mg_err *err)
{
    if (mg_script_protect(s, manifest_body, out, err) != 0)
        return -1;
    if (out->failed)
        mg_err_setx(err, "out of memory");
    return out->failed ? -1 : 0;
}

static size_t
line_length(const char *text, size_t len)
{
    const char *end = len > 0 ? memchr(text, '\n', len) : NULL;

    return end != NULL ? (size_t)(end - text) : len;
}

void
mg_plan_difference(const char *recorded, size_t recorded_len, const char *here, size_t here_len,
                   struct mg_err *err)
{
    for (;;) {
        size_t a = line_length(recorded, recorded_len);
        size_t b = line_length(here, here_len);

        if (a != b || a == 0 || memcmp(recorded, here, a) != 0) {
            mg_err_setx(err,
                        "the script gave another result than in the loader: there \"%.*s\", "
                        "here \"%.*s\"",
                        (int)(a > 700 ? 700 : a), recorded, (int)(b > 700 ? 700 : b), here);
            return;
        }
        a += recorded_len > a;
        b += here_len > b;
        recorded += a;
        recorded_len -= a;
        here += b;
        here_len -= b;
    }
}

/* ---- config --------------------------------------------------------------------------------- */

static void *
need(lua_State *L, void *ptr)
{
    if (ptr == NULL)
        luaL_error(L, "out of memory");
    return ptr;
}

static char *
option_copy(lua_State *L, int object, const char *name)
{
    char *copy = NULL;

    if (mg_option_push(L, object, name) == LUA_TSTRING)
        copy = need(L, mg_strdup(lua_tostring(L, -1)));
    lua_pop(L, 1);
    return copy;
}

static lua_Integer
option_integer(lua_State *L, int object, const char *name)
{
    lua_Integer value;

    mg_option_push(L, object, name);
    value = lua_tointeger(L, -1);
    lua_pop(L, 1);
    return value;
}

/* One reference to the context of an object, or NULL; facts are filled where there is one. That the
 * option is something else is for the caller. */
static SSL_CTX *
context_take(lua_State *L, int object, struct mg_ssl_context_facts *facts)
{
    SSL_CTX *ctx;

    memset(facts, 0, sizeof(*facts));
    mg_option_push(L, object, "tls");
    ctx = mg_ssl_context_test(L, -1);
    if (ctx != NULL) {
        mg_ssl_context_facts(L, lua_gettop(L), facts);
        SSL_CTX_up_ref(ctx);
    }
    lua_pop(L, 1);
    return ctx;
}

static int
entry_fill(struct mg_backend_entry *entry, const char *text, struct mg_err *err)
{
    mg_str_copy(entry->text, sizeof(entry->text), text);
    return mg_endpoint_parse(&entry->endpoint, text, false, err);
}

static void
entries_fill(lua_State *L, int object, struct mg_backend *b)
{
    struct mg_err err;

    if (mg_option_push(L, object, "address") == LUA_TTABLE) {
        size_t count = lua_rawlen(L, -1);

        b->entries = need(L, mg_calloc(count, sizeof(*b->entries)));
        lua_getfield(L, -1, "weights");
        lua_getfield(L, -2, "backups");
        while (b->entry_count < count) {
            lua_Integer at = (lua_Integer)b->entry_count + 1;
            struct mg_backend_entry *entry = &b->entries[b->entry_count++];

            lua_rawgeti(L, -3, at);
            lua_rawgeti(L, -3, at);
            lua_rawgeti(L, -3, at);
            entry->weight = (unsigned)lua_tointeger(L, -2);
            entry->backup = lua_toboolean(L, -1);
            if (entry_fill(entry, lua_tostring(L, -3), &err) != 0)
                luaL_error(L, "%s", err.text);
            lua_pop(L, 3);
        }
        lua_pop(L, 2);
    }
    lua_pop(L, 1);
}

/* Of the table at the top. */
static unsigned
health_ms(lua_State *L, const char *name)
{
    unsigned ms;

    lua_getfield(L, -1, name);
    ms = (unsigned)ceil(lua_tonumber(L, -1) * 1000);
    lua_pop(L, 1);
    return ms;
}

static unsigned
health_count(lua_State *L, const char *name)
{
    unsigned count;

    lua_getfield(L, -1, name);
    count = (unsigned)lua_tointeger(L, -1);
    lua_pop(L, 1);
    return count;
}

static char *
health_text(lua_State *L, const char *name, size_t *len)
{
    const char *text;
    char *copy = NULL;

    if (lua_getfield(L, -1, name) == LUA_TSTRING) {
        text = lua_tolstring(L, -1, len);
        copy = need(L, mg_malloc(*len + 1));
        memcpy(copy, text, *len + 1);
    }
    lua_pop(L, 1);
    return copy;
}

/* Passive health with its defaults, unless the script says something else. */
static void
health_fill(lua_State *L, int object, struct mg_backend *b)
{
    struct mg_health *health = &b->health;

    *health = (struct mg_health){.fall = 3, .rest_ms = 10000};
    if (mg_option_push(L, object, "health") == LUA_TTABLE) {
        health->fall = health_count(L, "fall");
        health->rest_ms = health_ms(L, "rest");
        health->interval_ms = health_ms(L, "interval");
        health->timeout_ms = health_ms(L, "timeout");
        health->rise = health_count(L, "rise");
        health->send = health_text(L, "send", &health->send_len);
        health->expect = health_text(L, "expect", &health->expect_len);
        health->tls = b->tls != NULL;
        if (lua_getfield(L, -1, "kind") == LUA_TSTRING)
            health->tls = strcmp(lua_tostring(L, -1), "tls") == 0;
        lua_getfield(L, -2, "probes");
        health->probes = lua_toboolean(L, -1);
        lua_pop(L, 2);
    } else if (lua_isboolean(L, -1)) {
        health->fall = 0;
    }
    lua_pop(L, 1);
}

static enum mg_balance
balance_of(lua_State *L, int object)
{
    size_t i = 0;

    if (mg_option_push(L, object, "balance") == LUA_TSTRING)
        while (strcmp(lua_tostring(L, -1), mg_balance_names[i]) != 0) /* it has been checked */
            i++;
    lua_pop(L, 1);
    return (enum mg_balance)i;
}

static void
proxy_fill(lua_State *L, int object, struct mg_backend *b)
{
    if (mg_option_push(L, object, "send_proxy") == LUA_TSTRING)
        b->send_proxy = strcmp(lua_tostring(L, -1), "v2") == 0 ? 2 : 1;
    if (mg_option_push(L, object, "proxy_tlvs") == LUA_TTABLE) {
        unsigned count = MG_PROXY_EXPERIMENT_LAST - MG_PROXY_CUSTOM_FIRST + 1;

        b->proxy_tlvs = need(L, mg_calloc(count, sizeof(*b->proxy_tlvs)));
        for (unsigned i = 0; i < count; i++) {
            struct mg_backend_tlv *tlv = &b->proxy_tlvs[b->proxy_tlv_count];
            int kind = lua_rawgeti(L, -1, MG_PROXY_CUSTOM_FIRST + i);

            if (kind != LUA_TNIL) {
                b->proxy_tlv_count++;
                tlv->type = MG_PROXY_CUSTOM_FIRST + i;
                tlv->asked = kind == LUA_TFUNCTION;
            }
            if (kind == LUA_TSTRING) {
                const char *value = lua_tolstring(L, -1, &tlv->len);

                tlv->value = need(L, mg_malloc(tlv->len + 1));
                memcpy(tlv->value, value, tlv->len + 1);
            }
            lua_pop(L, 1);
        }
    }
    lua_pop(L, 2);
}

static void
source_fill(lua_State *L, int object, struct mg_backend *b)
{
    if (mg_option_push(L, object, "source") == LUA_TSTRING) {
        b->source.transparent = strcmp(lua_tostring(L, -1), MG_SOURCE_CLIENT) == 0;
        if (!b->source.transparent)
            mg_addr_parse_ip(&b->source.addr, lua_tostring(L, -1)); /* it has been checked */
    }
    lua_pop(L, 1);
}

static void
backend_fill(lua_State *L, int object, struct mg_backend *b)
{
    struct mg_backend_object *self = mg_backend_test(L, object);
    struct mg_ssl_context_facts facts;
    size_t len;
    const char *text;

    b->kind = self->kind;
    b->duplicate = self->duplicate;
    b->name = option_copy(L, object, "name");
    entries_fill(L, object, b);
    b->servername_asked = mg_option_push(L, object, "servername") == LUA_TFUNCTION;
    lua_pop(L, 1);
    b->servername = option_copy(L, object, "servername");
    b->balance = balance_of(L, object);
    b->max_connections = option_integer(L, object, "max_connections");
    if (mg_option_push(L, object, "on_down") == LUA_TSTRING)
        b->close_on_down = strcmp(lua_tostring(L, -1), "close") == 0;
    lua_pop(L, 1);
    proxy_fill(L, object, b);
    b->connect_timeout_ms = mg_option_ms(L, object, "connect_timeout");
    b->resolve_interval_s = mg_option_ms(L, object, "resolve_interval") / 1000;
    source_fill(L, object, b);
    if (mg_option_push(L, object, "reply") == LUA_TSTRING) {
        text = lua_tolstring(L, -1, &len);
        b->reply = need(L, mg_malloc(len + 1));
        memcpy(b->reply, text, len + 1);
        b->reply_len = len;
    }
    lua_pop(L, 1);
    b->tls = context_take(L, object, &facts);
    b->verify_hostname = facts.verify_hostname;
    /* Where the script chooses our certificate each time, a session would bring back an earlier one. */
    b->tls_resumes = b->tls != NULL && !facts.client_cert_cb;
    b->tls_varies =
        b->servername_asked || facts.client_cert_cb || b->send_proxy != 0 || b->source.transparent;
    memcpy(b->tls_policy, facts.session_policy, sizeof(b->tls_policy));
    health_fill(L, object, b);
    self->built = b;
}

static double
larger(double a, double b)
{
    return a > b ? a : b;
}

/* A burst that is not given is what comes in a second; at least one. One client may have his share of a second at
 * once, or, where there is no other rate, the burst that is given. */
static void
rate_fill(lua_State *L, int object, struct mg_listener *l)
{
    struct mg_option_rate rate;

    mg_option_push(L, object, "handshake_rate");
    mg_option_rate(L, -1, &rate);
    lua_pop(L, 1);
    if (rate.per_second > 0)
        mg_rate_set(&l->rate, rate.per_second,
                    rate.burst > 0 ? rate.burst : larger(rate.per_second, 1));
    if (rate.per_ip > 0)
        mg_rate_set(&l->rate_per_ip, rate.per_ip,
                    rate.burst > 0 && rate.per_second == 0 ? rate.burst : larger(rate.per_ip, 1));
}

static void
accept_proxy_fill(lua_State *L, int object, struct mg_listener *l)
{
    struct mg_err err;

    if (mg_option_push(L, object, "accept_proxy") == LUA_TTABLE) {
        size_t count = lua_rawlen(L, -1);

        l->accept_proxy = MG_ACCEPT_PROXY_LISTED;
        l->proxy_networks = need(L, mg_calloc(count, sizeof(*l->proxy_networks)));
        while (l->proxy_network_count < count) {
            lua_rawgeti(L, -1, (lua_Integer)l->proxy_network_count + 1);
            if (mg_cidr_parse(&l->proxy_networks[l->proxy_network_count++], lua_tostring(L, -1),
                              &err) != 0)
                luaL_error(L, "%s", err.text);
            lua_pop(L, 1);
        }
    } else if (lua_toboolean(L, -1)) {
        l->accept_proxy = MG_ACCEPT_PROXY_ALL;
    }
    lua_pop(L, 1);
}

static void
listener_fill(lua_State *L, int object, struct mg_listener *l)
{
    const struct mg_servernames_object *names;
    struct mg_ssl_context_facts facts;

    l->name = option_copy(L, object, "name");
    mg_option_push(L, object, "address");
    l->addresses = need(L, mg_calloc(lua_rawlen(L, -1), sizeof(*l->addresses)));
    while (lua_rawgeti(L, -1, (lua_Integer)l->address_count + 1) == LUA_TSTRING) {
        l->addresses[l->address_count++] = need(L, mg_strdup(lua_tostring(L, -1)));
        lua_pop(L, 1);
    }
    lua_pop(L, 2);
    if (mg_option_push(L, object, "backend") == LUA_TUSERDATA)
        l->backend = mg_backend_test(L, -1)->built;
    lua_pop(L, 1);
    accept_proxy_fill(L, object, l);
    l->handshake_timeout_ms = mg_option_ms(L, object, "handshake_timeout");
    l->idle_timeout_ms = mg_option_ms(L, object, "idle_timeout");
    l->max_lifetime_ms = mg_option_ms(L, object, "max_lifetime");
    l->half_close_timeout_ms = mg_option_ms(L, object, "half_close_timeout");
    l->max_connections = option_integer(L, object, "max_connections");
    l->max_connections_per_ip = option_integer(L, object, "max_connections_per_ip");
    rate_fill(L, object, l);
    mg_option_push(L, object, "tls_optional");
    l->tls_optional = lua_toboolean(L, -1);
    lua_pop(L, 1);
    l->backlog = (unsigned)option_integer(L, object, "backlog");
    mg_option_push(L, object, "tcp_nodelay");
    l->tcp_nodelay = lua_toboolean(L, -1);
    lua_pop(L, 1);
    l->tcp_keepalive_s = mg_option_ms(L, object, "tcp_keepalive") / 1000;
    l->tls = context_take(L, object, &facts);
    mg_option_push(L, object, "tls");
    names = mg_servernames_test(L, -1);
    l->names = names != NULL ? mg_names_ref(names->names) : NULL;
    l->tls_callbacks = facts.callbacks;
    l->hello_asked = facts.servername_cb || lua_isfunction(L, -1);
    lua_pop(L, 1);
}

static void
config_listener(lua_State *L, int object, void *data)
{
    struct mg_config *config = data;

    listener_fill(L, object, &config->listeners[config->listener_count++]);
}

static void
config_backend(lua_State *L, int object, void *data)
{
    struct mg_config *config = data;
    struct mg_backend *b = need(L, mg_calloc(1, sizeof(*b)));

    config->backends[config->backend_count++] = b;
    backend_fill(L, object, b);
    lua_getfield(L, LUA_REGISTRYINDEX, MG_BUILT);
    lua_pushvalue(L, object);
    lua_rawsetp(L, -2, b);
    lua_pop(L, 1);
}

static size_t
list_count(lua_State *L, const char *list)
{
    size_t count;

    lua_getfield(L, LUA_REGISTRYINDEX, list);
    count = lua_rawlen(L, -1);
    lua_pop(L, 1);
    return count;
}

static void
config_body(lua_State *L, void *data)
{
    struct mg_config *config = data;
    size_t listeners = list_count(L, MG_LISTENERS);
    size_t backends = list_count(L, MG_BACKENDS);

    lua_newtable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, MG_BUILT);
    config->backends = need(L, mg_calloc(backends + 1, sizeof(struct mg_backend *)));
    config->listeners = need(L, mg_calloc(listeners, sizeof(*config->listeners)));
    list_walk(L, MG_BACKENDS, config_backend, config);
    list_walk(L, MG_LISTENERS, config_listener, config);
}

int
mg_plan_config(struct mg_script *s, struct mg_config *config, struct mg_err *err)
{
    return mg_script_protect(s, config_body, config, err);
}

struct mg_backend *
mg_plan_address(const char *text, struct mg_err *err)
{
    struct mg_backend *b = mg_calloc(1, sizeof(*b));

    if (b == NULL)
        goto no_memory;
    b->kind = MG_BACKEND_ADDRESSES;
    b->connect_timeout_ms = 5000;
    b->resolve_interval_s = 30;
    b->name = mg_strdup(text);
    b->entries = mg_calloc(1, sizeof(*b->entries));
    if (b->name == NULL || b->entries == NULL)
        goto no_memory;
    b->entry_count = 1;
    if (entry_fill(&b->entries[0], text, err) == 0)
        return b;
    mg_backend_free(b);
    return NULL;

no_memory:
    mg_err_setx(err, "out of memory");
    if (b != NULL)
        mg_backend_free(b);
    return NULL;
}

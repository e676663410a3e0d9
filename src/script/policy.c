/*
 * Answers to the engine's questions. Each is one protected call under the callback budget; whatever
 * goes wrong in it is logged and refuses that connection only.
 */
#include "script/internal.h"

#include <stdio.h>
#include <string.h>

struct question {
    struct mg_script *script;
    struct mg_session *session;
    const struct mg_listener *listener;
    const struct mg_backend *backend;
    const struct mg_hello *hello;
    struct mg_route *route; /* answers */
    char *servername;
    unsigned tlv_type;
    struct mg_buf *tlv;
    bool tlv_given;
    struct mg_choice *choice;
    struct mg_err *err; /* of choice */
};

/* Pushes option `name` of the index-th Listener: config and list have the same order. */
static void
listener_option_push(lua_State *L, const struct mg_config *config,
                     const struct mg_listener *listener, const char *name)
{
    lua_getfield(L, LUA_REGISTRYINDEX, MG_LISTENERS);
    lua_rawgeti(L, -1, (listener - config->listeners) + 1);
    mg_option_push(L, lua_gettop(L), name);
}

/* The backend for an address that a function returned; NULL: there are too many. */
static struct mg_backend *
address_backend(lua_State *L, struct question *q, const char *text)
{
    struct mg_config *config = q->script->config;
    struct mg_backend *b = mg_config_given(config, text);
    enum mg_give how;
    struct mg_err err;

    if (b != NULL)
        return b;
    b = mg_plan_address(text, &err);
    if (b == NULL)
        luaL_error(L, "%s", err.text);
    how = mg_config_give(config, b); /* which has freed it, or has it now */
    if (how == MG_GIVE_NO_MEMORY)
        luaL_error(L, "out of memory");
    q->route->full = how == MG_GIVE_FULL;
    return how == MG_GIVE_OK ? b : NULL;
}

/* Reads what a backend function returned at index 1 and 2. */
static void
route_read(lua_State *L, struct question *q)
{
    struct mg_backend_object *backend = mg_backend_test(L, 1);
    struct mg_buf reason = {0};
    size_t len;
    const char *text;

    if (backend != NULL) {
        q->route->backend = backend->built;
        return;
    }
    switch (lua_type(L, 1)) {
    case LUA_TSTRING:
        q->route->backend = address_backend(L, q, lua_tostring(L, 1));
        return;
    case LUA_TNIL:
        text = luaL_tolstring(L, 2, &len);
        if (lua_isnil(L, 2))
            text = "the backend function returned nil", len = strlen(text);
        mg_buf_add_printable(&reason, text, len);
        mg_str_copy(q->route->reason, sizeof(q->route->reason),
                    reason.data != NULL ? reason.data : "");
        mg_buf_free(&reason);
        return;
    default:
        luaL_error(L,
                   "the function returned a %s; expected \"host:port\", \"unix:/path\", a Backend, "
                   "or nil and a reason",
                   luaL_typename(L, 1));
    }
}

static int
route_ask(lua_State *L)
{
    struct question *q = mg_lua_pointer(L, 1);

    lua_settop(L, 0);
    listener_option_push(L, q->script->config, q->listener, "backend");
    mg_conn_push(L, q->session);
    lua_call(L, 1, 2);
    lua_replace(L, 2);
    lua_replace(L, 1);
    lua_settop(L, 2);
    route_read(L, q);
    return 0;
}

static int
ask(struct question *q, lua_CFunction asker, const char *what, const char *listener)
{
    lua_State *L = q->script->L;
    int top = lua_gettop(L);
    int status;

    if (!lua_checkstack(L, 4))
        return -1;
    lua_pushcfunction(L, asker);
    lua_pushlightuserdata(L, q);
    status = mg_guard_call(q->script, L, 1, 0, what, listener);
    lua_settop(L, top);
    return status == LUA_OK ? 0 : -1;
}

static int
on_route(void *data, struct mg_session *session, const struct mg_listener *listener,
         struct mg_route *route)
{
    struct question q = {.script = data, .session = session, .listener = listener, .route = route};

    memset(route, 0, sizeof(*route));
    route->failed = ask(&q, route_ask, "backend function", listener->name) != 0;
    if (route->failed)
        mg_str_copy(route->reason, sizeof(route->reason), "the backend function failed");
    else if (route->backend != NULL)
        return 0;
    route->backend = NULL;
    return -1;
}

/* The Backend that the question is about, pushed. */
static void
backend_push(lua_State *L, const struct question *q)
{
    lua_getfield(L, LUA_REGISTRYINDEX, MG_BUILT);
    lua_rawgetp(L, -1, q->backend);
    lua_remove(L, -2);
}

static int
servername_ask(lua_State *L)
{
    struct question *q = mg_lua_pointer(L, 1);

    lua_settop(L, 0);
    backend_push(L, q);
    mg_option_push(L, 1, "servername");
    mg_conn_push(L, q->session);
    lua_call(L, 1, 1);
    if (lua_type(L, -1) != LUA_TSTRING || lua_rawlen(L, -1) == 0 || lua_rawlen(L, -1) > 255 ||
        strlen(lua_tostring(L, -1)) != lua_rawlen(L, -1))
        luaL_error(L, "the function returned a %s; expected a name of 1 to 255 bytes",
                   luaL_typename(L, -1));
    mg_str_copy(q->servername, 256, lua_tostring(L, -1));
    return 0;
}

static int
on_servername(void *data, struct mg_session *session, const struct mg_backend *backend,
              char out[256], struct mg_err *err)
{
    struct question q = {.script = data, .session = session, .backend = backend, .servername = out};
    struct mg_session_info info;

    mg_session_info(session, &info);
    if (ask(&q, servername_ask, "servername function", info.listener->name) == 0)
        return 0;
    mg_err_setx(err, "the servername function failed");
    return -1;
}

static int
tlv_ask(lua_State *L)
{
    struct question *q = mg_lua_pointer(L, 1);
    size_t len;
    const char *value;

    lua_settop(L, 0);
    backend_push(L, q);
    mg_option_push(L, 1, "proxy_tlvs");
    lua_rawgeti(L, 2, q->tlv_type);
    mg_conn_push(L, q->session);
    lua_call(L, 1, 1);
    if (lua_isnil(L, -1))
        return 0;
    if (lua_type(L, -1) != LUA_TSTRING || lua_rawlen(L, -1) > MG_PROXY_VALUE_MAX)
        luaL_error(
            L,
            "proxy_tlvs: the function for type %d returned a %s; expected at most %d bytes, or nil",
            (int)q->tlv_type,
            lua_type(L, -1) == LUA_TSTRING ? "longer string" : luaL_typename(L, -1),
            (int)MG_PROXY_VALUE_MAX);
    value = lua_tolstring(L, -1, &len);
    mg_buf_add(q->tlv, value, len);
    q->tlv_given = true;
    return 0;
}

static int
on_proxy_tlv(void *data, struct mg_session *session, const struct mg_backend *backend,
             unsigned type, struct mg_buf *out, struct mg_err *err)
{
    struct question q = {
        .script = data, .session = session, .backend = backend, .tlv_type = type, .tlv = out};
    struct mg_session_info info;

    mg_session_info(session, &info);
    if (ask(&q, tlv_ask, "proxy_tlvs function", info.listener->name) == 0)
        return q.tlv_given;
    mg_err_setx(err, "the proxy_tlvs function for type 0x%02X failed", type);
    return -1;
}

/* ---- by the ClientHello ---------------------------------------------------------------------- */

/* nil, reason[, alert] at indices 1 to 3. */
static void
refusal_read(lua_State *L, struct mg_choice *choice, struct mg_err *err)
{
    int is_number;
    lua_Integer alert = lua_tointegerx(L, 3, &is_number);
    struct mg_buf reason = {0};
    size_t len;
    const char *text;

    if (!lua_isnil(L, 3) && (!is_number || alert < 0 || alert > 255))
        luaL_error(L, "the third result is the number of an alert (0 to 255), got %s",
                   luaL_tolstring(L, 3, NULL));
    text = luaL_tolstring(L, 2, &len);
    mg_buf_add_printable(&reason, text, len);
    mg_err_setx(err, "%s", lua_isnil(L, 2) || reason.data == NULL ? "" : reason.data);
    mg_buf_free(&reason);
    choice->alert = is_number ? (int)alert : SSL_AD_UNRECOGNIZED_NAME;
    choice->target = (struct mg_target){.kind = MG_TARGET_REFUSE};
}

bool
mg_choice_read(lua_State *L, struct mg_choice *choice, struct mg_err *err)
{
    struct mg_ssl_context_facts facts;

    if (!lua_toboolean(L, 1)) {
        refusal_read(L, choice, err);
        return false;
    }
    if (mg_passthrough_test(L, 1)) {
        choice->target = (struct mg_target){.kind = MG_TARGET_PASS};
        return false;
    }
    if (mg_ssl_context_test(L, 1) == NULL)
        luaL_error(L,
                   "the function returned a %s; expected an SSLContext, moongate.PASSTHROUGH, or "
                   "nil and a reason",
                   luaL_typename(L, 1));
    mg_ssl_context_freeze(L, 1, false);
    mg_ssl_context_facts(L, 1, &facts);
    choice->target = (struct mg_target){.kind = MG_TARGET_TERMINATE,
                                        .tls = mg_ssl_context_test(L, 1),
                                        .asks_hello = facts.servername_cb};
    SSL_CTX_up_ref(choice->target.tls);
    return facts.callbacks;
}

static int
hello_ask(lua_State *L)
{
    struct question *q = mg_lua_pointer(L, 1);

    lua_settop(L, 0);
    listener_option_push(L, q->script->config, q->listener, "tls");
    mg_hello_push(L, q->session, q->hello);
    lua_call(L, 1, 3);
    lua_rotate(L, 1, 3); /* the results come first */
    lua_settop(L, 3);
    if (mg_choice_read(L, q->choice, q->err)) { /* whose callbacks are found by the userdata */
        lua_pushvalue(L, 1);
        mg_conn_keep(L, q->session);
    }
    return 0;
}

static int
function_ask(struct question *q)
{
    int status = ask(q, hello_ask, "tls function", q->listener->name);

    mg_hello_forget(q->script, q->session);
    if (status != 0) { /* also one that has answered, when its time was over */
        SSL_CTX_free(q->choice->target.tls);
        q->choice->target = (struct mg_target){.kind = MG_TARGET_REFUSE};
        q->choice->alert = SSL_AD_INTERNAL_ERROR;
        mg_err_setx(q->err, "the tls function failed");
    }
    return status;
}

static void
choice_keep(lua_State *L, void *data)
{
    struct question *q = data;

    if (mg_ssl_context_push(L, q->choice->target.tls))
        mg_conn_keep(L, q->session);
}

/* The name was checked by the parser: not empty, no NUL. Without one servername_cb is not asked. Takes the
 * reference to the context that it replaces. */
static int
servername_cb_ask(struct question *q)
{
    struct mg_target *target = &q->choice->target;
    struct mg_session_info info;
    SSL_CTX *own = target->tls;
    int rc;

    mg_session_info(q->session, &info);
    rc = mg_ssl_context_servername(q->script->L, own, info.tls, info.servername, &target->tls,
                                   &q->choice->alert);
    SSL_CTX_free(own);
    if (rc != 0)
        mg_err_setx(q->err, "%s", info.tls->callback_error != NULL ? info.tls->callback_error : "");
    else if (target->tls != own && mg_script_protect(q->script, choice_keep, q, q->err) != 0)
        rc = -1;
    if (rc != 0) {
        SSL_CTX_free(target->tls);
        target->tls = NULL;
    }
    return rc;
}

static int
on_hello(void *data, struct mg_session *session, const struct mg_listener *listener,
         const struct mg_hello *hello, struct mg_choice *choice, struct mg_err *err)
{
    struct question q = {.script = data,
                         .session = session,
                         .listener = listener,
                         .hello = hello,
                         .choice = choice,
                         .err = err};
    struct mg_target *target = &choice->target;

    if (target->tls != NULL)
        SSL_CTX_up_ref(target->tls);
    else if (function_ask(&q) != 0 || target->kind == MG_TARGET_REFUSE)
        return -1;
    if (target->kind != MG_TARGET_TERMINATE)
        return 0;
    if (target->asks_hello && hello->servername.data != NULL && servername_cb_ask(&q) != 0)
        return -1;
    if (q.script->tickets == NULL || mg_tls_ticket_share(target->tls, q.script->tickets, err) == 0)
        return 0;
    SSL_CTX_free(target->tls);
    return -1;
}

static void
on_forget(void *data, struct mg_session *session)
{
    mg_conn_forget(data, session);
}

const struct mg_policy mg_script_policy = {
    .hello = on_hello,
    .route = on_route,
    .servername = on_servername,
    .proxy_tlv = on_proxy_tlv,
    .forget = on_forget,
};

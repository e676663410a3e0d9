/*
 * Answers to the engine's questions. Each is one protected call under the callback budget; whatever
 * goes wrong in it is logged and refuses that connection only.
 */
#include "script/internal.h"

#include <stdio.h>
#include <string.h>

/* So many different addresses may route functions name in the life of a generation. */
#define ROUTES_MAX 10000

/* Registry name of the table from address to struct mg_backend (light userdata). */
#define ROUTES "moongate.routes"

struct question {
    struct mg_script *script;
    struct mg_session *session;
    const struct mg_listener *listener;
    const struct mg_backend *backend;
    struct mg_route *route; /* answers */
    char *servername;
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

/* The backend for an address that a function returned. */
static struct mg_backend *
address_backend(lua_State *L, struct mg_script *s, const char *text)
{
    struct mg_backend *b;
    struct mg_err err;

    luaL_getsubtable(L, LUA_REGISTRYINDEX, ROUTES);
    if (lua_getfield(L, -1, text) == LUA_TLIGHTUSERDATA)
        return lua_touserdata(L, -1);
    if (s->routes >= ROUTES_MAX)
        luaL_error(L, "more than %d different addresses were returned", ROUTES_MAX);
    b = mg_plan_address(text, &err);
    if (b == NULL)
        luaL_error(L, "%s", err.text);
    if (mg_config_add_backend(s->config, b) != 0) /* which has freed it */
        luaL_error(L, "out of memory");
    s->routes++;
    lua_pushlightuserdata(L, b);
    lua_setfield(L, -3, text);
    return b;
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
        q->route->backend = address_backend(L, q->script, lua_tostring(L, 1));
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
    if (ask(&q, route_ask, "backend function", listener->name) != 0)
        mg_str_copy(route->reason, sizeof(route->reason), "the backend function failed");
    else if (route->backend != NULL)
        return 0;
    route->backend = NULL;
    return -1;
}

static int
servername_ask(lua_State *L)
{
    struct question *q = mg_lua_pointer(L, 1);

    lua_settop(L, 0);
    lua_getfield(L, LUA_REGISTRYINDEX, MG_BUILT);
    lua_rawgetp(L, 1, q->backend);
    mg_option_push(L, 2, "servername");
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

struct choice {
    struct mg_session *session;
    SSL_CTX *ctx;
};

static void
choice_keep(lua_State *L, void *data)
{
    struct choice *choice = data;

    if (mg_ssl_context_push(L, choice->ctx))
        mg_conn_keep(L, choice->session);
}

/* The name was checked by the parser: not empty, no NUL. Without one servername_cb is not asked. */
static int
on_hello(void *data, struct mg_session *session, const struct mg_listener *listener,
         const struct mg_hello *hello, SSL_CTX **chosen, int *alert, struct mg_err *err)
{
    struct mg_script *s = data;
    struct mg_session_info info;
    struct choice choice;

    if (hello->servername.data == NULL)
        return 0;
    mg_session_info(session, &info);
    if (mg_ssl_context_servername(s->L, listener->tls, info.tls, info.servername, chosen, alert) !=
        0) {
        mg_err_setx(err, "%s", info.tls->callback_error != NULL ? info.tls->callback_error : "");
        return -1;
    }
    if (*chosen == listener->tls)
        return 0;
    choice = (struct choice){session, *chosen};
    if (mg_script_protect(s, choice_keep, &choice, err) == 0 &&
        mg_tls_ticket_share(*chosen, listener->tls, err) == 0)
        return 0;
    SSL_CTX_free(*chosen);
    *chosen = NULL;
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
    .forget = on_forget,
};

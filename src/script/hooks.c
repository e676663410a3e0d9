/* How moongate.openssl asks the world and calls the script's callbacks inside moongate. */
#include "script/internal.h"

#include <string.h>

static int
on_read_file(void *data, const char *path, struct mg_buf *out, struct mg_err *err)
{
    struct mg_script *s = data;

    return mg_world_read(&s->world, path, out, NULL, err);
}

static int
on_list_dir(void *data, const char *path, struct mg_buf *out, struct mg_err *err)
{
    struct mg_script *s = data;

    return mg_world_list(&s->world, path, out, NULL, err);
}

static int
on_made_key(void *data, EVP_PKEY **key, struct mg_err *err)
{
    struct mg_script *s = data;

    return mg_world_made_key(&s->world, key, err);
}

static int
on_made_signature(void *data, struct mg_buf *signature, struct mg_err *err)
{
    struct mg_script *s = data;

    return mg_world_made_signature(&s->world, signature, err);
}

static void
on_script_digest(void *data, unsigned char out[32])
{
    const struct mg_script *s = data;

    memcpy(out, s->world.digest, sizeof(s->world.digest));
}

static struct mg_session *
session_of(const struct mg_tls_conn *conn)
{
    return conn != NULL ? mg_session_of_tls(conn) : NULL; /* none in memory */
}

/* Callbacks that every handshake reaches and whose result is ignored. */
static bool
is_notice(const char *what)
{
    static const char *const notices[] = {"session_new_cb", "session_remove_cb", "keylog_cb",
                                          "renegotiation_cb"};

    for (size_t i = 0; i < MG_ARRAY_LEN(notices); i++)
        if (strcmp(what, notices[i]) == 0)
            return true;
    return false;
}

static void hooks_set(lua_State *L, struct mg_script *s);

/* In the state of a test, where other guests and the test itself have hooks of their own, also one of
 * the debug library. */
int
mg_guest_call(struct mg_script *s, lua_State *L, int nargs, int nresults, const char *what)
{
    const struct mg_openssl_hooks outside = *mg_openssl_hooks(L);
    struct mg_script *other = mg_script_enter(L, s);
    lua_Hook hook = lua_gethook(L);
    int mask = lua_gethookmask(L), count = lua_gethookcount(L);
    int status;

    hooks_set(L, s);
    status = mg_guard_call(s, L, nargs, nresults, what, NULL);
    lua_sethook(L, hook, mask, count);
    mg_openssl_set_hooks(L, &outside);
    mg_script_enter(L, other);
    return status;
}

/* While contexts are proved no callback runs; none is needed, since the proof's clients offer
 * neither ALPN nor a certificate, and nobody waits for what a notice returns. One that is reached
 * all the same fails its handshake, quietly. */
static int
on_call(void *data, lua_State *L, int nargs, int nresults, const char *what,
        struct mg_tls_conn *conn)
{
    struct mg_session *session = session_of(conn);
    struct mg_session_info info;
    struct mg_script *s = data;

    if (s->proving) {
        lua_pop(L, nargs + 1);
        if (is_notice(what))
            return LUA_OK;
        lua_pushliteral(L, MG_NOT_RUN);
        return LUA_ERRRUN;
    }
    if (s->is_guest)
        return mg_guest_call(s, L, nargs, nresults, what);
    if (session != NULL)
        mg_session_info(session, &info);
    return mg_guard_call(s, L, nargs, nresults, what, session != NULL ? info.listener->name : NULL);
}

static void
on_push_conn(void *data, lua_State *L, struct mg_tls_conn *conn)
{
    struct mg_session *session = session_of(conn);

    (void)data;
    if (session != NULL)
        mg_conn_push(L, session);
    else
        lua_pushnil(L);
}

static void
hooks_set(lua_State *L, struct mg_script *s)
{
    const struct mg_openssl_hooks hooks = {
        .data = s,
        .read_file = on_read_file,
        .list_dir = on_list_dir,
        .made_key = on_made_key,
        .made_signature = on_made_signature,
        .call = on_call,
        .push_conn = on_push_conn,
        .script_digest = on_script_digest,
    };

    mg_openssl_set_hooks(L, &hooks);
}

void
mg_hooks_open(lua_State *L)
{
    hooks_set(L, mg_script_of(L));
}

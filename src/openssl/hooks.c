/*
 * hooks: what the module needs of the world, and the state that carries it. The defaults serve
 * stock lua5.4: files are read directly, keys stay as generated, callbacks are called by lua_pcall.
 */
#include "openssl/internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FILE_MAX ((size_t)256 << 20) /* a bundle of certificates is a few hundred KiB */

/* Registry key, by address. */
static const char state_key = 's';

struct state {
    struct mg_openssl_hooks hooks;
    struct mg_lua_link *link;
};

/* ---- defaults ------------------------------------------------------------------------------- */

static int
file_read(void *data MG_UNUSED, const char *path, struct mg_buf *out, struct mg_err *err)
{
    int fd = mg_fd_open_file(path);
    if (fd < 0) {
        mg_err_setx(err, "%s: %s", path, mg_file_error(errno));
        return -1;
    }
    int rc = mg_fd_read_all(fd, out, FILE_MAX, err);
    close(fd);
    if (rc < 0)
        mg_err_prefix(err, "%s", path);
    return rc;
}

static int
dir_list(void *data MG_UNUSED, const char *path, struct mg_buf *out, struct mg_err *err)
{
    DIR *dir = opendir(path);
    if (!dir) {
        mg_err_set(err, "%s", path);
        return -1;
    }
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL)
        mg_buf_add(out, entry->d_name, strlen(entry->d_name) + 1);
    closedir(dir);
    if (out->failed) {
        mg_err_setx(err, "%s: out of memory", path);
        return -1;
    }
    return 0;
}

static int
key_keep(void *data MG_UNUSED, EVP_PKEY **key MG_UNUSED, struct mg_err *err MG_UNUSED)
{
    return 0;
}

static int
signature_keep(void *data MG_UNUSED, struct mg_buf *signature MG_UNUSED,
               struct mg_err *err MG_UNUSED)
{
    return 0;
}

static int
traceback(lua_State *L)
{
    const char *text = mg_lua_error_text(L, 1);
    luaL_traceback(L, L, text, 1);
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    lua_settop(L, 2);
    return 1;
}

static int
call_protected(void *data MG_UNUSED, lua_State *L, int nargs, int nresults,
               const char *what MG_UNUSED, struct mg_tls_conn *conn MG_UNUSED)
{
    int handler = lua_gettop(L) - nargs;
    lua_pushcfunction(L, traceback);
    lua_insert(L, handler);
    int rc = lua_pcall(L, nargs, nresults, handler);
    lua_remove(L, handler);
    return rc;
}

static void
conn_push_nil(void *data MG_UNUSED, lua_State *L, struct mg_tls_conn *conn MG_UNUSED)
{
    lua_pushnil(L);
}

static const struct mg_openssl_hooks default_hooks = {
    .read_file = file_read,
    .list_dir = dir_list,
    .made_key = key_keep,
    .made_signature = signature_keep,
    .call = call_protected,
    .push_conn = conn_push_nil,
};

/* ---- state ---------------------------------------------------------------------------------- */

void
mg_lua_link_unref(struct mg_lua_link *link)
{
    if (link && --link->refs == 0)
        mg_free(link);
}

/* lua_close: contexts that live on must find nobody. */
static int
state_gc(lua_State *L)
{
    struct state *state = lua_touserdata(L, 1);
    struct mg_lua_link *link = state->link;
    state->link = NULL;
    if (link) {
        link->L = NULL;
        link->hooks = NULL;
        mg_lua_link_unref(link);
    }
    return 0;
}

static struct state *
state_get(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &state_key);
    struct state *state = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return state;
}

static struct state *
state_need(lua_State *L)
{
    struct state *state = state_get(L);
    if (state)
        return state;
    state = lua_newuserdatauv(L, sizeof(*state), 0);
    memset(state, 0, sizeof(*state));
    state->hooks = default_hooks;
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, state_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    state->link = mg_calloc(1, sizeof(*state->link));
    if (!state->link)
        mg_lua_error(L, "NoMemoryError", "moongate.openssl: out of memory");
    state->link->refs = 1;
    state->link->hooks = &state->hooks;
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    state->link->L = lua_tothread(L, -1);
    lua_pop(L, 1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &state_key);
    return state;
}

void
mg_openssl_set_hooks(lua_State *L, const struct mg_openssl_hooks *hooks)
{
    struct mg_openssl_hooks *own = &state_need(L)->hooks;
    *own = *hooks;
    if (!own->read_file)
        own->read_file = file_read;
    if (!own->list_dir)
        own->list_dir = dir_list;
    if (!own->made_key)
        own->made_key = key_keep;
    if (!own->made_signature)
        own->made_signature = signature_keep;
    if (!own->call)
        own->call = call_protected;
    if (!own->push_conn)
        own->push_conn = conn_push_nil;
}

const struct mg_openssl_hooks *
mg_openssl_hooks(lua_State *L)
{
    return &state_need(L)->hooks;
}

struct mg_lua_link *
mg_lua_link(lua_State *L)
{
    struct mg_lua_link *link = state_need(L)->link;
    if (!link) /* a finalizer that lua_close runs late */
        mg_lua_error(L, "RuntimeError", "moongate.openssl: the Lua state is being closed");
    return link;
}

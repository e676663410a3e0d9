/*
 * What a script asks for and this machine does not have: addresses, directories, users. A script may be checked on
 * another machine than the one that it is for, and an address may come later, so these are warnings. Nothing is made
 * and nothing is listened on: whether an address is ours the kernel says to a UDP socket on a port of its choice.
 */
#include "script/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define REFUSED "moongate run would be refused on this machine"

/* 0, or the errno with which a socket is refused that address. What else may be in the way says nothing of it. */
static int
address_error(const struct mg_addr *addr)
{
    struct mg_addr local = *addr;
    int fd = socket(addr->u.sa.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int error = fd < 0 ? errno : 0;

    mg_addr_set_port(&local, 0);
    if (fd >= 0 && bind(fd, &local.u.sa, local.len) != 0)
        error = errno;
    if (fd >= 0)
        close(fd);
    return error == EADDRNOTAVAIL || error == EAFNOSUPPORT ? error : 0;
}

/* ---- files ----------------------------------------------------------------------------------- */

/* Why no file can be made at that absolute path, or 0; `dir` is where it would be. */
static int
directory_error(const char *path, char *dir, size_t cap)
{
    const char *slash = strrchr(path, '/');
    size_t len = slash != NULL && slash > path ? (size_t)(slash - path) : 1;
    struct stat st;

    snprintf(dir, cap, "%.*s", (int)len, path);
    if (stat(dir, &st) != 0)
        return errno;
    if (!S_ISDIR(st.st_mode))
        return ENOTDIR;
    return faccessat(AT_FDCWD, dir, W_OK | X_OK, AT_EACCESS) == 0 ? 0 : errno;
}

static void
log_check(lua_State *L, const struct mg_settings *settings, const char *name)
{
    const char *path = mg_settings_text(settings, name);
    char dir[4096];
    struct stat st;
    int error = 0;

    if (path[0] != '/')
        return;
    mg_str_copy(dir, sizeof(dir), path);
    if (stat(path, &st) != 0)
        error = errno == ENOENT ? directory_error(path, dir, sizeof(dir)) : errno;
    else if (S_ISDIR(st.st_mode))
        error = EISDIR;
    else if (faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) != 0)
        error = errno;
    if (error != 0)
        mg_script_warn(L, "settings: %s: %s: %s: " REFUSED, name, dir, strerror(error));
}

static void
user_check(lua_State *L, const struct mg_settings *settings)
{
    const char *user = mg_settings_text(settings, "user");
    const char *group = mg_settings_text(settings, "group");

    if (user[0] != '\0' && getpwnam(user) == NULL)
        mg_script_warn(L, "settings: user: there is no user \"%s\": " REFUSED, user);
    if (group[0] != '\0' && getgrnam(group) == NULL)
        mg_script_warn(L, "settings: group: there is no group \"%s\": " REFUSED, group);
}

/* ---- listeners and backends ------------------------------------------------------------------ */

/* The object's option `option`, and what is wrong with `value`. */
static void
object_warn(lua_State *L, int object, const char *what, const char *option, const char *value,
            const char *fault)
{
    int top = lua_gettop(L);

    mg_option_push(L, object, MG_WHERE);
    mg_option_push(L, object, "name");
    mg_script_warn(L, "%s%s: %s: %s: %s: %s", lua_tostring(L, -2), what, lua_tostring(L, -1),
                   option, value, fault);
    lua_settop(L, top);
}

static void
path_check(lua_State *L, int object, const char *address, const char *path)
{
    char dir[sizeof(((struct sockaddr_un *)0)->sun_path) + 1], fault[512];
    struct stat st;
    int error;

    if (path[0] == '\0') /* abstract */
        return;
    error = directory_error(path, dir, sizeof(dir));
    if (error == 0 && lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode)) {
        object_warn(L, object, "listen", "address", address,
                    "the file exists and is not a socket: " REFUSED);
    } else if (error != 0) {
        snprintf(fault, sizeof(fault), "%s: %s: " REFUSED, dir, strerror(error));
        object_warn(L, object, "listen", "address", address, fault);
    }
}

static void
listener_check(lua_State *L, int object)
{
    int addresses = lua_gettop(L) + 1;
    struct mg_endpoint ep;
    struct mg_err ignored;

    mg_option_push(L, object, "address");
    for (lua_Integer i = 1; lua_rawgeti(L, addresses, i) == LUA_TSTRING; i++) {
        const char *text = lua_tostring(L, -1);

        if (mg_endpoint_parse(&ep, text, true, &ignored) == 0 && ep.kind == MG_ENDPOINT_UNIX)
            path_check(L, object, text, ep.addr.u.un.sun_path);
        else if (ep.kind == MG_ENDPOINT_IP && address_error(&ep.addr) != 0)
            object_warn(L, object, "listen", "address", text,
                        "no address of this machine: " REFUSED);
        lua_settop(L, addresses);
    }
    lua_settop(L, addresses - 1);
}

static void
backend_check(lua_State *L, int object)
{
    struct mg_addr source;
    int top = lua_gettop(L);

    if (!mg_backend_test(L, object)->duplicate &&
        mg_option_push(L, object, "source") == LUA_TSTRING &&
        mg_addr_parse_ip(&source, lua_tostring(L, -1)) && address_error(&source) != 0)
        object_warn(L, object, "backend", "source", lua_tostring(L, -1),
                    "no address of this machine: until it is one, connections fail "
                    "(\"up: source not usable\")");
    lua_settop(L, top);
}

static void
list_check(lua_State *L, const char *list, void (*check)(lua_State *, int))
{
    lua_getfield(L, LUA_REGISTRYINDEX, list);
    for (lua_Integer i = 1; lua_rawgeti(L, -1, i) != LUA_TNIL; i++) {
        check(L, lua_gettop(L));
        lua_pop(L, 1);
    }
    lua_pop(L, 2);
}

struct machine {
    const struct mg_settings *settings;
    bool all;
};

static void
machine_body(lua_State *L, void *data)
{
    const struct machine *m = data;

    if (m->all) {
        user_check(L, m->settings);
        log_check(L, m->settings, "log");
        log_check(L, m->settings, "access_log");
        list_check(L, MG_LISTENERS, listener_check);
    }
    list_check(L, MG_BACKENDS, backend_check);
}

int
mg_machine_warn(struct mg_script *s, bool all, struct mg_err *err)
{
    struct machine m = {.settings = &s->settings, .all = all};

    return mg_script_protect(s, machine_body, &m, err);
}

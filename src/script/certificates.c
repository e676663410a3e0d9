/*
 * What lua/moongate/certificates.lua is made of: finding files by a pattern and reading PEM, both through
 * the world, so that workers find and read the same.
 */
#include "script/internal.h"

#include <errno.h>
#include <fnmatch.h>
#include <string.h>

#define WHAT "certificates"

#define PATTERN_MAX 4096 /* each component is a call */

static bool
is_pattern(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (strchr("*?[", text[i]) != NULL)
            return true;
    return false;
}

static void matches_add(lua_State *L, int list, const char *found, const char *rest);

/* The names in directory `found` that match the first component of the pattern. */
static void
directory_add(lua_State *L, int list, const char *found, const char *component, const char *rest)
{
    int top = lua_gettop(L);
    struct mg_buf *names = mg_bytes_push(L);
    const char *dir = found[0] == '\0' ? "." : found;
    struct mg_err err;
    int error = 0;

    if (mg_world_list(&mg_script_of(L)->world, dir, names, &error, &err) != 0) {
        if (error != ENOTDIR && error != ENOENT)
            mg_option_error(L, WHAT, "%s", err.text);
        lua_settop(L, top);
        return;
    }
    for (size_t at = 0; at < names->len; at += strlen(names->data + at) + 1) {
        const char *name = names->data + at;

        if (fnmatch(component, name, FNM_PERIOD) == 0)
            matches_add(L, list, lua_pushfstring(L, "%s%s", found, name), rest);
        lua_settop(L, top + 1);
    }
    lua_settop(L, top);
}

/* What the rest of the pattern leads to from `found`, into the list. */
static void
matches_add(lua_State *L, int list, const char *found, const char *rest)
{
    size_t slashes = strspn(rest, "/"), len = strcspn(rest + slashes, "/");
    const char *component;

    luaL_checkstack(L, 8, WHAT);
    if (len == 0) {
        lua_pushstring(L, found);
        lua_rawseti(L, list, (lua_Integer)lua_rawlen(L, list) + 1);
        return;
    }
    if (slashes > 0)
        found = lua_pushfstring(L, "%s/", found);
    rest += slashes;
    component = lua_pushlstring(L, rest, len);
    if (is_pattern(component, len))
        directory_add(L, list, found, component, rest + len);
    else
        matches_add(L, list, lua_pushfstring(L, "%s%s", found, component), rest + len);
}

/* glob(pattern) -> paths, in order. A last component without wildcard is not looked at: it may not be there. */
static int
core_glob(lua_State *L)
{
    size_t len;
    const char *pattern = luaL_checklstring(L, 1, &len);

    if (len > PATTERN_MAX)
        mg_option_error(L, WHAT, "the pattern is longer than %d characters", PATTERN_MAX);
    lua_settop(L, 1);
    lua_newtable(L);
    matches_add(L, 2, "", pattern);
    lua_settop(L, 2);
    return 1;
}

static struct mg_buf *
listing_push(lua_State *L, const char *dir)
{
    struct mg_buf *names = mg_bytes_push(L);
    struct mg_err ignored;
    int error = 0;

    return mg_world_list(&mg_script_of(L)->world, dir, names, &error, &ignored) == 0 ? names : NULL;
}

/* Of a path that cannot be opened: its directory has the name, so it is a link that leads nowhere. */
static bool
is_dangling(lua_State *L, const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
    const char *dir = slash == NULL   ? "."
                      : slash == path ? "/"
                                      : lua_pushlstring(L, path, (size_t)(slash - path));
    const struct mg_buf *names = listing_push(L, dir);

    for (size_t at = 0; names != NULL && at < names->len; at += strlen(names->data + at) + 1)
        if (strcmp(names->data + at, name) == 0)
            return listing_push(L, path) ==
                   NULL; /* the directories of a test cannot be opened either */
    return false;
}

/* pem(path) -> certificates, key | nil | false, or nil, reason, true if there is no such file */
static int
core_pem(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    struct mg_buf *text = mg_bytes_push(L);
    struct mg_err err;
    int error = 0;
    bool ok, is_missing;

    if (mg_world_read(&mg_script_of(L)->world, path, text, &error, &err) != 0) {
        if (error == 0)
            mg_option_error(L, WHAT, "%s", err.text);
        is_missing =
            error == ENOTDIR || error == EISDIR || (error == ENOENT && !is_dangling(L, path));
        lua_pushnil(L);
        lua_pushstring(L, err.text);
        lua_pushboolean(L, is_missing);
        return 3;
    }
    ok = mg_pem_push(L, text->data != NULL ? text->data : "", text->len);
    mg_buf_free_secret(text);
    if (ok) {
        mg_x509_note_files(L, -2, path);
        return 2;
    }
    lua_pushnil(L);
    lua_pushfstring(L, "%s: it is not in PEM form, or damaged", path);
    return 2;
}

/* identity(certificate) -> kind of its key, its DNS names */
static int
core_identity(lua_State *L)
{
    struct mg_buf *names = mg_bytes_push(L);
    const char *kind = mg_x509_identity(L, 1, names);

    if (kind == NULL)
        luaL_error(L, "out of memory");
    lua_pushstring(L, kind);
    lua_newtable(L);
    for (size_t at = 0; at < names->len; at += strlen(names->data + at) + 1) {
        const char *name = names->data + at;

        if (mg_name_fault(name, strlen(name)) != NULL)
            continue;
        lua_pushstring(L, name);
        lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    }
    return 2;
}

/* warn(text), fault(text), fail(text): from where the script called. */
static int
core_warn(lua_State *L)
{
    mg_script_where(L);
    mg_script_warn(L, "%s" WHAT ": %s", lua_tostring(L, -1), luaL_checkstring(L, 1));
    return 0;
}

static int
core_fault(lua_State *L)
{
    mg_script_where(L);
    mg_script_fault(L, "%s" WHAT ": %s", lua_tostring(L, -1), luaL_checkstring(L, 1));
    return 0;
}

static int
core_fail(lua_State *L)
{
    mg_option_error(L, WHAT, "%s", luaL_checkstring(L, 1));
}

int
mg_certificates_core(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"glob", core_glob}, {"pem", core_pem},     {"identity", core_identity},
        {"warn", core_warn}, {"fault", core_fault}, {"fail", core_fail},
        {NULL, NULL},
    };

    luaL_newlib(L, functions);
    return 1;
}

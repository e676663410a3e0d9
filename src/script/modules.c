/*
 * Finding Lua: require, load, loadfile, dofile. Modules of moongate are compiled in, where a
 * directory named by MOONGATE_LUA has no file of that name; all others are files beside the script,
 * read through the world. Only text is loaded: the verifier for bytecode is gone since Lua 5.2.
 */
#include "script/embedded.h"
#include "script/internal.h"

#include <lualib.h>

#include <string.h>

int
mg_load_text(lua_State *L, const char *text, size_t len, const char *chunk)
{
    if (len >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        text += 3;
        len -= 3;
    }
    if (len > 0 &&
        text[0] == '#') { /* the line for the kernel; its newline stays, for the numbers */
        const char *end = memchr(text, '\n', len);
        size_t skip = end != NULL ? (size_t)(end - text) : len;

        text += skip;
        len -= skip;
    }
    mg_world_depend(&mg_script_of(L)->world, MG_RECORD_SCRIPT, "",
                    (struct mg_span){.data = text, .len = len});
    if (len > 0 && text[0] == LUA_SIGNATURE[0] && (chunk[0] == '@' || chunk[0] == '=')) {
        lua_pushfstring(L, "%s: this is compiled Lua, a binary chunk; a script is text", chunk + 1);
        return LUA_ERRSYNTAX;
    }
    return luaL_loadbufferx(L, text, len, chunk, "t");
}

/* What errors call a file beside the script: its path the way the script's own was given. */
static void
chunk_push(lua_State *L, const char *path)
{
    const char *name = mg_script_of(L)->name;
    const char *slash = strrchr(name, '/');

    while (path[0] == '.' && path[1] == '/')
        path += 2;
    if (path[0] == '/' || slash == NULL) {
        lua_pushfstring(L, "@%s", path);
        return;
    }
    lua_pushliteral(L, "@");
    lua_pushlstring(L, name, (size_t)(slash + 1 - name));
    lua_pushstring(L, path);
    lua_concat(L, 3);
}

/* Pushes the file's text, or why the system does not give it and returns false. */
static bool
file_push(lua_State *L, const char *path)
{
    struct mg_err err;
    int error;
    struct mg_buf *text = mg_bytes_push(L);

    if (mg_world_read(&mg_script_of(L)->world, path, text, &error, &err) != 0) {
        if (error == 0) /* not an answer of the world */
            luaL_error(L, "%s", err.text);
        lua_pushstring(L, err.text);
        lua_remove(L, -2);
        return false;
    }
    lua_pushlstring(L, text->data != NULL ? text->data : "", text->len);
    mg_buf_free_secret(text);
    lua_remove(L, -2);
    return true;
}

/* Reads and loads: the function at the top, or an error message and a Lua status. */
static int
file_load(lua_State *L, const char *path)
{
    size_t len;
    const char *text;
    int status;

    if (!file_push(L, path))
        return LUA_ERRFILE;
    text = lua_tolstring(L, -1, &len);
    chunk_push(L, path);
    status = mg_load_text(L, text, len, lua_tostring(L, -1));
    lua_replace(L, -3);
    lua_pop(L, 1);
    return status;
}

/* The environment at `env` becomes the first upvalue of the function at the top. */
static void
environment_set(lua_State *L, int env)
{
    lua_pushvalue(L, env);
    if (lua_setupvalue(L, -2, 1) == NULL)
        lua_pop(L, 1);
}

static bool
mode_has_text(lua_State *L, int idx)
{
    return strchr(luaL_optstring(L, idx, "t"), 't') != NULL;
}

static int
base_loadfile(lua_State *L)
{
    const char *path = lua_tostring(L, 1);

    if (path == NULL)
        mg_script_error(L, "loadfile: expected the name of a file: there is no standard input");
    if (!mode_has_text(L, 2)) {
        lua_pushnil(L);
        lua_pushliteral(L, "loadfile: only text is loaded, not precompiled code");
        return 2;
    }
    if (file_load(L, path) != LUA_OK) {
        lua_pushnil(L);
        lua_insert(L, -2);
        return 2;
    }
    if (!lua_isnone(L, 3) && lua_gettop(L) > 3)
        environment_set(L, 3);
    return 1;
}

static int
base_dofile(lua_State *L)
{
    const char *path = lua_tostring(L, 1);
    int status;

    if (path == NULL)
        mg_script_error(L, "dofile: expected the name of a file: there is no standard input");
    lua_settop(L, 1);
    status = file_load(L, path);
    if (status == LUA_ERRFILE)
        mg_script_error(L, "%s", lua_tostring(L, -1));
    if (status != LUA_OK)
        return lua_error(L); /* names the line in that file */
    lua_call(L, 0, LUA_MULTRET);
    return lua_gettop(L) - 1;
}

/* load with mode "t", whatever was asked for. Upvalues: the original, the script's globals. */
static int
base_load(lua_State *L)
{
    int args = lua_gettop(L);

    if (!mode_has_text(L, 3)) {
        lua_pushnil(L);
        lua_pushliteral(L, "load: only text is loaded, not precompiled code");
        return 2;
    }
    if (args < 4) {
        lua_settop(L, 3);
        lua_pushvalue(L, lua_upvalueindex(2));
        args = 4;
    }
    lua_pushliteral(L, "t");
    lua_replace(L, 3);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, args, LUA_MULTRET);
    return lua_gettop(L);
}

/* ---- require -------------------------------------------------------------------------------- */

/*
 * Looks for a module along a path of templates. Pushes the file's text and its path and returns
 * true, or pushes what was tried. Looking is reading: in a worker only what has been read is there.
 */
static bool
path_search(lua_State *L, const char *name, const char *templates)
{
    int tried = lua_gettop(L) + 2;
    const char *file = luaL_gsub(L, name, ".", "/");

    lua_pushliteral(L, "");
    while (*templates != '\0') {
        size_t len = strcspn(templates, ";");

        if (len > 0) {
            lua_pushlstring(L, templates, len);
            luaL_gsub(L, lua_tostring(L, -1), "?", file);
            if (file_push(L, lua_tostring(L, -1))) {
                lua_insert(L, -2);
                lua_replace(L, tried);
                lua_replace(L, tried - 1);
                lua_settop(L, tried);
                return true;
            }
            lua_pushvalue(L, tried);
            lua_pushfstring(L, "%sno file '%s'", lua_rawlen(L, tried) > 0 ? "\n\t" : "",
                            lua_tostring(L, -3));
            lua_concat(L, 2);
            lua_replace(L, tried);
            lua_settop(L, tried);
        }
        templates += len;
        templates += *templates == ';';
    }
    lua_remove(L, tried - 1);
    return false;
}

static int
package_searchpath(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);

    if (path_search(L, name, luaL_checkstring(L, 2))) {
        lua_remove(L, -2);
        return 1;
    }
    lua_pushnil(L);
    lua_insert(L, -2);
    return 2;
}

/* A searcher's answer for a text and its name, both on the stack: the loader and what it is told.
 */
static int
searcher_load(lua_State *L, int text, const char *chunk, const char *name)
{
    size_t len;
    const char *source = lua_tolstring(L, text, &len);

    if (mg_load_text(L, source, len, chunk) != LUA_OK)
        return luaL_error(L, "error loading module '%s':\n\t%s", name, lua_tostring(L, -1));
    lua_pushstring(L, chunk + 1);
    return 2;
}

/* moongate and moongate.*: the directory MOONGATE_LUA, then what is compiled in. */
static int
searcher_own(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    struct mg_span dir;

    if (strcmp(name, "moongate") != 0 && strncmp(name, "moongate.", 9) != 0)
        return 0;
    if (mg_world_getenv(&mg_script_of(L)->world, "MOONGATE_LUA", &dir) && dir.len > 0) {
        const char *path;

        lua_pushlstring(L, dir.data, dir.len);
        path = lua_tostring(L, -1);
        if (path_search(L, name, lua_pushfstring(L, "%s/?.lua;%s/?/init.lua", path, path))) {
            lua_pushfstring(L, "=%s", lua_tostring(L, -1)); /* not the script's: no "@" */
            return searcher_load(L, -3, lua_tostring(L, -1), name);
        }
    }
    for (const struct mg_embedded *e = mg_embedded; e->name != NULL; e++) {
        if (strcmp(e->name, name) == 0) {
            lua_pushlstring(L, (const char *)e->text, e->len);
            lua_pushfstring(L, "=%s", name);
            return searcher_load(L, -2, lua_tostring(L, -1), name);
        }
    }
    lua_pushfstring(L, "no module '%s' in this version of moongate", name);
    return 1;
}

/* Everything else: files along package.path. Upvalue: the table package. */
static int
searcher_files(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);

    if (lua_getfield(L, lua_upvalueindex(1), "path") != LUA_TSTRING)
        return luaL_error(L, "'package.path' must be a string");
    if (!path_search(L, name, lua_tostring(L, -1)))
        return 1;
    chunk_push(L, lua_tostring(L, -1));
    return searcher_load(L, -3, lua_tostring(L, -1), name);
}

void
mg_modules_open(lua_State *L)
{
    lua_getglobal(L, "load");
    lua_pushglobaltable(L);
    lua_pushcclosure(L, base_load, 2);
    lua_setglobal(L, "load");
    lua_pushcfunction(L, base_loadfile);
    lua_setglobal(L, "loadfile");
    lua_pushcfunction(L, base_dofile);
    lua_setglobal(L, "dofile");

    lua_getglobal(L, LUA_LOADLIBNAME);
    lua_pushliteral(L, "?.lua;?/init.lua");
    lua_setfield(L, -2, "path");
    lua_pushliteral(L, "");
    lua_setfield(L, -2, "cpath");
    lua_pushcfunction(L, package_searchpath);
    lua_setfield(L, -2, "searchpath");
    mg_refuse(L, "package", "loadlib", "C libraries cannot be loaded");
    lua_getfield(L, -1, "searchers"); /* require holds on to this very table */
    for (int i = 2; i <= 4; i++) {
        lua_pushnil(L);
        lua_rawseti(L, -2, i);
    }
    lua_pushcfunction(L, searcher_own);
    lua_rawseti(L, -2, 2);
    lua_pushvalue(L, -2);
    lua_pushcclosure(L, searcher_files, 1);
    lua_rawseti(L, -2, 3);
    lua_pop(L, 2);
}

/*
 * Loader side: runs the script while recording what it sees, freezes, proves, and seals everything
 * into a snapshot.
 *
 * The happy path: path → text → mg_script_run → mg_prove → records → sealed fd. Whatever fails, the
 * watch list is handed out, so that --watch can wait for the mistake to be mended.
 */
#include "script/internal.h"

#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PACKED "MGSNAP01"

char *
mg_script_path(const char *path, struct mg_err *err)
{
    char *cwd = getcwd(NULL, 0);
    const struct mg_world here = {.dir = cwd};
    char *result = NULL;

    if (cwd == NULL)
        mg_err_set(err, "the current directory");
    else if ((result = mg_world_path(&here, path)) == NULL)
        mg_err_setx(err, "out of memory");
    free(cwd);
    return result;
}

/* MOONGATE_LUA is meant from where the user stands, not from where the script lies. */
static int
modules_locate(struct mg_script *s, struct mg_err *err)
{
    const char *dir = getenv("MOONGATE_LUA");
    struct mg_buf fact = {0};
    char *path;
    int status = -1;

    if (dir == NULL || dir[0] == '\0')
        return 0;
    path = mg_script_path(dir, err);
    if (path == NULL)
        return -1;
    mg_buf_addf(&fact, "V%s", path);
    if (fact.failed)
        mg_err_setx(err, "out of memory");
    else
        status = mg_world_add(&s->world, MG_RECORD_ENV, "MOONGATE_LUA", fact.data, fact.len, err);
    mg_buf_free(&fact);
    mg_free(path);
    return status;
}

/* Started as root, a script that somebody else can change would hand root to them. */
static int
owner_check(const char *name, const struct stat *st, struct mg_err *err)
{
    const struct passwd *owner = st->st_uid != 0 ? getpwuid(st->st_uid) : NULL;

    if (st->st_uid != 0) {
        mg_err_setx(
            err,
            "%s: this script belongs to %s (user id %u), so it is not run as root; give it to "
            "root (chown root) or start moongate as its owner",
            name, owner != NULL ? owner->pw_name : "somebody else", (unsigned)st->st_uid);
        return -1;
    }
    if ((st->st_mode & S_IWOTH) == 0 && ((st->st_mode & S_IWGRP) == 0 || st->st_gid == 0))
        return 0;
    mg_err_setx(
        err,
        "%s: others can write this script (mode %04o), so it is not run as root; chmod go-w "
        "would help",
        name, (unsigned)(st->st_mode & 07777));
    return -1;
}

/* Whether this very file is root's and says `text`. */
static int
content_check(const char *name, int fd, const struct mg_buf *text, struct mg_err *err)
{
    struct mg_buf ours = {0};
    struct stat st;
    int status = -1;

    if (fstat(fd, &st) != 0)
        mg_err_set(err, "%s", name);
    else if (owner_check(name, &st, err) != 0)
        status = -1;
    else if (mg_fd_read_all(fd, &ours, text->len, err) != 0)
        mg_err_prefix(err, "%s", name);
    else if (ours.len != text->len ||
             (ours.len > 0 && memcmp(ours.data, text->data, ours.len) != 0))
        mg_err_setx(err, "%s: it changed while it was read", name);
    else
        status = 0;
    mg_buf_free_secret(&ours);
    return status;
}

/* What the world has read, and will run, must be what a file of root's says: the path may lead
 * elsewhere by now. */
static int
script_trust(struct mg_script *s, const char *path, struct mg_err *err)
{
    struct mg_buf text = {0};
    int fd, error, status = -1;

    if (geteuid() != 0)
        return 0;
    if (mg_world_read(&s->world, path, &text, &error, err) != 0)
        return error != 0 ? 0 : -1; /* recorded: script_read will say it */
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        mg_err_set(err, "%s", s->name);
    else
        status = content_check(s->name, fd, &text, err);
    if (fd >= 0)
        close(fd);
    mg_buf_free_secret(&text);
    return status;
}

/* The script is read through the world, so that it is watched like every other file. */
static int
script_read(struct mg_script *s, const char *path, struct mg_buf *text, struct mg_err *err)
{
    int error;

    if (mg_world_read(&s->world, path, text, &error, err) != 0) {
        if (error != 0)
            mg_err_setx(err, "%s: %s", s->name, mg_file_error(error));
        return -1;
    }
    if (text->len >= strlen(PACKED) && memcmp(text->data, PACKED, strlen(PACKED)) == 0) {
        mg_err_setx(err, "%s: packed snapshots are not supported by this version", s->name);
        return -1;
    }
    return 0;
}

/* ---- records -------------------------------------------------------------------------------- */

static void
record_add(struct mg_snapshot_writer *w, enum mg_record kind, const char *key, const char *value,
           size_t len)
{
    mg_snapshot_writer_add(w, kind, key, strlen(key), value, len);
}

/* The secret stays with the script, which every worker runs; the supervisor has no need of it. */
static void
settings_add(const struct mg_script *s, struct mg_snapshot_writer *w)
{
    for (const struct mg_setting *set = mg_settings; set->name != NULL; set++) {
        const char *text = mg_settings_text(&s->settings, set->name);

        record_add(w, MG_RECORD_SETTING, set->name, text, strlen(text));
    }
}

struct addresses {
    struct mg_snapshot_writer *writer;
    struct mg_buf text; /* of one listener */
};

/* One listener at the top: its addresses, each with its backlog, and all of them together. */
static void
listener_add(lua_State *L, struct addresses *a)
{
    int listener = lua_gettop(L), backlog;

    mg_option_push(L, listener, "backlog");
    backlog = (int)lua_tointeger(L, -1);
    a->text.len = 0;
    mg_option_push(L, listener, "address");
    for (lua_Integer i = 1; lua_rawgeti(L, listener + 2, i) != LUA_TNIL; i++) {
        const char *text = lua_tostring(L, -1), *file, *value;

        lua_getfield(L, listener + 2, text);
        file = lua_tostring(L, -1);
        value = lua_pushfstring(L, "backlog=%d\n%s", backlog, file != NULL ? file : "");
        record_add(a->writer, MG_RECORD_ADDRESS, text, value, strlen(value));
        mg_buf_addf(&a->text, "%s%s", i > 1 ? "," : "", text);
        lua_pop(L, 3);
    }
    mg_option_push(L, listener, "name");
    if (!a->text.failed)
        record_add(a->writer, MG_RECORD_LISTENER, lua_tostring(L, -1), a->text.data, a->text.len);
    lua_settop(L, listener);
}

static void
listeners_add(lua_State *L, void *data)
{
    lua_getfield(L, LUA_REGISTRYINDEX, MG_LISTENERS);
    for (lua_Integer i = 1; lua_rawgeti(L, -1, i) != LUA_TNIL; i++) {
        listener_add(L, data);
        lua_pop(L, 1);
    }
}

/* What workers must not give up, because a backend needs it. */
static void
rights_add(lua_State *L, void *data)
{
    struct addresses *a = data;
    bool transparent = false;

    lua_getfield(L, LUA_REGISTRYINDEX, MG_BACKENDS);
    for (lua_Integer i = 1; lua_rawgeti(L, -1, i) != LUA_TNIL; i++) {
        if (mg_option_push(L, lua_gettop(L), "source") == LUA_TSTRING &&
            strcmp(lua_tostring(L, -1), MG_SOURCE_CLIENT) == 0)
            transparent = true;
        lua_pop(L, 2);
    }
    if (transparent)
        record_add(a->writer, MG_RECORD_SETTING, "transparent", "true", strlen("true"));
}

static void
report_add(struct mg_snapshot_writer *w, const char *key, const struct mg_buf *text)
{
    if (text->len > 0)
        record_add(w, MG_RECORD_REPORT, key, text->data, text->len);
}

static int
records_add(struct mg_script *s, const struct mg_script_load *load, const char *path,
            const struct mg_buf *text, struct mg_snapshot_writer *w, struct mg_err *err)
{
    struct addresses addresses = {.writer = w};
    struct mg_buf manifest = {0};
    int status = mg_plan_manifest(s, &manifest, err);

    if (status == 0)
        status = mg_script_protect(s, listeners_add, &addresses, err);
    if (status == 0)
        status = mg_script_protect(s, rights_add, &addresses, err);
    if (status == 0 && addresses.text.failed) {
        mg_err_setx(err, "out of memory");
        status = -1;
    }
    if (status == 0) {
        record_add(w, MG_RECORD_SCRIPT, path, text->data, text->len);
        record_add(w, MG_RECORD_NAME, "", s->name, strlen(s->name));
        record_add(w, MG_RECORD_MANIFEST, "", manifest.data, manifest.len);
        settings_add(s, w);
        report_add(w, "text", &load->report);
        report_add(w, "json", &load->report_json);
        report_add(w, "warning", &load->warnings);
        report_add(w, "facts", &load->facts);
        report_add(w, "proved", &load->proved);
        report_add(w, "kinds", &load->kinds);
        mg_world_write(&s->world, w);
    }
    mg_buf_free(&addresses.text);
    mg_buf_free(&manifest);
    return status;
}

static int
snapshot_seal(struct mg_script *s, const struct mg_script_load *load, const char *path,
              const struct mg_buf *text, struct mg_err *err)
{
    struct mg_snapshot_writer *w = mg_snapshot_writer_new(err);

    if (w == NULL)
        return -1;
    if (records_add(s, load, path, text, w, err) != 0) {
        mg_snapshot_writer_free(w);
        return -1;
    }
    return mg_snapshot_writer_seal(w, err);
}

/* ---- load ----------------------------------------------------------------------------------- */

int
mg_script_rehearse(struct mg_script *s, struct mg_script_load *load, const char *path,
                   struct mg_buf *text, struct mg_err *err)
{
    if (modules_locate(s, err) != 0 || script_read(s, path, text, err) != 0)
        return -1;
    if (mg_script_run(s, text->data != NULL ? text->data : "", text->len, err) != 0) {
        mg_faults_prefix(s, &load->faults, err);
        return -1;
    }
    if (!load->prove)
        return 0;
    if (!s->is_guest && mg_machine_warn(s, load->machine, err) != 0)
        return -1;
    return mg_prove(s, load, err);
}

/* What the new policy changes. */
static int
changes_tell(struct mg_script_load *load, struct mg_err *err)
{
    struct mg_span facts;

    if (load->before == NULL ||
        !mg_snapshot_find(load->before, MG_RECORD_REPORT, "facts", strlen("facts"), &facts))
        return 0;
    return mg_facts_difference(facts.data, facts.len,
                               load->facts.data != NULL ? load->facts.data : "", load->facts.len,
                               &load->changes, err);
}

void
mg_script_load_fini(struct mg_script_load *load)
{
    struct mg_buf *const buffers[] = {&load->warnings, &load->report, &load->report_json,
                                      &load->changes,  &load->facts,  &load->proved,
                                      &load->kinds,    &load->faults};

    for (size_t i = 0; i < MG_ARRAY_LEN(buffers); i++)
        mg_buf_free(buffers[i]);
}

static int
script_load(struct mg_script *s, struct mg_script_load *load, const char *path, struct mg_buf *text,
            struct mg_err *err)
{
    if (script_trust(s, path, err) != 0 || mg_script_rehearse(s, load, path, text, err) != 0 ||
        changes_tell(load, err) != 0)
        return -1;
    load->snapshot_fd = snapshot_seal(s, load, path, text, err);
    return load->snapshot_fd >= 0 ? 0 : -1;
}

int
mg_script_load(struct mg_script_load *load, struct mg_buf *watch, struct mg_err *err)
{
    struct mg_script *s = NULL;
    struct mg_buf text = {0};
    char *path = mg_script_path(load->path, err);
    char *dir = path != NULL ? mg_script_dir(path) : NULL;
    int status = -1;

    load->snapshot_fd = -1;
    if (path != NULL && dir == NULL)
        mg_err_setx(err, "out of memory");
    if (dir != NULL)
        s = mg_script_new(load->path, dir, NULL, err);
    if (s != NULL) {
        s->load = load;
        status = script_load(s, load, path, &text, err);
        if (watch != NULL)
            mg_world_watched(&s->world, watch);
    }
    mg_script_delete(s);
    mg_buf_free_secret(&text);
    mg_free(dir);
    mg_free(path);
    return status;
}

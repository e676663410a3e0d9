/* moongate.settings: checked like every option table, then kept as text, which is what the
 * supervisor reads from the snapshot. */
#include "script/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHAT          "settings"
#define TICKET_SECRET "ticket_secret"
#define SECRET_MIN    32u
#define SECRET_MAX    1024u
#define DECADE_S      315360000.0

const struct mg_setting mg_settings[] = {
    {"workers", ""},
    {"user", ""},
    {"group", ""},
    {"drain_timeout", "30"},
    {"drain_delay", "0"},
    {"watchdog", "5"},
    {"reload_timeout", "60"},
    {"generation_timeout", "false"},
    {"log", "stderr"},
    {"log_format", ""},
    {"log_level", ""},
    {"access_log", ""},
    {"callback_budget", "0.1"},
    {TICKET_SECRET, ""},
    {"hello_ring", "1000"},
    {"refuse_reload_above", "false"},
    {"ticket_rotation", "3600"},
    {NULL, NULL},
};

static const char *const log_formats[] = {"text", "json", NULL};
static const char *const log_levels[] = {"debug", "info", "warn", "error", NULL};

/* "stderr", "syslog" (for log), false (for access_log), or a path, which becomes absolute. */
static void
log_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    const char *text;
    char *path;

    if (o->may_be_off && lua_isboolean(L, value) && !lua_toboolean(L, value)) {
        lua_pushliteral(L, "");
        return;
    }
    if (lua_type(L, value) != LUA_TSTRING)
        mg_option_error(L, what, "%s: expected a path%s, got %s", o->name,
                        o->may_be_off ? ", \"stderr\" or false" : ", \"stderr\" or \"syslog\"",
                        luaL_typename(L, value));
    mg_option_string(L, o, what, value);
    text = lua_tostring(L, value);
    if (strcmp(text, "stderr") == 0 || (!o->may_be_off && strcmp(text, "syslog") == 0))
        return;
    path = mg_world_path(&mg_script_of(L)->world, text);
    if (path == NULL)
        mg_script_error(L, "out of memory");
    lua_pop(L, 1);
    mg_push_taken(L, path);
}

static void
secret_check(lua_State *L, const char *what, int value)
{
    size_t len = lua_type(L, value) == LUA_TSTRING ? lua_rawlen(L, value) : 0;

    if (len < SECRET_MIN || len > SECRET_MAX)
        mg_option_error(L, what,
                        TICKET_SECRET ": expected a string of %d to %d bytes, or "
                                      "{ current, previous }",
                        (int)SECRET_MIN, (int)SECRET_MAX);
}

/* The normal form is a list of one or two strings. */
static void
secret_read(lua_State *L, const struct mg_option *o, const char *what, int value)
{
    lua_Unsigned count = 1;

    if (lua_istable(L, value)) {
        mg_option_list(L, what, o->name, value, "one or two secrets", NULL);
        count = lua_rawlen(L, value);
        if (count < 1 || count > 2)
            mg_option_error(L, what, TICKET_SECRET ": expected { current, previous }");
    }
    lua_createtable(L, 2, 0);
    for (lua_Integer i = 1; i <= (lua_Integer)count; i++) {
        if (lua_istable(L, value))
            lua_rawgeti(L, value, i);
        else
            lua_pushvalue(L, value);
        secret_check(L, what, lua_gettop(L));
        lua_rawseti(L, -2, i);
    }
}

static const struct mg_option options[] = {
    {.name = "workers", .read = mg_option_integer, .min = 1, .max = MG_SHARED_WORKERS},
    {.name = "user", .read = mg_option_string},
    {.name = "group", .read = mg_option_string},
    {.name = "drain_timeout",
     .read = mg_option_duration,
     .max = MG_DURATION_MAX,
     .may_be_off = true},
    {.name = "drain_delay", .read = mg_option_duration, .max = MG_DURATION_MAX},
    {.name = "watchdog", .read = mg_option_duration, .min = 1, .max = MG_DURATION_MAX},
    {.name = "reload_timeout", .read = mg_option_duration, .min = 0.1, .max = MG_DURATION_MAX},
    {.name = "generation_timeout",
     .read = mg_option_duration,
     .max = MG_DURATION_MAX,
     .may_be_off = true},
    {.name = "log", .read = log_read},
    {.name = "log_format", .read = mg_option_word, .words = log_formats},
    {.name = "log_level", .read = mg_option_word, .words = log_levels},
    {.name = "access_log", .read = log_read, .may_be_off = true},
    {.name = "callback_budget", .read = mg_option_duration, .min = 0.001, .max = 3600},
    {.name = TICKET_SECRET, .read = secret_read},
    {.name = "hello_ring", .read = mg_option_integer, .max = 1000000},
    {.name = "refuse_reload_above", .read = mg_option_number, .max = 1, .may_be_off = true},
    {.name = "ticket_rotation", .read = mg_option_integer, .min = 1, .max = DECADE_S},
    {.name = NULL},
};

const char *
mg_settings_text(const struct mg_settings *settings, const char *name)
{
    for (size_t i = 0; mg_settings[i].name != NULL; i++) {
        if (strcmp(mg_settings[i].name, name) == 0)
            return settings->text[i] != NULL ? settings->text[i] : mg_settings[i].fallback;
    }
    return "";
}

void
mg_settings_fini(struct mg_settings *settings)
{
    for (size_t i = 0; i < MG_SETTINGS_MAX; i++)
        mg_free(settings->text[i]);
    mg_free_secret(settings->secret, settings->secret_len);
    mg_free_secret(settings->previous, settings->previous_len);
    memset(settings, 0, sizeof(*settings));
}

/* A copy of the string at the top (popped) for C. */
static char *
string_copy(lua_State *L, size_t *len)
{
    size_t size;
    const char *text = lua_tolstring(L, -1, &size);
    char *copy = mg_malloc(size + 1);

    if (copy == NULL)
        mg_script_error(L, "out of memory");
    memcpy(copy, text, size + 1);
    if (len != NULL)
        *len = size;
    lua_pop(L, 1);
    return copy;
}

static void
secrets_keep(lua_State *L, struct mg_settings *settings, int list)
{
    lua_rawgeti(L, list, 1);
    settings->secret = string_copy(L, &settings->secret_len);
    if (lua_rawgeti(L, list, 2) == LUA_TNIL)
        lua_pop(L, 1);
    else
        settings->previous = string_copy(L, &settings->previous_len);
}

int
mg_settings_lua(lua_State *L)
{
    struct mg_script *s = mg_script_of(L);
    struct mg_settings *settings = &s->settings;

    if (s->loaded)
        mg_option_error(L, WHAT, "can only be called while the script loads");
    if (settings->given)
        mg_option_error(L, WHAT, "called twice; one call sets everything");
    lua_settop(L, 1);
    lua_newtable(L);
    mg_options_read(L, WHAT, options, 1, 2);
    settings->given = true;
    for (size_t i = 0; mg_settings[i].name != NULL; i++) {
        switch (lua_getfield(L, 2, mg_settings[i].name)) {
        case LUA_TNIL:
            lua_pop(L, 1);
            break;
        case LUA_TTABLE:
            secrets_keep(L, settings, lua_gettop(L));
            lua_pop(L, 1);
            break;
        default:
            luaL_tolstring(L, -1, NULL);
            settings->text[i] = string_copy(L, NULL);
            lua_pop(L, 1);
            break;
        }
    }
    if (s->load != NULL && s->load->on_settings != NULL)
        s->load->on_settings(strtod(mg_settings_text(settings, "reload_timeout"), NULL));
    return 0;
}

/*
 * Many faults in one line: the first one, and of those after it what differs. All of them are in the report; the
 * line is what a refused reload says, and what `check` ends with.
 */
#include "script/internal.h"

#include <string.h>

#define SHOWN     10
#define LINE_ROOM 1800 /* of an error's text; what is longer is only counted */

/* How much of both is "moongate.lua:12: certificates: ". */
static size_t
common_prefix(const char *a, const char *b)
{
    size_t prefix = 0;

    for (size_t i = 0; a[i] != '\0' && a[i] == b[i]; i++)
        if (i > 0 && a[i] == ' ' && a[i - 1] == ':')
            prefix = i + 1;
    return prefix;
}

void
mg_faults_join(const struct mg_buf *texts, const char *last, struct mg_err *err)
{
    struct mg_buf line = {0};
    const char *first = texts->data, *end = texts->data + texts->len;
    int shown = 0, more = 0;

    for (const char *text = first; text < end; text += strlen(text) + 1) {
        const char *part = text + (shown > 0 ? common_prefix(first, text) : 0);

        if (shown < SHOWN && (shown == 0 || line.len + strlen(part) < LINE_ROOM)) {
            mg_buf_addf(&line, "%s%s", shown > 0 ? "; " : "", part);
            shown++;
        } else {
            more++;
        }
    }
    if (more > 0)
        mg_buf_addf(&line, "; and %d more", more);
    if (last != NULL)
        mg_buf_addf(&line, "%s%s", shown > 0 ? "; " : "", last);
    mg_err_setx(err, "%s", line.data != NULL && !line.failed ? line.data : "out of memory");
    mg_buf_free(&line);
}

static void
faults_collect(lua_State *L, void *texts)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, MG_FAULTS);
    for (lua_Integer i = 1; lua_rawgeti(L, 1, i) == LUA_TSTRING; i++) {
        mg_buf_add(texts, lua_tostring(L, -1), lua_rawlen(L, -1) + 1);
        lua_pop(L, 1);
    }
}

void
mg_faults_prefix(struct mg_script *s, struct mg_buf *texts, struct mg_err *err)
{
    struct mg_err ignored, script = *err;

    if (mg_script_protect(s, faults_collect, texts, &ignored) == 0 && texts->len > 0 &&
        !texts->failed)
        mg_faults_join(texts, script.text, err);
    mg_buf_add(texts, script.text, strlen(script.text) + 1);
}

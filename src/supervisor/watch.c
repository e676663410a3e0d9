/*
 * --watch: a reload when anything that the script read has changed.
 *
 * The truth is a comparison of the identity of every path with what it was when the loader read it:
 * every 5 s, and soon after a hint. Hints are events of the directories that hold a name on the way
 * to a path – every symlink's and the file's own – so that editors that rename, certbot's links and
 * Kubernetes' swapped directories are seen at once. Comparing and finding those directories happens
 * in the thread pool: a file system that hangs must not hold the supervisor up.
 *
 * The happy path is: set, sweep, event, debounce, sweep finds a change, reload, set. Possible
 * failure modes are: the load fails (tried again after 1, 5 and 30 s and at the next change), there
 * are no more inotify watches (then the 5 s remain).
 */
#include "supervisor/internal.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define POLL_MS     5000
#define DEBOUNCE_MS 80
#define DEBOUNCES   10 /* an endless stream of events is looked at after as many debounces */
#define LINKS_MAX   40

static const uint64_t retry_ms[] = {1000, 5000, 30000};

/* A growing list of owned strings. */
struct strings {
    char **items;
    size_t count, cap;
    bool failed;
};

struct entry {
    char *path;
    char identity[MG_WATCH_IDENTITY]; /* "" = still to be taken */
};

struct set {
    struct entry *entries;
    size_t count;
};

/* A directory whose events are hints. */
struct directory {
    uv_fs_event_t event;
    struct mg_watch *watch;
    char *key; /* "device:inode path": another directory at the same path is another key */
};

struct mg_watch {
    struct mg_super *super;
    uv_timer_t poll, debounce, retry;
    uv_work_t work;
    struct set *set;                /* the thread's while sweeping */
    struct set *next;               /* takes its place after the sweep */
    struct directory **directories; /* sorted by key */
    size_t directory_count;
    struct strings names; /* sorted: what events are about; "dir/" for everything in it */
    /* what a sweep found */
    struct strings found_names, found_directories;
    bool found_change;
    uint64_t sweep_ns; /* how long it took */
    unsigned live;     /* handles, directories and the sweep under way */
    unsigned debounced;
    size_t retries;
    bool sweeping, sweep_again, triggered, closing;
};

/* ---- strings and sets ----------------------------------------------------------------------- */

static void
strings_add(struct strings *list, const char *text)
{
    if (list->count == list->cap) {
        size_t cap = list->cap > 0 ? list->cap * 2 : 16;
        char **items = mg_realloc(list->items, cap * sizeof(*items));
        if (items == NULL) {
            list->failed = true;
            return;
        }
        list->items = items;
        list->cap = cap;
    }
    list->items[list->count] = mg_strdup(text);
    if (list->items[list->count] == NULL)
        list->failed = true;
    else
        list->count++;
}

static void
strings_free(struct strings *list)
{
    for (size_t i = 0; i < list->count; i++)
        mg_free(list->items[i]);
    mg_free(list->items);
    *list = (struct strings){0};
}

static int
text_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void
strings_sort(struct strings *list)
{
    size_t kept = 0;
    if (list->count == 0)
        return;
    qsort(list->items, list->count, sizeof(*list->items), text_compare);
    for (size_t i = 1; i < list->count; i++) {
        if (strcmp(list->items[kept], list->items[i]) == 0)
            mg_free(list->items[i]);
        else
            list->items[++kept] = list->items[i];
    }
    list->count = kept + 1;
}

static bool
strings_have(const struct strings *list, const char *text)
{
    return list->count > 0 &&
           bsearch(&text, list->items, list->count, sizeof(*list->items), text_compare) != NULL;
}

static void
set_free(struct set *set)
{
    if (set == NULL)
        return;
    for (size_t i = 0; i < set->count; i++)
        mg_free(set->entries[i].path);
    mg_free(set->entries);
    mg_free(set);
}

static bool
set_add(struct set *set, const char *path, const char *identity)
{
    struct entry *entries = mg_realloc(set->entries, (set->count + 1) * sizeof(*entries));
    if (entries == NULL)
        return false;
    set->entries = entries;
    entries[set->count].path = mg_strdup(path);
    if (entries[set->count].path == NULL)
        return false;
    mg_str_copy(entries[set->count++].identity, MG_WATCH_IDENTITY, identity);
    return true;
}

/* Pairs of path and identity, each with a NUL; and always the script. */
static struct set *
set_parse(const char *list, size_t len, const char *script)
{
    struct set *set = mg_calloc(1, sizeof(*set));
    bool script_seen = false, good = set != NULL;
    for (const char *at = list, *end = list + len; good && at < end;) {
        const char *identity = memchr(at, '\0', (size_t)(end - at));
        if (identity == NULL)
            break;
        identity++;
        if (memchr(identity, '\0', (size_t)(end - identity)) == NULL)
            break;
        script_seen = script_seen || strcmp(at, script) == 0;
        good = set_add(set, at, identity);
        at = identity + strlen(identity) + 1;
    }
    if (good && !script_seen)
        good = set_add(set, script, "");
    if (good)
        return set;
    set_free(set);
    return NULL;
}

/* ---- the sweep, in the thread pool ---------------------------------------------------------- */

static void
name_found(struct mg_watch *w, const char *directory, const char *name)
{
    char text[PATH_MAX + NAME_MAX + 2], key[PATH_MAX + 64];
    struct stat st;
    const char *dir = directory[0] != '\0' ? directory : "/";
    snprintf(text, sizeof(text), "%s/%s", directory, name);
    strings_add(&w->found_names, text);
    if (stat(dir, &st) != 0)
        return;
    snprintf(key, sizeof(key), "%ju:%ju %s", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino, dir);
    strings_add(&w->found_directories, key);
}

/* Puts the target of a link in front of what is left of the path; false if that cannot be. */
static bool
link_follow(const char *link, char *directory, char *rest)
{
    char target[PATH_MAX], joined[PATH_MAX];
    ssize_t len = readlink(link, target, sizeof(target) - 1);
    if (len <= 0)
        return false;
    target[len] = '\0';
    if (snprintf(joined, sizeof(joined), "%s/%s", target, rest) >= (int)sizeof(joined))
        return false;
    if (target[0] == '/')
        directory[0] = '\0';
    memcpy(rest, joined, strlen(joined) + 1);
    return true;
}

/* Walks the path as the kernel does and notes every name that a change could show under. */
static void
chain_walk(struct mg_watch *w, const char *path)
{
    char directory[PATH_MAX] = "", rest[PATH_MAX], full[PATH_MAX], name[NAME_MAX + 1];
    struct stat st;
    unsigned links = 0;
    if (path[0] != '/' || strlen(path) >= sizeof(rest))
        return;
    memcpy(rest, path, strlen(path) + 1);
    for (;;) {
        const char *start = rest + strspn(rest, "/");
        size_t len = strcspn(start, "/");
        if (len == 0 || len > NAME_MAX)
            return;
        memcpy(name, start, len);
        name[len] = '\0';
        const char *left = start + len;
        memmove(rest, left, strlen(left) + 1);
        if (strcmp(name, ".") == 0)
            continue;
        if (strcmp(name, "..") == 0) {
            char *slash = strrchr(directory, '/');
            if (slash != NULL)
                *slash = '\0';
            continue;
        }
        if (snprintf(full, sizeof(full), "%s/%s", directory, name) >= (int)sizeof(full))
            return;
        bool last = rest[strspn(rest, "/")] == '\0';
        if (lstat(full, &st) != 0) {
            name_found(w, directory, name);
            return;
        }
        if (S_ISLNK(st.st_mode)) {
            name_found(w, directory, name);
            if (++links > LINKS_MAX || !link_follow(full, directory, rest))
                return;
            continue;
        }
        if (last) {
            name_found(w, directory, name);
            if (S_ISDIR(st.st_mode)) /* a listing: any name in it */
                name_found(w, full, "");
            return;
        }
        memcpy(directory, full, sizeof(directory));
    }
}

static void
on_sweep(uv_work_t *work)
{
    struct mg_watch *w = work->data;
    uint64_t start = mg_now_ns();
    w->found_change = false;
    for (size_t i = 0; i < w->set->count; i++) {
        struct entry *entry = &w->set->entries[i];
        char now[MG_WATCH_IDENTITY];
        struct stat st;
        mg_watch_identity(stat(entry->path, &st) == 0 ? &st : NULL, now);
        if (entry->identity[0] == '\0')
            mg_str_copy(entry->identity, sizeof(entry->identity), now);
        else if (strcmp(entry->identity, now) != 0)
            w->found_change = true;
        chain_walk(w, entry->path);
    }
    strings_sort(&w->found_names);
    strings_sort(&w->found_directories);
    w->sweep_ns = mg_now_ns() - start;
}

/* ---- directories ---------------------------------------------------------------------------- */

static void
watch_released(struct mg_watch *w)
{
    if (--w->live > 0)
        return;
    set_free(w->set);
    set_free(w->next);
    strings_free(&w->names);
    strings_free(&w->found_names);
    strings_free(&w->found_directories);
    mg_free(w->directories);
    mg_free(w);
}

static void
on_handle_close(uv_handle_t *handle)
{
    watch_released(handle->data);
}

static void
on_directory_close(uv_handle_t *handle)
{
    struct directory *d = handle->data;
    struct mg_watch *w = d->watch;
    mg_free(d->key);
    mg_free(d);
    watch_released(w);
}

static void on_debounced(uv_timer_t *timer);

/* Look soon; an answer that took long is not asked for often. */
static void
hint_take(struct mg_watch *w)
{
    if (w->triggered || w->debounced >= DEBOUNCES)
        return;
    w->debounced++;
    uint64_t wait = w->sweep_ns / 1000000 * 10;
    uv_timer_start(&w->debounce, on_debounced, wait > DEBOUNCE_MS ? wait : DEBOUNCE_MS, 0);
}

static void
on_event(uv_fs_event_t *event, const char *name, int events, int status)
{
    struct directory *d = event->data;
    struct mg_watch *w = d->watch;
    (void)events;
    if (w->closing)
        return;
    const char *path = strchr(d->key, ' ') + 1;
    if (strcmp(path, "/") == 0)
        path = "";
    char full[PATH_MAX + NAME_MAX + 2], whole[PATH_MAX + 2];
    snprintf(full, sizeof(full), "%s/%s", path, name != NULL ? name : "");
    snprintf(whole, sizeof(whole), "%s/", path);
    if (status != 0 || name == NULL || strings_have(&w->names, full) ||
        strings_have(&w->names, whole))
        hint_take(w);
}

static struct directory *
directory_open(struct mg_watch *w, const char *key)
{
    struct directory *d = mg_calloc(1, sizeof(*d));
    if (d == NULL || (d->key = mg_strdup(key)) == NULL ||
        uv_fs_event_init(&w->super->loop, &d->event) != 0) {
        mg_free(d != NULL ? d->key : NULL);
        mg_free(d);
        return NULL;
    }
    d->watch = w;
    d->event.data = d;
    w->live++;
    int code = uv_fs_event_start(&d->event, on_event, strchr(d->key, ' ') + 1, 0);
    if (code != 0) /* it stays in the list, so that it is not tried at each sweep */
        mg_log(MG_LOG_DEBUG, "--watch: %s: %s; changes there are seen after %d s", d->key,
               uv_strerror(code), POLL_MS / 1000);
    return d;
}

/* Makes the open directories those that the sweep has found. Both lists are sorted. */
static void
directories_update(struct mg_watch *w)
{
    const struct strings *found = &w->found_directories;
    struct directory **fresh = mg_calloc(found->count, sizeof(struct directory *));
    size_t count = 0, old = 0;
    if (fresh == NULL || found->failed) {
        mg_free(fresh);
        return;
    }
    for (size_t i = 0; i < found->count; i++) {
        while (old < w->directory_count && strcmp(w->directories[old]->key, found->items[i]) < 0)
            uv_close((uv_handle_t *)&w->directories[old++]->event, on_directory_close);
        if (old < w->directory_count && strcmp(w->directories[old]->key, found->items[i]) == 0)
            fresh[count++] = w->directories[old++];
        else if ((fresh[count] = directory_open(w, found->items[i])) != NULL)
            count++;
    }
    while (old < w->directory_count)
        uv_close((uv_handle_t *)&w->directories[old++]->event, on_directory_close);
    mg_free(w->directories);
    w->directories = fresh;
    w->directory_count = count;
}

/* ---- the loop's side ------------------------------------------------------------------------ */

static void sweep_start(struct mg_watch *w);

static void
set_replace(struct mg_watch *w)
{
    set_free(w->set);
    w->set = w->next;
    w->next = NULL;
    w->triggered = false;
}

static void
on_swept(uv_work_t *work, int status)
{
    struct mg_watch *w = work->data;
    (void)status; /* never cancelled */
    w->sweeping = false;
    if (w->closing) {
        watch_released(w);
        return;
    }
    directories_update(w);
    strings_free(&w->names);
    w->names = w->found_names;
    w->found_names = (struct strings){0};
    strings_free(&w->found_directories);
    bool change = w->found_change && w->next == NULL;
    if (w->next != NULL) {
        set_replace(w);
        w->sweep_again = true;
    }
    w->live--; /* the sweep's; the handles keep the rest */
    if (change && !w->triggered) {
        w->triggered = true;
        w->retries = 0;
        uv_timer_stop(&w->retry);
        mg_reload_request(w->super, "a file that the script reads has changed");
    }
    if (w->sweep_again)
        sweep_start(w);
}

static void
sweep_start(struct mg_watch *w)
{
    w->sweep_again = w->sweeping;
    if (w->sweeping || w->set == NULL)
        return;
    w->debounced = 0;
    w->work.data = w;
    if (uv_queue_work(&w->super->loop, &w->work, on_sweep, on_swept) != 0)
        return;
    w->sweeping = true;
    w->live++;
}

static void
on_debounced(uv_timer_t *timer)
{
    struct mg_watch *w = timer->data;
    if (!w->closing)
        sweep_start(w);
}

static void
on_retry(uv_timer_t *timer)
{
    struct mg_watch *w = timer->data;
    if (w->closing || w->triggered)
        return;
    w->triggered = true;
    mg_reload_request(w->super, "trying again");
}

void
mg_watch_set(struct mg_watch *w, const char *list, size_t len, bool failed)
{
    struct set *set = set_parse(list, len, w->super->script);
    if (set == NULL) {
        mg_log(MG_LOG_ERROR, "--watch: out of memory");
        w->triggered = false;
        return;
    }
    set_free(w->next);
    w->next = set;
    if (!w->sweeping)
        set_replace(w);
    uv_timer_stop(&w->retry);
    if (!failed)
        w->retries = 0;
    else if (w->retries < MG_ARRAY_LEN(retry_ms))
        uv_timer_start(&w->retry, on_retry, retry_ms[w->retries++], 0);
    sweep_start(w);
}

struct mg_watch *
mg_watch_new(struct mg_super *super, struct mg_err *err)
{
    struct mg_watch *w = mg_calloc(1, sizeof(*w));
    if (w == NULL) {
        mg_err_setx(err, "out of memory");
        return NULL;
    }
    w->super = super;
    uv_timer_t *const timers[] = {&w->poll, &w->debounce, &w->retry};
    for (size_t i = 0; i < MG_ARRAY_LEN(timers); i++) {
        uv_timer_init(&super->loop, timers[i]);
        timers[i]->data = w;
        w->live++;
    }
    uv_timer_start(&w->poll, on_debounced, POLL_MS, POLL_MS);
    return w;
}

void
mg_watch_close(struct mg_watch *w)
{
    w->closing = true;
    uv_close((uv_handle_t *)&w->poll, on_handle_close);
    uv_close((uv_handle_t *)&w->debounce, on_handle_close);
    uv_close((uv_handle_t *)&w->retry, on_handle_close);
    for (size_t i = 0; i < w->directory_count; i++)
        uv_close((uv_handle_t *)&w->directories[i]->event, on_directory_close);
    w->directory_count = 0;
}

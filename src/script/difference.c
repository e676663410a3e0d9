/* Two policies compared in words: a pure function of their facts (facts.c). */
#include "script/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- comparing ------------------------------------------------------------------------------- */

struct fact {
    const char *subject, *key, *value;
    size_t order; /* in its text */
};

struct facts {
    char *text; /* owned; the strings */
    struct fact *list;
    size_t count;
};

static int
fact_order(const void *a, const void *b)
{
    const struct fact *x = a, *y = b;
    int order = strcmp(x->subject, y->subject);

    if (order == 0)
        order = strcmp(x->key, y->key);
    return order != 0 ? order : x->order < y->order ? -1 : x->order > y->order;
}

static void
facts_fini(struct facts *facts)
{
    mg_free(facts->text);
    mg_free(facts->list);
}

/* Lines of another form are passed over. -1: no memory. */
static int
facts_read(struct facts *facts, const char *text, size_t len)
{
    size_t lines = 0;
    char *next = NULL;

    facts->text = mg_strndup(text, len);
    for (size_t i = 0; i < len; i++)
        lines += text[i] == '\n';
    facts->list = mg_calloc(lines + 1, sizeof(*facts->list));
    if (facts->text == NULL || facts->list == NULL)
        return -1;
    for (char *line = strtok_r(facts->text, "\n", &next); line != NULL && facts->count <= lines;
         line = strtok_r(NULL, "\n", &next)) {
        char *key = strchr(line, '\t'), *value = key != NULL ? strchr(key + 1, '\t') : NULL;

        if (value == NULL)
            continue;
        *key++ = '\0';
        *value++ = '\0';
        facts->list[facts->count] = (struct fact){line, key, value, facts->count};
        facts->count++;
    }
    qsort(facts->list, facts->count, sizeof(*facts->list), fact_order);
    return 0;
}

/* The facts of one subject (NULL: whichever there is), or of one key of it. */
struct part {
    const struct fact *list;
    size_t count;
};

static struct part
part_take(struct part *rest, const char *subject, const char *key)
{
    struct part part = {rest->list, 0};

    while (part.count < rest->count &&
           (subject == NULL || strcmp(part.list[part.count].subject, subject) == 0) &&
           (key == NULL || strcmp(part.list[part.count].key, key) == 0))
        part.count++;
    rest->list += part.count;
    rest->count -= part.count;
    return part;
}

/* All that is known of the subject. */
static struct part
part_find(const struct facts *facts, const char *subject)
{
    size_t low = 0, high = facts->count;
    struct part rest;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (strcmp(facts->list[middle].subject, subject) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    rest = (struct part){facts->list + low, facts->count - low};
    return part_take(&rest, subject, NULL);
}

/* The first value of a key, or NULL. */
static const char *
part_value(const struct part *part, const char *key)
{
    for (size_t i = 0; i < part->count; i++)
        if (strcmp(part->list[i].key, key) == 0)
            return part->list[i].value;
    return NULL;
}

static bool
part_has(const struct part *part, const char *value)
{
    for (size_t i = 0; i < part->count; i++)
        if (strcmp(part->list[i].value, value) == 0)
            return true;
    return false;
}

/* The values of a that b has not, ", " between them; how many. */
static size_t
part_minus(const struct part *a, const struct part *b, struct mg_buf *out)
{
    size_t count = 0;

    for (size_t i = 0; i < a->count; i++) {
        if (part_has(b, a->list[i].value))
            continue;
        mg_buf_addf(out, "%s%s", count > 0 ? ", " : "", a->list[i].value);
        count++;
    }
    return count;
}

/* ---- words ----------------------------------------------------------------------------------- */

/* Lists: what is offered. */
static const struct {
    const char *key, *one, *many, *gone, *came;
} sets[] = {
    {"TLS version", "", "", "no longer offered", "now offered"},
    {"suite", "cipher suite ", "cipher suites ", "no longer offered", "now offered"},
    {"group", "group ", "groups ", "no longer offered", "now offered"},
    {"alpn", "ALPN protocol ", "ALPN protocols ", "no longer offered", "now offered"},
    {"address", "address ", "addresses ", "no longer used", "now used"},
};

/* A line for each difference: subject, what changed. */
struct changes {
    struct mg_buf *lines; /* "text\0subject\0" … */
    size_t count;
    bool visible; /* something was said of the present subject */
};

static void change_add(struct changes *c, const char *subject, const char *fmt, ...)
    MG_PRINTF(3, 4);

static void
change_add(struct changes *c, const char *subject, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    mg_buf_addv(c->lines, fmt, args);
    va_end(args);
    mg_buf_add(c->lines, "", 1);
    mg_buf_add(c->lines, subject, strlen(subject) + 1);
    c->count++;
    c->visible = true;
}

static void
set_compare(struct changes *c, const char *subject, size_t which, const struct part *before,
            const struct part *after)
{
    struct mg_buf gone = {0}, came = {0};
    size_t lost = part_minus(before, after, &gone), won = part_minus(after, before, &came);

    if (lost > 0)
        change_add(c, subject, "%s%s %s", lost > 1 ? sets[which].many : sets[which].one,
                   gone.data != NULL ? gone.data : "", sets[which].gone);
    if (won > 0)
        change_add(c, subject, "%s%s %s", won > 1 ? sets[which].many : sets[which].one,
                   came.data != NULL ? came.data : "", sets[which].came);
    mg_buf_free(&gone);
    mg_buf_free(&came);
}

static void
certificate_compare(struct changes *c, const char *subject, const char *type, const char *before,
                    const char *after)
{
    const int date = 10;

    if (after == NULL)
        change_add(c, subject, "%s certificate no longer served", type);
    else if (before == NULL)
        change_add(c, subject, "%s certificate now served, valid until %.*s", type, date, after);
    else if (strcmp(before, after) != 0)
        change_add(c, subject, "%s certificate replaced, valid until %.*s (was %.*s)", type, date,
                   after, date, before);
}

static void
value_compare(struct changes *c, const char *subject, const char *key, const char *before,
              const char *after)
{
    const char *words = strcmp(key, "verification") == 0 ? "client certificates" : key;
    const char *was = before != NULL ? before : "none", *is = after != NULL ? after : "none";

    if (strcmp(was, is) == 0)
        return;
    if (strcmp(key, "is") == 0)
        change_add(c, subject, "now %s (was %s)", is, was);
    else
        change_add(c, subject, "%s: now %s (was %s)", words, is, was);
}

static void
key_compare(struct changes *c, const char *subject, const char *key, const struct part *before,
            const struct part *after)
{
    static const char certificate[] = "certificate ";
    const char *was = before->count > 0 ? before->list[0].value : NULL;
    const char *is = after->count > 0 ? after->list[0].value : NULL;

    for (size_t i = 0; i < MG_ARRAY_LEN(sets); i++) {
        if (strcmp(sets[i].key, key) == 0) {
            set_compare(c, subject, i, before, after);
            return;
        }
    }
    if (strncmp(key, certificate, strlen(certificate)) == 0)
        certificate_compare(c, subject, key + strlen(certificate), was, is);
    else if (strcmp(key, "digest") != 0 && strcmp(key, "policy") != 0)
        value_compare(c, subject, key, was, is);
}

/* Says nothing of clients any more where the decision is made elsewhere. */
static bool
is_policy(const char *key)
{
    static const char *const keys[] = {"verification", "resumption"};

    for (size_t i = 0; i < MG_ARRAY_LEN(sets); i++)
        if (strcmp(sets[i].key, key) == 0)
            return strcmp(key, "address") != 0;
    for (size_t i = 0; i < MG_ARRAY_LEN(keys); i++)
        if (strcmp(keys[i], key) == 0)
            return true;
    return strncmp(key, "certificate ", strlen("certificate ")) == 0;
}

/* Whether the one decides itself and the other by names, a function or not at all. */
static bool
is_moved(const struct part *before, const struct part *after)
{
    const char *was = part_value(before, "is"), *is = part_value(after, "is");

    return was != NULL && is != NULL && strcmp(was, is) != 0 && strcmp(was, "plain") != 0 &&
           strcmp(is, "plain") != 0;
}

/* Facts of one subject each; the keys are in one order. */
static void
parts_compare(struct changes *c, const char *subject, struct part before, struct part after)
{
    const char *was = part_value(&before, "digest"), *is = part_value(&after, "digest");
    bool moved = is_moved(&before, &after);

    c->visible = false;
    while (before.count > 0 || after.count > 0) {
        int order = before.count == 0  ? 1
                    : after.count == 0 ? -1
                                       : strcmp(before.list->key, after.list->key);
        const char *key = order <= 0 ? before.list->key : after.list->key;
        struct part none = {before.list, 0};
        struct part old = order <= 0 ? part_take(&before, NULL, key) : none;
        struct part new = order >= 0 ? part_take(&after, NULL, key) : none;

        if (!(moved && is_policy(key)))
            key_compare(c, subject, key, &old, &new);
    }
    if (!c->visible && was != NULL && is != NULL && strcmp(was, is) != 0)
        change_add(c, subject, "TLS policy changed (CAs, CRLs, options or signature algorithms)");
}

/* Both policies' facts. */
struct pair {
    const struct facts *old, *new;
};

static void
subject_compare(struct changes *c, const struct pair *pair, const char *subject,
                const struct part *before, const struct part *after)
{
    const char *was = part_value(before, "policy"), *is = part_value(after, "policy");

    parts_compare(c, subject, *before, *after);
    if (was != NULL && is != NULL && strcmp(was, is) != 0)
        parts_compare(c, subject, part_find(pair->old, was), part_find(pair->new, is));
}

/* "listener web", "backend web" or "context web". */
static const char *
subject_words(const char *subject)
{
    return strncmp(subject, "backend ", strlen("backend ")) == 0 ||
                   strncmp(subject, "context ", strlen("context ")) == 0
               ? ""
               : "listener ";
}

static void
subject_gone(struct changes *c, const char *subject, const struct part *was,
             const struct facts *new)
{
    const char *listener = part_value(was, "listener");

    if (listener == NULL)
        change_add(c, "", "%s%s removed", subject_words(subject), subject);
    else if (part_find(new, listener).count > 0)
        change_add(c, subject, "no longer %s", part_value(was, "is"));
}

static void
subject_came(struct changes *c, const char *subject, const struct part *is, const struct facts *old)
{
    const char *listener = part_value(is, "listener");

    if (listener == NULL)
        change_add(c, "", "%s%s added", subject_words(subject), subject);
    else if (part_find(old, listener).count > 0)
        change_add(c, subject, "now %s", part_value(is, "is"));
}

static void
facts_compare(struct changes *c, const struct pair *pair)
{
    struct part before = {pair->old->list, pair->old->count};
    struct part after = {pair->new->list, pair->new->count};

    while (before.count > 0 || after.count > 0) {
        int order = before.count == 0  ? 1
                    : after.count == 0 ? -1
                                       : strcmp(before.list->subject, after.list->subject);
        const char *subject = order <= 0 ? before.list->subject : after.list->subject;
        struct part none = {before.list, 0};
        struct part was = order <= 0 ? part_take(&before, subject, NULL) : none;
        struct part is = order >= 0 ? part_take(&after, subject, NULL) : none;

        if (strncmp(subject, MG_FACTS_POLICY_MARK, strlen(MG_FACTS_POLICY_MARK)) == 0)
            continue; /* told of at the names that refer to it */
        if (order == 0)
            subject_compare(c, pair, subject, &was, &is);
        else if (order < 0)
            subject_gone(c, subject, &was, pair->new);
        else
            subject_came(c, subject, &is, pair->old);
    }
}

/* ---- lines ----------------------------------------------------------------------------------- */

#define LINES_MAX    100
#define SUBJECTS_MAX 5 /* named in one line */

struct change {
    const char *text, *subject;
    size_t order;
};

static int
change_order(const void *a, const void *b)
{
    const struct change *x = a, *y = b;
    int order = strcmp(x->text, y->text);

    return order != 0 ? order : x->order < y->order ? -1 : x->order > y->order;
}

static int
first_order(const void *a, const void *b)
{
    const struct change *const *x = a, *const *y = b;

    return (*x)->order < (*y)->order ? -1 : (*x)->order > (*y)->order;
}

/* Of "web: a.example" after "web: b.example" the listener is not said again. */
static size_t
shared_length(const char *before, const char *subject)
{
    const char *end = strstr(subject, ": ");
    size_t len = end != NULL ? (size_t)(end - subject) + 2 : 0;

    return strncmp(before, subject, len) == 0 ? len : 0;
}

/* One line for all that have changed alike: "a, b and 3 more: TLS 1.2 no longer offered". */
static void
group_print(const struct change *group, size_t count, struct mg_buf *out)
{
    for (size_t i = 0; i < count && i < SUBJECTS_MAX; i++)
        mg_buf_addf(out, "%s%s", i > 0 ? ", " : "",
                    group[i].subject +
                        (i > 0 ? shared_length(group[i - 1].subject, group[i].subject) : 0));
    if (count > SUBJECTS_MAX)
        mg_buf_addf(out, " and %zu more", count - SUBJECTS_MAX);
    mg_buf_addf(out, "%s%s\n", group->subject[0] != '\0' ? ": " : "", group->text);
}

static size_t
group_length(const struct change *list, size_t count)
{
    size_t len = 1;

    while (len < count && list[0].subject[0] != '\0' && strcmp(list[0].text, list[len].text) == 0)
        len++;
    return len;
}

/* In the order of the first of each group. -1: no memory. */
static int
changes_print(const struct changes *c, struct mg_buf *out)
{
    struct change *list = mg_calloc(c->count + 1, sizeof(*list));
    const struct change **firsts = mg_calloc(c->count + 1, sizeof(struct change *));
    size_t at = 0, groups = 0;

    if (list == NULL || firsts == NULL) {
        mg_free(list);
        mg_free(firsts);
        return -1;
    }
    for (size_t i = 0; i < c->count; i++) {
        list[i].text = c->lines->data + at;
        list[i].subject = list[i].text + strlen(list[i].text) + 1;
        list[i].order = i;
        at = (size_t)(list[i].subject - c->lines->data) + strlen(list[i].subject) + 1;
    }
    qsort(list, c->count, sizeof(*list), change_order);
    for (size_t i = 0; i < c->count; i += group_length(list + i, c->count - i))
        firsts[groups++] = &list[i];
    qsort(firsts, groups, sizeof(struct change *), first_order);
    for (size_t i = 0; i < groups && i < LINES_MAX; i++)
        group_print(firsts[i], group_length(firsts[i], c->count - (size_t)(firsts[i] - list)), out);
    if (groups > LINES_MAX)
        mg_buf_addf(out, "and %zu more changes\n", groups - LINES_MAX);
    mg_free(list);
    mg_free(firsts);
    return 0;
}

int
mg_facts_difference(const char *before, size_t before_len, const char *after, size_t after_len,
                    struct mg_buf *out, struct mg_err *err)
{
    struct facts old = {0}, new = {0};
    struct mg_buf lines = {0};
    struct changes changes = {.lines = &lines};
    int status = -1;

    if (facts_read(&old, before, before_len) == 0 && facts_read(&new, after, after_len) == 0) {
        facts_compare(&changes, &(struct pair){&old, &new});
        if (!lines.failed)
            status = changes_print(&changes, out);
    }
    facts_fini(&old);
    facts_fini(&new);
    mg_buf_free(&lines);
    if (status == 0 && !out->failed)
        return 0;
    mg_err_setx(err, "out of memory");
    return -1;
}

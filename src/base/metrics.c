/*
 * What has been counted of listeners and backends, by name.
 *
 * The happy path is: a config that begins to be used holds the names of its listeners and backends, counts by
 * pointer, and gives them back at its end. A later config with the same name holds the same numbers, so that they
 * only grow; what no config has any more is not shown, and its place is used for another name. All of it is in memory
 * that the workers share, each in a table of its own: the supervisor reads it without asking anybody, and
 * the successor of a worker that died goes on where that one had stopped.
 *
 * Possible failure modes are: a worker is killed while it writes – numbers are each true by themselves, a place
 * that was changing hands is cleared by the successor, and at worst a place for an address is lost; there are too many
 * names – what finds no place is counted together, as "(others)"; a worker writes nonsense – whoever
 * reads believes no index and no end of a text.
 */
#include "base/base.h"

#include <stdlib.h>
#include <string.h>

#define OTHERS "(others)"

/* ---- places ---------------------------------------------------------------------------------- */

static uint64_t
name_hash(enum mg_metric_kind kind, const char *name)
{
    uint64_t hash = mg_str_hash(name, strlen(name)) ^ (uint64_t)kind * 0x9e3779b97f4a7c15u;

    return hash != 0 ? hash : 1;
}

static void
place_open(struct mg_metric *metric)
{
    atomic_fetch_or(&metric->epoch, 1);
    atomic_thread_fence(memory_order_release); /* the text is no atomic */
}

static void
place_close(struct mg_metric *metric)
{
    atomic_fetch_add(&metric->epoch, 1);
}

static void
numbers_clear(struct mg_metric *metric)
{
    atomic_store(&metric->begun, 0);
    atomic_store(&metric->tries, 0);
    atomic_store(&metric->generation, 0);
    for (size_t i = 0; i < MG_METRICS_REASONS; i++)
        atomic_store(&metric->by[i], 0);
    atomic_store(&metric->next, 0);
    atomic_store(&metric->addresses, 0);
}

static void
place_take(struct mg_metric *metric, enum mg_metric_kind kind, const char *text)
{
    place_open(metric);
    numbers_clear(metric);
    mg_str_copy(metric->text, sizeof(metric->text), text);
    atomic_store(&metric->kind, kind);
    place_close(metric);
}

static void
addresses_give_back(struct mg_metrics *metrics, struct mg_metric *backend)
{
    uint32_t at = atomic_exchange(&backend->next, 0);

    for (size_t i = 0; i < MG_METRICS_EACH && at > 0 && at <= MG_METRICS_ADDRESSES; i++) {
        struct mg_metric *address = &metrics->address[at - 1];
        uint32_t next = atomic_load(&address->next);

        place_open(address);
        atomic_store(&address->kind, MG_METRIC_NONE);
        atomic_store(&address->next, atomic_load(&metrics->address_free));
        place_close(address);
        atomic_store(&metrics->address_free, at);
        at = next;
    }
}

static void
place_give_back(struct mg_metrics *metrics, struct mg_metric *metric)
{
    place_open(metric);
    if (atomic_exchange(&metric->by_function, 0) != 0)
        atomic_fetch_sub(&metrics->function_names, 1);
    addresses_give_back(metrics, metric);
    atomic_store(&metric->kind, MG_METRIC_NONE);
    numbers_clear(metric);
    place_close(metric);
}

static bool
is_held(const struct mg_metric *metric)
{
    return atomic_load(&metric->users) > 0;
}

/* Nobody has it, and nobody will go on with it. */
static bool
is_gone(const struct mg_metrics *metrics, const struct mg_metric *metric)
{
    return atomic_load(&metric->kind) == MG_METRIC_NONE ||
           (!is_held(metric) && atomic_load(&metrics->serving) != 0 &&
            atomic_load(&metric->by_function) == 0);
}

/* Its own place if it has one, else with `unused` the first that is nobody's; MG_METRICS_NAMES: none. */
static size_t
place_find(const struct mg_metrics *metrics, uint64_t hash, bool unused)
{
    size_t best = MG_METRICS_NAMES;

    for (size_t i = 0; i < MG_METRICS_NAMES; i++) {
        size_t at = (hash + i) % MG_METRICS_NAMES;
        uint64_t found = atomic_load(&metrics->hash[at]);

        if (found == hash)
            return at;
        if (unused && best == MG_METRICS_NAMES &&
            (found == 0 || is_gone(metrics, &metrics->name[at])))
            best = at;
        if (found == 0)
            break; /* no name was ever put behind it: hashes stay */
    }
    return best;
}

/* ---- holding --------------------------------------------------------------------------------- */

struct mg_metrics *
mg_metrics_begin(struct mg_shared *shared, unsigned worker)
{
    struct mg_metrics *metrics = &shared->metrics[worker];
    uint32_t by_functions = 0;

    atomic_store(&metrics->serving, 0);
    for (size_t i = 0; i < MG_METRICS_NAMES; i++) {
        struct mg_metric *metric = &metrics->name[i];

        if (atomic_load(&metrics->hash[i]) == 0)
            continue; /* its pages need not come to be */
        atomic_store(&metric->users, 0);
        if (atomic_load(&metric->epoch) % 2 != 0)
            place_give_back(metrics, metric);
        by_functions += atomic_load(&metric->by_function) != 0;
    }
    atomic_store(&metrics->function_names, by_functions);
    for (size_t i = 0; i < MG_ARRAY_LEN(metrics->others); i++)
        if (atomic_load(&metrics->others[i].kind) == MG_METRIC_NONE)
            place_take(&metrics->others[i], i == 0 ? MG_METRIC_LISTENER : MG_METRIC_BACKEND,
                       OTHERS);
    atomic_store(&shared->metrics_used[worker], 1);
    return metrics;
}

/* What was counted of a name that gives way is not lost. */
static void
others_take(struct mg_metric *others, const struct mg_metric *metric)
{
    atomic_fetch_add(&others->begun, atomic_load(&metric->begun));
    atomic_fetch_add(&others->tries, atomic_load(&metric->tries));
    for (size_t i = 0; i < MG_METRICS_REASONS; i++)
        atomic_fetch_add(&others->by[i], atomic_load(&metric->by[i]));
}

/* A name that a function has given makes room for another one if it is only kept. */
static bool
function_name_may(struct mg_metrics *metrics)
{
    if (atomic_load(&metrics->function_names) < MG_METRICS_FUNCTION_NAMES)
        return true;
    for (size_t i = 0; i < MG_METRICS_NAMES; i++) {
        struct mg_metric *metric = &metrics->name[i];

        if (atomic_load(&metrics->hash[i]) != 0 && atomic_load(&metric->by_function) != 0 &&
            !is_held(metric)) {
            others_take(&metrics->others[1], metric);
            place_give_back(metrics, metric);
            return true;
        }
    }
    return false;
}

static struct mg_metric *
others_hold(struct mg_metrics *metrics, enum mg_metric_kind kind)
{
    struct mg_metric *others = &metrics->others[kind == MG_METRIC_BACKEND];

    atomic_fetch_add(&others->users, 1);
    return others;
}

struct mg_metric *
mg_metrics_hold(struct mg_metrics *metrics, enum mg_metric_kind kind, const char *name,
                uint64_t generation, bool by_function)
{
    uint64_t hash = name_hash(kind, name);
    size_t at = place_find(metrics, hash, false);
    bool known = at < MG_METRICS_NAMES && !is_gone(metrics, &metrics->name[at]);
    struct mg_metric *metric;

    if (!known && by_function && !function_name_may(metrics))
        return others_hold(metrics, kind);
    if (!known)
        at = place_find(metrics, hash, true);
    if (at == MG_METRICS_NAMES)
        return others_hold(metrics, kind);
    metric = &metrics->name[at];
    if (!known) {
        if (atomic_load(&metric->kind) != MG_METRIC_NONE)
            place_give_back(metrics, metric);
        atomic_store(&metrics->hash[at], hash);
        place_take(metric, kind, name);
        if (by_function) {
            atomic_store(&metric->by_function, 1);
            atomic_fetch_add(&metrics->function_names, 1);
        }
    } else if (!by_function && atomic_exchange(&metric->by_function, 0) != 0) {
        atomic_fetch_sub(&metrics->function_names, 1); /* the script makes it itself now */
    }
    if (atomic_load(&metric->generation) < generation)
        atomic_store(&metric->generation, generation);
    atomic_fetch_add(&metric->users, 1);
    return metric;
}

void
mg_metrics_release(struct mg_metric *metric)
{
    atomic_fetch_sub(&metric->users, 1);
}

static struct mg_metric *
address_find(struct mg_metrics *metrics, const struct mg_metric *backend, const char *text)
{
    uint32_t at = atomic_load(&backend->next);

    for (size_t i = 0; i < MG_METRICS_EACH && at > 0 && at <= MG_METRICS_ADDRESSES; i++) {
        struct mg_metric *address = &metrics->address[at - 1];

        if (strncmp(address->text, text, MG_METRICS_TEXT_CAP - 1) == 0)
            return address;
        at = atomic_load(&address->next);
    }
    return NULL;
}

struct mg_metric *
mg_metrics_address(struct mg_metrics *metrics, struct mg_metric *backend, const char *text)
{
    struct mg_metric *address = address_find(metrics, backend, text);
    uint32_t at = atomic_load(&metrics->address_free);

    if (address != NULL)
        return address;
    if (atomic_load(&backend->addresses) >= MG_METRICS_EACH)
        return NULL;
    if (at > 0 && at <= MG_METRICS_ADDRESSES)
        atomic_store(&metrics->address_free, atomic_load(&metrics->address[at - 1].next));
    else if (atomic_load(&metrics->address_end) < MG_METRICS_ADDRESSES)
        at = atomic_fetch_add(&metrics->address_end, 1) + 1;
    else
        return NULL;
    address = &metrics->address[at - 1];
    place_take(address, MG_METRIC_ADDRESS, text);
    atomic_store(&address->next, atomic_load(&backend->next));
    atomic_fetch_add(&backend->addresses, 1);
    atomic_store(&backend->next, at);
    return address;
}

/* The last generation that has held the name, in whatever worker. */
static uint64_t
last_of(const struct mg_shared *shared, uint64_t hash)
{
    uint64_t last = 0;

    for (size_t i = 0; i < MG_SHARED_WORKERS; i++) {
        const struct mg_metrics *metrics = &shared->metrics[i];
        size_t at = atomic_load(&shared->metrics_used[i]) != 0 ? place_find(metrics, hash, false)
                                                               : MG_METRICS_NAMES;
        uint64_t of_it = at < MG_METRICS_NAMES && atomic_load(&metrics->name[at].kind) != 0
                             ? atomic_load(&metrics->name[at].generation)
                             : 0;

        last = of_it > last ? of_it : last;
    }
    return last;
}

/* What one worker alone forgot would make the sum smaller. */
void
mg_metrics_serve(struct mg_shared *shared, unsigned worker, uint64_t before)
{
    struct mg_metrics *metrics = &shared->metrics[worker];

    for (size_t i = 0; i < MG_METRICS_NAMES; i++) {
        struct mg_metric *metric = &metrics->name[i];
        uint64_t hash = atomic_load(&metrics->hash[i]);

        if (hash == 0 || is_held(metric) || atomic_load(&metric->kind) == MG_METRIC_NONE)
            continue;
        if (atomic_load(&metric->by_function) == 0 || last_of(shared, hash) < before)
            place_give_back(metrics, metric);
    }
    atomic_store(&metrics->serving, 1);
}

void
mg_metrics_leave(struct mg_metrics *metrics)
{
    atomic_store(&metrics->serving, 0);
}

unsigned
mg_metrics_reason(struct mg_metrics *metrics, const char *reason)
{
    uint32_t count = atomic_load(&metrics->reason_count);

    if (count > MG_METRICS_REASONS) /* the supervisor asks, too, of a worker that has died */
        count = MG_METRICS_REASONS;
    for (uint32_t i = 0; i < count; i++)
        if (strncmp(metrics->reason[i], reason, MG_METRICS_REASON_CAP - 1) == 0)
            return i;
    if (count >= MG_METRICS_REASONS)
        return MG_METRICS_REASONS - 1;
    mg_str_copy(metrics->reason[count], MG_METRICS_REASON_CAP,
                count == MG_METRICS_REASONS - 1 ? OTHERS : reason);
    atomic_store(&metrics->reason_count, count + 1);
    return count;
}

static uint64_t
ended_of(const struct mg_metric *metric)
{
    uint64_t ended = 0;

    for (size_t i = 0; i < MG_METRICS_REASONS; i++)
        ended += atomic_load(&metric->by[i]);
    return ended;
}

void
mg_metrics_forget(struct mg_shared *shared, unsigned worker, const char *reason)
{
    struct mg_metrics *metrics = &shared->metrics[worker];

    if (atomic_load(&shared->metrics_used[worker]) == 0)
        return;
    atomic_store(&metrics->serving, 0);
    for (size_t i = 0; i < MG_METRICS_NAMES + 1; i++) {
        struct mg_metric *metric = i < MG_METRICS_NAMES ? &metrics->name[i] : &metrics->others[0];
        uint64_t begun, ended;

        if (i < MG_METRICS_NAMES && atomic_load(&metrics->hash[i]) == 0)
            continue;
        atomic_store(&metric->users, 0);
        begun = atomic_load(&metric->begun);
        ended = ended_of(metric);
        if (atomic_load(&metric->kind) == MG_METRIC_LISTENER && begun > ended)
            atomic_fetch_add(&metric->by[mg_metrics_reason(metrics, reason)], begun - ended);
    }
}

/* ---- reading --------------------------------------------------------------------------------- */

/* What was read of a place while it did not change hands. */
struct reading {
    uint64_t begun, tries, by[MG_METRICS_REASONS];
    char text[MG_METRICS_TEXT_CAP];
};

static bool
place_read(const struct mg_metric *metric, enum mg_metric_kind kind, struct reading *out)
{
    uint32_t epoch = atomic_load(&metric->epoch);

    if (epoch % 2 != 0 || atomic_load(&metric->kind) != kind)
        return false;
    for (size_t i = 0; i < MG_METRICS_REASONS; i++) /* first: nothing ends that has not begun */
        out->by[i] = atomic_load(&metric->by[i]);
    out->tries = atomic_load(&metric->tries);
    out->begun = atomic_load(&metric->begun);
    memcpy(out->text, metric->text, sizeof(out->text));
    out->text[sizeof(out->text) - 1] = '\0';
    atomic_thread_fence(memory_order_acquire);
    return atomic_load(&metric->epoch) == epoch;
}

static void
reason_add(struct mg_metric_sum *sum, const char *text, uint64_t count)
{
    struct mg_metric_reason *row = sum->reasons;

    while (row < sum->reasons + sum->reason_count && strcmp(row->text, text) != 0)
        row++;
    if (row == sum->reasons + MG_METRICS_REASONS)
        row--;
    if (row == sum->reasons + sum->reason_count) {
        mg_str_copy(row->text, sizeof(row->text), text);
        row->count = 0;
        sum->reason_count++;
    }
    row->count += count;
}

static void
sum_add(struct mg_metric_sum *sum, const struct mg_metrics *metrics, const struct reading *reading)
{
    sum->begun += reading->begun;
    sum->tries += reading->tries;
    for (size_t i = 0; i < MG_METRICS_REASONS; i++) {
        char text[MG_METRICS_REASON_CAP];

        if (reading->by[i] == 0)
            continue;
        memcpy(text, metrics->reason[i], sizeof(text));
        text[sizeof(text) - 1] = '\0';
        sum->ended += reading->by[i];
        reason_add(sum, text, reading->by[i]);
    }
}

/* Whose tables count: one, or all that there are. */
struct tables {
    size_t count;
    const struct mg_metrics *table[MG_SHARED_WORKERS];
    bool served; /* some of them serve: only what those have is shown */
    enum mg_metric_kind kind;
    void (*visit)(const struct mg_metric_sum *sum, void *data);
    void *data;
    struct mg_metric_sum sum;
    struct reading reading;
};

static void
sum_begin(struct tables *all, enum mg_metric_kind kind, const char *text)
{
    all->sum.kind = kind;
    all->sum.begun = all->sum.tries = all->sum.ended = 0;
    all->sum.reason_count = 0;
    mg_str_copy(all->sum.text, sizeof(all->sum.text), text);
}

/* The name's place in that table, or NULL. */
static const struct mg_metric *
metric_find(const struct mg_metrics *metrics, uint64_t hash)
{
    size_t at = place_find(metrics, hash, false);

    return at < MG_METRICS_NAMES ? &metrics->name[at] : NULL;
}

static bool
is_shown(const struct tables *all, const struct mg_metrics *metrics, const struct mg_metric *metric)
{
    if (metric == NULL || atomic_load(&metric->kind) != all->kind)
        return false;
    return !all->served || (atomic_load(&metrics->serving) != 0 && !is_gone(metrics, metric));
}

static uint32_t
first_address(const struct mg_metrics *metrics, uint64_t hash)
{
    const struct mg_metric *metric = metric_find(metrics, hash);

    return metric != NULL && atomic_load(&metric->kind) == MG_METRIC_BACKEND
               ? atomic_load(&metric->next)
               : 0;
}

/* Of a backend's addresses, in whatever table. */
struct address_place {
    const struct mg_metrics *table;
    const struct mg_metric *metric;
    char text[MG_METRICS_TEXT_CAP]; /* a copy: what is shared may change while it is sorted */
};

static int
by_text(const void *a, const void *b)
{
    const struct address_place *left = a, *right = b;

    return strcmp(left->text, right->text);
}

static void
text_copy(char out[MG_METRICS_TEXT_CAP], const struct mg_metric *metric)
{
    memcpy(out, metric->text, MG_METRICS_TEXT_CAP);
    out[MG_METRICS_TEXT_CAP - 1] = '\0';
}

/* How many there are; with `out` no more than `room`. */
static size_t
addresses_gather(const struct tables *all, uint64_t hash, struct address_place *out, size_t room)
{
    size_t count = 0;

    for (size_t t = 0; t < all->count; t++) {
        const struct mg_metrics *table = all->table[t];
        uint32_t at = first_address(table, hash);

        for (size_t i = 0; i < MG_METRICS_EACH && at > 0 && at <= MG_METRICS_ADDRESSES; i++) {
            const struct mg_metric *metric = &table->address[at - 1];

            if (out != NULL && count == room)
                return count;
            if (out != NULL) {
                out[count] = (struct address_place){.table = table, .metric = metric};
                text_copy(out[count].text, metric);
            }
            count++;
            at = atomic_load(&metric->next);
        }
    }
    return count;
}

/* Of the backend of that hash. Without memory they are left out. */
static void
addresses_visit(struct tables *all, uint64_t hash)
{
    size_t room = addresses_gather(all, hash, NULL, 0);
    struct address_place *places = room > 0 ? mg_calloc(room, sizeof(*places)) : NULL;
    size_t count = places != NULL ? addresses_gather(all, hash, places, room) : 0;

    if (count > 1)
        qsort(places, count, sizeof(*places), by_text);
    for (size_t i = 0, next; i < count; i = next) {
        bool found = false;

        for (next = i; next < count && strcmp(places[next].text, places[i].text) == 0; next++) {
            if (!place_read(places[next].metric, MG_METRIC_ADDRESS, &all->reading))
                continue;
            if (!found)
                sum_begin(all, MG_METRIC_ADDRESS, all->reading.text);
            found = true;
            sum_add(&all->sum, places[next].table, &all->reading);
        }
        if (found)
            all->visit(&all->sum, all->data);
    }
    mg_free(places);
}

static void
name_visit(struct tables *all, uint64_t hash)
{
    sum_begin(all, all->kind, "");
    for (size_t t = 0; t < all->count; t++) {
        const struct mg_metric *metric = metric_find(all->table[t], hash);

        if (metric == NULL || !place_read(metric, all->kind, &all->reading))
            continue;
        sum_add(&all->sum, all->table[t], &all->reading);
        mg_str_copy(all->sum.text, sizeof(all->sum.text), all->reading.text);
    }
    if (all->sum.text[0] == '\0')
        return;
    all->visit(&all->sum, all->data);
    if (all->kind == MG_METRIC_BACKEND)
        addresses_visit(all, hash);
}

static void
others_visit(struct tables *all)
{
    sum_begin(all, all->kind, OTHERS);
    for (size_t t = 0; t < all->count; t++)
        if (place_read(&all->table[t]->others[all->kind == MG_METRIC_BACKEND], all->kind,
                       &all->reading))
            sum_add(&all->sum, all->table[t], &all->reading);
    if (all->sum.begun > 0)
        all->visit(&all->sum, all->data);
}

/* A name that is shown. */
struct shown {
    uint64_t hash;
    bool by_function;
    char text[MG_METRICS_TEXT_CAP];
};

/* What the script has made first. */
static int
by_name(const void *a, const void *b)
{
    const struct shown *left = a, *right = b;

    if (left->by_function != right->by_function)
        return left->by_function ? 1 : -1;
    return strcmp(left->text, right->text);
}

/* Of that place, which is one that an earlier table does not show. */
static bool
is_first(const struct tables *all, size_t table, size_t at, uint64_t *hash)
{
    *hash = atomic_load(&all->table[table]->hash[at]);
    if (*hash == 0 || !is_shown(all, all->table[table], &all->table[table]->name[at]))
        return false;
    for (size_t t = 0; t < table; t++)
        if (is_shown(all, all->table[t], metric_find(all->table[t], *hash)))
            return false;
    return true;
}

/* How many there are; with `out` no more than `room`. */
static size_t
names_gather(const struct tables *all, struct shown *out, size_t room)
{
    size_t count = 0;
    uint64_t hash;

    for (size_t t = 0; t < all->count; t++)
        for (size_t i = 0; i < MG_METRICS_NAMES; i++) {
            const struct mg_metric *metric = &all->table[t]->name[i];

            if (!is_first(all, t, i, &hash))
                continue;
            if (out != NULL && count == room)
                return count;
            if (out != NULL) {
                out[count].hash = hash;
                out[count].by_function = atomic_load(&metric->by_function) != 0;
                text_copy(out[count].text, metric);
            }
            count++;
        }
    return count;
}

void
mg_metrics_each(const struct mg_shared *shared, unsigned worker, enum mg_metric_kind kind,
                void (*visit)(const struct mg_metric_sum *sum, void *data), void *data)
{
    struct tables all = {.kind = kind, .visit = visit, .data = data};
    struct shown *shown;
    size_t room, count;

    for (unsigned i = 0; i < MG_SHARED_WORKERS; i++) {
        if ((worker != MG_SHARED_WORKERS && worker != i) ||
            atomic_load(&shared->metrics_used[i]) == 0)
            continue;
        all.table[all.count++] = &shared->metrics[i];
        all.served = all.served || atomic_load(&shared->metrics[i].serving) != 0;
    }
    room = names_gather(&all, NULL, 0);
    shown = room > 0 ? mg_calloc(room, sizeof(*shown)) : NULL; /* without memory none are */
    count = shown != NULL ? names_gather(&all, shown, room) : 0;
    if (count > 1)
        qsort(shown, count, sizeof(*shown), by_name);
    for (size_t i = 0; i < count; i++)
        name_visit(&all, shown[i].hash);
    mg_free(shown);
    others_visit(&all);
}

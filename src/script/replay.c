/*
 * Recent clients against a new policy: each ClientHello of the ring is shown to the context that the new
 * generation's listener of the same name would choose for it, by its names where it has some. Runs on the
 * thread that builds; nothing of the script's is called.
 */
#include "script/internal.h"

#include <string.h>

/* The thread's CPU time: as many are tried on a busy machine. */
#define BUDGET_NS 2000000000ull
#define MEMO_SIZE 4096u /* a power of 2 */

/* Hellos of one kind fare alike with one context. */
struct memo {
    const SSL_CTX *ctx; /* NULL: a free place */
    uint64_t kind;
    enum verdict { FINE, FAILS, NOT_ASKED } verdict;
    unsigned reason; /* of FAILS: index */
};

struct replay {
    struct mg_config *config;
    struct mg_replay *out;
    struct memo *memos;
    unsigned memo_count;
};

static const struct mg_listener *
listener_find(const struct mg_config *config, uint64_t hash)
{
    for (size_t i = 0; i < config->listener_count; i++) {
        const char *name = config->listeners[i].name;

        if (mg_str_hash(name, strlen(name)) == hash)
            return &config->listeners[i];
    }
    return NULL;
}

/* What the listener would choose for this hello, as far as nobody is to be asked; its context is borrowed. */
static struct mg_target
target_choose(const struct mg_listener *l, const struct mg_hello *hello)
{
    const struct mg_target *found;
    const char *pattern;

    if (l->names == NULL)
        return (struct mg_target){
            .kind = MG_TARGET_TERMINATE, .tls = l->tls, .asks_hello = l->hello_asked};
    found = mg_names_find(l->names, hello->servername.data, hello->servername.len, &pattern);
    return found != NULL ? *found : (struct mg_target){.kind = MG_TARGET_REFUSE};
}

/* The index of the reason, which is added if there is room; else the last one, "other reasons". */
static unsigned
reason_find(struct mg_replay *out, const char *text)
{
    unsigned i = 0;

    while (i < out->reason_count && strcmp(out->reasons[i].text, text) != 0)
        i++;
    if (i < out->reason_count)
        return i;
    if (i == MG_REPLAY_REASONS)
        return MG_REPLAY_REASONS - 1;
    out->reason_count++;
    mg_str_copy(out->reasons[i].text, sizeof(out->reasons[i].text),
                i == MG_REPLAY_REASONS - 1 ? "other reasons" : text);
    return i;
}

static struct memo
hello_try(struct replay *r, SSL_CTX *ctx, const struct mg_hello *hello)
{
    struct memo result = {.ctx = ctx, .kind = mg_hello_kind(hello), .verdict = FINE};
    char reason[sizeof(r->out->reasons[0].text)];
    struct mg_err why;

    if (mg_hello_replay(ctx, hello->raw.data, hello->raw.len, &why))
        return result;
    if (strstr(why.text, MG_NOT_RUN) != NULL) {
        result.verdict = NOT_ASKED;
        return result;
    }
    mg_str_copy(reason, sizeof(reason), why.text);
    result.verdict = FAILS;
    result.reason = reason_find(r->out, reason);
    return result;
}

static struct memo
hello_judge(struct replay *r, SSL_CTX *ctx, const struct mg_hello *hello)
{
    uint64_t kind = mg_hello_kind(hello);
    uintptr_t place = (uintptr_t)kind ^ (uintptr_t)ctx >> 4;
    struct memo result;

    while (r->memos[place % MEMO_SIZE].ctx != NULL) {
        const struct memo *memo = &r->memos[place++ % MEMO_SIZE];

        if (memo->ctx == ctx && memo->kind == kind)
            return *memo;
    }
    result = hello_try(r, ctx, hello);
    if (r->memo_count < MEMO_SIZE / 2) {
        r->memos[place % MEMO_SIZE] = result;
        r->memo_count++;
    }
    return result;
}

static struct memo
target_judge(struct replay *r, const struct mg_target *target, const struct mg_hello *hello)
{
    if (target->kind == MG_TARGET_PASS) /* its handshake is another server's */
        return (struct memo){.verdict = FINE};
    if (target->kind == MG_TARGET_REFUSE)
        return (struct memo){.verdict = FAILS, .reason = reason_find(r->out, "unrecognized name")};
    if (target->tls == NULL) /* a tls function decides */
        return (struct memo){.verdict = NOT_ASKED};
    return hello_judge(r, target->tls, hello);
}

/* Returns false where the hello is nobody's any more. */
static bool
hello_replay(struct replay *r, const struct mg_ring_hello *one, bool *refused)
{
    const struct mg_listener *l = listener_find(r->config, one->listener);
    struct mg_target target;
    struct mg_hello hello;
    struct memo result;

    *refused = false;
    if (l == NULL || (l->tls == NULL && l->names == NULL && !l->hello_asked))
        return false;
    r->out->total++;
    if (mg_hello_parse(one->data, one->len, &hello) != MG_HELLO_COMPLETE)
        return true; /* libssl was more patient than we are; it is nothing new, though */
    target = target_choose(l, &hello);
    result = target_judge(r, &target, &hello);
    /* servername_cb is asked only where there is a name. */
    if (result.verdict == NOT_ASKED || (target.asks_hello && hello.servername.data != NULL))
        r->out->not_asked++;
    if (result.verdict != FAILS)
        return true;
    *refused = true;
    if (one->accepted) {
        r->out->failing++;
        r->out->reasons[result.reason].count++;
    }
    return true;
}

int
mg_script_replay(struct mg_config *config, struct mg_ring *ring, struct mg_replay *out,
                 struct mg_err *err)
{
    struct replay r = {.config = config, .out = out};
    struct mg_script *s = config->policy_data;
    uint64_t deadline = mg_thread_cpu_ns() + BUDGET_NS, number = 0;
    struct mg_ring_hello one;
    bool refused;

    *out = (struct mg_replay){0};
    r.memos = mg_calloc(MEMO_SIZE, sizeof(*r.memos));
    if (r.memos == NULL) {
        mg_err_setx(err, "out of memory");
        return -1;
    }
    s->proving = true;
    while (mg_ring_next(ring, &number, &one)) {
        if (mg_thread_cpu_ns() >= deadline)
            out->late++;
        else if (hello_replay(&r, &one, &refused) && refused)
            mg_ring_refuse(ring, one.number, config->generation);
    }
    s->proving = false;
    mg_free(r.memos);
    return 0;
}

/* The proof of a ServerNames: its contexts, and which names lead to which of them. */
#include "script/internal.h"

#include <string.h>

/* Whether names have such a target. */
static bool
names_have(const struct mg_names *names, enum mg_target_kind kind)
{
    const struct mg_target *target;

    for (size_t i = 0; (target = mg_names_target_at(names, i)) != NULL; i++)
        if (target->kind == kind)
            return true;
    return false;
}

/* Entries by the index of a target; NULL where there is none. */
static void
places_fill(struct mg_proof *proof, size_t first, const struct mg_names *names,
            struct mg_proof_entry **places)
{
    struct mg_proof_entry *others[] = {NULL, NULL, NULL}; /* by outcome */
    const struct mg_target *target;
    size_t next = first;

    for (size_t i = first; i < proof->entry_count; i++)
        if (proof->entries[i].outcome != MG_TARGET_TERMINATE)
            others[proof->entries[i].outcome] = &proof->entries[i];
    for (size_t i = 0; (target = mg_names_target_at(names, i)) != NULL; i++) {
        if (target->kind != MG_TARGET_TERMINATE)
            places[i] = others[target->kind];
        else if (next < proof->entry_count && proof->entries[next].server == target->tls)
            places[i] = &proof->entries[next++];
    }
}

static void
served_add(struct mg_proof_entry **places, const struct mg_names *names,
           const struct mg_target *target, const char *name)
{
    struct mg_proof_entry *entry =
        target != NULL ? places[target - mg_names_target_at(names, 0)] : NULL;

    if (entry != NULL)
        mg_buf_add(&entry->served, name, strlen(name) + 1);
}

/* The entries from `first` on are those of these names. -1: no memory. */
static int
served_fill(struct mg_proof *proof, size_t first, const struct mg_names *names)
{
    struct mg_proof_entry **places =
        mg_calloc(mg_names_target_count(names) + 1, sizeof(struct mg_proof_entry *));
    const struct mg_target *target;
    const char *name;
    size_t cursor = 0;

    if (places == NULL)
        return -1;
    places_fill(proof, first, names, places);
    while ((name = mg_names_next(names, &cursor, &target)) != NULL)
        served_add(places, names, target, name);
    target = mg_names_find(names, NULL, 0, &name);
    served_add(places, names, target, name);
    target = mg_names_find(names, "", 0, &name);
    served_add(places, names, target, name);
    mg_free(places);
    for (size_t i = first; i < proof->entry_count; i++)
        if (proof->entries[i].served.failed)
            return -1;
    return 0;
}

void
mg_proof_contexts_push(lua_State *L)
{
    lua_getiuservalue(L, -1, 1);
    lua_rawgeti(L, -1, MG_SERVERNAMES_CONTEXTS);
}

/* An entry for the names that end so, if there are such. */
static void
outcome_add(lua_State *L, struct mg_proof *proof, int object, enum mg_target_kind outcome)
{
    struct mg_proof_entry *entry = &proof->entries[proof->entry_count];

    mg_proof_entry_add(L, proof, false, object, object + 1);
    entry->by_name = true;
    entry->outcome = outcome;
    if (outcome == MG_TARGET_PASS)
        mg_proof_unproved(entry, "what is passed through");
}

void
mg_proof_names_add(lua_State *L, struct mg_proof *proof, int object, const struct mg_names *names)
{
    static const struct mg_target refused = {.kind = MG_TARGET_REFUSE};
    static const enum mg_target_kind others[] = {MG_TARGET_PASS, MG_TARGET_REFUSE};
    const struct mg_target *only = NULL;
    size_t first = proof->entry_count;
    const char *pattern = "default";
    int list;

    if (proof->sni != NULL) {
        only = mg_names_find(names, proof->sni, strlen(proof->sni), &pattern);
        only = only != NULL ? only : &refused;
    }
    mg_proof_contexts_push(L);
    list = lua_gettop(L);
    for (lua_Integer i = 1; lua_rawgeti(L, list, i) != LUA_TNIL; i++) {
        if (only == NULL || only->tls == mg_ssl_context_test(L, list + 1)) {
            mg_proof_entry_add(L, proof, false, object, list + 1);
            proof->entries[proof->entry_count - 1].by_name = true;
        }
        lua_settop(L, list);
    }
    for (size_t i = 0; i < MG_ARRAY_LEN(others); i++)
        if (only != NULL ? only->kind == others[i] : names_have(names, others[i]))
            outcome_add(L, proof, object, others[i]);
    if (proof->entry_count == first) /* of no names at all */
        outcome_add(L, proof, object, MG_TARGET_REFUSE);
    if (served_fill(proof, first, names) != 0)
        luaL_error(L, "out of memory");
    for (size_t i = first; i < proof->entry_count; i++)
        if (mg_proof_cover(proof, &proof->entries[i]) != 0)
            luaL_error(L, "out of memory");
    if (proof->entries[first].outcome == MG_TARGET_REFUSE && proof->entries[first].served.len == 0)
        mg_buf_add(&proof->entries[first].served, pattern, strlen(pattern) + 1);
}

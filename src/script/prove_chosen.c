/*
 * The proof of contexts that no listener has: where a tls function or a servername_cb chooses, the script holds what it
 * chooses from. Those that have a certificate are there for clients; which listener they belong to only the function
 * knows.
 */
#include "script/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Pushes the list of all contexts that the script holds. */
static void
contexts_push(lua_State *L)
{
    if (lua_getfield(L, LUA_REGISTRYINDEX, MG_OTHERS) == LUA_TTABLE)
        mg_ssl_contexts_list_push(L, -1);
    else
        mg_ssl_contexts_list_push(L, 0);
    lua_remove(L, -2);
}

size_t
mg_proof_chosen_count(lua_State *L)
{
    size_t count;

    contexts_push(L);
    count = lua_rawlen(L, -1);
    lua_pop(L, 1);
    return count;
}

static int
pointer_order(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t) * (void *const *)a, y = (uintptr_t) * (void *const *)b;

    return x < y ? -1 : x > y;
}

/* Pushes the sorted pointers to contexts that have an entry. */
static const void **
proved_push(lua_State *L, const struct mg_proof *proof)
{
    const void **proved = lua_newuserdatauv(L, (proof->entry_count + 1) * sizeof(*proved), 0);

    for (size_t i = 0; i < proof->entry_count; i++)
        proved[i] = proof->entries[i].server;
    qsort(proved, proof->entry_count, sizeof(*proved), pointer_order);
    return proved;
}

static void
context_add(lua_State *L, struct mg_proof *proof, int context)
{
    struct mg_proof_entry *entry = &proof->entries[proof->entry_count++];
    struct mg_ssl_context_facts facts;
    int top = lua_gettop(L);

    entry->is_chosen = entry->tls = true;
    entry->outcome = MG_TARGET_TERMINATE;
    lua_getiuservalue(L, context, 1);
    if (lua_getfield(L, -1, "where") == LUA_TSTRING)
        snprintf(entry->where, sizeof(entry->where), "%s ", lua_tostring(L, -1));
    mg_ssl_context_facts(L, context, &facts);
    entry->name =
        mg_strdup(facts.name[0] != '\0' ? lua_pushfstring(L, "context %s", facts.name)
                                        : mg_ssl_context_label_push(L, context) + strlen("the "));
    entry->addresses = mg_strdup("");
    if (entry->name == NULL || entry->addresses == NULL)
        luaL_error(L, "out of memory");
    mg_proof_context(L, proof, entry, context);
    lua_settop(L, top);
}

void
mg_proof_chosen_prove(lua_State *L, struct mg_proof *proof)
{
    size_t count = proof->entry_count;
    const void **proved;
    int list;

    if (!proof->functions_choose)
        return;
    proved = proved_push(L, proof);
    contexts_push(L);
    list = lua_gettop(L);
    for (lua_Integer i = 1; lua_rawgeti(L, list, i) != LUA_TNIL; i++) {
        const void *ctx = mg_ssl_context_test(L, list + 1);

        if (SSL_CTX_get0_certificate(mg_ssl_context_test(L, list + 1)) != NULL &&
            bsearch(&ctx, proved, count, sizeof(*proved), pointer_order) == NULL)
            context_add(L, proof, list + 1);
        lua_settop(L, list);
    }
    lua_settop(L, list - 2);
}

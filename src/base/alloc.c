/* Allocation. Test builds can make the n-th one fail, so that every error path is walked. */
#include "base/base.h"

#include <stdlib.h>
#include <string.h>

#ifdef MG_FAULTS
static _Atomic long fault_countdown;
static _Atomic long fault_count;

void
mg_alloc_fail_at(long n)
{
    atomic_store(&fault_count, 0);
    atomic_store(&fault_countdown, n);
}

long
mg_alloc_count(void)
{
    return atomic_load(&fault_count);
}

static bool
fault_due(void)
{
    atomic_fetch_add(&fault_count, 1);
    return atomic_load(&fault_countdown) > 0 && atomic_fetch_sub(&fault_countdown, 1) == 1;
}
#else
void
mg_alloc_fail_at(long n)
{
    (void)n;
}

long
mg_alloc_count(void)
{
    return 0;
}

static inline bool
fault_due(void)
{
    return false;
}
#endif

void *
mg_malloc(size_t size)
{
    return fault_due() ? NULL : malloc(size > 0 ? size : 1);
}

void *
mg_calloc(size_t count, size_t size)
{
    return fault_due() ? NULL : calloc(count > 0 ? count : 1, size > 0 ? size : 1);
}

void *
mg_realloc(void *old, size_t size)
{
    return fault_due() ? NULL : realloc(old, size > 0 ? size : 1);
}

char *
mg_strndup(const char *text, size_t len)
{
    len = strnlen(text, len);
    char *copy = mg_malloc(len + 1);
    if (copy == NULL)
        return NULL;
    memcpy(copy, text, len);
    copy[len] = '\0';
    return copy;
}

char *
mg_strdup(const char *text)
{
    return mg_strndup(text, strlen(text));
}

void
mg_free(void *ptr)
{
    free(ptr);
}

void
mg_wipe(void *ptr, size_t size)
{
    if (ptr == NULL || size == 0)
        return;
    memset(ptr, 0, size);
    __asm__ volatile("" : : "r"(ptr) : "memory"); /* the store above has a reader */
}

void
mg_free_secret(void *ptr, size_t size)
{
    mg_wipe(ptr, size);
    mg_free(ptr);
}

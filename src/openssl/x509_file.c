/* Which file a certificate was read from, for those who must mend it: kept with OpenSSL's object, so
 * that it comes along wherever that goes. */
#include "openssl/internal.h"

#include <pthread.h>

static int file_index = -1;
static pthread_once_t index_once = PTHREAD_ONCE_INIT;

static int
on_dup(CRYPTO_EX_DATA *to MG_UNUSED, const CRYPTO_EX_DATA *from MG_UNUSED, void **data,
       int index MG_UNUSED, long argl MG_UNUSED, void *argp MG_UNUSED)
{
    if (*data)
        *data = mg_strdup(*data); /* without memory nobody knows the file */
    return 1;
}

static void
on_free(void *parent MG_UNUSED, void *file, CRYPTO_EX_DATA *data MG_UNUSED, int index MG_UNUSED,
        long argl MG_UNUSED, void *argp MG_UNUSED)
{
    mg_free(file);
}

static void
index_make(void)
{
    file_index = X509_get_ex_new_index(0, NULL, NULL, on_dup, on_free);
}

void
mg_x509_note_file(X509 *x509, const char *path)
{
    pthread_once(&index_once, index_make);
    if (file_index < 0 || X509_get_ex_data(x509, file_index))
        return;
    char *copy = mg_strdup(path);
    if (copy && !X509_set_ex_data(x509, file_index, copy))
        mg_free(copy);
}

const char *
mg_x509_file(const X509 *x509)
{
    return file_index < 0 ? NULL : X509_get_ex_data(x509, file_index);
}

void
mg_x509_note_files(lua_State *L, int list, const char *path)
{
    list = lua_absindex(L, list);
    for (lua_Integer i = 1; lua_rawgeti(L, list, i) != LUA_TNIL; i++) {
        mg_x509_note_file(mg_x509_test(L, -1), path);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* Algorithms that handshakes use, looked up in OpenSSL's providers once and kept as long as the process.
 * Where that fails OpenSSL may still find them by itself. */
#include "tls/internal.h"

#include <openssl/err.h>
#include <pthread.h>

static EVP_MD *sha256;
static EVP_CIPHER *aes_256_cbc;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void
fetch(void)
{
    ERR_set_mark();
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    aes_256_cbc = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL);
    ERR_pop_to_mark();
}

const EVP_MD *
mg_tls_sha256(void)
{
    pthread_once(&once, fetch);
    return sha256 != NULL ? sha256 : EVP_sha256();
}

const EVP_CIPHER *
mg_tls_aes_256_cbc(void)
{
    pthread_once(&once, fetch);
    return aes_256_cbc != NULL ? aes_256_cbc : EVP_aes_256_cbc();
}

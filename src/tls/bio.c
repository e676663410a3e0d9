/*
 * The BIO between libssl and the buffers of the current call. It owns nothing and knows its connection
 * only during a call, so that one does for all: between calls conn->io is NULL and it answers "try again". libssl needs exactly one control, FLUSH; answering 1
 * to others would claim things that are not so (EOF, kernel TLS).
 */
#include "tls/internal.h"

#include <openssl/bio.h>
#include <pthread.h>
#include <string.h>

static BIO_METHOD *method;
static pthread_once_t method_once = PTHREAD_ONCE_INIT;

static int
bio_read(BIO *bio, char *buf, int len)
{
    struct mg_tls_conn *conn = BIO_get_data(bio);
    struct mg_tls_io *io = conn->io;
    size_t n;

    BIO_clear_retry_flags(bio);
    if (len <= 0)
        return 0;
    if (io == NULL || io->in_used == io->in_len || conn->flood != MG_TLS_FLOOD_NONE) {
        BIO_set_retry_read(bio);
        return -1;
    }
    n = io->in_len - io->in_used;
    if (n > (size_t)len)
        n = (size_t)len;
    memcpy(buf, io->in + io->in_used, n);
    io->in_used += n;
    /* libssl asks for a header, then for a body, each whole. */
    if (n == (size_t)len && conn->handshake_done && ++conn->quiet > MG_TLS_QUIET_MAX)
        conn->flood = MG_TLS_FLOOD_QUIET;
    return (int)n;
}

static int
bio_write(BIO *bio, const char *buf, int len)
{
    struct mg_tls_conn *conn = BIO_get_data(bio);
    struct mg_tls_io *io = conn->io;
    size_t n;

    BIO_clear_retry_flags(bio);
    if (len <= 0)
        return 0;
    if (io == NULL || io->out_len == io->out_cap) {
        BIO_set_retry_write(bio);
        return -1;
    }
    n = io->out_cap - io->out_len;
    if (n > (size_t)len)
        n = (size_t)len;
    memcpy(io->out + io->out_len, buf, n);
    io->out_len += n;
    return (int)n;
}

static long
bio_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
    (void)bio;
    (void)num;
    (void)ptr;
    return cmd == BIO_CTRL_FLUSH;
}

static int
bio_create(BIO *bio)
{
    BIO_set_init(bio, 1);
    return 1;
}

/* Lives as long as the process: connections of every generation use it. */
static void
method_make(void)
{
    BIO_METHOD *made =
        BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "moongate connection");

    if (made == NULL)
        return;
    if (BIO_meth_set_read(made, bio_read) && BIO_meth_set_write(made, bio_write) &&
        BIO_meth_set_ctrl(made, bio_ctrl) && BIO_meth_set_create(made, bio_create))
        method = made;
    else
        BIO_meth_free(made);
}

BIO *
mg_tls_bio_new(void)
{
    pthread_once(&method_once, method_make);
    return method != NULL ? BIO_new(method) : NULL;
}

BIO *
mg_tls_bio_shared(void)
{
    static BIO *shared;

    if (shared == NULL)
        shared = mg_tls_bio_new();
    return shared != NULL && BIO_up_ref(shared) == 1 ? shared : NULL;
}

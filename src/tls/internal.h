/* What the files of tls/ share with each other only. */
#ifndef MG_TLS_INTERNAL_H
#define MG_TLS_INTERNAL_H

#include "tls/tls.h"

/*
 * Empties OpenSSL's queue and writes the last entry as "reason (data)"; returns its packed code, or
 * 0 with an empty text when the queue was empty.
 */
unsigned long mg_tls_err_drain(char *out, size_t cap);

/* A BIO that reads and writes the io of the conn that is its data; owned by the caller until SSL_set_bio. */
BIO *mg_tls_bio_new(void);

/* One for all connections that one thread serves, which is the only one to call this: a reference of the
 * caller's, or NULL. It lives as long as the process. */
BIO *mg_tls_bio_shared(void);

#endif

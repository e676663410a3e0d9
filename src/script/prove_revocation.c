/* What a proof says of CRLs and OCSP responses: those that nobody can go by. */
#include "script/internal.h"

#include <string.h>

int
mg_proof_revocation(struct mg_proof *proof, const char *who, SSL_CTX *ctx,
                    const struct mg_ssl_context_facts *facts, struct mg_err *err)
{
    struct mg_buf faults = {0};
    int rc = mg_ssl_context_faults(ctx, &faults);

    if (rc != 0)
        mg_err_setx(err, "out of memory");
    for (size_t at = 0; rc == 0 && at < faults.len; at += strlen(faults.data + at) + 1)
        mg_proof_warn(proof, "%s: %s", who, faults.data + at);
    mg_buf_free(&faults);
    if (rc == 0 && facts->has_crls && facts->verify_mode == SSL_VERIFY_NONE)
        mg_proof_warn(proof,
                      "%s: there are CRLs, but verify_mode is VERIFY_NONE: nobody is refused", who);
    return rc;
}

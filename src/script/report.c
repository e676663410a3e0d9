/* The proof's result as a table for people and as JSON for programs. */
#include "script/internal.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---- text ----------------------------------------------------------------------------------- */

enum { COLUMNS = 7 };

/* Cells of the table, row by row, each with a NUL; the last column is not padded. */
struct table {
    struct mg_buf cells;
    size_t widths[COLUMNS];
    size_t filled; /* columns of the current row */
};

/* Characters, not bytes, of UTF-8. */
static size_t
text_width(const char *text)
{
    size_t width = 0;

    for (; *text != '\0'; text++)
        width += ((unsigned char)*text & 0xC0) != 0x80;
    return width;
}

static void
cell_add(struct table *t, const char *text)
{
    size_t column = t->filled++ % COLUMNS;
    size_t width = text_width(text);

    if (width > t->widths[column])
        t->widths[column] = width;
    mg_buf_add(&t->cells, text, strlen(text) + 1);
}

static void
table_print(const struct table *t, struct mg_buf *out)
{
    size_t column = 0;

    for (size_t at = 0; at < t->cells.len; at += strlen(t->cells.data + at) + 1) {
        const char *text = t->cells.data + at;

        mg_buf_adds(out, text);
        if (++column == COLUMNS) {
            while (out->len > 0 && !out->failed && out->data[out->len - 1] == ' ')
                out->data[--out->len] = '\0';
            mg_buf_adds(out, "\n");
            column = 0;
        } else {
            mg_buf_addf(out, "%*s", (int)(t->widths[column - 1] - text_width(text) + 2), "");
        }
    }
}

static const char *
version_text(const struct mg_proof_cell *cell)
{
    return !cell->enabled ? "off" : cell->ok ? "ok" : "FAILED";
}

/* The names of a certificate, the first few of many. */
static void
names_text(const struct mg_buf *names, char *out, size_t cap)
{
    size_t len = 0;

    out[0] = '\0';
    for (size_t at = 0; at < names->len; at += strlen(names->data + at) + 1) {
        int n = snprintf(out + len, cap - len, "%s%s", len > 0 ? ", " : "", names->data + at);

        if (n < 0 || (size_t)n >= cap - len) {
            snprintf(out + (len < cap - 8 ? len : cap - 8), 8, ", ...");
            return;
        }
        len += (size_t)n;
    }
}

static void
row_add(struct table *t, const struct mg_proof_entry *e, const struct mg_proof_certificate *c,
        bool first)
{
    char text[200];

    cell_add(t, first ? e->name : "");
    cell_add(t, !first ? "" : e->is_chosen ? "for functions" : e->addresses);
    snprintf(text, sizeof(text), "%s %d", c->type, c->bits);
    cell_add(t, text);
    for (int v = 0; v < MG_PROOF_VERSIONS; v++)
        cell_add(t, version_text(&c->cells[v]));
    snprintf(text, sizeof(text), "%d", c->days_left);
    cell_add(t, text);
    names_text(first && e->by_name ? &e->served : &c->names, text, sizeof(text));
    cell_add(t, text[0] != '\0' ? text : c->subject);
}

/* A listener without TLS or without certificates, or a backend. */
static void
bare_row_add(struct table *t, const struct mg_proof_entry *e)
{
    static const char *const outcomes[] = {
        [MG_TARGET_REFUSE] = "refused",
        [MG_TARGET_TERMINATE] = "none",
        [MG_TARGET_PASS] = "passed through",
    };
    bool has_versions = e->tls && e->outcome == MG_TARGET_TERMINATE && !e->is_asked;
    char text[200];

    cell_add(t, e->name);
    cell_add(t, e->addresses);
    cell_add(t, !e->tls         ? "plain"
                : e->is_backend ? "client"
                : e->is_asked   ? "by function"
                                : outcomes[e->outcome]);
    for (int v = 0; v < MG_PROOF_VERSIONS; v++)
        cell_add(t, !has_versions ? "" : e->enabled[v] ? "on" : "off");
    cell_add(t, "");
    names_text(&e->served, text, sizeof(text));
    cell_add(t, text);
}

static void
entries_print(const struct mg_proof *proof, bool backends, struct mg_buf *out)
{
    static const char *const heads[COLUMNS] = {
        "", "ADDRESS", "CERTIFICATE", "TLS 1.2", "TLS 1.3", "DAYS LEFT", "NAMES",
    };
    struct table t = {0};
    bool any = false;

    for (size_t i = 0; i < COLUMNS; i++) {
        bool unused = backends && i > 4;

        cell_add(&t, i == 0               ? (backends ? "BACKEND" : "LISTENER")
                     : unused             ? ""
                     : backends && i == 2 ? "TLS"
                                          : heads[i]);
    }
    for (size_t i = 0; i < proof->entry_count; i++) {
        const struct mg_proof_entry *e = &proof->entries[i];

        if (e->is_backend != backends)
            continue;
        any = true;
        for (size_t c = 0; c < e->certificate_count; c++)
            row_add(&t, e, &e->certificates[c], c == 0);
        if (e->certificate_count == 0)
            bare_row_add(&t, e);
    }
    if (any) {
        table_print(&t, out);
        mg_buf_adds(out, "\n");
    }
    if (t.cells.failed)
        out->failed = true;
    mg_buf_free(&t.cells);
}

/* ---- text: what a listener offers ------------------------------------------------------------ */

static void
words_print(struct mg_buf *out, const char *label, const struct mg_buf *list, const char *none)
{
    mg_buf_addf(out, "  %-19s ", label);
    for (size_t at = 0; at < list->len; at += strlen(list->data + at) + 1)
        mg_buf_addf(out, "%s%s", at > 0 ? ", " : "", list->data + at);
    mg_buf_addf(out, "%s\n", list->len == 0 ? none : "");
}

/* The protocols in wire form as a list of texts. */
static void
alpn_list(const struct mg_proof_entry *e, struct mg_buf *out)
{
    for (size_t at = 0; at < e->alpn.len; at += 1 + (unsigned char)e->alpn.data[at]) {
        mg_buf_add_printable(out, e->alpn.data + at + 1, (unsigned char)e->alpn.data[at]);
        mg_buf_add(out, "", 1);
    }
}

const char *
mg_proof_verification(const struct mg_proof_entry *e)
{
    if ((e->verify_mode & SSL_VERIFY_PEER) == 0)
        return "not asked for";
    return (e->verify_mode & SSL_VERIFY_FAIL_IF_NO_PEER_CERT) != 0 ? "required" : "asked for";
}

const char *
mg_proof_resumption(const struct mg_proof_entry *e)
{
    if (e->tickets)
        return e->sessions ? "by ticket, by session" : "by ticket";
    return e->sessions ? "by session" : "none";
}

static void
date_text(int64_t seconds, char out[16])
{
    time_t t = (time_t)seconds;
    struct tm tm;

    out[0] = '\0';
    if (gmtime_r(&t, &tm) != NULL)
        strftime(out, 16, "%Y-%m-%d", &tm);
}

static void
certificate_print(const struct mg_proof_certificate *c, struct mg_buf *out)
{
    char until[16];

    date_text(c->not_after, until);
    mg_buf_addf(out, "  %-19s %s %d, %s, until %s (%d days left)%s%s\n", "certificate", c->type,
                c->bits, c->subject, until, c->days_left, c->file != NULL ? ", from " : "",
                c->file != NULL ? c->file : "");
    words_print(out, "  names", &c->names, "none");
    words_print(out, "  chain as sent", &c->chain, "none");
}

/* "web", or "web: a.example, b.example". */
static void
label_text(const struct mg_proof_entry *e, char out[400])
{
    char names[200];

    names_text(&e->served, names, sizeof(names));
    snprintf(out, 400, "%s%s%s", e->name, names[0] != '\0' ? ": " : "", names);
}

static void
offers_print(const struct mg_proof *proof, struct mg_buf *out)
{
    for (size_t i = 0; i < proof->entry_count; i++) {
        const struct mg_proof_entry *e = &proof->entries[i];
        struct mg_buf protocols = {0};
        char label[400];

        if (e->offer == NULL)
            continue;
        alpn_list(e, &protocols);
        label_text(e, label);
        mg_buf_addf(out, "%s offers\n", label);
        if (e->offer->first != e) { /* many are alike */
            label_text(e->offer->first, label);
            mg_buf_addf(out, "  versions, cipher suites and groups as %s\n", label);
        } else {
            words_print(out, "versions", &e->offer->versions, "none");
            words_print(out, "cipher suites", &e->offer->suites, "none");
            words_print(out, "groups", &e->offer->groups, "none");
        }
        words_print(out, "ALPN", &protocols, e->alpn_asked ? "alpn_select_cb decides" : "none");
        mg_buf_addf(out, "  %-19s %s\n  %-19s %s\n", "client certificates",
                    mg_proof_verification(e), "resumption", mg_proof_resumption(e));
        for (size_t c = 0; c < e->certificate_count; c++)
            certificate_print(&e->certificates[c], out);
        mg_buf_adds(out, "\n");
        mg_buf_free(&protocols);
    }
}

static void
list_print(const struct mg_buf *list, const char *label, struct mg_buf *out)
{
    for (size_t at = 0; at < list->len; at += strlen(list->data + at) + 1)
        mg_buf_addf(out, "%s: %s\n", label, list->data + at);
}

static void
unproved_print(const struct mg_proof *proof, struct mg_buf *out)
{
    char label[400];

    for (size_t i = 0; i < proof->entry_count; i++) {
        const struct mg_proof_entry *e = &proof->entries[i];

        snprintf(label, sizeof(label), "not proved: %s%s",
                 e->is_chosen    ? ""
                 : e->is_backend ? "backend "
                                 : "listener ",
                 e->name);
        list_print(&e->unproved, label, out);
    }
}

void
mg_report_text(const struct mg_proof *proof, struct mg_buf *out)
{
    entries_print(proof, false, out);
    entries_print(proof, true, out);
    offers_print(proof, out);
    unproved_print(proof, out);
    list_print(&proof->warnings, "warning", out);
    list_print(&proof->errors, "error", out);
}

/* ---- JSON ----------------------------------------------------------------------------------- */

static void
string_add(struct mg_buf *out, const char *name, const char *text)
{
    mg_buf_addf(out, "\"%s\":", name);
    mg_buf_add_json(out, text, strlen(text));
    mg_buf_adds(out, ",");
}

/* A list of texts, each with a NUL, as an array. */
static void
list_json(struct mg_buf *out, const char *name, const struct mg_buf *list)
{
    mg_buf_addf(out, "\"%s\":[", name);
    for (size_t at = 0; at < list->len; at += strlen(list->data + at) + 1) {
        mg_buf_adds(out, at > 0 ? "," : "");
        mg_buf_add_json(out, list->data + at, strlen(list->data + at));
    }
    mg_buf_adds(out, "]");
}

/* "a, b" as an array. */
static void
addresses_json(struct mg_buf *out, const char *addresses)
{
    mg_buf_adds(out, "\"addresses\":[");
    while (*addresses != '\0') {
        const char *end = strstr(addresses, ", ");
        size_t len = end != NULL ? (size_t)(end - addresses) : strlen(addresses);

        mg_buf_add_json(out, addresses, len);
        mg_buf_adds(out, end != NULL ? "," : "");
        addresses += len + (end != NULL ? 2 : 0);
    }
    mg_buf_adds(out, "],");
}

static void
time_json(struct mg_buf *out, const char *name, int64_t seconds)
{
    time_t t = (time_t)seconds;
    struct tm tm;
    char text[40] = "";

    if (gmtime_r(&t, &tm) != NULL)
        strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
    string_add(out, name, text);
}

/* The names of a certificate; what kind each is shows by itself. */
static void
names_json(struct mg_buf *out, const struct mg_buf *names)
{
    mg_buf_adds(out, "\"names\":[");
    for (size_t at = 0; at < names->len; at += strlen(names->data + at) + 1) {
        const char *name = names->data + at;

        name += strncmp(name, "IP ", 3) == 0 ? 3 : 0;
        mg_buf_adds(out, at > 0 ? "," : "");
        mg_buf_add_json(out, name, strlen(name));
    }
    mg_buf_adds(out, "],");
}

static void
cells_json(struct mg_buf *out, const struct mg_proof_certificate *c)
{
    mg_buf_adds(out, "\"versions\":{");
    for (int v = 0; v < MG_PROOF_VERSIONS; v++) {
        const struct mg_proof_cell *cell = &c->cells[v];

        mg_buf_addf(out, "%s\"%s\":{\"enabled\":%s,\"ok\":%s", v > 0 ? "," : "",
                    mg_proof_version_ids[v], cell->enabled ? "true" : "false",
                    cell->enabled && cell->ok ? "true" : "false");
        if (cell->cause[0] != '\0') {
            mg_buf_adds(out, ",\"cause\":");
            mg_buf_add_json(out, cell->cause, strlen(cell->cause));
        }
        mg_buf_adds(out, "}");
    }
    mg_buf_adds(out, "},");
}

static void
certificate_json(struct mg_buf *out, const struct mg_proof_certificate *c)
{
    mg_buf_adds(out, "{");
    string_add(out, "type", c->type);
    mg_buf_addf(out, "\"bits\":%d,", c->bits);
    string_add(out, "subject", c->subject);
    if (c->file != NULL)
        string_add(out, "file", c->file);
    names_json(out, &c->names);
    list_json(out, "chain", &c->chain);
    mg_buf_adds(out, ",");
    mg_buf_adds(out, "\"sha256\":\"");
    for (size_t i = 0; i < sizeof(c->fingerprint); i++)
        mg_buf_addf(out, "%02x", c->fingerprint[i]);
    mg_buf_adds(out, "\",");
    time_json(out, "not_before", c->not_before);
    time_json(out, "not_after", c->not_after);
    mg_buf_addf(out, "\"days_left\":%d,", c->days_left);
    cells_json(out, c);
    mg_buf_adds(out, "\"results\":[");
    mg_buf_add(out, c->results.data, c->results.len);
    mg_buf_adds(out, "]}");
    if (c->results.failed)
        out->failed = true;
}

static void
offer_json(struct mg_buf *out, const struct mg_proof_entry *e)
{
    struct mg_buf protocols = {0};

    if (e->offer == NULL)
        return;
    alpn_list(e, &protocols);
    mg_buf_adds(out, "\"offer\":{");
    list_json(out, "versions", &e->offer->versions);
    mg_buf_adds(out, ",");
    list_json(out, "cipher_suites", &e->offer->suites);
    mg_buf_adds(out, ",");
    list_json(out, "groups", &e->offer->groups);
    mg_buf_adds(out, ",");
    list_json(out, "alpn_protocols", &protocols);
    mg_buf_addf(out, ",\"alpn_select_cb\":%s,", e->alpn_asked ? "true" : "false");
    string_add(out, "client_certificates", mg_proof_verification(e));
    mg_buf_addf(out, "\"tickets\":%s,\"sessions\":%s},", e->tickets ? "true" : "false",
                e->sessions ? "true" : "false");
    if (protocols.failed)
        out->failed = true;
    mg_buf_free(&protocols);
}

static void
entry_json(struct mg_buf *out, const struct mg_proof_entry *e)
{
    static const char *const outcomes[] = {
        [MG_TARGET_REFUSE] = "refuse",
        [MG_TARGET_TERMINATE] = "terminate",
        [MG_TARGET_PASS] = "passthrough",
    };
    bool first = true;

    mg_buf_adds(out, "{");
    string_add(out, "name", e->name);
    addresses_json(out, e->addresses);
    mg_buf_addf(out, "\"tls\":%s,", e->tls ? "true" : "false");
    string_add(out, "context", e->context);
    if (e->by_name) {
        list_json(out, "servernames", &e->served);
        mg_buf_adds(out, ",");
        string_add(out, "outcome", outcomes[e->outcome]);
    }
    mg_buf_adds(out, "\"versions\":[");
    for (int v = 0; v < MG_PROOF_VERSIONS; v++) {
        if (e->tls && e->enabled[v]) {
            mg_buf_addf(out, "%s\"%s\"", first ? "" : ",", mg_proof_version_ids[v]);
            first = false;
        }
    }
    mg_buf_adds(out, "],");
    offer_json(out, e);
    mg_buf_adds(out, "\"certificates\":[");
    for (size_t c = 0; c < e->certificate_count; c++) {
        mg_buf_adds(out, c > 0 ? "," : "");
        certificate_json(out, &e->certificates[c]);
    }
    mg_buf_adds(out, "],");
    list_json(out, "not_proved", &e->unproved);
    mg_buf_adds(out, "}");
}

static void
entries_json(const struct mg_proof *proof, const char *what, bool backends, bool chosen,
             struct mg_buf *out)
{
    bool first = true;

    mg_buf_addf(out, "\"%s\":[", what);
    for (size_t i = 0; i < proof->entry_count; i++) {
        if (proof->entries[i].is_backend != backends || proof->entries[i].is_chosen != chosen)
            continue;
        mg_buf_adds(out, first ? "" : ",");
        entry_json(out, &proof->entries[i]);
        first = false;
    }
    mg_buf_adds(out, "],");
}

void
mg_report_json(const struct mg_proof *proof, struct mg_buf *out)
{
    mg_buf_adds(out, "{");
    string_add(out, "script", proof->script->name);
    mg_buf_addf(out, "\"ok\":%s,", proof->errors.len == 0 ? "true" : "false");
    entries_json(proof, "listeners", false, false, out);
    entries_json(proof, "contexts", false, true, out);
    entries_json(proof, "backends", true, false, out);
    list_json(out, "warnings", &proof->warnings);
    mg_buf_adds(out, ",");
    list_json(out, "errors", &proof->errors);
    mg_buf_adds(out, "}\n");
}

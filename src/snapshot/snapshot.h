/*
 * snapshot: the sealed file that carries one run of a script from the loader to the workers.
 *
 * It is a list of records (kind, key, value) in the order in which they were added, found again by
 * kind and key. What the values mean is the business of script/ (which records and replays them) and,
 * for the kinds marked S, of the supervisor. On Linux it is a memfd sealed against every change; elsewhere
 * an unlinked temporary file of mode 0600. A snapshot holds private keys.
 *
 * Layout (little endian): "MGSNAP01", u64 total length, u64 record count; then per record u32 kind,
 * u32 key length, u64 value length, key, value, padding to 8. The reader checks every length.
 */
#ifndef MG_SNAPSHOT_SNAPSHOT_H
#define MG_SNAPSHOT_SNAPSHOT_H

#include "base/base.h"

/* The values are part of the format (`moongate pack`); never renumber. */
enum mg_record {
    MG_RECORD_SCRIPT = 1, /* key = absolute path of the script, value = its text */
    MG_RECORD_SETTING =
        2, /* S: key = settings field, value = text form ("30", "false", "nobody") */
    MG_RECORD_ADDRESS =
        3,              /* S: key = canonical listen address, value = lines "backlog=N\n", and of a
                              unix socket's file "mode=0660\n", "owner=NAME\n", "group=NAME\n" */
    MG_RECORD_FILE = 4, /* key = absolute path, value = u8 'D' + data, or 'E' + errno as text */
    MG_RECORD_LISTING = 5, /* key = directory, value = names, each with a NUL; or as FILE 'E' */
    MG_RECORD_ENV = 6,     /* key = name, value = 'V' + value or 'N' */
    MG_RECORD_TIME = 7, /* key = ordinal, value = the answer of the n-th os.time/os.clock/os.date */
    MG_RECORD_SEED = 8, /* key = "", value = 16 bytes for math.randomseed */
    MG_RECORD_KEY = 9,  /* key = ordinal, value = DER of the n-th generated private key */
    MG_RECORD_COMMAND = 10, /* key = ordinal, value = output of the n-th moongate.command */
    MG_RECORD_WATCH =
        11, /* S: key = path to watch, value = mg_watch_identity, taken when it was read */
    MG_RECORD_MANIFEST =
        12, /* key = "", value = canonical text: listeners, backends, context digests */
    MG_RECORD_REPORT = 13,   /* S: key = "text" | "json" | "warning", value = the proof's result */
    MG_RECORD_LISTENER = 14, /* S: key = listener name, value = its addresses, comma separated */
    MG_RECORD_NAME =
        15, /* key = "", value = the script's path as the user gave it: what errors call it */
    MG_RECORD_LOOKUP =
        16, /* key = host of a listen address, value = its addresses, each with a NUL */
    MG_RECORD_SIGNATURE = 17, /* key = ordinal, value = the n-th signature that was made */
};

/* ---- watch ---------------------------------------------------------------------------------- */

#define MG_WATCH_IDENTITY 160

struct stat;

/* What a watched file is: device, inode, size and times of stat(2); "missing" for NULL. Equal texts mean
 * an unchanged file. Take it before reading, so that a change in between shows. */
void mg_watch_identity(const struct stat *st, char out[MG_WATCH_IDENTITY]);

/* ---- write ---------------------------------------------------------------------------------- */

struct mg_snapshot_writer;

/* NULL without memory or without a place for the file. */
struct mg_snapshot_writer *mg_snapshot_writer_new(struct mg_err *err);

/* Errors (memory, disk) are remembered and reported by mg_snapshot_writer_seal. */
void mg_snapshot_writer_add(struct mg_snapshot_writer *w, enum mg_record kind, const void *key,
                            size_t key_len, const void *value, size_t value_len);

/* Whether a record of that kind and key has been added already. */
bool mg_snapshot_writer_has(const struct mg_snapshot_writer *w, enum mg_record kind,
                            const void *key, size_t key_len);

/* Writes, seals, frees the writer (also on failure). Returns an owned close-on-exec fd or -1. */
int mg_snapshot_writer_seal(struct mg_snapshot_writer *w, struct mg_err *err);
void mg_snapshot_writer_free(struct mg_snapshot_writer *w);

/* ---- read ----------------------------------------------------------------------------------- */

struct mg_snapshot;

struct mg_span {
    const char *data; /* into the mapping: valid until mg_snapshot_close */
    size_t len;
};

/*
 * Maps and checks the file; `fd` stays the caller's. With `require_seals` a memfd that could still be
 * changed is refused. Every length is checked before anything is believed.
 */
struct mg_snapshot *mg_snapshot_open(int fd, bool require_seals, struct mg_err *err);
void mg_snapshot_close(struct mg_snapshot *s);

/* The record's value, or false. Look-up is by hash, not by walking. */
bool mg_snapshot_find(const struct mg_snapshot *s, enum mg_record kind, const void *key,
                      size_t key_len, struct mg_span *value);

/* Walks the records of one kind in the order they were added; *cursor starts at 0. */
bool mg_snapshot_next(const struct mg_snapshot *s, enum mg_record kind, size_t *cursor,
                      struct mg_span *key, struct mg_span *value);

#endif

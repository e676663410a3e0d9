/*
 * Reading files and directories through the world: each is opened once per run, failures are
 * answers like any other, and everything that was touched goes to the watch list with the identity
 * it had then.
 *
 * The identity is taken from the open file before it is read, so that a file that changes while it
 * is read looks changed afterwards and the script is run again.
 */
#include "script/internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Appends the components of a path, leaving out "." and empty ones: "..", which a symlink may give
 * another meaning, stays. */
static void
path_add(struct mg_buf *out, const char *path)
{
    while (*path != '\0') {
        size_t len = strcspn(path, "/");

        if (len > 0 && !(len == 1 && path[0] == '.')) {
            mg_buf_adds(out, "/");
            mg_buf_add(out, path, len);
        }
        path += len;
        path += *path == '/';
    }
}

char *
mg_world_path(const struct mg_world *w, const char *path)
{
    struct mg_buf out = {0};

    if (path[0] != '/')
        path_add(&out, w->dir);
    path_add(&out, path);
    if (out.len == 0)
        mg_buf_adds(&out, "/");
    return mg_buf_take(&out);
}

/* Notes the path for the watch list with what it is before it is read. The first identity stays: it
 * is that of what was used. */
static int
watch_add(struct mg_world *w, const char *path, struct mg_err *err)
{
    struct mg_span known;
    struct stat st;
    char identity[MG_WATCH_IDENTITY];

    if (mg_world_find(w, MG_RECORD_WATCH, path, &known))
        return 0;
    mg_watch_identity(stat(path, &st) == 0 ? &st : NULL, identity);
    return mg_world_add(w, MG_RECORD_WATCH, path, identity, strlen(identity), err);
}

static int
failure_add(struct mg_world *w, enum mg_record kind, const char *path, int error,
            struct mg_err *err)
{
    char record[16];

    snprintf(record, sizeof(record), "E%d", error);
    return mg_world_add(w, kind, path, record, strlen(record), err);
}

/* Opens a file that is not too large to be read: a descriptor, or -1 and errno. */
static int
file_open(const char *path)
{
    struct stat st;
    int fd = mg_fd_open_file(path);
    int error;

    if (fd < 0)
        return -1;
    error = fstat(fd, &st) != 0 ? errno : st.st_size > (off_t)MG_FILE_MAX ? EFBIG : 0;
    if (error == 0)
        return fd;
    close(fd);
    errno = error;
    return -1;
}

/* Asks the system and records the answer, whichever it is. */
static int
file_record(struct mg_world *w, const char *path, struct mg_err *err)
{
    struct mg_buf record = {0};
    int fd, status = -1;

    if (watch_add(w, path, err) != 0)
        return -1;
    fd = file_open(path);
    if (fd < 0)
        return failure_add(w, MG_RECORD_FILE, path, errno, err);
    mg_buf_adds(&record, "D");
    if (mg_fd_read_all(fd, &record, MG_FILE_MAX + 1, err) == 0)
        status = mg_world_add(w, MG_RECORD_FILE, path, record.data, record.len, err);
    mg_buf_free_secret(&record);
    close(fd);
    return status;
}

static int
listing_record(struct mg_world *w, const char *path, struct mg_err *err)
{
    struct mg_buf record = {0};
    struct dirent **names;
    int count, status = -1;

    if (watch_add(w, path, err) != 0)
        return -1;
    count = scandir(path, &names, NULL, alphasort);
    if (count < 0)
        return failure_add(w, MG_RECORD_LISTING, path, errno, err);
    mg_buf_adds(&record, "D");
    for (int i = 0; i < count; i++) {
        const char *name = names[i]->d_name;

        if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0)
            mg_buf_add(&record, name, strlen(name) + 1);
        free(names[i]);
    }
    free(names);
    if (record.failed)
        mg_err_setx(err, "out of memory");
    else
        status = mg_world_add(w, MG_RECORD_LISTING, path, record.data, record.len, err);
    mg_buf_free(&record);
    return status;
}

/* The recorded answer for a path, asking the system first where that is allowed. */
static int
answer_find(struct mg_world *w, enum mg_record kind, const char *path, struct mg_span *value,
            struct mg_err *err)
{
    if (mg_world_find(w, kind, path, value))
        return 0;
    switch (w->mode) {
    case MG_WORLD_RECORD:
        if ((kind == MG_RECORD_FILE ? file_record : listing_record)(w, path, err) != 0)
            return -1;
        return mg_world_find(w, kind, path, value) ? 0 : -1;
    case MG_WORLD_REPLAY:
        mg_err_setx(err, "not in the snapshot: this run of the script differs from the loader's");
        return -1;
    case MG_WORLD_LIVE:
        break;
    }
    mg_err_setx(err, "files are read while the script loads, not in a callback");
    return -1;
}

/* Turns an answer into bytes or into "path: reason" and the errno. */
static int
answer_decode(const char *path, struct mg_span value, struct mg_buf *out, int *code,
              struct mg_err *err)
{
    if (value.len == 0 || value.data[0] != 'D') {
        *code = value.len > 1 ? atoi(value.data + 1) : EIO;
        mg_err_setx(err, "%s: %s", path, mg_file_error(*code));
        return -1;
    }
    mg_buf_add(out, value.data + 1, value.len - 1);
    if (!out->failed)
        return 0;
    mg_err_setx(err, "%s: out of memory", path);
    return -1;
}

static int
answer_take(struct mg_world *w, enum mg_record kind, const char *path, struct mg_buf *out,
            int *error, struct mg_err *err)
{
    struct mg_span value;
    char *full = mg_world_path(w, path);
    int status = -1;
    int code = 0;

    if (full == NULL) {
        mg_err_setx(err, "out of memory");
    } else if (answer_find(w, kind, full, &value, err) != 0) {
        mg_err_prefix(err, "%s", path);
    } else {
        mg_world_depend(w, kind, path, value);
        status = answer_decode(path, value, out, &code, err);
    }
    if (error != NULL)
        *error = code;
    mg_free(full);
    return status;
}

int
mg_world_read(struct mg_world *w, const char *path, struct mg_buf *out, int *error,
              struct mg_err *err)
{
    return answer_take(w, MG_RECORD_FILE, path, out, error, err);
}

int
mg_world_list(struct mg_world *w, const char *path, struct mg_buf *out, int *error,
              struct mg_err *err)
{
    return answer_take(w, MG_RECORD_LISTING, path, out, error, err);
}

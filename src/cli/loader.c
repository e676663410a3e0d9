/*
 * The loader process: runs the script once and answers on its channel (fd 3).
 *
 * The happy path is: BUILD says what is in force, give up what is not needed, load, LOADED with the snapshot, exit 0. Possible
 * failure modes are: the script or its proof fails (FAILED with the text and the paths that were
 * touched, exit 0: the answer is the result), the supervisor is gone (exit 1).
 */
#include "cli/internal.h"

#include "ipc/ipc.h"
#include "script/script.h"
#include "snapshot/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef MG_HAVE_PRCTL
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#define CHANNEL_FD 3
#define BUILD_MS   10000

#ifdef MG_HAVE_PRCTL
/*
 * Of root's powers the loader keeps one: to read files that are root's alone. Programs that it
 * starts (moongate.command) have none, because the bounding set is emptied.
 */
static int
rights_reduce(struct mg_err *err)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{0}, {0}};
    const unsigned keep = 1u << CAP_DAC_READ_SEARCH;
    if (syscall(SYS_capget, &header, data) != 0) {
        mg_err_set(err, "loader: capget");
        return -1;
    }
    for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) {
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0 && errno != EPERM) {
            mg_err_set(err, "loader: dropping capability %lu", cap);
            return -1;
        }
    }
    data[0].permitted &= keep;
    data[0].effective = data[0].permitted;
    data[0].inheritable = 0;
    data[1] = (struct __user_cap_data_struct){0};
    if (syscall(SYS_capset, &header, data) != 0) {
        mg_err_set(err, "loader: capset");
        return -1;
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) {
        mg_err_set(err, "loader: prctl");
        return -1;
    }
    return 0;
}
#else
static int
rights_reduce(struct mg_err *err)
{
    (void)err;
    return 0;
}
#endif

/* What the user probably typed: relative to where moongate was started, where that is shorter. */
static const char *
path_shorten(const char *path)
{
    char cwd[4096];
    if (getcwd(cwd, sizeof(cwd)) == NULL)
        return path;
    size_t len = strlen(cwd);
    return strncmp(path, cwd, len) == 0 && path[len] == '/' ? path + len + 1 : path;
}

/* The snapshot of the policy in force; NULL where there is none. Without it everything is new, which is
 * no reason to fail. */
static struct mg_snapshot *
before_take(int *fd)
{
    struct mg_snapshot *before = NULL;
    struct mg_buf payload = {0};
    struct mg_msg msg = {0};
    struct mg_err err;
    *fd = -1;
    if (mg_ipc_receive_blocking(CHANNEL_FD, &msg, &payload, BUILD_MS, &err) == 1) {
        if (msg.type == MG_MSG_BUILD && msg.fd_count == 1) {
            *fd = msg.fds[0];
            msg.fds[0] = -1;
            before = mg_snapshot_open(*fd, true, &err);
        }
        mg_msg_close_fds(&msg);
    }
    mg_buf_free(&payload);
    return before;
}

/* The warnings, a NUL, the changes; what is too much is cut. */
static int
loaded_send(const struct mg_script_load *load, struct mg_err *err)
{
    struct mg_buf text = {0};
    mg_buf_add(&text, load->warnings.data, load->warnings.len);
    mg_buf_add(&text, "", 1);
    mg_buf_add(&text, load->changes.data, load->changes.len);
    int result = -1;
    if (text.failed)
        mg_err_setx(err, "out of memory");
    else
        result = mg_ipc_send_blocking(CHANNEL_FD, MG_MSG_LOADED, load->contexts_known, text.data,
                                      text.len < MG_IPC_MAX ? text.len : MG_IPC_MAX,
                                      &load->snapshot_fd, 1, err);
    mg_buf_free(&text);
    return result;
}

int
mg_loader_command(int argc, char **argv)
{
    struct mg_script_load load = {.prove = true, .snapshot_fd = -1};
    struct mg_buf watch = {0}, answer = {0};
    struct mg_snapshot *before;
    struct mg_err err;
    int before_fd;
    if (argc != 2)
        return MG_EXIT_USAGE;
    fcntl(CHANNEL_FD, F_SETFD, FD_CLOEXEC); /* moongate.command starts programs */
    mg_log_open(STDERR_FILENO, MG_LOG_TEXT, MG_LOG_INFO, "loader");
    mg_log_wait();
    load.path = path_shorten(argv[1]);
    load.before = before = before_take(&before_fd);
    mg_priority_lower();
    int result = rights_reduce(&err);
    if (result == 0)
        result = mg_script_load(&load, &watch, &err);
    if (result == 0) {
        result = loaded_send(&load, &err);
    } else {
        mg_buf_add(&answer, err.text, strlen(err.text) + 1);
        if (watch.len <= MG_IPC_MAX - answer.len)
            mg_buf_add(&answer, watch.data, watch.len);
        result = answer.failed ? -1
                               : mg_ipc_send_blocking(CHANNEL_FD, MG_MSG_FAILED, 0, answer.data,
                                                      answer.len, NULL, 0, &err);
    }
    if (load.snapshot_fd >= 0)
        close(load.snapshot_fd);
    mg_buf_free(&watch);
    mg_buf_free(&answer);
    mg_script_load_fini(&load);
    mg_snapshot_close(before);
    if (before_fd >= 0)
        close(before_fd);
    return result == 0 ? MG_EXIT_DONE : MG_EXIT_REFUSED;
}

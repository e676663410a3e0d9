/*
 * The loader: a short-lived child that runs the script and answers with a snapshot.
 *
 * The happy path is: start, LOADED, end of the channel, exit 0. Possible failure modes are: FAILED
 * (the script's own error), death without an answer (reported when both the process and its channel
 * have ended, so that no answer under way is missed), silence (killed after reload_timeout).
 */
#include "supervisor/internal.h"

#include <signal.h>
#include <string.h>

/* What a loader that has answered may still take to exit. */
#define EXIT_NS (10ull * 1000000000u)

static void
handle_closed(struct mg_super *super)
{
    if (--super->reload.loader.live == 0)
        mg_reload_loader_gone(super);
}

static void
on_ipc_close(struct mg_ipc *ipc)
{
    handle_closed(ipc->data);
}

static void
on_process_close(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

/* The answer is in, or there will be none. */
static void
loader_end_check(struct mg_super *super)
{
    struct mg_loader *loader = &super->reload.loader;
    if (!loader->exited || !loader->lost)
        return;
    if (loader->answered) {
        if (loader->exit_status != 0)
            mg_log(MG_LOG_WARN, "the loader ended with status %d, signal %d",
                   (int)loader->exit_status, loader->exit_signal);
        return;
    }
    char text[160];
    loader->answered = true;
    if (loader->exit_signal != 0)
        snprintf(text, sizeof(text), "the loader was ended by signal %d (%s) without an answer",
                 loader->exit_signal, strsignal(loader->exit_signal));
    else
        snprintf(text, sizeof(text), "the loader exited with status %d without an answer",
                 (int)loader->exit_status);
    mg_reload_load_failed(super, text, NULL, 0);
}

static void
on_exit(uv_process_t *process, int64_t status, int signal)
{
    struct mg_super *super = process->data;
    struct mg_loader *loader = &super->reload.loader;
    loader->exited = true;
    loader->exit_status = status;
    loader->exit_signal = signal;
    uv_close((uv_handle_t *)process, on_process_close);
    loader_end_check(super);
}

static void
on_lost(struct mg_ipc *ipc, const char *why)
{
    struct mg_super *super = ipc->data;
    (void)why; /* its death says more */
    super->reload.loader.lost = true;
    mg_ipc_close(ipc, on_ipc_close);
    loader_end_check(super);
}

static void
on_message(struct mg_ipc *ipc, struct mg_msg *msg)
{
    struct mg_super *super = ipc->data;
    struct mg_loader *loader = &super->reload.loader;
    if (loader->answered)
        return;
    if (msg->type == MG_MSG_LOADED && msg->fd_count == 1) {
        int fd = msg->fds[0];
        msg->fds[0] = -1;
        loader->answered = true;
        loader->kill_at_ns = mg_now_ns() + EXIT_NS;
        if (msg->number > 0)
            mg_log(MG_LOG_DEBUG, "%llu contexts are as they were proved before",
                   (unsigned long long)msg->number);
        mg_reload_loaded(super, fd, msg->data, msg->len);
    } else if (msg->type == MG_MSG_FAILED) {
        size_t text_len = strnlen(msg->data, msg->len);
        size_t paths = text_len < msg->len ? text_len + 1 : text_len;
        loader->answered = true;
        loader->kill_at_ns = mg_now_ns() + EXIT_NS;
        mg_reload_load_failed(super, msg->data, msg->data + paths, msg->len - paths);
    }
}

int
mg_loader_start(struct mg_super *super, struct mg_err *err)
{
    static const struct mg_ipc_ops ops = {on_message, on_lost, false};
    struct mg_loader *loader = &super->reload.loader;
    int pair[2];
    *loader = (struct mg_loader){0};
    if (mg_ipc_pair(pair, err) != 0)
        return -1;
    loader->process.data = super;
    loader->live = 1;
    int result = mg_platform_spawn(&super->loop, &loader->process, "--loader", super->script,
                                   pair[1], on_exit, on_process_close, err);
    close(pair[1]);
    if (result != 0) {
        loader->answered = true;
        close(pair[0]);
        return -1;
    }
    loader->process.data = super;
    loader->kill_at_ns = mg_now_ns() + super->settings.reload_timeout_ms * 1000000u;
    if (mg_ipc_open(&loader->ipc, &super->loop, pair[0], &ops, super, err) != 0) {
        loader->lost = true;
        mg_loader_stop(super);
        return -1;
    }
    loader->live++;
    bool first = super->generation == 0;
    mg_ipc_send(&loader->ipc, MG_MSG_BUILD, super->generation, NULL, 0, &super->snapshot_fd,
                first ? 0 : 1);
    return 0;
}

void
mg_loader_stop(struct mg_super *super)
{
    struct mg_loader *loader = &super->reload.loader;
    loader->answered = true;
    if (loader->live > 0 && !loader->exited)
        uv_process_kill(&loader->process, SIGKILL);
}

void
mg_loader_check(struct mg_super *super)
{
    struct mg_loader *loader = &super->reload.loader;
    if (loader->live == 0 || loader->exited || mg_now_ns() < loader->kill_at_ns)
        return;
    bool answered = loader->answered;
    mg_loader_stop(super);
    if (answered)
        return;
    char text[128];
    snprintf(text, sizeof(text), "the script did not finish within reload_timeout (%.3g s)",
             (double)super->settings.reload_timeout_ms / 1000);
    mg_reload_load_failed(super, text, NULL, 0);
}

/*
 * The control socket: one command per connection, one answer.
 *
 * Only our own user and root are listened to. The happy path of a client is: accepted, COMMAND,
 * ANSWER, gone. It may wait between the two: for a reload to end, or for the workers' status.
 * Possible failure modes are: it goes away while it waits (forgotten), it says nothing (closed
 * after 10 s), it is somebody else (told so and closed).
 */
#include "supervisor/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CLIENTS_MAX   64
#define SILENCE_NS    (10ull * 1000000000u) /* from connecting to the command */
#define STATUS_NS     (1000ull * 1000000u)  /* for all workers to answer */
#define TIMER_MS      250
#define DEFAULT_DIR   "/run/moongate"
#define DEFAULT_PATH  DEFAULT_DIR "/control.sock"
#define FALLBACK_NAME "/moongate.sock"

enum client_state { CLIENT_SILENT, CLIENT_RELOAD, CLIENT_STATUS, CLIENT_DONE };

struct client {
    struct client *next;
    struct mg_control *control;
    struct mg_ipc ipc;
    enum client_state state;
    uint64_t sequence; /* CLIENT_RELOAD: the reload it waits for */
    bool json;         /* CLIENT_STATUS */
    uint64_t deadline_ns;
};

struct mg_control {
    struct mg_super *super;
    uv_poll_t poll;
    uv_timer_t timer; /* deadlines, while there is a client */
    int fd;
    char path[MG_PATH_CAP];
    dev_t dev;
    ino_t ino;
    struct client *clients;
    unsigned client_count;
    uint64_t request; /* number of the status request under way or the last one */
    unsigned live;    /* handles and clients */
    bool closing;
};

/* ---- where ---------------------------------------------------------------------------------- */

int
mg_control_default_path(char *out, size_t cap, struct mg_err *err)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    bool usable = access(DEFAULT_DIR, F_OK) == 0 ? access(DEFAULT_DIR, W_OK | X_OK) == 0
                                                 : access("/run", W_OK | X_OK) == 0;
    const char *dir = usable ? "" : runtime, *name = usable ? DEFAULT_PATH : FALLBACK_NAME;
    if (dir == NULL || (!usable && dir[0] != '/')) {
        mg_err_setx(err, "%s cannot be used and XDG_RUNTIME_DIR is not set; say --control PATH",
                    DEFAULT_DIR);
        return -1;
    }
    if ((size_t)snprintf(out, cap, "%s%s", dir, name) >= cap) {
        mg_err_setx(err, "XDG_RUNTIME_DIR is too long; say --control PATH");
        return -1;
    }
    return 0;
}

/* ---- clients -------------------------------------------------------------------------------- */

static void
control_released(struct mg_control *c)
{
    if (--c->live == 0)
        mg_free(c);
}

static void
on_client_close(struct mg_ipc *ipc)
{
    struct client *client = ipc->data;
    struct mg_control *c = client->control;
    struct client **at = &c->clients;
    while (*at != client)
        at = &(*at)->next;
    *at = client->next;
    c->client_count--;
    mg_free(client);
    control_released(c);
}

static void
client_answer(struct client *client, int code, const char *text, size_t len)
{
    client->state = CLIENT_DONE;
    mg_ipc_send(&client->ipc, MG_MSG_ANSWER, (uint64_t)code, text, len, NULL, 0);
    client->deadline_ns = mg_now_ns() + SILENCE_NS; /* it closes when it has read all */
}

static void
client_say(struct client *client, int code, const char *text)
{
    client_answer(client, code, text, strlen(text));
}

void
mg_control_reloaded(struct mg_control *c, uint64_t sequence, int code, const char *text)
{
    for (struct client *client = c != NULL ? c->clients : NULL; client; client = client->next)
        if (client->state == CLIENT_RELOAD && client->sequence == sequence)
            client_say(client, code, text);
}

/* ---- status --------------------------------------------------------------------------------- */

static bool
status_complete(const struct mg_super *super)
{
    for (size_t i = 0; i < MG_ARRAY_LEN(super->workers); i++)
        if (super->workers[i] != NULL && super->workers[i]->asked != 0)
            return false;
    return true;
}

static void
status_answer(struct client *client)
{
    struct mg_buf text = {0};
    if (client->json)
        mg_status_json(client->control->super, &text);
    else
        mg_status_text(client->control->super, &text);
    if (text.failed)
        client_say(client, 1, "out of memory");
    else
        client_answer(client, 0, text.data, text.len);
    mg_buf_free(&text);
}

void
mg_control_status_progress(struct mg_super *super)
{
    if (super->control == NULL || !status_complete(super))
        return;
    for (struct client *client = super->control->clients; client; client = client->next)
        if (client->state == CLIENT_STATUS)
            status_answer(client);
}

/* Asks every worker afresh; clients that came a moment earlier get the fresh answers, too. */
static void
status_ask(struct mg_control *c)
{
    c->request++;
    for (size_t i = 0; i < MG_ARRAY_LEN(c->super->workers); i++) {
        struct mg_worker *w = c->super->workers[i];
        if (w == NULL)
            continue;
        mg_buf_free(&w->answer);
        w->asked = w->connected ? c->request : 0;
        if (w->connected)
            mg_ipc_send(&w->ipc, MG_MSG_STATUS, c->request, NULL, 0, NULL, 0);
    }
    mg_control_status_progress(c->super);
}

/* ---- commands ------------------------------------------------------------------------------- */

static void
command_reload(struct client *client)
{
    struct mg_super *super = client->control->super;
    if (super->phase > MG_PHASE_RUNNING) {
        client_say(client, 1, "moongate is stopping");
        return;
    }
    client->state = CLIENT_RELOAD;
    client->sequence = super->reload.sequence + 1;
    mg_reload_request(super, "asked for on the control socket");
}

static void
command_drain(struct client *client)
{
    struct mg_err err;
    if (mg_super_drain(client->control->super, &err) != 0)
        client_say(client, 1, err.text);
    else
        client_say(client, 0, "draining; a reload accepts connections again\n");
}

static void
command_stop(struct client *client)
{
    client_say(client, 0, "stopping\n");
    mg_super_stop(client->control->super, false);
}

static void
command_status(struct client *client, bool json)
{
    if (client->control->super->phase == MG_PHASE_STARTING) {
        client_say(client, 1, "moongate is starting");
        return;
    }
    client->state = CLIENT_STATUS;
    client->json = json;
    client->deadline_ns = mg_now_ns() + STATUS_NS;
    status_ask(client->control);
}

static void
on_message(struct mg_ipc *ipc, struct mg_msg *msg)
{
    struct client *client = ipc->data;
    if (client->state != CLIENT_SILENT || msg->type != MG_MSG_COMMAND) {
        mg_ipc_close(ipc, on_client_close);
        return;
    }
    if (strcmp(msg->data, "reload") == 0)
        command_reload(client);
    else if (strcmp(msg->data, "drain") == 0)
        command_drain(client);
    else if (strcmp(msg->data, "stop") == 0)
        command_stop(client);
    else if (strcmp(msg->data, "status") == 0)
        command_status(client, false);
    else if (strcmp(msg->data, "status --json") == 0)
        command_status(client, true);
    else
        client_say(client, 2, "unknown command");
}

static void
on_lost(struct mg_ipc *ipc, const char *why)
{
    (void)why;
    mg_ipc_close(ipc, on_client_close);
}

static void on_poll(uv_poll_t *poll, int status, int events);

static void
on_timer(uv_timer_t *timer)
{
    struct mg_control *c = timer->data;
    uint64_t now = mg_now_ns();
    if (c->closing)
        return;
    uv_poll_start(&c->poll, UV_READABLE, on_poll); /* if it had to rest */
    if (c->client_count == 0)
        uv_timer_stop(timer);
    for (struct client *client = c->clients; client != NULL; client = client->next) {
        if (client->state == CLIENT_RELOAD || now < client->deadline_ns || client->ipc.closing)
            continue;
        if (client->state == CLIENT_STATUS)
            status_answer(client); /* with what there is: a worker may be stopped */
        else
            mg_ipc_close(&client->ipc, on_client_close);
    }
}

static void
timer_ensure(struct mg_control *c)
{
    if (!uv_is_active((uv_handle_t *)&c->timer))
        uv_timer_start(&c->timer, on_timer, TIMER_MS, TIMER_MS);
}

/* ---- the socket ----------------------------------------------------------------------------- */

static bool
peer_is_trusted(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0)
        return false;
    return peer.uid == 0 || peer.uid == geteuid();
}

static void
client_open(struct mg_control *c, int fd)
{
    static const struct mg_ipc_ops ops = {on_message, on_lost, false};
    static const char refusal[] = "only root and the user that runs moongate may say that";
    struct mg_err err;
    if (!peer_is_trusted(fd) || c->client_count >= CLIENTS_MAX) {
        mg_ipc_send_blocking(fd, MG_MSG_ANSWER, 1, refusal, sizeof(refusal) - 1, NULL, 0, &err);
        close(fd);
        return;
    }
    struct client *client = mg_calloc(1, sizeof(*client));
    if (client == NULL) {
        close(fd);
        return;
    }
    client->control = c;
    client->deadline_ns = mg_now_ns() + SILENCE_NS;
    if (mg_ipc_open(&client->ipc, &c->super->loop, fd, &ops, client, &err) != 0) {
        mg_log(MG_LOG_WARN, "control socket: %s", err.text);
        mg_free(client);
        return;
    }
    client->next = c->clients;
    c->clients = client;
    c->live++;
    c->client_count++;
    timer_ensure(c);
}

static void
on_poll(uv_poll_t *poll, int status, int events)
{
    struct mg_control *c = poll->data;
    (void)events;
    if (c->closing || status != 0)
        return;
    int fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        client_open(c, fd);
    } else if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {
        uv_poll_stop(poll); /* no descriptor left, most likely: the timer tries again */
        timer_ensure(c);
    }
}

/* The directory of the default path is ours to make. */
static void
directory_make(const char *path)
{
    if (strcmp(path, DEFAULT_PATH) == 0 && mkdir(DEFAULT_DIR, 0750) != 0 && errno != EEXIST)
        mg_log(MG_LOG_WARN, "%s: %s", DEFAULT_DIR, strerror(errno));
}

static int
path_bind(struct mg_control *c, struct mg_err *err)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    struct stat st;
    mg_str_copy(to.sun_path, sizeof(to.sun_path), c->path);
    mode_t mask = umask(0177);
    int result = bind(c->fd, (const struct sockaddr *)&to, sizeof(to));
    umask(mask);
    if (result != 0 || listen(c->fd, 16) != 0 || stat(c->path, &st) != 0) {
        mg_err_set(err, "control socket %s", c->path);
        return -1;
    }
    c->dev = st.st_dev;
    c->ino = st.st_ino;
    return 0;
}

struct mg_control *
mg_control_open(struct mg_super *super, const char *path, struct mg_err *err)
{
    struct mg_control *c = mg_calloc(1, sizeof(*c));
    if (c == NULL) {
        mg_err_setx(err, "control socket: out of memory");
        return NULL;
    }
    c->super = super;
    mg_str_copy(c->path, sizeof(c->path), path);
    if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path)) {
        mg_err_setx(err, "control socket %s: the path is too long", path);
        mg_free(c);
        return NULL;
    }
    directory_make(path);
    if (mg_unix_path_claim(path, SOCK_SEQPACKET, err) != 0) {
        mg_err_prefix(err, "control socket (is another moongate running?)");
        mg_free(c);
        return NULL;
    }
    c->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0 || path_bind(c, err) != 0) {
        if (c->fd < 0)
            mg_err_set(err, "control socket");
        else
            close(c->fd);
        mg_free(c);
        return NULL;
    }
    uv_poll_init(&super->loop, &c->poll, c->fd);
    c->poll.data = c;
    uv_poll_start(&c->poll, UV_READABLE, on_poll);
    uv_timer_init(&super->loop, &c->timer);
    c->timer.data = c;
    c->live = 2;
    return c;
}

static void
on_handle_close(uv_handle_t *handle)
{
    control_released(handle->data);
}

void
mg_control_close(struct mg_control *c)
{
    struct stat st;
    c->closing = true;
    if (lstat(c->path, &st) == 0 && st.st_dev == c->dev && st.st_ino == c->ino)
        unlink(c->path);
    for (struct client *client = c->clients; client != NULL; client = client->next)
        mg_ipc_close(&client->ipc, on_client_close);
    uv_close((uv_handle_t *)&c->timer, on_handle_close);
    uv_close((uv_handle_t *)&c->poll, on_handle_close);
    close(c->fd);
}

/* moongate reload, drain, stop, status: one question to a running moongate, one answer. */
#include "cli/internal.h"

#include "ipc/ipc.h"
#include "supervisor/supervisor.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { OPT_CONTROL = 1, OPT_JSON };

static const struct option options[] = {
    {"control", required_argument, NULL, OPT_CONTROL},
    {"json", no_argument, NULL, OPT_JSON},
    {NULL, 0, NULL, 0},
};

static int
control_connect(const char *path, struct mg_err *err)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(un.sun_path)) {
        mg_err_setx(err, "--control: the path is longer than %zu bytes", sizeof(un.sun_path) - 1);
        return -1;
    }
    mg_str_copy(un.sun_path, sizeof(un.sun_path), path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        mg_err_set(err, "socket");
        return -1;
    }
    if (connect(fd, (struct sockaddr *)&un, sizeof(un)) != 0) {
        bool nobody = errno == ENOENT || errno == ECONNREFUSED;
        mg_err_set(err, "%s", path);
        if (nobody)
            mg_err_prefix(err,
                          "no moongate runs with this control socket (--control names another)");
        close(fd);
        return -1;
    }
    return fd;
}

/* Asks and waits for as long as it takes; prints the answer. Returns the exit status. */
static int
control_ask(int fd, const char *question, struct mg_err *err)
{
    struct mg_msg msg = {0};
    struct mg_buf buf = {0};
    int status = -1;
    if (mg_ipc_send_blocking(fd, MG_MSG_COMMAND, 0, question, strlen(question), NULL, 0, err) != 0)
        return -1;
    int got = mg_ipc_receive_blocking(fd, &msg, &buf, -1, err);
    for (size_t i = 0; got > 0 && i < msg.fd_count; i++)
        close(msg.fds[i]);
    if (got == 0) {
        mg_err_setx(err, "the connection was closed before the answer came");
    } else if (got > 0 && msg.type != MG_MSG_ANSWER) {
        mg_err_setx(err, "unexpected answer of type %u", msg.type);
    } else if (got > 0) {
        status = msg.number == 0 ? MG_EXIT_DONE : MG_EXIT_REFUSED;
        FILE *out = status == MG_EXIT_DONE ? stdout : stderr;
        fwrite(msg.data, 1, msg.len, out);
        if (msg.len > 0 && msg.data[msg.len - 1] != '\n')
            fputc('\n', out);
    }
    mg_buf_free(&buf);
    return status;
}

int
mg_control_command(int argc, char **argv)
{
    const char *command = argv[0];
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)] = "";
    const char *control = NULL;
    char question[32];
    struct mg_err err;
    bool json = false;
    int option;
    while ((option = mg_option_next(argc, argv, options)) != -1) {
        if (option == OPT_CONTROL)
            control = optarg;
        else if (option == OPT_JSON && strcmp(command, "status") == 0)
            json = true;
        else if (option == OPT_JSON)
            return mg_usage_error(command, "unknown option --json");
        else
            return MG_EXIT_USAGE;
    }
    if (optind != argc)
        return mg_usage_error(command, "unexpected argument \"%s\"", argv[optind]);
    snprintf(question, sizeof(question), "%s%s", command, json ? " --json" : "");
    int fd = -1, status = -1;
    if (control != NULL || mg_control_default_path(path, sizeof(path), &err) == 0)
        fd = control_connect(control != NULL ? control : path, &err);
    if (fd >= 0) {
        status = control_ask(fd, question, &err);
        close(fd);
    }
    if (status >= 0)
        return status;
    fprintf(stderr, "moongate %s: %s\n", command, err.text);
    return MG_EXIT_REFUSED;
}

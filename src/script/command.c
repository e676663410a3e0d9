/*
 * moongate.command{ program, argument, … }: runs a program in the loader and records its standard
 * output.
 *
 * No shell, no standard input, a group of processes of its own. What it writes is bounded, and so
 * is its time; when either is used up the whole group is killed. Workers only ever see the record.
 */
#include "script/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef MG_HAVE_PRCTL
#include <sys/prctl.h>
#endif

#define OUTPUT_MAX    (1u << 20)
#define COMPLAINT_MAX 4096u
#define TIME_MAX_S    30
#define WAIT_STEP_MS  5

struct command {
    char **argv; /* strings of Lua's, on its stack */
    pid_t pid;
    int out, complaint; /* our ends of its stdout and stderr; -1 = closed */
    uint64_t deadline_ns;
    struct mg_buf *output; /* on Lua's stack */
    struct mg_buf *complaints;
};

static volatile sig_atomic_t group_running; /* 0 = none */

void
mg_command_kill(void)
{
    if (group_running > 0)
        kill(-(pid_t)group_running, SIGKILL);
}

/* In the child: nothing here may return. */
static MG_NORETURN void
child_run(char **argv, const char *dir, int out, int complaint)
{
    sigset_t none;
    int null = open("/dev/null", O_RDONLY);

    setpgid(0, 0);
#ifdef MG_HAVE_PRCTL
    /* A loader that takes too long is killed, and this with it; what this has started is not. */
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
#endif
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    if (null >= 0 && chdir(dir) == 0 && dup2(null, 0) >= 0 && dup2(out, 1) >= 0 &&
        dup2(complaint, 2) >= 0) {
        execvp(argv[0], argv);
        dprintf(2, "%s\n", strerror(errno));
    }
    _exit(127);
}

static int
command_start(struct command *c, const char *dir, struct mg_err *err)
{
    int out[2], complaint[2];

    if (pipe2(out, O_CLOEXEC) != 0) {
        mg_err_set(err, "pipe");
        return -1;
    }
    if (pipe2(complaint, O_CLOEXEC) != 0) {
        mg_err_set(err, "pipe");
        close(out[0]);
        close(out[1]);
        return -1;
    }
    c->pid = fork();
    if (c->pid == 0)
        child_run(c->argv, dir, out[1], complaint[1]);
    if (c->pid < 0)
        mg_err_set(err, "fork");
    else
        setpgid(c->pid, c->pid); /* whoever is first: killing the group must work at once */
    close(out[1]);
    close(complaint[1]);
    if (c->pid < 0) {
        close(out[0]);
        close(complaint[0]);
        return -1;
    }
    c->out = out[0];
    c->complaint = complaint[0];
    return 0;
}

/* Reads what is there. Of stderr, what is too much is thrown away; of stdout it is an error. */
static int
stream_read(int *fd, struct mg_buf *into, size_t max, bool strict, struct mg_err *err)
{
    char chunk[4096];
    ssize_t n = read(*fd, chunk, sizeof(chunk));
    size_t len = n > 0 ? (size_t)n : 0;
    int status = 0;

    if (n == 0 || (n < 0 && errno != EINTR)) {
        close(*fd);
        *fd = -1;
        return 0;
    }
    if (len > max - into->len) {
        len = max - into->len;
        status = strict ? -1 : 0;
        if (strict)
            mg_err_setx(err, "wrote more than %u bytes", (unsigned)max);
    }
    mg_buf_add(into, chunk, len);
    mg_wipe(chunk, sizeof(chunk));
    if (into->failed) {
        mg_err_setx(err, "out of memory");
        status = -1;
    }
    return status;
}

static void
time_error(struct mg_err *err)
{
    mg_err_setx(err, "not finished after %d seconds", TIME_MAX_S);
}

/* Milliseconds until the deadline, for poll; 0 = it has passed. */
static int
time_left(const struct command *c)
{
    uint64_t now = mg_now_ns();

    return now < c->deadline_ns ? (int)((c->deadline_ns - now) / 1000000u) + 1 : 0;
}

static int
command_listen(struct command *c, struct mg_err *err)
{
    while (c->out >= 0 || c->complaint >= 0) {
        struct pollfd fds[2] = {{.fd = c->out, .events = POLLIN},
                                {.fd = c->complaint, .events = POLLIN}};
        int left = time_left(c);
        int ready = left > 0 ? poll(fds, 2, left) : 0;

        if (ready == 0) {
            time_error(err);
            return -1;
        }
        if (ready < 0 && errno != EINTR) {
            mg_err_set(err, "poll");
            return -1;
        }
        if (ready < 0)
            continue;
        if (fds[0].revents != 0 && stream_read(&c->out, c->output, OUTPUT_MAX, true, err) != 0)
            return -1;
        if (fds[1].revents != 0 &&
            stream_read(&c->complaint, c->complaints, COMPLAINT_MAX, false, err) != 0)
            return -1;
    }
    return 0;
}

/* The end of the program itself, which may have closed its streams long before. */
static int
command_wait(const struct command *c, int *status, struct mg_err *err)
{
    for (;;) {
        pid_t pid = waitpid(c->pid, status, WNOHANG);
        int left = time_left(c);

        if (pid == c->pid)
            return 0;
        if (left == 0) {
            time_error(err);
            return -1;
        }
        poll(NULL, 0, left < WAIT_STEP_MS ? left : WAIT_STEP_MS);
    }
}

/* The first line of stderr, as ": line" or "". */
static void
complaint_text(const struct mg_buf *complaints, struct mg_buf *out)
{
    size_t len = complaints->len > 0 ? strcspn(complaints->data, "\r\n") : 0;

    if (len > 0) {
        mg_buf_adds(out, ": ");
        mg_buf_add_printable(out, complaints->data, len);
    }
}

static int
command_judge(const struct command *c, int status, struct mg_err *err)
{
    struct mg_buf text = {0};

    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    complaint_text(c->complaints, &text);
    if (WIFEXITED(status))
        mg_err_setx(err, "exit status %d%s", WEXITSTATUS(status),
                    text.data != NULL ? text.data : "");
    else
        mg_err_setx(err, "killed by signal %d%s", WTERMSIG(status),
                    text.data != NULL ? text.data : "");
    mg_buf_free(&text);
    return -1;
}

static int
command_run(struct command *c, const char *dir, struct mg_err *err)
{
    int status, result;

    c->deadline_ns = mg_now_ns() + TIME_MAX_S * 1000000000ull;
    if (command_start(c, dir, err) != 0)
        return -1;
    group_running = (sig_atomic_t)c->pid;
    result = command_listen(c, err);
    if (result == 0)
        result = command_wait(c, &status, err);
    group_running = 0;
    if (c->out >= 0)
        close(c->out);
    if (c->complaint >= 0)
        close(c->complaint);
    if (result == 0)
        return command_judge(c, status, err);
    kill(-c->pid, SIGKILL);
    while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return -1;
}

/* The arguments as a NULL-ended array in a userdata at the top; the strings stay in the table at 1.
 */
static char **
argv_push(lua_State *L)
{
    lua_Unsigned count = lua_rawlen(L, 1);
    char **argv;

    if (count == 0 || count > 4096)
        mg_script_error(L, "command: expected a list { program, argument, ... }");
    argv = lua_newuserdatauv(L, (size_t)(count + 1) * sizeof(*argv), 0);
    for (lua_Unsigned i = 0; i < count; i++) {
        if (lua_rawgeti(L, 1, (lua_Integer)i + 1) != LUA_TSTRING)
            mg_script_error(L, "command: argument %d: expected a string, got %s", (int)i,
                            luaL_typename(L, -1));
        argv[i] = (char *)(uintptr_t)lua_tostring(L, -1);
        if (strlen(argv[i]) != lua_rawlen(L, -1))
            mg_script_error(L, "command: argument %d contains a zero byte", (int)i);
        lua_pop(L, 1);
    }
    argv[count] = NULL;
    return argv;
}

int
mg_command(lua_State *L)
{
    struct mg_world *w = &mg_script_of(L)->world;
    struct command c = {.out = -1, .complaint = -1};
    struct mg_span known;
    struct mg_err err;
    char key[24];

    if (w->mode == MG_WORLD_LIVE)
        mg_script_error(L, "command: programs are run while the script loads, not in a callback");
    if (!lua_istable(L, 1))
        mg_script_error(L, "command: expected a list { program, argument, ... }, got %s",
                        luaL_typename(L, 1));
    mg_option_list(L, "command", "arguments", 1, "strings", NULL);
    c.argv = argv_push(L);
    c.output = mg_bytes_push(L);
    c.complaints = mg_bytes_push(L);
    snprintf(key, sizeof(key), "%lu", w->commands++);
    if (w->mode == MG_WORLD_RECORD &&
        (command_run(&c, w->dir, &err) != 0 ||
         mg_world_add(w, MG_RECORD_COMMAND, key, c.output->data, c.output->len, &err) != 0))
        mg_script_error(L, "command: %s: %s", c.argv[0], err.text);
    if (!mg_world_find(w, MG_RECORD_COMMAND, key, &known))
        mg_script_error(L, "command: %s: this run of the script differs from the loader's",
                        c.argv[0]);
    mg_world_depend(w, MG_RECORD_COMMAND, key, known);
    lua_pushlstring(L, known.data, known.len);
    return 1;
}

/*
 * process: what specs need of the operating system and Lua does not have: start programs without a
 * shell, wait for them with a limit, send signals. A test-only Lua module; never sanitized, because
 * it lives in a stock lua5.4.
 *
 * A started program is killed when its starter dies, so that no spec leaves one behind, and has no
 * descriptors of ours but those it is given.
 */
#define _GNU_SOURCE 1

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lua.h>

int luaopen_process(lua_State *L);

static int
errno_push(lua_State *L, const char *what)
{
    lua_pushnil(L);
    lua_pushfstring(L, "%s: %s", what, strerror(errno));
    return 2;
}

static double
seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* The array of strings at `idx`, ended by NULL; borrowed strings in a userdata that is left on the
 * stack. */
static char **
strings_of(lua_State *L, int idx)
{
    size_t count = lua_rawlen(L, idx);
    char **list = lua_newuserdatauv(L, (count + 1) * sizeof(*list), 0);
    union {
        const char *in;
        char *out; /* execve takes char *const[] and changes nothing */
    } cast;

    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, idx, (lua_Integer)i + 1);
        cast.in = lua_tostring(L, -1);
        if (!cast.in)
            luaL_error(L, "spawn: argument %d is no string", (int)i + 1);
        list[i] = cast.out;
        lua_pop(L, 1);
    }
    list[count] = NULL;
    return list;
}

static const char *
option_string(lua_State *L, int idx, const char *name)
{
    const char *value;

    lua_getfield(L, idx, name);
    value = lua_tostring(L, -1);
    lua_pop(L, 1); /* the table still holds it */
    return value;
}

static lua_Integer
option_integer(lua_State *L, int idx, const char *name, lua_Integer fallback)
{
    lua_Integer value;

    lua_getfield(L, idx, name);
    value = luaL_optinteger(L, -1, fallback);
    lua_pop(L, 1);
    return value;
}

struct spawn {
    char **argv, **env;
    const char *cwd, *out, *err, *user;
    bool session;  /* leads a session, not only a group */
    int in_fd;     /* becomes stdin */
    rlim_t nofile; /* 0 = as ours */
    pid_t parent;
};

static void
fd_from_path(const char *path, int fd)
{
    int opened = open(path ? path : "/dev/null", O_WRONLY | O_CREAT | O_APPEND, 0644);

    if (opened < 0)
        _exit(126);
    if (opened != fd) {
        dup2(opened, fd);
        close(opened);
    }
}

/* In the child: nothing here may fail silently, 126 and 127 say what a shell would say. */
static _Noreturn void
child_exec(const struct spawn *spawn)
{
    sigset_t none;

    if (spawn->session)
        setsid();
    else
        setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != spawn->parent)
        _exit(126);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int sig = 1; sig < NSIG; sig++)
        signal(sig, SIG_DFL);
    dup2(spawn->in_fd, 0);
    fd_from_path(spawn->out, 1);
    if (spawn->err && spawn->out && strcmp(spawn->err, spawn->out) == 0)
        dup2(1, 2);
    else
        fd_from_path(spawn->err, 2);
    close_range(3, ~0U, 0);
    if (spawn->nofile) {
        struct rlimit limit = {spawn->nofile, spawn->nofile};
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
            _exit(126);
    }
    if (spawn->user) {
        struct passwd *user = getpwnam(spawn->user);
        if (!user || initgroups(user->pw_name, user->pw_gid) != 0 || setgid(user->pw_gid) != 0 ||
            setuid(user->pw_uid) != 0)
            _exit(126);
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* changing the user clears it */
    }
    if (spawn->cwd && chdir(spawn->cwd) != 0)
        _exit(126);
    if (spawn->env)
        execvpe(spawn->argv[0], spawn->argv, spawn->env);
    else
        execvp(spawn->argv[0], spawn->argv);
    _exit(127);
}

/*
 * spawn{ program, argument …, stdout=, stderr= (paths, appended to; default /dev/null), cwd=, env=
 * (list of "K=V", default: ours), user=, nofile=, session=true, stdin="pipe" } → pid[, fd to write
 * its stdin]. The program leads a process group of its own, or a session.
 */
static int
spawn(lua_State *L)
{
    struct spawn spawn = {.in_fd = -1};
    const char *in;
    int pipe_fd[2] = {-1, -1};
    pid_t pid;

    luaL_checktype(L, 1, LUA_TTABLE);
    spawn.argv = strings_of(L, 1);
    lua_getfield(L, 1, "env");
    if (lua_istable(L, -1))
        spawn.env = strings_of(L, lua_gettop(L));
    spawn.cwd = option_string(L, 1, "cwd");
    spawn.out = option_string(L, 1, "stdout");
    spawn.err = option_string(L, 1, "stderr");
    spawn.user = option_string(L, 1, "user");
    spawn.nofile = (rlim_t)option_integer(L, 1, "nofile", 0);
    lua_getfield(L, 1, "session");
    spawn.session = lua_toboolean(L, -1);
    in = option_string(L, 1, "stdin");
    if (in && strcmp(in, "pipe") == 0) {
        if (pipe2(pipe_fd, O_CLOEXEC) != 0)
            return errno_push(L, "pipe");
        spawn.in_fd = pipe_fd[0];
    } else {
        spawn.in_fd = open(in ? in : "/dev/null", O_RDONLY | O_CLOEXEC);
        if (spawn.in_fd < 0)
            return errno_push(L, in ? in : "/dev/null");
    }
    spawn.parent = getpid();
    pid = fork();
    if (pid == 0)
        child_exec(&spawn);
    close(spawn.in_fd);
    if (pid < 0) {
        if (pipe_fd[1] >= 0)
            close(pipe_fd[1]);
        return errno_push(L, "fork");
    }
    if (!spawn.session)
        setpgid(pid, pid); /* both sides do it: whoever is first */
    lua_pushinteger(L, pid);
    if (pipe_fd[1] < 0)
        return 1;
    lua_pushinteger(L, pipe_fd[1]);
    return 2;
}

/* wait(pid[, seconds]) → "exit", code | "signal", number | nil, "timeout". Reaps. pid -1: any
 * child, and its pid is the third result. */
static int
wait_for(lua_State *L)
{
    pid_t pid = (pid_t)luaL_checkinteger(L, 1), done;
    double end = seconds_now() + luaL_optnumber(L, 2, 0);
    int status;

    for (;;) {
        done = waitpid(pid, &status, WNOHANG);
        if (done > 0)
            break;
        if (done < 0 && errno != EINTR)
            return errno_push(L, "waitpid");
        if (seconds_now() >= end) {
            lua_pushnil(L);
            lua_pushliteral(L, "timeout");
            return 2;
        }
        poll(NULL, 0, 5);
    }
    if (WIFEXITED(status)) {
        lua_pushliteral(L, "exit");
        lua_pushinteger(L, WEXITSTATUS(status));
    } else {
        lua_pushliteral(L, "signal");
        lua_pushinteger(L, WTERMSIG(status));
    }
    lua_pushinteger(L, done);
    return 3;
}

/* kill(pid, signal) → true | nil, reason. Signal 0 only asks. */
static int
kill_one(lua_State *L)
{
    pid_t pid = (pid_t)luaL_checkinteger(L, 1);

    luaL_argcheck(L, pid > 1 || pid < -1, 1, "a process, or a group as a negative number");
    if (kill(pid, (int)luaL_checkinteger(L, 2)) != 0)
        return errno_push(L, "kill");
    lua_pushboolean(L, 1);
    return 1;
}

static int
fd_write(lua_State *L)
{
    size_t len;
    const char *data = luaL_checklstring(L, 2, &len);
    ssize_t done = write((int)luaL_checkinteger(L, 1), data, len);

    if (done < 0)
        return errno_push(L, "write");
    lua_pushinteger(L, done);
    return 1;
}

static int
fd_close(lua_State *L)
{
    close((int)luaL_checkinteger(L, 1));
    return 0;
}

static int
sleep_for(lua_State *L)
{
    poll(NULL, 0, (int)(luaL_checknumber(L, 1) * 1000));
    return 0;
}

static int
now(lua_State *L)
{
    lua_pushnumber(L, seconds_now());
    return 1;
}

static int
user_id(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)geteuid());
    return 1;
}

static int
own_pid(lua_State *L)
{
    lua_pushinteger(L, getpid());
    return 1;
}

/* nofile() → the soft limit, the hard limit of descriptors. */
static int
nofile(lua_State *L)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return errno_push(L, "getrlimit");
    lua_pushinteger(L, (lua_Integer)limit.rlim_cur);
    lua_pushinteger(L, (lua_Integer)limit.rlim_max);
    return 2;
}

/* adopt(): orphans below us become our children, so that a runner sees what a spec left behind. */
static int
adopt(lua_State *L)
{
    if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
        return errno_push(L, "prctl");
    lua_pushboolean(L, 1);
    return 1;
}

/* ignore_pipe(): a write to a program that has left is an error, not our end. */
static int
ignore_pipe(lua_State *L)
{
    (void)L;
    signal(SIGPIPE, SIG_IGN);
    return 0;
}

static int
environment(lua_State *L)
{
    lua_newtable(L);
    for (int i = 0; environ[i]; i++) {
        lua_pushstring(L, environ[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* Thin wrappers of the calls of the same name. */
static int
file_symlink(lua_State *L)
{
    if (symlink(luaL_checkstring(L, 1), luaL_checkstring(L, 2)) != 0)
        return errno_push(L, "symlink");
    lua_pushboolean(L, 1);
    return 1;
}

static int
file_readlink(lua_State *L)
{
    char target[4096];
    ssize_t len = readlink(luaL_checkstring(L, 1), target, sizeof(target));

    if (len < 0)
        return errno_push(L, "readlink");
    lua_pushlstring(L, target, (size_t)len);
    return 1;
}

static int
file_chmod(lua_State *L)
{
    if (chmod(luaL_checkstring(L, 1), (mode_t)luaL_checkinteger(L, 2)) != 0)
        return errno_push(L, "chmod");
    lua_pushboolean(L, 1);
    return 1;
}

/* exists(path): whatever it is, a socket or a dangling link too. */
static int
file_exists(lua_State *L)
{
    struct stat found;

    lua_pushboolean(L, lstat(luaL_checkstring(L, 1), &found) == 0);
    return 1;
}

/* list(path) → names without "." and "..". */
static int
directory_list(lua_State *L)
{
    DIR *dir = opendir(luaL_checkstring(L, 1));
    struct dirent *entry;
    lua_Integer count = 0;

    if (!dir)
        return errno_push(L, "opendir");
    lua_newtable(L);
    while ((entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        lua_pushstring(L, entry->d_name);
        lua_rawseti(L, -2, ++count);
    }
    closedir(dir);
    return 1;
}

/* mkdtemp(prefix) → a new directory, its name prefixXXXXXX. */
static int
directory_make(lua_State *L)
{
    char path[4096];
    const char *prefix = luaL_checkstring(L, 1);

    if (strlen(prefix) + 7 > sizeof(path))
        return luaL_error(L, "mkdtemp: name too long");
    strcpy(path, prefix);
    strcat(path, "XXXXXX");
    if (!mkdtemp(path))
        return errno_push(L, prefix);
    lua_pushstring(L, path);
    return 1;
}

static const luaL_Reg functions[] = {
    {"spawn", spawn},
    {"wait", wait_for},
    {"kill", kill_one},
    {"write", fd_write},
    {"close", fd_close},
    {"sleep", sleep_for},
    {"now", now},
    {"uid", user_id},
    {"pid", own_pid},
    {"nofile", nofile},
    {"adopt", adopt},
    {"ignore_pipe", ignore_pipe},
    {"environment", environment},
    {"symlink", file_symlink},
    {"readlink", file_readlink},
    {"chmod", file_chmod},
    {"exists", file_exists},
    {"list", directory_list},
    {"mkdtemp", directory_make},
    {NULL, NULL},
};

__attribute__((visibility("default"))) int
luaopen_process(lua_State *L)
{
    luaL_newlib(L, functions);
    return 1;
}

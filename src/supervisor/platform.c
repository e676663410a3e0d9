/* What is asked of the operating system: limits, processors, random bytes, children. */
#include "supervisor/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

void
mg_platform_raise_limits(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur == files.rlim_max)
        return;
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files) != 0)
        mg_log(MG_LOG_WARN, "RLIMIT_NOFILE stays where it is: %s", strerror(errno));
}

/* The quota of one cgroup v2 directory in processors, rounded up; 0 = none. */
static unsigned
cgroup_quota(const char *group)
{
    char path[1100], text[64];
    snprintf(path, sizeof(path), "/sys/fs/cgroup%s/cpu.max", group);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    bool got = fgets(text, sizeof(text), file) != NULL;
    fclose(file);
    unsigned long quota, period;
    if (!got || sscanf(text, "%lu %lu", &quota, &period) != 2 || quota == 0 || period == 0)
        return 0;
    return (unsigned)((quota + period - 1) / period);
}

/* The tightest quota on the way from our cgroup to the root; 0 = none. */
static unsigned
cgroup_processors(void)
{
    char line[1024], group[1000] = "";
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file == NULL)
        return 0;
    while (fgets(line, sizeof(line), file) != NULL)
        if (strncmp(line, "0::", 3) == 0)
            mg_str_copy(group, sizeof(group), line + 3);
    fclose(file);
    group[strcspn(group, "\n")] = '\0';
    unsigned least = 0;
    for (;;) {
        unsigned quota = cgroup_quota(group);
        if (quota > 0 && (least == 0 || quota < least))
            least = quota;
        char *slash = strrchr(group, '/');
        if (slash == NULL)
            return least;
        *slash = '\0';
    }
}

unsigned
mg_platform_processors(void)
{
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        count = CPU_COUNT(&set);
    unsigned quota = cgroup_processors();
    if (quota > 0 && quota < count)
        count = quota;
    return count < 1 ? 1 : count > MG_SHARED_WORKERS ? MG_SHARED_WORKERS : (unsigned)count;
}

void
mg_platform_close_on_exec(void)
{
    DIR *dir = opendir("/proc/self/fd");
    if (dir == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        int fd = atoi(entry->d_name);
        if (fd > STDERR_FILENO)
            fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
    closedir(dir);
}

int
mg_platform_random(void *out, size_t len, struct mg_err *err)
{
    for (size_t got = 0; got < len;) {
        ssize_t n = getrandom((char *)out + got, len - got, 0);
        if (n < 0 && errno != EINTR) {
            mg_err_set(err, "getrandom");
            return -1;
        }
        got += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

int
mg_platform_spawn(uv_loop_t *loop, uv_process_t *process, const char *role, const char *argument,
                  int channel, uv_exit_cb on_exit, uv_close_cb on_close, struct mg_err *err)
{
    uv_stdio_container_t stdio[4] = {
        {.flags = UV_IGNORE},
        {.flags = UV_INHERIT_FD, .data.fd = STDOUT_FILENO},
        {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO},
        {.flags = UV_INHERIT_FD, .data.fd = channel},
    };
    union {
        const char *in[4];
        char *out[4]; /* what uv_spawn takes, and leaves as it is */
    } args = {{"moongate", role, argument, NULL}};
    uv_process_options_t options = {
        .exit_cb = on_exit,
        .file = "/proc/self/exe", /* the same file, even if another has taken its name */
        .args = args.out,
        .stdio_count = MG_ARRAY_LEN(stdio),
        .stdio = stdio,
    };
    int code = uv_spawn(loop, process, &options);
    if (code == 0)
        return 0;
    mg_err_setx(err, "starting a process: %s", uv_strerror(code));
    uv_close((uv_handle_t *)process, on_close);
    return -1;
}

/*
 * When descriptors run out, or memory (memory.c), or the kernel's for sockets.
 *
 * The happy path is: there are enough, and nothing here runs. Possible failure modes are: accept or socket
 * fails for want of one, or a connection was accepted of which it is foreseeable that it, or one of those
 * before, will not get another for its backend. Then nobody polls a listening socket: who comes waits in
 * the kernel's queue, and who is connected goes on. Every PROBE_MS it is tried whether there is room
 * again; while there is none the owner is asked to close what it can do without (on_short). One such episode is
 * one line in the log when it begins, and one when none has followed for QUIET_MS.
 */
#include "net/internal.h"

#include <dirent.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROBE_MS    100
#define COUNT_MS    1000
#define QUIET_MS    5000
#define RESERVE_MAX 32u /* log files, name servers, … */

static uint64_t
descriptors_max(void)
{
    struct rlimit limit;

    return getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY
               ? (uint64_t)limit.rlim_cur
               : UINT64_MAX / 2;
}

/* 0: it cannot be known. Linux tells as a size from 6.2 on. */
static uint64_t
descriptors_open(void)
{
    static const char path[] = "/proc/self/fd";
    struct stat all;
    uint64_t count = 0;
    DIR *dir;

    if (stat(path, &all) == 0 && all.st_size > 0)
        return (uint64_t)all.st_size;
    dir = opendir(path);
    while (dir != NULL && readdir(dir) != NULL)
        count++;
    if (dir != NULL)
        closedir(dir);
    return count > 3 ? count - 3 : 0; /* ".", ".." and its own */
}

/* How many there are that are no streams' changes seldom: that is looked at where it may matter. */
static void
others_count(struct mg_net *net, uint64_t about)
{
    uint64_t now = uv_now(net->loop), open;

    if (about + about / 3 < net->descriptors_max ||
        (net->counted_at != 0 && now - net->counted_at < COUNT_MS))
        return;
    net->counted_at = now;
    open = descriptors_open();
    net->others = open > net->streams ? (size_t)open - net->streams : 0;
}

/* The kernel gives the lowest number that is free, so that there are `fd` at least; and more than that if it was one
 * that somebody has left. */
static bool
is_scarce(struct mg_net *net, int fd)
{
    uint64_t reserve = net->descriptors_max / 16, used = (uint64_t)fd;

    if (reserve > RESERVE_MAX)
        reserve = RESERVE_MAX;
    if (used < net->streams + net->others)
        used = net->streams + net->others;
    others_count(net, used + net->wanted + reserve);
    if (used < net->streams + net->others)
        used = net->streams + net->others;
    return used + net->wanted + reserve >= net->descriptors_max;
}

static void on_timer(uv_timer_t *timer);

static void
short_set(struct mg_net *net, int error)
{
    net->short_of = error;
    uv_timer_start(&net->shortage, on_timer, error != 0 ? PROBE_MS : QUIET_MS, 0);
    for (struct mg_acceptor *a = net->acceptors; a != NULL; a = a->next)
        mg_acceptor_update(a);
}

void
mg_net_shortage(struct mg_net *net, int error)
{
    if (net->closing || net->short_of != 0)
        return;
    if (!net->shortage_said)
        mg_log(MG_LOG_WARN, "%s: accepting pauses, those who are connected go on",
               strerror(-error));
    net->shortage_said = true;
    short_set(net, error);
}

void
mg_net_accepted(struct mg_net *net, int fd)
{
    if (is_scarce(net, fd))
        mg_net_shortage(net, UV_EMFILE);
}

/* Where there is nobody who could give one back, whatever there is must do. */
static bool
room_again(struct mg_net *net)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return false;
    close(fd);
    net->descriptors_max = descriptors_max();
    return net->streams == 0 || (!is_scarce(net, fd) && !mg_memory_is_short(net));
}

static void
on_timer(uv_timer_t *timer)
{
    struct mg_net *net = timer->data;

    if (net->short_of != 0) {
        bool room = room_again(net);

        if (!room && net->on_short != NULL)
            net->on_short(net);
        short_set(net, room ? 0 : net->short_of);
    } else {
        net->shortage_said = false;
        mg_log(MG_LOG_INFO, "accepting goes on as before");
    }
}

void
mg_shortage_init(struct mg_net *net)
{
    uv_timer_init(net->loop, &net->shortage);
    net->shortage.data = net;
    net->descriptors_max = descriptors_max();
    mg_memory_is_short(net); /* which opens what it needs */
    mg_net_hold(net);
}

static void
on_close(uv_handle_t *handle)
{
    mg_net_release(handle->data);
}

void
mg_shortage_fini(struct mg_net *net)
{
    uv_close((uv_handle_t *)&net->shortage, on_close);
}

/*
 * measure.h: what the bench's programs share besides peer.h: clocks, samples, epoll, and the language
 * that generator and backend speak through the proxy.
 *
 * An exchange is an ask (16 bytes: how many bytes follow it, how many are wanted), the bytes that
 * follow, and the bytes wanted. A download asks for many, an upload brings many, a request of 100 B
 * brings 84 and wants 100: everything is measured with this.
 */
#ifndef MEASURE_H
#define MEASURE_H

#include "peer.h"

#include <sys/epoll.h>

#define UNIT     (256 * 1024) /* of one read or write */
#define ASK_SIZE 16

struct ask {
    uint64_t brings, wants;
};

static inline uint64_t
clock_ns(clockid_t clock)
{
    struct timespec now;

    if (clock_gettime(clock, &now) != 0)
        die("clock_gettime: %s", strerror(errno));
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static inline uint64_t
now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

/* CPU time that the processes of the list "12,34" have used, with all threads that they ever had. */
static inline uint64_t
cpu_ns(const char *pids)
{
    uint64_t sum = 0;

    while (pids && *pids) {
        char *end;
        pid_t pid = (pid_t)strtol(pids, &end, 10);
        clockid_t clock;

        if (end == pids || clock_getcpuclockid(pid, &clock) != 0)
            die("--cpu: no process at %s", pids);
        sum += clock_ns(clock);
        pids = *end == ',' ? end + 1 : end;
    }
    return sum;
}

static inline double
option_double(const struct options *o, const char *name, double fallback)
{
    const char *text = option_text(o, name);
    char *end;
    double number;

    if (!text)
        return fallback;
    number = strtod(text, &end);
    if (end == text || *end != '\0')
        die("%s: %s is no number", name, text);
    return number;
}

/* ---- samples ----------------------------------------------------------------------------------- */

struct samples {
    uint32_t *ns;
    size_t count, room;
};

static inline void
samples_add(struct samples *s, uint64_t ns)
{
    if (s->count == s->room) {
        s->room = s->room ? 2 * s->room : 4096;
        s->ns = realloc(s->ns, s->room * sizeof(*s->ns));
        if (!s->ns)
            die("no memory");
    }
    s->ns[s->count++] = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

static inline int
samples_compare(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

    return (left > right) - (left < right);
}

static inline void
samples_sort(struct samples *s)
{
    if (s->count > 0)
        qsort(s->ns, s->count, sizeof(*s->ns), samples_compare);
}

/* In microseconds; after samples_sort. */
static inline double
samples_at(const struct samples *s, double share)
{
    size_t at = (size_t)((double)s->count * share);

    if (s->count == 0)
        return 0;
    return s->ns[at < s->count ? at : s->count - 1] / 1e3;
}

/* ---- epoll -------------------------------------------------------------------------------------- */

static inline int
epoll_open(void)
{
    int fd = epoll_create1(EPOLL_CLOEXEC);

    if (fd < 0)
        die("epoll: %s", strerror(errno));
    return fd;
}

static inline void
watch(int epoll, int fd, void *ptr)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP,
                                .data.ptr = ptr};

    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        die("epoll_ctl: %s", strerror(errno));
}

/* ---- the imitation of a handshake --------------------------------------------------------------- */

/* What a TLS handshake sends, without TLS: the floor's relay answers the client's flights with
 * flights of the same sizes, and drops the client's last one, which goes with the first request. */
struct flights {
    size_t count;
    struct {
        size_t from_client, from_server;
    } flight[4];
    size_t last;
};

/* "517:1300,93:250/58"; NULL is none. */
static inline void
flights_parse(struct flights *f, const char *text)
{
    memset(f, 0, sizeof(*f));
    while (text && *text && *text != '/') {
        int used = 0;

        if (f->count == 4 || sscanf(text, "%zu:%zu%n", &f->flight[f->count].from_client,
                                    &f->flight[f->count].from_server, &used) != 2)
            die("--flights: %s is not CLIENT:SERVER", text);
        f->count++;
        text += used;
        text += *text == ',';
    }
    if (text && *text == '/')
        f->last = strtoul(text + 1, NULL, 10);
}

#endif

/*
 * backend: what stands behind every proxy of the bench. Answers asks (measure.h) over plain TCP, any
 * number on a connection, many connections at once. Ends with stdin.
 *
 *   backend serve --listen ADDR
 *
 * The happy path of a connection: read an ask, read what it brings, write what it wants, and again.
 * A clean end is answered by a clean end; anything else just closes.
 */
#include "measure.h"

struct conn {
    int fd;
    bool hup; /* an end is waiting behind what can be read */
    unsigned char ask[ASK_SIZE];
    size_t ask_len;
    uint64_t brings, wants; /* of the current exchange, still to come and to go */
};

static unsigned char unit[UNIT];

/* What `len` bytes from the client mean; stops where an exchange is complete, which is written first.
 * Returns how many were taken. */
static size_t
take(struct conn *c, const unsigned char *bytes, size_t len)
{
    size_t used = 0;

    while (used < len && c->wants == 0) {
        size_t part = len - used;

        if (c->brings > 0) {
            part = part < c->brings ? part : (size_t)c->brings;
            c->brings -= part;
            used += part;
        } else {
            part = part < ASK_SIZE - c->ask_len ? part : ASK_SIZE - c->ask_len;
            memcpy(c->ask + c->ask_len, bytes + used, part);
            c->ask_len += part;
            used += part;
            if (c->ask_len < ASK_SIZE)
                break;
            memcpy(&c->brings, c->ask, sizeof(c->brings));
        }
        if (c->ask_len == ASK_SIZE && c->brings == 0) {
            memcpy(&c->wants, c->ask + sizeof(c->brings), sizeof(c->wants));
            c->ask_len = 0;
        }
    }
    return used;
}

/* false: the connection is over. */
static bool
answer(struct conn *c)
{
    static const unsigned char zeros[UNIT];

    while (c->wants > 0) {
        size_t len = c->wants < UNIT ? (size_t)c->wants : UNIT;
        ssize_t put = send(c->fd, zeros, len, MSG_NOSIGNAL);

        if (put < 0)
            return errno == EAGAIN;
        c->wants -= (size_t)put;
    }
    return true;
}

static bool
step(struct conn *c)
{
    if (!answer(c))
        return false;
    while (c->wants == 0) {
        ssize_t got = recv(c->fd, unit, sizeof(unit), 0);
        size_t used = 0;

        if (got <= 0)
            return got < 0 && errno == EAGAIN;
        while (used < (size_t)got) {
            used += take(c, unit + used, (size_t)got - used);
            if (!answer(c))
                return false;
            if (c->wants > 0 && used < (size_t)got)
                return false; /* asks are not sent ahead by our generator */
        }
        if ((size_t)got < sizeof(unit) && !c->hup)
            break;
    }
    return true;
}

static void
accept_all(int epoll, int listener)
{
    int fd, on = 1;

    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = calloc(1, sizeof(*c));

        if (!c)
            die("no memory");
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        watch(epoll, fd, c);
    }
}

int
main(int argc, char **argv)
{
    struct options o = {argc, argv};
    struct epoll_event events[256], input = {.events = EPOLLIN, .data.ptr = NULL};
    int epoll = epoll_open(), listener;

    descriptors_raise();
    listener = listen_open(option(&o, "--listen", "127.0.0.1:0"));
    watch(epoll, listener, &listener);
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &input);
    for (;;) {
        int count = epoll_wait(epoll, events, 256, -1);

        for (int i = 0; i < count; i++) {
            struct conn *c = events[i].data.ptr;
            char drop[64];

            if (!c) {
                if (read(0, drop, sizeof(drop)) <= 0)
                    return 0;
            } else if (events[i].data.ptr == &listener) {
                accept_all(epoll, listener);
            } else {
                c->hup |= (events[i].events & (EPOLLRDHUP | EPOLLHUP)) != 0;
                if (step(c))
                    continue;
                close(c->fd);
                free(c);
            }
        }
    }
}

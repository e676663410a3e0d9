/*
 * relay: the floor of a proxy. Plain TCP from one address to another, with the fewest system calls
 * that epoll allows and no TLS: what no TLS proxy can be cheaper than. Ends with stdin.
 *
 *   relay serve --listen ADDR --connect ADDR [--flights 517:1300/74]
 *
 * With --flights it first has the conversation that a TLS handshake would have (measure.h).
 *
 * The happy path of a pair: answer the flights, drop the client's last one, connect, relay. What the
 * kernel would not take stays with the receiving side, and the other one is not read meanwhile. An end is
 * passed on; when both sides have ended, or one is broken, the pair is closed.
 */
#include "measure.h"

struct side {
    struct pair *pair;
    struct side *twin;
    int fd;
    unsigned char *rest; /* what could not be written to this side */
    size_t rest_len, rest_off;
    bool ended, told; /* its end has come; the twin's end was passed on to it */
    bool hup;         /* an end is waiting behind what can be read */
};

struct pair {
    struct side down, up; /* client, backend */
    size_t flight, got;   /* flights answered, bytes of the current one */
    bool broken;
    struct pair *next; /* of those to be freed when all events of the turn have been looked at */
};

static struct address target;
static struct flights flights;
static int epoll;
static unsigned char unit[UNIT];
static struct pair *closed;

static void
pair_close(struct pair *p)
{
    if (p->broken)
        return;
    p->broken = true;
    close(p->down.fd);
    if (p->up.fd >= 0)
        close(p->up.fd);
    p->next = closed;
    closed = p;
}

static void
closed_free(void)
{
    while (closed) {
        struct pair *p = closed;

        closed = p->next;
        free(p->down.rest);
        free(p->up.rest);
        free(p);
    }
}

static bool
side_flush(struct side *s)
{
    while (s->rest_off < s->rest_len) {
        ssize_t put = send(s->fd, s->rest + s->rest_off, s->rest_len - s->rest_off, MSG_NOSIGNAL);

        if (put < 0)
            return errno == EAGAIN || errno == ENOTCONN;
        s->rest_off += (size_t)put;
    }
    free(s->rest);
    s->rest = NULL;
    s->rest_len = s->rest_off = 0;
    return true;
}

static bool
side_write(struct side *s, const unsigned char *bytes, size_t len)
{
    ssize_t put = s->fd < 0 ? 0 : send(s->fd, bytes, len, MSG_NOSIGNAL);

    if (put < 0 && errno != EAGAIN && errno != ENOTCONN)
        return false;
    put = put < 0 ? 0 : put;
    if ((size_t)put < len) {
        s->rest_len = len - (size_t)put;
        s->rest = malloc(s->rest_len);
        if (!s->rest)
            die("no memory");
        memcpy(s->rest, bytes + put, s->rest_len);
    }
    return true;
}

/* Reads from `s` for as long as the twin takes all. */
static bool
side_relay(struct side *s)
{
    struct side *twin = s->twin;

    while (!s->ended && twin->rest_len == 0 && twin->fd >= 0) {
        ssize_t got = recv(s->fd, unit, sizeof(unit), 0);

        if (got < 0)
            return errno == EAGAIN || errno == ENOTCONN;
        if (got == 0)
            s->ended = true;
        else if (!side_write(twin, unit, (size_t)got))
            return false;
        if (got > 0 && (size_t)got < sizeof(unit) && !s->hup)
            break; /* edge-triggered: more means another event */
    }
    if (s->ended && !twin->told && twin->rest_len == 0 && twin->fd >= 0) {
        twin->told = true;
        shutdown(twin->fd, SHUT_WR);
    }
    return true;
}

static bool
backend_connect(struct pair *p)
{
    int on = 1;

    p->up.fd = socket(target.u.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (p->up.fd < 0)
        return false;
    setsockopt(p->up.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (connect(p->up.fd, &target.u.sa, target.len) != 0 && errno != EINPROGRESS)
        return false;
    watch(epoll, p->up.fd, &p->up);
    return true;
}

/* The imitated handshake, then what came with the client's last flight. */
static bool
flights_answer(struct pair *p)
{
    ssize_t got = recv(p->down.fd, unit, sizeof(unit), 0);

    if (got <= 0)
        return got < 0 && errno == EAGAIN;
    p->got += (size_t)got;
    if (p->flight < flights.count) {
        if (p->got < flights.flight[p->flight].from_client)
            return true;
        p->got = 0;
        return side_write(&p->down, unit, flights.flight[p->flight++].from_server);
    }
    if (p->got < flights.last)
        return true;
    p->flight++;
    if (!backend_connect(p))
        return false;
    if (p->got == flights.last)
        return true;
    return side_write(&p->up, unit + got - (p->got - flights.last), p->got - flights.last);
}

static void
side_step(struct side *s)
{
    struct pair *p = s->pair;
    bool well;

    if (p->broken)
        return;
    if (s == &p->down && flights.count > 0 && p->flight <= flights.count)
        well = flights_answer(p);
    else
        well = side_flush(s) && side_relay(s->twin) && side_relay(s);
    if (!well || (p->down.ended && p->up.ended && p->down.rest_len == 0 && p->up.rest_len == 0))
        pair_close(p);
}

static void
accept_all(int listener)
{
    int fd, on = 1;

    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct pair *p = calloc(1, sizeof(*p));

        if (!p)
            die("no memory");
        p->down = (struct side){.pair = p, .twin = &p->up, .fd = fd};
        p->up = (struct side){.pair = p, .twin = &p->down, .fd = -1};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        watch(epoll, fd, &p->down);
        if (flights.count == 0 && !backend_connect(p))
            pair_close(p);
    }
}

int
main(int argc, char **argv)
{
    struct options o = {argc, argv};
    struct epoll_event events[256], input = {.events = EPOLLIN, .data.ptr = NULL};
    int listener;

    descriptors_raise();
    address_parse(&target, option(&o, "--connect", ""));
    flights_parse(&flights, option_text(&o, "--flights"));
    epoll = epoll_open();
    listener = listen_open(option(&o, "--listen", "127.0.0.1:0"));
    watch(epoll, listener, &listener);
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &input);
    for (;;) {
        int count = epoll_wait(epoll, events, 256, -1);

        for (int i = 0; i < count; i++) {
            void *ptr = events[i].data.ptr;
            char drop[64];

            if (!ptr) {
                if (read(0, drop, sizeof(drop)) <= 0)
                    return 0;
            } else if (ptr == &listener) {
                accept_all(listener);
            } else {
                struct side *s = ptr;

                s->hup |= (events[i].events & (EPOLLRDHUP | EPOLLHUP)) != 0;
                side_step(s);
            }
        }
        closed_free();
    }
}

/*
 * load: thousands of connections at once.
 *
 *   load echo-server --listen ADDR [--tls --cert --key]
 *       Sends everything back; answers a clean end by a clean end, an abort by an abort. A line on stdin
 * changes what it does, and is printed when it has: "refuse" closes the listening socket, and nothing else;
 * "reset" resets all connections, and from then on each that comes; "serve" is all as it was. Ends with
 * stdin and prints accepted=, bytes=.
 *
 *   load echo --connect ADDR [--hold N] [--churn N] [--every MS] [--message BYTES] [--pause MS]
 * [--stuck MS] [--tls …]
 *       --hold    so many connections live until the end, each exchanging a message every --pause
 * ms
 *       --churn   so many at a time are opened, exchange one message, are closed cleanly and opened
 * again, --every ms (0) after that. Every answer is compared, and waited for --stuck ms (20000). Ends with stdin: messages under way are
 * finished, everything is closed cleanly and the other side's end is waited for. Prints a line "progress …" five times a
 * second and the same keys at the end: opened, holding (held connections that have had an answer
 * and are well), churned (short ones that ended well), failed (how many did not), early (those of
 * them that never had an answer), bytes, pause_ms (longest wait for an answer), reasons (what
 * failed, how often: reason=count,…).
 *
 * TLS options as in peer.
 */
#include "peer.h"

#include <sys/epoll.h>

#define UNIT    (16 * 1024)
#define STUCK   20000 /* ms until an answer is given up, unless told otherwise */
#define REASONS 16

static volatile bool stdin_ended;

static int
epoll_open(void)
{
    int fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};

    if (fd < 0)
        die("epoll: %s", strerror(errno));
    epoll_ctl(fd, EPOLL_CTL_ADD, 0,
              &event); /* stdin; a regular file cannot be watched: never ends */
    return fd;
}

/* The line, without its end; empty at the end of it all. */
static const char *
stdin_read(int epoll)
{
    static char buf[256];
    ssize_t len = read(0, buf, sizeof(buf) - 1);

    if (len <= 0) {
        stdin_ended = true;
        epoll_ctl(epoll, EPOLL_CTL_DEL, 0, NULL);
        len = 0;
    }
    buf[len] = '\0';
    buf[strcspn(buf, "\n")] = '\0';
    return buf;
}

static void
watch(int epoll, int fd, void *ptr)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP,
                                .data.ptr = ptr};

    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        die("epoll_ctl: %s", strerror(errno));
}

/* ---- echo-server ------------------------------------------------------------------------------
 */

struct echo {
    struct echo *next, **pprev; /* in echoes */
    struct link link;
    unsigned char *buf; /* made for what could not be sent back at once */
    size_t len, off;
};

static struct echo *echoes;
static uint64_t echoed, accepted;

/* false: the connection is over. */
static bool
echo_step(struct echo *e)
{
    static unsigned char unit[UNIT];
    bool broken = false;

    if (!link_ready(&e->link))
        return !e->link.ended;
    for (;;) {
        size_t got, put;

        while (e->off < e->len) {
            put = link_write(&e->link, e->buf + e->off, e->len - e->off, &broken);
            e->off += put;
            if (broken)
                return false;
            if (put == 0)
                return true;
        }
        free(e->buf);
        e->buf = NULL;
        e->len = e->off = 0;
        got = link_read(&e->link, unit, UNIT);
        echoed += got;
        if (got == 0)
            break;
        put = link_write(&e->link, unit, got, &broken);
        if (broken)
            return false;
        if (put < got) {
            e->len = got - put;
            e->buf = malloc(e->len);
            memcpy(e->buf, unit + put, e->len);
        }
    }
    if (e->link.notified || (e->link.ended && !e->link.ssl && strcmp(e->link.end, "fin") == 0)) {
        link_notify(&e->link);
        link_end(&e->link, "clean");
        strcpy(e->link.end, "clean");
    }
    return !e->link.ended;
}

static void
echo_end(struct echo *e)
{
    *e->pprev = e->next;
    if (e->next)
        e->next->pprev = e->pprev;
    link_close(&e->link, strcmp(e->link.end, "clean") != 0);
    free(e->buf);
    free(e);
}

static void
echo_start(int epoll, int fd, SSL_CTX *ctx)
{
    struct echo *e = calloc(1, sizeof(*e));

    if (!e)
        die("no memory");
    e->next = echoes;
    e->pprev = &echoes;
    if (e->next)
        e->next->pprev = &e->next;
    echoes = e;
    link_start(&e->link, fd, ctx, true);
    watch(epoll, fd, e);
}

struct server {
    const char *address; /* for whom closes and listens again, with a port of its own */
    SSL_CTX *ctx;
    int epoll, listener;
    bool resets;
};

static void
server_accept(struct server *s)
{
    int fd;

    while ((fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        accepted++;
        echo_start(s->epoll, fd, s->ctx);
        if (s->resets)
            echo_end(echoes);
    }
}

static void
server_obey(struct server *s, const char *line)
{
    s->resets = strcmp(line, "reset") == 0;
    while (s->resets && echoes)
        echo_end(echoes);
    if (strcmp(line, "refuse") == 0 && s->listener >= 0) {
        close(s->listener);
        s->listener = -1;
    } else if (strcmp(line, "serve") == 0 && s->listener < 0) {
        s->listener = listen_open(s->address);
        watch(s->epoll, s->listener, &s->listener);
    }
    printf("%s\n", line);
    fflush(stdout);
}

static int
command_echo_server(const struct options *o)
{
    struct server s = {.ctx = context_open(o, true), .epoll = epoll_open()};
    struct epoll_event events[256];

    s.address = option(o, "--listen", "");
    s.listener = listen_open(s.address);
    watch(s.epoll, s.listener, &s.listener);
    while (!stdin_ended) {
        int count = epoll_wait(s.epoll, events, 256, -1);
        const char *line = "";

        for (int i = 0; i < count; i++) {
            struct echo *e = events[i].data.ptr;

            if (!e)
                line = stdin_read(s.epoll);
            else if (events[i].data.ptr == &s.listener)
                server_accept(&s);
            else if (!echo_step(e))
                echo_end(e);
        }
        if (*line) /* when no event is left of a connection that it may end */
            server_obey(&s, line);
    }
    printf("accepted=%llu bytes=%llu\n", (unsigned long long)accepted, (unsigned long long)echoed);
    return 0; /* what is still open goes with the process, as the spec wanted */
}

/* ---- echo -------------------------------------------------------------------------------------
 */

enum phase { PHASE_OPENING, PHASE_ASKING, PHASE_PAUSING, PHASE_CLOSING, PHASE_GONE };

struct client {
    struct link link;
    struct stream out, in; /* the same bytes: sent, and compared with what comes */
    uint64_t send_left, get_left;
    uint64_t since; /* when the phase began, or the message was sent */
    enum phase phase;
    bool held, answered;
};

static struct {
    struct address to;
    SSL_CTX *ctx;
    char *servername;
    uint64_t message, pause, every, stuck;
    int epoll;
    uint64_t opened, holding, churned, failed, early, bytes, pause_ms, living;
    struct {
        char text[96];
        uint64_t count;
    } reason[REASONS];
    size_t reason_count;
} load;

static void
reason_count(const char *phase, const char *end)
{
    char text[96];
    size_t i;

    snprintf(text, sizeof(text), "%s:%s", phase, end);
    for (char *c = text; *c; c++)
        if (*c == ',' || *c == '=' || *c == ' ')
            *c = '_';
    for (i = 0; i < load.reason_count; i++)
        if (strcmp(load.reason[i].text, text) == 0)
            break;
    if (i == load.reason_count) {
        if (i == REASONS)
            return;
        memcpy(load.reason[i].text, text, sizeof(text));
        load.reason_count++;
    }
    load.reason[i].count++;
}

static void
report(const char *prefix)
{
    printf(
        "%sopened=%llu holding=%llu churned=%llu failed=%llu early=%llu bytes=%llu pause_ms=%llu "
        "living=%llu reasons=",
        prefix, (unsigned long long)load.opened, (unsigned long long)load.holding,
        (unsigned long long)load.churned, (unsigned long long)load.failed,
        (unsigned long long)load.early, (unsigned long long)load.bytes,
        (unsigned long long)load.pause_ms, (unsigned long long)load.living);
    for (size_t i = 0; i < load.reason_count; i++)
        printf("%s%s*%llu", i ? "," : "", load.reason[i].text,
               (unsigned long long)load.reason[i].count);
    printf("\n");
    fflush(stdout);
}

static void
client_open(struct client *c)
{
    bool held = c->held;

    memset(c, 0, sizeof(*c));
    c->held = held;
    c->since = now_ms();
    stream_start(&c->out, ++load.opened);
    c->in = c->out;
    load.living++;
    link_connect(&c->link, &load.to, load.ctx, load.servername);
    watch(load.epoll, c->link.fd, c);
}

static void
client_gone(struct client *c)
{
    link_close(&c->link, false);
    c->phase = PHASE_GONE;
    load.living--;
}

static void
client_fail(struct client *c, const char *why)
{
    static const char *const phases[] = {"open", "ask", "pause", "close"};

    reason_count(phases[c->phase], why);
    load.failed++;
    load.early += !c->answered;
    if (c->held && c->answered)
        load.holding--;
    client_gone(c);
}

static void
client_ask(struct client *c)
{
    struct stream size;

    stream_start(&size, load.opened + load.bytes);
    c->send_left = c->get_left = 1 + stream_word(&size) % load.message;
    c->since = now_ms();
    c->phase = PHASE_ASKING;
}

static void
client_close(struct client *c)
{
    c->phase = PHASE_CLOSING;
    c->since = now_ms();
    link_notify(&c->link);
    if (!c->link.ssl)
        shutdown(c->link.fd, SHUT_WR);
}

static void
client_answered(struct client *c)
{
    uint64_t took = now_ms() - c->since;

    if (took > load.pause_ms)
        load.pause_ms = took;
    if (!c->answered && c->held)
        load.holding++;
    c->answered = true;
    if (!c->held || stdin_ended) {
        client_close(c);
    } else {
        c->phase = PHASE_PAUSING;
        c->since = now_ms();
    }
}

static void
client_send(struct client *c)
{
    unsigned char buf[UNIT];

    while (c->send_left > 0) {
        struct stream before = c->out;
        size_t len = c->send_left < UNIT ? (size_t)c->send_left : UNIT, put;
        bool broken;

        stream_fill(&c->out, buf, len);
        put = link_write(&c->link, buf, len, &broken);
        if (put < len) { /* rewind to what was taken */
            c->out = before;
            stream_fill(&c->out, buf, put);
        }
        c->send_left -= put;
        if (put < len)
            return;
    }
}

/* false: what came is not what was sent. */
static bool
client_compare(struct client *c, const unsigned char *got, size_t len)
{
    unsigned char expected[UNIT];

    if (len > c->get_left)
        return false;
    stream_fill(&c->in, expected, len);
    c->get_left -= len;
    load.bytes += len;
    return memcmp(expected, got, len) == 0;
}

static void
client_step(struct client *c)
{
    unsigned char buf[UNIT];

    if (c->phase == PHASE_GONE)
        return;
    if (!link_ready(&c->link)) {
        if (c->link.ended)
            client_fail(c, c->link.end);
        return;
    }
    if (c->phase == PHASE_OPENING)
        client_ask(c);
    for (;;) {
        size_t got;

        if (c->phase == PHASE_ASKING)
            client_send(c);
        got = link_read(&c->link, buf, sizeof(buf));
        if (got == 0)
            break;
        if (c->phase != PHASE_ASKING || !client_compare(c, buf, got)) {
            client_fail(c, "other bytes than were sent");
            return;
        }
        if (c->get_left == 0)
            client_answered(c);
    }
    if (c->link.notified && !c->link.ended)
        link_read(&c->link, buf, sizeof(buf)); /* the FIN may be there already */
    if (!c->link.ended && !c->link.notified)
        return;
    if (c->phase == PHASE_CLOSING &&
        (c->link.notified || (!c->link.ssl && strcmp(c->link.end, "fin") == 0))) {
        load.churned += !c->held;
        client_gone(c);
    } else {
        client_fail(c, c->link.ended ? c->link.end : "close_notify");
    }
}

/* What time does: the next message, the end, and giving up. */
static void
client_tick(struct client *c, uint64_t now)
{
    uint64_t waited = now > c->since ? now - c->since : 0; /* opened since `now` was taken */

    if (c->phase == PHASE_GONE) {
        if (!c->held && !stdin_ended && waited >= load.every)
            client_open(c);
        return;
    }
    if (c->phase == PHASE_PAUSING && stdin_ended) {
        client_close(c);
    } else if (c->phase == PHASE_PAUSING && waited >= load.pause) {
        client_ask(c);
        client_step(c);
    } else if (c->phase != PHASE_PAUSING && waited > load.stuck) {
        client_fail(c, "stuck");
    }
}

static int
command_echo(const struct options *o)
{
    uint64_t hold = option_number(o, "--hold", 0), churn = option_number(o, "--churn", 0);
    struct client *clients = calloc(hold + churn, sizeof(*clients));
    struct epoll_event events[256];
    uint64_t ticked = 0, reported = now_ms(), started = 0;

    if (!clients)
        die("no memory, or neither --hold nor --churn");
    address_parse(&load.to, option(o, "--connect", ""));
    load.ctx = context_open(o, false);
    load.servername = option_text(o, "--servername");
    load.message = option_number(o, "--message", 4096);
    load.pause = option_number(o, "--pause", 500);
    load.every = option_number(o, "--every", 0);
    load.stuck = option_number(o, "--stuck", STUCK);
    load.epoll = epoll_open();
    for (uint64_t i = 0; i < hold + churn; i++) {
        clients[i].held = i < hold;
        clients[i].phase = PHASE_GONE;
    }
    while (!stdin_ended || load.living > 0) {
        int count = epoll_wait(load.epoll, events, 256, 10);
        uint64_t now;

        for (int i = 0; i < count; i++) {
            struct client *c = events[i].data.ptr;
            if (!c)
                stdin_read(load.epoll);
            else
                client_step(c);
        }
        now = now_ms();
        if (now - ticked >= 10) {
            /* held connections are opened a few per tick, so that connecting is no storm of its own
             */
            for (int i = 0; i < 20 && started < hold && !stdin_ended; i++)
                client_open(&clients[started++]);
            for (uint64_t i = 0; i < hold + churn; i++)
                client_tick(&clients[i], now);
            ticked = now;
        }
        if (now - reported >= 200) {
            report("progress ");
            reported = now;
        }
    }
    report("");
    free(clients);
    SSL_CTX_free(load.ctx);
    return 0;
}

int
main(int argc, char **argv)
{
    struct options o = {argc, argv};

    signal(SIGPIPE, SIG_IGN);
    descriptors_raise();
    if (argc > 1 && strcmp(argv[1], "echo-server") == 0)
        return command_echo_server(&o);
    if (argc > 1 && strcmp(argv[1], "echo") == 0)
        return command_echo(&o);
    die("usage: load echo-server|echo …");
}

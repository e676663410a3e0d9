/*
 * generator: the clients of the bench. Never blocks, serves all its connections from one loop, and
 * reads the CPU clocks of the proxy's processes itself, immediately before and after what is measured.
 *
 *   generator churn     --connect ADDR --cpu PIDS: opens a connection, has one exchange, closes it
 *                       cleanly, waits for the other side's end, and again; --connections (8) at a time
 *   generator exchange  the connections are opened first, then have one exchange after the other, or
 *                       --rate so many a second together; late ones count from when they were due
 *   generator raw       like exchange with a download without end whose records are counted and
 *                       dropped undecrypted, so that the proxy and not this program is what is busy
 *   generator hold      opens --connections and waits for lines on stdin: "traffic" (an exchange on
 *                       each), "close"; each answered by a line "NAME done"; ends with stdin
 *
 * --seconds S (--until-stdin: or until a line comes), --warm S (before the clocks are read), --brings, --wants bytes of an exchange, --tls,
 * --tls-version, --ciphers, --ciphersuites, --sigalgs, --resume ticket|id; --flights instead of --tls.
 *
 * Prints units= failed= resumed= seconds= cpu_ns= bytes= (both ways) p50_us= p99_us= max_us= and
 * reason= of the last failure. A unit is a connection (churn) or an exchange; what was begun is finished
 * before the clocks are read again, so that units and CPU time are of the same work. Latency is that of
 * an exchange, in churn from connect to the last byte of the answer.
 */
#include "measure.h"

enum phase { PHASE_OPENING, PHASE_IDLE, PHASE_ASKING, PHASE_CLOSING, PHASE_GONE };

struct conn {
    struct link link;
    enum phase phase;
    uint64_t since;           /* when the exchange was due or the connection opened */
    uint64_t sent, send, get; /* of the exchange: bytes sent, to be sent, still to come */
    size_t flight, flight_got;
    size_t last; /* bytes of the imitated last flight, which go ahead of the first ask */
    bool flight_sent;
};

static struct {
    struct address to;
    SSL_CTX *ctx;
    SSL_SESSION *session; /* NULL = full handshakes */
    struct flights flights;
    struct ask ask;
    int epoll;
    bool churn, keep_sessions;
    uint64_t until;    /* no exchange begins after it */
    uint64_t interval; /* ns between exchanges of all connections together; 0 = at once */
    uint64_t due;      /* the next one at a fixed rate */
    uint64_t units, failed, resumed, bytes, living;
    char reason[96];
    struct samples samples;
} load;

static unsigned char unit[UNIT];

static void
conn_open(struct conn *c)
{
    memset(c, 0, sizeof(*c));
    c->since = now_ns();
    c->last = load.flights.last;
    load.living++;
    link_connect(&c->link, &load.to, load.ctx, NULL);
    if (c->link.ssl && load.session)
        SSL_set_session(c->link.ssl, load.session);
    watch(load.epoll, c->link.fd, c);
}

static void
conn_gone(struct conn *c)
{
    link_close(&c->link, false);
    c->phase = PHASE_GONE;
    load.living--;
}

static void
conn_fail(struct conn *c, const char *why)
{
    static const char *const phases[] = {"open", "idle", "ask", "close"};

    snprintf(load.reason, sizeof(load.reason), "%s:%s", phases[c->phase], why);
    load.failed++;
    conn_gone(c);
}

static void
conn_ask(struct conn *c)
{
    c->phase = PHASE_ASKING;
    c->sent = 0;
    c->send = c->last + ASK_SIZE + load.ask.brings;
    c->get = load.ask.wants;
}

/* false: cannot go on now. The ask stands at the beginning, behind the imitated last flight. */
static bool
conn_send(struct conn *c)
{
    static unsigned char head[UNIT];
    size_t ask_end = c->last + ASK_SIZE;

    while (c->sent < c->send) {
        bool broken, first = c->sent < ask_end;
        size_t off = first ? (size_t)c->sent : 0, len = UNIT - off, put;

        if (first) {
            memcpy(head + c->last, &load.ask.brings, 8);
            memcpy(head + c->last + 8, &load.ask.wants, 8);
        }
        len = len < c->send - c->sent ? len : (size_t)(c->send - c->sent);
        put = link_write(&c->link, (first ? head : unit) + off, len, &broken);
        c->sent += put;
        load.bytes += put;
        if (put == 0)
            return false;
    }
    c->last = 0;
    return true;
}

static void
conn_close(struct conn *c)
{
    c->phase = PHASE_CLOSING;
    link_notify(&c->link);
    shutdown(c->link.fd, SHUT_WR);
}

static void
conn_answered(struct conn *c)
{
    uint64_t now = now_ns();

    samples_add(&load.samples, now - c->since);
    load.units++;
    if (load.churn) {
        conn_close(c);
        return;
    }
    c->phase = PHASE_IDLE;
    if (load.interval == 0 && now < load.until) {
        c->since = now;
        conn_ask(c);
    }
}

/* The flights of an imitated handshake; true when they are over. */
static bool
conn_flights(struct conn *c)
{
    while (c->flight < load.flights.count) {
        bool broken;
        size_t want = load.flights.flight[c->flight].from_server;

        if (!c->flight_sent)
            link_write(&c->link, unit, load.flights.flight[c->flight].from_client, &broken);
        c->flight_sent = true;
        c->flight_got += link_read(&c->link, unit, want - c->flight_got);
        if (c->flight_got < want)
            return false;
        c->flight++;
        c->flight_got = 0;
        c->flight_sent = false;
    }
    return true;
}

static void
conn_opened(struct conn *c)
{
    if (c->link.ssl)
        load.resumed += SSL_session_reused(c->link.ssl) == 1;
    c->phase = PHASE_IDLE;
    if (load.churn)
        conn_ask(c);
}

/* Reads what has come; false: the connection has ended or nothing more is there. */
static bool
conn_read(struct conn *c)
{
    size_t got = link_read(&c->link, unit, sizeof(unit));

    if (got == 0)
        return false;
    load.bytes += got;
    if (c->phase != PHASE_ASKING || got > c->get) {
        conn_fail(c, "bytes that nobody asked for");
        return false;
    }
    c->get -= got;
    if (c->get == 0 && c->sent == c->send)
        conn_answered(c);
    return c->phase != PHASE_GONE;
}

static void
conn_step(struct conn *c)
{
    if (c->phase == PHASE_GONE)
        return;
    if (!link_ready(&c->link) || !conn_flights(c)) {
        if (c->link.ended)
            conn_fail(c, c->link.end);
        return;
    }
    if (c->phase == PHASE_OPENING)
        conn_opened(c);
    do {
        if (c->phase == PHASE_ASKING && c->sent < c->send)
            conn_send(c);
    } while (conn_read(c));
    if (c->phase == PHASE_GONE)
        return;
    if (c->link.notified && !c->link.ended)
        link_read(&c->link, unit, sizeof(unit)); /* the FIN may be there already */
    if (c->phase == PHASE_CLOSING && c->link.ended)
        conn_gone(c);
    else if (c->link.ended || (c->link.notified && c->phase != PHASE_CLOSING))
        conn_fail(c, c->link.ended ? c->link.end : "close_notify");
}

/* ---- the loop ----------------------------------------------------------------------------------- */

/* One turn; waits until `wake` at most, and 100 ms. */
static void
turn(uint64_t wake)
{
    struct epoll_event events[256];
    struct timespec wait = {.tv_nsec = 100000000};
    uint64_t now = now_ns();
    int count;

    if (wake <= now)
        wait.tv_nsec = 0;
    else if (wake - now < 100000000)
        wait.tv_nsec = (long)(wake - now);
    count = epoll_pwait2(load.epoll, events, 256, &wait, NULL);
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr) {
            conn_step(events[i].data.ptr);
        } else { /* stdin: it is enough */
            load.until = now_ns();
            epoll_ctl(load.epoll, EPOLL_CTL_DEL, 0, NULL);
        }
    }
}

static void
patience_check(uint64_t deadline, const char *what)
{
    if (now_ns() > deadline)
        die("no end of %s: units=%llu failed=%llu living=%llu reason=%s", what,
            (unsigned long long)load.units, (unsigned long long)load.failed,
            (unsigned long long)load.living, load.reason);
}

#define PATIENCE 20000000000u /* ns until what was begun is given up */

/* Opens all, `at_once` at a time, with a handshake each and no exchange. */
static void
open_all(struct conn *conns, size_t count, size_t at_once)
{
    size_t opened = 0, ready = 0;
    uint64_t deadline = now_ns() + PATIENCE;

    while (ready < count) {
        while (opened < count && opened - ready < at_once)
            conn_open(&conns[opened++]);
        turn(UINT64_MAX);
        ready = 0;
        for (size_t i = 0; i < opened; i++)
            ready += conns[i].phase != PHASE_OPENING;
        if (load.failed > 0)
            die("opening: %s", load.reason);
        if (ready > 0 && opened < count)
            deadline = now_ns() + PATIENCE;
        patience_check(deadline, "opening");
    }
}

static void
ask_all(struct conn *conns, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (conns[i].phase != PHASE_IDLE)
            continue;
        conns[i].since = now_ns();
        conn_ask(&conns[i]);
        conn_step(&conns[i]);
    }
}

static bool
any_in(const struct conn *conns, size_t count, enum phase phase)
{
    for (size_t i = 0; i < count; i++)
        if (conns[i].phase == phase)
            return true;
    return false;
}

/* Exchanges at a fixed rate, each on the next connection that is idle. When none is, the exchange
 * starts late, and its latency counts from when it was due all the same. Returns when to come again. */
static uint64_t
ask_due(struct conn *conns, size_t count, size_t *next)
{
    while (load.due <= now_ns() && load.due < load.until) {
        struct conn *c = NULL;

        for (size_t i = 0; i < count && !c; i++, *next = (*next + 1) % count)
            if (conns[*next].phase == PHASE_IDLE)
                c = &conns[*next];
        if (!c)
            return load.until; /* an answer wakes us before */
        c->since = load.due;
        load.due += load.interval;
        conn_ask(c);
        conn_step(c);
    }
    return load.due < load.until ? load.due : load.until;
}

/* Until time is over and everything begun is finished. */
static void
run(struct conn *conns, size_t count, uint64_t ns)
{
    uint64_t started = now_ns();
    size_t next = 0;

    load.until = started + ns;
    load.due = started;
    if (!load.churn && load.interval == 0)
        ask_all(conns, count);
    while (now_ns() < load.until) {
        uint64_t wake = load.until;

        if (load.churn)
            for (size_t i = 0; i < count; i++)
                if (conns[i].phase == PHASE_GONE)
                    conn_open(&conns[i]);
        if (load.interval)
            wake = ask_due(conns, count, &next);
        turn(wake);
        if (load.failed > 1000 && load.units == 0)
            break;
    }
    while (load.churn ? load.living > 0 : any_in(conns, count, PHASE_ASKING)) {
        turn(UINT64_MAX);
        patience_check(load.until + PATIENCE, "a run");
    }
}

/* ---- measured runs ------------------------------------------------------------------------------ */

static void
counts_clear(void)
{
    load.units = load.failed = load.resumed = load.bytes = 0;
    load.samples.count = 0;
}

static void
report(uint64_t ns, uint64_t cpu)
{
    samples_sort(&load.samples);
    printf("units=%llu failed=%llu resumed=%llu seconds=%.6f cpu_ns=%llu bytes=%llu p50_us=%.1f "
           "p99_us=%.1f max_us=%.1f reason=%s\n",
           (unsigned long long)load.units, (unsigned long long)load.failed,
           (unsigned long long)load.resumed, (double)ns / 1e9, (unsigned long long)cpu,
           (unsigned long long)load.bytes, samples_at(&load.samples, 0.5),
           samples_at(&load.samples, 0.99), samples_at(&load.samples, 1), load.reason);
}

static uint64_t
seconds_of(const struct options *o, const char *name, double fallback)
{
    return (uint64_t)(option_double(o, name, fallback) * 1e9);
}

/* One full connection, whose session all later ones resume. */
static void
session_fetch(void)
{
    struct conn first;

    load.keep_sessions = true;
    counts_clear();
    load.until = UINT64_MAX;
    load.churn = true;
    conn_open(&first);
    for (uint64_t deadline = now_ns() + PATIENCE; load.living > 0;) {
        turn(UINT64_MAX);
        patience_check(deadline, "the first connection");
    }
    load.keep_sessions = false;
    if (!load.session)
        die("no session to resume (%s)", load.reason);
}

static int
on_session(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    if (!load.keep_sessions)
        return 0;
    SSL_SESSION_free(load.session);
    load.session = session;
    return 1;
}

static void
context_prepare(const struct options *o)
{
    char *text;

    load.ctx = context_open(o, false);
    if (!load.ctx)
        return;
    SSL_CTX_set_verify(load.ctx, SSL_VERIFY_NONE, NULL);
    if ((text = option_text(o, "--ciphersuites")) && SSL_CTX_set_ciphersuites(load.ctx, text) != 1)
        die("--ciphersuites: %s", text);
    if ((text = option_text(o, "--groups")) && SSL_CTX_set1_groups_list(load.ctx, text) != 1)
        die("--groups: %s", text);
    if (strcmp(o->argv[1], "hold") != 0) { /* few connections: rather fast than small */
        SSL_CTX_clear_mode(load.ctx, SSL_MODE_RELEASE_BUFFERS);
        SSL_CTX_set_read_ahead(load.ctx, 1);
        SSL_CTX_set_default_read_buffer_len(load.ctx, UNIT / 2);
    }
    if ((text = option_text(o, "--resume")) != NULL) {
        SSL_CTX_set_session_cache_mode(load.ctx,
                                       SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(load.ctx, on_session);
        if (strcmp(text, "id") == 0)
            SSL_CTX_set_options(load.ctx, SSL_OP_NO_TICKET);
        session_fetch();
        /* otherwise a new ticket makes the session it came with one that is not resumed again */
        SSL_CTX_set_session_cache_mode(load.ctx, SSL_SESS_CACHE_OFF);
    }
}

static int
command_run(const struct options *o)
{
    size_t count = option_number(o, "--connections", 8);
    struct conn *conns = calloc(count, sizeof(*conns));
    char *pids = option_text(o, "--cpu");
    uint64_t rate = option_number(o, "--rate", 0), cpu, started;
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL};

    if (!conns)
        die("no memory");
    load.churn = strcmp(o->argv[1], "churn") == 0;
    load.interval = rate ? 1000000000 / rate : 0;
    if (load.churn)
        for (size_t i = 0; i < count; i++)
            conns[i].phase = PHASE_GONE;
    else
        open_all(conns, count, 16);
    run(conns, count, seconds_of(o, "--warm", 0.02));
    counts_clear();
    cpu = cpu_ns(pids);
    started = now_ns();
    if (option_set(o, "--until-stdin"))
        epoll_ctl(load.epoll, EPOLL_CTL_ADD, 0, &input);
    run(conns, count, seconds_of(o, "--seconds", 0.2));
    cpu = cpu_ns(pids) - cpu;
    report(now_ns() - started, cpu);
    free(conns);
    return 0;
}

/* ---- raw ---------------------------------------------------------------------------------------- */

/* Counts and drops until `ns` have passed. */
static void
raw_run(uint64_t ns)
{
    uint64_t until = now_ns() + ns;

    while (now_ns() < until) {
        struct epoll_event events[64];
        int count = epoll_wait(load.epoll, events, 64, 50);

        for (int i = 0; i < count; i++) {
            struct conn *c = events[i].data.ptr;
            ssize_t got;

            while ((got = recv(c->link.fd, NULL, 4 << 20, MSG_TRUNC)) > 0 && now_ns() < until)
                load.bytes += (uint64_t)got;
            if (got == 0 || (got < 0 && errno != EAGAIN))
                die("raw: the connection has ended");
        }
    }
}

static int
command_raw(const struct options *o)
{
    size_t count = option_number(o, "--connections", 1);
    struct conn *conns = calloc(count, sizeof(*conns));
    char *pids = option_text(o, "--cpu");
    uint64_t cpu, started;
    int epoll;

    if (!conns)
        die("no memory");
    open_all(conns, count, 16);
    run(conns, count, 0); /* an exchange each: tickets are out of the way */
    load.ask.brings = 0;
    load.ask.wants = UINT64_MAX;
    epoll = load.epoll;
    load.epoll = epoll_open();
    close(epoll);
    for (size_t i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &conns[i]};

        conn_ask(&conns[i]);
        conn_send(&conns[i]);
        epoll_ctl(load.epoll, EPOLL_CTL_ADD, conns[i].link.fd, &event);
    }
    raw_run(seconds_of(o, "--warm", 0.05));
    counts_clear();
    cpu = cpu_ns(pids);
    started = now_ns();
    raw_run(seconds_of(o, "--seconds", 0.2));
    cpu = cpu_ns(pids) - cpu;
    load.units = load.bytes;
    report(now_ns() - started, cpu);
    free(conns);
    return 0;
}

/* ---- hold --------------------------------------------------------------------------------------- */

static void
stage_done(const char *name)
{
    printf("%s done failed=%llu\n", name, (unsigned long long)load.failed);
    fflush(stdout);
}

static void
close_all(struct conn *conns, size_t count)
{
    uint64_t deadline = now_ns() + PATIENCE;

    for (size_t i = 0; i < count; i++) {
        if (conns[i].phase == PHASE_GONE)
            continue;
        conn_close(&conns[i]);
        conn_step(&conns[i]);
        if (i % 64 == 0)
            turn(0);
    }
    while (load.living > 0) {
        turn(UINT64_MAX);
        patience_check(deadline, "closing");
    }
}

static int
command_hold(const struct options *o)
{
    size_t count = option_number(o, "--connections", 100);
    struct conn *conns = calloc(count, sizeof(*conns));
    char line[64];

    if (!conns)
        die("no memory");
    open_all(conns, count, 16);
    stage_done("open");
    while (fgets(line, sizeof(line), stdin)) {
        if (strcmp(line, "traffic\n") == 0) {
            for (size_t i = 0; i < count; i += 50) {
                ask_all(conns + i, count - i < 50 ? count - i : 50);
                while (any_in(conns + i, count - i < 50 ? count - i : 50, PHASE_ASKING))
                    turn(UINT64_MAX);
            }
            stage_done("traffic");
        } else if (strcmp(line, "close\n") == 0) {
            close_all(conns, count);
            stage_done("close");
        }
    }
    free(conns);
    return 0;
}

int
main(int argc, char **argv)
{
    struct options o = {argc, argv};
    const char *command = argc > 1 ? argv[1] : "";

    signal(SIGPIPE, SIG_IGN);
    descriptors_raise();
    strcpy(load.reason, "none");
    load.epoll = epoll_open();
    address_parse(&load.to, option(&o, "--connect", ""));
    load.ask.brings = option_number(&o, "--brings", 0);
    load.ask.wants = option_number(&o, "--wants", 16);
    flights_parse(&load.flights, option_text(&o, "--flights"));
    context_prepare(&o);
    if (strcmp(command, "churn") == 0 || strcmp(command, "exchange") == 0)
        return command_run(&o);
    if (strcmp(command, "raw") == 0)
        return command_raw(&o);
    if (strcmp(command, "hold") == 0)
        return command_hold(&o);
    die("usage: generator churn|exchange|raw|hold …");
}

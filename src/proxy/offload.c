/*
 * Handshakes in a thread of the worker's own, while a queue of them has built up.
 *
 * One step of a full handshake takes as long as a hundred relayed requests. While few come, one per loop
 * turn (engine.c) harms nobody; in a flood every turn has one, and whoever is connected waits for it. So
 * from a certain length of the queue on the steps go to a helper thread: BEGIN_BEFORE_OTHERS, if others
 * talk who have been connected for a while, else MG_OFFLOAD_BEGIN, because it costs some percent more there.
 * Before others it goes on for FLOOD_MS after the queue was last that long, since a flood leaves gaps: the first
 * step after each would be on the loop, and that is what the slowest hundredth of the others would wait for.
 *
 * The happy path is: a client's turn comes while so many others wait, or a job is out: a job is made of its
 * step. At most JOBS_MAX are out; who comes then is `waiting`. The thread takes one after the other (QUEUED,
 * RUNNING): one mg_tls_conn_handshake, from what the peer holds into the thread's own unit, and from there into
 * the job. Then it is DONE, a byte in a pipe wakes the loop, and mg_handshake_answered goes on as after a step
 * on the loop. When nothing is out any more the length of the queue decides again.
 *
 * First come, first served: nobody starves, and everybody's wait is that of the queue. Newest first would
 * serve some sooner, but it would leave half-done handshakes, and what they hold, behind. Whose time is over
 * (handshake_timeout) is closed by the loop, and with that neither waits nor is QUEUED any more.
 *
 * Who goes: clients (down) whose context is fit for it (mg_tls_threads_allow), which those with callbacks into
 * a script are not. What a script decides by the ClientHello it has decided before, on the loop. Backends'
 * handshakes stay on the loop; they are few, since they resume.
 *
 * Ownership: while a job is out, down.tls and down.held are the thread's, and it touches nothing else but
 * what libssl and the context's C callbacks share under locks of their own: the context, the ticket keys, the
 * session cache, the ring of ClientHellos. The session is there and holds the generation. Reading is stopped
 * meanwhile, so that the peer's end is not seen before the job is back. Whoever else has to look at down.tls
 * (a script, from a callback of the backend's handshake; the access record) has the job given back first:
 * mg_offload_settle and _cancel take it out of the queue, or wait until its step is over, which takes no longer
 * than it would have held the loop up, if the thread has the CPU. OpenSSL's error queue and random generator are
 * per thread.
 *
 * Both threads are of one scheduling class, since they share OpenSSL's locks, which under different real-time
 * priorities spin for ever; but the helper is nicer, so that the loop comes first when somebody speaks. Where
 * that leaves it nothing (the CPU has other things to do) the loop takes jobs back that are QUEUED and does
 * them itself, one a turn: it looks every STALL_MS whether the thread has done any.
 *
 * Possible failure modes are: the thread cannot be made, or there is no memory for a job (the step is done on
 * the loop; the thread is tried again after RETRY_MS); the session closes (timeout, lifetime, a backend that
 * does not answer, drain, stop) while its job is out (cancelled, the answer dropped); the step fails (its alert
 * is the answer); the thread hangs (the loop does what is not begun yet; the first who has to wait for the
 * thread holds the loop up, which the watchdog sees); the engine closes (its sessions have closed before, so that
 * the thread has nothing to do and is joined).
 */
#include "proxy/internal.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <unistd.h>

/* So many others wait: a queue has built up. A test build may have it 0: always. */
#ifndef MG_OFFLOAD_BEGIN
#define MG_OFFLOAD_BEGIN 12
#endif
#define BEGIN_BEFORE_OTHERS (MG_OFFLOAD_BEGIN != 0)

/* Out at a time: enough for the thread not to run dry while the loop has other things to do. */
#define JOBS_MAX 8
#define RETRY_MS 1000
#define STALL_MS 50
#define FLOOD_MS 100

enum job_state { QUEUED, RUNNING, DONE };

struct mg_job {
    struct mg_link link; /* in queue or done */
    enum job_state state;
    struct mg_peer *peer; /* the loop's: the thread does not follow it */
    /* the thread's while it is RUNNING */
    struct mg_tls_conn *tls;
    const unsigned char *in; /* the peer's held bytes */
    struct mg_handshake_answer answer;
};

struct mg_offload {
    struct mg_engine *engine;
    struct mg_link waiting;     /* peers, by their handshake_link */
    unsigned out;               /* jobs */
    uint64_t steps;             /* done by the thread, ever */
    uint64_t retry_at;          /* loop time before which no thread is made */
    uint64_t flood_until;       /* loop time */
    uint64_t steps_seen;        /* at the timer's last look */
    bool started, warned, open; /* open: the pipe and its handle */
    bool stalled;               /* the thread has done no step since the look before */
    uv_timer_t timer;           /* runs while jobs are out */
    uv_thread_t thread;
    uv_poll_t poll;
    uv_file pipe[2]; /* not uv_async_t: on one CPU it spins for the thread that it has cut off */
    unsigned char *unit; /* the thread's output; MG_OUT_UNIT bytes */
    uv_mutex_t mutex;    /* of all below, and of the jobs' states */
    uv_cond_t work, ran;
    struct mg_link queue, done; /* jobs */
    bool stop, told;            /* told: a byte is in the pipe */
    bool awaited;               /* somebody waits for the RUNNING one */
};

/* ---- the thread ------------------------------------------------------------------------------ */

static void
job_run(struct mg_job *job, unsigned char *unit)
{
    struct mg_handshake_answer *answer = &job->answer;
    struct mg_tls_io io = {
        .in = job->in, .in_len = answer->used, .out = unit, .out_cap = MG_OUT_UNIT};

    do {
        answer->status = mg_tls_conn_handshake(job->tls, &io, &answer->err);
        mg_buf_add(&answer->out, io.out, io.out_len);
        io.out_len = 0;
    } while (answer->status == MG_TLS_WANT_WRITE && !answer->out.failed);
    answer->used = io.in_used;
}

/* Whether the loop has to be told. */
static bool
job_end(struct mg_offload *o, struct mg_job *job)
{
    bool told = o->told;

    job->state = DONE;
    mg_link_append(&o->done, &job->link);
    if (o->awaited)
        uv_cond_signal(&o->ran);
    o->told = true;
    return !told;
}

/* A pipe with room for one byte takes it. */
static void
loop_tell(struct mg_offload *o)
{
    while (write(o->pipe[1], "", 1) < 0 && errno == EINTR)
        ;
}

static void
on_thread(void *data)
{
    struct mg_offload *o = data;

    mg_priority_lower();
    uv_mutex_lock(&o->mutex);
    while (!o->stop) {
        struct mg_job *job = MG_CONTAINER_OF(o->queue.next, struct mg_job, link);
        bool tell;

        if (mg_link_empty(&o->queue)) {
            uv_cond_wait(&o->work, &o->mutex);
            continue;
        }
        mg_link_remove(&job->link);
        job->state = RUNNING;
        uv_mutex_unlock(&o->mutex);
        job_run(job, o->unit);
        uv_mutex_lock(&o->mutex);
        tell = job_end(o, job);
        uv_mutex_unlock(&o->mutex);
        if (tell)
            loop_tell(o);
        uv_mutex_lock(&o->mutex);
    }
    uv_mutex_unlock(&o->mutex);
    OPENSSL_thread_stop();
}

/* ---- jobs, on the loop ----------------------------------------------------------------------- */

static void
job_free(struct mg_job *job)
{
    mg_buf_free(&job->answer.out);
    mg_free(job);
}

/* Whether the thread gets on. */
static void
on_look(uv_timer_t *timer)
{
    struct mg_offload *o = ((struct mg_engine *)timer->data)->offload;

    o->stalled = o->out > 0 && o->steps == o->steps_seen;
    o->steps_seen = o->steps;
    if (o->out == 0)
        uv_timer_stop(timer);
}

/* false: no memory. */
static bool
job_start(struct mg_offload *o, struct mg_peer *peer)
{
    struct mg_job *job = mg_calloc(1, sizeof(*job));

    if (job == NULL)
        return false;
    mg_link_init(&job->link);
    job->peer = peer;
    job->tls = &peer->tls;
    job->in = (const unsigned char *)peer->held;
    job->answer.used = peer->held_len;
    peer->session->job = job;
    if (o->out++ == 0)
        uv_timer_start(&o->timer, on_look, STALL_MS, STALL_MS);
    uv_mutex_lock(&o->mutex);
    job->state = QUEUED;
    mg_link_append(&o->queue, &job->link);
    uv_cond_signal(&o->work);
    uv_mutex_unlock(&o->mutex);
    return true;
}

static void
waiting_start(struct mg_offload *o)
{
    while (o->out < JOBS_MAX && !mg_link_empty(&o->waiting)) {
        struct mg_peer *peer = MG_CONTAINER_OF(o->waiting.next, struct mg_peer, handshake_link);

        mg_link_remove(&peer->handshake_link);
        if (!job_start(o, peer))
            mg_handshake_enqueue(peer);
    }
}

/* The first of queue or done, or NULL. */
static struct mg_job *
job_take(struct mg_offload *o, struct mg_link *list)
{
    struct mg_job *job = NULL;

    uv_mutex_lock(&o->mutex);
    if (!mg_link_empty(list)) {
        job = MG_CONTAINER_OF(list->next, struct mg_job, link);
        mg_link_remove(&job->link);
    }
    uv_mutex_unlock(&o->mutex);
    return job;
}

static void
job_answer(struct mg_offload *o, struct mg_job *job)
{
    o->out--;
    job->peer->session->job = NULL;
    waiting_start(o); /* the thread goes on while we send */
    mg_handshake_answered(job->peer, &job->answer);
    job_free(job);
}

/* Those that become DONE meanwhile wake the loop again. */
static void
done_collect(struct mg_offload *o)
{
    struct mg_job *job;

    for (unsigned i = 0; i < JOBS_MAX && (job = job_take(o, &o->done)) != NULL; i++) {
        o->steps++;
        o->stalled = false;
        job_answer(o, job);
    }
    waiting_start(o);
}

static void
on_told(uv_poll_t *poll, int status, int events)
{
    struct mg_offload *o = ((struct mg_engine *)poll->data)->offload;
    char byte;

    (void)status;
    (void)events;
    if (read(o->pipe[0], &byte, 1) < 0)
        return;
    uv_mutex_lock(&o->mutex);
    o->told = false;
    uv_mutex_unlock(&o->mutex);
    done_collect(o);
}

/* While very many sockets have something to say libuv has no turn, and so nor has the pipe. */
bool
mg_offload_turn(struct mg_engine *engine)
{
    struct mg_offload *o = engine->offload;
    struct mg_job *job;

    if (o->out > 0)
        done_collect(o);
    job = o->stalled ? job_take(o, &o->queue) : NULL;
    if (job == NULL)
        return false;
    job_run(job, engine->out);
    job_answer(o, job);
    return true;
}

/* Takes the job back: the thread has not begun, and will not, or is through with it. Whether the step was done. */
static bool
job_take_back(struct mg_offload *o, struct mg_job *job)
{
    bool ran;

    uv_mutex_lock(&o->mutex);
    o->awaited = true;
    while (job->state == RUNNING)
        uv_cond_wait(&o->ran, &o->mutex);
    o->awaited = false;
    ran = job->state == DONE;
    if (!ran)
        mg_link_remove(&job->link);
    uv_mutex_unlock(&o->mutex);
    return ran;
}

/* Who waits goes on in a later turn: many sessions may be closing in this one. */
static void
job_forget(struct mg_offload *o, struct mg_job *job)
{
    bool tell;

    job->peer->session->job = NULL;
    o->out--;
    uv_mutex_lock(&o->mutex);
    mg_link_remove(&job->link);
    tell = o->out == 0 && !o->told;
    o->told = o->told || tell;
    uv_mutex_unlock(&o->mutex);
    if (tell)
        loop_tell(o);
    job_free(job);
}

void
mg_offload_settle(struct mg_session *s)
{
    struct mg_offload *o = s->engine->offload;

    if (s->job == NULL || job_take_back(o, s->job))
        return; /* the answer comes by itself */
    job_forget(o, s->job);
    mg_handshake_enqueue(&s->down);
}

void
mg_offload_cancel(struct mg_session *s)
{
    struct mg_offload *o = s->engine->offload;

    if (s->job == NULL)
        return;
    job_take_back(o, s->job);
    job_forget(o, s->job);
}

/* ---- when ------------------------------------------------------------------------------------ */

static bool
queue_has(const struct mg_engine *engine, int count)
{
    const struct mg_link *at = &engine->handshakes;

    for (int i = 0; i < count; i++) {
        at = at->next;
        if (at == &engine->handshakes)
            return false;
    }
    return true;
}

static bool
is_flood(struct mg_offload *o)
{
    uint64_t now = uv_now(o->engine->options.loop);

    if (!mg_engine_others_talk(o->engine))
        return queue_has(o->engine, MG_OFFLOAD_BEGIN);
    if (queue_has(o->engine, BEGIN_BEFORE_OTHERS))
        o->flood_until = now + FLOOD_MS;
    return now < o->flood_until;
}

/* 0, or a libuv code. */
static int
pipe_open(struct mg_offload *o)
{
    int rc = uv_pipe(o->pipe, UV_NONBLOCK_PIPE, UV_NONBLOCK_PIPE);

    if (rc != 0)
        return rc;
    rc = uv_poll_init(o->engine->options.loop, &o->poll, o->pipe[0]);
    if (rc != 0) {
        close(o->pipe[0]);
        close(o->pipe[1]);
        return rc;
    }
    uv_timer_init(o->engine->options.loop, &o->timer);
    o->open = true;
    o->poll.data = o->timer.data = o->engine;
    return 0;
}

/* Likewise. */
static int
thread_start(struct mg_offload *o)
{
    int rc = o->open ? 0 : pipe_open(o);

    if (o->unit == NULL)
        o->unit = mg_malloc(MG_OUT_UNIT);
    if (rc == 0)
        rc = o->unit != NULL ? uv_poll_start(&o->poll, UV_READABLE, on_told) : UV_ENOMEM;
    if (rc != 0)
        return rc;
    rc = uv_thread_create(&o->thread, on_thread, o);
    o->started = rc == 0;
    return rc;
}

static bool
thread_need(struct mg_offload *o)
{
    uint64_t now = uv_now(o->engine->options.loop);
    int rc;

    if (o->started)
        return true;
    if (now < o->retry_at)
        return false;
    rc = thread_start(o);
    if (rc == 0)
        return true;
    o->retry_at = now + RETRY_MS;
    if (!o->warned)
        mg_log(MG_LOG_WARN, "a thread for handshakes: %s; they stay on the loop", uv_strerror(rc));
    o->warned = true;
    return false;
}

bool
mg_offload_take(struct mg_peer *peer)
{
    struct mg_offload *o = peer->session->engine->offload;

    if (!mg_peer_is_down(peer) || (o->out == 0 && !is_flood(o)) ||
        !mg_tls_threads_allowed(SSL_get_SSL_CTX(peer->tls.ssl)) || !thread_need(o))
        return false;
    if (o->out < JOBS_MAX)
        return job_start(o, peer);
    mg_link_append(&o->waiting, &peer->handshake_link);
    return true;
}

uint64_t
mg_offload_steps(const struct mg_offload *o)
{
    return o->steps;
}

/* ---- life ------------------------------------------------------------------------------------ */

struct mg_offload *
mg_offload_new(struct mg_engine *engine)
{
    struct mg_offload *o = mg_calloc(1, sizeof(*o));

    if (o == NULL)
        return NULL;
    o->engine = engine;
    mg_link_init(&o->waiting);
    mg_link_init(&o->queue);
    mg_link_init(&o->done);
    if (uv_mutex_init(&o->mutex) != 0)
        goto no_mutex;
    if (uv_cond_init(&o->work) != 0)
        goto no_work;
    if (uv_cond_init(&o->ran) == 0)
        return o;
    uv_cond_destroy(&o->work);
no_work:
    uv_mutex_destroy(&o->mutex);
no_mutex:
    mg_free(o);
    return NULL;
}

unsigned
mg_offload_close(struct mg_offload *o, uv_close_cb closed)
{
    if (o->started) {
        uv_mutex_lock(&o->mutex);
        o->stop = true;
        uv_cond_signal(&o->work);
        uv_mutex_unlock(&o->mutex);
        uv_thread_join(&o->thread);
    }
    if (!o->open)
        return 0;
    uv_close((uv_handle_t *)&o->poll, closed);
    uv_close((uv_handle_t *)&o->timer, closed);
    close(o->pipe[0]);
    close(o->pipe[1]);
    return 2;
}

void
mg_offload_free(struct mg_offload *o)
{
    if (o == NULL)
        return;
    uv_cond_destroy(&o->ran);
    uv_cond_destroy(&o->work);
    uv_mutex_destroy(&o->mutex);
    mg_free(o->unit);
    mg_free(o);
}

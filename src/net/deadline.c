/*
 * Many deadlines and one timer: a heap of pointers, the earliest first. libuv's timers are ten times as
 * big, and each that closes costs the loop a turn.
 *
 * The timer is set to the earliest deadline, and stays when that one goes: then it fires for nobody.
 */
#include "net/internal.h"

#define ROOM_LEAST 64u /* deadlines */

/* ---- the heap -------------------------------------------------------------------------------- */

static void
put(struct mg_net *net, uint32_t place, struct mg_deadline *d)
{
    net->deadlines[place] = d;
    d->place = place;
}

/* d goes from that place, which is free, towards the root. */
static uint32_t
rise(struct mg_net *net, uint32_t place, const struct mg_deadline *d)
{
    while (place > 0 && net->deadlines[(place - 1) / 2]->at > d->at) {
        put(net, place, net->deadlines[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    return place;
}

/* Likewise, away from it. */
static uint32_t
sink(struct mg_net *net, uint32_t place, const struct mg_deadline *d)
{
    uint32_t child;

    while ((child = 2 * place + 1) < net->deadlines_set) {
        if (child + 1 < net->deadlines_set &&
            net->deadlines[child + 1]->at < net->deadlines[child]->at)
            child++;
        if (net->deadlines[child]->at >= d->at)
            break;
        put(net, place, net->deadlines[child]);
        place = child;
    }
    return place;
}

static void
take_out(struct mg_net *net, struct mg_deadline *d)
{
    struct mg_deadline *last = net->deadlines[--net->deadlines_set];

    if (last != d)
        put(net, sink(net, rise(net, d->place, last), last), last);
    d->at = 0;
}

/* ---- the timer ------------------------------------------------------------------------------- */

static void timer_set(struct mg_net *net);

static void
on_timer(uv_timer_t *timer)
{
    struct mg_net *net = timer->data;

    while (net->deadlines_set > 0 && net->deadlines[0]->at <= uv_now(net->loop)) {
        struct mg_deadline *d = net->deadlines[0];

        take_out(net, d);
        net->on_deadline(net, d);
    }
    timer_set(net);
}

static void
timer_set(struct mg_net *net)
{
    uint64_t now = uv_now(net->loop), at;

    if (net->deadlines_set == 0 || net->closing)
        return;
    at = net->deadlines[0]->at;
    uv_timer_start(&net->timer, on_timer, at > now ? at - now : 0, 0);
}

/* ---- room ------------------------------------------------------------------------------------ */

static int
room_set(struct mg_net *net, uint32_t room)
{
    struct mg_deadline **moved = mg_realloc(net->deadlines, room * sizeof(void *));

    if (moved == NULL)
        return UV_ENOMEM;
    net->deadlines = moved;
    net->deadlines_room = room;
    return 0;
}

int
mg_deadline_open(struct mg_net *net, struct mg_deadline *d)
{
    uint32_t room = net->deadlines_room;

    d->at = 0;
    if (net->deadlines_open == room && room_set(net, room < ROOM_LEAST ? ROOM_LEAST : 2 * room) < 0)
        return UV_ENOMEM;
    net->deadlines_open++;
    return 0;
}

void
mg_deadline_close(struct mg_net *net, struct mg_deadline *d)
{
    if (d->at != 0)
        take_out(net, d);
    net->deadlines_open--;
    if (net->deadlines_open < net->deadlines_room / 4 && net->deadlines_room > ROOM_LEAST)
        room_set(net, net->deadlines_room / 2); /* without success it stays as it is */
}

void
mg_deadline_set(struct mg_net *net, struct mg_deadline *d, uint64_t at)
{
    if (d->at != 0)
        take_out(net, d);
    d->at = at > 0 ? at : 1;
    put(net, rise(net, net->deadlines_set++, d), d);
    if (d->place == 0)
        timer_set(net);
}

/* ---- life ------------------------------------------------------------------------------------ */

void
mg_deadlines_init(struct mg_net *net)
{
    uv_timer_init(net->loop, &net->timer);
    net->timer.data = net;
    mg_net_hold(net);
}

static void
on_timer_close(uv_handle_t *handle)
{
    struct mg_net *net = handle->data;

    mg_free(net->deadlines);
    net->deadlines = NULL;
    mg_net_release(net);
}

void
mg_deadlines_fini(struct mg_net *net)
{
    uv_close((uv_handle_t *)&net->timer, on_timer_close);
}

/* How recent clients would fare: what the workers have found, summed up and put in words. */
#include "supervisor/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HELLOS_MAX 1000000000u /* of one worker; more is not to be believed */

static uint64_t
number_read(const struct mg_msg *msg, const char *key)
{
    char text[16];
    unsigned long long number;
    if (!mg_msg_field(msg, key, text, sizeof(text)))
        return 0;
    number = strtoull(text, NULL, 10);
    return number < HELLOS_MAX ? number : 0;
}

/* Adds to the reason of that text; where there is no room, to the last one. */
static void
reason_add(struct mg_replay *replay, const char *text, uint64_t count)
{
    unsigned i = 0;
    while (i < replay->reason_count && strcmp(replay->reasons[i].text, text) != 0)
        i++;
    if (i == MG_REPLAY_REASONS)
        mg_str_copy(replay->reasons[--i].text, sizeof(replay->reasons[i].text), "other reasons");
    if (i == replay->reason_count) {
        replay->reason_count++;
        mg_str_copy(replay->reasons[i].text, sizeof(replay->reasons[i].text), text);
    }
    replay->reasons[i].count += count;
}

/* "reason=12 no shared group" */
static void
reason_read(struct mg_replay *replay, const char *line, size_t len)
{
    static const char key[] = "reason=";
    char text[sizeof(replay->reasons[0].text)], *rest;
    if (len <= strlen(key) || strncmp(line, key, strlen(key)) != 0)
        return;
    unsigned long long count = strtoull(line + strlen(key), &rest, 10);
    size_t used = (size_t)(rest - line);
    if (used >= len || *rest != ' ' || count >= HELLOS_MAX)
        return;
    struct mg_buf words = {0};
    mg_buf_add_printable(&words, rest + 1, len - used - 1);
    mg_str_copy(text, sizeof(text), words.data != NULL ? words.data : "");
    mg_buf_free(&words);
    reason_add(replay, text, count);
}

void
mg_replay_read(struct mg_replay *replay, const struct mg_msg *msg)
{
    *replay = (struct mg_replay){
        .total = number_read(msg, "total"),
        .failing = number_read(msg, "failing"),
        .not_asked = number_read(msg, "not_asked"),
        .late = number_read(msg, "late"),
    };
    for (const char *line = msg->data, *end = msg->data + msg->len; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        size_t len = (size_t)((stop != NULL ? stop : end) - line);
        reason_read(replay, line, len);
        line += len + 1;
    }
}

void
mg_replay_add(struct mg_replay *sum, const struct mg_replay *part)
{
    sum->total += part->total;
    sum->failing += part->failing;
    sum->not_asked += part->not_asked;
    sum->late += part->late;
    for (unsigned i = 0; i < part->reason_count; i++)
        reason_add(sum, part->reasons[i].text, part->reasons[i].count);
}

/* "1,234,567" */
static const char *
number_text(uint64_t number, char out[32])
{
    char digits[24];
    int len = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)number), at = 0;
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0)
            out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = '\0';
    return out;
}

/* The most frequent reason first; the counts only where there are several. */
static void
reasons_text(struct mg_replay replay, char *out, size_t cap)
{
    char number[32];
    size_t len = 0;
    out[0] = '\0';
    for (unsigned n = 0; n < replay.reason_count && len < cap; n++) {
        unsigned most = 0;
        for (unsigned i = 1; i < replay.reason_count; i++)
            if (replay.reasons[i].count > replay.reasons[most].count)
                most = i;
        if (replay.reason_count == 1)
            len += (size_t)snprintf(out, cap, "%s", replay.reasons[most].text);
        else
            len += (size_t)snprintf(out + len, cap - len, "%s%s (%s)", n > 0 ? ", " : "",
                                    replay.reasons[most].text,
                                    number_text(replay.reasons[most].count, number));
        replay.reasons[most].count = 0;
    }
}

void
mg_replay_text(const struct mg_replay *replay, char *out, size_t cap)
{
    char failing[32], total[32], reasons[800];
    out[0] = '\0';
    if (replay->failing == 0)
        return;
    reasons_text(*replay, reasons, sizeof(reasons));
    snprintf(out, cap, "%s of %s recent clients would now fail: %s",
             number_text(replay->failing, failing), number_text(replay->total, total),
             reasons[0] != '\0' ? reasons : "no reason given");
}

void
mg_replay_notes(const struct mg_replay *replay, struct mg_buf *out)
{
    char count[32], total[32];
    number_text(replay->total, total);
    if (replay->failing == 0 && replay->total > 0)
        mg_buf_addf(out, "none of %s recent clients would fail that did not before\n", total);
    if (replay->not_asked > 0)
        mg_buf_addf(out,
                    "of %s recent clients %s were tried without the script's callbacks, which are "
                    "not run for that\n",
                    total, number_text(replay->not_asked, count));
    if (replay->late > 0)
        mg_buf_addf(out, "%s recent clients were not tried: it took too long\n",
                    number_text(replay->late, count));
}

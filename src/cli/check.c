/*
 * moongate check: what the loader does, in this process, with a report instead of a snapshot, and within the same time:
 * a script that does not end is refused after reload_timeout. No hook stops all that a script may do, so that a signal
 * ends the process, with what there is to say prepared.
 */
#include "cli/internal.h"

#include "script/script.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

enum { OPT_JSON = 1, OPT_LISTENER, OPT_SNI };

static const struct option options[] = {
    {"json", no_argument, NULL, OPT_JSON},
    {"listener", required_argument, NULL, OPT_LISTENER},
    {"sni", required_argument, NULL, OPT_SNI},
    {NULL, 0, NULL, 0},
};

/* The script has not come as far as the proof: there is nothing to say of it but why. */
static void
failure_report(struct mg_script_load *load, const char *error)
{
    struct mg_buf *out = &load->report_json;
    const struct mg_buf *faults = &load->faults;
    mg_buf_adds(out, "{\"script\":");
    mg_buf_add_json(out, load->path, strlen(load->path));
    mg_buf_adds(out, ",\"ok\":false,\"error\":");
    mg_buf_add_json(out, error, strlen(error));
    mg_buf_adds(out, ",\"warnings\":[],\"errors\":[");
    for (size_t at = 0; at < faults->len; at += strlen(faults->data + at) + 1) {
        mg_buf_adds(out, at > 0 ? "," : "");
        mg_buf_add_json(out, faults->data + at, strlen(faults->data + at));
    }
    if (faults->len == 0)
        mg_buf_add_json(out, error, strlen(error));
    mg_buf_adds(out, "]}\n");
}

/* ---- time ------------------------------------------------------------------------------------ */

#define RELOAD_TIMEOUT_S 60.0 /* until the script says something else */

static struct {
    uint64_t began_ns;
    const char *path;
    bool json;
    char error[512];
    struct mg_buf out; /* for stdout */
} late;

static void
on_late(int signal_number)
{
    (void)signal_number;
    mg_command_kill();
    if (late.json && late.out.len > 0 && !late.out.failed)
        mg_fd_write_all(STDOUT_FILENO, late.out.data, late.out.len);
    mg_fd_write_all(STDERR_FILENO, late.error, strlen(late.error));
    mg_fd_write_all(STDERR_FILENO, "\n", 1);
    _exit(MG_EXIT_REFUSED);
}

static void
timer_set(double seconds)
{
    struct itimerval timer = {{0, 0}, {0, 0}};

    timer.it_value.tv_sec = (time_t)seconds;
    timer.it_value.tv_usec = (suseconds_t)((seconds - (double)timer.it_value.tv_sec) * 1e6);
    setitimer(ITIMER_REAL, &timer, NULL);
}

/* From the beginning; called again when the script has said how long. */
static void
time_bound(double reload_timeout)
{
    double left = reload_timeout - (double)(mg_now_ns() - late.began_ns) / 1e9;
    struct mg_script_load nothing = {.path = late.path};

    timer_set(0);
    snprintf(late.error, sizeof(late.error),
             "%.300s: the script did not finish within reload_timeout (%.6g s)", late.path,
             reload_timeout);
    mg_buf_free(&late.out);
    failure_report(&nothing, late.error);
    late.out = nothing.report_json;
    timer_set(left > 0.001 ? left : 0.001);
}

static int
load_in_time(struct mg_script_load *load, bool json, struct mg_err *err)
{
    struct sigaction action = {.sa_handler = on_late};
    int result;

    late.began_ns = mg_now_ns();
    late.path = load->path;
    late.json = json;
    sigaction(SIGALRM, &action, NULL);
    load->on_settings = time_bound;
    time_bound(RELOAD_TIMEOUT_S);
    result = mg_script_load(load, NULL, err);
    timer_set(0);
    mg_buf_free(&late.out);
    return result;
}

/* ---- report ---------------------------------------------------------------------------------- */

/* Otherwise the last line says it all. */
static bool
has_many(const struct mg_buf *texts)
{
    return texts->len > 0 && strlen(texts->data) + 1 < texts->len;
}

static void
report_print(const struct mg_script_load *load, bool json)
{
    const struct mg_buf *report = json ? &load->report_json : &load->report;
    if (report->data != NULL)
        fwrite(report->data, 1, report->len, stdout);
    if (!json && has_many(&load->faults))
        for (size_t at = 0; at < load->faults.len; at += strlen(load->faults.data + at) + 1)
            printf("error: %s\n", load->faults.data + at);
    fflush(stdout);
    if (json && load->warnings.data != NULL) /* the table has them already */
        fwrite(load->warnings.data, 1, load->warnings.len, stderr);
}

int
mg_check_command(int argc, char **argv)
{
    struct mg_script_load load = {.prove = true, .machine = true, .snapshot_fd = -1};
    struct mg_err err;
    bool json = false;
    int option;
    while ((option = mg_option_next(argc, argv, options)) != -1) {
        if (option == OPT_JSON)
            json = true;
        else if (option == OPT_LISTENER)
            load.listener = optarg;
        else if (option == OPT_SNI)
            load.sni = optarg;
        else
            return MG_EXIT_USAGE;
    }
    if (optind != argc - 1)
        return mg_usage_error("check", optind == argc ? "which script?" : "expected one script");
    load.path = argv[optind];
    mg_log_open(STDERR_FILENO, MG_LOG_TEXT, MG_LOG_INFO, "check");
    mg_log_wait();
    int result = load_in_time(&load, json, &err);
    if (json && load.report_json.len == 0)
        failure_report(&load, err.text);
    report_print(&load, json);
    if (result != 0)
        fprintf(stderr, "%s\n", err.text);
    if (load.snapshot_fd >= 0)
        close(load.snapshot_fd);
    mg_script_load_fini(&load);
    return result == 0 ? MG_EXIT_DONE : MG_EXIT_REFUSED;
}

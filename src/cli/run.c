/* moongate run */
#include "cli/internal.h"

#include "supervisor/supervisor.h"

#include <getopt.h>
#include <stdlib.h>

enum {
    OPT_WORKERS = 1,
    OPT_WATCH,
    OPT_CONTROL,
    OPT_PID_FILE,
    OPT_USER,
    OPT_LOG_LEVEL,
    OPT_LOG_FORMAT
};

static const struct option options[] = {
    {"workers", required_argument, NULL, OPT_WORKERS},
    {"watch", no_argument, NULL, OPT_WATCH},
    {"control", required_argument, NULL, OPT_CONTROL},
    {"pid-file", required_argument, NULL, OPT_PID_FILE},
    {"user", required_argument, NULL, OPT_USER},
    {"log-level", required_argument, NULL, OPT_LOG_LEVEL},
    {"log-format", required_argument, NULL, OPT_LOG_FORMAT},
    {NULL, 0, NULL, 0},
};

static int
option_take(struct mg_supervisor_options *run, int option)
{
    switch (option) {
    case OPT_WORKERS: {
        char *end;
        unsigned long count = strtoul(optarg, &end, 10);
        if (*optarg < '0' || *optarg > '9' || *end != '\0' || count < 1 ||
            count > MG_SHARED_WORKERS)
            return mg_usage_error("run", "--workers: expected a number from 1 to %d, got \"%s\"",
                                  MG_SHARED_WORKERS, optarg);
        run->workers = (unsigned)count;
        return 0;
    }
    case OPT_WATCH:
        run->watch = true;
        return 0;
    case OPT_CONTROL:
        run->control = optarg;
        return 0;
    case OPT_PID_FILE:
        run->pid_file = optarg;
        return 0;
    case OPT_USER:
        run->user = optarg;
        return 0;
    case OPT_LOG_LEVEL:
        if (mg_log_level_parse(optarg) < 0)
            return mg_usage_error(
                "run", "--log-level: expected debug, info, warn or error, got \"%s\"", optarg);
        run->log_level = optarg;
        return 0;
    case OPT_LOG_FORMAT:
        if (mg_log_format_parse(optarg) < 0)
            return mg_usage_error("run", "--log-format: expected text or json, got \"%s\"", optarg);
        run->log_format = optarg;
        return 0;
    default: /* mg_option_next has said what is wrong */
        return MG_EXIT_USAGE;
    }
}

int
mg_run_command(int argc, char **argv)
{
    struct mg_supervisor_options run = {0};
    int option;
    while ((option = mg_option_next(argc, argv, options)) != -1) {
        int status = option_take(&run, option);
        if (status != 0)
            return status;
    }
    if (optind != argc - 1)
        return mg_usage_error("run", optind == argc ? "which script?" : "expected one script");
    run.script = argv[optind];
    return mg_supervisor_main(&run);
}

/* moongate explain: what a given client would get, and which line of the script decided it. */
#include "cli/internal.h"

#include "script/script.h"

#include <getopt.h>
#include <stdio.h>
#include <unistd.h>

enum { OPT_LISTENER = 1, OPT_SNI, OPT_ALPN, OPT_CLIENT, OPT_JSON };

static const struct option options[] = {
    {"listener", required_argument, NULL, OPT_LISTENER},
    {"sni", required_argument, NULL, OPT_SNI},
    {"alpn", required_argument, NULL, OPT_ALPN},
    {"client", required_argument, NULL, OPT_CLIENT},
    {"json", no_argument, NULL, OPT_JSON},
    {NULL, 0, NULL, 0},
};

int
mg_explain_command(int argc, char **argv)
{
    struct mg_script_explain explain = {.client = "browser"};
    char usage[256];
    struct mg_err err;
    int option;
    while ((option = mg_option_next(argc, argv, options)) != -1) {
        if (option == OPT_LISTENER)
            explain.listener = optarg;
        else if (option == OPT_SNI)
            explain.sni = optarg;
        else if (option == OPT_ALPN)
            explain.alpn = optarg;
        else if (option == OPT_CLIENT)
            explain.client = optarg;
        else if (option == OPT_JSON)
            explain.json = true;
        else
            return MG_EXIT_USAGE;
    }
    if (optind != argc - 1)
        return mg_usage_error("explain", optind == argc ? "which script?" : "expected one script");
    if (explain.listener == NULL)
        return mg_usage_error("explain", "which listener? (--listener NAME)");
    explain.path = argv[optind];
    mg_log_open(STDERR_FILENO, MG_LOG_TEXT, MG_LOG_INFO, "explain");
    mg_log_wait();
    if (mg_script_explain(&explain, usage, sizeof(usage), &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        return MG_EXIT_REFUSED;
    }
    return usage[0] != '\0' ? mg_usage_error("explain", "%s", usage) : MG_EXIT_DONE;
}

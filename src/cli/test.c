/* moongate test: busted on specs of TLS policies. */
#include "cli/internal.h"

#include "script/script.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct option options[] = {{NULL, 0, NULL, 0}};

/* The place of "--", or argc. What follows is busted's. */
static int
separator_find(int argc, char **argv)
{
    int at = 1;
    while (at < argc && strcmp(argv[at], "--") != 0)
        at++;
    return at;
}

int
mg_test_command(int argc, char **argv)
{
    int own = separator_find(argc, argv);
    struct mg_err err;
    size_t count = 0;
    if (mg_option_next(own, argv, options) != -1)
        return MG_EXIT_USAGE;
    char **args = mg_calloc((size_t)argc + 2, sizeof(*args));
    if (args == NULL) {
        fprintf(stderr, "moongate test: out of memory\n");
        return MG_EXIT_REFUSED;
    }
    for (int i = optind; i < own; i++)
        args[count++] = argv[i];
    if (count == 0)
        args[count++] = "spec";
    for (int i = own + 1; i < argc; i++)
        args[count++] = argv[i];
    signal(SIGPIPE, SIG_DFL); /* as programs that specs start expect it */
    mg_log_open(STDERR_FILENO, MG_LOG_TEXT, MG_LOG_INFO, "test");
    int result = mg_script_test(args, &err);
    mg_free(args);
    if (result == 0)
        return MG_EXIT_DONE;
    fprintf(stderr, "moongate test: %s\n", err.text);
    return MG_EXIT_REFUSED;
}

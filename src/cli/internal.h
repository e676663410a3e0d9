/*
 * cli: the program's commands. Each command parses its own options (GNU long options) and returns the exit
 * status: 0 done, 1 refused (the reason is the last line on stderr), 2 usage.
 */
#ifndef MG_CLI_INTERNAL_H
#define MG_CLI_INTERNAL_H

#include "base/base.h"

enum { MG_EXIT_DONE = 0, MG_EXIT_REFUSED = 1, MG_EXIT_USAGE = 2 };

struct mg_command {
    const char *name;
    /* argv[0] is the command's name. */
    int (*run)(int argc, char **argv);
    const char *summary; /* NULL = hidden: started by moongate itself */
    const char *usage;   /* the whole of `help NAME` */
};

extern const struct mg_command mg_commands[]; /* ended by a NULL name */

int mg_run_command(int argc, char **argv);
int mg_check_command(int argc, char **argv);
int mg_explain_command(int argc, char **argv);
int mg_test_command(int argc, char **argv);
int mg_control_command(int argc, char **argv); /* reload, drain, stop, status */
int mg_loader_command(int argc, char **argv);

/* One line on stderr, "moongate COMMAND: what", then where to look. Returns MG_EXIT_USAGE. */
int mg_usage_error(const char *command, const char *fmt, ...) MG_PRINTF(2, 3);

/*
 * getopt_long with errors of our own: the option's val, -1 at the end, '?' after an error that has been
 * printed. `options` is struct option[].
 */
struct option;
int mg_option_next(int argc, char **argv, const struct option *options);

#endif

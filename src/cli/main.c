/* The program: finds the command and runs it. */
#include "cli/internal.h"

#include "worker/worker.h"

#include <fcntl.h>
#include <getopt.h>
#include <lua.h>
#include <openssl/crypto.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef MG_HAVE_PRCTL
#include <sys/prctl.h>
#endif
#include <unistd.h>
#include <uv.h>

#define CHANNEL_FD 3 /* where the supervisor puts a child's channel */

static int help_command(int argc, char **argv);
static int version_command(int argc, char **argv);
static int worker_command(int argc, char **argv);

#define CONTROL_USAGE                                                                              \
    "  --control PATH   the running moongate's control socket (default:\n"                         \
    "                   /run/moongate/control.sock, else $XDG_RUNTIME_DIR/moongate.sock)\n"

const struct mg_command mg_commands[] = {
    {"run", mg_run_command, "run a script in the foreground",
     "usage: moongate run SCRIPT [options]\n\n"
     "Runs in the foreground; a service manager puts it in the background.\n\n"
     "  --workers N           worker processes (default: the script's, else the number of CPUs)\n"
     "  --watch               reload when any file that the script read changes\n"
     "  --control PATH        control socket (default: /run/moongate/control.sock, else\n"
     "                        $XDG_RUNTIME_DIR/moongate.sock)\n"
     "  --pid-file FILE       write the supervisor's process id there\n"
     "  --user USER[:GROUP]   who the workers become, when started as root\n"
     "  --log-level LEVEL     debug, info, warn or error (default: info)\n"
     "  --log-format FORMAT   text or json (default: text)\n\n"
     "Signals: HUP reload; TERM drain, then exit (a second one: at once); INT exit at once;\n"
     "USR1 reopen log files.\n"},
    {"check", mg_check_command, "load and prove a script, print what it would serve",
     "usage: moongate check SCRIPT [--json] [--listener NAME] [--sni NAME]\n\n"
     "Loads the script, freezes its contexts and proves them with in-memory handshakes. Listens\n"
     "nowhere and connects to nobody. Exit status 0 if all is well, 1 if not.\n\n"
     "  --json           the report as data\n"
     "  --listener NAME  only this listener\n"
     "  --sni NAME       prove this server name, too\n"},
    {"explain", mg_explain_command, "what a client would get, and which line decided it",
     "usage: moongate explain SCRIPT --listener NAME [--sni NAME] [--alpn LIST] [--client "
     "PROFILE]\n"
     "                        [--json]\n\n"
     "Runs the script as `check` does, and then a handshake in memory with that listener; "
     "callbacks and\n"
     "backend functions are called. Shows what was decided – context, certificate, version, "
     "cipher\n"
     "suite, group, signature, ALPN, client certificate, backend, or the alert – and where the "
     "script\n"
     "says so. Opens no socket. A handshake that is refused is an answer, too: exit status 0.\n\n"
     "  --listener NAME   the listener to connect to\n"
     "  --sni NAME        the server name to ask for (default: none)\n"
     "  --alpn LIST       protocols to offer, with commas between (default: the profile's)\n"
     "  --client PROFILE  one of moongate.testing's clients: browser (default), permissive, "
     "modern,\n"
     "                    intermediate, old, rsa_only, ecdsa_only, ed25519_only, tls10 to tls13, "
     "cbc\n"
     "  --json            the same as data\n"},
    {"test", mg_test_command, "run busted specs of TLS policies",
     "usage: moongate test [PATH...] [-- OPTION...]\n\n"
     "Runs the specs (files *_spec.lua, or directories; default: ./spec) with busted, which has to "
     "be\n"
     "installed, in this program: moongate.testing and moongate.openssl are at hand. The same "
     "specs\n"
     "run under busted with a stock lua5.4. Options after -- are busted's. Exit status: "
     "busted's.\n"},
    {"reload", mg_control_command, "take the edited script",
     "usage: moongate reload [--control PATH]\n\n"
     "Waits until the new configuration serves; if it is refused the old one stays, the reason is\n"
     "printed and the exit status is 1.\n\n" CONTROL_USAGE},
    {"drain", mg_control_command, "stop accepting connections, keep running",
     "usage: moongate drain [--control PATH]\n\n" CONTROL_USAGE},
    {"stop", mg_control_command, "drain, then exit after at most drain_timeout",
     "usage: moongate stop [--control PATH]\n\n" CONTROL_USAGE},
    {"status", mg_control_command, "show workers, generations and connections",
     "usage: moongate status [--json] [--control PATH]\n\n"
     "  --json           the same as data\n" CONTROL_USAGE},
    {"version", version_command, "show the versions of moongate and its libraries",
     "usage: moongate version\n"},
    {"help", help_command, "show help on a command", "usage: moongate help [COMMAND]\n"},
    {"--loader", mg_loader_command, NULL, ""},
    {"--worker", worker_command, NULL, ""},
    {NULL, NULL, NULL, NULL},
};

static const struct mg_command *
command_find(const char *name)
{
    for (const struct mg_command *command = mg_commands; command->name != NULL; command++)
        if (strcmp(command->name, name) == 0)
            return command;
    return NULL;
}

static const char *
command_nearest(const char *name)
{
    const char *names[16];
    size_t count = 0;
    for (const struct mg_command *command = mg_commands; command->name != NULL; command++)
        if (command->summary != NULL && count < MG_ARRAY_LEN(names))
            names[count++] = command->name;
    return mg_str_nearest(name, names, count);
}

static int
command_unknown(const char *name)
{
    const char *nearest = command_nearest(name);
    if (nearest != NULL)
        return mg_usage_error("help", "unknown command \"%s\" (did you mean \"%s\"?)", name,
                              nearest);
    return mg_usage_error("help", "unknown command \"%s\"", name);
}

int
mg_usage_error(const char *command, const char *fmt, ...)
{
    va_list args;
    bool general = strcmp(command, "help") == 0;
    fprintf(stderr, general ? "moongate: " : "moongate %s: ", command);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fprintf(stderr, general ? "\nTry 'moongate help'.\n" : "\nTry 'moongate help %s'.\n", command);
    return MG_EXIT_USAGE;
}

/* The nearest long option to one that is unknown, or NULL. */
static const char *
option_nearest(const char *word, const struct option *options)
{
    const char *names[16];
    size_t count = 0;
    for (; options->name != NULL && count < MG_ARRAY_LEN(names); options++)
        names[count++] = options->name;
    return mg_str_nearest(word, names, count);
}

int
mg_option_next(int argc, char **argv, const struct option *options)
{
    int at = optind;
    opterr = 0;
    int found = getopt_long(argc, argv, ":h", options, NULL);
    if (found == ':') {
        mg_usage_error(argv[0], "option %s needs a value", argv[optind - 1]);
        return '?';
    }
    if (found != '?')
        return found;
    /* getopt permutes, so the word is either the one before optind or where we were. */
    const char *word = optind > 1 && argv[optind - 1][0] == '-' ? argv[optind - 1] : argv[at];
    size_t name_len = strcspn(word, "=");
    char name[64];
    snprintf(name, sizeof(name), "%.*s", (int)(name_len < 60 ? name_len : 60), word);
    const char *nearest = strncmp(name, "--", 2) == 0 ? option_nearest(name + 2, options) : NULL;
    if (optopt != 0 && strchr(word, '=') != NULL)
        mg_usage_error(argv[0], "option %s takes no value", name);
    else if (nearest != NULL)
        mg_usage_error(argv[0], "unknown option %s (did you mean --%s?)", name, nearest);
    else
        mg_usage_error(argv[0], "unknown option %s", name);
    return '?';
}

static int
help_command(int argc, char **argv)
{
    if (argc > 2)
        return mg_usage_error("help", "expected at most one command");
    if (argc == 2) {
        const struct mg_command *command = command_find(argv[1]);
        if (command == NULL || command->summary == NULL)
            return command_unknown(argv[1]);
        fputs(command->usage, stdout);
        return MG_EXIT_DONE;
    }
    printf("moongate – a TLS proxy whose configuration is a Lua program\n\n"
           "usage: moongate COMMAND [arguments]\n\n");
    for (const struct mg_command *command = mg_commands; command->name != NULL; command++)
        if (command->summary != NULL)
            printf("  %-8s  %s\n", command->name, command->summary);
    printf(
        "\n'moongate help COMMAND' says more. Exit status: 0 done, 1 refused (the reason is the\n"
        "last line on stderr), 2 wrong usage.\n");
    return MG_EXIT_DONE;
}

static int
version_command(int argc, char **argv)
{
    (void)argv;
    if (argc > 1)
        return mg_usage_error("version", "expected no argument");
    printf("moongate %s\n%s\nlibuv %s\n%s\n", MG_VERSION, OpenSSL_version(OPENSSL_VERSION),
           uv_version_string(), LUA_RELEASE);
    return MG_EXIT_DONE;
}

static int
worker_command(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    return mg_worker_main(CHANNEL_FD);
}

/* Where stdin, stdout or stderr is closed, the next file or socket would become it. */
static void
standard_fds_ensure(void)
{
    int fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO)
        fd = open("/dev/null", O_RDWR);
    if (fd >= 0)
        close(fd);
}

int
main(int argc, char **argv)
{
    standard_fds_ensure();
    /* A reader that goes away is an error of a write, never the end of the process. */
    signal(SIGPIPE, SIG_IGN);
#ifdef MG_HAVE_PRCTL
    prctl(PR_SET_NAME,
          "moongate"); /* for top and pidof: what was started as /proc/self/exe is "exe" there */
#endif
    if (argc < 2) {
        help_command(1, argv);
        return MG_EXIT_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        name = "help";
    else if (strcmp(name, "--version") == 0)
        name = "version";
    const struct mg_command *command = command_find(name);
    if (command == NULL)
        return command_unknown(argv[1]);
    /* `moongate reload --help` is what hands type. */
    for (int i = 2; command->summary != NULL && i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            fputs(command->usage, stdout);
            return MG_EXIT_DONE;
        }
    }
    argv[1] = argv[1][0] == '-' && command->summary != NULL ? argv[0] : argv[1];
    return command->run(argc - 1, argv + 1);
}

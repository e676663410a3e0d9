/*
 * supervisor: owns the sockets, starts loader and workers, carries reloads out, listens to signals and to
 * the control socket. May be root. Neither Lua nor OpenSSL (`make layers` checks the object symbols).
 */
#ifndef MG_SUPERVISOR_SUPERVISOR_H
#define MG_SUPERVISOR_SUPERVISOR_H

#include "base/base.h"

struct mg_supervisor_options {
    const char *script;
    unsigned workers; /* 0 = the script's, else the usable CPUs */
    bool watch;
    const char *control;                /* path of the control socket, or NULL = default */
    const char *pid_file;               /* or NULL */
    const char *user;                   /* "USER[:GROUP]" from the command line, or NULL */
    const char *log_level, *log_format; /* or NULL: the script's, else info and text */
};

/* Runs in the foreground until stopped; the exit status of the program. */
int mg_supervisor_main(const struct mg_supervisor_options *options);

/* The default control path: /run/moongate/control.sock if that directory can be used, else
 * $XDG_RUNTIME_DIR/moongate.sock; -1 when neither is possible. */
int mg_control_default_path(char *out, size_t cap, struct mg_err *err);

#endif

/*
 * worker: one process, one loop, many generations. Started by the supervisor as `moongate --worker` with
 * its channel at fd 3; says what it does in messages of ipc/ipc.h.
 */
#ifndef MG_WORKER_WORKER_H
#define MG_WORKER_WORKER_H

/* Runs until the supervisor says so or is gone; returns the exit status. */
int mg_worker_main(int channel_fd);

#endif

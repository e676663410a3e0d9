/* What the files of net/ share with each other only. */
#ifndef MG_NET_INTERNAL_H
#define MG_NET_INTERNAL_H

#include "net/net.h"

/* One more, one fewer of what net->live counts. Releasing the last one may end net. */
void mg_net_hold(struct mg_net *net);
void mg_net_release(struct mg_net *net);

/* The kernel probes the other side of an idle TCP socket after so many seconds; 0 = never. */
void mg_net_keepalive(int fd, unsigned delay_s);

/* Marks a stream that has used up its budget until the end of this loop turn. */
void mg_net_pause(struct mg_net *net, struct mg_stream *s);

#endif

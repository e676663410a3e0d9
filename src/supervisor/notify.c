/* The service manager's readiness protocol: a datagram to $NOTIFY_SOCKET. */
#include "supervisor/internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void
mg_notify(const char *fmt, ...)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (path == NULL || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(to.sun_path))
        return;
    size_t path_len = strlen(path);
    memcpy(to.sun_path, path, path_len);
    if (path[0] == '@')
        to.sun_path[0] = '\0';
    struct mg_buf text = {0};
    va_list args;
    va_start(args, fmt);
    mg_buf_addv(&text, fmt, args);
    va_end(args);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path_len);
    if (fd < 0 || text.failed ||
        sendto(fd, text.data, text.len, MSG_NOSIGNAL | MSG_DONTWAIT, (const struct sockaddr *)&to,
               len) < 0)
        mg_log(MG_LOG_DEBUG, "the service manager could not be told: %s", fmt);
    if (fd >= 0)
        close(fd);
    mg_buf_free(&text);
}

/* Looks up a host name as programs do that are not linked with glibc's resolver.
 * Built with musl, by getaddrinfo(3); with -DCARES -lcares, by ares_getaddrinfo(3).
 * Both send A and AAAA at once from one socket. Prints each address, or why there is none. */

#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>

static void show(const struct sockaddr *address)
{
    char text[INET6_ADDRSTRLEN];
    const void *octets = address->sa_family == AF_INET
                             ? (const void *)&((const struct sockaddr_in *)address)->sin_addr
                             : (const void *)&((const struct sockaddr_in6 *)address)->sin6_addr;
    puts(inet_ntop(address->sa_family, octets, text, sizeof text));
}

#ifdef CARES
#include <ares.h>

static void on_result(void *unused, int status, int timeouts, struct ares_addrinfo *found)
{
    if (status != ARES_SUCCESS)
        printf("none: %s\n", ares_strerror(status));
    for (struct ares_addrinfo_node *one = found ? found->nodes : NULL; one; one = one->ai_next)
        show(one->ai_addr);
    if (found)
        ares_freeaddrinfo(found);
}

int main(int argc, char **argv)
{
    struct ares_addrinfo_hints hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    ares_channel channel;
    if (argc != 2 || ares_library_init(ARES_LIB_INIT_ALL) || ares_init(&channel))
        return 1;
    ares_getaddrinfo(channel, argv[1], NULL, &hints, on_result, NULL);
    for (;;) {
        struct timeval slot, *timeout;
        fd_set reading, writing;
        FD_ZERO(&reading);
        FD_ZERO(&writing);
        int count = ares_fds(channel, &reading, &writing);
        if (count == 0)
            return 0;
        timeout = ares_timeout(channel, NULL, &slot);
        select(count, &reading, &writing, NULL, timeout);
        ares_process(channel, &reading, &writing);
    }
}
#else
int main(int argc, char **argv)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    if (argc != 2)
        return 1;
    int status = getaddrinfo(argv[1], NULL, &hints, &found);
    if (status)
        printf("none: %s\n", gai_strerror(status));
    for (struct addrinfo *one = found; one; one = one->ai_next)
        show(one->ai_addr);
    return 0;
}
#endif

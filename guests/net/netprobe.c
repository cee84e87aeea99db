/* SPDX-License-Identifier: Apache-2.0 */
/*
 * usage: netprobe serve PORT            echo: each byte received is answered with one
 *        netprobe rr ADDRESS PORT SEC   requests of one byte, one after the other
 *        netprobe udp PORT              echo of datagrams
 *        netprobe sink PORT             takes connections and throws away what comes
 *        netprobe send ADDRESS PORT SEC sends as much as goes
 *        netprobe flood IFACE SEC [MAC] Ethernet frames from random sources, or from MAC, to all
 * and to random destinations, as fast as it goes netprobe hear IFACE SEC        counts frames by
 * source for SEC seconds: "heard SOURCE COUNT" netprobe shout IFACE SEC N     a broadcast frame
 * with the number N, ten times a second
 *
 * A measuring and misbehaving neighbour for the tests and benchmarks of networks. Results are lines
 * "rr N per second", "send N bytes per second".
 */
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <netpacket/packet.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ETHER = 0x88b5 /* for local experiments */, SOURCES = 64, BULK = 256 * 1024 };

static char bulk[BULK];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void no_delay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/* --- TCP -------------------------------------------------------------------------------------- */

static int listen_on(int port) {
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    int one = 1, fd = socket(AF_INET6, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 16)) {
        die("listen");
    }
    return fd;
}

static int connect_to(const char *address, int port) {
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    int six = inet_pton(AF_INET6, address, &a6.sin6_addr) == 1;
    inet_pton(AF_INET, address, &a4.sin_addr);
    for (int tries = 0; tries < 50; tries++) {
        int fd = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
        if (!connect(fd, six ? (struct sockaddr *)&a6 : (struct sockaddr *)&a4,
                     six ? sizeof(a6) : sizeof(a4))) {
            no_delay(fd);
            return fd;
        }
        close(fd);
        usleep(100000);
    }
    die("connect");
    return -1;
}

static void *echo(void *arg) {
    int fd = (int)(intptr_t)arg;
    char c;
    no_delay(fd);
    while (read(fd, &c, 1) == 1 && write(fd, &c, 1) == 1) {
    }
    close(fd);
    return NULL;
}

static void *sink(void *arg) {
    int fd = (int)(intptr_t)arg;
    char *buf = malloc(BULK);
    while (buf && read(fd, buf, BULK) > 0) {
    }
    free(buf);
    close(fd);
    return NULL;
}

static void serve(int port, void *(*each)(void *)) {
    int listener = listen_on(port);
    for (;;) {
        pthread_t t;
        int fd = accept(listener, NULL, NULL);
        if (fd >= 0 && !pthread_create(&t, NULL, each, (void *)(intptr_t)fd)) {
            pthread_detach(t);
        }
    }
}

static void request_response(const char *address, int port, double seconds) {
    int fd = connect_to(address, port);
    double start = now();
    long count = 0;
    char c = 'x';
    while (now() - start < seconds && write(fd, &c, 1) == 1 && read(fd, &c, 1) == 1) {
        count++;
    }
    printf("rr %.1f per second\n", (double)count / (now() - start));
}

static void bulk_send(const char *address, int port, double seconds) {
    int fd = connect_to(address, port);
    double start = now(), bytes = 0;
    while (now() - start < seconds) {
        ssize_t n = write(fd, bulk, sizeof(bulk));
        if (n <= 0) {
            break;
        }
        bytes += (double)n;
    }
    shutdown(fd, SHUT_WR);
    char c;
    while (read(fd, &c, 1) > 0) { /* the other side has taken everything */
    }
    printf("send %.0f bytes per second\n", bytes / (now() - start));
}

static void udp_echo(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)}, from;
    socklen_t len = sizeof(from);
    char buf[2048];
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a))) {
        die("bind");
    }
    for (;;) {
        ssize_t n = recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len);
        if (n >= 0) {
            sendto(fd, buf, (size_t)n, 0, (struct sockaddr *)&from, len);
        }
    }
}

/* --- Ethernet --------------------------------------------------------------------------------- */

static int raw_socket(const char *name) {
    int fd = socket(AF_PACKET, SOCK_RAW, htons(ETHER));
    struct sockaddr_ll a = {.sll_family = AF_PACKET,
                            .sll_protocol = htons(ETHER),
                            .sll_ifindex = (int)if_nametoindex(name)};
    struct packet_mreq all = {.mr_ifindex = a.sll_ifindex, .mr_type = PACKET_MR_PROMISC};
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) ||
        setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof(all))) {
        die("raw socket");
    }
    return fd;
}

static void random_mac(unsigned char *mac) {
    for (int i = 0; i < 6; i++) {
        mac[i] = (unsigned char)rand();
    }
    mac[0] = (unsigned char)((mac[0] & 0xfe) | 2);
}

static int mac_read(const char *text, unsigned char *mac) {
    return sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4,
                  mac + 5) == 6;
}

static void flood(const char *name, double seconds, const char *as) {
    unsigned char f[60] = {0}, mac[6];
    int fd = raw_socket(name);
    double start = now();
    long count = 0;
    f[12] = ETHER >> 8;
    f[13] = ETHER & 0xff;
    while (now() - start < seconds) {
        for (int i = 0; i < 64; i++, count++) {
            random_mac(f);
            random_mac(f + 6);
            if (count & 1) {
                memset(f, 0xff, 6);
            }
            if (as && mac_read(as, mac)) {
                memcpy(f + 6, mac, 6);
            }
            if (write(fd, f, sizeof(f)) < 0) {
                usleep(100);
            }
        }
    }
    printf("flood %ld frames\n", count);
}

static void shout(const char *name, double seconds, int number) {
    unsigned char f[60] = {0};
    int fd = raw_socket(name);
    memset(f, 0xff, 6);
    f[6] = 2;
    f[11] = (unsigned char)number;
    f[12] = ETHER >> 8;
    f[13] = ETHER & 0xff;
    for (double start = now(); now() - start < seconds; usleep(100000)) {
        if (write(fd, f, sizeof(f)) < 0) {
            perror("shout");
        }
    }
}

static void hear(const char *name, double seconds) {
    static struct {
        unsigned char mac[6];
        long count;
    } source[SOURCES];
    unsigned char f[2048];
    int fd = raw_socket(name), used = 0;
    struct timeval tv = {.tv_usec = 100000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    for (double start = now(); now() - start < seconds;) {
        ssize_t n = recv(fd, f, sizeof(f), 0);
        if (n < 14) {
            continue;
        }
        int i = 0;
        while (i < used && memcmp(source[i].mac, f + 6, 6)) {
            i++;
        }
        if (i == used && used < SOURCES) {
            memcpy(source[used++].mac, f + 6, 6);
        }
        source[i < SOURCES ? i : SOURCES - 1].count++;
    }
    for (int i = 0; i < used; i++) {
        unsigned char *m = source[i].mac;
        printf("heard %02x:%02x:%02x:%02x:%02x:%02x %ld\n", m[0], m[1], m[2], m[3], m[4], m[5],
               source[i].count);
    }
    printf("heard %d sources\n", used);
}

int main(int argc, char **argv) {
    const char *what = argc > 2 ? argv[1] : "";
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(what, "serve")) {
        serve(atoi(argv[2]), echo);
    } else if (!strcmp(what, "udp")) {
        udp_echo(atoi(argv[2]));
    } else if (!strcmp(what, "sink")) {
        serve(atoi(argv[2]), sink);
    } else if (!strcmp(what, "rr") && argc > 4) {
        request_response(argv[2], atoi(argv[3]), atof(argv[4]));
    } else if (!strcmp(what, "send") && argc > 4) {
        bulk_send(argv[2], atoi(argv[3]), atof(argv[4]));
    } else if (!strcmp(what, "flood") && argc > 3) {
        flood(argv[2], atof(argv[3]), argc > 4 ? argv[4] : NULL);
    } else if (!strcmp(what, "hear") && argc > 3) {
        hear(argv[2], atof(argv[3]));
    } else if (!strcmp(what, "shout") && argc > 4) {
        shout(argv[2], atof(argv[3]), atoi(argv[4]));
    } else {
        fputs("usage: netprobe serve|udp|sink|rr|send|flood|hear|shout ...\n", stderr);
        return 2;
    }
    return 0;
}

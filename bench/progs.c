/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program rows of the benchmark: one static program that runs natively, in a root folder of
 * Debian packages (guests/userland), and as the first process of guests with the same files.
 *
 *   progs --root DIR [ROW...]   natively: enters DIR (own mount namespace, memory on DIR/tmp)
 *   progs                       as process 1 of a guest
 *
 * Without rows it reads their names from standard input or the console, one a line, until "off".
 *
 * Each run prints "prog ROW NANOSECONDS CPU HASH": wall time by the monotonic clock from fork to
 * the end of wait, processor time of the program and its children, and a hash (FNV-1a) of what the
 * program wrote, taken afterwards. bench/report.py compares hashes between native and guests.
 * Inputs are generated, the same everywhere.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <immintrin.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

static uint64_t now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* --- inputs --------------------------------------------------------------------------------------
 */

static uint32_t random_state;

static uint32_t random_next(void) {
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

static FILE *input(const char *path, uint32_t seed) {
    FILE *f = fopen(path, "we");
    if (!f) {
        die(path);
    }
    random_state = seed;
    return f;
}

/* Words of a made-up language, few of them frequent, so that it packs like text. */
static void make_text(const char *path, size_t size) {
    static char word[4096][12];
    FILE *f = input(path, 1);
    for (int i = 0; i < 4096; i++) {
        int n = 2 + (int)(random_next() % 9);
        for (int k = 0; k < n; k++) {
            word[i][k] =
                "etaoinshrdlucmfwypvbgkjqxz"[random_next() % 26 * (random_next() % 26) / 26];
        }
    }
    for (size_t done = 0; done < size;) {
        const char *w = word[(uint64_t)random_next() * (random_next() & 4095) >> 24];
        int n = fprintf(f, random_next() % 13 ? "%s " : "%s.\n", w);
        done += (size_t)n;
    }
    fclose(f);
}

static void make_bytes(const char *path, size_t size) {
    FILE *f = input(path, 2);
    for (size_t i = 0; i < size / 4; i++) {
        uint32_t v = random_next();
        fwrite(&v, 4, 1, f);
    }
    fclose(f);
}

static void make_source(const char *path, int from, int to) {
    FILE *f = input(path, 3 + (uint32_t)from);
    fprintf(f, "extern int t[1000]; extern void sink(long);\n");
    for (int i = from; i < to; i++) {
        unsigned a = random_next() % 97 + 3, b = random_next() % 31 + 1, c = random_next() % 900;
        fprintf(f,
                "struct s%d { int a, b; struct s%d *next; long v[%u]; };\n"
                "static long h%d(struct s%d *p, int n) {\n"
                "    long r = 0;\n"
                "    for (int i = 0; i < n && p; i++, p = p->next) {\n"
                "        switch (p->a %% 7) {\n"
                "        case 0: r += p->v[i %% %u] * %u; break;\n"
                "        case 1: r ^= p->b << %u; break;\n"
                "        case 2: r -= t[(p->a ^ i) %% 1000]; break;\n"
                "        case 3: for (int k = 0; k < p->b; k++) r += t[k + %u] / (k + 1); break;\n"
                "        default: r = r * %u + p->a;\n"
                "        }\n"
                "    }\n"
                "    return r;\n"
                "}\n"
                "long f%d(struct s%d *p, int n, double x) {\n"
                "    double y = 0;\n"
                "    for (int i = 0; i < n; i++) y += x * t[i %% 1000] - y / (i + %u);\n"
                "    if (n > %u) { sink(h%d(p, n)); return (long)y; }\n"
                "    for (int i = n; i-- > 0;) t[i %% 1000] = t[(i + %u) %% 1000] * %u + n;\n"
                "    return h%d(p, n / 2) + h%d(p->next, n %% %u) + (long)y;\n"
                "}\n",
                i, i, a, i, i, a, a, b, c / 9, a, i, i, b, a, i, c, b, i, i, a);
    }
    fclose(f);
}

static void make_sql(const char *path) {
    FILE *f = input(path, 5);
    fprintf(f, "create table a(id integer primary key, k int, v text);\n"
               "create table b(k int, w int);\nbegin;\n"
               "with recursive n(i) as (select 1 union all select i+1 from n where i<20000)\n"
               " insert into a select i, (i*7919)%%5003, 'value '||i from n;\n"
               "with recursive n(i) as (select 1 union all select i+1 from n where i<8000)\n"
               " insert into b select (i*104729)%%5003, i from n;\n"
               "commit;\ncreate index ak on a(k);\n"
               "select count(*), sum(w), max(v) from a join b on a.k=b.k;\n"
               "select k, count(*) c from a group by k order by c desc, k limit 5;\n");
    fclose(f);
}

/* --- rows that are functions
 * -----------------------------------------------------------------------
 */

static void matrix(void) {
    enum { N = 400 };
    static double a[N][N], b[N][N], c[N][N];
    double sum = 0;
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) {
            a[i][j] = i + 0.5 * j;
            b[i][j] = i - 0.25 * j;
        }
    }
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < N; k++) {
            for (int j = 0; j < N; j++) {
                c[i][j] += a[i][k] * b[k][j];
            }
        }
    }
    for (int i = 0; i < N; i++) {
        sum += c[i][i] * (i + 1);
    }
    printf("%.17g\n", sum);
}

static void getppids(void) {
    uint64_t sum = 0;
    for (int i = 0; i < 1000000; i++) {
        sum |= (uint64_t)syscall(SYS_getppid) >> 32;
    }
    printf("%d\n", (int)sum);
}

/* 100 times 16 MiB */
static void copies(void) {
    enum { SIZE = 16 * MIB };
    char *from = malloc(SIZE), *to = malloc(SIZE);
    if (!from || !to) {
        die("malloc");
    }
    for (int i = 0; i < SIZE; i++) {
        from[i] = (char)(i * 31);
    }
    for (int i = 0; i < 100; i++) {
        from[i * 1000] = (char)i;
        memcpy(to, from, SIZE);
        __asm__ volatile("" ::: "memory");
    }
    printf("%d\n", to[99 * 1000] + to[12345678]);
}

static void chase(void) {
    enum { COUNT = 512 * 1024 / 64 };
    static struct {
        void *next;
        char pad[56];
    } ring[COUNT];
    static uint32_t order[COUNT];
    random_state = 7;
    for (uint32_t i = 0; i < COUNT; i++) {
        order[i] = i;
    }
    for (uint32_t i = COUNT - 1; i > 0; i--) {
        uint32_t j = random_next() % (i + 1), k = order[i];
        order[i] = order[j];
        order[j] = k;
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        ring[order[i]].next = &ring[order[(i + 1) % COUNT]];
    }
    void *p = ring;
    for (int i = 0; i < 60000000; i++) {
        p = *(void **)p;
    }
    printf("%ld\n", (long)((char *)p - (char *)ring));
}

static void faults(void) {
    enum { PAGES = 1024, TIMES = 200 };
    long sum = 0;
    for (int k = 0; k < TIMES; k++) {
        char *p = mmap(NULL, (size_t)PAGES * 4096, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) {
            die("mmap");
        }
        madvise(p, (size_t)PAGES * 4096, MADV_NOHUGEPAGE);
        for (int i = 0; i < PAGES; i++) {
            sum += p[i * 4096]++;
        }
        munmap(p, (size_t)PAGES * 4096);
    }
    printf("%ld\n", sum);
}

static volatile sig_atomic_t signals;

static void on_signal(int s) {
    (void)s;
    signals++;
}

static void signal_loop(void) {
    signal(SIGUSR1, on_signal);
    pid_t pid = getpid();
    for (int i = 0; i < 100000; i++) {
        kill(pid, SIGUSR1);
    }
    printf("%d\n", (int)signals);
}

/* Two processes on one processor, through a pair of pipes. */
static void pingpong(void) {
    enum { TIMES = 20000 };
    int a[2], b[2];
    char ch = 0;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    sched_setaffinity(0, sizeof(one), &one);
    if (pipe(a) || pipe(b)) {
        die("pipe");
    }
    pid_t pid = fork();
    for (int i = 0; i < TIMES; i++) {
        if (!pid) {
            if (read(a[0], &ch, 1) != 1 || write(b[1], &ch, 1) != 1) {
                _exit(1);
            }
        } else if (write(a[1], &ch, 1) != 1 || read(b[0], &ch, 1) != 1) {
            die("pipe");
        }
    }
    if (!pid) {
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    printf("%d\n", TIMES);
}

static void forks(void) {
    int good = 0;
    for (int i = 0; i < 1000; i++) {
        int status = 1;
        pid_t pid = fork();
        if (!pid) {
            _exit(0);
        }
        waitpid(pid, &status, 0);
        good += !status;
    }
    printf("%d\n", good);
}

__attribute__((target("avx2,fma"))) static float dot(const float *a, const float *b, int n) {
    __m256 s = _mm256_setzero_ps();
    for (int i = 0; i < n; i += 8) {
        s = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), s);
    }
    float out[8];
    _mm256_storeu_ps(out, s);
    return out[0] + out[1] + out[2] + out[3] + out[4] + out[5] + out[6] + out[7];
}

static void dots(void) {
    static float a[4096], b[4096];
    float sum = 0;
    for (int i = 0; i < 4096; i++) {
        a[i] = (float)(i % 17);
        b[i] = (float)(i % 23);
    }
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        printf("no AVX2 and FMA\n");
        return;
    }
    for (int k = 0; k < 20000; k++) {
        a[k % 4096] = (float)(k % 13);
        sum += dot(a, b, 4096) / 65536;
    }
    printf("%.9g\n", (double)sum);
}

static void movsb(void) {
    static char from[65536], to[65536];
    for (int i = 0; i < 65536; i++) {
        from[i] = (char)(i * 7);
    }
    for (int k = 0; k < 20000; k++) {
        void *d = to, *s = from;
        size_t n = sizeof(to);
        from[k] = (char)k;
        __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n)::"memory");
    }
    printf("%d\n", to[19999] + to[65535]);
}

/* --- the table
 * ------------------------------------------------------------------------------------
 */

#define GCC "gcc -O2 -S -o "
#define SH(text)                                                                                   \
    { "/bin/bash", "-c", text, NULL }

struct row {
    const char *name;
    void (*fn)(void);
    const char *argv[4];
};

static const struct row rows[] = {
    {"openssl", NULL, SH("exec openssl dgst -sha256 /tmp/bytes")},
    {"xz", NULL, SH("exec xz -3 -T1 -c /tmp/text")},
    {"zstd", NULL, SH("exec zstd -q -9 --single-thread -c /tmp/text")},
    {"python", NULL,
     SH("exec python3 -S -c 'd={}\nx=0\nfor i in range(200000):\n x=(x*31+i)&0xffff\n "
        "d[x]=d.get(x,0)+1\nprint(x,len(d))'")},
    {"sqlite", NULL, SH("exec sqlite3 :memory: </tmp/sql")},
    {"gcc", NULL, SH(GCC "/tmp/all.s /tmp/all.c; cat /tmp/all.s")},
    {"forkexec", NULL, SH("for ((i = 0; i < 200; i++)); do /bin/true; done; echo $i")},
    {"pipes", NULL, SH("for ((i = 0; i < 60; i++)); do echo a$i | sed s/a/b/ | tr b c; done")},
    {"matrix", matrix, {NULL}},
    {"getppid", getppids, {NULL}},
    {"memcpy", copies, {NULL}},
    {"chase", chase, {NULL}},
    {"fault", faults, {NULL}},
    {"signal", signal_loop, {NULL}},
    {"pingpong", pingpong, {NULL}},
    {"fork", forks, {NULL}},
    {"avxdot", dots, {NULL}},
    {"movsb", movsb, {NULL}},
    {"gcc40", NULL, SH(GCC "/tmp/40.s /tmp/40.c; cat /tmp/40.s")},
    {"primes", NULL, /* 2^1536 - 3453, the size of the primes in ssh's keys */
     SH("p=$(printf %0381d 0); for i in 1 2 3; do openssl prime -hex ${p//0/F}283; done")},
    {"gcc1", NULL, SH(GCC "/tmp/1.s /tmp/half1.c; cat /tmp/1.s")},
    {"gcc2", NULL,
     SH(GCC "/tmp/1.s /tmp/half1.c & " GCC "/tmp/2.s /tmp/half2.c; wait; cat /tmp/1.s /tmp/2.s")},
};

static void prepare(void) {
    make_text("/tmp/text", 3 * MIB);
    make_bytes("/tmp/bytes", 32 * MIB);
    make_source("/tmp/all.c", 0, 300);
    make_source("/tmp/40.c", 0, 40);
    make_source("/tmp/half1.c", 0, 75);
    make_source("/tmp/half2.c", 75, 150);
    make_sql("/tmp/sql");
}

/* --- running
 * --------------------------------------------------------------------------------------
 */

static uint64_t hash_file(const char *path) {
    static unsigned char buf[65536];
    uint64_t h = 0xcbf29ce484222325;
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && (n = read(fd, buf, sizeof(buf))) > 0) {
        for (ssize_t i = 0; i < n; i++) {
            h = (h ^ buf[i]) * 0x100000001b3;
        }
    }
    close(fd);
    return h;
}

static void child(const struct row *r) {
    int out = open("/tmp/out", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int in = open("/dev/null", O_RDONLY);
    if (out < 0 || in < 0 || dup2(out, 1) < 0 || dup2(in, 0) < 0) {
        die("/tmp/out");
    }
    if (r->fn) {
        r->fn();
        fflush(stdout);
        _exit(0);
    }
    execv(r->argv[0], (char **)(uintptr_t)r->argv);
    die(r->argv[0]);
}

static uint64_t children_ns(void) {
    struct rusage u;
    getrusage(RUSAGE_CHILDREN, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000u +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000u;
}

static void run_row(const struct row *r) {
    int status = 0;
    fflush(stdout);
    uint64_t start = now_ns(), cpu_before = children_ns();
    pid_t pid = fork();
    if (!pid) {
        child(r);
    }
    waitpid(pid, &status, 0);
    uint64_t took = now_ns() - start, cpu = children_ns() - cpu_before;
    if (status) {
        printf("prog %s failed: status %x\n", r->name, status);
    } else {
        printf("prog %s %llu %llu %016llx\n", r->name, (unsigned long long)took,
               (unsigned long long)cpu, (unsigned long long)hash_file("/tmp/out"));
    }
    fflush(stdout);
}

static void run_named(const char *name) {
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (!strcmp(rows[i].name, name)) {
            run_row(&rows[i]);
            return;
        }
    }
    printf("prog %s failed: no such row\n", name);
    fflush(stdout);
}

/* Rows named on standard input, one a line, until "off". */
static void serve(void) {
    char line[64];
    printf("progs: ready\n");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        line[strcspn(line, "\r\n")] = 0;
        if (!strcmp(line, "off")) {
            break;
        }
        if (line[0]) {
            run_named(line);
        }
    }
}

/* --- native: another root
 * ---------------------------------------------------------------------------
 */

static void map_ids(void) {
    char text[64];
    uid_t uid = getuid();
    int fd;
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS)) {
        die("unshare (needs root or user namespaces)");
    }
    if ((fd = open("/proc/self/uid_map", O_WRONLY | O_CLOEXEC)) >= 0) {
        int n = snprintf(text, sizeof(text), "0 %u 1", uid);
        if (write(fd, text, (size_t)n) != n) {
            die("uid_map");
        }
        close(fd);
    }
}

static void enter_root(const char *dir) {
    if (geteuid() != 0) {
        map_ids();
    } else if (unshare(CLONE_NEWNS)) {
        die("unshare");
    }
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || chdir(dir) ||
        mount("tmpfs", "tmp", "tmpfs", 0, "size=512m") ||
        mount("/dev", "dev", NULL, MS_BIND | MS_REC, NULL) ||
        mount("/proc", "proc", NULL, MS_BIND | MS_REC, NULL) || chroot(".") || chdir("/")) {
        die(dir);
    }
}

/* --- guest: first process
 * ---------------------------------------------------------------------------
 */

static void be_init(void) {
    struct termios tio;
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    mount("tmpfs", "/tmp", "tmpfs", 0, NULL);
    if (!tcgetattr(0, &tio)) {
        tio.c_lflag &= ~(tcflag_t)ECHO;
        tcsetattr(0, TCSANOW, &tio);
    }
    printf("progs: init, uptime %.3f\n", (double)now_ns() * 1e-9);
    fflush(stdout);
    prepare();
    serve();
    reboot(RB_POWER_OFF);
}

int main(int argc, char **argv) {
    setenv("PATH", "/usr/bin:/bin", 1);
    setenv("LC_ALL", "C", 1);
    setenv("HOME", "/tmp", 1);
    if (getpid() == 1 && argc < 3) {
        be_init();
        return 0;
    }
    if (argc < 3 || strcmp(argv[1], "--root")) {
        fprintf(stderr, "usage: progs --root DIR [ROW...]\n");
        return 2;
    }
    enter_root(argv[2]);
    prepare();
    for (int i = 3; i < argc; i++) {
        run_named(argv[i]);
    }
    if (argc == 3) {
        serve();
    }
    return 0;
}

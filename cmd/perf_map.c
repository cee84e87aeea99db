/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --perf-map[=FILE]: /tmp/perf-PID.map, by which Linux perf names translated code: a line "ADDRESS
 * SIZE NAME" per trace. The name is the guest's address, or with FILE (lines "ADDRESS TYPE NAME": a
 * System.map, /proc/kallsyms of the guest or the output of nm) symbol+offset. The guest kernel must
 * not be at a random address (nokaslr). What was forgotten stays in the file: perf takes the line
 * it reads last. The file is made new, never through a link; vCPU threads write whole lines.
 */
#include "cmd/perf_map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SYMBOLS_MAX = 1 << 20, NAME_MAX_LEN = 80 };

struct symbol {
    u64 address;
    char *name;
};

struct perf_map {
    FILE *out;
    struct symbol *symbol;
    size_t count, room;
};

static int by_address(const void *a, const void *b) {
    u64 x = ((const struct symbol *)a)->address, y = ((const struct symbol *)b)->address;
    return x < y ? -1 : x > y;
}

static bool symbol_add(struct perf_map *m, u64 address, const char *name) {
    if (m->count == m->room) {
        size_t room = m->room ? 2 * m->room : 4096;
        struct symbol *more = room <= SYMBOLS_MAX ? realloc(m->symbol, room * sizeof(*more)) : NULL;
        if (!more) {
            return false;
        }
        m->symbol = more;
        m->room = room;
    }
    m->symbol[m->count] = (struct symbol){.address = address, .name = strdup(name)};
    return m->symbol[m->count].name && ++m->count;
}

static int symbols_read(struct perf_map *m, const char *path, struct err *err) {
    FILE *f = fopen(path, "re");
    char line[512], type, name[NAME_MAX_LEN + 1];
    unsigned long long address;
    bool fits = true;
    if (!f) {
        return ERR_SET(err, ERR_INVAL, "--perf-map: %s: %s", path, strerror(errno));
    }
    while (fits && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%llx %c %80s", &address, &type, name) == 3 && strchr("tTwW", type)) {
            fits = symbol_add(m, address, name);
        }
    }
    fclose(f);
    if (!fits || !m->count) {
        return ERR_SET(err, ERR_INVAL, "--perf-map: %s: %s", path,
                       fits ? "no line \"ADDRESS TYPE NAME\" of code" : "too many symbols");
    }
    qsort(m->symbol, m->count, sizeof(*m->symbol), by_address);
    return 0;
}

/* The last symbol at or below address; NULL: none within 16 MiB. */
static const struct symbol *symbol_of(const struct perf_map *m, u64 address) {
    size_t low = 0, high = m->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (m->symbol[mid].address <= address) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    const struct symbol *s = low ? &m->symbol[low - 1] : NULL;
    return s && address - s->address < 16 * MIB ? s : NULL;
}

static void map_add(void *ctx, const void *code, size_t size, u64 rip) {
    struct perf_map *m = ctx;
    const struct symbol *s = symbol_of(m, rip);
    if (s) {
        fprintf(m->out, "%llx %zx guest:%s+0x%llx\n", (unsigned long long)(uintptr_t)code, size,
                s->name, (unsigned long long)(rip - s->address));
    } else {
        fprintf(m->out, "%llx %zx guest:0x%llx\n", (unsigned long long)(uintptr_t)code, size,
                (unsigned long long)rip);
    }
}

static int map_open(struct perf_map *m, struct err *err) {
    char path[64];
    snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    m->out = fd < 0 ? NULL : fdopen(fd, "w");
    if (!m->out) {
        int rc = ERR_SET(err, ERR_INVAL, "--perf-map: %s: %s", path, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return rc;
    }
    return 0;
}

int perf_map_create(const char *symbols, struct perf_map **out, struct err *err) {
    struct perf_map *m = calloc(1, sizeof(*m));
    if (!m) {
        return ERR_SET(err, ERR_NOMEM, "out of memory");
    }
    int rc = *symbols ? symbols_read(m, symbols, err) : 0;
    rc = rc ? rc : map_open(m, err);
    if (rc) {
        perf_map_destroy(m);
        return rc;
    }
    *out = m;
    return 0;
}

void perf_map_connect(struct perf_map *m, struct engine_translator *translator) {
    translator->named = map_add;
    translator->named_ctx = m;
}

void perf_map_destroy(struct perf_map *m) {
    if (!m) {
        return;
    }
    if (m->out) {
        fclose(m->out);
    }
    for (size_t i = 0; i < m->count; i++) {
        free(m->symbol[i].name);
    }
    free(m->symbol);
    free(m);
}

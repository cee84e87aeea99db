/* SPDX-License-Identifier: Apache-2.0 */
/* See lib_boot.h. */
#include "tests/unit/lib_boot.h"

#include <stdlib.h>
#include <sys/mman.h>

void boot_fixture_init(struct boot_fixture *f, u64 low, u64 high) {
    memset(f, 0, sizeof(*f));
    f->memory = mmap(NULL, low + high, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f->memory == MAP_FAILED || ram_add(&f->ram, 0, low, f->memory, 0) ||
        (high && ram_add(&f->ram, 4 * GIB, high, (u8 *)f->memory + low, 0))) {
        abort();
    }
    e820_build(&f->e820, &f->ram, 0xe0000000, MIB);
    f->req = (struct boot_request){.ram = &f->ram, .e820 = &f->e820, .cmdline = ""};
    cpu_state_reset(&f->state, true);
}

void boot_fixture_done(struct boot_fixture *f) {
    u64 size = 0;
    for (u32 i = 0; i < f->ram.count; i++) {
        size += f->ram.slot[i].size;
    }
    munmap(f->memory, size);
}

void put16(u8 *file, u64 at, u16 v) {
    memcpy(file + at, &v, sizeof(v));
}

void put32(u8 *file, u64 at, u32 v) {
    memcpy(file + at, &v, sizeof(v));
}

void put64(u8 *file, u64 at, u64 v) {
    memcpy(file + at, &v, sizeof(v));
}

u16 guest16(const struct boot_fixture *f, u64 gpa) {
    u16 v = 0xdead;
    ram_read(&f->ram, gpa, &v, sizeof(v));
    return v;
}

u32 guest32(const struct boot_fixture *f, u64 gpa) {
    u32 v = 0xdeadbeef;
    ram_read(&f->ram, gpa, &v, sizeof(v));
    return v;
}

u64 guest64(const struct boot_fixture *f, u64 gpa) {
    u64 v = 0xdeadbeefdeadbeef;
    ram_read(&f->ram, gpa, &v, sizeof(v));
    return v;
}

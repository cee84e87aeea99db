/* SPDX-License-Identifier: Apache-2.0 */
/* Loads the input as a kernel into a small guest memory, with an initrd and a module. */
#ifndef TESTS_FUZZ_LIB_BOOT_FUZZ_H
#define TESTS_FUZZ_LIB_BOOT_FUZZ_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/boot/boot.h"
#include "core/boot/bzimage.h"
#include "core/boot/elf.h"
#include "core/boot/multiboot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FUZZ_RAM = 4 << 20 };

static inline void fuzz_boot(const uint8_t *data, size_t size) {
    static u8 *memory;
    static const u8 initrd[100] = {1};
    struct boot_module module = {.file = {initrd, 50, "module"}, .cmdline = "module 1"};
    struct ram ram = {0};
    struct e820_map e820;
    struct cpu_state s;
    struct err err = {0};
    if (!memory && !(memory = calloc(1, FUZZ_RAM))) {
        abort();
    }
    ram_add(&ram, 0, FUZZ_RAM, memory, 0);
    e820_build(&e820, &ram, 0xe0000000, MIB);
    struct boot_request req = {.ram = &ram,
                               .e820 = &e820,
                               .kernel = {data, size, "kernel"},
                               .initrd = {initrd, sizeof(initrd), "initrd"},
                               .modules = &module,
                               .module_count = 1,
                               .cmdline = "console=ttyS0"};
    cpu_state_reset(&s, true);
    int rc = boot_load(&req, &s, &err);
    if ((rc != 0) != (err.text[0] != 0) || strchr(err.text, '\n')) {
        abort(); /* a failure says why, in one line */
    }
    if (size) { /* each loader by itself, too: detection does not protect them */
        bzimage_is(&req.kernel) ? (void)bzimage_load(&req, &s, &err) : (void)0;
        pvh_load(&req, &s, &err);
        multiboot_load(&req, &s, &err);
    }
}

#endif

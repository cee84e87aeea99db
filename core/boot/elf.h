/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ELF executables, 32 and 64 bit, for i386 and x86-64; and the PVH entry (Xen's
 * docs/misc/pvh.pandoc, note XEN_ELFNOTE_PHYS32_ENTRY) through which Linux's vmlinux is started.
 */
#ifndef CORE_BOOT_ELF_H
#define CORE_BOOT_ELF_H

#include "core/boot/boot.h"

struct elf_image {
    const struct blob *file;
    bool is64;
    u64 entry; /* as in the header: often a virtual address */
    u64 phoff;
    u32 phentsize, phnum;
    u64 low, high; /* physical range of what elf_load loaded */
};

struct elf_segment {
    u32 type;
    u64 offset, vaddr, paddr, filesz, memsz, align;
};

bool elf_is(const struct blob *file);
/* Checks the headers: class, byte order, machine, program headers inside the file. */
int elf_open(const struct blob *file, struct elf_image *elf, struct err *err);
/* Program header i < phnum. */
struct elf_segment elf_segment(const struct elf_image *elf, u32 i);
/* Copies all PT_LOAD segments to their physical addresses, at least one. RAM is zero already, so
 * the part beyond filesz is only checked. */
int elf_load(const struct boot_request *req, struct elf_image *elf, struct err *err);
/* A virtual address that a segment covers, as physical; others come back unchanged. */
u64 elf_physical(const struct elf_image *elf, u64 vaddr);

bool elf_pvh_entry(const struct elf_image *elf, u64 *entry);
int pvh_load(const struct boot_request *req, struct cpu_state *state, struct err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the boot loaders and the tables put things in the guest's first megabyte.
 *
 *   0x00400  BIOS data area (EBDA segment, base memory size)
 *   0x00500  boot GDT
 *   0x06000  PVH start info, modules, memory map
 *   0x07000  Linux zero page (struct boot_params)
 *   0x08000  stack page for entries that want one
 *   0x09000  page tables of the 64-bit entry: PML4, PDPT, four PDs for the first 4 GiB
 *   0x1f000  Linux setup_data
 *   0x20000  kernel command line
 *   0x30000  Multiboot information, module list, strings
 *   0x40000  free
 *   0x9fc00  EBDA
 *   0xe0000  ACPI tables (RSDP first)
 *   0xf0000  MP floating pointer and table, SMBIOS
 *   0xff000  virtual machine generation identifier (16 bytes)
 */
#ifndef CORE_BOOT_LAYOUT_H
#define CORE_BOOT_LAYOUT_H

#define LAYOUT_BDA_EBDA     0x40eull
#define LAYOUT_BDA_BASE_KIB 0x413ull
#define LAYOUT_GDT          0x500ull
#define LAYOUT_PVH          0x6000ull
#define LAYOUT_ZERO_PAGE    0x7000ull
#define LAYOUT_STACK_TOP    0x9000ull
#define LAYOUT_PAGE_TABLES  0x9000ull
#define LAYOUT_SETUP_DATA   0x1f000ull
#define LAYOUT_CMDLINE      0x20000ull
#define LAYOUT_CMDLINE_MAX  0x10000ull /* bytes with the NUL */
#define LAYOUT_MULTIBOOT    0x30000ull
#define LAYOUT_FREE         0x40000ull
#define LAYOUT_EBDA         0x9fc00ull
#define LAYOUT_BASE_END     0xa0000ull
#define LAYOUT_ROM          0xe0000ull
#define LAYOUT_ACPI         0xe0000ull
#define LAYOUT_ACPI_END     0xf0000ull
#define LAYOUT_MPTABLE      0xf0000ull
#define LAYOUT_MPTABLE_END  0xf4000ull
#define LAYOUT_SMBIOS       0xf4000ull
#define LAYOUT_VMGENID      0xff000ull /* a page of its own */
#define LAYOUT_ROM_END      0x100000ull
#define LAYOUT_HIGH         0x100000ull

#endif

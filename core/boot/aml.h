/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes ACPI Machine Language into a buffer: just what a DSDT of a virtual PC needs. ACPI 6.4,
 * chapter 20 (encoding) and 6.4 (resource descriptors). Never overruns: too much sets `failed`.
 *
 *   size_t dev = aml_device(&a, "RTC_");
 *   aml_name_eisaid(&a, "_HID", "PNP0B00");
 *   aml_end(&a, dev);
 */
#ifndef CORE_BOOT_AML_H
#define CORE_BOOT_AML_H

#include "core/base/types.h"

struct aml {
    u8 *buf;
    size_t cap, len;
    bool failed;
};

/* Open a block; aml_end closes it with its PkgLength. Names have 4 characters, a scope's may start
 * with a backslash. */
size_t aml_scope(struct aml *a, const char *path);
size_t aml_device(struct aml *a, const char *name);
size_t aml_method(struct aml *a, const char *name, u8 args);
void aml_end(struct aml *a, size_t block);

/* Name (name, ...): the object follows. */
void aml_name(struct aml *a, const char *name);
void aml_name_int(struct aml *a, const char *name, u64 value);
void aml_name_string(struct aml *a, const char *name, const char *text);
void aml_name_eisaid(struct aml *a, const char *name, const char *id); /* "PNP0A03" */

void aml_int(struct aml *a, u64 value);
void aml_string(struct aml *a, const char *text);
void aml_return_int(struct aml *a, u64 value);
/* Notify (\SCOP.NAME, value): scope and name of 4 characters each. */
void aml_notify(struct aml *a, const char *scope, const char *name, u8 value);
/* A package of count elements that follow; aml_end. */
size_t aml_package(struct aml *a, u8 count);

/* Name (name, ResourceTemplate () { ... }); closed by aml_resources_end. */
struct aml_resources {
    size_t block;
    size_t size_at; /* of the buffer's length */
};
struct aml_resources aml_resources(struct aml *a, const char *name);
void aml_resources_end(struct aml *a, struct aml_resources r);

void aml_io(struct aml *a, u16 port, u8 length);      /* IO (Decode16, ...), fixed */
void aml_irq(struct aml *a, u8 irq);                  /* IRQNoFlags: edge, active high */
void aml_interrupt(struct aml *a, u32 gsi);           /* Interrupt: level, active high, shared */
void aml_memory32(struct aml *a, u32 base, u32 size); /* Memory32Fixed (ReadWrite) */
void aml_bus_numbers(struct aml *a, u16 first, u16 last);
void aml_io_window(struct aml *a, u16 first, u16 last);
void aml_memory_window32(struct aml *a, u32 first, u32 last);
void aml_memory_window64(struct aml *a, u64 first, u64 last);

#endif

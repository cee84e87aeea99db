/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a 32-bit test guest has: checks, exceptions that can be caught, descriptors of its own. The
 * GDT: 0x08 code, 0x10 data, 0x18 user code, 0x20 user data, 0x28 TSS, 0x30 to 0xf8 free.
 */
#ifndef TESTS_GUEST_M32_H
#define TESTS_GUEST_M32_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

struct frame { /* esp and ss only when the privilege level changed */
    u32 es, ds, edi, esi, ebp, esp_pusha, ebx, edx, ecx, eax;
    u32 vector, error, eip, cs, eflags, esp, ss;
};

struct tss32 {
    u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
    u32 eax, ecx, edx, ebx, esp, ebp, esi, edi;
    u32 es, cs, ss, ds, fs, gs, ldt;
    u16 trap, io_base;
};

enum { CODE = 0x08, DATA = 0x10, USER_CODE = 0x1b, USER_DATA = 0x23, TSS = 0x28, FREE = 0x30 };
/* Access bytes: present, DPL 0. */
enum { RO = 0x91, RW = 0x93, DOWN = 0x97, XO = 0x99, XR = 0x9b, CONFORMING = 0x9f, LDT = 0x82 };
enum { BIG = 4, GRANULAR = 8 };

extern struct frame last_frame;
extern u64 gdt[32];
extern struct tss32 tss;

void guest_main(void);
void check_result(bool ok, int line, const char *text);
void check_equal(u32 a, u32 b, int line, const char *text);
#define CHECK(cond)    check_result((cond), __LINE__, #cond)
#define CHECK_EQ(a, b) check_equal((u32)(a), (u32)(b), __LINE__, #a " == " #b)
int catch (void (*fn)(void *), void *arg); /* the vector, or -1; registers in last_frame */
void irq_handler(u8 vector, void (*fn)(struct frame *f));
void idt_set(u8 vector, u16 selector, void *entry, u8 attr);
void segment(u32 selector, u32 base, u32 limit, u8 access, u8 flags);
void call_gate(u32 selector, u16 target, void *entry, u8 dpl, u8 parameters);
/* Runs fn at CPL 3 until an exception or int 0x80; its vector. */
int run_user(void (*fn)(void));
void *memcpy(void *d, const void *s, size_t n);
void *memset(void *d, int c, size_t n);

static inline void outb(u16 port, u8 v) {
    __asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}
static inline u8 inb(u16 port) {
    u8 v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Library of the 32-bit test guests; see m32.h. */
#include "m32.h"

enum { COM1 = 0x3f8, EXIT_PORT = 0xf4 };

struct frame last_frame;
u64 gdt[32] __attribute__((aligned(16)));
struct tss32 tss __attribute__((aligned(128)));
static u64 idt[256] __attribute__((aligned(16)));
static void (*handlers[256])(struct frame *f);
static u32 checks, failures;
static u8 ring0_stack[4096] __attribute__((aligned(16)));
static u8 user_stack[4096] __attribute__((aligned(16)));

extern char isr_stubs[];
extern u32 catch_esp;
int catch_call(void (*fn)(void *), void *arg);
_Noreturn void catch_resume(void);
void enter_user(void *context);
void isr_entry(struct frame *f);
void guest_entry(u32 magic, u32 info);

void *memcpy(void *d, const void *s, size_t n) {
    u8 *p = d;
    const u8 *q = s;
    while (n--) {
        *p++ = *q++;
    }
    return d;
}

void *memset(void *d, int c, size_t n) {
    u8 *p = d;
    while (n--) {
        *p++ = (u8)c;
    }
    return d;
}

static void put(const char *s) {
    for (; *s; s++) {
        while (!(inb(COM1 + 5) & 0x20)) {
        }
        outb(COM1, (u8)*s);
    }
}

static void put_hex(u32 v) {
    char s[11] = "0x00000000";
    for (int i = 9; i >= 2; i--, v >>= 4) {
        s[i] = "0123456789abcdef"[v & 15];
    }
    put(s);
}

static void put_decimal(u32 v) {
    char s[12] = {0};
    int at = 11;
    do {
        s[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    put(s + at);
}

void check_result(bool ok, int line, const char *text) {
    checks++;
    if (!ok) {
        failures++;
        put("FAIL line ");
        put_decimal((u32)line);
        put(": ");
        put(text);
        put("\n");
    }
}

void check_equal(u32 a, u32 b, int line, const char *text) {
    check_result(a == b, line, text);
    if (a != b) {
        put("     left ");
        put_hex(a);
        put(", right ");
        put_hex(b);
        put("\n");
    }
}

static void leave(void) {
    put_decimal(checks);
    put(" checks, ");
    put_decimal(failures);
    put(" failures\n");
    outb(EXIT_PORT, failures || !checks ? 0x21 : 0x20);
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}

void segment(u32 selector, u32 base, u32 limit, u8 access, u8 flags) {
    gdt[selector / 8] = (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 |
                        (u64)(limit >> 16 & 15) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
}

static u64 gate(u16 selector, void *entry, u8 attr, u8 parameters) {
    u32 p = (u32)entry;
    return (p & 0xffff) | (u64)selector << 16 | (u64)parameters << 32 | (u64)attr << 40 |
           (u64)(p >> 16) << 48;
}

void call_gate(u32 selector, u16 target, void *entry, u8 dpl, u8 parameters) {
    gdt[selector / 8] = gate(target, entry, (u8)(0x8c | dpl << 5), parameters);
}

void idt_set(u8 vector, u16 selector, void *entry, u8 attr) {
    idt[vector] = gate(selector, entry, attr, 0);
}

void irq_handler(u8 vector, void (*fn)(struct frame *f)) {
    handlers[vector] = fn;
}

void isr_entry(struct frame *f) {
    if (handlers[f->vector]) {
        handlers[f->vector](f);
        return;
    }
    memcpy(&last_frame, f, f->cs & 3 ? sizeof(*f) : offsetof(struct frame, esp));
    if (catch_esp) {
        catch_resume();
    }
    put("FAIL unexpected vector ");
    put_decimal(f->vector);
    put(" error ");
    put_hex(f->error);
    put(" at ");
    put_hex(f->eip);
    put("\n");
    failures++;
    leave();
}

int catch (void (*fn)(void *), void *arg) {
    return catch_call(fn, arg) ? (int)last_frame.vector : -1;
}

int run_user(void (*fn)(void)) {
    u32 context[5] = {(u32)fn, USER_CODE, 2, (u32)(user_stack + sizeof(user_stack)), USER_DATA};
    return catch (enter_user, context);
}

static void tables_load(void) {
    struct {
        u16 limit;
        u32 base;
    } __attribute__((packed)) g = {sizeof(gdt) - 1, (u32)gdt}, i = {sizeof(idt) - 1, (u32)idt};
    __asm__ volatile(
        "lgdt %0\n lidt %1\n ljmp $8, $1f\n"
        "1: mov %2, %%ds\n mov %2, %%es\n mov %2, %%ss\n mov %2, %%fs\n mov %2, %%gs\n" ::"m"(g),
        "m"(i), "r"(DATA));
}

void guest_entry(u32 magic, u32 info) {
    (void)info;
    segment(CODE, 0, 0xfffff, XR, BIG | GRANULAR);
    segment(DATA, 0, 0xfffff, RW, BIG | GRANULAR);
    segment(USER_CODE, 0, 0xfffff, XR | 0x60, BIG | GRANULAR);
    segment(USER_DATA, 0, 0xfffff, RW | 0x60, BIG | GRANULAR);
    segment(TSS, (u32)&tss, sizeof(tss) - 1, 0x89, 0);
    for (u32 v = 0; v < 256; v++) {
        idt_set((u8)v, CODE, isr_stubs + v * 16, v == 0x80 ? 0xee : 0x8e);
    }
    tables_load();
    tss.ss0 = DATA;
    tss.esp0 = (u32)(ring0_stack + sizeof(ring0_stack));
    tss.io_base = sizeof(tss);
    __asm__ volatile("ltr %w0" ::"r"(TSS));
    CHECK_EQ(magic, 0x2badb002);
    guest_main();
    leave();
}

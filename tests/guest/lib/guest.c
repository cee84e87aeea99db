/* SPDX-License-Identifier: Apache-2.0 */
/* Library of the test guests; see guest.h. */
#include "guest.h"

enum { COM1 = 0x3f8, EXIT_PORT = 0xf4, EXIT_PASS = 0x20, EXIT_FAIL = 0x21 };

struct idt_entry {
    u16 offset0, selector;
    u8 ist, attr;
    u16 offset1;
    u32 offset2, reserved;
};

struct fault last_fault;
bool loose_chips;
struct frame last_frame;
extern char isr_stubs[], ap_start[], ap_end[];
extern u64 catch_rsp;
extern u32 ap_number;
int catch_call(void (*fn)(void *), void *arg);
_Noreturn void catch_resume(void);
void isr_entry(struct frame *f);
void guest_entry(u32 magic, u32 info);
void ap_entry(u32 index);

static struct idt_entry idt[256] __attribute__((aligned(16)));
static void (*handlers[256])(struct frame *f);
static u32 checks, failures;
static u32 aps_ready;
static u64 split_tables[16][512] __attribute__((aligned(4096)));
static u32 splits;

void *memset(void *d, int c, size_t n) {
    u8 *p = d;
    while (n--) {
        *p++ = (u8)c;
    }
    return d;
}

void *memcpy(void *restrict d, const void *restrict s, size_t n) {
    u8 *p = d;
    const u8 *q = s;
    while (n--) {
        *p++ = *q++;
    }
    return d;
}

int memcmp(const void *a, const void *b, size_t n) {
    const u8 *p = a, *q = b;
    for (; n--; p++, q++) {
        if (*p != *q) {
            return *p - *q;
        }
    }
    return 0;
}

/* --- console
 * -------------------------------------------------------------------------------------- */

static void put(char c) {
    while (!(inb(COM1 + 5) & 0x20)) {
    }
    outb(COM1, (u8)c);
}

static void put_number(u64 v, unsigned base, int width, char pad) {
    char digits[24];
    int n = 0;
    do {
        digits[n++] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    for (int i = n; i < width; i++) {
        put(pad);
    }
    while (n) {
        put(digits[--n]);
    }
}

static void print_argument(char c, bool is_long, int width, char pad, va_list *ap) {
    u64 v;
    const char *s;
    switch (c) {
    case 's':
        for (s = va_arg(*ap, const char *); *s; s++) {
            put(*s);
        }
        break;
    case 'c':
        put((char)va_arg(*ap, int));
        break;
    case 'd':
        v = is_long ? va_arg(*ap, u64) : (u64)(int64_t)va_arg(*ap, int);
        if ((int64_t)v < 0) {
            put('-');
            v = 0 - v;
        }
        put_number(v, 10, width, pad);
        break;
    default:
        v = is_long || c == 'p' ? va_arg(*ap, u64) : va_arg(*ap, u32);
        put_number(v, c == 'u' ? 10 : 16, width, pad);
        break;
    }
}

void print(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    for (; *fmt; fmt++) {
        if (*fmt != '%') {
            put(*fmt);
            continue;
        }
        fmt++;
        char pad = *fmt == '0' ? '0' : ' ';
        int width = 0;
        while (*fmt >= '0' && *fmt <= '9') {
            width = width * 10 + (*fmt++ - '0');
        }
        bool is_long = false;
        while (*fmt == 'l') {
            is_long = true;
            fmt++;
        }
        print_argument(*fmt, is_long, width, pad, &ap);
    }
    va_end(ap);
}

/* --- checks
 * --------------------------------------------------------------------------------------- */

void check_result(bool ok, const char *file, int line, const char *text) {
    __atomic_fetch_add(&checks, 1, __ATOMIC_RELAXED);
    if (!ok) {
        __atomic_fetch_add(&failures, 1, __ATOMIC_RELAXED);
        print("FAIL %s:%d: %s\n", file, line, text);
    }
}

void check_equal(u64 a, u64 b, const char *file, int line, const char *text) {
    check_result(a == b, file, line, text);
    if (a != b) {
        print("     left 0x%lx, right 0x%lx\n", a, b);
    }
}

_Noreturn void guest_exit(void) {
    print("%u checks, %u failures\n", checks, failures);
    outb(EXIT_PORT, failures || !checks ? EXIT_FAIL : EXIT_PASS);
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}

/* --- exceptions
 * ----------------------------------------------------------------------------------- */

void idt_gate(u8 vector, void *entry, u8 type, u8 dpl, u8 ist) {
    u64 p = (u64)entry;
    idt[vector] = (struct idt_entry){.offset0 = (u16)p,
                                     .selector = 8,
                                     .ist = ist,
                                     .attr = (u8)(0x80 | dpl << 5 | type),
                                     .offset1 = (u16)(p >> 16),
                                     .offset2 = (u32)(p >> 32)};
}

static void idt_load(void) {
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) ptr = {sizeof(idt) - 1, (u64)idt};
    __asm__ volatile("lidt %0" ::"m"(ptr));
}

void irq_handler(u8 vector, void (*fn)(struct frame *f)) {
    handlers[vector] = fn;
}

void isr_entry(struct frame *f) {
    if (handlers[f->vector]) {
        handlers[f->vector](f);
        return;
    }
    last_fault = (struct fault){
        .vector = (u32)f->vector, .error = f->error, .rip = f->rip, .cr2 = READ_CR(2)};
    last_frame = *f;
    if (catch_rsp) {
        catch_resume();
    }
    print("FAIL unexpected vector %u error 0x%lx at 0x%lx cr2 0x%lx rsp 0x%lx\n", (u32)f->vector,
          f->error, f->rip, READ_CR(2), f->rsp);
    failures++;
    guest_exit();
}

int catch (void (*fn)(void *arg), void *arg) {
    return catch_call(fn, arg) ? (int)last_fault.vector : -1;
}

/* --- paging
 * --------------------------------------------------------------------------------------- */

static u64 *split(u64 *entry) {
    u64 *table = split_tables[splits++ % 16];
    u64 base = *entry & 0x000fffffffe00000ull;
    for (u64 i = 0; i < 512; i++) {
        table[i] = (base + i * 4096) | 3;
    }
    *entry = (u64)table | 7;
    return table;
}

/* Only the first 4 GiB, which boot.S mapped by 2 MiB pages. */
u64 *page_entry(u64 va) {
    u64 *entry = &pd[va >> 21];
    u64 *table = *entry & 0x80 ? split(entry) : (u64 *)(*entry & 0x000ffffffffff000ull);
    return &table[(va >> 12) & 511];
}

void map_page(u64 va, u64 pa, u64 flags) {
    pml4[0] |= 7;
    pdpt[(va >> 30) & 3] |= 7;
    *page_entry(va) = pa | flags;
    WRITE_CR(3, READ_CR(3));
}

/* --- time and other processors
 * -------------------------------------------------------------------- */

/* PIT channel 2 counts 50 ms down while the TSC runs. */
static u64 tsc_hz_measure(void) {
    outb(0x61, (u8)((inb(0x61) & ~2) | 1));
    outb(0x43, 0xb0);
    outb(0x42, 59659 & 0xff);
    outb(0x42, 59659 >> 8);
    u64 start = rdtsc();
    while (!(inb(0x61) & 0x20)) {
    }
    return (rdtsc() - start) * 20;
}

u64 tsc_hz(void) {
    static u64 hz;
    u32 r[4];
    if (!hz) {
        cpuid(0, 0, r);
        if (r[0] >= 0x15) {
            cpuid(0x15, 0, r);
            hz = r[0] && r[1] && r[2] ? (u64)r[2] * r[1] / r[0] : 0;
        }
        hz = hz ? hz : tsc_hz_measure();
    }
    return hz;
}

void delay_us(u64 us) {
    u64 end = rdtsc() + tsc_hz() / 1000000 * us;
    while (rdtsc() < end) {
        __asm__ volatile("pause");
    }
}

__attribute__((weak)) void ap_main(u32 index) {
    (void)index;
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}

void ap_entry(u32 index) {
    idt_load();
    __atomic_fetch_add(&aps_ready, 1, __ATOMIC_SEQ_CST);
    ap_main(index);
}

static void icr(u32 value) {
    mmio_write(LAPIC + 0x310, 0);
    mmio_write(LAPIC + 0x300, value);
    while (mmio_read(LAPIC + 0x300) & 0x1000) {
    }
}

u32 ap_boot(void) {
    memcpy((void *)0x8000, ap_start, (size_t)(ap_end - ap_start));
    mmio_write(LAPIC + 0xf0, mmio_read(LAPIC + 0xf0) | 0x1ff);
    icr(0xc4500); /* INIT, all but self */
    delay_us(10000);
    icr(0xc4608); /* SIPI, vector 8 */
    delay_us(300);
    icr(0xc4608);
    delay_us(500000);
    return __atomic_load_n(&aps_ready, __ATOMIC_SEQ_CST);
}

/* Multiboot 1, 3.3: flags bit 2, then the command line at 16. */
bool cmdline_has(u64 mb_info, const char *word) {
    const u32 *mb = (const u32 *)mb_info;
    size_t size = 0;
    while (word[size]) {
        size++;
    }
    for (const char *s = mb[0] & 4 ? (const char *)(u64)mb[4] : ""; *s; s++) {
        if (!memcmp(s, word, size)) {
            return true;
        }
    }
    return false;
}

void guest_entry(u32 magic, u32 info) {
    loose_chips = cmdline_has(info, "loose-chips");
    for (int v = 0; v < 256; v++) {
        idt_gate((u8)v, isr_stubs + v * 16, 0xe, 0, 0);
    }
    idt_load();
    outb(0x21, 0xff); /* firmware may have left the timer on at vector 8 */
    outb(0xa1, 0xff);
    CHECK_EQ(magic, 0x2badb002);
    guest_main(info);
    guest_exit();
}

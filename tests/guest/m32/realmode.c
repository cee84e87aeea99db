/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From protected mode to real mode and back (SDM vol. 3, 9.9 and chapter 20): segment arithmetic,
 * the interrupt vector table, faults, limits, and the "unreal" limits that survive the switch.
 */
#include "lib/m32.h"

#define RESULT ((volatile u32 *)0x6000)

/* Copied to 0x7000 and entered through a 16-bit code segment with base 0x7000; results at 0x6000.
 */
__asm__(
    ".globl real_start, real_end, go_real\n"
    "    .code16\n"
    "real_start:\n"
    "    mov $0x40, %ax\n" /* 16-bit data: limits of 64 KiB */
    "    mov %ax, %ds\n    mov %ax, %es\n    mov %ax, %ss\n    mov %ax, %gs\n"
    "    mov $0x48, %ax\n    mov %ax, %fs\n" /* 4 GiB: stays so in real mode */
    "    mov %cr0, %eax\n    and $~1, %al\n    mov %eax, %cr0\n"
    "    ljmp $0x700, $(1f - real_start)\n"
    "1:  xor %ax, %ax\n    mov %ax, %ds\n    mov %ax, %ss\n    mov $0x6ff0, %sp\n"
    "    mov $0x600, %ax\n    mov %ax, %es\n"
    "    mov %cs, %ax\n    mov %ax, %es:0\n" /* 0: CS */
    "    movl $0x12345678, %es:4\n"          /* 1: 32-bit data in 16-bit code */
    "    mov $0x6008 >> 4, %bx\n    mov %bx, %gs\n    movw $0xbeef, %gs:8\n" /* 2: base = selector *
                                                                                16 */
    "    mov $(int60 - real_start), %ax\n    mov %ax, 0x60 * 4\n    mov %cs, 0x60 * 4 + 2\n"
    "    mov $(int0 - real_start), %ax\n    mov %ax, 0\n    mov %cs, 2\n"
    "    mov $(int13 - real_start), %ax\n    mov %ax, 13 * 4\n    mov %cs, 13 * 4 + 2\n"
    "    mov $(int6 - real_start), %ax\n    mov %ax, 6 * 4\n    mov %cs, 6 * 4 + 2\n"
    "    lidt %cs:(ivt - real_start)\n"
    "    sti\n    int $0x60\n    cli\n"
    "    mov %si, %es:12\n" /* 3: from the handler, flags */
    "div: xor %cx, %cx\n"
    "dividing: div %cx\n"   /* 4: #DE reports this instruction; the handler steps over it */
    "    mov %sp, %es:20\n" /* 5: the stack is as it was */
    "    mov $0xffff, %bx\n"
    "    mov (%bx), %ax\n" /* 6: a word at 0xffff is outside: #GP, vector 13, no error code */
    "    mov $0x100000, %esi\n    mov %fs:(%esi), %eax\n    mov %eax, %es:28\n" /* 7: unreal: the
                                                                                   Multiboot header
                                                                                 */
    "    pushl $0xaabbccdd\n    pop %ax\n    pop %dx\n    mov %ax, %es:32\n    mov %dx, %es:36\n"
    "    mov $3, %cx\n    mov $0x6100, %di\n    push %es\n    xor %ax, %ax\n    mov %ax, %es\n"
    "    mov $'A', %al\n    cld\n    rep stosb\n    pop %es\n    mov %di, %es:40\n" /* 10 */
    "    lcall $0x700, $(far16 - real_start)\n    mov %ax, %es:44\n"                /* 11 */
    "    xor %cx, %cx\n    mov $0xffff, %si\n    lodsb\n    mov %si, %es:48\n" /* 12: SI wraps */
    "    ud2\n"                                                                /* 13 */
    "    pushf\n    pop %ax\n    mov %ax, %es:56\n"                            /* 14 */
    "    mov $0xffff, %ax\n    mov %ax, %gs\n    mov $0x0010, %bx\n"
    "    movb $0x77, %gs:0x6110 + 0x20\n    mov %ax, %es:60\n" /* 15: above 1 MiB */
    "    smsw %ax\n    mov %ax, %es:64\n"                      /* 16: PE is 0 */
    "    data32 lgdt %cs:(back_gdt - real_start)\n"
    "    mov %cr0, %eax\n    or $1, %al\n    mov %eax, %cr0\n"
    "    ljmpl $8, $back\n"
    "int60: pushf\n    pop %si\n    iret\n"
    "int0: push %bp\n    mov %sp, %bp\n    mov 2(%bp), %ax\n    mov %ax, %es:16\n"
    "    addw $2, 2(%bp)\n    pop %bp\n    iret\n"
    "int13: push %bp\n    mov %sp, %bp\n    movw $13, %es:24\n    addw $2, 2(%bp)\n    pop %bp\n   "
    " iret\n"
    "int6: push %bp\n    mov %sp, %bp\n    movw $6, %es:52\n    addw $2, 2(%bp)\n    pop %bp\n    "
    "iret\n"
    "far16: mov $0x4321, %ax\n    lret\n"
    "ivt: .word 0x3ff\n    .long 0\n"
    "back_gdt: .word 32 * 8 - 1\n    .long gdt\n"
    "real_end:\n"
    "    .code32\n"
    "go_real:\n"
    "    pusha\n    mov %esp, saved_esp\n    sidt saved_idt\n"
    "    ljmp $0x38, $0\n"
    "back:\n"
    "    mov $0x10, %eax\n    mov %eax, %ds\n    mov %eax, %es\n    mov %eax, %ss\n"
    "    mov %eax, %fs\n    mov %eax, %gs\n"
    "    mov saved_esp, %esp\n    lidt saved_idt\n    popa\n    ret\n"
    ".globl real_dividing\n .set real_dividing, dividing - real_start\n"
    ".data\nsaved_esp: .long 0\nsaved_idt: .skip 8\n.text\n");
extern char real_start[], real_end[], real_dividing[];
void go_real(void);

void guest_main(void) {
    segment(0x38, 0x7000, 0xffff, XR, 0);
    segment(0x40, 0, 0xffff, RW, 0);
    segment(0x48, 0, 0xfffff, RW, BIG | GRANULAR);
    memset((void *)0x6000, 0, 0x200);
    for (u32 round = 0; round < 3; round++) {
        memcpy((void *)0x7000, real_start, (u32)(real_end - real_start));
        go_real();
        CHECK_EQ(RESULT[0], 0x700);
        CHECK_EQ(RESULT[1], 0x12345678);
        CHECK_EQ(RESULT[2], 0xbeef);
        CHECK_EQ(RESULT[3] & 0x200, 0); /* INT clears IF */
        CHECK_EQ(RESULT[4], (u32)real_dividing);
        CHECK_EQ(RESULT[5], 0x6ff0);
        CHECK_EQ(RESULT[6], 13);
        CHECK_EQ(RESULT[7], *(u32 *)0x100000);
        CHECK_EQ(RESULT[8], 0xccdd);
        CHECK_EQ(RESULT[9], 0xaabb);
        CHECK_EQ(*(u32 *)0x6100, 0x414141);
        CHECK_EQ(RESULT[10], 0x6103);
        CHECK_EQ(RESULT[11], 0x4321);
        CHECK_EQ(RESULT[12], 0);
        CHECK_EQ(RESULT[13], 6);
        CHECK_EQ(RESULT[14] & 0x202, 2);
        CHECK_EQ(*(u8 *)(0xffff0 + 0x6130), 0x77);
        CHECK_EQ(RESULT[16] & 1, 0);
        memset((void *)0x6000, 0, 0x200);
    }
}

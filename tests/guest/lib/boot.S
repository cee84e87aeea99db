/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entry of the test guests: Multiboot 1 (32-bit protected mode, paging off) to 64-bit C code with the
 * first 4 GiB identity-mapped by 2 MiB pages. Also the way back to 32-bit code and the start of APs.
 */
    .set MB_MAGIC, 0x1badb002
    .set MB_FLAGS, 0x3          /* modules on page boundaries, memory information */

    .section .multiboot, "a"
    .align 4
    .long MB_MAGIC, MB_FLAGS, -(MB_MAGIC + MB_FLAGS)

    .text
    .code32
    .global _start
_start:
    cli
    mov %eax, mb_magic
    mov %ebx, mb_info
    mov $stack_top, %esp
    /* pd: 2048 entries of 2 MiB in four pages, present, writable, large */
    mov $pd, %edi
    mov $0x83, %eax
    xor %edx, %edx
    mov $2048, %ecx
1:  mov %eax, (%edi)
    mov %edx, 4(%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 1b
    mov $pdpt, %edi
    mov $pd + 3, %eax
    mov $4, %ecx
2:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $0x1000, %eax
    add $8, %edi
    loop 2b
    movl $pdpt + 3, pml4
    call enter_long_mode
    .code64
    xor %ebp, %ebp
    mov mb_magic(%rip), %edi
    mov mb_info(%rip), %esi
    call guest_entry
3:  cli
    hlt
    jmp 3b

    /* 32-bit in, 64-bit out: returns to the caller in long mode. */
    .code32
enter_long_mode:
    mov %cr4, %eax
    or $0x620, %eax             /* PAE, OSFXSR, OSXMMEXCPT */
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x901, %eax             /* SCE, LME, NXE */
    wrmsr
    mov %cr0, %eax
    and $~0x6000000c, %eax      /* CD, NW, TS, EM off */
    or $0x80010022, %eax        /* PG, WP, NE, MP */
    mov %eax, %cr0
    lgdt gdt_ptr
    ljmp $0x08, $1f
    .code64
1:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov (%rsp), %eax            /* a 32-bit return address */
    add $4, %rsp
    jmp *%rax

    /* Copied to 0x8000; SIPI vector 8. Each AP takes a number and a stack. */
    .global ap_start, ap_end
    .code16
ap_start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl %cs:(ap_gdt_ptr - ap_start)
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $0x18, $ap_start32
    .align 4
ap_gdt_ptr:
    .word gdt_end - gdt - 1
    .long gdt
ap_end:
    .code32
ap_start32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $1, %ebx
    lock xadd %ebx, ap_number   /* 1, 2, ... */
    mov %ebx, %eax
    shl $12, %eax
    lea ap_stacks(%eax), %esp
    call enter_long_mode
    .code64
    mov %ebx, %edi
    call ap_entry
4:  cli
    hlt
    jmp 4b

    /* int catch_call(void (*fn)(void *), void *arg): 0, or 1 when an exception came (in last_fault). */
    .global catch_call
catch_call:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, catch_rsp(%rip)
    mov %rdi, %rax
    mov %rsi, %rdi
    call *%rax
    xor %eax, %eax
catch_out:
    movq $0, catch_rsp(%rip)
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
    .global catch_resume
catch_resume:
    mov catch_rsp(%rip), %rsp
    mov $1, %eax
    jmp catch_out

    /* 256 entry points of 16 bytes: push a dummy error code where there is none, push the vector. */
    .align 16
    .global isr_stubs
isr_stubs:
    .set i, 0
    .rept 256
    .align 16
    .if (i == 8) || (i >= 10 && i <= 14) || (i == 17) || (i == 21)
    .else
    push $0
    .endif
    push $i
    jmp isr_common
    .set i, i + 1
    .endr

isr_common:
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, %rdi
    cld
    call isr_entry
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq

    .data
    .align 16
    .global gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    /* 0x08 64-bit code */
    .quad 0x00cf93000000ffff    /* 0x10 data */
    .quad 0x00cf9b000000ffff    /* 0x18 32-bit code */
    .quad 0x00cffb000000ffff    /* 0x20 32-bit user code */
    .quad 0x00cff3000000ffff    /* 0x28 user data */
    .quad 0x00affb000000ffff    /* 0x30 64-bit user code */
    .quad 0, 0                  /* 0x38 TSS */
    .quad 0x00009b000000ffff    /* 0x48 16-bit code */
    .quad 0x000093000000ffff    /* 0x50 16-bit data */
gdt_end:
gdt_ptr:
    .word gdt_end - gdt - 1
    .quad gdt
    .global mb_magic, mb_info, ap_number, catch_rsp
mb_magic: .long 0
mb_info: .long 0
ap_number: .long 1
catch_rsp: .quad 0

    .bss
    .align 4096
    .global pml4, pdpt, pd
pml4: .skip 4096
pdpt: .skip 4096
pd: .skip 4 * 4096
    .skip 65536
stack_top:
ap_stacks: .skip 65 * 4096

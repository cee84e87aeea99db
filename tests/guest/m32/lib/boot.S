/* SPDX-License-Identifier: Apache-2.0 */
/* Entry of the 32-bit guests: protected mode without paging, as Multiboot enters it. */
    .section .multiboot, "a"
    .align 4
    .long 0x1badb002, 3, -(0x1badb002 + 3)

    .text
    .global _start
_start:
    cli
    mov $stack_top, %esp
    push %ebx
    push %eax
    call guest_entry
1:  cli
    hlt
    jmp 1b

    /* int catch_call(void (*fn)(void *), void *arg): 0, or 1 when an exception came. */
    .global catch_call
catch_call:
    push %ebx
    push %ebp
    push %esi
    push %edi
    mov 20(%esp), %eax
    mov 24(%esp), %edx
    mov %esp, catch_esp
    push %edx
    call *%eax
    xor %eax, %eax
catch_out:
    mov catch_esp, %esp
    movl $0, catch_esp
    pop %edi
    pop %esi
    pop %ebp
    pop %ebx
    ret
    .global catch_resume
catch_resume:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov catch_esp, %esp
    mov $1, %eax
    jmp catch_out

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
    pusha
    push %ds
    push %es
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %esp, %eax
    cld
    push %eax
    call isr_entry
    add $4, %esp
    pop %es
    pop %ds
    popa
    add $8, %esp
    iret

    /* void enter_user(struct { eip, cs, eflags, esp, ss } *): iret to CPL 3. */
    .global enter_user
enter_user:
    mov 4(%esp), %eax
    pushl 16(%eax)
    pushl 12(%eax)
    pushl 8(%eax)
    pushl 4(%eax)
    pushl 0(%eax)
    mov $0x23, %eax
    mov %eax, %ds
    mov %eax, %es
    xor %eax, %eax
    iret

    .data
    .global catch_esp
catch_esp: .long 0
    .bss
    .align 16
    .skip 32768
stack_top:

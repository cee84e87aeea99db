/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leaving a handler in the middle of an instruction: setjmp and longjmp without a C library.
 * System V ABI: the callee-saved registers, the stack pointer and the return address; the direction
 * flag is clear on both sides, MXCSR and the x87 control word are the vector unit's business.
 *
 *   jump[0..7]: rbx rbp r12 r13 r14 r15 rsp rip
 */
    .text

/* int soft_setjmp(void **jump) */
    .globl soft_setjmp
    .type soft_setjmp, @function
soft_setjmp:
    movq %rbx, 0(%rdi)
    movq %rbp, 8(%rdi)
    movq %r12, 16(%rdi)
    movq %r13, 24(%rdi)
    movq %r14, 32(%rdi)
    movq %r15, 40(%rdi)
    leaq 8(%rsp), %rax
    movq %rax, 48(%rdi)
    movq (%rsp), %rax
    movq %rax, 56(%rdi)
    xorl %eax, %eax
    ret
    .size soft_setjmp, . - soft_setjmp

/* void soft_longjmp(void **jump, int value) */
    .globl soft_longjmp
    .type soft_longjmp, @function
soft_longjmp:
    movl %esi, %eax
    movq 0(%rdi), %rbx
    movq 8(%rdi), %rbp
    movq 16(%rdi), %r12
    movq 24(%rdi), %r13
    movq 32(%rdi), %r14
    movq 40(%rdi), %r15
    movq 48(%rdi), %rsp
    jmpq *56(%rdi)
    .size soft_longjmp, . - soft_longjmp

    .section .note.GNU-stack, "", @progbits

/* SPDX-License-Identifier: Apache-2.0 */
/* void enter_user(struct user_context *): RIP, CS, RFLAGS, RSP, SS for iretq, then RDI and RSI. The way
   back is an exception or interrupt, which catch_call turns into a return. */
    .text
    .global enter_user
enter_user:
    pushq 32(%rdi)
    pushq 24(%rdi)
    pushq 16(%rdi)
    pushq 8(%rdi)
    pushq 0(%rdi)
    mov 48(%rdi), %rsi
    mov 40(%rdi), %rdi
    xor %eax, %eax
    xor %ebx, %ebx
    xor %ecx, %ecx
    xor %edx, %edx
    xor %ebp, %ebp
    iretq

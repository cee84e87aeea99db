/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ROL and ROR of a register by each immediate count, 8 bytes apart: there are processors that leave OF alone
 * for counts other than 1 in this form, but not in memory or when the count is in CL, and the guest
 * shall see what the host does.
 * Operand and result in rdx.
 */
    .text

.macro rotate_table name, op, reg
    .balign 8
    .globl \name
    .type \name, @function
\name:
    .set count, 0
    .rept 64
    \op $count, \reg
    ret
    .balign 8
    .set count, count + 1
    .endr
    .size \name, . - \name
.endm

    rotate_table soft_rol_u8, rolb, %dl
    rotate_table soft_rol_u16, rolw, %dx
    rotate_table soft_rol_u32, roll, %edx
    rotate_table soft_rol_u64, rolq, %rdx
    rotate_table soft_ror_u8, rorb, %dl
    rotate_table soft_ror_u16, rorw, %dx
    rotate_table soft_ror_u32, rorl, %edx
    rotate_table soft_ror_u64, rorq, %rdx

    .section .note.GNU-stack, "", @progbits

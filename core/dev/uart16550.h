/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The 16550A serial port. National Semiconductor PC16550D data sheet.
 *
 *   guest --THR--> 16-byte FIFO --> backend write     (refused bytes wait for writable)
 *   guest <--RBR-- 16-byte FIFO <-- backend receive   (a full FIFO refuses, rx_ready asks again)
 *
 * Bytes take no time: the divisor is kept and has no effect, and the character timeout of the
 * receive FIFO comes at once. Left out: break and parity errors from the line, DMA pins.
 *
 * Lock rule: register accesses come with the board lock held; the backend's callbacks take it.
 */
#ifndef CORE_DEV_UART16550_H
#define CORE_DEV_UART16550_H

#include "core/dev/device.h"
#include "core/if/backend.h"

enum {
    UART_COM1 = 0x3f8,
    UART_COM2 = 0x2f8,
    UART_COM3 = 0x3e8,
    UART_COM4 = 0x2e8,
    UART_PORTS = 8,
    UART_IRQ_COM1 = 4, /* also COM3 */
    UART_IRQ_COM2 = 3, /* also COM4 */
};

/* Ports that share a GSI drive it together. backend may be NULL: nothing connected, output
 * vanishes. COM1..COM4 by port; id "serial0". */
int uart_add(struct device_list *list, struct device_env *env, const char *id, u16 port, u32 gsi,
             struct char_backend *backend, struct err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The 16550A serial port; see uart16550.h. */
#include "core/dev/uart16550.h"

enum {
    RBR = 0, /* read; write: THR; with DLAB the divisor's low byte */
    IER = 1,
    IIR = 2, /* read; write: FCR */
    LCR = 3,
    MCR = 4,
    LSR = 5,
    MSR = 6,
    SCR = 7,

    IER_RX = 0x01,
    IER_TX = 0x02,
    IER_LINE = 0x04,
    IER_MODEM = 0x08,

    IIR_MODEM = 0x00,
    IIR_NONE = 0x01,
    IIR_TX = 0x02,
    IIR_RX = 0x04,
    IIR_LINE = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFO = 0xc0,

    FCR_ENABLE = 0x01,
    FCR_CLEAR_RX = 0x02,
    FCR_TRIGGER = 0xc0,

    LCR_DLAB = 0x80,

    MCR_DTR = 0x01,
    MCR_RTS = 0x02,
    MCR_OUT1 = 0x04,
    MCR_OUT2 = 0x08,
    MCR_LOOP = 0x10,
    MCR_BITS = 0x1f,

    LSR_DATA = 0x01,
    LSR_OVERRUN = 0x02,
    LSR_ERRORS = 0x1e, /* overrun, parity, framing, break */
    LSR_THR_EMPTY = 0x20,
    LSR_IDLE = 0x40,

    MSR_DELTAS = 0x0f,
    MSR_RI_FELL = 0x04,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,

    FIFO_SIZE = 16,
};

struct fifo {
    u8 data[FIFO_SIZE];
    u8 count;
};

struct uart {
    struct device dev;
    struct bus_region region;
    struct char_backend *backend;
    u32 gsi, driver; /* which of the line's drivers this is: COM3 is behind COM1's */
    u8 ier, lcr, mcr, msr, scr, fcr;
    u8 errors; /* the error bits of LSR */
    u16 divisor;
    struct fifo rx, tx;
    bool tx_pending; /* the transmitter-empty interrupt, until IIR is read or a byte written */
    bool refused;    /* input was refused: rx_ready when there is room */
    bool line;       /* level of the interrupt output */
};

static struct uart *of(struct device *dev) {
    return CONTAINER_OF(dev, struct uart, dev);
}

static u32 rx_room(const struct uart *u) {
    u32 size = u->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
    return u->rx.count < size ? size - u->rx.count : 0;
}

static u32 rx_trigger(const struct uart *u) {
    static const u8 level[] = {1, 4, 8, 14};
    return u->fcr & FCR_ENABLE ? level[u->fcr >> 6] : 1;
}

static void fifo_drop(struct fifo *f, u32 n) {
    f->count -= (u8)n;
    memmove(f->data, f->data + n, f->count);
}

/* --- interrupts ---------------------------------------------------------------------------------
 */

/* The pending interrupt of the highest priority, as IIR names it. */
static u8 interrupt(const struct uart *u) {
    if ((u->ier & IER_LINE) && u->errors) {
        return IIR_LINE;
    }
    if ((u->ier & IER_RX) && u->rx.count) {
        return u->rx.count >= rx_trigger(u) ? IIR_RX : IIR_TIMEOUT;
    }
    if ((u->ier & IER_TX) && u->tx_pending) {
        return IIR_TX;
    }
    if ((u->ier & IER_MODEM) && (u->msr & MSR_DELTAS)) {
        return IIR_MODEM;
    }
    return IIR_NONE;
}

static void update_line(struct uart *u) {
    bool level = interrupt(u) != IIR_NONE;
    if (level != u->line) {
        u->line = level;
        irq_set_shared(u->dev.env->irq, u->gsi, u->driver, level);
    }
}

/* --- data ---------------------------------------------------------------------------------------
 */

static void receive_byte(struct uart *u, u8 byte) {
    if (rx_room(u)) {
        u->rx.data[u->rx.count++] = byte;
    } else {
        u->errors |= LSR_OVERRUN;
    }
}

/* Hands on what waits. The transmitter is empty when the back end took everything. */
static void transmit(struct uart *u) {
    if (!u->tx.count) {
        return;
    }
    size_t taken = u->tx.count;
    if (u->backend) {
        taken = u->backend->ops->write(u->backend, u->tx.data, u->tx.count);
    }
    fifo_drop(&u->tx, (u32)MIN(taken, (size_t)u->tx.count));
    if (!u->tx.count) {
        u->tx_pending = true;
    }
}

/* A byte that is written while the FIFO is full is the guest's loss: THRE said so. */
static void write_thr(struct uart *u, u8 byte) {
    u->tx_pending = false;
    if (u->mcr & MCR_LOOP) {
        receive_byte(u, byte);
        u->tx_pending = !u->tx.count;
        return;
    }
    if (u->tx.count < FIFO_SIZE) {
        u->tx.data[u->tx.count++] = byte;
    }
    transmit(u);
}

static u8 read_rbr(struct uart *u) {
    if (!u->rx.count) {
        return 0;
    }
    u8 byte = u->rx.data[0];
    fifo_drop(&u->rx, 1);
    return byte;
}

/* Asks for more input once the guest has taken all: then there is room for a whole burst. */
static void offer_room(struct uart *u) {
    if (u->refused && !u->rx.count && !(u->mcr & MCR_LOOP)) {
        u->refused = false;
        u->backend->ops->rx_ready(u->backend);
    }
}

static size_t backend_receive(void *device, const u8 *data, size_t len) {
    struct uart *u = device;
    mutex_lock(u->dev.env->host, u->dev.env->lock);
    size_t n = u->mcr & MCR_LOOP ? 0 : MIN(len, (size_t)rx_room(u));
    for (size_t i = 0; i < n; i++) {
        receive_byte(u, data[i]);
    }
    u->refused = u->refused || n < len;
    update_line(u);
    mutex_unlock(u->dev.env->host, u->dev.env->lock);
    return n;
}

static void backend_writable(void *device) {
    struct uart *u = device;
    mutex_lock(u->dev.env->host, u->dev.env->lock);
    transmit(u);
    update_line(u);
    mutex_unlock(u->dev.env->host, u->dev.env->lock);
}

/* --- modem control ------------------------------------------------------------------------------
 */

/* Loopback wires the outputs to the inputs; else the other side is always there and ready. */
static u8 modem_inputs(const struct uart *u) {
    if (!(u->mcr & MCR_LOOP)) {
        return MSR_CTS | MSR_DSR | MSR_DCD;
    }
    return (u8)((u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) |
                (u->mcr & MCR_OUT1 ? MSR_RI : 0) | (u->mcr & MCR_OUT2 ? MSR_DCD : 0));
}

static void update_modem(struct uart *u) {
    u8 old = u->msr & 0xf0, now = modem_inputs(u);
    u8 deltas = (u8)((old ^ now) >> 4);
    if (!(old & MSR_RI) || (now & MSR_RI)) { /* of the ring indicator only the trailing edge */
        deltas &= (u8)~MSR_RI_FELL;
    }
    u->msr = (u8)(now | (u->msr & MSR_DELTAS) | deltas);
}

/* --- registers ----------------------------------------------------------------------------------
 */

static u8 read_iir(struct uart *u) {
    u8 value = interrupt(u);
    if (value == IIR_TX) {
        u->tx_pending = false;
    }
    return (u8)(value | (u->fcr & FCR_ENABLE ? IIR_FIFO : 0));
}

static u8 read_lsr(struct uart *u) {
    u8 value = (u8)(u->errors | (u->rx.count ? LSR_DATA : 0) |
                    (u->tx.count ? 0 : LSR_THR_EMPTY | LSR_IDLE));
    u->errors = 0;
    return value;
}

static u8 read_msr(struct uart *u) {
    u8 value = u->msr;
    u->msr &= (u8)~MSR_DELTAS;
    return value;
}

static u64 uart_read(void *device, u32 region, u64 offset, u32 size) {
    struct uart *u = device;
    bool dlab = u->lcr & LCR_DLAB;
    u8 value = 0;
    (void)region;
    (void)size;
    switch (offset) {
    case RBR:
        value = dlab ? (u8)u->divisor : read_rbr(u);
        break;
    case IER:
        value = dlab ? (u8)(u->divisor >> 8) : u->ier;
        break;
    case IIR:
        value = read_iir(u);
        break;
    case LCR:
        value = u->lcr;
        break;
    case MCR:
        value = u->mcr;
        break;
    case LSR:
        value = read_lsr(u);
        break;
    case MSR:
        value = read_msr(u);
        break;
    default:
        value = u->scr;
        break;
    }
    update_line(u);
    offer_room(u);
    return value;
}

/* Bytes that the guest wrote are on their way already: clearing the transmit FIFO does not take
 * them back. */
static void write_fcr(struct uart *u, u8 value) {
    if ((value & FCR_CLEAR_RX) || (value ^ u->fcr) & FCR_ENABLE) {
        u->rx.count = 0;
    }
    u->fcr = value & FCR_ENABLE ? value & (FCR_ENABLE | FCR_TRIGGER) : 0;
}

static void write_ier(struct uart *u, u8 value) {
    if ((value & IER_TX) && !(u->ier & IER_TX) && !u->tx.count) {
        u->tx_pending = true;
    }
    u->ier = value & 0x0f;
}

static void uart_write(void *device, u32 region, u64 offset, u32 size, u64 wide) {
    struct uart *u = device;
    bool dlab = u->lcr & LCR_DLAB;
    u8 value = (u8)wide;
    (void)region;
    (void)size;
    switch (offset) {
    case RBR:
        if (dlab) {
            u->divisor = (u->divisor & 0xff00) | value;
        } else {
            write_thr(u, value);
        }
        break;
    case IER:
        if (dlab) {
            u->divisor = (u16)((u->divisor & 0x00ff) | value << 8);
        } else {
            write_ier(u, value);
        }
        break;
    case IIR:
        write_fcr(u, value);
        break;
    case LCR:
        u->lcr = value;
        break;
    case MCR:
        u->mcr = value & MCR_BITS;
        update_modem(u);
        break;
    case LSR: /* read-only, both */
    case MSR:
        break;
    default:
        u->scr = value;
        break;
    }
    update_line(u);
    offer_room(u);
}

static const struct bus_ops ports = {uart_read, uart_write, 1, 1};

/* --- life and state -----------------------------------------------------------------------------
 */

/* Bytes that wait for the back end survive: they were sent before the reset. */
static void reset(struct device *dev) {
    struct uart *u = of(dev);
    u->ier = u->lcr = u->mcr = u->scr = u->fcr = u->errors = 0;
    u->msr = MSR_CTS | MSR_DSR | MSR_DCD;
    u->divisor = 12; /* 9600 baud */
    u->rx.count = 0;
    u->tx_pending = false;
    update_line(u);
    offer_room(u);
}

static void save_fifo(struct snap_writer *w, const struct fifo *f) {
    u8 data[FIFO_SIZE] = {0};
    memcpy(data, f->data, f->count);
    snap_put(w, data, sizeof(data));
    snap_put8(w, f->count);
}

static void load_fifo(struct snap_reader *r, struct fifo *f) {
    snap_get(r, f->data, sizeof(f->data));
    f->count = snap_get8(r);
    if (f->count > FIFO_SIZE) {
        f->count = 0;
        r->failed = true;
    }
}

static void save(struct device *dev, struct snap_writer *w) {
    struct uart *u = of(dev);
    const u8 regs[] = {u->ier, u->lcr, u->mcr, u->msr, u->scr, u->fcr, u->errors, u->tx_pending};
    snap_put(w, regs, sizeof(regs));
    snap_put16(w, u->divisor);
    save_fifo(w, &u->rx);
    save_fifo(w, &u->tx);
}

static int load(struct device *dev, struct snap_reader *r, u32 version) {
    struct uart *u = of(dev);
    (void)version;
    u->ier = snap_get8(r) & 0x0f;
    u->lcr = snap_get8(r);
    u->mcr = snap_get8(r) & MCR_BITS;
    u->msr = snap_get8(r);
    u->scr = snap_get8(r);
    u->fcr = snap_get8(r) & (FCR_ENABLE | FCR_TRIGGER);
    u->errors = snap_get8(r) & LSR_ERRORS;
    u->tx_pending = snap_get_bool(r);
    u->divisor = snap_get16(r);
    load_fifo(r, &u->rx);
    load_fifo(r, &u->tx);
    u->refused = u->backend != NULL; /* perhaps: asking once too often does no harm */
    transmit(u);
    u->line = !(interrupt(u) != IIR_NONE); /* drive the line whatever it was */
    update_line(u);
    offer_room(u);
    return snap_finish(r);
}

static void remove(struct device *dev) {
    struct uart *u = of(dev);
    bus_unmap(dev->env->pio, &u->region);
    if (u->backend && u->backend->device == u) {
        u->backend->receive = NULL;
        u->backend->writable = NULL;
        u->backend->device = NULL;
    }
    host_free(dev->env->host, u, sizeof(*u));
}

static const struct device_ops ops = {
    .name = "uart16550",
    .tag = SNAP_TAG('U', 'A', 'R', 'T'),
    .version = 1,
    .reset = reset,
    .save = save,
    .load = load,
    .remove = remove,
};

static int attach(struct uart *u, struct device_list *list, const char *id) {
    int rc = bus_map(u->dev.env->pio, &u->region);
    if (rc == 0) {
        rc = device_add(list, &u->dev, id);
    }
    if (rc == 0 && u->backend) {
        u->backend->device = u;
        u->backend->receive = backend_receive;
        u->backend->writable = backend_writable;
    }
    return rc;
}

int uart_add(struct device_list *list, struct device_env *env, const char *id, u16 port, u32 gsi,
             struct char_backend *backend, struct err *err) {
    struct uart *u = host_alloc(env->host, sizeof(*u));
    if (!u) {
        return ERR_SET(err, ERR_NOMEM, "no memory for serial port %s", id);
    }
    u->dev.ops = &ops;
    u->dev.env = env;
    u->backend = backend;
    u->gsi = gsi;
    u->driver = port == UART_COM3 || port == UART_COM4;
    u->region = (struct bus_region){
        .base = port, .size = UART_PORTS, .ops = &ports, .device = u, .name = "uart16550"};
    reset(&u->dev);
    int rc = attach(u, list, id);
    if (rc < 0) {
        remove(&u->dev);
        return ERR_SET(err, (enum err_code) - rc, "cannot set up serial port %s at port 0x%x: %s",
                       id, port, err_name(rc));
    }
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keyboard controller and its keyboard; see i8042.h.
 *
 *   keyboard --queue--+
 *                     +--> output buffer (port 0x60, status bit 0) --> GSI 1
 *   controller's answers (no wait)
 *
 * The controller's answers go first; bytes of the keyboard wait while its interface is disabled.
 */
#include "core/dev/i8042.h"

enum {
    REGION_DATA,
    REGION_COMMAND,
    REGION_92,
    REGION_COUNT,
    KBD_GSI = 1,

    STATUS_FULL = 0x01,
    STATUS_SYSTEM = 0x04, /* self test passed */
    STATUS_COMMAND = 0x08,
    STATUS_UNLOCKED = 0x10,

    MODE_INTERRUPT = 0x01,
    MODE_SYSTEM = 0x04,
    MODE_DISABLED = 0x10,
    MODE_AUX_DISABLED = 0x20,
    MODE_TRANSLATE = 0x40,

    OUTPUT_NO_RESET = 0x01,
    OUTPUT_A20 = 0x02,
    OUTPUT_FULL = 0x10,

    PORT92_RESET = 0x01,
    PORT92_A20 = 0x02,

    SELF_TEST_PASSED = 0x55,
    AUX_ABSENT = 0x01, /* answer to the test of the mouse port: clock line stuck */

    KBD_ACK = 0xfa,
    KBD_RESEND = 0xfe,
    KBD_TEST_PASSED = 0xaa,

    RAM_SIZE = 32,
    QUEUE_SIZE = 32,
    ANSWER_SIZE = 4,
};

enum { CMD_NONE = 0 };

struct queue {
    u8 data[QUEUE_SIZE];
    u8 count;
};

struct i8042 {
    struct device dev;
    struct bus_region region[REGION_COUNT];
    u8 ram[RAM_SIZE]; /* byte 0 is the command byte */
    u8 status;        /* STATUS_SYSTEM, STATUS_COMMAND */
    bool full;        /* the output buffer holds a byte, */
    u8 output;        /* the last one that was there */
    u8 output_port;
    u8 port92;
    u8 command;     /* waits for its byte at port 0x60; CMD_NONE */
    u8 kbd_command; /* of the keyboard, waits for its argument; CMD_NONE */
    u8 kbd_last;    /* for "resend" */
    u8 kbd_set;     /* scan code set */
    bool kbd_off;   /* scanning disabled */
    struct queue answers, kbd;
};

static struct i8042 *of(struct device *dev) {
    return CONTAINER_OF(dev, struct i8042, dev);
}

/* --- output buffer ------------------------------------------------------------------------------
 */

static void queue_put(struct queue *q, u32 limit, u8 byte) {
    if (q->count < limit) {
        q->data[q->count++] = byte;
    }
}

static u8 queue_get(struct queue *q) {
    u8 byte = q->data[0];
    q->count--;
    memmove(q->data, q->data + 1, q->count);
    return byte;
}

static void update_line(struct i8042 *k) {
    irq_set(k->dev.env->irq, KBD_GSI, k->full && (k->ram[0] & MODE_INTERRUPT));
}

/* Fills the empty output buffer with what is next. */
static void refill(struct i8042 *k) {
    if (!k->full && k->answers.count) {
        k->output = queue_get(&k->answers);
        k->full = true;
    } else if (!k->full && k->kbd.count && !(k->ram[0] & MODE_DISABLED)) {
        k->output = k->kbd_last = queue_get(&k->kbd);
        k->full = true;
    }
    update_line(k);
}

static void answer(struct i8042 *k, u8 byte) {
    queue_put(&k->answers, ANSWER_SIZE, byte);
}

static void kbd_send(struct i8042 *k, u8 byte) {
    queue_put(&k->kbd, QUEUE_SIZE, byte);
}

/* The line falls between two bytes, so that each makes an edge. */
static u8 read_data(struct i8042 *k) {
    u8 byte = k->output;
    k->full = false;
    update_line(k);
    refill(k);
    return byte;
}

static u8 read_status(const struct i8042 *k) {
    return (u8)(k->status | STATUS_UNLOCKED | (k->full ? STATUS_FULL : 0));
}

/* --- keyboard -----------------------------------------------------------------------------------
 */

static void kbd_defaults(struct i8042 *k) {
    k->kbd_set = 2;
    k->kbd.count = 0;
}

static void kbd_argument(struct i8042 *k, u8 value) {
    u8 command = k->kbd_command;
    k->kbd_command = CMD_NONE;
    kbd_send(k, KBD_ACK);
    if (command == 0xf0 && value == 0) {
        kbd_send(k, k->kbd_set);
    } else if (command == 0xf0 && value <= 3) {
        k->kbd_set = value;
    } /* LEDs and typing rate have no effect */
}

static void kbd_identify(struct i8042 *k) {
    kbd_send(k, KBD_ACK);
    kbd_send(k, 0xab);
    kbd_send(k, k->ram[0] & MODE_TRANSLATE ? 0x41 : 0x83);
}

static void kbd_write(struct i8042 *k, u8 value) {
    k->ram[0] &= (u8)~MODE_DISABLED; /* sending to the keyboard enables its interface */
    if (k->kbd_command != CMD_NONE && value < 0x80) {
        kbd_argument(k, value);
        return;
    }
    k->kbd_command = CMD_NONE;
    switch (value) {
    case 0xed: /* LEDs */
    case 0xf0: /* scan code set */
    case 0xf3: /* typing rate */
        k->kbd_command = value;
        kbd_send(k, KBD_ACK);
        break;
    case 0xee: /* echo */
        kbd_send(k, value);
        break;
    case 0xf2:
        kbd_identify(k);
        break;
    case 0xf4: /* scan */
    case 0xf5: /* defaults, do not scan */
    case 0xf6: /* defaults */
        kbd_defaults(k);
        k->kbd_off = value == 0xf5;
        kbd_send(k, KBD_ACK);
        break;
    case 0xfe:
        kbd_send(k, k->kbd_last);
        break;
    case 0xff:
        kbd_defaults(k);
        k->kbd_off = false;
        kbd_send(k, KBD_ACK);
        kbd_send(k, KBD_TEST_PASSED);
        break;
    default: /* 0xf7..0xfd: key types of set 3, all alike here */
        kbd_send(k, value >= 0xf7 ? KBD_ACK : KBD_RESEND);
        break;
    }
}

void i8042_type(struct i8042 *k, const u8 *codes, u32 count) {
    for (u32 i = 0; i < count && !k->kbd_off; i++) {
        kbd_send(k, codes[i]);
    }
    refill(k);
}

void i8042_ctrl_alt_del(struct i8042 *k) {
    static const u8 codes[] = {0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d};
    i8042_type(k, codes, sizeof(codes));
}

/* --- controller ---------------------------------------------------------------------------------
 */

static void request_reset(struct i8042 *k) {
    k->dev.env->request(k->dev.env->machine, MACHINE_RESET, 0);
}

static void set_output_port(struct i8042 *k, u8 value) {
    k->output_port = value & OUTPUT_A20;
    k->port92 = (u8)((k->port92 & ~PORT92_A20) | (value & OUTPUT_A20 ? PORT92_A20 : 0));
    if (!(value & OUTPUT_NO_RESET)) {
        request_reset(k);
    }
}

static void self_test(struct i8042 *k) {
    k->status |= STATUS_SYSTEM;
    k->ram[0] |= MODE_SYSTEM;
    k->answers.count = 0;
    answer(k, SELF_TEST_PASSED);
}

static void controller_command(struct i8042 *k, u8 value) {
    switch (value) {
    case 0xa7: /* mouse port off, on */
        k->ram[0] |= MODE_AUX_DISABLED;
        break;
    case 0xa8:
        k->ram[0] &= (u8)~MODE_AUX_DISABLED;
        break;
    case 0xa9:
        answer(k, AUX_ABSENT);
        break;
    case 0xaa:
        self_test(k);
        break;
    case 0xab: /* keyboard line test */
        answer(k, 0);
        break;
    case 0xad:
        k->ram[0] |= MODE_DISABLED;
        break;
    case 0xae:
        k->ram[0] &= (u8)~MODE_DISABLED;
        break;
    case 0xc0: /* input port: keyboard not locked */
        answer(k, 0x80);
        break;
    case 0xd0:
        answer(k, (u8)(k->output_port | OUTPUT_NO_RESET | (k->full ? OUTPUT_FULL : 0)));
        break;
    case 0xd1: /* output port */
    case 0xd2: /* byte as from the keyboard */
    case 0xd3: /* byte as from the mouse */
    case 0xd4: /* byte to the mouse */
        k->command = value;
        break;
    case 0xdd: /* A20 off, on */
    case 0xdf:
        set_output_port(k, value == 0xdf ? OUTPUT_A20 | OUTPUT_NO_RESET : OUTPUT_NO_RESET);
        break;
    case 0xe0: /* test inputs */
        answer(k, 0);
        break;
    default:
        break;
    }
}

static void write_command(struct i8042 *k, u8 value) {
    k->status |= STATUS_COMMAND;
    k->command = CMD_NONE;
    if (value >= 0x20 && value <= 0x3f) {
        answer(k, k->ram[value & (RAM_SIZE - 1)]);
    } else if (value >= 0x60 && value <= 0x7f) {
        k->command = value;
    } else if (value >= 0xf0) { /* pulse output lines low: line 0 is the reset */
        if (!(value & 1)) {
            request_reset(k);
        }
    } else {
        controller_command(k, value);
    }
    refill(k);
}

static void write_data(struct i8042 *k, u8 value) {
    u8 command = k->command;
    k->status &= (u8)~STATUS_COMMAND;
    k->command = CMD_NONE;
    if (command >= 0x60 && command <= 0x7f) {
        k->ram[command & (RAM_SIZE - 1)] = value;
    } else if (command == 0xd1) {
        set_output_port(k, value);
    } else if (command == 0xd2 || command == 0xd3) {
        answer(k, value); /* without the mouse's flag: so a driver sees that there is none */
    } else if (command == CMD_NONE) {
        kbd_write(k, value);
    }
    refill(k);
}

static void write_port92(struct i8042 *k, u8 value) {
    bool rise = (value & PORT92_RESET) && !(k->port92 & PORT92_RESET);
    k->port92 = value & (PORT92_RESET | PORT92_A20);
    k->output_port = value & PORT92_A20 ? OUTPUT_A20 : 0;
    if (rise) {
        request_reset(k);
    }
}

static u64 port_read(void *device, u32 region, u64 offset, u32 size) {
    struct i8042 *k = device;
    (void)offset;
    (void)size;
    switch (region) {
    case REGION_DATA:
        return read_data(k);
    case REGION_COMMAND:
        return read_status(k);
    default:
        return k->port92;
    }
}

static void port_write(void *device, u32 region, u64 offset, u32 size, u64 value) {
    struct i8042 *k = device;
    (void)offset;
    (void)size;
    switch (region) {
    case REGION_DATA:
        write_data(k, (u8)value);
        break;
    case REGION_COMMAND:
        write_command(k, (u8)value);
        break;
    default:
        write_port92(k, (u8)value);
        break;
    }
}

static const struct bus_ops ports = {port_read, port_write, 1, 1};

static const u16 port_number[REGION_COUNT] = {
    [REGION_DATA] = 0x60, [REGION_COMMAND] = 0x64, [REGION_92] = 0x92};

/* --- life and state -----------------------------------------------------------------------------
 */

/* As firmware leaves it: tested, keyboard and its interrupt on, translation to set 1, A20 on. */
static void reset(struct device *dev) {
    struct i8042 *k = of(dev);
    memset(k->ram, 0, sizeof(k->ram));
    k->ram[0] = MODE_INTERRUPT | MODE_SYSTEM | MODE_AUX_DISABLED | MODE_TRANSLATE;
    k->status = STATUS_SYSTEM;
    k->full = false;
    k->output = 0;
    k->output_port = OUTPUT_A20;
    k->port92 = PORT92_A20;
    k->command = k->kbd_command = CMD_NONE;
    k->kbd_last = 0;
    k->kbd_off = false;
    k->answers.count = 0;
    kbd_defaults(k);
    update_line(k);
}

static void save_queue(struct snap_writer *w, const struct queue *q) {
    u8 data[QUEUE_SIZE] = {0};
    memcpy(data, q->data, q->count);
    snap_put(w, data, sizeof(data));
    snap_put8(w, q->count);
}

static void load_queue(struct snap_reader *r, struct queue *q, u32 limit) {
    snap_get(r, q->data, sizeof(q->data));
    q->count = snap_get8(r);
    if (q->count > limit) {
        q->count = 0;
        r->failed = true;
    }
}

static void save(struct device *dev, struct snap_writer *w) {
    struct i8042 *k = of(dev);
    const u8 regs[] = {k->status,  k->full,        k->output,   k->output_port, k->port92,
                       k->command, k->kbd_command, k->kbd_last, k->kbd_set,     k->kbd_off};
    snap_put(w, k->ram, sizeof(k->ram));
    snap_put(w, regs, sizeof(regs));
    save_queue(w, &k->answers);
    save_queue(w, &k->kbd);
}

static int load(struct device *dev, struct snap_reader *r, u32 version) {
    struct i8042 *k = of(dev);
    (void)version;
    snap_get(r, k->ram, sizeof(k->ram));
    k->status = snap_get8(r) & (STATUS_SYSTEM | STATUS_COMMAND);
    k->full = snap_get_bool(r);
    k->output = snap_get8(r);
    k->output_port = snap_get8(r) & OUTPUT_A20;
    k->port92 = snap_get8(r) & (PORT92_RESET | PORT92_A20);
    k->command = snap_get8(r);
    k->kbd_command = snap_get8(r);
    k->kbd_last = snap_get8(r);
    k->kbd_set = snap_get8(r);
    k->kbd_off = snap_get_bool(r);
    load_queue(r, &k->answers, ANSWER_SIZE);
    load_queue(r, &k->kbd, QUEUE_SIZE);
    update_line(k);
    return snap_finish(r);
}

static void remove(struct device *dev) {
    struct i8042 *k = of(dev);
    for (u32 i = 0; i < REGION_COUNT; i++) {
        bus_unmap(dev->env->pio, &k->region[i]);
    }
    host_free(dev->env->host, k, sizeof(*k));
}

static const struct device_ops ops = {
    .name = "i8042",
    .tag = SNAP_TAG('K', 'B', 'C', ' '),
    .version = 1,
    .reset = reset,
    .save = save,
    .load = load,
    .remove = remove,
};

static int map_all(struct i8042 *k) {
    int rc = 0;
    for (u32 i = 0; rc == 0 && i < REGION_COUNT; i++) {
        k->region[i] = (struct bus_region){.base = port_number[i],
                                           .size = 1,
                                           .ops = &ports,
                                           .device = k,
                                           .region = i,
                                           .name = "i8042"};
        rc = bus_map(k->dev.env->pio, &k->region[i]);
    }
    return rc;
}

int i8042_add(struct device_list *list, struct device_env *env, struct i8042 **out,
              struct err *err) {
    struct i8042 *k = host_alloc(env->host, sizeof(*k));
    if (!k) {
        return ERR_SET(err, ERR_NOMEM, "no memory for the keyboard controller");
    }
    k->dev.ops = &ops;
    k->dev.env = env;
    reset(&k->dev);
    int rc = map_all(k);
    if (rc == 0) {
        rc = device_add(list, &k->dev, "i8042");
    }
    if (rc < 0) {
        remove(&k->dev);
        return ERR_SET(err, (enum err_code) - rc, "cannot set up the keyboard controller: %s",
                       err_name(rc));
    }
    if (out) {
        *out = k;
    }
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loading a bzImage: protected-mode part to its preferred address, initrd as high as the kernel
 * allows, zero page with the setup header, E820, command line and a random seed.
 * Left out: zImage (loaded low), the real-mode entry, and everything that EFI hands over.
 */
#include "core/boot/bzimage.h"

#include "core/boot/entry.h"
#include "core/boot/layout.h"

/* Offsets in the file's first sectors, the same in the zero page. */
enum {
    ZP_ACPI_RSDP = 0x070,
    ZP_EXT_RAMDISK_IMAGE = 0x0c0,
    ZP_EXT_RAMDISK_SIZE = 0x0c4,
    ZP_E820_ENTRIES = 0x1e8,
    HDR_START = 0x1f1,
    HDR_SETUP_SECTS = 0x1f1,
    HDR_SYSSIZE = 0x1f4,
    HDR_BOOT_FLAG = 0x1fe,
    HDR_JUMP_LENGTH = 0x201,
    HDR_MAGIC = 0x202,
    HDR_VERSION = 0x206,
    HDR_TYPE_OF_LOADER = 0x210,
    HDR_LOADFLAGS = 0x211,
    HDR_CODE32_START = 0x214,
    HDR_RAMDISK_IMAGE = 0x218,
    HDR_RAMDISK_SIZE = 0x21c,
    HDR_HEAP_END_PTR = 0x224,
    HDR_CMD_LINE_PTR = 0x228,
    HDR_INITRD_ADDR_MAX = 0x22c,
    HDR_KERNEL_ALIGNMENT = 0x230,
    HDR_RELOCATABLE = 0x234,
    HDR_XLOADFLAGS = 0x236,
    HDR_CMDLINE_SIZE = 0x238,
    HDR_SETUP_DATA = 0x250,
    HDR_PREF_ADDRESS = 0x258,
    HDR_INIT_SIZE = 0x260,
    HDR_END_MAX = 0x290, /* the header never reaches behind this in the zero page */
    ZP_E820_TABLE = 0x2d0,
    ZP_E820_MAX = 128,
};

enum {
    HDRS = 0x53726448, /* "HdrS" */
    VERSION_MIN = 0x206,
    VERSION_INIT_SIZE = 0x20a, /* pref_address, init_size */
    VERSION_XLOADFLAGS = 0x20c,
    SECTOR = 512,
    LOADED_HIGH = 1 << 0,
    CAN_USE_HEAP = 1 << 7,
    XLF_KERNEL_64 = 1 << 0,
    XLF_ABOVE_4G = 1 << 1,
    LOADER_UNDEFINED = 0xff,
    ENTRY_64_OFFSET = 0x200,
    SETUP_RNG_SEED = 9,
};

_Static_assert((int)E820_MAX <= (int)ZP_E820_MAX, "the map fits the zero page");

struct bzimage {
    u32 version;
    u64 setup_size; /* bytes of the file before the protected-mode part */
    u64 size;       /* bytes of the protected-mode part */
    u64 load;       /* where it goes */
    u64 end;        /* first byte behind what the kernel uses before it reads the E820 map */
    bool entry64;
    bool above_4g; /* takes an initrd above 4 GiB */
    u64 initrd_max;
    u64 cmdline_max;
    u64 initrd; /* 0: none */
};

struct zero_page {
    u8 bytes[PAGE_SIZE];
};

static void zp_put(struct zero_page *zp, u32 offset, u64 value, u32 size) {
    memcpy(zp->bytes + offset, &value, size);
}

bool bzimage_is(const struct blob *k) {
    return k->size >= BZIMAGE_MIN_SIZE && blob_u16(k, HDR_BOOT_FLAG) == 0xaa55 &&
           blob_u32(k, HDR_MAGIC) == HDRS;
}

static int check_truncated(const struct blob *k, const struct bzimage *img, struct err *err) {
    u64 claimed = (u64)blob_u32(k, HDR_SYSSIZE) * 16;
    if (k->size <= img->setup_size || k->size - img->setup_size + 15 < claimed) {
        return ERR_SET(err, ERR_FORMAT,
                       "%s: this bzImage is truncated: it has %llu bytes, its header asks for %llu",
                       k->name, (unsigned long long)k->size,
                       (unsigned long long)(img->setup_size + claimed));
    }
    return 0;
}

static int parse(const struct blob *k, struct bzimage *img, struct err *err) {
    u8 sects = k->data[HDR_SETUP_SECTS];
    *img = (struct bzimage){.version = blob_u16(k, HDR_VERSION)};
    img->setup_size = (u64)((sects ? sects : 4) + 1) * SECTOR;
    if (img->version < VERSION_MIN) {
        return ERR_SET(err, ERR_UNSUPPORTED,
                       "%s: boot protocol %u.%02u is too old (Linux 2.6.22, 2.06, is the oldest)",
                       k->name, img->version >> 8, img->version & 0xff);
    }
    if (!(k->data[HDR_LOADFLAGS] & LOADED_HIGH)) {
        return ERR_SET(err, ERR_UNSUPPORTED, "%s: a zImage (loaded low) is not supported", k->name);
    }
    int rc = check_truncated(k, img, err);
    if (rc) {
        return rc;
    }
    img->size = k->size - img->setup_size;
    if (img->version >= VERSION_XLOADFLAGS) {
        u16 xlf = blob_u16(k, HDR_XLOADFLAGS);
        img->entry64 = xlf & XLF_KERNEL_64;
        img->above_4g = img->entry64 && (xlf & XLF_ABOVE_4G);
    }
    if (!img->entry64 && !blob_u32(k, HDR_CODE32_START)) { /* iPXE: unpacks itself in real mode */
        return ERR_SET(err, ERR_UNSUPPORTED,
                       "%s: this bzImage has only a real-mode entry (code32_start is 0) and needs "
                       "a BIOS, which this machine has not",
                       k->name);
    }
    u32 initrd_max = blob_u32(k, HDR_INITRD_ADDR_MAX), cmdline = blob_u32(k, HDR_CMDLINE_SIZE);
    img->initrd_max = initrd_max ? initrd_max : 0x37ffffff;
    img->cmdline_max = cmdline ? cmdline : 255;
    return 0;
}

/* Where the kernel goes: its preferred address, or as low as it lets itself be moved. */
static int place_kernel(const struct boot_request *req, struct bzimage *img, struct err *err) {
    const struct blob *k = &req->kernel;
    u64 need = img->size, pref = LAYOUT_HIGH;
    if (img->version >= VERSION_INIT_SIZE) {
        pref = blob_u64(k, HDR_PREF_ADDRESS);
        need = MAX(need, (u64)blob_u32(k, HDR_INIT_SIZE));
    }
    pref = pref < LAYOUT_HIGH || pref >= 4 * GIB ? LAYOUT_HIGH : pref;
    img->load = pref;
    if (!ram_ptr(req->ram, pref, need) && k->data[HDR_RELOCATABLE]) {
        u64 align = blob_u32(k, HDR_KERNEL_ALIGNMENT);
        align = align < PAGE_SIZE || (align & (align - 1)) ? MIB : align;
        img->load = ALIGN_UP(LAYOUT_HIGH, align);
    }
    if (need > 2 * GIB || !ram_ptr(req->ram, img->load, need)) {
        return ERR_SET(err, ERR_RANGE,
                       "%s: the kernel needs %llu MiB at 0x%llx, the guest's memory is too small",
                       k->name, (unsigned long long)(need + MIB - 1) / MIB,
                       (unsigned long long)img->load);
    }
    img->end = ALIGN_UP(img->load + need, PAGE_SIZE);
    return 0;
}

static u64 place_above_4g(const struct boot_request *req, u64 size) {
    for (u32 i = 0; i < req->e820->count; i++) {
        const struct e820_entry *e = &req->e820->entry[i];
        if (e->type == E820_RAM && e->addr >= 4 * GIB && size <= e->size) {
            return e->addr;
        }
    }
    return 0;
}

static int load_initrd(const struct boot_request *req, struct bzimage *img, struct err *err) {
    const struct blob *initrd = &req->initrd;
    if (!initrd->data) {
        return 0;
    }
    img->initrd = boot_place_high(req, initrd->size, img->end, img->initrd_max + 1);
    if (!img->initrd && img->above_4g) {
        img->initrd = place_above_4g(req, initrd->size);
    }
    if (!img->initrd) {
        return ERR_SET(err, ERR_RANGE,
                       "%s: the initrd (%llu KiB) does not fit into the guest's memory beside the "
                       "kernel",
                       initrd->name, (unsigned long long)(initrd->size + 1023) / 1024);
    }
    return boot_copy(req, initrd->name, "the initrd", img->initrd, initrd->data, initrd->size, err);
}

static int write_setup_data(const struct boot_request *req, struct zero_page *zp, struct err *err) {
    struct {
        u64 next;
        u32 type, len;
        u8 seed[BOOT_SEED_SIZE];
    } PACKED node = {.type = SETUP_RNG_SEED, .len = BOOT_SEED_SIZE};
    if (!req->has_seed) {
        return 0;
    }
    memcpy(node.seed, req->seed, sizeof(node.seed));
    zp_put(zp, HDR_SETUP_DATA, LAYOUT_SETUP_DATA, 8);
    return boot_copy(req, req->kernel.name, "setup data", LAYOUT_SETUP_DATA, &node, sizeof(node),
                     err);
}

static void fill_zero_page(const struct boot_request *req, const struct bzimage *img,
                           struct zero_page *zp) {
    const struct blob *k = &req->kernel;
    u64 header_end = MIN((u64)HDR_MAGIC + k->data[HDR_JUMP_LENGTH], (u64)HDR_END_MAX);
    header_end = MIN(MAX(header_end, (u64)HDR_INITRD_ADDR_MAX + 4), k->size);
    memcpy(zp->bytes + HDR_START, k->data + HDR_START, header_end - HDR_START);

    zp_put(zp, HDR_TYPE_OF_LOADER, LOADER_UNDEFINED, 1);
    zp_put(zp, HDR_LOADFLAGS, k->data[HDR_LOADFLAGS] | CAN_USE_HEAP, 1);
    zp_put(zp, HDR_HEAP_END_PTR, 0xfe00, 2);
    zp_put(zp, HDR_CODE32_START, img->load, 4);
    zp_put(zp, HDR_CMD_LINE_PTR, LAYOUT_CMDLINE, 4);
    zp_put(zp, HDR_SETUP_DATA, 0, 8);
    zp_put(zp, HDR_RAMDISK_IMAGE, img->initrd, 4);
    zp_put(zp, HDR_RAMDISK_SIZE, img->initrd ? req->initrd.size : 0, 4);
    zp_put(zp, ZP_EXT_RAMDISK_IMAGE, img->initrd >> 32, 4);
    zp_put(zp, ZP_EXT_RAMDISK_SIZE, img->initrd ? req->initrd.size >> 32 : 0, 4);
    zp_put(zp, ZP_ACPI_RSDP, req->rsdp, 8);
    zp_put(zp, ZP_E820_ENTRIES, req->e820->count, 1);
    memcpy(zp->bytes + ZP_E820_TABLE, req->e820->entry,
           req->e820->count * sizeof(req->e820->entry[0]));
}

static int enter(const struct boot_request *req, const struct bzimage *img,
                 struct cpu_state *state) {
    int rc = img->entry64 ? entry_long64(state, req->ram, img->load + ENTRY_64_OFFSET)
                          : entry_flat32(state, req->ram, img->load);
    state->gpr[GPR_RSI] = LAYOUT_ZERO_PAGE;
    return rc;
}

int bzimage_load(const struct boot_request *req, struct cpu_state *state, struct err *err) {
    const struct blob *k = &req->kernel;
    struct bzimage img;
    struct zero_page zp = {0};
    int rc = parse(k, &img, err);
    rc = rc ? rc : place_kernel(req, &img, err);
    rc = rc ? rc
            : boot_copy(req, k->name, "the kernel", img.load, k->data + img.setup_size, img.size,
                        err);
    rc = rc ? rc : load_initrd(req, &img, err);
    rc = rc ? rc : boot_copy_cmdline(req, NULL, img.cmdline_max, err);
    if (rc) {
        return rc;
    }
    fill_zero_page(req, &img, &zp);
    rc = write_setup_data(req, &zp, err);
    rc = rc ? rc : boot_copy(req, k->name, "the zero page", LAYOUT_ZERO_PAGE, &zp, sizeof(zp), err);
    return rc ? rc : enter(req, &img, state);
}

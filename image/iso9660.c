/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes an ISO 9660 image in memory: ECMA-119 (volume descriptors 8.4, path tables 9.4, directory
 * records 9.1) and Microsoft's Joliet: a second descriptor with a folder of its own, whose names
 * are UCS-2 in lower case. Sectors of 2 KiB:
 *
 *   0-15 unused | 16 primary | 17 Joliet | 18 end | 19-22 path tables (LE, BE of both) |
 *   23 folder | 24 Joliet's folder | 25... the files, each from a sector of its own
 *
 * Left out: folders, dates (zero: not specified), Rock Ridge, booting. No lock: works on its
 * arguments only.
 */
#include "image/iso9660.h"

enum {
    PRIMARY = 16,
    JOLIET,
    TERMINATOR,
    PATHS,
    FOLDER = PATHS + 4,
    JOLIET_FOLDER,
    FIRST_FILE,
    LABEL_MAX = 16, /* of Joliet's 32 bytes */
    PATH_SIZE = 10, /* the root alone */
    RECORD = 33,    /* of a folder, without the name */
    FLAG_FOLDER = 2,
};

static u32 text_len(const char *s) {
    u32 n = 0;
    while (s[n]) {
        n++;
    }
    return n;
}

static u32 sectors(u64 bytes) {
    return (u32)((bytes + ISO_SECTOR - 1) / ISO_SECTOR);
}

static bool name_ok(const char *name) {
    u32 len = text_len(name), dots = 0;
    for (u32 i = 0; i < len; i++) {
        char c = name[i];
        bool dot = c == '.' && i && i + 1 < len;
        dots += dot;
        if (!dot && !(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-' && c != '_') {
            return false;
        }
    }
    return len && len <= ISO_NAME_MAX && dots <= 1;
}

u64 iso_size(const char *label, const struct iso_file *files, u32 count) {
    u64 at = FIRST_FILE;
    if (count > ISO_FILES_MAX || text_len(label) > LABEL_MAX) {
        return 0;
    }
    for (u32 i = 0; i < count; i++) {
        if (!name_ok(files[i].name) || files[i].size >= GIB) {
            return 0;
        }
        at += sectors(files[i].size);
    }
    return at * ISO_SECTOR;
}

/* --- numbers: little-endian, big-endian, both one after the other (7.2, 7.3) -------------------
 */

static void put_le(u8 *p, u32 v, u32 size) {
    for (u32 i = 0; i < size; i++) {
        p[i] = (u8)(v >> (8 * i));
    }
}

static void put_be(u8 *p, u32 v, u32 size) {
    for (u32 i = 0; i < size; i++) {
        p[i] = (u8)(v >> (8 * (size - 1 - i)));
    }
}

static void put_both(u8 *p, u32 v, u32 size) {
    put_le(p, v, size);
    put_be(p + size, v, size);
}

/* --- names -------------------------------------------------------------------------------------
 */

static u8 upper(char c) {
    u8 v = (u8)c;
    return v >= 'a' && v <= 'z' ? (u8)(v - 'a' + 'A') : v;
}

/* "meta-data" -> "META-DATA.;1", which Linux shows as "meta-data" when it does not know Joliet. */
static u32 put_plain_name(u8 *p, const char *name) {
    u32 n = 0;
    bool dot = false;
    for (; name[n]; n++) {
        p[n] = upper(name[n]);
        dot |= name[n] == '.';
    }
    if (!dot) {
        p[n++] = '.';
    }
    p[n++] = ';';
    p[n++] = '1';
    return n;
}

static u32 put_ucs2(u8 *p, const char *text) {
    u32 n = 0;
    for (; *text; text++, n += 2) {
        put_be(p + n, (u8)*text, 2);
    }
    return n;
}

/* A field filled up with blanks. */
static void put_text(u8 *p, const char *text, u32 size, bool joliet) {
    for (u32 i = 0; i < size; i += joliet ? 2 : 1) {
        u8 c = *text ? (u8)*text++ : ' ';
        put_be(p + i, c, joliet ? 2 : 1);
    }
}

/* --- the folder --------------------------------------------------------------------------------
 */

/* The name, len bytes, is there already. Its length. */
static u32 put_record(u8 *p, u32 sector, u32 size, u32 flags, u32 len) {
    u32 total = (RECORD + len + 1) & ~1u;
    p[0] = (u8)total;
    put_both(p + 2, sector, 4);
    put_both(p + 10, size, 4);
    p[25] = (u8)flags;
    put_both(p + 28, 1, 2); /* volume sequence number */
    p[32] = (u8)len;
    return total;
}

/* Records are in the order of names (9.3): the smallest that is larger than the last one. */
static int text_compare(const char *a, const char *b) {
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return (u8)*a - (u8)*b;
}

static u32 next_name(const struct iso_file *files, u32 count, const char *last) {
    u32 best = count;
    for (u32 i = 0; i < count; i++) {
        if ((!last || text_compare(files[i].name, last) > 0) &&
            (best == count || text_compare(files[i].name, files[best].name) < 0)) {
            best = i;
        }
    }
    return best;
}

static void write_folder(u8 *out, u32 sector, const struct iso_file *files, u32 count,
                         bool joliet) {
    u8 *p = out + (size_t)sector * ISO_SECTOR;
    const char *last = NULL;
    p[RECORD] = 0; /* itself, */
    p += put_record(p, sector, ISO_SECTOR, FLAG_FOLDER, 1);
    p[RECORD] = 1; /* and what it is in */
    p += put_record(p, sector, ISO_SECTOR, FLAG_FOLDER, 1);
    for (u32 n = 0, i; n < count && (i = next_name(files, count, last)) < count; n++) {
        u32 at = FIRST_FILE;
        for (u32 k = 0; k < i; k++) {
            at += sectors(files[k].size);
        }
        last = files[i].name;
        u32 len = joliet ? put_ucs2(p + RECORD, last) : put_plain_name(p + RECORD, last);
        p += put_record(p, at, files[i].size, 0, len);
    }
}
_Static_assert(2 * 34 + ISO_FILES_MAX * (RECORD + 2 * ISO_NAME_MAX + 2) <= ISO_SECTOR,
               "the folder is one sector");

/* --- descriptors -------------------------------------------------------------------------------
 */

static void write_path_tables(u8 *out, u32 sector, u32 folder) {
    u8 *le = out + (size_t)sector * ISO_SECTOR, *be = le + ISO_SECTOR;
    le[0] = be[0] = 1; /* length of the root's name */
    put_le(le + 2, folder, 4);
    put_be(be + 2, folder, 4);
    put_le(le + 6, 1, 2); /* its parent */
    put_be(be + 6, 1, 2);
}

static void write_descriptor(u8 *out, u32 sector, u32 type, const char *label, u32 total) {
    u8 *p = out + (size_t)sector * ISO_SECTOR;
    bool joliet = sector == JOLIET;
    u32 folder = joliet ? JOLIET_FOLDER : FOLDER, paths = joliet ? PATHS + 2 : PATHS;
    p[0] = (u8)type;
    memcpy(p + 1, "CD001", 5);
    p[6] = 1; /* version */
    put_text(p + 8, "", 32, joliet);
    put_text(p + 40, label, 32, joliet);
    put_both(p + 80, total, 4);
    if (joliet) {
        memcpy(p + 88, "%/E", 3); /* UCS-2, level 3 */
    }
    put_both(p + 120, 1, 2); /* volumes, */
    put_both(p + 124, 1, 2); /* this is the first */
    put_both(p + 128, ISO_SECTOR, 2);
    put_both(p + 132, PATH_SIZE, 4);
    put_le(p + 140, paths, 4);
    put_be(p + 148, paths + 1, 4);
    p[156 + RECORD] = 0;
    put_record(p + 156, folder, ISO_SECTOR, FLAG_FOLDER, 1);
    put_text(p + 190, "", 623, false); /* names of people and files: none */
    for (u32 i = 0; i < 4; i++) {      /* four dates: not specified (8.4.26.1) */
        memset(p + 813 + (size_t)i * 17, '0', 16);
    }
    p[881] = 1; /* version of the folder's structure */
    write_path_tables(out, paths, folder);
}

void iso_write(const char *label, const struct iso_file *files, u32 count, u8 *out) {
    u32 total = FIRST_FILE;
    for (u32 i = 0; i < count; i++) {
        memcpy(out + (size_t)total * ISO_SECTOR, files[i].data, files[i].size);
        total += sectors(files[i].size);
    }
    write_descriptor(out, PRIMARY, 1, label, total);
    write_descriptor(out, JOLIET, 2, label, total);
    u8 *end = out + (size_t)TERMINATOR * ISO_SECTOR;
    end[0] = 255;
    memcpy(end + 1, "CD001", 5);
    end[6] = 1;
    write_folder(out, FOLDER, files, count, false);
    write_folder(out, JOLIET_FOLDER, files, count, true);
}

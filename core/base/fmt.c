/* SPDX-License-Identifier: Apache-2.0 */
/* printf-like formatting without a C library; see fmt.h for what it understands. */
#include "core/base/fmt.h"

struct out {
    char *buf;
    size_t size;
    size_t len;
};

struct spec {
    bool zero, left, alt;
    int width, precision; /* precision -1: none given */
    int length;           /* bytes of the integer argument */
};

static void out_char(struct out *o, char c) {
    if (o->len + 1 < o->size) {
        o->buf[o->len] = c;
    }
    o->len++;
}

static void out_pad(struct out *o, char c, int n) {
    while (n-- > 0) {
        out_char(o, c);
    }
}

static void out_text(struct out *o, const struct spec *s, const char *text, size_t len) {
    int pad = s->width - (int)len;
    if (!s->left) {
        out_pad(o, ' ', pad);
    }
    for (size_t i = 0; i < len; i++) {
        out_char(o, text[i]);
    }
    if (s->left) {
        out_pad(o, ' ', pad);
    }
}

static void out_number(struct out *o, const struct spec *s, u64 v, unsigned base, bool neg,
                       bool upper) {
    char digits[24];
    int n = 0;
    const char *set = upper ? "0123456789ABCDEF" : "0123456789abcdef";
    do {
        digits[n++] = set[v % base];
        v /= base;
    } while (v);
    int zeros = s->precision > n ? s->precision - n : 0;
    int prefix = (neg ? 1 : 0) + (s->alt && base == 16 ? 2 : 0);
    if (s->zero && !s->left && s->precision < 0 && s->width > n + prefix) {
        zeros = s->width - n - prefix;
    }
    int pad = s->width - n - zeros - prefix;
    if (!s->left) {
        out_pad(o, ' ', pad);
    }
    if (neg) {
        out_char(o, '-');
    }
    if (s->alt && base == 16) {
        out_char(o, '0');
        out_char(o, upper ? 'X' : 'x');
    }
    out_pad(o, '0', zeros);
    while (n > 0) {
        out_char(o, digits[--n]);
    }
    if (s->left) {
        out_pad(o, ' ', pad);
    }
}

static int parse_int(const char **p) {
    int v = 0;
    while (**p >= '0' && **p <= '9') {
        if (v < 10000) {
            v = v * 10 + (**p - '0');
        }
        (*p)++;
    }
    return v;
}

static int parse_length(const char **p) {
    int length = 4;
    for (;; (*p)++) {
        switch (**p) {
        case 'h':
            length = length == 2 ? 1 : 2;
            break;
        case 'l':
        case 'z':
        case 'j':
        case 't':
            length = 8;
            break;
        default:
            return length;
        }
    }
}

static void parse_flags(const char **p, struct spec *s) {
    for (;; (*p)++) {
        if (**p == '0') {
            s->zero = true;
        } else if (**p == '-') {
            s->left = true;
        } else if (**p == '#') {
            s->alt = true;
        } else {
            return;
        }
    }
}

static u64 arg_unsigned(va_list *ap, int length) {
    u64 v = length == 8 ? va_arg(*ap, u64) : va_arg(*ap, unsigned);
    return length == 1 ? (u8)v : length == 2 ? (u16)v : v;
}

static s64 arg_signed(va_list *ap, int length) {
    s64 v = length == 8 ? va_arg(*ap, s64) : va_arg(*ap, int);
    return length == 1 ? (s8)v : length == 2 ? (s16)v : v;
}

static void convert_string(struct out *o, const struct spec *s, const char *text) {
    size_t len = 0;
    if (!text) {
        text = "(null)";
    }
    while ((s->precision < 0 || len < (size_t)s->precision) && text[len]) {
        len++;
    }
    out_text(o, s, text, len);
}

static void convert(struct out *o, struct spec *s, char c, va_list *ap) {
    char ch;
    s64 v;
    switch (c) {
    case 'd':
    case 'i':
        v = arg_signed(ap, s->length);
        out_number(o, s, v < 0 ? 0 - (u64)v : (u64)v, 10, v < 0, false);
        break;
    case 'u':
        out_number(o, s, arg_unsigned(ap, s->length), 10, false, false);
        break;
    case 'x':
    case 'X':
        out_number(o, s, arg_unsigned(ap, s->length), 16, false, c == 'X');
        break;
    case 'p':
        s->alt = true;
        out_number(o, s, (u64)(uintptr_t)va_arg(*ap, void *), 16, false, false);
        break;
    case 's':
        convert_string(o, s, va_arg(*ap, const char *));
        break;
    case 'c':
        ch = (char)va_arg(*ap, int);
        out_text(o, s, &ch, 1);
        break;
    default:
        out_char(o, c);
        break;
    }
}

size_t fmt_vstr(char *buf, size_t size, const char *fmt, va_list args) {
    struct out o = {.buf = buf, .size = size};
    va_list ap;
    va_copy(ap, args);
    while (*fmt) {
        if (*fmt != '%') {
            out_char(&o, *fmt++);
            continue;
        }
        fmt++;
        struct spec s = {.precision = -1};
        parse_flags(&fmt, &s);
        if (*fmt == '*') {
            s.width = va_arg(ap, int);
            fmt++;
        } else {
            s.width = parse_int(&fmt);
        }
        if (*fmt == '.') {
            fmt++;
            if (*fmt == '*') {
                s.precision = va_arg(ap, int);
                fmt++;
            } else {
                s.precision = parse_int(&fmt);
            }
        }
        s.length = parse_length(&fmt);
        if (!*fmt) {
            break;
        }
        convert(&o, &s, *fmt++, &ap);
    }
    va_end(ap);
    if (size) {
        buf[o.len < size ? o.len : size - 1] = 0;
    }
    return o.len;
}

size_t fmt_str(char *buf, size_t size, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    size_t n = fmt_vstr(buf, size, fmt, ap);
    va_end(ap);
    return n;
}

size_t str_len(const char *s) {
    size_t n = 0;
    while (s[n]) {
        n++;
    }
    return n;
}

bool str_eq(const char *a, const char *b) {
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

size_t str_copy(char *dst, size_t size, const char *src) {
    size_t n = str_len(src);
    size_t take = n < size ? n : size - 1;
    memcpy(dst, src, take);
    dst[take] = 0;
    return n;
}

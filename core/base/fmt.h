/* SPDX-License-Identifier: Apache-2.0 */
/*
 * printf-like formatting without a C library: %d %i %u %x %X %p %s %c %% with the flags 0, -, #,
 * width and precision (also *), and the lengths hh, h, l, ll, z. No floating point.
 */
#ifndef CORE_BASE_FMT_H
#define CORE_BASE_FMT_H

#include <stdarg.h>

#include "core/base/types.h"

/* Like vsnprintf: writes at most size bytes with the NUL, returns the length it would have had. */
size_t fmt_vstr(char *buf, size_t size, const char *fmt, va_list ap);
size_t fmt_str(char *buf, size_t size, const char *fmt, ...) PRINTF_LIKE(3, 4);

size_t str_len(const char *s);
bool str_eq(const char *a, const char *b);
/* Copies with truncation, always terminates (size > 0); returns the length of src. */
size_t str_copy(char *dst, size_t size, const char *src);

#endif

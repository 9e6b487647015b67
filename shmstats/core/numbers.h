/* Numbers as Python writes them, without the GIL if possible. */

/* The longest text of a number that is written here. */
enum { MOST_DIGITS = 32 };

/* Write an unsigned integer; returns the end of its text. */
static inline unsigned char *
write_digits(unsigned char *to, uint64_t number)
{
    unsigned char digits[20];
    size_t at = sizeof digits;
    do
        digits[--at] = (unsigned char)('0' + number % 10);
    while ((number /= 10) != 0);
    memcpy(to, digits + at, sizeof digits - at);
    return to + (sizeof digits - at);
}

/* Write an unsigned integer below 10^38, which may exceed 64 bits. */
static inline unsigned char *
write_long(unsigned char *to, unsigned __int128 number)
{
    const uint64_t scale = 10000000000000000000u;
    if (LIKELY(number <= UINT64_MAX))
        return write_digits(to, (uint64_t)number);
    to = write_digits(to, (uint64_t)(number / scale));
    uint64_t rest = (uint64_t)(number % scale);
    for (int i = 18; i >= 0; i--, rest /= 10)
        to[i] = (unsigned char)('0' + rest % 10);
    return to + 19;
}

/* The absolute value of a number. */
static inline uint64_t
magnitude(int64_t number)
{
    return number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
}

static inline unsigned char *
write_integer(unsigned char *to, int64_t number)
{
    if (number < 0)
        *to++ = '-';
    return write_digits(to, magnitude(number));
}

/* Write a number of fractional parts as an integer part and a fraction with a fixed number of digits. */
static inline unsigned char *
write_fixed(unsigned char *to, uint64_t parts, uint64_t scale, int digits)
{
    to = write_digits(to, parts / scale);
    *to++ = '.';
    uint64_t fraction = parts % scale;
    for (int i = digits - 1; i >= 0; i--, fraction /= 10)
        to[i] = (unsigned char)('0' + fraction % 10);
    return to + digits;
}

/* Write microseconds as seconds, exactly. */
static inline unsigned char *
write_seconds(unsigned char *to, int64_t microseconds)
{
    if (microseconds < 0)
        *to++ = '-';
    return write_fixed(to, magnitude(microseconds), 1000000, 6);
}

/* Write a double as repr() does, if it has a short decimal form; NULL if not.
 *
 * No two decimals of at most 15 digits are read as the same double, so the first one that reads back is the
 * shortest: n / scale is the double that n with its point at that place is read as, because both are exact. */
static inline unsigned char *
write_short_double(unsigned char *to, double number)
{
    double size = fabs(number);
    if (!(size < 1e15) || (size < 1e-4 && size != 0))
        return NULL;
    uint64_t scale = 1;
    for (int digits = 0; digits <= 9; digits++, scale *= 10) {
        double parts = nearbyint(size * (double)scale);
        if (parts >= 1e15)
            return NULL;
        if (parts / (double)scale != size)
            continue;
        if (signbit(number))
            *to++ = '-';
        return digits == 0 ? write_fixed(to, (uint64_t)parts * 10, 10, 1) : write_fixed(to, (uint64_t)parts, scale, digits);
    }
    return NULL;
}

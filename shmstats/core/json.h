/* JSON (RFC 8259) is read in two steps: where the values of a list are, and what one of them is. The first takes what
 * is no JSON as well; the second takes nothing that is not whole, so a value that nobody could read is to be looked at
 * by a reader of all of JSON. */

/* A list whose values are read one by one. */
typedef struct {
    const unsigned char *at, *end; /* at is NULL behind the last value */
} List;

static inline int
is_space(unsigned char byte)
{
    return byte == ' ' || byte == '\n' || byte == '\t' || byte == '\r';
}

static inline Part
trimmed(const unsigned char *at, const unsigned char *end)
{
    while (at < end && is_space(*at))
        at++;
    while (at < end && is_space(end[-1]))
        end--;
    return (Part){at, (size_t)(end - at)};
}

static inline int
is_digit(const unsigned char *at, const unsigned char *end)
{
    return at < end && *at >= '0' && *at <= '9';
}

/* Open a list; 0 where the text is none. */
static int
open_list(Part text, List *list)
{
    text = trimmed(text.text, text.text + text.size);
    if (text.size < 2 || text.text[0] != '[' || text.text[text.size - 1] != ']')
        return 0;
    const unsigned char *end = text.text + text.size - 1;
    *list = (List){trimmed(text.text + 1, end).size == 0 ? NULL : text.text + 1, end};
    return 1;
}

/* The end of the value that begins there: a comma, or the end of its list. NULL where a string or a list has none. */
static const unsigned char *
end_of_value(const unsigned char *at, const unsigned char *end)
{
    int depth = 0;
    for (; at < end; at++) {
        if (LIKELY(*at >= '0' && *at <= '9'))
            continue;
        if (*at == '"') {
            for (at++; at < end && *at != '"'; at++)
                at += *at == '\\';
            if (at >= end)
                return NULL;
        } else if (*at == ',' && depth == 0) {
            return at;
        } else if (*at == '[' || *at == '{') {
            depth++;
        } else if ((*at == ']' || *at == '}') && depth-- == 0) {
            return NULL;
        }
    }
    return depth == 0 ? end : NULL;
}

/* Find the next value; 0 behind the last one, -1 where there should be one and is none. */
static int
next_value(List *list, Part *value)
{
    if (list->at == NULL)
        return 0;
    const unsigned char *end = end_of_value(list->at, list->end);
    if (end == NULL)
        return -1;
    *value = trimmed(list->at, end);
    list->at = end < list->end ? end + 1 : NULL;
    return value->size > 0 ? 1 : -1;
}

/* Read the four hexadecimal digits of an escape; -1 where they are none. */
static int32_t
read_hex(const unsigned char *at, const unsigned char *end)
{
    int32_t code = 0;
    for (int i = 0; i < 4; i++) {
        int byte = at + i < end ? at[i] | 0x20 : 0;
        if (!is_digit(at + i, end) && (byte < 'a' || byte > 'f'))
            return -1;
        code = code << 4 | (byte < 'a' ? byte - '0' : byte - 'a' + 10);
    }
    return code;
}

static unsigned char *
write_utf8(unsigned char *to, uint32_t code)
{
    if (code < 0x80) {
        *to++ = (unsigned char)code;
        return to;
    }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    *to++ = (unsigned char)(0xFF00 >> (more + 1) | code >> 6 * more);
    while (more-- > 0)
        *to++ = (unsigned char)(0x80 | (code >> 6 * more & 0x3F));
    return to;
}

/* Read an escape, and move behind it; returns the end of what it stands for, NULL where it is none, or half a pair of
 * surrogates. */
static unsigned char *
read_escape(const unsigned char **at, const unsigned char *end, unsigned char *to)
{
    static const char escapes[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
    const unsigned char *p = *at + 1;
    if (p < end && *p != 'u') {
        for (const char *escape = escapes; *escape; escape += 2) {
            if (*p == (unsigned char)*escape) {
                *at = p + 1;
                *to = (unsigned char)escape[1];
                return to + 1;
            }
        }
        return NULL;
    }
    int32_t code = read_hex(p + 1, end);
    p += 5;
    if (code >= 0xD800 && code < 0xDC00 && end - p >= 6 && p[0] == '\\' && p[1] == 'u') {
        int32_t low = read_hex(p + 2, end);
        if (low < 0xDC00 || low >= 0xE000)
            return NULL;
        code = 0x10000 + ((code - 0xD800) << 10 | (low - 0xDC00));
        p += 6;
    }
    if (code < 0 || (code >= 0xD800 && code < 0xE000))
        return NULL;
    *at = p;
    return write_utf8(to, (uint32_t)code);
}

/* Read a string into a place that has room for as many bytes as its text has; returns its length, or -1 where it is none
 * of whole characters. The text is UTF-8. */
static Py_ssize_t
read_string(Part value, unsigned char *to)
{
    if (value.size < 2 || value.text[0] != '"' || value.text[value.size - 1] != '"')
        return -1;
    const unsigned char *at = value.text + 1, *end = value.text + value.size - 1, *start = to;
    while (at < end) {
        if (LIKELY(*at >= 0x20 && *at != '"' && *at != '\\'))
            *to++ = *at++;
        else if (*at != '\\' || (to = read_escape(&at, end, to)) == NULL)
            return -1;
    }
    return to - start;
}

/* Read an integer; 0 where it is none, or does not fit 64 bits. */
static int
read_integer(Part value, int64_t *integer)
{
    const unsigned char *at = value.text, *end = at + value.size;
    int is_negative = at < end && *at == '-';
    at += is_negative;
    int64_t number = 0;
    int overflow = at == end || (*at == '0' && end - at > 1);
    for (; is_digit(at, end) && !overflow; at++) {
        overflow = __builtin_mul_overflow(number, 10, &number)
                   || __builtin_sub_overflow(number, *at - '0', &number); /* below 0 there is one number more */
    }
    if (overflow || at < end || (!is_negative && number == INT64_MIN))
        return 0;
    *integer = is_negative ? number : -number;
    return 1;
}

static const unsigned char *
behind_digits(const unsigned char *at, const unsigned char *end)
{
    while (is_digit(at, end))
        at++;
    return at;
}

/* Whether that is a number with a fraction or an exponent. */
static int
is_real(const unsigned char *at, const unsigned char *end)
{
    at += at < end && *at == '-';
    const unsigned char *whole = at;
    at = behind_digits(at, end);
    int fits = at > whole && !(*whole == '0' && at - whole > 1);
    if (at < end && *at == '.') {
        fits &= is_digit(++at, end);
        at = behind_digits(at, end);
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        at += at < end && (*at == '+' || *at == '-');
        fits &= is_digit(at, end);
        at = behind_digits(at, end);
    }
    return fits && at == end;
}

/* Read a number that is finite, of at most 64 bits; 0 where it is none. */
static int
read_number(Part value, Number *number)
{
    char text[64];
    *number = (Number){1, 0, 0};
    if (read_integer(value, &number->integer)) {
        number->real = (double)number->integer;
        return 1;
    }
    size_t integer = (size_t)(behind_digits(value.text + (value.text[0] == '-'), value.text + value.size) - value.text);
    if (value.size >= sizeof text || integer == value.size || !is_real(value.text, value.text + value.size))
        return 0;
    memcpy(text, value.text, value.size);
    text[value.size] = 0;
    *number = (Number){0, 0, PyOS_string_to_double(text, NULL, NULL)};
    if (number->real == -1.0 && PyErr_Occurred())
        return PyErr_Clear(), 0;
    return isfinite(number->real);
}

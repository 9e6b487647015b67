/* JSON lists (RFC 8259), read value by value: integers, numbers and strings with few escapes. Other values stay where they
 * are, and only the place of their text is returned, without a check whether it is JSON. */

/* A list. */
typedef struct {
    const unsigned char *at, *end; /* the start of the next value, NULL after the last one; the closing bracket */
} List;

static inline const unsigned char *
behind_spaces(const unsigned char *at, const unsigned char *end)
{
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r'))
        at++;
    return at;
}

static inline int
is_digit(const unsigned char *at, const unsigned char *end)
{
    return at < end && *at >= '0' && *at <= '9';
}

/* Open a list; 0 if the text is not a list. */
static int
open_list(Part text, List *list)
{
    const unsigned char *end = text.text + text.size, *at = behind_spaces(text.text, end);
    while (end > at && behind_spaces(end - 1, end) == end)
        end--;
    if (end - at < 2 || *at != '[' || *--end != ']')
        return 0;
    at = behind_spaces(at + 1, end);
    *list = (List){at == end ? NULL : at, end};
    return 1;
}

/* Move past a value that ends there; 0 if no value can end there. */
static inline int
go_on(List *list, const unsigned char *at)
{
    at = behind_spaces(at, list->end);
    if (at < list->end && *at != ',')
        return 0;
    list->at = at < list->end ? behind_spaces(at + 1, list->end) : NULL;
    return 1;
}

/* Take any value; 0 if there is none, or a string or a list has no end. */
static int
take_text(List *list, Part *text)
{
    const unsigned char *at = list->at, *end = list->end;
    int depth = 0;
    for (; at != NULL && at < end && (*at != ',' || depth > 0); at++) {
        if (*at == '"') {
            for (at++; at < end && *at != '"'; at++)
                at += *at == '\\';
        }
        depth += at < end && (*at == '[' || *at == '{');
        if (at >= end || ((*at == ']' || *at == '}') && depth-- == 0))
            return 0;
    }
    *text = (Part){list->at, (size_t)(at - list->at)};
    return text->size > 0 && depth == 0 && go_on(list, at);
}

/* Take a list; 0 if there is none. */
static int
take_list(List *list, List *taken)
{
    Part text;
    return take_text(list, &text) && open_list(text, taken);
}

/* Take an integer of 64 bits; 0 if there is none. */
static inline int
take_integer(List *list, int64_t *integer)
{
    const unsigned char *at = list->at;
    if (at == NULL)
        return 0;
    int is_negative = *at == '-'; /* reading stops at the closing bracket, which is not a digit */
    const unsigned char *first = at += is_negative;
    uint64_t number = 0;
    for (; *at >= '0' && *at <= '9' && at < first + 19; at++)
        number = number * 10 + (uint64_t)(*at - '0');
    if (at == first || (at > first + 1 && *first == '0') || number > (uint64_t)INT64_MAX + is_negative
        || !go_on(list, at))
        return 0;
    *integer = (int64_t)(is_negative ? 0 - number : number);
    return 1;
}

/* The character of an escape as plan_save writes it (a quote, a backslash or a control character), and move past it; -1
 * for any other. */
static int
read_escape(const unsigned char **at, const unsigned char *end)
{
    const unsigned char *p = *at + 1;
    if (p < end && (*p == '"' || *p == '\\')) {
        *at = p + 1;
        return *p;
    }
    if (end - p < 5 || memcmp(p, "u00", 3) != 0 || (p[3] != '0' && p[3] != '1'))
        return -1;
    int low = is_digit(p + 4, end) ? p[4] - '0' : p[4] >= 'a' && p[4] <= 'f' ? p[4] - 'a' + 10 : -1;
    *at = p + 5;
    return low < 0 ? -1 : (p[3] - '0') << 4 | low;
}

/* Take a string as UTF-8 into a buffer with as many bytes as the list; returns its length, or -1 if there is no string,
 * or it has escapes that plan_save does not write. */
static Py_ssize_t
take_string(List *list, unsigned char *to)
{
    const unsigned char *at = list->at, *end = list->end, *start = to;
    if (at == NULL || *at++ != '"')
        return -1;
    while (at < end && *at != '"') {
        if (*at >= 0x20 && *at != '\\') {
            *to++ = *at++;
        } else {
            int character = *at == '\\' ? read_escape(&at, end) : -1;
            if (character < 0)
                return -1;
            *to++ = (unsigned char)character;
        }
    }
    return at < end && go_on(list, at + 1) ? to - start : -1;
}

static const unsigned char *
behind_digits(const unsigned char *at, const unsigned char *end)
{
    while (is_digit(at, end))
        at++;
    return at;
}

/* The end of a number with a fraction or an exponent, NULL if it is not one. */
static const unsigned char *
end_of_real(const unsigned char *at, const unsigned char *end)
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
    return fits ? at : NULL;
}

/* Take a finite number; 0 if there is none, or an integer that does not fit 64 bits. */
static int
take_number(List *list, Number *number)
{
    char text[64];
    *number = (Number){1, 0, 0};
    if (take_integer(list, &number->integer)) {
        number->real = (double)number->integer;
        return 1;
    }
    const unsigned char *at = list->at, *end = at == NULL ? NULL : end_of_real(at, list->end);
    size_t size = end == NULL ? 0 : (size_t)(end - at);
    if (size == 0 || size >= sizeof text || end == behind_digits(at + (*at == '-'), end))
        return 0;
    memcpy(text, at, size);
    text[size] = 0;
    *number = (Number){0, 0, PyOS_string_to_double(text, NULL, NULL)};
    if (number->real == -1.0 && PyErr_Occurred())
        return PyErr_Clear(), 0;
    return isfinite(number->real) && go_on(list, end);
}

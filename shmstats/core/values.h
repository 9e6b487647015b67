/* The values of counters, gauges and histograms, and how they change under the lock. */

static inline int64_t
saturating_add(int64_t a, int64_t b)
{
    int64_t sum;
    if (UNLIKELY(__builtin_add_overflow(a, b, &sum)))
        return b > 0 ? INT64_MAX : INT64_MIN;
    return sum;
}

/* The sum of two doubles; the sum of finite ones stays finite. */
static double
finite_sum(double a, double b)
{
    double sum = a + b;
    if (isfinite(sum) || !isfinite(a) || !isfinite(b))
        return sum;
    return sum > 0 ? DBL_MAX : -DBL_MAX;
}

static inline double
load_double(const Cell *cell, Py_ssize_t i)
{
    int64_t bits = load_value(cell, i);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline void
store_double(Cell *cell, Py_ssize_t i, double value)
{
    int64_t bits;
    memcpy(&bits, &value, sizeof bits);
    store_value(cell, i, bits);
}

static inline void
add_to_value(Cell *cell, Py_ssize_t i, int64_t n)
{
    store_value(cell, i, saturating_add(load_value(cell, i), n));
}

/* A gauge has two values, an integer and a double: a write stores a number in the one of its type, then makes seq
 * select it. After each step the gauge has a value that was really set.
 *
 * If each worker has its own value of a gauge, a *contribution*, two more values store its owner and its
 * time. OWNER is 0 if there is none. */
enum { INTEGER, REAL, OWNER, MOMENT };

/* The owner of a contribution, for a write to a gauge. */
typedef struct {
    int64_t owner; /* 0: the gauge is shared by all */
    char live;     /* the contribution ends with its owner */
    char stamped;  /* its time is stored */
    char apart;    /* it must not be added to that of an ended worker: true for all modes but plain sums */
} Contributor;

/* A number for a gauge. */
typedef struct {
    char is_integer;
    int64_t integer;
    double real;
} Number;

/* Read an exact int that fits 64 bits, or an exact float; 0 for anything else. */
static inline int
plain_number(PyObject *object, Number *number)
{
    if (PyFloat_CheckExact(object)) {
        *number = (Number){0, 0, PyFloat_AS_DOUBLE(object)};
        return 1;
    }
    if (!PyLong_CheckExact(object))
        return 0;
    int overflow;
    int64_t integer = PyLong_AsLongLongAndOverflow(object, &overflow);
    *number = (Number){1, integer, (double)integer};
    return !overflow;
}

/* The value of an exact int that fits 64 bits, or of a bool; 0 for anything else, with *fits 0. */
static inline int64_t
plain_integer(PyObject *object, int *fits)
{
    if (UNLIKELY(!PyLong_CheckExact(object))) {
        *fits = PyBool_Check(object);
        return object == Py_True;
    }
#if PY_VERSION_HEX >= 0x030C0000
    if (LIKELY(PyUnstable_Long_IsCompact((PyLongObject *)object))) {
        *fits = 1;
        return PyUnstable_Long_CompactValue((PyLongObject *)object);
    }
#else
    Py_ssize_t size = Py_SIZE(object);
    if (LIKELY(size == 1)) {
        *fits = 1;
        return ((PyLongObject *)object)->ob_digit[0];
    }
#endif
    int overflow;
    int64_t value = PyLong_AsLongLongAndOverflow(object, &overflow);
    *fits = !overflow;
    return value;
}

/* Like plain_integer, for ints from 1 to 2^30 - 1; *fits is 0 for all others. It calls nothing. */
static inline int64_t
small_integer(PyObject *object, int *fits)
{
#if PY_VERSION_HEX >= 0x030C0000
    *fits = PyLong_CheckExact(object) && PyUnstable_Long_IsCompact((PyLongObject *)object)
            && PyUnstable_Long_CompactValue((PyLongObject *)object) > 0;
    return *fits ? PyUnstable_Long_CompactValue((PyLongObject *)object) : 0;
#else
    *fits = PyLong_CheckExact(object) && Py_SIZE(object) == 1;
    return *fits ? ((PyLongObject *)object)->ob_digit[0] : 0;
#endif
}

static inline void
put_number(Cell *gauge, Number number)
{
    if (number.is_integer)
        store_value(gauge, INTEGER, number.integer);
    else
        store_double(gauge, REAL, number.real);
    STOP_POINT();
    __atomic_store_n(&gauge->seq, !number.is_integer, __ATOMIC_RELEASE);
}

static inline Number
gauge_number(const Cell *gauge)
{
    if (__atomic_load_n(&gauge->seq, __ATOMIC_ACQUIRE) & 1)
        return (Number){0, 0, load_double(gauge, REAL)};
    int64_t integer = load_value(gauge, INTEGER);
    return (Number){1, integer, (double)integer};
}

static inline Number
sum_of(Number a, Number b)
{
    if (a.is_integer && b.is_integer)
        return (Number){1, saturating_add(a.integer, b.integer), 0};
    return (Number){0, 0, finite_sum(a.real, b.real)};
}

static int64_t
monotonic_nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Store a number in a gauge, whose lock is held; if it is a contribution, store its owner too.
 *
 * A live contribution has no owner while it changes hands, so that nobody takes the new value for the old owner's. A
 * contribution that outlives its owner keeps the old owner until it has a new one: it always has one. */
static inline void
contribute(Cell *gauge, Number number, Contributor by)
{
    if (LIKELY(by.owner == 0)) {
        put_number(gauge, number);
        return;
    }
    int changes = load_value(gauge, OWNER) != by.owner;
    if (changes && by.live)
        store_value(gauge, OWNER, 0);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    STOP_POINT();
    put_number(gauge, number);
    STOP_POINT();
    if (by.stamped)
        store_value(gauge, MOMENT, monotonic_nanoseconds());
    __atomic_thread_fence(__ATOMIC_RELEASE);
    if (changes)
        store_value(gauge, OWNER, by.owner);
}

/* A histogram is the sum, the maximum and the minimum of its observations, followed by the buckets. Sum and maximum
 * are doubles; the minimum is the bits of a double plus 1, because 0 means that there is none. */
enum { SUM, MAXIMUM, MINIMUM, BUCKETS };

/* The bits of a double that is not negative; -0.0 has those of 0.0. */
static inline int64_t
bits_of(double value)
{
    int64_t bits;
    value += 0.0;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Whether a value can be observed: it is neither negative, nor infinite, nor NaN. */
static inline int
is_observable(double value)
{
    return (uint64_t)bits_of(value) <= (uint64_t)bits_of(DBL_MAX);
}

/* A histogram's seq is odd from begin_write to end_write; the latter gets the result of the former. */
static inline uint32_t
begin_write(Cell *histogram)
{
    uint32_t seq = histogram->seq | 1;
    __atomic_store_n(&histogram->seq, seq, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    return seq;
}

static inline void
end_write(Cell *histogram, uint32_t seq)
{
    STOP_POINT();
    __atomic_store_n(&histogram->seq, seq + 1, __ATOMIC_RELEASE);
}

/* Lower the minimum, in its stored form: none is above all values, and so is a value with the sign bit. */
static inline void
lower_minimum(Cell *histogram, int64_t minimum)
{
    if ((uint64_t)minimum - 1 < (uint64_t)load_value(histogram, MINIMUM) - 1)
        store_value(histogram, MINIMUM, minimum);
}

/* Add to the sum, raise the maximum, and lower the minimum, which is given in its stored form. */
static inline void
add_to_moments(Cell *histogram, double sum, double maximum, int64_t minimum)
{
    store_double(histogram, SUM, finite_sum(load_double(histogram, SUM), sum));
    if (maximum > load_double(histogram, MAXIMUM))
        store_double(histogram, MAXIMUM, maximum);
    lower_minimum(histogram, minimum);
}

/* Add the values of a histogram to those of another one. */
static void
add_values(Cell *histogram, const Cell *more, Py_ssize_t width)
{
    add_to_moments(histogram, load_double(more, SUM), load_double(more, MAXIMUM), load_value(more, MINIMUM));
    for (Py_ssize_t i = BUCKETS; i < width - LOCK_CELLS; i++)
        add_to_value(histogram, i, load_value(more, i));
}

static inline void
observe_unlocked(Cell *histogram, Py_ssize_t bucket, double value)
{
    double sum = load_double(histogram, SUM) + value;
    store_double(histogram, SUM, LIKELY(sum <= DBL_MAX) ? sum : finite_sum(load_double(histogram, SUM), value));
    if (value > load_double(histogram, MAXIMUM))
        store_double(histogram, MAXIMUM, value);
    lower_minimum(histogram, bits_of(value) + 1);
    add_to_value(histogram, BUCKETS + bucket, 1);
}

static inline void
observe_locked(Cell *histogram, Py_ssize_t bucket, double value)
{
    uint32_t seq = begin_write(histogram);
    observe_unlocked(histogram, bucket, value);
    end_write(histogram, seq);
}

/* Set the values of a series to 0; its lock is held. */
static void
empty(Cell *cell, Py_ssize_t width, int is_histogram)
{
    uint32_t seq = is_histogram ? begin_write(cell) : 0;
    for (Py_ssize_t i = 0; i < width - LOCK_CELLS; i++)
        store_value(cell, i, 0);
    STOP_POINT();
    if (is_histogram)
        end_write(cell, seq); /* not 0: a reader that began before would not notice */
    else
        __atomic_store_n(&cell->seq, 0, __ATOMIC_RELEASE);
}

/* Whether all cells of a series have memory, by the bitmap of a row. */
static int
has_memory(const char *bitmap, Py_ssize_t column, Py_ssize_t width)
{
    for (Py_ssize_t page = column / CELLS_PER_PAGE; page <= (column + width - 1) / CELLS_PER_PAGE; page++)
        if (!(__atomic_load_n(bitmap + page / 8, __ATOMIC_ACQUIRE) >> (page % 8) & 1))
            return 0;
    return 1;
}

/* Whether all cells of a series have memory in a row. */
static int
is_backed(const Cells *cells, Py_ssize_t row, Py_ssize_t column, Py_ssize_t width)
{
    return has_memory((const char *)cells->buffer.buf + cells->pages + row * cells->bitmap_bytes, column, width);
}

/* Set a series to 0 in every row, without waiting for a lock; returns whether that was possible. */
static int
empty_everywhere(const Cells *cells, Py_ssize_t column, Py_ssize_t width, int is_histogram)
{
    for (Py_ssize_t row = 0; row < cells->rows; row++) {
        if (!is_backed(cells, row, column, width))
            continue;
        Cell *cell = cell_at(cells, row, column);
        if (!try_lock(cell, cells->owner))
            return 0;
        STOP_POINT();
        empty(cell, width, is_histogram);
        unlock(cell);
    }
    return 1;
}

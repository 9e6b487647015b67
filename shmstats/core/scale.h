/* The scale of a histogram: it finds the bucket of a value. shmstats/bounds.py makes it, as bytes.
 *
 * Exponential bounds have the same mantissas in each octave of doubles, from one power of two to the next. So the
 * exponent of a value gives the number of bounds below its octave, and its mantissa the number of bounds below it
 * there: an octave is divided into twice as many slots as it has bounds, and a slot contains at most one bound. */

/* A slot: a mantissa, and the number of bounds of the octave below the slot; from that mantissa on it is one more. */
typedef struct {
    int64_t limit, before;
} Slot;

typedef struct {
    int64_t n_bounds;
    int64_t schema; /* there are 2^schema bounds in an octave; -1: the bounds follow as doubles, else the slots */
    int64_t before; /* bounds of the same sequence that a double can be less than, but below the first one */
} Scale;

enum { MANTISSA_BITS = 52, FINEST_SCHEMA = 8 };

static inline const Scale *
scale_in(PyObject *bytes)
{
    return (const Scale *)(const void *)PyBytes_AS_STRING(bytes);
}

/* The number of buckets of the scale in some bytes; 0 if they are not a scale. */
static Py_ssize_t
buckets_of(PyObject *bytes)
{
    Py_ssize_t rest = PyBytes_GET_SIZE(bytes) - (Py_ssize_t)sizeof(Scale);
    if (rest < 0)
        return 0;
    const Scale *scale = scale_in(bytes);
    if (scale->n_bounds < 0 || scale->n_bounds > INT32_MAX || scale->schema < -1 || scale->schema > FINEST_SCHEMA)
        return 0;
    Py_ssize_t expected = scale->schema < 0 ? (Py_ssize_t)sizeof(double) * (Py_ssize_t)scale->n_bounds
                                            : (Py_ssize_t)sizeof(Slot) << (scale->schema + 1);
    return rest == expected ? (Py_ssize_t)scale->n_bounds + 1 : 0;
}

/* The number of the first bound that is not less than a value; the number of bounds if all are less.
 *
 * Non-negative doubles have the order of their bits: a bound is less than the value if its bits are not
 * above those of the value minus 1. */
static inline Py_ssize_t
exponential_bucket(const Scale *scale, double value)
{
    int64_t below = bits_of(value) - 1;
    const Slot *slots = (const Slot *)(const void *)(scale + 1);
    int schema = (int)scale->schema;
    const Slot *slot = &slots[(uint64_t)below << (64 - MANTISSA_BITS) >> (64 - 1 - schema)];
    int64_t mantissa = below & (((int64_t)1 << MANTISSA_BITS) - 1);
    int64_t bucket = (below >> MANTISSA_BITS) * ((int64_t)1 << schema) + slot->before + (mantissa >= slot->limit)
                     - scale->before;
    bucket = bucket < 0 ? 0 : bucket;
    return (Py_ssize_t)(bucket < scale->n_bounds ? bucket : scale->n_bounds);
}

static inline Py_ssize_t
explicit_bucket(const Scale *scale, double value)
{
    const double *bounds = (const double *)(const void *)(scale + 1);
    Py_ssize_t low = 0;
    for (Py_ssize_t span = (Py_ssize_t)scale->n_bounds; span > 0;) {
        Py_ssize_t half = span / 2;
        int above = bounds[low + half] < value;
        low += above ? half + 1 : 0;
        span = above ? span - half - 1 : half;
    }
    return low;
}

static inline Py_ssize_t
bucket_of(const Scale *scale, double value)
{
    return scale->schema < 0 ? explicit_bucket(scale, value) : exponential_bucket(scale, value);
}

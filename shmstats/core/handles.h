/* Handles: Counter, Gauge and Histogram, each bound to the cells of one statistic. An operation that cannot be done at
 * once is a *miss*, and is passed to a Python method of the recorder. */

/* Kinds of handles, as bits. The handle of a timestamp is a plain Series, without methods. */
enum { COUNTER = 1, GAUGE = 2, HISTOGRAM = 4, TIMESTAMP = 8, ANY_KIND = 15 };

typedef struct {
    PyObject_HEAD
    Cells *cells; /* what the handle is bound to; NULL: nothing yet. This and what is next to it is one cache line */
    Cell *cell;
    uint64_t generation; /* of the names when it was bound */
    char monotonic;      /* the counter was never decremented, so the first time is a miss */
    char kind;           /* which of the types below it is of */
    State *state;
    PyObject *recorder; /* whose Python methods take the misses */
    PyObject *category, *metric, *labels;
    PyObject *timer; /* of a histogram: a Stopwatch to be lent, or NULL */
    PyObject *scale; /* of a histogram: bytes (scale.h), or NULL */
    Contributor by;  /* of a gauge */
} Series;

static int
kind_of(const PyTypeObject *type, const State *state)
{
    PyTypeObject *of = (PyTypeObject *)type;
    return PyType_IsSubtype(of, state->Counter)     ? COUNTER
           : PyType_IsSubtype(of, state->Gauge)     ? GAUGE
           : PyType_IsSubtype(of, state->Histogram) ? HISTOGRAM
                                                    : TIMESTAMP;
}

/* Whether the handle's binding is valid. */
static inline int
is_bound(const Series *series)
{
    return LIKELY(series->cells != NULL) && LIKELY(current(series->cells->gate) == series->generation);
}

/* Bind a handle that is not bound, or no longer, if the fast path can; returns whether it is bound (registering.h). */
static int bind_at_once(Series *series);
static PyObject *Series__bind_at_once(Series *self, PyObject *ignored);

static inline int
is_ready(Series *series)
{
    return is_bound(series) || bind_at_once(series);
}

/* Operations on a bound series that may have to wait, or to flush a buffer. Each needs a reference to the cells, because
 * the handle may be bound elsewhere while other threads run. */
#define PATIENTLY(name, operation, ...)                                                                                \
    static __attribute__((noinline)) Outcome name(Series *series, __VA_ARGS__)                                         \
    {                                                                                                                  \
        if (!is_bound(series))                                                                                         \
            return MISS;                                                                                               \
        Cells *cells = (Cells *)Py_NewRef((PyObject *)series->cells);                                                  \
        Outcome outcome = operation;                                                                                   \
        Py_DECREF(cells);                                                                                              \
        return outcome;                                                                                                \
    }
PATIENTLY(count_patiently, add_integer(cells, series->cell, series->generation, n), int64_t n)
PATIENTLY(set_number, set_gauge(cells, series->cell, series->generation, value, series->by), Number value)
PATIENTLY(move_by, add_to_gauge(cells, series->cell, series->generation, n, series->by, 0, 1), Number n)
PATIENTLY(observe_patiently, observe(cells, series->cell, series->generation, bucket, value), Py_ssize_t bucket,
          double value)

static inline Outcome
count(Series *series, int64_t n)
{
    if (UNLIKELY(!is_ready(series)) || UNLIKELY(n < 0 && series->monotonic))
        return MISS;
    if (LIKELY(add_at_once(series->cells, series->cell, series->generation, n)))
        return DONE;
    return count_patiently(series, n);
}

/* Count sign * n through a handle on the fast path; n NULL means 1. */
static inline Outcome
count_object(Series *series, int sign, PyObject *n)
{
    int fits = 1;
    int64_t value = n == NULL ? 1 : plain_integer(n, &fits);
    if (UNLIKELY(!fits) || UNLIKELY(sign < 0 && value == INT64_MIN))
        return MISS;
    return count(series, sign < 0 ? -value : value);
}

static PyObject *
count_missed(Series *series, int sign, PyObject *n)
{
    State *state = series->state;
    return PyObject_CallMethodObjArgs(series->recorder, state->str_count_series,
                                      sign < 0 ? state->minus_one : state->one, series, n == NULL ? state->one : n,
                                      NULL);
}

/* Pass a call, unchanged, to the Python method that can do all of it. */
static PyObject *
call_missed(PyObject *self, PyObject *method, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *bound = PyObject_GetAttr(self, method);
    PyObject *result = bound == NULL ? NULL : PyObject_Vectorcall(bound, args, (size_t)nargs, kwnames);
    Py_XDECREF(bound);
    return result;
}

/* Make a handle; labels are a tuple, or NULL for none. */
static Series *
new_series(PyTypeObject *type, PyObject *recorder, PyObject *category, PyObject *metric, PyObject *labels)
{
    State *state = state_of(type);
    Series *self = state == NULL ? NULL : (Series *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->state = state;
    self->kind = (char)kind_of(type, state);
    self->recorder = Py_NewRef(recorder);
    self->category = Py_NewRef(category);
    self->metric = Py_NewRef(metric);
    self->labels = labels == NULL ? PyTuple_New(0) : Py_NewRef(labels);
    if (self->labels == NULL)
        Py_CLEAR(self);
    return self;
}

static PyObject *
Series_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"recorder", "category", "metric", "labels", NULL};
    PyObject *recorder, *category, *metric, *labels = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OUU|O!", names, &recorder, &category, &metric, &PyTuple_Type,
                                     &labels))
        return NULL;
    return (PyObject *)new_series(type, recorder, category, metric, labels);
}

static void
Series_last(Series *self)
{
    Py_CLEAR(self->category);
    Py_CLEAR(self->metric);
    Py_CLEAR(self->scale);
}

#define SERIES_REFERENCES(X) X(recorder) X(labels) X(timer) X(cells)
COLLECTED(Series, SERIES_REFERENCES, Series_last(self))

static void
bind(Series *self, Cells *cells, Cell *cell, uint64_t generation, int monotonic, PyObject *scale, Contributor by)
{
    Py_XINCREF(scale);
    Py_XSETREF(self->scale, scale);
    Py_INCREF(cells);
    Py_XSETREF(self->cells, cells);
    self->cell = cell;
    self->generation = generation == no_generation ? never_current : generation;
    self->monotonic = (char)monotonic;
    self->by = by;
}

static PyObject *
Series_bind(Series *self, PyObject *args)
{
    PyObject *given;
    Py_ssize_t row, column, width;
    unsigned long long generation;
    int monotonic;
    PyObject *scale = NULL, *contributor = NULL;
    Contributor by = {0, 0, 0, 0};
    if (!PyArg_ParseTuple(args, "OnnnKp|SO!", &given, &row, &column, &width, &generation, &monotonic,
                          &scale, &PyTuple_Type, &contributor))
        return NULL;
    if (!Py_IS_TYPE(given, self->state->Cells)) {
        PyErr_Format(PyExc_TypeError, "cells must be Cells, not %s", Py_TYPE(given)->tp_name);
        return NULL;
    }
    if (contributor != NULL && parse_contributor(contributor, &by) < 0)
        return NULL;
    Cells *cells = (Cells *)given;
    Cell *cell = Cells_at(cells, row, column, width);
    if (cell == NULL)
        return NULL;
    if (scale != NULL && PyBytes_GET_SIZE(scale) == 0)
        scale = NULL;
    if (scale != NULL && buckets_of(scale) != width - LOCK_CELLS - BUCKETS) {
        PyErr_Format(PyExc_ValueError, "a scale of %zd buckets does not fit a histogram of %zd cells",
                     buckets_of(scale), width);
        return NULL;
    }
    bind(self, cells, cell, generation, monotonic, scale, by);
    Py_RETURN_NONE;
}

/* The value of a bound counter, or of a gauge that all workers share; NULL without an exception in all other cases. */
static PyObject *
plain_value(Series *series)
{
    if (!is_bound(series) || series->cells->bitmap_bytes == 0 || series->by.owner != 0
        || !(series->kind & (COUNTER | GAUGE)))
        return NULL;
    if (series->kind == GAUGE) {
        Number number = gauge_number(series->cell);
        if (!is_bound(series))
            return NULL;
        return number.is_integer ? PyLong_FromLongLong(number.integer) : PyFloat_FromDouble(number.real);
    }
    int64_t total = total_of(series->cells, series->cell);
    return is_bound(series) ? PyLong_FromLongLong(total) : NULL;
}

static PyObject *
Series_value(Series *self, void *Py_UNUSED(closure))
{
    PyObject *value = plain_value(self);
    if (value != NULL || PyErr_Occurred())
        return value;
    return PyObject_CallMethodOneArg(self->recorder, self->state->str_value, (PyObject *)self);
}

static PyObject *
Series_reduce(Series *self, PyObject *Py_UNUSED(ignored))
{
    return PyObject_CallMethodOneArg(self->recorder, self->state->str_reduce_handle, (PyObject *)self);
}

static PyObject *
Series_bound(Series *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(is_bound(self));
}

static PyObject *
Series_repr(Series *self)
{
    const char *name = strrchr(Py_TYPE(self)->tp_name, '.');
    return PyUnicode_FromFormat("<%s %R %R>", name == NULL ? Py_TYPE(self)->tp_name : name + 1, self->category,
                                self->metric);
}

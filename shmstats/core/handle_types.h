/* The types of handles, Counter, Gauge and Histogram, and their methods for user code. */

/* Whether a call of incr or decr has no argument but n, by position or by name, or none at all. */
static inline int
gives_n_alone(const State *state, Py_ssize_t nargs, PyObject *kwnames)
{
    if (LIKELY(kwnames == NULL))
        return nargs <= 1;
    return nargs == 0 && PyTuple_GET_SIZE(kwnames) == 1 && PyTuple_GET_ITEM(kwnames, 0) == state->kw_n;
}

/* Raise the error for a call of incr or decr with other arguments. */
static PyObject *
refuse(const State *state, int sign, PyObject *kwnames)
{
    const char *function = sign > 0 ? "incr" : "decr";
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (name != state->kw_n)
            return PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument %R", function, name);
    }
    return PyErr_Format(PyExc_TypeError, "%s() takes one argument, n", function);
}

enum { MOST_ARGUMENTS = 4 };

/* Pass a method call of a handle, with the handle as its first argument, to a Python method of the recorder. */
static PyObject *
hand_over(Series *self, PyObject *method, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *all[1 + MOST_ARGUMENTS] = {(PyObject *)self};
    Py_ssize_t given = nargs + (kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames));
    if (given > MOST_ARGUMENTS) {
        PyErr_Format(PyExc_TypeError, "%zd arguments are too many", given);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < given; i++)
        all[1 + i] = args[i];
    return call_missed(self->recorder, method, all, nargs + 1, kwnames);
}

/* Whether a bound gauge may be set here. If another worker owns the contribution, Python must check if it lives. */
static inline int
is_ours(const Series *series)
{
    if (LIKELY(!series->by.apart))
        return 1;
    int64_t owner = load_value(series->cell, OWNER);
    return owner == series->by.owner || owner == 0;
}

static Outcome
set_object(Series *series, PyObject *value)
{
    Number number;
    if (UNLIKELY(!plain_number(value, &number)) || UNLIKELY(!isfinite(number.real)) || UNLIKELY(!is_ready(series))
        || UNLIKELY(!is_ours(series)))
        return MISS;
    return set_number(series, number);
}

/* Set a bound timestamp to now, in microseconds since 1970. */
static Outcome
note_now(Series *series)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return set_number(series, (Number){1, (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000, 0.0});
}

static PyObject *
Gauge_set(Series *self, PyObject *value)
{
    Outcome outcome = set_object(self, value);
    if (LIKELY(outcome == DONE))
        Py_RETURN_NONE;
    if (outcome == FAILED)
        return NULL;
    return PyObject_CallMethodObjArgs(self->recorder, self->state->str_set_series, self, value, NULL);
}

/* Add sign * n (1 for NULL) to a bound gauge; MISS for anything that Python must check. */
static inline Outcome
move_object(Series *series, int sign, PyObject *given)
{
    Number n = {1, 1, 1.0};
    if (UNLIKELY(given != NULL && !plain_number(given, &n)) || UNLIKELY(!isfinite(n.real))
        || UNLIKELY(n.is_integer && n.integer == INT64_MIN) || UNLIKELY(!is_ready(series)))
        return MISS;
    return move_by(series, sign < 0 ? (Number){n.is_integer, -n.integer, -n.real} : n);
}

/* Add sign * n (1 for NULL) to a counter or gauge. */
static inline Outcome
count_or_move(Series *series, int sign, PyObject *n)
{
    return LIKELY(series->kind == COUNTER) ? count_object(series, sign, n)
           : series->kind == GAUGE         ? move_object(series, sign, n)
                                           : MISS;
}

static __attribute__((noinline)) PyObject *
Series_move(Series *self, int sign, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (UNLIKELY(!gives_n_alone(self->state, nargs, kwnames))) {
        if (self->kind == COUNTER && sign > 0 && kwnames != NULL) /* an exemplar, or a mistake, which Python reports */
            return hand_over(self, self->state->str_count_with_exemplar, args, nargs, kwnames);
        return refuse(self->state, sign, kwnames);
    }
    PyObject *n = nargs == 0 && kwnames == NULL ? NULL : args[0];
    Outcome outcome = count_or_move(self, sign, n);
    if (LIKELY(outcome == DONE))
        Py_RETURN_NONE;
    return outcome == MISS ? count_missed(self, sign, n) : NULL;
}

static PyObject *
Counter_incr(Series *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int fits = gives_n_alone(self->state, nargs, kwnames), is_given = !(LIKELY(nargs == 0) && LIKELY(kwnames == NULL));
    int64_t n = LIKELY(!is_given) || !fits ? 1 : small_integer(args[0], &fits);
    if (LIKELY(fits) && LIKELY(is_bound(self)) && LIKELY(add_at_once(self->cells, self->cell, self->generation, n)))
        Py_RETURN_NONE;
    return Series_move(self, 1, args, nargs, kwnames);
}

static PyObject *
Gauge_incr(Series *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return Series_move(self, 1, args, nargs, kwnames);
}

static PyObject *
Series_decr(Series *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return Series_move(self, -1, args, nargs, kwnames);
}

/* Observe a value; MISS if it is negative, infinite or NaN. */
static inline Outcome
observe_double(Series *series, double value)
{
    if (UNLIKELY(!is_observable(value)) || UNLIKELY(!is_ready(series)) || UNLIKELY(series->scale == NULL))
        return MISS;
    Py_ssize_t bucket = bucket_of(scale_in(series->scale), value);
    if (LIKELY(series->cells->buffered == NULL)
        && LIKELY(lock_at_once(series->cells, series->cell, series->generation))) {
        observe_locked(series->cell, bucket, value);
        unlock(series->cell);
        return DONE;
    }
    return observe_patiently(series, bucket, value);
}

/* Observe an exact float or int through a bound handle; MISS for anything that Python must check. */
static inline Outcome
observe_object(Series *series, PyObject *observed)
{
    double value;
    if (LIKELY(PyFloat_CheckExact(observed)))
        value = PyFloat_AS_DOUBLE(observed);
    else {
        int fits;
        value = (double)plain_integer(observed, &fits);
        if (!fits)
            return MISS;
    }
    return observe_double(series, value);
}

static PyObject *
Histogram_observe(Series *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (UNLIKELY(kwnames != NULL) || UNLIKELY(nargs != 1))
        return hand_over(self, self->state->str_observe_with_exemplar, args, nargs, kwnames);
    PyObject *value = args[0];
    Outcome outcome = observe_object(self, value);
    if (LIKELY(outcome == DONE))
        Py_RETURN_NONE;
    if (outcome == FAILED)
        return NULL;
    return PyObject_CallMethodObjArgs(self->recorder, self->state->str_observe_series, self, value, NULL);
}

static PyMemberDef Series_members[] = {
    {"recorder", T_OBJECT_EX, offsetof(Series, recorder), READONLY, NULL},
    {"category", T_OBJECT_EX, offsetof(Series, category), READONLY, NULL},
    {"metric", T_OBJECT_EX, offsetof(Series, metric), READONLY, NULL},
    {"labels", T_OBJECT_EX, offsetof(Series, labels), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef Series_getset[] = {
    {"value", (getter)Series_value, NULL, PyDoc_STR("The value over all workers."), NULL},
    {"_bound", (getter)Series_bound, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef Series_methods[] = {
    {"_bind", (PyCFunction)Series_bind, METH_VARARGS, NULL},
    NO_ARGUMENTS(Series, _bind_at_once),
    {"__reduce__", (PyCFunction)Series_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef Counter_methods[] = {
    {"incr", FUNCTION(Counter_incr), FASTCALL, PyDoc_STR("incr($self, /, n=1, *, exemplar=None)\n--\n\nAdd n.")},
    {"decr", FUNCTION(Series_decr), FASTCALL, PyDoc_STR("decr($self, /, n=1)\n--\n\nSubtract n.")},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef Gauge_methods[] = {
    {"set", (PyCFunction)Gauge_set, METH_O, PyDoc_STR("set($self, value, /)\n--\n\nSet the gauge.")},
    {"incr", FUNCTION(Gauge_incr), FASTCALL, PyDoc_STR("incr($self, /, n=1)\n--\n\nAdd n.")},
    {"decr", FUNCTION(Series_decr), FASTCALL, PyDoc_STR("decr($self, /, n=1)\n--\n\nSubtract n.")},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef Histogram_methods[] = {
    {"observe", FUNCTION(Histogram_observe), FASTCALL,
     PyDoc_STR("observe($self, value, /, *, exemplar=None)\n--\n\nAdd one observation.")},
    {NULL, NULL, 0, NULL},
};

TYPE(Series, Series, "A handle: one statistic, bound to its cell.", BASE,
     {Py_tp_new, Series_new}, COLLECTED_SLOTS(Series), {Py_tp_repr, Series_repr}, {Py_tp_members, Series_members},
     {Py_tp_getset, Series_getset}, {Py_tp_methods, Series_methods})

/* A kind of handle: a Series with its own methods. */
#define HANDLE(Kind, doc) TYPE(Kind, Series, doc, BASE, COLLECTED_SLOTS(Series), {Py_tp_methods, Kind##_methods})

HANDLE(Counter, "A handle of a counter.")
HANDLE(Gauge, "A handle of a gauge.")
HANDLE(Histogram, "A handle of a histogram.")

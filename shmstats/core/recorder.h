/* The recorder: the calls of user code that name a statistic. It finds the handle of (category, metric) by two
 * caches and uses it; it is the base class of the registry. */

#define SHORTCUTS 8192 /* a power of two */

/* A handle found by the addresses of the very strings that it was made with. */
typedef struct {
    PyObject *category, *metric;
    Series *series;
} Shortcut;

/* The calls for user code: name, signature, description.
 *
 * They are not methods but slots of the object that hold bound functions: if ``stats`` is an imported name, the
 * compiler of Python 3.11 emits for stats.incr() an attribute access and a call instead of a method call, and finding
 * and binding a method each time takes longer than counting. */
#define CALLS(X)                                                                                                       \
    X(incr, "category, metric, n=1, *, labels=None, exemplar=None", "Add n to a counter.")                             \
    X(decr, "category, metric, n=1, *, labels=None", "Subtract n from a counter.")                                     \
    X(gauge, "category, metric, value=..., *, labels=None, labelnames=None",                                           \
      "Set a gauge; without a value, return a handle.")                                                                \
    X(absolute, "category, metric, value, *, labels=None", "Set a gauge, or the total of a counter, to an integer.")   \
    X(timing, "category, metric, milliseconds=..., *, labels=None, labelnames=None, exemplar=None",                    \
      "Add a duration to a histogram; without one, return a handle.")                                                  \
    X(timestamp, "category, metric, moment=None, *, labels=None", "Record a moment: now, or an aware datetime.")       \
    X(timer, "category, metric, *, labels=None", "Return a context manager and decorator that times the code inside it.") \
    X(counter, "category, metric, *, labels=None, labelnames=None",                                                    \
      "Return a handle of a counter, or of a metric with labels.")                                                     \
    X(histogram, "category, metric, *, labels=None, labelnames=None",                                                  \
      "Return a handle of a histogram, or of a metric with labels.")                                                   \
    X(get, "category, metric, *, labels=None", "Return the value over all workers; 0 if it was never written.")

typedef struct {
    PyObject_HEAD
    State *state;
    PyObject *handles;            /* {category: {metric: Series}}, without labels */
    Shortcut *shortcuts;          /* borrowed from handles */
    LabelSets sets;               /* handles of label sets, by category, metric, names and values as given */
    PyObject *timer_type;         /* the type of timers: a subclass of Stopwatch, or NULL */
    PyObject *registrar;          /* binds handles at once, or NULL */
#define FIELD(name, signature, doc) PyObject *name;
    CALLS(FIELD) /* the functions below, bound to this object */
#undef FIELD
} Recorder;

static inline size_t
shortcut_of(const PyObject *category, const PyObject *metric)
{
    uint64_t mixed = ((uint64_t)(uintptr_t)category * 0x9E3779B97F4A7C15u)
                     ^ ((uint64_t)(uintptr_t)metric * 0xC2B2AE3D27D4EB4Fu);
    return (size_t)(mixed >> 40) & (SHORTCUTS - 1);
}

/* The handle in the two-level dict, borrowed; NULL if there is none (no exception is left). */
static Series *
look_up(Recorder *self, PyObject *category, PyObject *metric)
{
    if (!PyUnicode_CheckExact(category) || !PyUnicode_CheckExact(metric))
        return NULL;
    PyObject *metrics = PyDict_GetItemWithError(self->handles, category);
    PyObject *series = metrics == NULL ? NULL : PyDict_GetItemWithError(metrics, metric);
    if (series == NULL)
        PyErr_Clear();
    return (Series *)series;
}

/* The handle of a name, borrowed, by the shortcuts only; NULL if they have none. It calls nothing. */
static inline Series *
find_at_once(const Recorder *self, const PyObject *category, const PyObject *metric)
{
    size_t first = shortcut_of(category, metric);
    for (size_t i = 0; i < 2; i++) {
        const Shortcut *shortcut = &self->shortcuts[first ^ i];
        if (LIKELY(shortcut->metric == metric) && LIKELY(shortcut->category == category))
            return shortcut->series;
    }
    return NULL;
}

/* The handle of a name, borrowed, or NULL. */
static inline Series *
find(Recorder *self, PyObject *category, PyObject *metric)
{
    Series *series = find_at_once(self, category, metric);
    if (LIKELY(series != NULL))
        return series;
    series = look_up(self, category, metric);
    if (series != NULL && series->category == category && series->metric == metric) {
        size_t first = shortcut_of(category, metric);
        int is_second = self->shortcuts[first].series != NULL && self->shortcuts[first ^ 1].series == NULL;
        self->shortcuts[is_second ? first ^ 1 : first] = (Shortcut){category, metric, series};
    }
    return series;
}

/* Put the calls into the slots of a recorder; -1 with an exception set. */
static int bind_calls(Recorder *self);

static PyObject *
Recorder_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    Recorder *self = (Recorder *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->state = state_of(type);
    self->handles = PyDict_New();
    self->shortcuts = PyMem_Calloc(SHORTCUTS, sizeof(Shortcut));
    if (!self->handles || !self->shortcuts || bind_calls(self) < 0) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void
Recorder_last(Recorder *self)
{
    PyMem_Free(self->shortcuts);
    self->shortcuts = NULL;
}

static void
forget_shortcuts(Recorder *self)
{
    memset(self->shortcuts, 0, SHORTCUTS * sizeof(Shortcut));
}

static void
Recorder_clear_more(Recorder *self)
{
    if (self->shortcuts != NULL)
        forget_shortcuts(self);
    clear_sets(&self->sets);
}

#define RECORDER_REFERENCES(X)                                                                                         \
    X(handles) X(timer_type) X(registrar) X(incr) X(decr) X(gauge) X(absolute) X(timing) X(timestamp) X(timer) X(counter)           \
    X(histogram) X(get)
COLLECTED_WITH(Recorder, RECORDER_REFERENCES, visit_sets(&self->sets, visit, arg), Recorder_clear_more(self),
               Recorder_last(self))

/* The arguments of a call that names a statistic; NULL: not given. */
typedef struct {
    PyObject *category, *metric, *what, *labels;
} Call;

/* The result of looking at a call's arguments: a handle, borrowed, or NULL; and the value, or NULL. */
typedef struct {
    Series *series;
    PyObject *what;
} Found;

/* Put keywords into their places: `word` is the name of the value. 0 if that is left to Python. */
static int
take_keywords(const State *state, Call *call, PyObject *const *values, PyObject *names, PyObject *word)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        PyObject **place = name == state->kw_labels     ? &call->labels
                           : name == word               ? &call->what
                           : name == state->kw_metric   ? &call->metric
                           : name == state->kw_category ? &call->category
                                                        : NULL;
        if (place == NULL || *place != NULL)
            return 0;
        *place = values[i];
    }
    return 1;
}

/* The handle of a label set given as a dict, borrowed, or NULL. */
static Series *
find_labelled(Recorder *self, const Call *call, int kinds)
{
    PyObject *values[2 + 2 * MOST_LABELS]; /* not cleared: clearing would take as long as the search */
    Py_ssize_t n = 2, at = 0;
    values[0] = call->category;
    values[1] = call->metric;
    if (!PyDict_CheckExact(call->labels) || PyDict_GET_SIZE(call->labels) > MOST_LABELS)
        return NULL;
    for (Py_ssize_t left = PyDict_GET_SIZE(call->labels); left > 0; left--) {
        PyDict_Next(call->labels, &at, &values[n], &values[n + 1]);
        n += 2;
    }
    return n == 2 ? find(self, call->category, call->metric) : find_set(&self->sets, values, n, kinds);
}

/* Like `find_called`, for every form of a call. */
static __attribute__((noinline)) Found
find_any_form(Recorder *self, int kinds, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject *word)
{
    Call call = {nargs > 0 ? args[0] : NULL, nargs > 1 ? args[1] : NULL, nargs > 2 ? args[2] : NULL, NULL};
    if (nargs > 3 || (kwnames != NULL && !take_keywords(self->state, &call, args + nargs, kwnames, word))
        || call.category == NULL || call.metric == NULL)
        return (Found){NULL, NULL};
    Series *series = call.labels == NULL || call.labels == Py_None ? find(self, call.category, call.metric)
                                                                   : find_labelled(self, &call, kinds);
    return (Found){series, call.what};
}

/* Find the handle and the value of a call. With labels the handle is of one of the kinds, without them of any. */
static inline Found
find_called(Recorder *self, int kinds, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject *word)
{
    if (LIKELY(kwnames == NULL) && LIKELY(nargs == 3 || nargs == 2))
        return (Found){find(self, args[0], args[1]), nargs == 3 ? args[2] : NULL};
    return find_any_form(self, kinds, args, nargs, kwnames, word);
}

/* The result of a call that was done; otherwise Python does it. */
static inline PyObject *
finish(Recorder *self, Outcome outcome, PyObject *method, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (LIKELY(outcome == DONE))
        Py_RETURN_NONE;
    return outcome == FAILED ? NULL : call_missed((PyObject *)self, method, args, nargs, kwnames);
}

/* A new handle for a common call, of its name and for its value; NULL if that is left to Python. */
static __attribute__((noinline)) Series *make_handle(Recorder *self, PyTypeObject *type, PyObject *const *args,
                                                     Py_ssize_t nargs, PyObject *kwnames);

static __attribute__((noinline)) PyObject *
record_count(Recorder *self, PyObject *method, int sign, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    Outcome outcome = MISS;
    Found found = find_called(self, COUNTER | GAUGE, args, nargs, kwnames, self->state->kw_n);
    Series *made = NULL;
    if (UNLIKELY(found.series == NULL))
        found.series = made = make_handle(self, self->state->Counter, args, nargs, kwnames);
    if (LIKELY(found.series != NULL))
        outcome = count_or_move(found.series, sign, found.what);
    Py_XDECREF(made);
    return finish(self, outcome, method, args, nargs, kwnames);
}

/* A call of the recorder, which passes what it cannot do to a Python method. */
#define CALL(name)                                                                                                     \
    static PyObject *Recorder_##name(Recorder *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)

CALL(incr)
{
    if (LIKELY(kwnames == NULL) && LIKELY(nargs == 3 || nargs == 2)) {
        Series *series = find_at_once(self, args[0], args[1]);
        int fits = 1;
        int64_t n = nargs == 3 ? small_integer(args[2], &fits) : 1;
        if (LIKELY(series != NULL && series->kind == COUNTER) && LIKELY(fits) && LIKELY(is_bound(series))
            && LIKELY(add_at_once(series->cells, series->cell, series->generation, n)))
            Py_RETURN_NONE;
    }
    return record_count(self, self->state->str_incr, 1, args, nargs, kwnames);
}

CALL(decr)
{
    return record_count(self, self->state->str_decr, -1, args, nargs, kwnames);
}

/* A call that sets or observes a value; without a value it returns the handle. */
static inline PyObject *
record_value(Recorder *self, int kind, PyTypeObject *type, PyObject *word, Outcome (*operation)(Series *, PyObject *),
             PyObject *method, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    Outcome outcome = MISS;
    Found found = find_called(self, kind, args, nargs, kwnames, word);
    Series *made = NULL;
    if (UNLIKELY(found.series == NULL) && nargs == 3)
        found.series = made = make_handle(self, type, args, nargs, kwnames);
    if (LIKELY(found.series != NULL && found.series->kind == kind)) {
        if (UNLIKELY(found.what == NULL))
            return Py_NewRef((PyObject *)found.series);
        outcome = operation(found.series, found.what);
    }
    Py_XDECREF(made);
    return finish(self, outcome, method, args, nargs, kwnames);
}

CALL(gauge)
{
    State *state = self->state;
    return record_value(self, GAUGE, state->Gauge, state->kw_value, set_object, state->str_gauge, args, nargs, kwnames);
}

CALL(timing)
{
    State *state = self->state;
    return record_value(self, HISTOGRAM, state->Histogram, state->kw_milliseconds, observe_object, state->str_timing, args,
                        nargs, kwnames);
}

CALL(absolute)
{
    Outcome outcome = MISS;
    Found found = find_called(self, GAUGE, args, nargs, kwnames, self->state->kw_value);
    if (LIKELY(found.series != NULL && found.series->kind == GAUGE) && found.what != NULL
        && PyLong_CheckExact(found.what))
        outcome = set_object(found.series, found.what);
    return finish(self, outcome, self->state->str_absolute, args, nargs, kwnames);
}

CALL(timestamp)
{
    Outcome outcome = MISS;
    Found found = find_called(self, TIMESTAMP, args, nargs, kwnames, self->state->kw_moment);
    if (LIKELY(found.series != NULL && found.series->kind == TIMESTAMP) && (found.what == NULL || found.what == Py_None))
        outcome = note_now(found.series);
    return finish(self, outcome, self->state->str_timestamp, args, nargs, kwnames);
}

/* The handle for a call that has no value, borrowed; NULL if that is left to Python. */
static inline Series *
find_handle(Recorder *self, int kind, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    Found found = find_called(self, kind, args, nargs, kwnames, NULL);
    return LIKELY(found.series != NULL && found.series->kind == kind) && LIKELY(found.what == NULL) ? found.series : NULL;
}

CALL(counter)
{
    Series *series = find_handle(self, COUNTER, args, nargs, kwnames);
    return series != NULL ? Py_NewRef((PyObject *)series)
                          : call_missed((PyObject *)self, self->state->str_counter, args, nargs, kwnames);
}

CALL(histogram)
{
    Series *series = find_handle(self, HISTOGRAM, args, nargs, kwnames);
    return series != NULL ? Py_NewRef((PyObject *)series)
                          : call_missed((PyObject *)self, self->state->str_histogram, args, nargs, kwnames);
}

CALL(timer)
{
    Series *series = find_handle(self, HISTOGRAM, args, nargs, kwnames);
    if (LIKELY(series != NULL) && LIKELY(self->timer_type != NULL))
        return lend_timer((PyTypeObject *)self->timer_type, series);
    return call_missed((PyObject *)self, self->state->str_timer, args, nargs, kwnames);
}

CALL(get)
{
    Found found = find_called(self, COUNTER | GAUGE, args, nargs, kwnames, NULL);
    PyObject *value = found.series == NULL || found.what != NULL ? NULL : plain_value(found.series);
    if (value != NULL || PyErr_Occurred())
        return value;
    return call_missed((PyObject *)self, self->state->str_get, args, nargs, kwnames);
}

static PyObject *
Recorder__find_set(Recorder *self, PyObject *args)
{
    PyObject *type, *values;
    if (!PyArg_ParseTuple(args, "OO!", &type, &PyTuple_Type, &values))
        return NULL;
    Series *series = find_set(&self->sets, PySequence_Fast_ITEMS(values), PyTuple_GET_SIZE(values),
                              kind_of((PyTypeObject *)type, self->state));
    return Py_NewRef(series == NULL ? Py_None : (PyObject *)series);
}

static PyObject *
Recorder__keep_set(Recorder *self, PyObject *args)
{
    return keep_given(&self->sets, self->state, "series", args);
}

static PyObject *
Recorder__drop_sets(Recorder *self, PyObject *Py_UNUSED(ignored))
{
    clear_sets(&self->sets);
    Py_RETURN_NONE;
}

static PyObject *
Recorder__use_timers(Recorder *self, PyObject *type)
{
    if (!PyType_Check(type) || !PyType_IsSubtype((PyTypeObject *)type, self->state->Stopwatch)) {
        PyErr_SetString(PyExc_TypeError, "type must be a subclass of Stopwatch");
        return NULL;
    }
    Py_XSETREF(self->timer_type, Py_NewRef(type));
    Py_RETURN_NONE;
}

static PyObject *
Recorder_handle(Recorder *self, PyObject *args)
{
    PyObject *category, *metric;
    if (!PyArg_ParseTuple(args, "OO", &category, &metric))
        return NULL;
    Series *series = look_up(self, category, metric);
    return Py_NewRef(series == NULL ? Py_None : (PyObject *)series);
}

/* Keep a handle under its name, replacing another; -1 with an exception set. */
static int
keep_handle(Recorder *self, Series *series)
{
    PyObject *metrics = PyDict_GetItemWithError(self->handles, series->category);
    if (metrics == NULL) {
        metrics = PyErr_Occurred() ? NULL : PyDict_New();
        if (metrics == NULL || PyDict_SetItem(self->handles, series->category, metrics) < 0) {
            Py_XDECREF(metrics);
            return -1;
        }
        Py_DECREF(metrics);
    }
    PyObject *former = PyDict_SetDefault(metrics, series->metric, (PyObject *)series);
    if (former == NULL || former == (PyObject *)series)
        return former == NULL ? -1 : 0;
    forget_shortcuts(self);
    return PyDict_SetItem(metrics, series->metric, (PyObject *)series);
}

static PyObject *
Recorder_keep(Recorder *self, PyObject *argument)
{
    if (!PyObject_TypeCheck(argument, self->state->Series)) {
        PyErr_Format(PyExc_TypeError, "series must be a handle, not %s", Py_TYPE(argument)->tp_name);
        return NULL;
    }
    return keep_handle(self, (Series *)argument) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
Recorder_drop(Recorder *self, PyObject *args)
{
    PyObject *category, *metric;
    if (!PyArg_ParseTuple(args, "UO", &category, &metric))
        return NULL;
    forget_shortcuts(self);
    PyObject *metrics = PyDict_GetItemWithError(self->handles, category);
    if (metrics == NULL)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    PyObject *from = metric == Py_None ? self->handles : metrics;
    PyObject *dropped = PyObject_CallMethod(from, "pop", "OO", metric == Py_None ? category : metric, Py_None);
    Py_XDECREF(dropped);
    return dropped == NULL ? NULL : Py_NewRef(Py_None);
}

#define DEFINE(name, signature, doc)                                                                                   \
    static PyMethodDef name##_call = {#name, FUNCTION(Recorder_##name), FASTCALL,                                      \
                                      PyDoc_STR(#name "($self, /, " signature ")\n--\n\n" doc)};
CALLS(DEFINE)
#undef DEFINE

static int
bind_calls(Recorder *self)
{
#define BIND(name, signature, doc)                                                                                     \
    if ((self->name = PyCFunction_New(&name##_call, (PyObject *)self)) == NULL)                                        \
        return -1;
    CALLS(BIND)
#undef BIND
    return 0;
}

static PyMemberDef Recorder_members[] = {
#define MEMBER(name, signature, doc)                                                                                   \
    {#name, T_OBJECT_EX, offsetof(Recorder, name), READONLY, PyDoc_STR(#name "(" signature "): " doc)},
    CALLS(MEMBER)
#undef MEMBER
    {"_registrar", T_OBJECT_EX, offsetof(Recorder, registrar), 0, PyDoc_STR("What binds handles at once.")},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef Recorder_methods[] = {
    {"_handle", (PyCFunction)Recorder_handle, METH_VARARGS, NULL},
    {"_keep", (PyCFunction)Recorder_keep, METH_O, NULL},
    {"_drop", (PyCFunction)Recorder_drop, METH_VARARGS, NULL},
    POSITIONAL(Recorder, _find_set),
    POSITIONAL(Recorder, _keep_set),
    NO_ARGUMENTS(Recorder, _drop_sets),
    {"_use_timers", (PyCFunction)Recorder__use_timers, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

TYPE(Recorder, Recorder, "The calls of user code: finds the handle of a name and uses it.", BASE,
     {Py_tp_new, Recorder_new}, COLLECTED_SLOTS(Recorder), {Py_tp_methods, Recorder_methods},
     {Py_tp_members, Recorder_members})

/* Stopwatch: the base class of timer.py's Timer. It times one block of code at a time. Blocks that start while that one
 * runs, in another thread or task or inside it, are left to Python, which separates them by context. */

typedef struct {
    PyObject_HEAD
    State *state;
    PyObject *report;   /* a Histogram, or a callable that takes ms */
    int64_t start;      /* of the block that is being timed, in ns; 0: none */
    PyThreadState *thread;
    PyObject *context;  /* with thread: where the block started; only compared */
    PyObject *others;   /* a list of blocks that started meanwhile, or NULL */
} Stopwatch;

static PyObject *
Stopwatch_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    Stopwatch *self = (Stopwatch *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->state = state_of(type);
    self->report = Py_NewRef(Py_None);
    return (PyObject *)self;
}

static int
Stopwatch_init(Stopwatch *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"report", NULL};
    PyObject *report;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O", names, &report))
        return -1;
    Py_XSETREF(self->report, Py_NewRef(report));
    return 0;
}

/* Report the time since a moment. */
static PyObject *
report_since(Stopwatch *self, int64_t start)
{
    double ms = (double)(monotonic_nanoseconds() - start) / 1e6;
    int is_handle = Py_IS_TYPE(self->report, self->state->Histogram);
    Series *series = (Series *)self->report;
    Outcome outcome = LIKELY(is_handle) ? observe_double(series, ms) : MISS;
    if (LIKELY(outcome == DONE))
        Py_RETURN_NONE;
    PyObject *value = outcome == FAILED ? NULL : PyFloat_FromDouble(ms);
    if (value == NULL)
        return NULL;
    PyObject *report = Py_NewRef(self->report);
    PyObject *result = is_handle ? PyObject_CallMethodObjArgs(series->recorder, self->state->str_observe_series, report,
                                                              value, NULL)
                                 : PyObject_CallOneArg(report, value);
    Py_DECREF(report);
    Py_DECREF(value);
    return result;
}

static PyObject *
Stopwatch_enter(Stopwatch *self, PyObject *Py_UNUSED(ignored))
{
    if (UNLIKELY(self->start != 0))
        return PyObject_CallMethodNoArgs((PyObject *)self, self->state->str_enter_again);
    self->thread = PyThreadState_Get();
    self->context = self->thread->context;
    self->start = monotonic_nanoseconds();
    return Py_NewRef((PyObject *)self);
}

static PyObject *
Stopwatch_exit(Stopwatch *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    if (UNLIKELY(self->start == 0) || UNLIKELY(self->others != NULL && PyList_GET_SIZE(self->others) != 0))
        return PyObject_CallMethodNoArgs((PyObject *)self, self->state->str_exit_again);
    int64_t start = self->start;
    self->start = 0;
    return report_since(self, start);
}

static PyObject *
Stopwatch__report_since(Stopwatch *self, PyObject *argument)
{
    int64_t start = PyLong_AsLongLong(argument);
    return start == -1 && PyErr_Occurred() ? NULL : report_since(self, start);
}

static PyObject *
Stopwatch__take_first(Stopwatch *self, PyObject *Py_UNUSED(ignored))
{
    int64_t start = self->start;
    self->start = 0;
    return PyLong_FromLongLong(start);
}

/* Whether a block is being timed that started in this very context. */
static PyObject *
Stopwatch_get_first_is_here(Stopwatch *self, void *Py_UNUSED(closure))
{
    PyThreadState *thread = PyThreadState_Get();
    return PyBool_FromLong(self->start != 0 && self->thread == thread
                           && (self->context == NULL || self->context == thread->context));
}

static PyObject *
Stopwatch_get_others(Stopwatch *self, void *Py_UNUSED(closure))
{
    if (self->others == NULL)
        self->others = PyList_New(0);
    return Py_XNewRef(self->others);
}

#define STOPWATCH_REFERENCES(X) X(report) X(others)
COLLECTED(Stopwatch, STOPWATCH_REFERENCES, (void)0)

static PyMethodDef Stopwatch_methods[] = {
    {"__enter__", (PyCFunction)Stopwatch_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))Stopwatch_exit, METH_FASTCALL, NULL},
    {"_report_since", (PyCFunction)Stopwatch__report_since, METH_O, NULL},
    NO_ARGUMENTS(Stopwatch, _take_first),
    {NULL, NULL, 0, NULL},
};

static PyMemberDef Stopwatch_members[] = {
    {"_report", T_OBJECT_EX, offsetof(Stopwatch, report), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef Stopwatch_getset[] = {
    {"_first_is_here", (getter)Stopwatch_get_first_is_here, NULL, NULL, NULL},
    {"_others", (getter)Stopwatch_get_others, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

TYPE(Stopwatch, Stopwatch, "Times a block of code, and reports the duration in ms.", BASE,
     {Py_tp_new, Stopwatch_new}, {Py_tp_init, Stopwatch_init}, COLLECTED_SLOTS(Stopwatch),
     {Py_tp_methods, Stopwatch_methods}, {Py_tp_members, Stopwatch_members}, {Py_tp_getset, Stopwatch_getset})

/* A timer of a histogram, of the given class: the previous one if nobody else has it, or a new one. */
static PyObject *
lend_timer(PyTypeObject *type, Series *series)
{
    Stopwatch *timer = (Stopwatch *)series->timer;
    if (timer != NULL && Py_REFCNT(timer) == 1) {
        timer->start = 0;
        return Py_NewRef((PyObject *)timer);
    }
    timer = (Stopwatch *)Stopwatch_new(type, NULL, NULL);
    if (timer == NULL)
        return NULL;
    Py_SETREF(timer->report, Py_NewRef((PyObject *)series));
    if (series->timer == NULL)
        series->timer = Py_NewRef((PyObject *)timer);
    return (PyObject *)timer;
}

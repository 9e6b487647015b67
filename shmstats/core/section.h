/* Section: a lock for `with` that no exception of a signal handler leaves taken. It is not for counting paths. */

/* A lock for `with`, with callables that run at its outermost level.
 *
 * CPython runs signal handlers at the ends of calls, the starts of Python functions and backward jumps, but until 3.13
 * not between the return of a C function called by `with` and the next instruction (for later versions see `Leave`). So
 * when a handler raises, a section is either not entered, or entered and then left by `with`. An __enter__ or
 * __exit__ in Python could be interrupted in between. ``first`` and ``last`` may be interrupted anywhere, by an
 * exception or by a handler that enters the same section itself. */
typedef struct {
    PyObject_HEAD
    PyObject *lock;                   /* an RLock, or another Section */
    PyObject *enter, *leave, *is_owned; /* its methods */
    PyObject *first, *last, *after;   /* callables, or NULL */
    Py_ssize_t depth;                 /* levels entered or being entered; changes only under the lock */
    int ready;                        /* first has returned, and last has not begun */
} Section;

/* The __exit__ of one `with`, from Python 3.14 on. There a handler may raise at the return of __enter__, before
 * `with` is ready to leave. But `with` has fetched __exit__ before, and drops it then: an object that is dropped
 * while the section is entered leaves it. */
typedef struct {
    PyObject_HEAD
    Section *section;
    int entered;
} Leave;

/* The object made last: `with` calls __enter__ next, and nothing runs in between. */
static Leave *latest_leave = NULL;

enum { MOST_TRIES = 1000 };

/* Take over the current exception, to keep it. */
static PyObject *
take_error(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (trace != NULL)
        PyException_SetTraceback(error, trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return error;
#endif
}

/* Set a kept exception again; this consumes the reference. */
static void
put_error(PyObject *error)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(error);
#else
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(error)), error, PyException_GetTraceback(error));
#endif
}

/* Keep the exception of a failed call, unless one is kept already. */
static void
keep_error(PyObject **first)
{
    PyObject *error = take_error();
    if (*first == NULL)
        *first = error;
    else
        Py_XDECREF(error);
}

/* Call a callable and ignore its result; returns whether it did not raise. Its exception is kept. */
static int
succeeds(PyObject *callable, PyObject **first)
{
    PyObject *result = PyObject_CallNoArgs(callable);
    if (result == NULL)
        keep_error(first);
    Py_XDECREF(result);
    return result != NULL;
}

/* Whether the calling thread holds the lock; true if that cannot be determined. */
static int
Section_is_held(Section *self, PyObject **error)
{
    PyObject *answer = PyObject_CallNoArgs(self->is_owned);
    int held = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    if (held < 0)
        keep_error(error);
    return held != 0;
}

/* Leave one level. Whatever is raised meanwhile, the lock is released when this returns. */
static void
Section_leave(Section *self, PyObject **error)
{
    for (int tries = 0; self->depth == 1 && self->last != NULL && tries < MOST_TRIES; tries++) {
        self->ready = 0;
        /* If a handler has entered meanwhile and called first again, this was not the last level. */
        if (succeeds(self->last, error) && !self->ready)
            break;
    }
    if (--self->depth == 0)
        self->ready = 0;
    PyObject *result = PyObject_CallFunctionObjArgs(self->leave, Py_None, Py_None, Py_None, NULL);
    if (result == NULL)
        keep_error(error);
    Py_XDECREF(result);
    int wanted = self->after == NULL ? 0 : PyObject_IsTrue(self->after);
    if (wanted < 0)
        keep_error(error);
    else if (wanted && !Section_is_held(self, error))
        succeeds(self->after, error);
}

/* Enter one level; -1 with an exception set if that has failed. */
static int
Section_go_in(Section *self)
{
    if (self->lock == NULL) {
        PyErr_SetString(PyExc_ValueError, "the section has no lock");
        return -1;
    }
    PyObject *result = PyObject_CallNoArgs(self->enter);
    if (result == NULL)
        return -1;
    Py_DECREF(result);
    self->depth++;
    if (!self->ready) {
        PyObject *error = NULL;
        if (self->first != NULL && !succeeds(self->first, &error)) {
            Section_leave(self, &error);
            put_error(error);
            return -1;
        }
        self->ready = 1;
    }
    return 0;
}

static PyObject *
Section_enter(Section *self, PyObject *Py_UNUSED(ignored))
{
    Leave *leave = latest_leave != NULL && latest_leave->section == self ? latest_leave : NULL;
    latest_leave = NULL;
    Py_XINCREF(leave);
    int failed = Section_go_in(self);
    if (leave != NULL)
        leave->entered = !failed;
    Py_XDECREF(leave);
    return failed ? NULL : Py_NewRef(Py_None);
}

static PyObject *
Section_exit(Section *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    PyObject *error = NULL;
    if (self->depth == 0) {
        PyErr_SetString(PyExc_RuntimeError, "the section was not entered");
        return NULL;
    }
    Section_leave(self, &error);
    if (error != NULL) {
        put_error(error);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Leave_call(Leave *self, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    self->entered = 0;
    return Section_exit(self->section, NULL, 0);
}

/* Before an object is freed: leave the section if `with` has not. */
static void
Leave_end(Leave *self)
{
    if (latest_leave == self)
        latest_leave = NULL;
    if (!self->entered)
        return;
    PyObject *raised = take_error(), *error = NULL;
    if (Section_is_held(self->section, &error) && self->section->depth > 0)
        Section_leave(self->section, &error);
    if (error != NULL) {
        put_error(error);
        PyErr_WriteUnraisable((PyObject *)self->section);
    }
    if (raised != NULL)
        put_error(raised);
}

#define LEAVE_REFERENCES(X) X(section)
COLLECTED(Leave, LEAVE_REFERENCES, Leave_end(self))

TYPE(_leave, Leave, "The __exit__ of one `with`.", FINAL | Py_TPFLAGS_DISALLOW_INSTANTIATION, {Py_tp_call, Leave_call},
     COLLECTED_SLOTS(Leave))

#if PY_VERSION_HEX >= 0x030E0000
/* Return the __exit__ for one `with`. */
static PyObject *
Section_get_exit(Section *self, void *Py_UNUSED(closure))
{
    State *state = state_of(Py_TYPE(self));
    Leave *leave = state == NULL ? NULL : PyObject_GC_New(Leave, state->_leave);
    if (leave == NULL)
        return NULL;
    leave->section = (Section *)Py_NewRef(self);
    leave->entered = 0;
    PyObject_GC_Track(leave);
    latest_leave = leave;
    return (PyObject *)leave;
}
#endif

static PyGetSetDef Section_properties[] = {
#if PY_VERSION_HEX >= 0x030E0000
    {"__exit__", (getter)Section_get_exit, NULL, NULL, NULL},
#endif
    {NULL, NULL, NULL, NULL, NULL},
};

static PyObject *
Section_is_owned(Section *self, PyObject *Py_UNUSED(ignored))
{
    return self->lock == NULL ? Py_NewRef(Py_False) : PyObject_CallNoArgs(self->is_owned);
}

/* A given callable, or NULL for None. */
static PyObject *
given(PyObject *callable)
{
    return callable == Py_None ? NULL : Py_NewRef(callable);
}

static int
Section_init(Section *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"lock", "first", "last", "after", NULL};
    PyObject *lock, *first = Py_None, *last = Py_None, *after = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|OOO", names, &lock, &first, &last, &after))
        return -1;
    if (self->lock != NULL) {
        PyErr_SetString(PyExc_ValueError, "the section has a lock");
        return -1;
    }
    PyObject *enter = PyObject_GetAttrString(lock, "__enter__");
    PyObject *leave = enter == NULL ? NULL : PyObject_GetAttrString(lock, "__exit__");
    PyObject *is_owned = leave == NULL ? NULL : PyObject_GetAttrString(lock, "_is_owned");
    if (is_owned == NULL) {
        Py_XDECREF(enter);
        Py_XDECREF(leave);
        return -1;
    }
    latest_leave = NULL; /* if the lock is a section: no `with` got that object */
    self->lock = Py_NewRef(lock);
    self->enter = enter;
    self->leave = leave;
    self->is_owned = is_owned;
    self->first = given(first);
    self->last = given(last);
    self->after = given(after);
    return 0;
}

#define SECTION_REFERENCES(X) X(lock) X(enter) X(leave) X(is_owned) X(first) X(last) X(after)
COLLECTED(Section, SECTION_REFERENCES, (void)0)

static PyMethodDef Section_methods[] = {
    {"__enter__", (PyCFunction)Section_enter, METH_NOARGS, NULL},
#if PY_VERSION_HEX < 0x030E0000
    {"__exit__", FUNCTION(Section_exit), METH_FASTCALL, NULL},
#endif
    {"_is_owned", (PyCFunction)Section_is_owned, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

TYPE(Section, Section, "A lock with something to be done at its outermost level, for `with`.", BASE,
     {Py_tp_init, Section_init}, COLLECTED_SLOTS(Section), {Py_tp_methods, Section_methods},
     {Py_tp_getset, Section_properties})

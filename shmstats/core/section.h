/* Section: a lock for `with` that no exception of a signal handler leaves taken. For what is no counting path. */

/* A lock with something to be done at its outermost level, for `with`.
 *
 * CPython runs signal handlers at the ends of calls, the starts of Python functions and backward jumps, but not
 * between the end of a C function that `with` calls and what comes next. So an exception that a handler raises finds
 * a section entered, and left by `with`, or not entered; in an __enter__ or __exit__ written in Python it would find
 * it in between. ``first`` and ``last`` may be interrupted anywhere, by an exception or by a handler that enters the
 * same section itself. */
typedef struct {
    PyObject_HEAD
    PyObject *lock;                   /* an RLock, or another Section */
    PyObject *enter, *leave, *is_owned; /* its methods */
    PyObject *first, *last, *after;   /* callables, or NULL */
    Py_ssize_t depth;                 /* levels that are entered, or being; changed under the lock alone */
    int ready;                        /* first has been done, and last has not been begun */
} Section;

enum { MOST_TRIES = 1000 };

/* Take the error that is set away, to be kept. */
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

/* Set an error that was taken away; the reference goes with it. */
static void
put_error(PyObject *error)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(error);
#else
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(error)), error, PyException_GetTraceback(error));
#endif
}

/* Keep the error of a call that has failed, unless there is one already. */
static void
keep_error(PyObject **first)
{
    PyObject *error = take_error();
    if (*first == NULL)
        *first = error;
    else
        Py_XDECREF(error);
}

/* Call something for what it does; returns whether it did not raise, and keeps what it raised. */
static int
succeeds(PyObject *callable, PyObject **first)
{
    PyObject *result = PyObject_CallNoArgs(callable);
    if (result == NULL)
        keep_error(first);
    Py_XDECREF(result);
    return result != NULL;
}

/* Whether the calling thread has the lock; where that cannot be told it has. */
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

/* Leave one level. Whatever is raised meanwhile, the lock has been let go when this returns. */
static void
Section_leave(Section *self, PyObject **error)
{
    for (int tries = 0; self->depth == 1 && self->last != NULL && tries < MOST_TRIES; tries++) {
        self->ready = 0;
        /* A handler that entered meanwhile has done first anew: then it was not the last time. */
        if (succeeds(self->last, error) && !self->ready)
            break;
    }
    if (--self->depth == 0)
        self->ready = 0;
    PyObject *result = PyObject_CallFunctionObjArgs(self->leave, Py_None, Py_None, Py_None, NULL);
    if (result == NULL)
        keep_error(error);
    Py_XDECREF(result);
    if (self->after != NULL && !Section_is_held(self, error))
        succeeds(self->after, error);
}

static PyObject *
Section_enter(Section *self, PyObject *Py_UNUSED(ignored))
{
    if (self->lock == NULL) {
        PyErr_SetString(PyExc_ValueError, "the section has no lock");
        return NULL;
    }
    PyObject *result = PyObject_CallNoArgs(self->enter);
    if (result == NULL)
        return NULL;
    Py_DECREF(result);
    self->depth++;
    if (!self->ready) {
        PyObject *error = NULL;
        if (self->first != NULL && !succeeds(self->first, &error)) {
            Section_leave(self, &error);
            put_error(error);
            return NULL;
        }
        self->ready = 1;
    }
    Py_RETURN_NONE;
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
Section_is_owned(Section *self, PyObject *Py_UNUSED(ignored))
{
    return self->lock == NULL ? Py_NewRef(Py_False) : PyObject_CallNoArgs(self->is_owned);
}

/* A callable that was given, or NULL for None. */
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
    {"__exit__", (PyCFunction)(void (*)(void))Section_exit, METH_FASTCALL, NULL},
    {"_is_owned", (PyCFunction)Section_is_owned, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

TYPE(Section, Section, "A lock with something to be done at its outermost level, for `with`.", BASE,
     {Py_tp_init, Section_init}, COLLECTED_SLOTS(Section), {Py_tp_methods, Section_methods})

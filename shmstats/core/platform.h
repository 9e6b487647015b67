/* Shared by all headers of the core: Python, compiler hints, stop points, the outcome of an operation, and macros for
 * types. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "collected.h"

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Tell the processor that this is a loop that waits. */
#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ __volatile__("yield")
#else
#define RELAX() ((void)0)
#endif

/* A build for tests defines SHMSTATS_STOP_POINTS: it stops its process at a chosen step of the critical sections, so
 * that a test can kill it or hold it there. In every other build a stop point does nothing. */
#ifdef SHMSTATS_STOP_POINTS
#include <signal.h>

static long stop_points_left = -1; /* to be passed before the one to stop at; negative: never stop */

static void
stop_point(void)
{
    if (stop_points_left >= 0 && stop_points_left-- == 0)
        raise(SIGSTOP);
}
#define STOP_POINT() stop_point()
#else
#define STOP_POINT() ((void)0)
#endif

/* The outcome of a fast path. MISS: nothing done, Python must do it. FAILED: nothing done, an exception is set. */
typedef enum { DONE, MISS, FAILED } Outcome;

/* Release a buffer, unless it is released; its buf is NULL afterwards. */
static inline void
release(Py_buffer *buffer)
{
    PyBuffer_Release(buffer);
    buffer->buf = NULL;
}

/* The content of an argument that is a bytes object: it stays as long as the call runs. */
typedef struct {
    const void *buf;
    Py_ssize_t len;
} Borrowed;

/* Rows of a method table: the C function of method `name` of `Type` is Type_name. */
#define POSITIONAL(Type, name) {#name, (PyCFunction)Type##_##name, METH_VARARGS, NULL}
#define NO_ARGUMENTS(Type, name) {#name, (PyCFunction)Type##_##name, METH_NOARGS, NULL}
#define FASTCALL (METH_FASTCALL | METH_KEYWORDS)
#define FUNCTION(f) ((PyCFunction)(void (*)(void))(f))

/* A type of the module with the struct of its objects, its docstring, its flags, and its slots. */
#define TYPE(Type, Object, doc, more_flags, ...)                                                                       \
    static PyType_Slot Type##_slots[] = {{Py_tp_doc, (void *)PyDoc_STR(doc)}, __VA_ARGS__, {0, NULL}};                 \
    static PyType_Spec Type##_spec = {                                                                                 \
        .name = "shmstats.core._cells." #Type,                                                                         \
        .basicsize = sizeof(Object),                                                                                   \
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | (more_flags),                                         \
        .slots = Type##_slots,                                                                                         \
    };
#define FINAL Py_TPFLAGS_HAVE_GC
#define BASE (Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE)

/* The state of the module in one interpreter. Every object that needs it points to it; its type keeps it alive. */
#define PLAIN_TYPES(X)                                                                                                 \
    X(Cells) X(Series) X(Children) X(Stopwatch) X(Recorder) X(Section) X(_leave) X(Requests) X(NameIndex)          \
    X(Registrar)
#define HANDLES(X) X(Counter) X(Gauge) X(Histogram)
#define TYPES(X) PLAIN_TYPES(X) HANDLES(X)
#define METHOD_NAMES(X)                                                                                                \
    X(_incr) X(_decr) X(_gauge) X(_timing) X(_absolute) X(_timestamp) X(_counter) X(_histogram) X(_timer) X(_get) X(_labels)         \
    X(_count_series) X(_count_with_exemplar) X(_observe_with_exemplar) X(_set_series) X(_observe_series) X(_value) X(_reduce_handle) X(_enter_again) X(_exit_again) X(_registrar)
#define KEYWORDS(X) X(category) X(metric) X(n) X(value) X(milliseconds) X(moment) X(labels)
typedef struct {
#define FIELD(name) PyTypeObject *name;
    TYPES(FIELD)
#undef FIELD
#define FIELD(name) PyObject *str##name;
    METHOD_NAMES(FIELD)
#undef FIELD
#define FIELD(name) PyObject *kw_##name;
    KEYWORDS(FIELD)
#undef FIELD
    PyObject *one, *minus_one;
    char claimed; /* it counts as an instance */
} State;

static State *state_of(PyTypeObject *type);

/* The C core, one step of the model at a time: _cells.c as it is, but whatever it does to the block by an atomic
 * operation is done by a Python callable, `hook`, instead (machine.py).
 *
 * The callable may raise, to break a program off. The C code does not expect that, so the exception is kept,
 * nothing is done from then on, every lock counts as had and every wait as over, and the code runs to its end
 * at once; machine.py never asks what came of it.
 *
 * What is not in the watched block (a worker's own buffer, say) is done as ever. The block behind the addresses
 * is filled with nonsense and looked at again after each program: should _cells.c come to read or write it by
 * anything but an atomic operation, that is noticed.
 */
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

static PyObject *hook = NULL;
static const char *watched = NULL;
static Py_ssize_t watched_size = 0;
static PyObject *stopped[3];
static int is_stopped = 0;

/* The compare-and-swap that was the last step, if it failed. */
static const volatile void *failed_at = NULL;
static uint32_t failed_expecting, failed_finding;

static int
is_watched(const volatile void *place)
{
    const char *address = (const char *)place;
    return address >= watched && address < watched + watched_size;
}

/* Call the hook for a step; returns its result. */
static uint64_t
step(const char *kind, const volatile void *place, size_t size, uint64_t first, uint64_t second)
{
    if (is_stopped)
        return 0;
    Py_ssize_t offset = place == NULL ? 0 : (const char *)place - watched;
    PyObject *answer = PyObject_CallFunction(hook, "snnKK", kind, offset, (Py_ssize_t)size,
                                             (unsigned long long)first, (unsigned long long)second);
    if (answer == NULL) {
        PyErr_Fetch(&stopped[0], &stopped[1], &stopped[2]);
        is_stopped = 1;
        return 0;
    }
    uint64_t result = PyLong_AsUnsignedLongLong(answer);
    Py_DECREF(answer);
    return result;
}

#define plain_load __atomic_load_n
static inline uint64_t
load(const volatile void *place, size_t size)
{
    failed_at = NULL;
    if (!is_watched(place))
        return size == 4 ? plain_load((const volatile uint32_t *)place, __ATOMIC_SEQ_CST)
                         : plain_load((const volatile uint64_t *)place, __ATOMIC_SEQ_CST);
    return step("load", place, size, 0, 0);
}

static inline void
store(volatile void *place, size_t size, uint64_t value)
{
    if (is_watched(place))
        step("store", place, size, value, 0);
    else if (size == 4)
        *(volatile uint32_t *)place = (uint32_t)value;
    else
        *(volatile uint64_t *)place = value;
}

/* All of the core's compare-and-swaps are of locks, which are in the block.
 *
 * One that fails like the one just before it is no step: it changes nothing, and one that would not fail again is
 * the same as if the one before had come later. */
static inline int
exchange(volatile void *place, uint32_t *expected, uint32_t desired)
{
    if (place != failed_at || *expected != failed_expecting) {
        failed_at = NULL;
        failed_finding = (uint32_t)step("exchange", place, sizeof *expected, *expected, desired);
        if (is_stopped || failed_finding == *expected)
            return 1;
        failed_at = place;
        failed_expecting = *expected;
    }
    *expected = failed_finding;
    return 0;
}

/* Take or release a record lock, which is one of the process in the model. */
static int
lock_record(int command, const struct flock *range)
{
    const char *kind = range->l_type == F_UNLCK ? "unlock" : command == F_SETLKW ? "lock" : "try_lock";
    int is_done = (int)step(kind, NULL, 0, (uint64_t)range->l_start, 0) || command != F_SETLK || range->l_type == F_UNLCK;
    errno = EAGAIN;
    return is_done || is_stopped ? 0 : -1;
}

#undef __atomic_load_n
#define __atomic_load_n(place, order) ((__typeof__(*(place)))load((place), sizeof *(place)))
#define __atomic_store_n(place, value, order) store((place), sizeof *(place), (uint64_t)(value))
#define __atomic_compare_exchange_n(place, expected, desired, weak, success, failure)                                  \
    exchange((place), (expected), (desired))
#define __atomic_fetch_add(place, n, order) (step("add", (place), sizeof *(place), (uint64_t)(n), 0) - (uint64_t)(n))
#define __atomic_add_fetch(place, n, order) step("add", (place), sizeof *(place), (uint64_t)(n), 0)
#define __atomic_thread_fence(order) ((void)0)
#define nanosleep(span, rest) ((void)(span), (int)step("pause", NULL, 0, 0, 0))
#define fcntl(descriptor, command, range) lock_record((command), (range))
#define fstat(descriptor, found) (memset((found), 0, sizeof *(found)), (void)(descriptor), 0)
#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define Py_BEGIN_ALLOW_THREADS {
#define Py_END_ALLOW_THREADS }

static PyObject *watch(PyObject *module, PyObject *args);

#define TEST_FUNCTIONS {"watch", watch, METH_VARARGS, NULL},
#include "_cells.c"

/* watch(block, hook): from now on; ends what a hook that raised has stopped. */
static PyObject *
watch(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer block;
    PyObject *callable;
    if (!PyArg_ParseTuple(args, "w*O", &block, &callable))
        return NULL;
    watched = block.buf;
    watched_size = block.len;
    PyBuffer_Release(&block); /* machine.py keeps it */
    Py_XSETREF(hook, Py_NewRef(callable));
    is_stopped = 0;
    failed_at = NULL;
    for (int i = 0; i < 3; i++)
        Py_CLEAR(stopped[i]);
    Py_RETURN_NONE;
}

PyMODINIT_FUNC
PyInit__stepped(void)
{
    return PyInit__cells();
}

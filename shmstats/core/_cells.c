/* The counting path: cells in shared memory, handles bound to them, and the calls of user code.
 *
 * One translation unit made of headers with one job each, from the bottom up. A call that finds everything in place
 * is finished here, with no Python frame, system call or allocation. If anything is missing (no handle yet, a stale
 * one, an argument that is not an exact int), the call is a *miss*: it is passed to a Python method of the recorder,
 * which does all of it.
 *
 * _cells_py.py is the pure Python twin, and documents both; _bulk.py documents what only this core has.
 */
#include "platform.h"

#include "cell.h"
#include "values.h"
#include "scale.h"
#include "buffer.h"
#include "cells.h"
#include "handles.h"
#include "handle_types.h"
#include "labels.h"
#include "timers.h"
#include "recorder.h"
#include "section.h"
#include "requests.h"
#include "hashing.h"
#include "record.h"
#include "names.h"
#include "name_changes.h"
#include "name_index.h"
#include "keys.h"
#include "wanted.h"
#include "registering.h"
#include "sums.h"
#include "groups.h"
#include "catalog.h"
#include "numbers.h"
#include "totals.h"
#include "exposition.h"
#include "fill.h"
#include "saving.h"
#include "json.h"
#include "packing.h"
#include "files.h"

/* Further functions of the module in a build for tests. */
#ifndef TEST_FUNCTIONS
#define TEST_FUNCTIONS
#endif

/* The interpreter that has the module, and its number of instances. A block distinguishes processes by pid and forks,
 * which two interpreters of a process share: they would be one worker without knowing of each other. */
static int64_t interpreter = -1;
static int instances = 0;

/* Make the calling interpreter the one that has the module; -1 with an exception set if another one has it. */
static int
claim_process(void)
{
    int64_t own = PyInterpreterState_GetID(PyInterpreterState_Get());
    if (instances > 0 && interpreter != own) {
        PyErr_Format(PyExc_ImportError,
                     "interpreter %lld of process %ld counts with it already, and this is interpreter %lld",
                     (long long)interpreter, (long)getpid(), (long long)own);
        return -1;
    }
    static int arranged = 0;
    if (!arranged && pthread_atfork(NULL, NULL, after_fork_in_child) != 0) {
        PyErr_SetString(PyExc_OSError, "pthread_atfork failed");
        return -1;
    }
    arranged = 1;
    interpreter = own;
    instances++;
    return 0;
}

static int
add_types(PyObject *module, State *state)
{
#define ADD(Type, base)                                                                                                \
    state->Type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &Type##_spec, base);                                \
    if (state->Type == NULL || PyModule_AddType(module, state->Type) < 0)                                              \
        return -1;
#define ADD_TYPE(Type) ADD(Type, NULL)
#define ADD_HANDLE(Type) ADD(Type, (PyObject *)state->Series)
    PLAIN_TYPES(ADD_TYPE)
    HANDLES(ADD_HANDLE)
#undef ADD_HANDLE
#undef ADD_TYPE
#undef ADD
    return 0;
}

static int
make_constants(State *state)
{
#define INTERN(name)                                                                                                   \
    if ((state->str##name = PyUnicode_InternFromString(#name)) == NULL)                                                \
        return -1;
    METHOD_NAMES(INTERN)
#undef INTERN
#define INTERN(name)                                                                                                   \
    if ((state->kw_##name = PyUnicode_InternFromString(#name)) == NULL)                                                \
        return -1;
    KEYWORDS(INTERN)
#undef INTERN
    state->one = PyLong_FromLong(1);
    state->minus_one = PyLong_FromLong(-1);
    return state->one == NULL || state->minus_one == NULL ? -1 : 0;
}

static PyObject *
cell_layout(void)
{
    return Py_BuildValue("{s:(nn),s:(nn),s:(nn),s:n}", "lock", offsetof(Cell, lock), sizeof(uint32_t), "seq",
                         offsetof(Cell, seq), sizeof(uint32_t), "value", offsetof(Cell, value), sizeof(int64_t),
                         "size", sizeof(Cell));
}

static int
module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    if (claim_process() < 0)
        return -1;
    state->claimed = 1;
    PyObject *layout = cell_layout(), *record = record_layout();
    int failed = make_constants(state) < 0 || add_types(module, state) < 0
                 || PyModule_AddObjectRef(module, "CELL_LAYOUT", layout) < 0
                 || PyModule_AddObjectRef(module, "RECORD_LAYOUT", record) < 0
                 || PyModule_AddIntConstant(module, "PROTOCOL", 1) < 0
                 || PyModule_AddStringConstant(module, "CORE", "C") < 0;
    Py_XDECREF(layout);
    Py_XDECREF(record);
    return failed ? -1 : 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
#define VISIT_TYPE(Type) Py_VISIT(state->Type);
    TYPES(VISIT_TYPE)
#undef VISIT_TYPE
    return 0;
}

static int
module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
#define CLEAR_TYPE(Type) Py_CLEAR(state->Type);
    TYPES(CLEAR_TYPE)
#undef CLEAR_TYPE
    return 0;
}

static void
module_free(void *module)
{
    State *state = PyModule_GetState((PyObject *)module);
    module_clear((PyObject *)module);
#define CLEAR_NAME(name) Py_CLEAR(state->str##name);
    METHOD_NAMES(CLEAR_NAME)
#undef CLEAR_NAME
#define CLEAR_NAME(name) Py_CLEAR(state->kw_##name);
    KEYWORDS(CLEAR_NAME)
#undef CLEAR_NAME
    Py_CLEAR(state->one);
    Py_CLEAR(state->minus_one);
    instances -= state->claimed;
    state->claimed = 0;
}

static PyObject *
fence(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    Py_RETURN_NONE;
}

#ifdef SHMSTATS_STOP_POINTS
static PyObject *
stop_at(PyObject *Py_UNUSED(module), PyObject *argument)
{
    long number = PyLong_AsLong(argument);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    stop_points_left = number;
    Py_RETURN_NONE;
}
#endif

static PyMethodDef module_functions[] = {
    {"sum_columns", sum_columns, METH_VARARGS, NULL},
    {"merge_histograms", merge_histograms, METH_VARARGS, NULL},
    {"list_series", list_series, METH_VARARGS, NULL},
    {"add_counters", add_counters, METH_VARARGS, NULL},
    {"add_histograms", add_histograms, METH_VARARGS, NULL},
    {"text_buckets", text_buckets, METH_VARARGS, NULL},
    {"sum_contributions", sum_contributions, METH_VARARGS, NULL},
    {"group_series", group_series, METH_VARARGS, NULL},
    {"plan_text", plan_text, METH_VARARGS, NULL},
    {"plan_save", plan_save, METH_VARARGS, NULL},
    {"pack_series", pack_series, METH_VARARGS, NULL},
    {"fill_text", fill_text, METH_VARARGS, NULL},
    {"fence", fence, METH_NOARGS, NULL},
    {"hash_key", hash_key, METH_VARARGS, NULL},
    {"time_of_birth", time_of_birth, METH_O, NULL},
    {"rename_to_new", (PyCFunction)(void (*)(void))rename_to_new, METH_FASTCALL, NULL},
#ifdef SHMSTATS_STOP_POINTS
    {"stop_at", stop_at, METH_O, PyDoc_STR("Stop the process when it has passed so many stop points; -1: never.")},
#endif
    TEST_FUNCTIONS
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_mod_multiple_interpreters
    /* In any interpreter that shares the process's GIL, but only in one of them at a time. */
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_SUPPORTED},
#endif
#ifdef Py_mod_gil
    /* Handles, shortcuts and buffers are protected by the GIL: a free-threaded interpreter enables it. */
    {Py_mod_gil, Py_MOD_GIL_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef cells_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "shmstats.core._cells",
    .m_doc = PyDoc_STR("The counting path in C; _cells_py is its pure Python twin."),
    .m_size = sizeof(State),
    .m_methods = module_functions,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

/* The module state that belongs to a type or one of its bases. */
static State *
state_of(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &cells_module);
    return module == NULL ? NULL : PyModule_GetState(module);
}

PyMODINIT_FUNC
PyInit__cells(void)
{
    return PyModuleDef_Init(&cells_module);
}

/* The common case of the WSGI middleware: one start_response, a response that is a list or an iterator, a known route
 * and known series. Everything else (exceptions, files, label values, a first request) is a method of the Python
 * classes that inherit from these types.
 *
 * _exchange_py.py is the pure Python twin and documents both; wsgi.py has the classes.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "../core/collected.h"

/* Names of attributes and of keys of the environment, and names from `_requests` and `time`. */
#define NAMES(USE)                                                                                                     \
    USE(exchange, "exchange") USE(paths, "paths") USE(prefixes, "prefixes") USE(serving, "serving")                    \
    USE(begin, "begin") USE(end, "end") USE(enter, "enter") USE(leave, "leave") USE(tell, "tell") USE(note, "note")    \
    USE(fail, "fail") USE(finish, "finish") USE(write, "write") USE(close, "close")                                    \
    USE(around_other, "around_other") USE(finish_early, "finish_early") USE(url_rule, "url_rule") USE(rule, "rule")    \
    USE(endpoint, "endpoint") USE(path_info, "PATH_INFO") USE(script_name, "SCRIPT_NAME")                              \
    USE(request_method, "REQUEST_METHOD") USE(content_length, "CONTENT_LENGTH")                                        \
    USE(transfer_encoding, "HTTP_TRANSFER_ENCODING") USE(empty, "") USE(werkzeug_request, "werkzeug.request")          \
    USE(file_wrapper, "wsgi.file_wrapper") USE(sized, "sized") USE(class, "__class__") USE(head, "HEAD")               \
    USE(own_endpoints, "shmstats.")
#define BORROWED(USE)                                                                                                  \
    USE(methods, "METHODS") USE(other, "OTHER") USE(unmatched, "UNMATCHED") USE(own, "OWN") USE(route, "ROUTE")        \
    USE(server_error, "SERVER_ERROR") USE(recorded, "RECORDED") USE(perf_counter, "perf_counter")

typedef struct {
#define DECLARE(name, text) PyObject *name;
    NAMES(DECLARE)
    BORROWED(DECLARE)
#undef DECLARE
    PyObject *no_labels, *not_noted, *exchange_type, *middleware_type;
} State;

typedef struct {
    PyObject_HEAD
    State *state;
    PyTypeObject *exchange; /* the class of its exchanges */
    PyObject *_app, *requests, *plain_series;
} Middleware;

static struct PyModuleDef exchange_module;

#include "_exchange.h"
#include "_middleware.h"

/* The module ------------------------------------------------------------------------------------------------------- */

static int
module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    PyObject *recorder = PyImport_ImportModule("shmstats.integrations._requests");
    state->exchange_type = PyType_FromModuleAndSpec(module, &Exchange_spec, NULL);
    state->middleware_type = PyType_FromModuleAndSpec(module, &Middleware_spec, NULL);
    state->no_labels = PyTuple_New(0);
    state->not_noted = PyLong_FromLong(-2);
    int failed = recorder == NULL || state->exchange_type == NULL || state->middleware_type == NULL
                 || state->no_labels == NULL || state->not_noted == NULL
                 || PyModule_AddType(module, (PyTypeObject *)state->exchange_type) < 0
                 || PyModule_AddType(module, (PyTypeObject *)state->middleware_type) < 0;
#define INTERN(name, text) failed = failed || (state->name = PyUnicode_InternFromString(text)) == NULL;
    NAMES(INTERN)
#define BORROW(name, text) failed = failed || (state->name = PyObject_GetAttrString(recorder, text)) == NULL;
    BORROWED(BORROW)
    Py_XDECREF(recorder);
    return failed ? -1 : 0;
}

static int
module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
#define CLEAR(name, text) Py_CLEAR(state->name);
    NAMES(CLEAR)
    BORROWED(CLEAR)
#undef CLEAR
    Py_CLEAR(state->no_labels);
    Py_CLEAR(state->not_noted);
    Py_CLEAR(state->exchange_type);
    Py_CLEAR(state->middleware_type);
    return 0;
}

static void
module_free(void *module)
{
    module_clear((PyObject *)module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef exchange_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "shmstats.integrations._exchange",
    .m_size = sizeof(State),
    .m_slots = module_slots,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__exchange(void)
{
    return PyModuleDef_Init(&exchange_module);
}

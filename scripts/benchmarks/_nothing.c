/* Methods that do nothing: the least that any call of a C method from Python can cost.
 *
 * The other function, `region`, calls a function: callgrind counts what happens inside it, by its symbol.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

static PyObject *
nothing(PyObject *Py_UNUSED(self), PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs),
        PyObject *Py_UNUSED(kwnames))
{
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"nothing", (PyCFunction)(void (*)(void))nothing, METH_FASTCALL | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};

__attribute__((noinline, visibility("default"))) PyObject *
shmstats_bench_region(PyObject *function, PyObject *argument)
{
    return PyObject_CallOneArg(function, argument);
}

static PyObject *
region(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "region(function, argument)");
        return NULL;
    }
    return shmstats_bench_region(args[0], args[1]);
}

static PyMethodDef functions[] = {
    {"region", (PyCFunction)(void (*)(void))region, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject Nothing = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "_nothing.Nothing",
    .tp_basicsize = sizeof(PyObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_methods = methods,
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_nothing", .m_size = -1, .m_methods = functions};

PyMODINIT_FUNC
PyInit__nothing(void)
{
    PyObject *made = PyModule_Create(&module);
    if (made != NULL && PyModule_AddType(made, &Nothing) < 0)
        Py_CLEAR(made);
    return made;
}

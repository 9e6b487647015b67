/* The Python type PlainMiddleware: it wraps an application, and makes an exchange for each request. */

/* Whether another middleware records a request, or its path is excluded; -1 with an exception set. */
static int
is_left_alone(const Middleware *middleware, PyObject *environ)
{
    State *state = middleware->state;
    int found = PyDict_Contains(environ, state->recorded);
    if (found != 0)
        return found;
    PyObject *path = PyDict_GetItemWithError(environ, state->path_info);
    if (path == NULL && PyErr_Occurred())
        return -1;
    path = path == NULL ? state->empty : path;
    PyObject *paths = PyObject_GetAttr(middleware->requests, state->paths);
    PyObject *prefixes = paths == NULL ? NULL : PyObject_GetAttr(middleware->requests, state->prefixes);
    found = prefixes == NULL ? -1 : PySequence_Contains(paths, path);
    for (Py_ssize_t i = 0; found == 0 && PyTuple_Check(prefixes) && i < PyTuple_GET_SIZE(prefixes); i++)
        found = (int)PyUnicode_Tailmatch(path, PyTuple_GET_ITEM(prefixes, i), 0, PY_SSIZE_T_MAX, -1);
    Py_XDECREF(paths);
    Py_XDECREF(prefixes);
    return found;
}

static PyObject *
Middleware_call(PyObject *self, PyObject *args, PyObject *names)
{
    static char *keywords[] = {"environ", "start_response", NULL};
    Middleware *middleware = (Middleware *)self;
    PyObject *given[2];
    if (!PyArg_ParseTupleAndKeywords(args, names, "O!O:__call__", keywords, &PyDict_Type, &given[0], &given[1]))
        return NULL;
    if (middleware->requests == NULL || middleware->_app == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the middleware was not initialised");
        return NULL;
    }
    int is_other = is_left_alone(middleware, given[0]);
    if (is_other < 0 || (!is_other && PyDict_SetItem(given[0], middleware->state->recorded, Py_True) < 0))
        return NULL;
    if (is_other)
        return PyObject_Vectorcall(middleware->_app, given, 2, NULL);
    PyObject *exchange = make_exchange(middleware->exchange, middleware, given[0], given[1]);
    given[1] = exchange == NULL ? NULL : PyCFunction_New(&Exchange_methods[0], exchange);
    PyObject *response = given[1] == NULL ? NULL : PyObject_Vectorcall(middleware->_app, given, 2, NULL), *passed_on = NULL;
    if (response != NULL)
        passed_on = Exchange_around(exchange, response);
    else if (given[1] != NULL)
        hand_over((Exchange *)exchange, middleware->state->fail);
    Py_XDECREF(response);
    Py_XDECREF(given[1]);
    Py_XDECREF(exchange);
    return passed_on;
}

static PyObject *
Middleware_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(names))
{
    State *state = PyModule_GetState(PyType_GetModuleByDef(type, &exchange_module));
    PyObject *exchange = PyObject_GetAttr((PyObject *)type, state->exchange);
    PyTypeObject *base = (PyTypeObject *)state->exchange_type;
    if (exchange != NULL && (!PyType_Check(exchange) || !PyType_IsSubtype((PyTypeObject *)exchange, base))) {
        PyErr_Format(PyExc_TypeError, "exchange must be a subclass of PlainExchange, not %R", exchange);
        Py_CLEAR(exchange);
    }
    Middleware *middleware = exchange == NULL ? NULL : (Middleware *)type->tp_alloc(type, 0);
    if (middleware == NULL) {
        Py_XDECREF(exchange);
        return NULL;
    }
    middleware->state = state;
    middleware->exchange = (PyTypeObject *)exchange;
    return (PyObject *)middleware;
}

#define EACH_PART(USE) USE(_app) USE(requests) USE(plain_series)
#define MIDDLEWARE_REFERENCES(USE) USE(exchange) EACH_PART(USE)

COLLECTED(Middleware, MIDDLEWARE_REFERENCES, (void)0)

static PyMemberDef Middleware_members[] = {
#define MEMBER(name) {#name, T_OBJECT_EX, offsetof(Middleware, name), 0, NULL},
    EACH_PART(MEMBER)
#undef MEMBER
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot Middleware_slots[] = {
    {Py_tp_new, Middleware_new},
    {Py_tp_call, Middleware_call},
    {Py_tp_members, Middleware_members},
    COLLECTED_SLOTS(Middleware),
    {0, NULL},
};

static PyType_Spec Middleware_spec = {
    .name = "shmstats.integrations._exchange.PlainMiddleware",
    .basicsize = sizeof(Middleware),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = Middleware_slots,
};

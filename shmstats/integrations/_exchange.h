/* The Python type PlainExchange: a request that is being served. */

typedef struct {
    PyObject_HEAD
    State *state;
    Middleware *middleware;
    PyObject *requests, *serving, *environ, *start_response, *server_write, *status, *headers, *rule;
    PyObject *response, *chunks;
    PyObject *began, *entry; /* results of perf_counter and Serving.begin */
    Py_ssize_t sent;
    char over;
} Exchange;

/* Call a method by its name, without an argument or with one, and drop its result; -1 with an exception. */
static int
call_method(PyObject *object, PyObject *name, PyObject *argument)
{
    PyObject *args[2] = {object, argument};
    PyObject *result = PyObject_VectorcallMethod(name, args, argument == NULL ? 1 : 2, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Pass the current exception to a method: ``fail``, after which it is set again, or ``tell``, which logs it. */
static void
hand_over(Exchange *exchange, PyObject *method)
{
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (trace != NULL)
        PyException_SetTraceback(error, trace);
    if (call_method((PyObject *)exchange, method, error) < 0)
        PyErr_Clear();
    PyErr_Restore(type, error, trace);
    if (method == exchange->state->tell)
        PyErr_Clear();
}

/* The value of a key of the environment, borrowed; NULL if it is missing. */
static PyObject *
look_up(Exchange *exchange, PyObject *key)
{
    return PyDict_GetItemWithError(exchange->environ, key);
}

/* The route from application or URL rule, a new reference; NULL, perhaps with an exception: Python must find it. */
static PyObject *
route_of(Exchange *exchange)
{
    State *state = exchange->state;
    PyObject *told = look_up(exchange, state->route);
    if (told != NULL)
        return PyUnicode_CheckExact(told) && PyUnicode_GET_LENGTH(told) ? Py_NewRef(told) : NULL;
    if (exchange->rule == NULL || exchange->rule == Py_None)
        return Py_NewRef(state->unmatched);
    PyObject *endpoint = PyObject_GetAttr(exchange->rule, state->endpoint);
    if (endpoint == NULL || !PyUnicode_Check(endpoint)) {
        Py_XDECREF(endpoint);
        return NULL;
    }
    Py_ssize_t is_own = PyUnicode_Tailmatch(endpoint, state->own_endpoints, 0, PY_SSIZE_T_MAX, -1);
    Py_DECREF(endpoint);
    return is_own > 0 ? Py_NewRef(state->own) : PyObject_GetAttr(exchange->rule, state->rule);
}

/* The series of such a request, a new reference; NULL, perhaps with an exception, if Python must find them. */
static PyObject *
series_of(Exchange *exchange, PyObject *method, PyObject *status)
{
    State *state = exchange->state;
    PyObject *length = look_up(exchange, state->content_length);
    if (look_up(exchange, state->transfer_encoding) != NULL || (length != NULL && PyObject_IsTrue(length)))
        return NULL; /* the request has a body */
    PyObject *kept = exchange->middleware->plain_series;
    PyObject *route = kept != NULL && PyDict_CheckExact(kept) ? route_of(exchange) : NULL;
    if (route == NULL)
        return NULL;
    PyObject *known = method == NULL ? NULL : PyDict_GetItemWithError(state->methods, method), *key = NULL, *series = NULL;
    if (!PyErr_Occurred())
        key = PyTuple_Pack(4, known == NULL ? state->other : known, route, status, state->no_labels);
    if (key != NULL)
        series = Py_XNewRef(PyDict_GetItemWithError(kept, key));
    Py_DECREF(route);
    Py_XDECREF(key);
    return series;
}

/* Call one of the series with a value, whose reference is consumed; -1 with an exception. */
static int
add(PyObject *series, Py_ssize_t number, PyObject *value)
{
    PyObject *result = value == NULL ? NULL : PyObject_CallOneArg(PyTuple_GET_ITEM(series, number), value);
    Py_XDECREF(value);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int
count(Exchange *exchange, PyObject *series, PyObject *method)
{
    State *state = exchange->state;
    for (Py_ssize_t i = 0; i < 3; i++) {
        PyObject *result = PyObject_CallNoArgs(PyTuple_GET_ITEM(series, i));
        if (result == NULL)
            return -1;
        Py_DECREF(result);
    }
    PyObject *now = PyObject_CallNoArgs(state->perf_counter);
    if (now == NULL)
        return -1;
    double seconds = PyFloat_AsDouble(now) - PyFloat_AsDouble(exchange->began);
    Py_DECREF(now);
    if (PyErr_Occurred() || add(series, 3, PyFloat_FromDouble(seconds * 1000.0)) < 0
        || add(series, 4, PyLong_FromLong(0)) < 0)
        return -1;
    int is_head = method != NULL && PyUnicode_Check(method) && PyUnicode_Compare(method, state->head) == 0;
    return add(series, 5, PyLong_FromSsize_t(is_head ? 0 : exchange->sent));
}

/* Record a finished request; by the Python class if it is not a common case. Nothing is raised. */
static void
finish(Exchange *exchange, PyObject *status)
{
    State *state = exchange->state;
    exchange->over = 1;
    if (status == NULL || status == Py_None)
        status = state->server_error;
    PyObject *method = look_up(exchange, state->request_method);
    PyObject *series = series_of(exchange, method, status);
    if (series == NULL || !PyTuple_CheckExact(series)) {
        PyErr_Clear();
        if (call_method((PyObject *)exchange, state->finish, status) < 0)
            hand_over(exchange, state->tell);
    }
    else {
        if (exchange->serving != NULL && call_method(exchange->serving, state->end, exchange->entry) < 0)
            hand_over(exchange, state->tell);
        if (PyTuple_GET_SIZE(series) == 6 && count(exchange, series, method) < 0)
            hand_over(exchange, state->tell);
        if (call_method(exchange->requests, state->leave, NULL) < 0)
            hand_over(exchange, state->tell);
    }
    Py_XDECREF(series);
}

/* Exchange --------------------------------------------------------------------------------------------------------- */

/* Show other processes that this request is being served; nothing is raised. */
static void
note(Exchange *exchange)
{
    State *state = exchange->state;
    if (call_method(exchange->requests, state->enter, NULL) < 0)
        hand_over(exchange, state->tell);
    PyObject *path = look_up(exchange, state->path_info), *method = look_up(exchange, state->request_method);
    PyObject *mounted = look_up(exchange, state->script_name);
    PyObject *serving = exchange->serving = PyObject_GetAttr(exchange->requests, state->serving), *begin = NULL;
    int is_plain = (mounted == NULL || (PyUnicode_Check(mounted) && PyUnicode_GET_LENGTH(mounted) == 0))
                   && path != NULL && PyUnicode_Check(path) && PyUnicode_IS_ASCII(path);
    if (serving != NULL && is_plain && (begin = PyObject_GetAttr(serving, state->begin)) != NULL) {
        PyObject *args[2] = {method == NULL ? state->empty : method, path};
        PyObject *entry = PyObject_Vectorcall(begin, args, 2, NULL);
        if (entry != NULL)
            Py_SETREF(exchange->entry, entry);
        is_plain = entry != NULL && PyLong_AsLong(entry) != -1; /* -1: the process left the block meanwhile */
    }
    Py_XDECREF(begin);
    if (PyErr_Occurred() || (!is_plain && call_method((PyObject *)exchange, state->note, NULL) < 0))
        hand_over(exchange, state->tell);
}

/* Make an exchange of a class, and show that it is being served. */
static PyObject *
make_exchange(PyTypeObject *type, Middleware *middleware, PyObject *environ, PyObject *start_response)
{
    Exchange *exchange = (Exchange *)type->tp_alloc(type, 0);
    if (exchange == NULL)
        return NULL;
    State *state = exchange->state = middleware->state;
    exchange->middleware = (Middleware *)Py_NewRef((PyObject *)middleware);
    exchange->requests = Py_XNewRef(middleware->requests);
    exchange->environ = Py_NewRef(environ);
    exchange->start_response = Py_NewRef(start_response);
    exchange->entry = Py_NewRef(state->not_noted);
    exchange->began = PyObject_CallNoArgs(state->perf_counter);
    if (exchange->requests == NULL || exchange->began == NULL) {
        Py_DECREF(exchange);
        return NULL;
    }
    note(exchange);
    return (PyObject *)exchange;
}

static PyObject *
Exchange_start(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    Exchange *exchange = (Exchange *)self;
    PyObject *status = nargs > 0 ? args[0] : NULL, *headers = nargs > 1 ? args[1] : NULL;
    for (Py_ssize_t i = 0; names != NULL && i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        if (status == NULL && PyUnicode_CompareWithASCIIString(name, "status") == 0)
            status = args[nargs + i];
        if (headers == NULL && PyUnicode_CompareWithASCIIString(name, "headers") == 0)
            headers = args[nargs + i];
    }
    if (status == NULL || headers == NULL) {
        PyErr_SetString(PyExc_TypeError, "start_response() takes a status and headers");
        return NULL;
    }
    PyObject *write = PyObject_Vectorcall(exchange->start_response, args, (size_t)nargs, names);
    if (write == NULL)
        return NULL;
    Py_XSETREF(exchange->server_write, write);
    Py_XSETREF(exchange->status, Py_NewRef(status));
    Py_XSETREF(exchange->headers, Py_NewRef(headers));
    PyObject *request = look_up(exchange, exchange->state->werkzeug_request);
    if (request != NULL) { /* now, because Flask drops it soon, at the end of its context */
        PyObject *rule = PyObject_GetAttr(request, exchange->state->url_rule);
        if (rule == NULL)
            PyErr_Clear();
        else
            Py_XSETREF(exchange->rule, rule);
    }
    return PyObject_GetAttr(self, exchange->state->write);
}

/* Return the response that the server gets: this object, if the application's response is a list, which has a length,
 * or any iterator but a file. */
static PyObject *
Exchange_around(PyObject *self, PyObject *response)
{
    Exchange *exchange = (Exchange *)self;
    State *state = exchange->state;
    Py_XSETREF(exchange->response, Py_NewRef(response));
    if (PyList_CheckExact(response)) {
        PyObject *type = PyObject_GetAttr(self, state->sized);
        int failed = type == NULL || PyObject_SetAttr(self, state->class, type) < 0;
        Py_XDECREF(type);
        return failed ? NULL : Py_NewRef(self);
    }
    PyObject *wrapper = look_up(exchange, state->file_wrapper);
    int is_file = wrapper != NULL && PyType_Check(wrapper) && PyObject_TypeCheck(response, (PyTypeObject *)wrapper);
    if (PyIter_Check(response) && !is_file)
        return Py_NewRef(self);
    return PyObject_CallMethodOneArg(self, state->around_other, response);
}

static PyObject *
Exchange_iter(PyObject *self)
{
    Exchange *exchange = (Exchange *)self;
    if (exchange->chunks == NULL) { /* else it continues where it is, as any iterator */
        exchange->chunks = PyObject_GetIter(exchange->response == NULL ? Py_None : exchange->response);
        if (exchange->chunks == NULL) {
            hand_over(exchange, exchange->state->fail);
            return NULL;
        }
    }
    return Py_NewRef(self);
}

static PyObject *
Exchange_next(PyObject *self)
{
    Exchange *exchange = (Exchange *)self;
    if (exchange->chunks == NULL) { /* the caller takes the response for an iterator, which WSGI does not promise */
        PyObject *same = Exchange_iter(self);
        if (same == NULL)
            return NULL;
        Py_DECREF(same);
    }
    PyObject *chunk = PyIter_Next(exchange->chunks);
    if (chunk != NULL) {
        if (PyBytes_Check(chunk)) /* anything else is the server's error to report */
            exchange->sent += PyBytes_GET_SIZE(chunk);
    }
    else if (PyErr_Occurred())
        hand_over(exchange, exchange->state->fail);
    else if (!exchange->over)
        finish(exchange, exchange->status);
    return chunk;
}

/* Close the response; -1 with an exception. */
static PyObject *
Exchange_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Exchange *exchange = (Exchange *)self;
    State *state = exchange->state;
    if (!exchange->over && call_method(self, state->finish_early, NULL) < 0)
        return NULL;
    PyObject *response = exchange->response;
    if (response == NULL || PyList_CheckExact(response) || PyTuple_CheckExact(response))
        Py_RETURN_NONE;
    PyObject *close = PyObject_GetAttr(response, state->close);
    if (close == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError))
            return NULL;
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    PyObject *result = PyObject_CallNoArgs(close);
    Py_DECREF(close);
    return result;
}

#define EACH_MEMBER(USE)                                                                                               \
    USE(middleware) USE(requests) USE(serving) USE(environ) USE(start_response) USE(began) USE(entry) USE(status)      \
    USE(headers) USE(rule) USE(response) USE(server_write) USE(chunks)

COLLECTED(Exchange, EACH_MEMBER, (void)0)

static PyMethodDef Exchange_methods[] = {
    {"start", (PyCFunction)(void (*)(void))Exchange_start, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"around", Exchange_around, METH_O, NULL},
    {"close", Exchange_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef Exchange_members[] = {
#define MEMBER(name) {#name, T_OBJECT, offsetof(Exchange, name), 0, NULL},
    EACH_MEMBER(MEMBER)
#undef MEMBER
    {"sent", T_PYSSIZET, offsetof(Exchange, sent), 0, NULL},
    {"over", T_BOOL, offsetof(Exchange, over), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot Exchange_slots[] = {
    {Py_tp_iter, Exchange_iter},
    {Py_tp_iternext, Exchange_next},
    {Py_tp_methods, Exchange_methods},
    {Py_tp_members, Exchange_members},
    COLLECTED_SLOTS(Exchange),
    {0, NULL},
};

static PyType_Spec Exchange_spec = {
    .name = "shmstats.integrations._exchange.PlainExchange",
    .basicsize = sizeof(Exchange),
    /* Only a middleware makes them. */
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Exchange_slots,
};

/* Requests: what this process serves, for other processes to see.
 *
 * They are written by plain stores without a lock: an entry belongs to the process whose slot it is in, and there to
 * the holder of the GIL. A reader in another process sees by the sequence whether it read during a write.
 */

#define REQUEST_ENTRIES 16
#define REQUEST_TEXT 110

/* One entry, as layout.py's REQUEST, by which tests/core/test_requests.py reads it. */
typedef struct {
    uint64_t start;    /* ns since 1970; 0: free */
    uint64_t sequence; /* odd while it is written */
    uint16_t length;
    char text[REQUEST_TEXT];
} Request;

typedef struct {
    PyObject_HEAD
    Py_buffer buffer;  /* the block; buffer.buf is NULL once closed */
    Request *entries;  /* of our slot */
    uint32_t *further; /* in our slot: number of requests without an entry */
    uint32_t taken;    /* a bit for each entry in use */
} Requests;

static PyObject *
Requests_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"block", "entries", "further", NULL};
    PyObject *block;
    Py_ssize_t entries, further;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Onn:Requests", names, &block, &entries, &further))
        return NULL;
    Requests *self = (Requests *)type->tp_alloc(type, 0);
    if (self == NULL || PyObject_GetBuffer(block, &self->buffer, PyBUF_WRITABLE) < 0) {
        Py_XDECREF(self);
        return NULL;
    }
    Py_ssize_t size = self->buffer.len;
    if (entries < 0 || further < 0 || entries % 8 != 0 || further % 4 != 0 || further > size - 4
        || entries > size - (Py_ssize_t)sizeof(Request) * REQUEST_ENTRIES) {
        Py_DECREF(self);
        PyErr_SetString(PyExc_ValueError, "the requests do not fit into the block");
        return NULL;
    }
    self->entries = (Request *)(void *)((char *)self->buffer.buf + entries);
    self->further = (uint32_t *)(void *)((char *)self->buffer.buf + further);
    memset(self->entries, 0, sizeof(Request) * REQUEST_ENTRIES);
    *self->further = 0;
    return (PyObject *)self;
}

/* The UTF-8 of a str; "?" for any other object, and for a str without UTF-8. */
static const char *
utf8_of(PyObject *text, Py_ssize_t *length)
{
    const char *bytes = PyUnicode_Check(text) ? PyUnicode_AsUTF8AndSize(text, length) : NULL;
    if (bytes != NULL)
        return bytes;
    PyErr_Clear();
    *length = 1;
    return "?";
}

static PyObject *
Requests_begin(Requests *requests, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "begin() takes a method and a path");
        return NULL;
    }
    if (UNLIKELY(requests->buffer.buf == NULL))
        return PyLong_FromLong(-1);
    uint32_t free_entries = ~requests->taken & ((1u << REQUEST_ENTRIES) - 1);
    if (UNLIKELY(free_entries == 0)) {
        ++*requests->further;
        return PyLong_FromLong(REQUEST_ENTRIES);
    }
    int number = __builtin_ctz(free_entries);
    Request *request = &requests->entries[number];
    Py_ssize_t method_length, path_length;
    const char *method = utf8_of(args[0], &method_length), *path = utf8_of(args[1], &path_length);
    if (method_length > 16)
        method_length = 16;
    if (path_length > REQUEST_TEXT - 1 - method_length)
        path_length = REQUEST_TEXT - 1 - method_length;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    requests->taken |= 1u << number;
    __atomic_store_n(&request->sequence, request->sequence | 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    memcpy(request->text, method, (size_t)method_length);
    request->text[method_length] = ' ';
    memcpy(request->text + method_length + 1, path, (size_t)path_length);
    request->length = (uint16_t)(method_length + 1 + path_length);
    request->start = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    __atomic_store_n(&request->sequence, request->sequence + 1, __ATOMIC_RELEASE);
    return PyLong_FromLong(number);
}

static PyObject *
Requests_end(Requests *requests, PyObject *argument)
{
    long number = PyLong_AsLong(argument);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    if (LIKELY(requests->buffer.buf != NULL)) {
        if (LIKELY(number >= 0 && number < REQUEST_ENTRIES)) {
            __atomic_store_n(&requests->entries[number].start, 0, __ATOMIC_RELAXED);
            requests->taken &= ~(1u << number);
        }
        else if (number == REQUEST_ENTRIES && *requests->further > 0)
            --*requests->further;
    }
    Py_RETURN_NONE;
}

static PyObject *
Requests_close(Requests *requests, PyObject *Py_UNUSED(ignored))
{
    release(&requests->buffer);
    Py_RETURN_NONE;
}

static void
Requests_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    release(&((Requests *)self)->buffer);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef Requests_methods[] = {
    {"begin", FUNCTION(Requests_begin), METH_FASTCALL, NULL},
    {"end", (PyCFunction)Requests_end, METH_O, NULL},
    NO_ARGUMENTS(Requests, close),
    {NULL, NULL, 0, NULL},
};

TYPE(Requests, Requests, "What this process serves, for others to see.", 0,
     {Py_tp_new, Requests_new}, {Py_tp_dealloc, Requests_dealloc},
     {Py_tp_methods, Requests_methods})

/* pack_series: what a saved snapshot lists of its series, as a block has it: keys, records, and cells of the shared row.
 * A series that is not plain is left to Python, which says what is wrong with it, or that nothing is. */

enum { DOES_NOT_FIT = 0, FITS = 1 };

typedef struct {
    PyObject *metrics; /* dict: category and metric, joined, to the number of the metric */
    PyObject *buckets; /* list: by those numbers, of the ones that are declared; of 0 no histogram is plain, of -1 nothing */
    PyObject *apart;   /* set: keys that are left to Python */
    int64_t latest;
    Bytes keys, records, cells, aside;
    Part metric; /* of the labelled series before, and its number */
    Py_ssize_t number;
} Packing;

/* What the parts of a key are. */
typedef struct {
    Part metric; /* with the category */
    int has_labels, is_overflow;
} KeyParts;

/* Read the parts of a key; 0 where they are none that a series can have. */
static int
read_parts(const char *text, Py_ssize_t length, KeyParts *parts)
{
    Key key = {(const unsigned char *)text, (const unsigned char *)text + length};
    Part category = next_part(&key), metric = has_part(&key) ? next_part(&key) : (Part){NULL, 0}, before = {NULL, 0};
    if (category.size < 1 || category.size > MOST_TEXT_BYTES || metric.size < 1 || metric.size > MOST_TEXT_BYTES)
        return 0;
    *parts = (KeyParts){{category.text, category.size + 1 + metric.size}, has_part(&key), has_part(&key)};
    while (has_part(&key)) {
        Part name = next_part(&key);
        if (!has_part(&key) || name.size < 1 || name.size > MOST_TEXT_BYTES)
            return 0;
        Part value = next_part(&key);
        size_t common = before.size < name.size ? before.size : name.size;
        int order = before.text == NULL ? -1 : memcmp(before.text, name.text, common);
        if (value.size > MOST_TEXT_BYTES || order > 0 || (order == 0 && before.size >= name.size))
            return 0;
        parts->is_overflow &= same_part(value, (Part){(const unsigned char *)overflow_value, sizeof overflow_value - 1});
        before = name;
    }
    return 1;
}

/* Find the number of a metric; one that has labels, which all have one, gets the next. -1: it has none; -2 with an
 * exception set. */
static Py_ssize_t
number_of(Packing *self, PyObject *key, const KeyParts *parts)
{
    if (!parts->has_labels && PyDict_GET_SIZE(self->metrics) == 0)
        return -1;
    if (parts->has_labels && self->metric.text != NULL && same_part(self->metric, parts->metric))
        return self->number;
    PyObject *metric = parts->has_labels
                           ? PyUnicode_FromStringAndSize((const char *)parts->metric.text, (Py_ssize_t)parts->metric.size)
                           : Py_NewRef(key);
    PyObject *found = metric == NULL ? NULL : PyDict_GetItemWithError(self->metrics, metric);
    Py_ssize_t number = -1;
    if (found != NULL)
        number = PyNumber_AsSsize_t(found, PyExc_OverflowError);
    else if (parts->has_labels && metric != NULL && !PyErr_Occurred()) {
        number = PyDict_GET_SIZE(self->metrics);
        PyObject *next = PyLong_FromSsize_t(number);
        if (next != NULL)
            PyDict_SetItem(self->metrics, metric, next);
        Py_XDECREF(next);
    }
    Py_XDECREF(metric);
    if (PyErr_Occurred())
        return -2;
    if (parts->has_labels) {
        self->metric = parts->metric; /* in the text of a key, which its list keeps */
        self->number = number;
    }
    return number;
}

/* The buckets that a histogram of a metric has; 0 where it is not plain, -1 where no series of the metric is. */
static int64_t
declared_buckets(const Packing *self, Py_ssize_t number)
{
    int fits = 1;
    if (number < 0 || number >= PyList_GET_SIZE(self->buckets))
        return 0;
    int64_t buckets = plain_integer(PyList_GET_ITEM(self->buckets, number), &fits);
    return fits && buckets <= INT32_MAX ? buckets : -1;
}

/* Read an exact int or float that is finite. */
static int
read_finite(PyObject *object, double *real)
{
    Number number;
    if (!plain_number(object, &number))
        return DOES_NOT_FIT;
    *real = number.real;
    return isfinite(number.real) ? FITS : DOES_NOT_FIT;
}

/* Pack the value of a histogram, [sum, maximum, minimum, number of the first bucket, [...]], which has so many buckets. */
static int
pack_distribution(PyObject *value, int64_t buckets, Cell *cell)
{
    double sum, maximum, minimum;
    int fits = 0;
    if (!PyList_CheckExact(value) || PyList_GET_SIZE(value) != 5 || !read_finite(PyList_GET_ITEM(value, 0), &sum)
        || !read_finite(PyList_GET_ITEM(value, 1), &maximum) || !read_finite(PyList_GET_ITEM(value, 2), &minimum))
        return DOES_NOT_FIT;
    PyObject *counts = PyList_GET_ITEM(value, 4), *first_of = PyList_GET_ITEM(value, 3);
    int64_t first = PyBool_Check(first_of) ? -1 : plain_integer(first_of, &fits), any = 0;
    if (!fits || first < 0 || first > buckets || !PyList_CheckExact(counts) || PyList_GET_SIZE(counts) > buckets - first)
        return DOES_NOT_FIT;
    memset(cell, 0, (size_t)(FIRST_BUCKET + buckets) * sizeof *cell);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(counts); i++) {
        int64_t count = plain_integer(PyList_GET_ITEM(counts, i), &fits);
        if (!fits || count < 0)
            return DOES_NOT_FIT;
        store_value(cell, BUCKETS + first + i, count);
        any |= count;
    }
    add_to_moments(cell, sum, maximum, any ? bits_of(minimum > 0 ? minimum : 0) + 1 : 0);
    return FITS;
}

/* Pack the value of a counter or gauge. */
static int
pack_number(PyObject *value, int kind, Cell *cell)
{
    Number number;
    if (!plain_number(value, &number) || (!number.is_integer && (kind != KIND_GAUGE || !isfinite(number.real))))
        return DOES_NOT_FIT;
    memset(cell, 0, (kind == KIND_GAUGE ? 3 : 2) * sizeof *cell);
    put_number(cell, number);
    return FITS;
}

/* Pack one series. FITS, DOES_NOT_FIT, or -1 with an exception set. */
static int
pack_one(Packing *self, PyObject *key, PyObject *kind_of, PyObject *created, PyObject *value)
{
    Py_ssize_t length;
    const char *text = PyUnicode_CheckExact(key) ? PyUnicode_AsUTF8AndSize(key, &length) : NULL;
    KeyParts parts;
    int fits = 0;
    if (text == NULL || length > INT32_MAX || !read_parts(text, length, &parts))
        return PyErr_Clear(), DOES_NOT_FIT;
    int64_t number_of_kind = PyBool_Check(kind_of) ? 0 : plain_integer(kind_of, &fits);
    uint8_t kind = (uint8_t)(number_of_kind < 0 ? 0 - (uint64_t)number_of_kind : (uint64_t)number_of_kind);
    int is_known = number_of_kind == kind ? kind >= KIND_COUNTER && kind <= KIND_HISTOGRAM
                                          : number_of_kind == -kind && (kind == KIND_COUNTER || kind == KIND_HISTOGRAM);
    if (!fits || !is_known)
        return DOES_NOT_FIT;
    int is_apart = PySet_GET_SIZE(self->apart) ? PySet_Contains(self->apart, key) : 0;
    Py_ssize_t number = is_apart ? -1 : number_of(self, key, &parts);
    int64_t buckets = declared_buckets(self, number);
    if (is_apart < 0 || number < -1)
        return -1;
    if (is_apart || buckets < 0 || (kind == KIND_HISTOGRAM && buckets == 0))
        return DOES_NOT_FIT;
    int64_t width = kind == KIND_HISTOGRAM ? FIRST_BUCKET + buckets : kind == KIND_GAUGE ? 3 : 2;
    if (reserve_bytes(&self->keys, (size_t)length) < 0 || reserve_bytes(&self->records, sizeof(Record)) < 0
        || reserve_bytes(&self->cells, (size_t)width * sizeof(Cell)) < 0)
        return PyErr_NoMemory(), -1;
    Cell *cell = (Cell *)(void *)(self->cells.start + self->cells.used);
    if (!(kind == KIND_HISTOGRAM ? pack_distribution(value, buckets, cell) : pack_number(value, kind, cell)))
        return DOES_NOT_FIT;
    int flag = kind == KIND_COUNTER && number_of_kind > 0 ? FLAG_MONOTONIC
               : number_of_kind < 0 && kind == KIND_HISTOGRAM && load_value(cell, MINIMUM) != 0 ? FLAG_CARRIED : 0;
    int64_t moment = PyBool_Check(created) ? 0 : plain_integer(created, &fits);
    Record record = {
        .kind = kind,
        .flags = (uint8_t)(flag | (parts.has_labels && !parts.is_overflow ? FLAG_MEMBER : 0)),
        .width = (uint32_t)width,
        .family = (uint32_t)(number + 1),
        .length = (uint32_t)length,
        .members = (uint32_t)parts.has_labels,
        .created = fits && moment >= 0 && moment <= self->latest ? (uint64_t)moment : 0,
    };
    put_part(&self->keys, (Part){(const unsigned char *)text, (size_t)length});
    put_part(&self->records, (Part){(const unsigned char *)&record, sizeof record});
    self->cells.used += (size_t)width * sizeof(Cell);
    return FITS;
}

static int
pack_all(Packing *self, PyObject *const *lists, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        int packed = pack_one(self, PyList_GET_ITEM(lists[0], i), PyList_GET_ITEM(lists[1], i),
                              PyList_GET_ITEM(lists[2], i), PyList_GET_ITEM(lists[3], i));
        if (packed < 0)
            return -1;
        uint32_t position = (uint32_t)i;
        if (packed == DOES_NOT_FIT) {
            if (reserve_bytes(&self->aside, sizeof position) < 0)
                return PyErr_NoMemory(), -1;
            put_part(&self->aside, (Part){(const unsigned char *)&position, sizeof position});
        }
    }
    return 0;
}

static PyObject *
pack_series(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *lists[4], *result = NULL;
    long long latest;
    Packing self = {0};
    if (!PyArg_ParseTuple(args, "O!O!O!O!O!O!O!L", &PyList_Type, &lists[0], &PyList_Type, &lists[1], &PyList_Type,
                          &lists[2], &PyList_Type, &lists[3], &PyDict_Type, &self.metrics, &PyList_Type, &self.buckets,
                          &PySet_Type, &self.apart, &latest))
        return NULL;
    self.latest = latest;
    Py_ssize_t n = PyList_GET_SIZE(lists[0]);
    for (int i = 1; i < 4; i++) {
        if (PyList_GET_SIZE(lists[i]) != n || n > UINT32_MAX)
            return PyErr_SetString(PyExc_ValueError, "the lists are not as long as each other"), NULL;
    }
    if (pack_all(&self, lists, n) == 0)
        result = Py_BuildValue("NNNN", bytes_of(&self.keys), bytes_of(&self.records), bytes_of(&self.cells),
                               bytes_of(&self.aside));
    free(self.keys.start);
    free(self.records.start);
    free(self.cells.start);
    free(self.aside.start);
    return result;
}

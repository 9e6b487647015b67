/* Handles of label sets, found by the given values: an open-addressing table by the cached hashes of the strings.
 * It owns its keys, so a reused address of a freed string cannot be mistaken for another one. It is emptied when it has
 * reached a limit, because label values may come from outside.
 *
 * Values are *plain*: exact strs, ints of 64 bits, bools and None. Hashing and comparing them calls no Python code. A
 * set with the value 200 has a key of its own beside that of "200", and both lead to one handle.
 *
 * Children is such a table for one metric with labels: the base class of handles.py's Labelled. */

enum { MOST_SETS = 10000, FEWEST_SLOTS = 64, MOST_LABELS = 16 };

typedef struct {
    uint64_t hash;
    PyObject *key;  /* a tuple of plain values */
    Series *series; /* NULL: dropped */
} LabelSet;

typedef struct {
    LabelSet *slots;
    size_t size, used; /* size: a power of two, or 0 */
} LabelSets;

/* Hash values; returns whether all are plain. */
static inline int
hash_values(PyObject *const *values, Py_ssize_t n, uint64_t *hash)
{
    uint64_t all = (uint64_t)n;
    for (Py_ssize_t i = 0; i < n; i++) {
        int is_plain = 1;
        uint64_t one = 0;
        if (LIKELY(PyUnicode_CheckExact(values[i]))) {
            Py_hash_t known = ((PyASCIIObject *)values[i])->hash;
            one = (uint64_t)(LIKELY(known != -1) ? known : PyObject_Hash(values[i]));
        }
        else if (values[i] != Py_None)
            one = (uint64_t)plain_integer(values[i], &is_plain);
        if (UNLIKELY(!is_plain))
            return 0;
        all = (all << 21 | all >> 43) ^ one; /* those of strs are mixed well already */
    }
    all *= 0x9E3779B97F4A7C15u;
    *hash = all ^ all >> 29;
    return 1;
}

/* Whether two plain values are equal and of the same type: 1 is neither True nor "1". */
static inline int
is_same_value(PyObject *a, PyObject *b)
{
    if (LIKELY(a == b))
        return 1;
    if (!PyUnicode_CheckExact(a) || !PyUnicode_CheckExact(b)) {
        int fits;
        return PyLong_CheckExact(a) && PyLong_CheckExact(b) && plain_integer(a, &fits) == plain_integer(b, &fits);
    }
    Py_ssize_t length = PyUnicode_GET_LENGTH(a);
    return length == PyUnicode_GET_LENGTH(b) && PyUnicode_KIND(a) == PyUnicode_KIND(b)
           && memcmp(PyUnicode_DATA(a), PyUnicode_DATA(b), (size_t)length * PyUnicode_KIND(a)) == 0;
}

/* The slot of a set with a handle of one of the kinds, or the empty slot where the search ends. The table has slots. */
static inline LabelSet *
find_slot(const LabelSets *sets, uint64_t hash, PyObject *const *values, Py_ssize_t n, int kinds)
{
    for (size_t at = hash;; at++) {
        LabelSet *set = &sets->slots[at & (sets->size - 1)];
        if (set->key == NULL)
            return set;
        if (set->hash != hash || PyTuple_GET_SIZE(set->key) != n
            || (kinds != ANY_KIND && set->series != NULL && !(set->series->kind & kinds)))
            continue;
        Py_ssize_t i = 0;
        while (i < n && LIKELY(is_same_value(PyTuple_GET_ITEM(set->key, i), values[i])))
            i++;
        if (LIKELY(i == n))
            return set;
    }
}

/* The handle of a set, borrowed; NULL if there is none, or a value is not plain. */
static inline Series *
find_set(const LabelSets *sets, PyObject *const *values, Py_ssize_t n, int kinds)
{
    uint64_t hash;
    if (UNLIKELY(sets->size == 0) || UNLIKELY(!hash_values(values, n, &hash)))
        return NULL;
    return find_slot(sets, hash, values, n, kinds)->series;
}

static void
clear_sets(LabelSets *sets)
{
    LabelSets former = *sets;
    *sets = (LabelSets){NULL, 0, 0}; /* first: freeing a handle may run code that comes back here */
    for (size_t i = 0; i < former.size; i++) {
        Py_XDECREF(former.slots[i].key);
        Py_XDECREF(former.slots[i].series);
    }
    PyMem_Free(former.slots);
}

static int
grow_sets(LabelSets *sets)
{
    size_t size = sets->size ? 2 * sets->size : FEWEST_SLOTS;
    LabelSet *slots = PyMem_Calloc(size, sizeof(LabelSet));
    if (slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < sets->size; i++) {
        size_t at = sets->slots[i].hash & (size - 1);
        while (slots[at].key != NULL)
            at = (at + 1) & (size - 1);
        if (sets->slots[i].key != NULL)
            slots[at] = sets->slots[i];
    }
    PyMem_Free(sets->slots);
    sets->slots = slots;
    sets->size = size;
    return 0;
}

/* Keep a handle under a tuple of values, replacing one of its kind; does nothing if a value is not plain. */
static int
keep_set(LabelSets *sets, PyObject *key, Series *series)
{
    uint64_t hash;
    PyObject *const *values = PySequence_Fast_ITEMS(key);
    Py_ssize_t n = PyTuple_GET_SIZE(key);
    if (!hash_values(values, n, &hash))
        return 0;
    if (sets->used >= MOST_SETS)
        clear_sets(sets);
    if (2 * (sets->used + 1) > sets->size && grow_sets(sets) < 0)
        return -1;
    LabelSet *set = find_slot(sets, hash, values, n, series->kind);
    LabelSet former = *set;
    *set = (LabelSet){hash, Py_NewRef(key), (Series *)Py_NewRef((PyObject *)series)};
    sets->used += former.key == NULL;
    Py_XDECREF(former.key);
    Py_XDECREF(former.series);
    return 0;
}

/* The methods that keep a handle, called `what`, under a tuple of values. */
static PyObject *
keep_given(LabelSets *sets, const State *state, const char *what, PyObject *args)
{
    PyObject *values, *series;
    if (!PyArg_ParseTuple(args, "O!O", &PyTuple_Type, &values, &series))
        return NULL;
    if (!PyObject_TypeCheck(series, state->Series)) {
        PyErr_Format(PyExc_TypeError, "%s must be a handle, not %s", what, Py_TYPE(series)->tp_name);
        return NULL;
    }
    return keep_set(sets, values, (Series *)series) < 0 ? NULL : Py_NewRef(Py_None);
}

/* Drop the handle of a set, whose place and key are kept for the next one. */
static void
drop_set(LabelSets *sets, PyObject *key)
{
    uint64_t hash;
    if (sets->size == 0 || !hash_values(PySequence_Fast_ITEMS(key), PyTuple_GET_SIZE(key), &hash))
        return;
    LabelSet *set = find_slot(sets, hash, PySequence_Fast_ITEMS(key), PyTuple_GET_SIZE(key), ANY_KIND);
    Py_CLEAR(set->series);
}

/* ------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    State *state;
    PyObject *labelnames; /* a tuple; of interned strs, if they are to be found by name */
    LabelSets sets;
} Children;

static PyObject *
Children_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    Children *self = (Children *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->state = state_of(type);
    self->labelnames = PyTuple_New(0);
    if (self->labelnames == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

/* Sort named values by the label names; returns whether the names are these. */
static inline int
put_in_order(Children *self, PyObject *const *values, PyObject *names, PyObject **ordered)
{
    Py_ssize_t n = PyTuple_GET_SIZE(self->labelnames);
    if (PyTuple_GET_SIZE(names) != n || n > MOST_LABELS)
        return 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *name = PyTuple_GET_ITEM(self->labelnames, i);
        Py_ssize_t j = 0;
        while (j < n && PyTuple_GET_ITEM(names, j) != name)
            j++;
        if (j == n)
            return 0;
        ordered[i] = values[j];
    }
    return 1;
}

static PyObject *
Children_labels(Children *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *ordered[MOST_LABELS];
    PyObject *const *values = args;
    Py_ssize_t n = PyTuple_GET_SIZE(self->labelnames);
    if (UNLIKELY(kwnames != NULL) && nargs == 0 && put_in_order(self, args, kwnames, ordered))
        values = ordered;
    if (LIKELY(values == ordered || (nargs == n && kwnames == NULL))) {
        Series *found = find_set(&self->sets, values, n, ANY_KIND);
        if (LIKELY(found != NULL))
            return Py_NewRef((PyObject *)found);
    }
    return call_missed((PyObject *)self, self->state->str_labels, args, nargs, kwnames);
}

static PyObject *
Children__keep_child(Children *self, PyObject *args)
{
    return keep_given(&self->sets, self->state, "handle", args);
}

static PyObject *
Children__find_child(Children *self, PyObject *values)
{
    if (!PyTuple_Check(values)) {
        PyErr_SetString(PyExc_TypeError, "values must be a tuple");
        return NULL;
    }
    Series *found = find_set(&self->sets, PySequence_Fast_ITEMS(values), PyTuple_GET_SIZE(values), ANY_KIND);
    return Py_NewRef(found == NULL ? Py_None : (PyObject *)found);
}

static PyObject *
Children__drop_child(Children *self, PyObject *args)
{
    PyObject *values = NULL;
    if (!PyArg_ParseTuple(args, "|O!", &PyTuple_Type, &values))
        return NULL;
    if (values == NULL)
        clear_sets(&self->sets);
    else
        drop_set(&self->sets, values);
    Py_RETURN_NONE;
}

static PyObject *
Children_get_labelnames(Children *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->labelnames);
}

static int
Children_set_labelnames(Children *self, PyObject *names, void *Py_UNUSED(closure))
{
    if (names == NULL || !PyTuple_Check(names)) {
        PyErr_SetString(PyExc_TypeError, "labelnames must be a tuple");
        return -1;
    }
    Py_XSETREF(self->labelnames, Py_NewRef(names));
    return 0;
}

/* The references in a table, for the garbage collector. */
static int
visit_sets(const LabelSets *sets, visitproc visit, void *arg)
{
    for (size_t i = 0; i < sets->size; i++)
        Py_VISIT(sets->slots[i].series);
    return 0;
}

static PyMethodDef Children_methods[];

/* Give a subclass a descriptor of `labels` of its own: Python calls one of an object's very type by a shorter way. */
static PyObject *
Children__own_labels(PyObject *type, PyObject *Py_UNUSED(ignored))
{
    PyObject *descriptor = PyDescr_NewMethod((PyTypeObject *)type, &Children_methods[0]);
    int failed = descriptor == NULL || PyObject_SetAttrString(type, "labels", descriptor) < 0;
    Py_XDECREF(descriptor);
    return failed ? NULL : Py_NewRef(Py_None);
}

#define CHILDREN_REFERENCES(X) X(labelnames)
COLLECTED_WITH(Children, CHILDREN_REFERENCES, visit_sets(&self->sets, visit, arg), clear_sets(&self->sets), (void)0)

static PyMethodDef Children_methods[] = {
    {"labels", FUNCTION(Children_labels), FASTCALL,
     PyDoc_STR("labels($self, /, *values, **named)\n--\n\nReturn the handle of one label set; the same object each time.\n\n"
               "The values are given for each of `labelnames`, in that order, or by label name.")},
    {"_find_child", (PyCFunction)Children__find_child, METH_O, NULL},
    POSITIONAL(Children, _keep_child),
    POSITIONAL(Children, _drop_child),
    {"_own_labels", (PyCFunction)Children__own_labels, METH_NOARGS | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef Children_getset[] = {
    {"labelnames", (getter)Children_get_labelnames, (setter)Children_set_labelnames, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

TYPE(Children, Children, "The handles of a metric with labels, found by the label values.", BASE,
     {Py_tp_new, Children_new}, COLLECTED_SLOTS(Children), {Py_tp_methods, Children_methods},
     {Py_tp_getset, Children_getset})

/* The Python type NameIndex: finds the names of a block, and adds, replaces and discards them, one at a time or many
 * under one table lock. */

static void
NameIndex_forget(NameIndex *self)
{
    for (Py_ssize_t i = 0; i < self->n_free; i++)
        PyMem_Free(self->free[i].numbers);
    PyMem_Free(self->free);
    self->free = NULL;
    self->n_free = 0;
    release(&self->buffer);
}

/* Whether a section with so many units at an offset is within the block and aligned. */
static int
is_section(const Py_buffer *block, Py_ssize_t offset, Py_ssize_t units, Py_ssize_t size)
{
    return offset >= 0 && offset % 8 == 0 && units >= 0 && offset <= block->len
           && units <= (block->len - offset) / size;
}

static int
NameIndex_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"block", "sections", "header", "record", "kinds", "modes", NULL};
    NameIndex *self = (NameIndex *)object;
    PyObject *block, *record, *kinds, *modes;
    Py_ssize_t index, names, heap, places[HEADER_PLACES];
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "O(nnnnnnn)(nnnnnnnnnn)O!O!O!", keywords, &block, &index, &self->index_slots, &names,
            &self->capacity, &heap, &self->heap_bytes, &self->columns, &places[COUNT], &places[REMOVED],
            &places[FAMILIES], &places[CELLS_USED], &places[INDEX_SLOTS], &places[CHANGING], &places[HEAP_USED],
            &places[REVISION], &places[SALT], &places[GENERATION], &PyType_Type, &record, &PyTuple_Type, &kinds, &PyTuple_Type, &modes))
        return -1;
    if (self->buffer.buf != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the names have a block already");
        return -1;
    }
    if (PyObject_GetBuffer(block, &self->buffer, PyBUF_WRITABLE) < 0) {
        PyErr_Clear();
        if (PyObject_GetBuffer(block, &self->buffer, PyBUF_SIMPLE) < 0)
            return -1;
    }
    int fits = is_section(&self->buffer, index, self->index_slots, sizeof(uint32_t))
               && is_section(&self->buffer, names, self->capacity, sizeof(Record))
               && is_section(&self->buffer, heap, self->heap_bytes, 1) && self->heap_bytes % 8 == 0
               && self->index_slots > 0 && (self->index_slots & (self->index_slots - 1)) == 0
               && self->index_slots <= UINT32_MAX && self->capacity < (Py_ssize_t)ENTRY_DELETED && self->columns >= 0;
    for (int i = 0; i < HEADER_PLACES; i++)
        fits = fits && places[i] % 4 == 0 && is_section(&self->buffer, places[i] / 8 * 8, 2, 8);
    if (!fits) {
        NameIndex_forget(self);
        PyErr_SetString(PyExc_BufferError, "the names do not fit into the block");
        return -1;
    }
    char *base = self->buffer.buf;
    for (int i = 0; i < HEADER_PLACES; i++)
        self->header[i] = base + places[i];
    Py_XSETREF(self->record, Py_NewRef(record));
    Py_XSETREF(self->kinds, Py_NewRef(kinds));
    Py_XSETREF(self->modes, Py_NewRef(modes));
    self->index = (uint32_t *)(void *)(base + index);
    self->names = (Record *)(void *)(base + names);
    self->heap = base + heap;
    const uint64_t *salt = (const uint64_t *)(const void *)self->header[SALT];
    self->salt[0] = GET(salt);
    self->salt[1] = GET(salt + 1);
    self->free_revision = UINT64_MAX;
    return 0;
}

#define NAMES_REFERENCES(X) X(record) X(kinds) X(modes)
COLLECTED(NameIndex, NAMES_REFERENCES, NameIndex_forget(self))

/* Whether the block is mapped, and writable if that is required; 0 with an exception set. */
static int
NameIndex_is_open(NameIndex *self, int to_change)
{
    if (self->buffer.buf != NULL && !(to_change && self->buffer.readonly))
        return 1;
    PyErr_SetString(PyExc_ValueError, self->buffer.buf == NULL ? "the names are closed" : "the block is read-only");
    return 0;
}

static int
is_number(const NameIndex *names, Py_ssize_t number)
{
    if (number >= 0 && number < names->capacity)
        return 1;
    PyErr_Format(PyExc_ValueError, "there is no record %zd: the block has %zd", number, names->capacity);
    return 0;
}

/* The item of a tuple of kinds or modes; NULL with an exception set if there is none with that number. */
static PyObject *
item_of(PyObject *tuple, int number, const char *what, Py_ssize_t of)
{
    PyObject *item = number < PyTuple_GET_SIZE(tuple) ? PyTuple_GET_ITEM(tuple, number) : Py_None;
    if (item != Py_None)
        return item;
    return PyErr_Format(PyExc_BufferError, "record %zd has %s %d, which cannot be", of, what, number);
}

/* A record as a Python object. */
static PyObject *
make_record(NameIndex *self, Py_ssize_t number, const Record *name)
{
    if (!fits_kind(name))
        return PyErr_Format(PyExc_BufferError, "record %zd has kind %d, mode %d and %u cells, which cannot be",
                            number, (int)name->kind, (int)name->mode, name->width);
    PyObject *kind = item_of(self->kinds, name->kind, "kind", number);
    PyObject *mode = kind == NULL ? NULL : item_of(self->modes, name->mode, "mode", number);
    PyObject *fields = mode == NULL ? NULL
                                    : Py_BuildValue("((nOiIIOLI))", number, kind, name->flags, name->cell, name->width,
                                                    mode, (long long)name->family - 1, name->declaration);
    if (fields == NULL)
        return NULL;
    PyObject *made = PyTuple_Type.tp_new((PyTypeObject *)self->record, fields, NULL);
    Py_DECREF(fields);
    return made;
}

static PyObject *
NameIndex_find(NameIndex *self, PyObject *const *args, Py_ssize_t nargs)
{
    Py_ssize_t number = 0;
    Record name;
    if (nargs < 1 || nargs > 2 || !PyBytes_Check(args[0]))
        return PyErr_SetString(PyExc_TypeError, "find takes a key as bytes, and the number of a declaration"), NULL;
    unsigned long declaration = nargs == 2 ? PyLong_AsUnsignedLong(args[1]) : 0;
    if ((declaration == (unsigned long)-1 && PyErr_Occurred()) || !NameIndex_is_open(self, 0))
        return NULL;
    const char *key = PyBytes_AS_STRING(args[0]);
    size_t length = (size_t)PyBytes_GET_SIZE(args[0]);
    uint32_t hash = hash_in(self, key, length);
    int found = find_hashed(self, key, length, hash, (uint32_t)declaration, &number, &name);
    if (found < 0)
        return NULL;
    return found ? make_record(self, number, &name) : Py_NewRef(Py_None);
}

static PyObject *
NameIndex_usage(NameIndex *self, PyObject *Py_UNUSED(ignored))
{
    if (!NameIndex_is_open(self, 0))
        return NULL;
    return Py_BuildValue("IIIIIK", GET(NUMBER(self, COUNT)), GET(NUMBER(self, REMOVED)),
                         GET(NUMBER(self, CELLS_USED)), GET(NUMBER(self, INDEX_SLOTS)), GET(NUMBER(self, CHANGING)),
                         (unsigned long long)GET(LONG_NUMBER(self, HEAP_USED)));
}

static PyObject *
NameIndex_room_for(NameIndex *Py_UNUSED(self), PyObject *args)
{
    Borrowed records;
    if (!PyArg_ParseTuple(args, "y#", &records.buf, &records.len))
        return NULL;
    uint64_t room = 0;
    for (Py_ssize_t at = offsetof(Record, length); at + 4 <= records.len; at += (Py_ssize_t)sizeof(Record)) {
        uint32_t length;
        memcpy(&length, (const char *)records.buf + at, sizeof length);
        room += room_of(length);
    }
    return PyLong_FromUnsignedLongLong(room);
}

static PyObject *
NameIndex_append(NameIndex *self, PyObject *args)
{
    GivenNames given = {0};
    if (!PyArg_ParseTuple(args, "y#y#|y#", &given.keys.buf, &given.keys.len, &given.records.buf, &given.records.len,
                          &given.families.buf, &given.families.len))
        return NULL;
    Py_ssize_t n = NameIndex_is_open(self, 1) ? names_that_fit(self, &given) : -1;
    uint32_t first = n < 0 ? 0 : GET(NUMBER(self, COUNT));
    return n < 0 || append_names(self, &given, n) < 0 ? NULL : PyLong_FromUnsignedLong(first);
}

static PyObject *
NameIndex_free_for(NameIndex *self, PyObject *args)
{
    unsigned int length, width;
    if (!PyArg_ParseTuple(args, "II", &length, &width) || !NameIndex_is_open(self, 0) || know_free(self) < 0)
        return NULL;
    const FreeNames *free = free_for(self, width, length);
    return PyLong_FromLong(free == NULL ? -1 : (long)free->numbers[free->n - 1]);
}

static PyObject *
NameIndex_replace(NameIndex *self, PyObject *args)
{
    Py_ssize_t number;
    Borrowed key, record;
    if (!PyArg_ParseTuple(args, "ny#y#", &number, &key.buf, &key.len, &record.buf, &record.len))
        return NULL;
    if (!NameIndex_is_open(self, 1) || !is_number(self, number))
        return NULL;
    Record name = {0}, former = load_name(self, number);
    size_t length = (size_t)key.len;
    if (record.len == (Py_ssize_t)sizeof name)
        memcpy(&name, record.buf, sizeof name);
    if (record.len != (Py_ssize_t)sizeof name || !can_replace(self, &former, &name, length))
        return damaged(number);
    if (replace_name(self, number, &former, &name, key.buf, length, hash_in(self, key.buf, length)) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
NameIndex_discard(NameIndex *self, PyObject *given)
{
    PyObject *sequence = PySequence_Fast(given, "the numbers must be a sequence");
    if (sequence == NULL || !NameIndex_is_open(self, 1)) {
        Py_XDECREF(sequence);
        return NULL;
    }
    Py_ssize_t n = PySequence_Fast_GET_SIZE(sequence);
    uint32_t *numbers = PyMem_New(uint32_t, n);
    int done = numbers != NULL;
    for (Py_ssize_t i = 0; i < n && done; i++) {
        Py_ssize_t number = PyNumber_AsSsize_t(PySequence_Fast_GET_ITEM(sequence, i), PyExc_OverflowError);
        done = !(number == -1 && PyErr_Occurred()) && is_number(self, number);
        numbers[i] = done ? (uint32_t)number : 0;
    }
    done = done && discard_names(self, numbers, n) == 0;
    if (numbers == NULL)
        PyErr_NoMemory();
    PyMem_Free(numbers);
    Py_DECREF(sequence);
    return done ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
NameIndex_leave(NameIndex *self, PyObject *args)
{
    Py_ssize_t number;
    if (!PyArg_ParseTuple(args, "n", &number) || !NameIndex_is_open(self, 1) || !is_number(self, number)
        || leave_name(self, number, load_name(self, number).hash) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
NameIndex_rebuild(NameIndex *self, PyObject *Py_UNUSED(ignored))
{
    if (!NameIndex_is_open(self, 1))
        return NULL;
    uint32_t mask = mask_of(self), count = GET(NUMBER(self, COUNT));
    if (mask & (mask + 1)) { /* a search would only visit a part of the slots */
        PyErr_SetString(PyExc_BufferError, "the index of the names is damaged");
        return NULL;
    }
    for (uint32_t slot = 0; slot <= mask; slot++)
        PUT(self->index + slot, 0);
    for (uint32_t number = 0; number < count && number < (uint32_t)self->capacity; number++) {
        Record name = load_name(self, number);
        if (name.state == RECORD_LIVE && enter_name(self, number, name.hash) < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
NameIndex_close(NameIndex *self, PyObject *Py_UNUSED(ignored))
{
    NameIndex_forget(self);
    Py_RETURN_NONE;
}

static PyMethodDef NameIndex_methods[] = {
    {"discard", (PyCFunction)NameIndex_discard, METH_O, NULL},
    {"find", FUNCTION(NameIndex_find), METH_FASTCALL, NULL},
    NO_ARGUMENTS(NameIndex, usage),
    POSITIONAL(NameIndex, room_for),
    POSITIONAL(NameIndex, append),
    POSITIONAL(NameIndex, free_for),
    POSITIONAL(NameIndex, replace),
    POSITIONAL(NameIndex, leave),
    NO_ARGUMENTS(NameIndex, rebuild),
    NO_ARGUMENTS(NameIndex, close),
    {NULL, NULL, 0, NULL},
};

TYPE(NameIndex, NameIndex, "The index of a block's names.", FINAL,
     {Py_tp_init, NameIndex_init}, COLLECTED_SLOTS(NameIndex), {Py_tp_methods, NameIndex_methods})

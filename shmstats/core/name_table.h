/* The Python type Names: finds the names of a block, and adds, replaces and discards them, one by one or many under one
 * table lock. */

static void
NameIndex_forget(NameIndex *self)
{
    if (self->buffer.buf != NULL)
        PyBuffer_Release(&self->buffer);
    self->buffer.buf = NULL;
}

/* Whether a section of so many units, from an offset on, is in the block, and begins where a word can. */
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
            args, kwargs, "O(nnnnnnn)(nnnnnnnnn)O!O!O!", keywords, &block, &index, &self->index_slots, &names,
            &self->capacity, &heap, &self->heap_bytes, &self->columns, &places[COUNT], &places[REMOVED],
            &places[FAMILIES], &places[CELLS_USED], &places[INDEX_SLOTS], &places[CHANGING], &places[HEAP_USED],
            &places[REVISION], &places[SALT], &PyType_Type, &record, &PyTuple_Type, &kinds, &PyTuple_Type, &modes))
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
    return 0;
}

#define NAMES_REFERENCES(X) X(record) X(kinds) X(modes)
COLLECTED(NameIndex, NAMES_REFERENCES, NameIndex_forget(self))

/* Whether the block is there, and can be changed if that is wanted; 0 with an exception set. */
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

static PyObject *
NameIndex_hash(NameIndex *self, PyObject *key)
{
    char *text;
    Py_ssize_t length;
    if (!NameIndex_is_open(self, 0) || PyBytes_AsStringAndSize(key, &text, &length) < 0)
        return NULL;
    return PyLong_FromUnsignedLong(hash_of((unsigned char *)text, (size_t)length, self->salt));
}

/* The item of a tuple of kinds or modes; NULL with an exception set where there is none of that number. */
static PyObject *
item_of(PyObject *tuple, int number, const char *what, Py_ssize_t of)
{
    PyObject *item = number < PyTuple_GET_SIZE(tuple) ? PyTuple_GET_ITEM(tuple, number) : Py_None;
    if (item != Py_None)
        return item;
    return PyErr_Format(PyExc_BufferError, "record %zd has %s %d, which cannot be", of, what, number);
}

/* A record as Python has it. */
static PyObject *
make_record(NameIndex *self, Py_ssize_t number, const Record *name)
{
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
    int found = find_name(self, key, (size_t)PyBytes_GET_SIZE(args[0]), (uint32_t)declaration, &number, &name);
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

/* The i-th of the records that are given as bytes. */
static Record
given_name(const Py_buffer *records, Py_ssize_t i)
{
    Record name;
    memcpy(&name, (const char *)records->buf + i * (Py_ssize_t)sizeof name, sizeof name);
    return name;
}

/* How many names are given by their keys, one behind the other, and records; -1 with an exception set where they do
 * not belong together or have no room. */
static Py_ssize_t
names_that_fit(const NameIndex *self, const Py_buffer *keys, const Py_buffer *records)
{
    uint64_t columns = GET(NUMBER(self, CELLS_USED)), heap = GET(LONG_NUMBER(self, HEAP_USED)), length = 0;
    Py_ssize_t n = records->len / (Py_ssize_t)sizeof(Record);
    int fit = records->len % (Py_ssize_t)sizeof(Record) == 0 && heap % 8 == 0
              && n <= self->capacity - (Py_ssize_t)GET(NUMBER(self, COUNT));
    for (Py_ssize_t i = 0; i < n && fit; i++) {
        Record wanted = given_name(records, i);
        columns += wanted.width;
        heap += room_of(wanted.length);
        length += wanted.length;
        fit = columns <= (uint64_t)self->columns && heap <= (uint64_t)self->heap_bytes;
    }
    if (fit && length == (uint64_t)keys->len)
        return n;
    PyErr_SetString(PyExc_BufferError, "the names do not fit into the block");
    return -1;
}

/* Add names that have room behind all others. */
static int
append_names(NameIndex *self, const char *keys, const Py_buffer *records, Py_ssize_t n)
{
    uint32_t cell = GET(NUMBER(self, CELLS_USED)), first = GET(NUMBER(self, COUNT));
    uint64_t heap = GET(LONG_NUMBER(self, HEAP_USED));
    uint32_t changing = GET(NUMBER(self, CHANGING));
    PUT(NUMBER(self, CHANGING), 1);
    STOP_POINT();
    for (Py_ssize_t i = 0; i < n; i++) {
        Record name = given_name(records, i);
        name.state = RECORD_LIVE;
        name.cell = cell;
        name.hash = hash_of((const unsigned char *)keys, name.length, self->salt) ^ name.declaration;
        name.key = heap;
        name.room = room_of(name.length);
        name.note = name.note_room = name.members = 0;
        store_key(self, heap, keys, name.length);
        store_name(self, first + i, &name);
        keys += name.length;
        heap += name.room;
        cell += name.width;
    }
    PUT(LONG_NUMBER(self, HEAP_USED), heap);
    PUT(NUMBER(self, CELLS_USED), cell);
    for (Py_ssize_t i = 0; i < n; i++) {
        Record name = given_name(records, i);
        count_name(self, &name, 1);
    }
    STOP_POINT();
    PUT(NUMBER(self, COUNT), first + (uint32_t)n);
    STOP_POINT();
    for (Py_ssize_t i = 0; i < n; i++) {
        if (enter_name(self, first + i, GET(&self->names[first + i].hash)) < 0)
            return -1;
    }
    PUT(NUMBER(self, CHANGING), changing);
    return 0;
}

static PyObject *
NameIndex_append(NameIndex *self, PyObject *args)
{
    Py_buffer keys, records;
    if (!PyArg_ParseTuple(args, "y*y*", &keys, &records))
        return NULL;
    PyObject *result = NULL;
    Py_ssize_t n = NameIndex_is_open(self, 1) ? names_that_fit(self, &keys, &records) : -1;
    if (n >= 0) {
        uint32_t first = GET(NUMBER(self, COUNT));
        if (append_names(self, keys.buf, &records, n) == 0)
            result = PyLong_FromUnsignedLong(first);
    }
    PyBuffer_Release(&keys);
    PyBuffer_Release(&records);
    return result;
}

/* Have nothing in the place of a note: it was another name's. */
static void
empty_note(NameIndex *self, const Record *name)
{
    if (!is_in_heap(self, name->note, name->note_room))
        return;
    uint64_t *place = (uint64_t *)(void *)(self->heap + name->note);
    for (size_t i = 0; i < name->note_room / 8; i++)
        PUT(place + i, 0);
}

static PyObject *
NameIndex_replace(NameIndex *self, PyObject *args)
{
    Py_ssize_t number;
    PyObject *key;
    Py_buffer record;
    if (!PyArg_ParseTuple(args, "nSy*", &number, &key, &record))
        return NULL;
    PyObject *result = NULL;
    if (NameIndex_is_open(self, 1) && is_number(self, number)) {
        Record name, former = load_name(self, number);
        size_t length = (size_t)PyBytes_GET_SIZE(key);
        int fits = record.len == (Py_ssize_t)sizeof name;
        if (fits)
            memcpy(&name, record.buf, sizeof name);
        if (fits && name.width == former.width && former.state == RECORD_REMOVED && length <= former.room
            && is_in_heap(self, former.key, former.room)) {
            name.state = RECORD_LIVE;
            name.cell = former.cell;
            name.hash = hash_of((const unsigned char *)PyBytes_AS_STRING(key), length, self->salt) ^ name.declaration;
            name.key = former.key;
            name.room = former.room;
            name.length = (uint32_t)length;
            name.note = former.note;
            name.note_room = former.note_room;
            name.members = 0;
            store_key(self, name.key, PyBytes_AS_STRING(key), length);
            empty_note(self, &name);
            store_name(self, number, &name);
            count_name(self, &name, 1);
            if (enter_name(self, number, name.hash) == 0)
                result = Py_NewRef(Py_None);
        }
        else
            damaged(number);
    }
    PyBuffer_Release(&record);
    return result;
}

static PyObject *
NameIndex_discard(NameIndex *self, PyObject *given)
{
    PyObject *numbers = PySequence_Fast(given, "the numbers must be a sequence");
    if (numbers == NULL || !NameIndex_is_open(self, 1)) {
        Py_XDECREF(numbers);
        return NULL;
    }
    int failed = 0;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(numbers) && !failed; i++) {
        Py_ssize_t number = PyNumber_AsSsize_t(PySequence_Fast_GET_ITEM(numbers, i), PyExc_OverflowError);
        failed = (number == -1 && PyErr_Occurred()) || !is_number(self, number);
        if (failed)
            break;
        Record name = load_name(self, number);
        failed = leave_name(self, number, name.hash) < 0;
        name.state = RECORD_REMOVED;
        uint64_t word;
        memcpy(&word, &name, sizeof word);
        PUT((uint64_t *)(void *)(self->names + number), word);
        STOP_POINT();
        count_name(self, &name, -1);
    }
    Py_DECREF(numbers);
    return failed ? NULL : Py_NewRef(Py_None);
}

static PyObject *
NameIndex_enter(NameIndex *self, PyObject *args)
{
    Py_ssize_t number;
    unsigned int hash;
    if (!PyArg_ParseTuple(args, "nI", &number, &hash) || !NameIndex_is_open(self, 1) || !is_number(self, number)
        || enter_name(self, number, hash) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
NameIndex_leave(NameIndex *self, PyObject *args)
{
    Py_ssize_t number;
    unsigned int hash;
    if (!PyArg_ParseTuple(args, "nI", &number, &hash) || !NameIndex_is_open(self, 1) || !is_number(self, number)
        || leave_name(self, number, hash) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
NameIndex_rebuild(NameIndex *self, PyObject *Py_UNUSED(ignored))
{
    if (!NameIndex_is_open(self, 1))
        return NULL;
    uint32_t mask = mask_of(self), count = GET(NUMBER(self, COUNT));
    uint32_t *index = PyMem_Calloc((size_t)mask + 1, sizeof *index);
    if (index == NULL)
        return PyErr_NoMemory();
    if (count > (uint32_t)self->capacity)
        count = (uint32_t)self->capacity;
    for (uint32_t number = 0, entered = 0; number < count && entered <= mask; number++) {
        Record name = load_name(self, number);
        if (name.state != RECORD_LIVE)
            continue;
        uint32_t slot = name.hash & mask;
        while (index[slot] != 0)
            slot = (slot + 1) & mask;
        index[slot] = number + 1;
        entered++;
    }
    for (uint32_t slot = 0; slot <= mask; slot++)
        PUT(self->index + slot, index[slot]);
    PyMem_Free(index);
    Py_RETURN_NONE;
}

static PyObject *
NameIndex_close(NameIndex *self, PyObject *Py_UNUSED(ignored))
{
    NameIndex_forget(self);
    Py_RETURN_NONE;
}

static PyMethodDef NameIndex_methods[] = {
    {"hash", (PyCFunction)NameIndex_hash, METH_O, NULL},
    {"discard", (PyCFunction)NameIndex_discard, METH_O, NULL},
    {"find", FUNCTION(NameIndex_find), METH_FASTCALL, NULL},
    NO_ARGUMENTS(NameIndex, usage),
    POSITIONAL(NameIndex, append),
    POSITIONAL(NameIndex, replace),
    POSITIONAL(NameIndex, enter),
    POSITIONAL(NameIndex, leave),
    NO_ARGUMENTS(NameIndex, rebuild),
    NO_ARGUMENTS(NameIndex, close),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot NameIndex_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The index of a block's names.")},
    {Py_tp_init, NameIndex_init},
    COLLECTED_SLOTS(NameIndex),
    {Py_tp_methods, NameIndex_methods},
    {0, NULL},
};

static PyType_Spec NameIndex_spec = {
    .name = "shmstats.core._cells.NameIndex",
    .basicsize = sizeof(NameIndex),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = NameIndex_slots,
};

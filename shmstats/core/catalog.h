/* A reader's catalog of a copy of the records: the series that are shown, as columns of numbers. */

/* How a mode treats a gauge: unknown; one column, or a sum of contributions; combined, apart from the others. */
enum { MODE_UNKNOWN = 0, MODE_SUMMED = 1, MODE_COMBINED = 2 };

/* The lists, and the bytes of an item of each list. */
enum { LIST_NUMBERS, LIST_CELLS, LIST_WIDTHS, LIST_KINDS, LIST_MODES, LIST_ASIDE, LIST_NOTED, LISTS };
static const unsigned char item_sizes[LISTS] = {4, 4, 4, 1, 1, 4, 4};

typedef struct {
    Py_buffer records, modes;
    Py_ssize_t columns;
    PyObject *list[LISTS]; /* bytes objects with room for all records; they are cut at the end */
    Py_ssize_t used[LISTS];
} Listing;

static inline int
is_shown(const Record *record)
{
    return record->state == RECORD_LIVE && !(record->flags & FLAG_FAMILY) && record->declaration == 0;
}

static inline void
list_number(Listing *self, int list, uint32_t number)
{
    ((uint32_t *)(void *)PyBytes_AS_STRING(self->list[list]))[self->used[list]++] = number;
}

static inline void
list_byte(Listing *self, int list, uint8_t byte)
{
    PyBytes_AS_STRING(self->list[list])[self->used[list]++] = (char)byte;
}

/* List all shown records; 0 if one has an invalid kind, mode or place of cells. */
static int
list_records(Listing *self, const Record *record, uint32_t count)
{
    for (uint32_t number = 0; number < count; number++, record++) {
        if (!is_shown(record))
            continue;
        uint8_t mode = ((const uint8_t *)self->modes.buf)[record->mode];
        if (record->kind < KIND_COUNTER || record->kind > KIND_TIMESTAMP || mode == MODE_UNKNOWN || !fits_kind(record)
            || (uint64_t)record->cell + record->width > (uint64_t)self->columns)
            return 0;
        if (record->note_room != 0)
            list_number(self, LIST_NOTED, number);
        if (mode == MODE_COMBINED) {
            list_number(self, LIST_ASIDE, number);
            continue;
        }
        list_number(self, LIST_NUMBERS, number);
        list_number(self, LIST_CELLS, record->cell);
        list_number(self, LIST_WIDTHS, record->width);
        list_byte(self, LIST_KINDS, record->kind);
        list_byte(self, LIST_MODES, record->mode);
    }
    return 1;
}

/* Make the lists; NULL with an exception set. */
static PyObject *
listed(Listing *self)
{
    const Py_ssize_t count = self->records.len / (Py_ssize_t)sizeof(Record);
    int sound;
    for (int i = 0; i < LISTS; i++)
        if ((self->list[i] = PyBytes_FromStringAndSize(NULL, count * item_sizes[i])) == NULL)
            return NULL;
    Py_BEGIN_ALLOW_THREADS
    sound = list_records(self, self->records.buf, (uint32_t)count);
    Py_END_ALLOW_THREADS
    if (!sound) {
        PyErr_SetString(PyExc_BufferError, "a record has a kind, a mode or cells that cannot be");
        return NULL;
    }
    PyObject *result = PyTuple_New(LISTS);
    for (int i = 0; result != NULL && i < LISTS; i++) {
        if (_PyBytes_Resize(&self->list[i], self->used[i] * item_sizes[i]) < 0)
            Py_CLEAR(result);
        else
            PyTuple_SET_ITEM(result, i, Py_NewRef(self->list[i]));
    }
    return result;
}

static PyObject *
list_series(PyObject *Py_UNUSED(module), PyObject *args)
{
    Listing self = {0};
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*y*n", &self.records, &self.modes, &self.columns))
        return NULL;
    if (self.records.len % (Py_ssize_t)sizeof(Record) || self.modes.len != 256
        || self.records.len / (Py_ssize_t)sizeof(Record) >= NO_GROUP
        || (uintptr_t)self.records.buf % _Alignof(Record))
        PyErr_SetString(PyExc_ValueError, "these are not whole records, and 256 modes");
    else
        result = listed(&self);
    for (int i = 0; i < LISTS; i++)
        Py_XDECREF(self.list[i]);
    PyBuffer_Release(&self.records);
    PyBuffer_Release(&self.modes);
    return result;
}

/* What a reader's catalog has of a copy of the records: the series that are shown, in columns of numbers. */

/* What a mode makes of a gauge: it is none; a column, or a sum of contributions; combined, and apart from the others. */
enum { MODE_UNKNOWN = 0, MODE_SUMMED = 1, MODE_COMBINED = 2 };

typedef struct {
    Py_buffer records, modes;
    Py_ssize_t columns;
    uint32_t *numbers, *cells, *widths, *aside;
    uint8_t *kind, *mode;
    Py_ssize_t count, aside_count;
} Listing;

static inline int
is_shown(const Record *record)
{
    return record->state == RECORD_LIVE && !(record->flags & FLAG_FAMILY) && record->declaration == 0;
}

/* Have the columns of all records that are shown; 0 where one has a kind, a mode or cells that cannot be. */
static int
list_records(Listing *self, const Record *record, uint32_t count)
{
    for (uint32_t number = 0; number < count; number++, record++) {
        if (!is_shown(record))
            continue;
        uint8_t mode = ((const uint8_t *)self->modes.buf)[record->mode];
        if (record->kind < KIND_COUNTER || record->kind > KIND_TIMESTAMP || mode == MODE_UNKNOWN || record->width < 2
            || (uint64_t)record->cell + record->width > (uint64_t)self->columns)
            return 0;
        if (mode == MODE_COMBINED) {
            self->aside[self->aside_count++] = number;
            continue;
        }
        Py_ssize_t at = self->count++;
        self->numbers[at] = number;
        self->cells[at] = record->cell;
        self->widths[at] = record->width;
        self->kind[at] = record->kind;
        self->mode[at] = record->mode;
    }
    return 1;
}

static PyObject *
listed(const Listing *self)
{
    Py_ssize_t words = self->count * 4;
    return Py_BuildValue("y#y#y#y#y#y#", (const char *)self->numbers, words, (const char *)self->cells, words,
                         (const char *)self->widths, words, (const char *)self->kind, self->count,
                         (const char *)self->mode, self->count, (const char *)self->aside, self->aside_count * 4);
}

static PyObject *
list_series(PyObject *Py_UNUSED(module), PyObject *args)
{
    Listing self = {0};
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*y*n", &self.records, &self.modes, &self.columns))
        return NULL;
    size_t count = (size_t)self.records.len / sizeof(Record);
    uint32_t *room = malloc(count * (4 * sizeof *room + 2) + 1);
    if (self.records.len % (Py_ssize_t)sizeof(Record) || count >= NO_GROUP || self.modes.len != 256
        || (uintptr_t)self.records.buf % _Alignof(Record))
        PyErr_SetString(PyExc_ValueError, "these are not whole records, and 256 modes");
    else if (room == NULL)
        PyErr_NoMemory();
    else {
        int sound;
        self.numbers = room;
        self.cells = room + count;
        self.widths = room + 2 * count;
        self.aside = room + 3 * count;
        self.kind = (uint8_t *)(room + 4 * count);
        self.mode = self.kind + count;
        Py_BEGIN_ALLOW_THREADS
        sound = list_records(&self, self.records.buf, (uint32_t)count);
        Py_END_ALLOW_THREADS
        if (sound)
            result = listed(&self);
        else
            PyErr_SetString(PyExc_BufferError, "a record has a kind, a mode or cells that cannot be");
    }
    free(room);
    PyBuffer_Release(&self.records);
    PyBuffer_Release(&self.modes);
    return result;
}

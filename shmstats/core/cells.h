/* The Python type Cells: the cells of one attached block, or a buffer for them, and the operations on them by row and
 * column. */

static void
Cells_forget(Cells *self)
{
    self->generation = &no_generation;
    self->gate = &no_generation;
    self->first = NULL;
    self->takeovers = NULL;
    self->held = NULL;
    PyMem_RawFree(self->buffered);
    PyMem_RawFree(self->dirty);
    self->buffered = self->flushes = self->durations = NULL;
    self->dirty = NULL;
    self->n_dirty = 0;
    release(&self->buffer);
}

static void
Cells_unlink(Cells *self)
{
    for (Cells **link = &all_cells; *link != NULL; link = &(*link)->next) {
        if (*link == self) {
            *link = self->next;
            return;
        }
    }
}

static PyObject *
Cells_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"buffer",  "offset", "rows",  "capacity",     "row_bytes", "generation_offset", "owner",
                            "is_live", "locks",  "limit", "held_offset",  "flush",     "target",            "pages",
                            "bitmap_bytes", NULL};
    PyObject *source, *is_live, *locks, *flush = Py_None, *target = NULL; /* locks: for the twin */
    Py_ssize_t offset, rows, capacity, row_bytes, generation_offset, held_offset = 0, pages = 0, bitmap_bytes = 0;
    unsigned int owner;
    unsigned long long limit = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OnnnnnIOO|KnOO!nn", names, &source, &offset, &rows, &capacity,
                                     &row_bytes, &generation_offset, &owner, &is_live, &locks, &limit, &held_offset,
                                     &flush, type, &target, &pages, &bitmap_bytes))
        return NULL;
    Cells *self = (Cells *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->generation = self->gate = &no_generation;
    self->is_live = Py_NewRef(is_live);
    self->flush = Py_NewRef(flush);
    self->next = all_cells;
    all_cells = self;
    if (PyObject_GetBuffer(source, &self->buffer, PyBUF_WRITABLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    if (offset < 0 || rows < 1 || capacity < 1 || owner == 0 || capacity > row_bytes / (Py_ssize_t)sizeof(Cell)
        || generation_offset < 0 || generation_offset % 8 || offset % (Py_ssize_t)sizeof(Cell)
        || generation_offset > self->buffer.len - 8 || held_offset < 0 || held_offset % 8
        || held_offset > self->buffer.len - 8 || pages < 0 || bitmap_bytes < 0
        || (bitmap_bytes && rows > (self->buffer.len - pages) / bitmap_bytes)
        || (bitmap_bytes && capacity > bitmap_bytes * 8 * (Py_ssize_t)CELLS_PER_PAGE) || rows > (self->buffer.len - offset) / row_bytes) {
        PyErr_SetString(PyExc_ValueError, "the cells do not fit into the buffer");
        Py_DECREF(self);
        return NULL;
    }
    char *base = self->buffer.buf;
    self->first = (Cell *)(base + offset);
    self->rows = rows;
    self->capacity = capacity;
    self->row_bytes = row_bytes;
    self->pages = pages;
    self->bitmap_bytes = bitmap_bytes;
    self->owner = owner;
    if (limit) {
        self->buffered = PyMem_RawCalloc((size_t)capacity, sizeof(Cell));
        self->dirty = PyMem_RawCalloc((size_t)capacity, sizeof(uint32_t));
        self->target = (Cells *)Py_XNewRef(target);
        if (self->buffered == NULL || self->dirty == NULL) {
            Py_DECREF(self);
            return PyErr_NoMemory();
        }
        self->first = self->buffered;
        self->rows = 1;
        self->limit = limit;
        self->held = (uint64_t *)(base + held_offset);
    }
    self->generation = self->gate = (const uint64_t *)(base + generation_offset);
    return (PyObject *)self;
}

static void
Cells_last(Cells *self)
{
    Cells_unlink(self);
    Cells_forget(self);
    Py_CLEAR(self->scale);
}

#define CELLS_REFERENCES(X) X(is_live) X(flush) X(target)
COLLECTED(Cells, CELLS_REFERENCES, Cells_last(self))

/* The address of a series with so many cells, or NULL with an exception set. */
static Cell *
Cells_at(Cells *self, Py_ssize_t row, Py_ssize_t column, Py_ssize_t width)
{
    if (self->generation == &no_generation) {
        PyErr_SetString(PyExc_ValueError, "the cells are closed");
        return NULL;
    }
    if (row < 0 || row >= self->rows || column < 0 || column > self->capacity - width) {
        PyErr_Format(PyExc_IndexError, "no cell at row %zd, column %zd: there are %zd rows of %zd", row, column,
                     self->rows, self->capacity);
        return NULL;
    }
    return cell_at(self, row, column);
}

/* The sum of a counter's column over all rows that have memory there, saturated; its lock in one row is given. */
static int64_t
total_of(const Cells *cells, const Cell *cell)
{
    const char *base = cells->buffer.buf;
    Py_ssize_t place = ((const char *)cell - (const char *)cells->first) % cells->row_bytes;
    Py_ssize_t page = (place + LOCK_CELLS * (Py_ssize_t)sizeof(Cell)) / PAGE_BYTES;
    __int128 total = 0;
    for (Py_ssize_t row = 0; row < cells->rows; row++) {
        const unsigned char *reserved = (const unsigned char *)base + cells->pages + row * cells->bitmap_bytes;
        if (reserved[page / 8] >> (page % 8) & 1)
            total += load_value((const Cell *)((const char *)cells->first + row * cells->row_bytes + place), 0);
    }
    return total > INT64_MAX ? INT64_MAX : total < INT64_MIN ? INT64_MIN : (int64_t)total;
}

static PyObject *
answer(Outcome outcome)
{
    return outcome == FAILED ? NULL : PyBool_FromLong(outcome == DONE);
}

static PyObject *
Cells_add(Cells *self, PyObject *args)
{
    Py_ssize_t row, column;
    long long n;
    unsigned long long generation;
    if (!PyArg_ParseTuple(args, "nnLK", &row, &column, &n, &generation))
        return NULL;
    Cell *cell = Cells_at(self, row, column, LOCK_CELLS + 1);
    return cell == NULL ? NULL : answer(add_integer(self, cell, generation, n));
}

/* The series with so many cells at a row and column, which are the arguments; NULL with an exception set. */
static Cell *
Cells_given(Cells *self, PyObject *args, Py_ssize_t width)
{
    Py_ssize_t row, column;
    return PyArg_ParseTuple(args, "nn", &row, &column) ? Cells_at(self, row, column, width) : NULL;
}

static PyObject *
Cells_load(Cells *self, PyObject *args)
{
    Cell *cell = Cells_given(self, args, LOCK_CELLS + 1);
    return cell == NULL ? NULL : PyLong_FromLongLong(load_value(cell, 0));
}

static PyObject *
Cells_clear_values(Cells *self, PyObject *args)
{
    Py_ssize_t row, column, width;
    int is_histogram = 0;
    if (!PyArg_ParseTuple(args, "nnn|p", &row, &column, &width, &is_histogram))
        return NULL;
    Cell *cell = Cells_at(self, row, column, width);
    if (cell == NULL)
        return NULL;
    Outcome outcome = lock(self, cell);
    if (outcome == DONE) {
        empty(cell, width, is_histogram);
        unlock(cell);
    }
    return answer(outcome);
}

static PyObject *
Cells_load_gauge(Cells *self, PyObject *args)
{
    Cell *cell = Cells_given(self, args, LOCK_CELLS + REAL + 1);
    if (cell == NULL)
        return NULL;
    Number number = gauge_number(cell);
    return number.is_integer ? PyLong_FromLongLong(number.integer) : PyFloat_FromDouble(number.real);
}

static int
parse_contributor(PyObject *tuple, Contributor *by)
{
    long long owner;
    int live, stamped, apart;
    if (!PyArg_ParseTuple(tuple, "Lppp", &owner, &live, &stamped, &apart))
        return -1;
    *by = (Contributor){owner, (char)live, (char)stamped, (char)apart};
    return 0;
}

/* Set a gauge, or add to it. */
static PyObject *
change_gauge(Cells *self, PyObject *args, int adds)
{
    Py_ssize_t row, column;
    PyObject *value, *tuple = NULL;
    unsigned long long generation;
    long long seen = 0;
    int anew = 0;
    Contributor by = {0, 0, 0, 0};
    Number number;
    if (!PyArg_ParseTuple(args, "nnOK|O!Lp", &row, &column, &value, &generation, &PyTuple_Type, &tuple, &seen, &anew))
        return NULL;
    if (tuple != NULL && parse_contributor(tuple, &by) < 0)
        return NULL;
    Cell *cell = Cells_at(self, row, column, LOCK_CELLS + (by.owner ? MOMENT + 1 : REAL + 1));
    if (cell == NULL)
        return NULL;
    if (!plain_number(value, &number))
        Py_RETURN_FALSE;
    return answer(adds ? add_to_gauge(self, cell, generation, number, by, seen, anew)
                       : set_gauge(self, cell, generation, number, by));
}

static PyObject *
Cells_set_gauge(Cells *self, PyObject *args)
{
    return change_gauge(self, args, 0);
}

static PyObject *
Cells_add_gauge(Cells *self, PyObject *args)
{
    return change_gauge(self, args, 1);
}

static PyObject *
Cells_add_distribution(Cells *self, PyObject *args)
{
    Py_ssize_t row, column;
    double sum, maximum, minimum;
    PyObject *buckets;
    unsigned long long generation;
    if (!PyArg_ParseTuple(args, "nndddO!K", &row, &column, &sum, &maximum, &minimum, &PyTuple_Type, &buckets,
                          &generation))
        return NULL;
    Py_ssize_t n_buckets = PyTuple_GET_SIZE(buckets);
    Cell *cell = Cells_at(self, row, column, LOCK_CELLS + BUCKETS + n_buckets);
    if (cell == NULL)
        return NULL;
    int64_t any = 0;
    for (Py_ssize_t i = 0; i < n_buckets; i++) {
        int64_t n = PyLong_AsLongLong(PyTuple_GET_ITEM(buckets, i));
        if (n == -1 && PyErr_Occurred())
            return NULL;
        any |= n;
    }
    Outcome outcome = lock_bound(self, cell, generation);
    if (outcome == DONE) {
        uint32_t seq = begin_write(cell);
        add_to_moments(cell, sum, maximum, any ? bits_of(minimum > 0 ? minimum : 0) + 1 : 0);
        for (Py_ssize_t i = 0; i < n_buckets; i++)
            add_to_value(cell, BUCKETS + i, PyLong_AsLongLong(PyTuple_GET_ITEM(buckets, i)));
        end_write(cell, seq);
        unlock(cell);
    }
    return answer(outcome);
}

static PyObject *
Cells_discard(Cells *self, PyObject *args)
{
    Py_ssize_t column, width;
    if (!PyArg_ParseTuple(args, "nn", &column, &width))
        return NULL;
    Cell *cell = Cells_at(self, 0, column, width);
    if (cell == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < width - LOCK_CELLS; i++)
        store_value(cell, i, 0);
    Py_RETURN_NONE;
}

static PyObject *
Cells_route(Cells *self, PyObject *args)
{
    Py_ssize_t column, width, row;
    if (!PyArg_ParseTuple(args, "nnn", &column, &width, &row))
        return NULL;
    Cell *cell = Cells_at(self, 0, column, width);
    if (cell == NULL)
        return NULL;
    if (self->target == NULL || width <= LOCK_CELLS || width > WIDTH_MASK || Cells_at(self->target, row, column, width) == NULL) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "%zd cells cannot be buffered", width);
        return NULL;
    }
    cell->lock = (uint32_t)(row << ROW_SHIFT | width);
    Py_RETURN_NONE;
}

static PyObject *
Cells_flush(Cells *self, PyObject *args)
{
    unsigned long long generation;
    if (!PyArg_ParseTuple(args, "K", &generation))
        return NULL;
    return answer(flush_buffer(self, generation));
}

static PyObject *
Cells_note_flushes(Cells *self, PyObject *args)
{
    Py_ssize_t row, flushes, row_of_durations, durations;
    PyObject *scale;
    if (!PyArg_ParseTuple(args, "nnnnS", &row, &flushes, &row_of_durations, &durations, &scale))
        return NULL;
    if (self->target == NULL || buckets_of(scale) == 0) {
        PyErr_SetString(PyExc_ValueError, "these bytes are no scale of a histogram, or the cells are no buffer");
        return NULL;
    }
    Py_ssize_t width = LOCK_CELLS + BUCKETS + buckets_of(scale);
    Cell *counter = Cells_at(self->target, row, flushes, LOCK_CELLS + 1);
    Cell *histogram = counter == NULL ? NULL : Cells_at(self->target, row_of_durations, durations, width);
    if (histogram == NULL)
        return NULL;
    self->flushes = counter;
    self->durations = histogram;
    Py_INCREF(scale);
    Py_XSETREF(self->scale, scale);
    Py_RETURN_NONE;
}

static PyObject *
Cells_raise_generation(Cells *self, PyObject *Py_UNUSED(ignored))
{
    if (self->generation == &no_generation) {
        PyErr_SetString(PyExc_ValueError, "the cells are closed");
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(
        __atomic_add_fetch((uint64_t *)(uintptr_t)self->generation, 1, __ATOMIC_SEQ_CST));
}

static PyObject *
Cells_count_takeovers_at(Cells *self, PyObject *args)
{
    Cell *cell = Cells_given(self, args, LOCK_CELLS + 1);
    if (cell == NULL)
        return NULL;
    self->takeovers = cell;
    Py_RETURN_NONE;
}

static PyObject *
Cells_close(Cells *self, PyObject *Py_UNUSED(ignored))
{
    Cells_forget(self);
    Py_RETURN_NONE;
}

static PyObject *
Cells_get_direct(Cells *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->gate != &no_generation);
}

static int
Cells_set_direct(Cells *self, PyObject *value, void *Py_UNUSED(closure))
{
    int direct = value == NULL ? -1 : PyObject_IsTrue(value);
    if (direct < 0) {
        if (value == NULL)
            PyErr_SetString(PyExc_AttributeError, "direct cannot be deleted");
        return -1;
    }
    self->gate = direct ? self->generation : &no_generation;
    return 0;
}

static PyObject *
Cells_get_generation(Cells *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(current(self->generation));
}

static PyMethodDef Cells_methods[] = {
    {"clear", (PyCFunction)Cells_clear_values, METH_VARARGS, NULL},
    POSITIONAL(Cells, add),
    POSITIONAL(Cells, load),
    POSITIONAL(Cells, load_gauge),
    POSITIONAL(Cells, set_gauge),
    POSITIONAL(Cells, add_gauge),
    POSITIONAL(Cells, add_distribution),
    POSITIONAL(Cells, discard),
    POSITIONAL(Cells, route),
    POSITIONAL(Cells, flush),
    POSITIONAL(Cells, note_flushes),
    POSITIONAL(Cells, count_takeovers_at),
    NO_ARGUMENTS(Cells, raise_generation),
    NO_ARGUMENTS(Cells, close),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef Cells_getset[] = {
    {"direct", (getter)Cells_get_direct, (setter)Cells_set_direct, NULL, NULL},
    {"generation", (getter)Cells_get_generation, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

TYPE(Cells, Cells, "The cells of one attached block, seen by one worker.", FINAL,
     {Py_tp_new, Cells_new}, COLLECTED_SLOTS(Cells), {Py_tp_methods, Cells_methods}, {Py_tp_getset, Cells_getset})

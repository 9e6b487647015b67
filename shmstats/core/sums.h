/* The sums of columns over all rows: the counts of all workers together. */

/* The place of the cells of a block. */
typedef struct {
    const char *base;
    Py_ssize_t cells, row_bytes, rows;
    Py_ssize_t pages, bitmap_bytes; /* offset of the bitmaps of pages that have memory; from one to the next */
    Py_ssize_t columns;             /* to sum */
} Grid;

static int
is_within(const Grid *grid, Py_ssize_t size)
{
    return grid->cells >= 0 && grid->cells % (Py_ssize_t)sizeof(Cell) == 0 && grid->pages >= 0 && grid->rows >= 1
           && grid->columns >= 0 && grid->row_bytes >= 1 && grid->row_bytes % (Py_ssize_t)sizeof(Cell) == 0
           && grid->columns <= grid->row_bytes / (Py_ssize_t)sizeof(Cell) && grid->bitmap_bytes >= 1
           && grid->columns <= grid->bitmap_bytes * 8 * (Py_ssize_t)CELLS_PER_PAGE
           && grid->rows <= (size - grid->cells) / grid->row_bytes
           && grid->rows <= (size - grid->pages) / grid->bitmap_bytes && grid->rows <= INT16_MAX;
}

/* Add one row's part of a page to the sums. carry collects overflows of 64 bits; the result is whether there were any.
 *
 * Loads are ordered: of a shared gauge, seq is read before the value that it selects. */
static inline int
add_cells(const Cell *from, Py_ssize_t count, int64_t *sums, int16_t *carry)
{
    int carried = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        int64_t value = __atomic_load_n(&from[i].value, __ATOMIC_ACQUIRE);
        if (UNLIKELY(__builtin_add_overflow(sums[i], value, &sums[i]))) {
            carry[i] = (int16_t)(carry[i] + (value > 0 ? 1 : -1));
            carried = 1;
        }
    }
    return carried;
}

/* Sum one page of columns over the rows that have memory for it. */
static void
sum_page(const Grid *grid, Py_ssize_t page, int64_t *sums)
{
    Py_ssize_t first = page * CELLS_PER_PAGE;
    Py_ssize_t count = grid->columns - first < CELLS_PER_PAGE ? grid->columns - first : CELLS_PER_PAGE;
    const unsigned char *bits = (const unsigned char *)grid->base + grid->pages + page / 8;
    int16_t carry[CELLS_PER_PAGE] = {0};
    int carried = 0;
    for (Py_ssize_t row = 0; row < grid->rows; row++) {
        if (!(bits[row * grid->bitmap_bytes] >> (page % 8) & 1))
            continue;
        const char *cells = grid->base + grid->cells + row * grid->row_bytes;
        carried |= add_cells((const Cell *)(const void *)cells + first, count, sums + first, carry);
    }
    for (Py_ssize_t i = 0; carried && i < count; i++)
        if (carry[i] != 0)
            sums[first + i] = carry[i] > 0 ? INT64_MAX : INT64_MIN;
}

/* Attempts to read a histogram that changes all the time. */
enum { HISTOGRAM_LOOKS = 100 };

/* Copy a histogram's values in one row, without the lock, as of one moment. If a writer was killed during a write, the
 * values are off by its one observation; they are accepted after some attempts. */
static void
copy_histogram(const Cell *from, Cell *to, Py_ssize_t width)
{
    for (int look = 0; look < HISTOGRAM_LOOKS; look++) {
        uint32_t before = __atomic_load_n(&from->seq, __ATOMIC_ACQUIRE);
        for (Py_ssize_t i = LOCK_CELLS; i < width; i++)
            to[i].value = __atomic_load_n(&from[i].value, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (!(before & 1) && __atomic_load_n(&from->seq, __ATOMIC_RELAXED) == before)
            return;
        RELAX();
    }
}

/* The nearest finite number; 0 for NaN. */
static double
to_finite(double number)
{
    return isnan(number) ? 0 : number > DBL_MAX ? DBL_MAX : number < -DBL_MAX ? -DBL_MAX : number;
}

/* Correct a total so that it can be shown, whatever a damaged block contains. */
static void
settle_histogram(Cell *total, Py_ssize_t width)
{
    double maximum = to_finite(load_double(total, MAXIMUM));
    store_double(total, SUM, to_finite(load_double(total, SUM)));
    store_double(total, MAXIMUM, maximum);
    int64_t kept = load_value(total, MINIMUM);
    uint64_t bits = (uint64_t)kept - 1;
    double minimum;
    memcpy(&minimum, &bits, sizeof minimum);
    if (kept != 0 && !(minimum >= 0 && minimum <= maximum))
        store_value(total, MINIMUM, 0);
    for (Py_ssize_t i = BUCKETS; i < width - LOCK_CELLS; i++)
        if (load_value(total, i) < 0)
            store_value(total, i, 0);
}

/* Store the total of a histogram in a row of totals, over the sums of its columns. */
static void
merge_histogram(const Grid *grid, Cell *total, Cell *copy, Py_ssize_t first, Py_ssize_t width)
{
    memset(total, 0, (size_t)width * sizeof *total);
    for (Py_ssize_t row = 0; row < grid->rows; row++) {
        if (!has_memory(grid->base + grid->pages + row * grid->bitmap_bytes, first, width))
            continue;
        const char *cells = grid->base + grid->cells + row * grid->row_bytes;
        copy_histogram((const Cell *)(const void *)cells + first, copy, width);
        add_values(total, copy, width);
    }
    settle_histogram(total, width);
}

/* The place of a histogram. */
typedef struct {
    uint32_t first, width;
} Span;

/* Return the largest width of some histograms; -1 if one is not within the columns. */
static Py_ssize_t
widest(const Span *spans, Py_ssize_t count, Py_ssize_t columns)
{
    Py_ssize_t most = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (spans[i].width < LOCK_CELLS + BUCKETS || (Py_ssize_t)spans[i].first + spans[i].width > columns)
            return -1;
        most = spans[i].width > most ? spans[i].width : most;
    }
    return most;
}

static PyObject *
merge_histograms(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer block, totals;
    Borrowed histograms;
    Grid grid;
    if (!PyArg_ParseTuple(args, "y*nnnnnw*y#", &block, &grid.cells, &grid.row_bytes, &grid.rows, &grid.pages,
                          &grid.bitmap_bytes, &totals, &histograms.buf, &histograms.len))
        return NULL;
    const Span *spans = histograms.buf;
    Py_ssize_t count = histograms.len / (Py_ssize_t)sizeof *spans;
    grid.base = block.buf;
    grid.columns = totals.len / (Py_ssize_t)sizeof(Cell);
    Py_ssize_t most = is_within(&grid, block.len) ? widest(spans, count, grid.columns) : -1;
    Cell *copy = most < 0 ? NULL : malloc((size_t)most * sizeof *copy + 1);
    if (most < 0)
        PyErr_SetString(PyExc_BufferError, "the cells do not fit into the block");
    else if (copy == NULL)
        PyErr_NoMemory();
    else {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < count; i++)
            merge_histogram(&grid, (Cell *)totals.buf + spans[i].first, copy, spans[i].first, spans[i].width);
        Py_END_ALLOW_THREADS
    }
    int failed = copy == NULL;
    free(copy);
    PyBuffer_Release(&block);
    PyBuffer_Release(&totals);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
sum_columns(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer block;
    Grid grid;
    if (!PyArg_ParseTuple(args, "y*nnnnnn", &block, &grid.cells, &grid.row_bytes, &grid.rows, &grid.pages,
                          &grid.bitmap_bytes, &grid.columns))
        return NULL;
    PyObject *result = NULL;
    grid.base = block.buf;
    if (!is_within(&grid, block.len))
        PyErr_SetString(PyExc_BufferError, "the cells do not fit into the block");
    else
        result = PyByteArray_FromStringAndSize(NULL, grid.columns * (Py_ssize_t)sizeof(int64_t));
    if (result != NULL) {
        int64_t *sums = (int64_t *)(void *)PyByteArray_AS_STRING(result);
        Py_BEGIN_ALLOW_THREADS
        memset(sums, 0, (size_t)grid.columns * sizeof *sums);
        for (Py_ssize_t page = 0; page * CELLS_PER_PAGE < grid.columns; page++)
            sum_page(&grid, page, sums);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&block);
    return result;
}

/* The sums of columns over all rows: what all workers together have counted. */

/* Where the cells of a block are. */
typedef struct {
    const char *base;
    Py_ssize_t cells, row_bytes, rows;
    Py_ssize_t pages, bitmap_bytes; /* offset of the bitmaps of pages that have memory; from one to the next */
    Py_ssize_t columns;             /* to be summed */
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

/* Add one row's part of a page to the sums; carry counts what left 64 bits, and says whether anything did.
 *
 * Loads are in order: of a gauge that all share, seq is seen before the value that it points at. */
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

/* Sum one page of columns over the rows that have memory behind it. */
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
        PyErr_SetString(PyExc_ValueError, "the cells do not fit into the block");
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

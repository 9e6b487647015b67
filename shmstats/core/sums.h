/* What a reader needs from C: the sums of columns over all rows. */

/* Add the pages of one row that have memory behind them to the sums; carry counts what left 64 bits. */
static void
add_row(const Cell *row, const unsigned char *reserved, Py_ssize_t columns, int64_t *sums, int16_t *carry)
{
    for (Py_ssize_t first = 0; first < columns; first += CELLS_PER_PAGE) {
        Py_ssize_t page = first / CELLS_PER_PAGE;
        if (!(reserved[page / 8] >> (page % 8) & 1))
            continue;
        Py_ssize_t last = first + CELLS_PER_PAGE < columns ? first + CELLS_PER_PAGE : columns;
        for (Py_ssize_t i = first; i < last; i++) {
            int64_t value = __atomic_load_n(&row[i].value, __ATOMIC_RELAXED);
            if (UNLIKELY(__builtin_add_overflow(sums[i], value, &sums[i])))
                carry[i] = (int16_t)(carry[i] + (value > 0 ? 1 : -1));
        }
    }
}

static PyObject *
sum_columns(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer block;
    Py_ssize_t cells, row_bytes, rows, pages, bitmap_bytes, columns;
    if (!PyArg_ParseTuple(args, "y*nnnnnn", &block, &cells, &row_bytes, &rows, &pages, &bitmap_bytes, &columns))
        return NULL;
    PyObject *result = NULL;
    int16_t *carry = NULL;
    if (cells < 0 || cells % (Py_ssize_t)sizeof(Cell) || pages < 0 || rows < 1 || columns < 0 || row_bytes < 1
        || row_bytes % (Py_ssize_t)sizeof(Cell) || columns > row_bytes / (Py_ssize_t)sizeof(Cell) || bitmap_bytes < 1
        || columns > bitmap_bytes * 8 * (Py_ssize_t)CELLS_PER_PAGE || rows > (block.len - cells) / row_bytes
        || rows > (block.len - pages) / bitmap_bytes || rows > INT16_MAX) {
        PyErr_SetString(PyExc_ValueError, "the cells do not fit into the block");
        goto end;
    }
    result = PyBytes_FromStringAndSize(NULL, columns * (Py_ssize_t)sizeof(int64_t));
    carry = PyMem_Calloc((size_t)columns + 1, sizeof *carry);
    if (result == NULL || carry == NULL) {
        Py_CLEAR(result);
        PyErr_NoMemory();
        goto end;
    }
    int64_t *sums = (int64_t *)(void *)PyBytes_AS_STRING(result);
    memset(sums, 0, (size_t)columns * sizeof *sums);
    const char *base = block.buf;
    for (Py_ssize_t row = 0; row < rows; row++)
        add_row((const Cell *)(const void *)(base + cells + row * row_bytes),
                (const unsigned char *)base + pages + row * bitmap_bytes, columns, sums, carry);
    for (Py_ssize_t i = 0; i < columns; i++) {
        if (UNLIKELY(carry[i] != 0))
            sums[i] = carry[i] > 0 ? INT64_MAX : INT64_MIN;
    }
end:
    PyMem_Free(carry);
    PyBuffer_Release(&block);
    return result;
}

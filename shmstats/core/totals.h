/* Totals: all rows merged into one. The operations on that row, except for writing its values as text. */

/* Add up counters in a row of totals by groups. */
static PyObject *
add_counters(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer totals;
    Borrowed cells, groups;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(args, "y*y#y#n", &totals, &cells.buf, &cells.len, &groups.buf, &groups.len, &count))
        return NULL;
    const Cell *total = totals.buf;
    const uint32_t *cell = cells.buf, *group = groups.buf;
    Py_ssize_t columns = totals.len / (Py_ssize_t)sizeof *total, counters = cells.len / (Py_ssize_t)sizeof *cell;
    int fits = cells.len == groups.len && count >= 0 && count <= PY_SSIZE_T_MAX / (Py_ssize_t)sizeof(int64_t);
    for (Py_ssize_t i = 0; fits && i < counters; i++)
        fits = (Py_ssize_t)cell[i] + LOCK_CELLS < columns && group[i] < count;
    PyObject *result = fits ? PyByteArray_FromStringAndSize(NULL, count * (Py_ssize_t)sizeof(int64_t)) : NULL;
    if (!fits)
        PyErr_SetString(PyExc_ValueError, "the counters are not within these totals and groups");
    if (result != NULL) {
        int64_t *sum = (int64_t *)(void *)PyByteArray_AS_STRING(result);
        memset(sum, 0, (size_t)count * sizeof *sum);
        for (Py_ssize_t i = 0; i < counters; i++)
            sum[group[i]] = saturating_add(sum[group[i]], total[cell[i] + LOCK_CELLS].value);
    }
    PyBuffer_Release(&totals);
    return result;
}

/* Add up histograms of the same width, each in a row of totals. */
static PyObject *
add_histograms(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer totals;
    Borrowed cells;
    Py_ssize_t width;
    if (!PyArg_ParseTuple(args, "y*y#n", &totals, &cells.buf, &cells.len, &width))
        return NULL;
    PyObject *result = NULL;
    const uint32_t *cell = cells.buf;
    Py_ssize_t columns = totals.len / (Py_ssize_t)sizeof(Cell), count = cells.len / (Py_ssize_t)sizeof *cell, i = 0;
    if (width > LOCK_CELLS + BUCKETS && width <= columns)
        while (i < count && cell[i] <= columns - width)
            i++;
    if (i < count || width <= LOCK_CELLS + BUCKETS)
        PyErr_SetString(PyExc_ValueError, "the histograms are not within these totals");
    else
        result = PyByteArray_FromStringAndSize(NULL, width * (Py_ssize_t)sizeof(Cell));
    if (result != NULL) {
        Cell *sum = (Cell *)(void *)PyByteArray_AS_STRING(result);
        memset(sum, 0, (size_t)width * sizeof *sum);
        for (i = 0; i < count; i++)
            add_values(sum, (const Cell *)totals.buf + cell[i], width);
        settle_histogram(sum, width);
    }
    PyBuffer_Release(&totals);
    return result;
}

/* The buckets of a histogram from the first non-empty one to the last: the number of the first, and their counts. */
static PyObject *
text_of_buckets(const Cell *bucket, Py_ssize_t count)
{
    Py_ssize_t first = 0;
    while (count > 0 && bucket[count - 1].value == 0)
        count--;
    while (first < count && bucket[first].value == 0)
        first++;
    unsigned char *text = PyMem_Malloc((size_t)(count - first) * (MOST_DIGITS + 1) + 1), *end = text;
    if (text == NULL)
        return PyErr_NoMemory();
    for (Py_ssize_t i = first; i < count; i++) {
        if (i > first)
            *end++ = ' ';
        end = write_integer(end, bucket[i].value);
    }
    PyObject *counts = PyUnicode_FromStringAndSize((const char *)text, end - text);
    PyMem_Free(text);
    return counts == NULL ? NULL : Py_BuildValue("(nN)", first, counts);
}

static PyObject *
text_buckets(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer totals;
    Borrowed cells, widths;
    if (!PyArg_ParseTuple(args, "y*y#y#", &totals, &cells.buf, &cells.len, &widths.buf, &widths.len))
        return NULL;
    const Cell *total = totals.buf;
    const uint32_t *cell = cells.buf, *width = widths.buf;
    Py_ssize_t columns = totals.len / (Py_ssize_t)sizeof *total, count = cells.len / (Py_ssize_t)sizeof *cell;
    int fits = cells.len == widths.len;
    for (Py_ssize_t i = 0; fits && i < count; i++)
        fits = width[i] > LOCK_CELLS + BUCKETS && (Py_ssize_t)cell[i] + (Py_ssize_t)width[i] <= columns;
    PyObject *result = fits ? PyList_New(count) : NULL;
    if (!fits)
        PyErr_SetString(PyExc_ValueError, "the histograms are not within these totals");
    const Py_ssize_t before = LOCK_CELLS + BUCKETS;
    for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
        PyObject *text = text_of_buckets(total + cell[i] + before, (Py_ssize_t)width[i] - before);
        if (text == NULL)
            Py_CLEAR(result);
        else
            PyList_SET_ITEM(result, i, text);
    }
    PyBuffer_Release(&totals);
    return result;
}

/* The sum of the contributions to a gauge. */
typedef struct {
    __int128 whole;
    double real;
    int is_real, is_finite;
} GaugeSum;

/* The owners whose contributions to live gauges count: signatures, ascending. */
typedef struct {
    const uint64_t *signature;
    Py_ssize_t count;
} Living;

static int
is_living(const Living *living, uint64_t signature)
{
    Py_ssize_t low = 0, high = living->count;
    while (low < high) {
        Py_ssize_t middle = (low + high) / 2;
        if (living->signature[middle] < signature)
            low = middle + 1;
        else
            high = middle;
    }
    return low < living->count && living->signature[low] == signature;
}

/* Add a row's contribution to a gauge. The owner is read again after the value, which may be another's otherwise. */
static void
add_contribution(GaugeSum *sum, const Cell *cell, const Living *living)
{
    for (;;) {
        uint64_t signature = (uint64_t)__atomic_load_n(&cell[LOCK_CELLS + OWNER].value, __ATOMIC_ACQUIRE);
        if (signature == 0 || (living != NULL && !is_living(living, signature)))
            return;
        int is_real = __atomic_load_n(&cell->seq, __ATOMIC_ACQUIRE) & 1;
        int64_t value = __atomic_load_n(&cell[LOCK_CELLS + (is_real ? REAL : INTEGER)].value, __ATOMIC_ACQUIRE);
        if ((uint64_t)__atomic_load_n(&cell[LOCK_CELLS + OWNER].value, __ATOMIC_ACQUIRE) != signature)
            continue;
        double real = (double)value;
        if (is_real)
            memcpy(&real, &value, sizeof real);
        else
            sum->whole += value;
        sum->real += real;
        sum->is_real |= is_real;
        sum->is_finite &= isfinite(real) != 0;
        return;
    }
}

static PyObject *
value_of_sum(const GaugeSum *sum)
{
    if (!sum->is_real)
        return PyLong_FromLongLong(sum->whole > INT64_MAX   ? INT64_MAX
                                   : sum->whole < INT64_MIN ? INT64_MIN
                                                            : (int64_t)sum->whole);
    return PyFloat_FromDouble(isinf(sum->real) && sum->is_finite ? copysign(DBL_MAX, sum->real) : sum->real);
}

/* Number of cells of a gauge with a value for each worker. */
enum { CONTRIBUTION_CELLS = LOCK_CELLS + MOMENT + 1 };

static PyObject *
sum_contributions(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer block;
    Borrowed cells, of_live, signatures;
    Grid grid;
    if (!PyArg_ParseTuple(args, "y*nnnnnny#y#y#", &block, &grid.cells, &grid.row_bytes, &grid.rows, &grid.pages,
                          &grid.bitmap_bytes, &grid.columns, &cells.buf, &cells.len, &of_live.buf, &of_live.len,
                          &signatures.buf, &signatures.len))
        return NULL;
    const uint32_t *cell = cells.buf;
    Living living = {signatures.buf, signatures.len / (Py_ssize_t)sizeof(uint64_t)};
    Py_ssize_t count = of_live.len;
    int fits = is_within(&grid, block.len) && cells.len == count * (Py_ssize_t)sizeof *cell;
    for (Py_ssize_t i = 0; fits && i < count; i++)
        fits = (Py_ssize_t)cell[i] + CONTRIBUTION_CELLS <= grid.columns;
    PyObject *result = fits ? PyList_New(count) : NULL;
    if (!fits)
        PyErr_SetString(PyExc_BufferError, "the cells do not fit into the block");
    grid.base = block.buf;
    for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
        GaugeSum sum = {.is_finite = 1};
        for (Py_ssize_t row = 0; row < grid.rows; row++)
            if (has_memory(grid.base + grid.pages + row * grid.bitmap_bytes, cell[i], CONTRIBUTION_CELLS)) {
                const char *start = grid.base + grid.cells + row * grid.row_bytes;
                int is_live = ((const uint8_t *)of_live.buf)[i];
                add_contribution(&sum, (const Cell *)(const void *)start + cell[i], is_live ? &living : NULL);
            }
        PyObject *value = value_of_sum(&sum);
        if (value == NULL)
            Py_CLEAR(result);
        else
            PyList_SET_ITEM(result, i, value);
    }
    PyBuffer_Release(&block);
    return result;
}

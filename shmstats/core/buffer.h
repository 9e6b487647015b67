/* Operations on cells, real-time or buffered. The caller of an operation has a reference to the cells.
 *
 * A buffer is a row in this process's own memory. It needs no locks, so the fields of a lock cell have other uses: lock
 * has the column's width and row, seq says that the column is in the list of dirty ones. A full buffer is flushed to
 * the block. */
enum { ROW_SHIFT = 16, WIDTH_MASK = 0xFFFF };

static Outcome held_too_many(Cells *cells, uint64_t generation);

/* Count one more operation in a buffer, and flush the buffer when it is full. */
static inline Outcome
held_one_more(Cells *cells, Cell *cell, uint64_t generation)
{
    if (UNLIKELY(!cell->seq)) {
        cell->seq = 1;
        cells->dirty[cells->n_dirty++] = (uint32_t)(cell - cells->buffered);
    }
    if (LIKELY(++*cells->held < cells->limit))
        return DONE;
    return held_too_many(cells, generation);
}

/* Like add_integer, but without a reference: it neither waits nor calls anything. Returns 0 if that is not possible;
 * then nothing was done. */
static inline int
add_at_once(Cells *cells, Cell *cell, uint64_t generation, int64_t n)
{
    if (LIKELY(cells->buffered == NULL)) {
        if (UNLIKELY(!lock_at_once(cells, cell, generation)))
            return 0;
        add_to_value(cell, 0, n);
        unlock(cell);
        return 1;
    }
    if (UNLIKELY(!cell->seq) || *cells->held + 1 >= cells->limit || current(cells->generation) != generation)
        return 0;
    add_to_value(cell, 0, n);
    ++*cells->held;
    return 1;
}

static inline Outcome
add_integer(Cells *cells, Cell *cell, uint64_t generation, int64_t n)
{
    if (cells->buffered != NULL) {
        if (UNLIKELY(current(cells->generation) != generation))
            return MISS;
        add_to_value(cell, 0, n);
        return held_one_more(cells, cell, generation);
    }
    Outcome outcome = lock_bound(cells, cell, generation);
    if (LIKELY(outcome == DONE)) {
        add_to_value(cell, 0, n);
        unlock(cell);
    }
    return outcome;
}

static inline Outcome
observe(Cells *cells, Cell *histogram, uint64_t generation, Py_ssize_t bucket, double value)
{
    if (cells->buffered != NULL) {
        if (UNLIKELY(current(cells->generation) != generation))
            return MISS;
        observe_unlocked(histogram, bucket, value);
        return held_one_more(cells, histogram, generation);
    }
    Outcome outcome = lock_bound(cells, histogram, generation);
    if (LIKELY(outcome == DONE)) {
        observe_locked(histogram, bucket, value);
        unlock(histogram);
    }
    return outcome;
}

static inline Outcome
set_gauge(Cells *cells, Cell *gauge, uint64_t generation, Number number, Contributor by)
{
    Outcome outcome = lock_bound(cells, gauge, generation);
    if (LIKELY(outcome == DONE)) {
        contribute(gauge, number, by);
        unlock(gauge);
    }
    return outcome;
}

/* Add to a gauge, whose lock is held. A separate contribution must be our own, or that of
 * ``seen``. With ``anew`` we begin at 0 instead of adding to that one. MISS if it has another owner by now. */
static inline Outcome
add_locked(Cell *gauge, Number n, Contributor by, int64_t seen, int anew)
{
    Number before = gauge_number(gauge);
    if (by.apart && UNLIKELY(load_value(gauge, OWNER) != by.owner)) {
        if (load_value(gauge, OWNER) != seen)
            return MISS;
        before = anew ? (Number){1, 0, 0.0} : before;
    }
    contribute(gauge, sum_of(before, n), by);
    return DONE;
}

static Outcome
add_to_gauge(Cells *cells, Cell *gauge, uint64_t generation, Number n, Contributor by, int64_t seen, int anew)
{
    Outcome outcome = lock_bound(cells, gauge, generation);
    if (LIKELY(outcome == DONE)) {
        outcome = add_locked(gauge, n, by, seen, anew);
        unlock(gauge);
    }
    return outcome;
}

/* Remove a column from the list of dirty ones. */
static void
mark_clean(Cells *cells, uint32_t column)
{
    Py_ssize_t i = cells->n_dirty;
    while (i > 0 && cells->dirty[i - 1] != column)
        i--;
    if (i > 0)
        cells->dirty[i - 1] = cells->dirty[--cells->n_dirty];
    cells->buffered[column].seq = 0;
}

/* Move one column of a buffer to the block; if that fails, the column stays as it was.
 *
 * Nothing is taken out before the lock is held: during the wait for it other threads may fill the buffer, flush it,
 * or close it, and must find everything that is not in the block yet. */
static Outcome
flush_column(Cells *cells, uint32_t column)
{
    Cells *target = cells->target;
    Cell *cell = &cells->buffered[column];
    Py_ssize_t width = cell->lock & WIDTH_MASK, row = cell->lock >> ROW_SHIFT;
    Cell *to = cell_at(target, row, column);
    Outcome outcome = lock_bound(target, to, current(cells->generation));
    if (UNLIKELY(outcome != DONE))
        return outcome;
    if (UNLIKELY(cells->buffered == NULL)) { /* it was closed meanwhile, and flushed before that */
        unlock(to);
        return MISS;
    }
    if (width == LOCK_CELLS + 1)
        add_to_value(to, 0, load_value(cell, 0));
    else {
        uint32_t seq = begin_write(to);
        add_values(to, cell, width);
        end_write(to, seq);
    }
    for (Py_ssize_t i = 0; i < width - LOCK_CELLS; i++)
        store_value(cell, i, 0);
    mark_clean(cells, column);
    unlock(to);
    return DONE;
}

/* Count a flush in the block, with its duration, unless names have changed meanwhile. */
static Outcome
note_flush(Cells *cells, uint64_t generation, int64_t start)
{
    Cell *flushes = cells->flushes, *durations = cells->durations; /* a wait may close the buffer */
    if (flushes == NULL)
        return DONE;
    double ms = 1e-6 * (double)(monotonic_nanoseconds() - start);
    Py_ssize_t bucket = bucket_of(scale_in(cells->scale), ms);
    Outcome outcome = add_integer(cells->target, flushes, generation, 1);
    if (outcome == DONE)
        outcome = observe(cells->target, durations, generation, bucket, ms);
    return outcome == FAILED ? FAILED : DONE;
}

/* Move everything in a buffer to the block; MISS if the names have changed since it was bound. */
static Outcome
flush_buffer(Cells *cells, uint64_t generation)
{
    if (cells->buffered == NULL || cells->target->first == NULL || current(cells->generation) != generation)
        return MISS;
    int64_t start = monotonic_nanoseconds();
    *cells->held = 0;
    while (cells->n_dirty > 0) {
        Outcome outcome = flush_column(cells, cells->dirty[cells->n_dirty - 1]);
        if (UNLIKELY(cells->buffered == NULL))
            return outcome;
        if (UNLIKELY(outcome != DONE)) {
            ++*cells->held; /* the buffer is not empty */
            return outcome;
        }
    }
    return note_flush(cells, generation, start);
}

/* Flush a full buffer; if that is not possible here, call Python to do it. */
static Outcome
held_too_many(Cells *cells, uint64_t generation)
{
    Py_INCREF(cells); /* during the wait for a lock, the handle that led here may be bound elsewhere */
    Outcome outcome = flush_buffer(cells, generation);
    if (UNLIKELY(outcome == MISS)) {
        PyObject *flushed = PyObject_CallNoArgs(cells->flush);
        Py_XDECREF(flushed);
        outcome = flushed == NULL ? FAILED : DONE;
    }
    Py_DECREF(cells);
    return outcome;
}

/* The counting path: cells in shared memory, handles bound to them, and the calls that user code makes.
 *
 * The types, from the bottom up:
 *
 *   Cells     the cells of one attached block, seen by one worker: adds and stores under the cell's lock.
 *             Or, in buffered mode, a row of this process's own, without locks, to be flushed to the block.
 *   Counter,
 *   Gauge,
 *   Histogram handles: one statistic, bound to its cells.
 *   Recorder  finds the handle of (category, metric) by two caches; the base class of the registry.
 *   Section   a lock for `with` that no exception of a signal handler leaves taken: for what is no counting path.
 *
 * A call that finds everything in place is finished here, with no Python frame, system call or
 * allocation. Whatever is not in place (no handle yet, a stale one, an argument that is not a plain
 * int) is a *miss*: the call is handed to a Python method of the recorder, which puts it right.
 *
 * A cell's lock is a word in the cell: 0, or the owner's word (layout.py, owner_word). It is taken by
 * compare-and-swap and held for a few instructions. Inside, the names generation is looked at again:
 * who removes a name raises the generation first and then takes every lock of its cells, so that
 * nobody can count into a cell that has been given to another name. A change of a value is one aligned
 * 64-bit store, so a worker that is killed at any instruction leaves the old value or the new one.
 *
 * _cells_py.py is the pure Python twin of this file; _cells.pyi describes both.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* A build for tests, with SHMSTATS_STOP_POINTS defined, stops its process at any one step of the critical
 * sections, so that it can be killed or kept there. In every other build a stop point is nothing. */
#ifdef SHMSTATS_STOP_POINTS
#include <signal.h>

static long stop_points_left = -1; /* to be passed before the one to stop at; negative: never stop */

static void
stop_point(void)
{
    if (stop_points_left >= 0 && stop_points_left-- == 0)
        raise(SIGSTOP);
}
#define STOP_POINT() stop_point()
#else
#define STOP_POINT() ((void)0)
#endif

/* One cell, as layout.py's CELL; the module exports its offsets and cells.py compares them. */
typedef struct {
    uint32_t lock;
    uint32_t seq; /* of a gauge's first cell: 0 its value is the integer here, 1 the double next door;
                   * of a histogram's first cell: odd while it is written, and another number afterwards */
    int64_t value;
} Cell;

/* What a fast path did with its operation. */
typedef enum { DONE, MISS, FAILED } Outcome;

/* ------------------------------------------------------------------------------------------ Cells */

typedef struct Cells {
    PyObject_HEAD
    Py_buffer buffer;           /* the whole block; buffer.buf is NULL once closed */
    Cell *first;                /* row 0, column 0 */
    Cell *buffered;             /* the same where the cells are a buffer of our own, else NULL */
    uint64_t *held;             /* of a buffer: operations in it, in our worker slot */
    uint64_t limit;             /* of a buffer: operations that it may hold */
    PyObject *flush;            /* of a buffer: callable(), when it is full and cannot be flushed here */
    struct Cells *target;       /* of a buffer: the block's cells, where it is flushed to */
    uint32_t *dirty;            /* of a buffer: the columns with something in them, n_dirty of them */
    Py_ssize_t n_dirty;
    Cell *flushes, *durations;  /* of a buffer: the statistics of its flushes, or NULL */
    PyObject *bounds;           /* of the durations: bytes, as in a handle */
    Py_ssize_t rows, capacity;  /* in cells */
    Py_ssize_t row_bytes;       /* from one row to the next */
    const uint64_t *generation; /* in the header, or &no_generation when closed or inherited by fork */
    const uint64_t *gate;       /* generation, or &no_generation while the fast paths are shut */
    uint32_t owner;             /* what our locks hold */
    PyObject *is_live;          /* callable(word) -> whether the owner of a lock lives */
    Cell *takeovers;            /* where locks taken over from the dead are counted, or NULL */
    struct Cells *next;         /* all that exist, for the child of a fork */
} Cells;

/* No binding has this generation. */
static const uint64_t no_generation = 0;

static Cells *all_cells = NULL;

/* In the child of a fork, however it was made: nothing of the parent's may be counted into. */
static void
after_fork_in_child(void)
{
    for (Cells *cells = all_cells; cells != NULL; cells = cells->next) {
        cells->generation = &no_generation;
        cells->gate = &no_generation;
    }
}

static inline uint64_t
current(const uint64_t *generation)
{
    return __atomic_load_n(generation, __ATOMIC_ACQUIRE);
}

static inline int64_t
saturating_add(int64_t a, int64_t b)
{
    int64_t sum;
    if (UNLIKELY(__builtin_add_overflow(a, b, &sum)))
        return b > 0 ? INT64_MAX : INT64_MIN;
    return sum;
}

static inline int
try_lock(Cell *cell, uint32_t owner)
{
    uint32_t free = 0;
    return __atomic_compare_exchange_n(&cell->lock, &free, owner, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

static inline void
unlock(Cell *cell)
{
    STOP_POINT();
    __atomic_store_n(&cell->lock, 0, __ATOMIC_RELEASE);
    STOP_POINT();
}

static inline void
store_value(Cell *cell, int64_t value)
{
    STOP_POINT();
    __atomic_store_n(&cell->value, value, __ATOMIC_RELAXED);
}

static inline int64_t
load_value(const Cell *cell)
{
    return __atomic_load_n(&cell->value, __ATOMIC_RELAXED);
}

/* Call a Python callable with a lock's word; returns its truth, or -1 with an exception set. */
static int
ask(PyObject *callable, uint32_t word)
{
    PyObject *answer = PyObject_CallFunction(callable, "k", (unsigned long)word);
    if (answer == NULL)
        return -1;
    int truth = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return truth;
}

/* Give others the processor for a while, without the GIL. */
static void
pause_a_little(long nanoseconds)
{
    struct timespec span = {0, nanoseconds};
    Py_BEGIN_ALLOW_THREADS
    nanosleep(&span, NULL);
    Py_END_ALLOW_THREADS
}

/* Take a lock that was not free at once: wait for its owner, or take it over from a dead one.
 *
 * While it waits other threads run, so the block may be closed meanwhile: that is a MISS. */
static Outcome
lock_held_by_other(Cells *cells, Cell *cell)
{
    for (int spin = 0; spin < 200; spin++) {
        if (try_lock(cell, cells->owner))
            return DONE;
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
    }
    Outcome outcome = MISS;
    long nanoseconds = 20000;
    Py_INCREF(cells);
    while (cells->generation != &no_generation) {
        uint32_t word = __atomic_load_n(&cell->lock, __ATOMIC_RELAXED);
        if (word == 0) {
            if (try_lock(cell, cells->owner)) {
                outcome = DONE;
                break;
            }
            continue;
        }
        int lives = ask(cells->is_live, word);
        if (lives < 0) {
            outcome = FAILED;
            break;
        }
        if (cells->generation == &no_generation)
            break;
        if (!lives && __atomic_compare_exchange_n(&cell->lock, &word, cells->owner, 0, __ATOMIC_ACQUIRE,
                                                  __ATOMIC_RELAXED)) {
            STOP_POINT();
            /* The holder's store was whole or had not begun: there is nothing to repair. */
            if (cells->takeovers != NULL)
                __atomic_fetch_add(&cells->takeovers->value, 1, __ATOMIC_RELAXED);
            outcome = DONE;
            break;
        }
        if (lives) {
            pause_a_little(nanoseconds);
            if (nanoseconds < 1000000)
                nanoseconds *= 2;
        }
    }
    Py_DECREF(cells);
    return outcome;
}

static inline Outcome
lock(Cells *cells, Cell *cell)
{
    if (LIKELY(try_lock(cell, cells->owner))) {
        STOP_POINT();
        return DONE;
    }
    return lock_held_by_other(cells, cell);
}

/* Lock a cell on behalf of a binding of the given generation; MISS where that is stale. */
static inline Outcome
lock_bound(Cells *cells, Cell *cell, uint64_t generation)
{
    Outcome outcome = lock(cells, cell);
    if (LIKELY(outcome == DONE) && UNLIKELY(current(cells->generation) != generation)) {
        unlock(cell);
        return MISS;
    }
    return outcome;
}

/* In a buffer no lock is needed and seq is free: there they say where a column goes, and that it is in the
 * list of dirty ones. */
enum { ROW_SHIFT = 16, WIDTH_MASK = 0xFFFF, MAX_WIDTH = 256 };

static inline void
mark_dirty(Cells *cells, Cell *cell)
{
    if (UNLIKELY(!cell->seq)) {
        cell->seq = 1;
        cells->dirty[cells->n_dirty++] = (uint32_t)(cell - cells->buffered);
    }
}

static Outcome held_too_many(Cells *cells, uint64_t generation);

/* Note one operation more in a buffer, and have it flushed when it is full. */
static inline Outcome
held_one_more(Cells *cells, Cell *cell, uint64_t generation)
{
    mark_dirty(cells, cell);
    if (LIKELY(++*cells->held < cells->limit))
        return DONE;
    return held_too_many(cells, generation);
}

static inline Outcome
add_integer(Cells *cells, Cell *cell, uint64_t generation, int64_t n)
{
    if (cells->buffered != NULL) {
        if (UNLIKELY(current(cells->generation) != generation))
            return MISS;
        cell->value = saturating_add(cell->value, n);
        return held_one_more(cells, cell, generation);
    }
    Outcome outcome = lock_bound(cells, cell, generation);
    if (LIKELY(outcome == DONE)) {
        store_value(cell, saturating_add(load_value(cell), n));
        unlock(cell);
    }
    return outcome;
}

/* The sum of two doubles; of finite ones it is kept finite. */
static double
finite_sum(double a, double b)
{
    double sum = a + b;
    if (isfinite(sum) || !isfinite(a) || !isfinite(b))
        return sum;
    return sum > 0 ? DBL_MAX : -DBL_MAX;
}

static inline double
load_double(const Cell *cell)
{
    int64_t bits = load_value(cell);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline void
store_double(Cell *cell, double value)
{
    int64_t bits;
    memcpy(&bits, &value, sizeof bits);
    store_value(cell, bits);
}

/* A gauge is two cells: the value is written to the one of its type, then the first one's seq is
 * pointed at it. Each step leaves a value that was really set.
 *
 * Where each worker has a gauge of its own, a *contribution*, two cells more say whose it is and when it was
 * made. OWNER is 0 where there is none. */
enum { INTEGER, REAL, OWNER, MOMENT };

/* Whose contribution a write to a gauge is. */
typedef struct {
    int64_t owner; /* 0: the gauge is shared by all */
    char live;     /* the contribution goes with its owner */
    char stamped;  /* its time is wanted */
    char apart;    /* nobody's who is gone must be added to: all but plain sums, which go on */
} Contributor;

static inline void
put_integer(Cell *gauge, int64_t value)
{
    store_value(&gauge[INTEGER], value);
    STOP_POINT();
    __atomic_store_n(&gauge[0].seq, 0, __ATOMIC_RELEASE);
}

static inline void
put_double(Cell *gauge, double value)
{
    store_double(&gauge[REAL], value);
    STOP_POINT();
    __atomic_store_n(&gauge[0].seq, 1, __ATOMIC_RELEASE);
}

/* A number as it is given to a gauge. */
typedef struct {
    char is_integer;
    int64_t integer;
    double real;
} Number;

/* Read an exact int that fits 64 bits, or an exact float; 0 for anything else. */
static inline int
plain_number(PyObject *object, Number *number)
{
    if (PyFloat_CheckExact(object)) {
        *number = (Number){0, 0, PyFloat_AS_DOUBLE(object)};
        return 1;
    }
    if (!PyLong_CheckExact(object))
        return 0;
    int overflow;
    int64_t integer = PyLong_AsLongLongAndOverflow(object, &overflow);
    *number = (Number){1, integer, (double)integer};
    return !overflow;
}

static inline void
put_number(Cell *gauge, Number number)
{
    if (number.is_integer)
        put_integer(gauge, number.integer);
    else
        put_double(gauge, number.real);
}

static inline Number
gauge_number(const Cell *gauge)
{
    if (__atomic_load_n(&gauge->seq, __ATOMIC_ACQUIRE) & 1)
        return (Number){0, 0, load_double(&gauge[REAL])};
    int64_t integer = load_value(&gauge[INTEGER]);
    return (Number){1, integer, (double)integer};
}

static inline Number
sum_of(Number a, Number b)
{
    if (a.is_integer && b.is_integer)
        return (Number){1, saturating_add(a.integer, b.integer), 0};
    return (Number){0, 0, finite_sum(a.real, b.real)};
}

static int64_t
monotonic_nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Put a number into a gauge, whose lock is held, and sign it where it is a contribution.
 *
 * A live one has no owner while it changes hands, so that nobody takes the new value for the former's. One
 * that outlives its owner keeps its signature until there is another: at no moment is it nobody's. */
static inline void
contribute(Cell *gauge, Number number, Contributor by)
{
    if (LIKELY(by.owner == 0)) {
        put_number(gauge, number);
        return;
    }
    int changes = load_value(&gauge[OWNER]) != by.owner;
    if (changes && by.live)
        store_value(&gauge[OWNER], 0);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    STOP_POINT();
    put_number(gauge, number);
    STOP_POINT();
    if (by.stamped)
        store_value(&gauge[MOMENT], monotonic_nanoseconds());
    if (changes)
        __atomic_store_n(&gauge[OWNER].value, by.owner, __ATOMIC_RELEASE);
}

/* A histogram is the sum and the maximum, two doubles, and behind them the buckets. */
enum { SUM, MAXIMUM, BUCKETS };

static inline void
begin_write(Cell *histogram)
{
    __atomic_store_n(&histogram->seq, histogram->seq | 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
}

static inline void
end_write(Cell *histogram)
{
    STOP_POINT();
    __atomic_store_n(&histogram->seq, histogram->seq + 1, __ATOMIC_RELEASE);
}

static inline void
observe_unlocked(Cell *histogram, Py_ssize_t bucket, double value)
{
    store_double(&histogram[SUM], finite_sum(load_double(&histogram[SUM]), value));
    if (value > load_double(&histogram[MAXIMUM]))
        store_double(&histogram[MAXIMUM], value);
    store_value(&histogram[BUCKETS + bucket], saturating_add(load_value(&histogram[BUCKETS + bucket]), 1));
}

/* The number of the first bound that is not less than value; n_bounds where all are. */
static inline Py_ssize_t
bucket_of(const double *bounds, Py_ssize_t n_bounds, double value)
{
    Py_ssize_t low = 0;
    for (Py_ssize_t span = n_bounds; span > 0;) {
        Py_ssize_t half = span / 2;
        int above = bounds[low + half] < value;
        low += above ? half + 1 : 0;
        span = above ? span - half - 1 : half;
    }
    return low;
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
        begin_write(histogram);
        observe_unlocked(histogram, bucket, value);
        end_write(histogram);
        unlock(histogram);
    }
    return outcome;
}

/* Add what a buffer's histogram has to the block's, whose lock is held. */
static void
add_histogram(Cell *histogram, const Cell *more, Py_ssize_t width)
{
    begin_write(histogram);
    store_double(&histogram[SUM], finite_sum(load_double(&histogram[SUM]), load_double(&more[SUM])));
    if (load_double(&more[MAXIMUM]) > load_double(&histogram[MAXIMUM]))
        store_double(&histogram[MAXIMUM], load_double(&more[MAXIMUM]));
    for (Py_ssize_t i = BUCKETS; i < width; i++)
        store_value(&histogram[i], saturating_add(load_value(&histogram[i]), more[i].value));
    end_write(histogram);
}

/* Take a column out of the list of dirty ones. */
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

/* Move one column of a buffer to the block; if that is not done, it stays as it was.
 *
 * Nothing is taken before the lock is had: while it is waited for, other threads may fill the buffer, flush it,
 * or close it, and must find there whatever is not in the block. */
static Outcome
flush_column(Cells *cells, uint32_t column)
{
    Cells *target = cells->target;
    Cell *cell = &cells->buffered[column];
    Py_ssize_t width = cell->lock & WIDTH_MASK, row = cell->lock >> ROW_SHIFT;
    Cell *to = (Cell *)((char *)target->first + row * target->row_bytes) + column;
    Outcome outcome = lock_bound(target, to, current(cells->generation));
    if (UNLIKELY(outcome != DONE))
        return outcome;
    if (UNLIKELY(cells->buffered == NULL)) { /* who closed it has flushed it */
        unlock(to);
        return MISS;
    }
    if (width == 1)
        store_value(to, saturating_add(load_value(to), cell->value));
    else
        add_histogram(to, cell, width);
    for (Py_ssize_t i = 0; i < width; i++)
        cell[i].value = 0;
    mark_clean(cells, column);
    unlock(to);
    return DONE;
}

/* Move everything in a buffer to the block; MISS where the names are no longer those that it was bound by. */
static Outcome
flush_buffer(Cells *cells, uint64_t generation)
{
    struct timespec start, end;
    if (cells->buffered == NULL || cells->target->first == NULL || current(cells->generation) != generation)
        return MISS;
    clock_gettime(CLOCK_MONOTONIC, &start);
    *cells->held = 0;
    if (cells->flushes != NULL) {
        cells->flushes->value++;
        mark_dirty(cells, cells->flushes);
    }
    while (cells->n_dirty > 0) {
        Outcome outcome = flush_column(cells, cells->dirty[cells->n_dirty - 1]);
        if (UNLIKELY(cells->buffered == NULL))
            return outcome;
        if (UNLIKELY(outcome != DONE)) {
            ++*cells->held; /* there is something left */
            return outcome;
        }
    }
    if (cells->durations != NULL) {
        clock_gettime(CLOCK_MONOTONIC, &end);
        double ms = 1e3 * (double)(end.tv_sec - start.tv_sec) + 1e-6 * (double)(end.tv_nsec - start.tv_nsec);
        const double *bounds = (const double *)(const void *)PyBytes_AS_STRING(cells->bounds);
        Py_ssize_t n_bounds = PyBytes_GET_SIZE(cells->bounds) / (Py_ssize_t)sizeof(double);
        observe_unlocked(cells->durations, bucket_of(bounds, n_bounds, ms), ms);
        mark_dirty(cells, cells->durations);
    }
    return DONE;
}

/* Flush a full buffer; where that cannot be done here, by way of Python. */
static Outcome
held_too_many(Cells *cells, uint64_t generation)
{
    Py_INCREF(cells); /* while a lock is waited for, the handle that led here may be bound elsewhere */
    Outcome outcome = flush_buffer(cells, generation);
    if (UNLIKELY(outcome == MISS)) {
        PyObject *flushed = PyObject_CallNoArgs(cells->flush);
        Py_XDECREF(flushed);
        outcome = flushed == NULL ? FAILED : DONE;
    }
    Py_DECREF(cells);
    return outcome;
}

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
    if (self->buffer.buf != NULL)
        PyBuffer_Release(&self->buffer);
    self->buffer.buf = NULL;
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

static PyTypeObject Cells_Type;

static PyObject *
Cells_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"buffer", "offset",  "rows",  "capacity", "row_bytes",   "generation_offset",
                            "owner",  "is_live", "locks", "limit",    "held_offset", "flush",
                            "target", NULL};
    PyObject *source, *is_live, *locks, *flush = Py_None, *target = NULL; /* locks: for the twin */
    Py_ssize_t offset, rows, capacity, row_bytes, generation_offset, held_offset = 0;
    unsigned int owner;
    unsigned long long limit = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OnnnnnIOO|KnOO!", names, &source, &offset, &rows, &capacity,
                                     &row_bytes, &generation_offset, &owner, &is_live, &locks, &limit,
                                     &held_offset, &flush, &Cells_Type, &target))
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
        || held_offset > self->buffer.len - 8 || rows > (self->buffer.len - offset) / row_bytes) {
        PyErr_SetString(PyExc_ValueError, "the cells do not fit into the buffer");
        Py_DECREF(self);
        return NULL;
    }
    char *base = self->buffer.buf;
    self->first = (Cell *)(base + offset);
    self->rows = rows;
    self->capacity = capacity;
    self->row_bytes = row_bytes;
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

static int
Cells_traverse(Cells *self, visitproc visit, void *arg)
{
    Py_VISIT(self->is_live);
    Py_VISIT(self->flush);
    Py_VISIT(self->target);
    return 0;
}

static int
Cells_clear(Cells *self)
{
    Py_CLEAR(self->is_live);
    Py_CLEAR(self->flush);
    Py_CLEAR(self->target);
    return 0;
}

static void
Cells_dealloc(Cells *self)
{
    PyObject_GC_UnTrack(self);
    Cells_unlink(self);
    Cells_forget(self);
    Cells_clear(self);
    Py_CLEAR(self->bounds);
    Py_TYPE(self)->tp_free(self);
}

/* The address of a cell and of width - 1 more behind it, or NULL with an exception set. */
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
    return (Cell *)((char *)self->first + row * self->row_bytes) + column;
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
    Cell *cell = Cells_at(self, row, column, 1);
    return cell == NULL ? NULL : answer(add_integer(self, cell, generation, n));
}

static PyObject *
Cells_load(Cells *self, PyObject *args)
{
    Py_ssize_t row, column;
    if (!PyArg_ParseTuple(args, "nn", &row, &column))
        return NULL;
    Cell *cell = Cells_at(self, row, column, 1);
    return cell == NULL ? NULL : PyLong_FromLongLong(load_value(cell));
}

static PyObject *
Cells_clear_cells(Cells *self, PyObject *args)
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
        if (is_histogram)
            begin_write(cell);
        for (Py_ssize_t i = 0; i < width; i++)
            store_value(&cell[i], 0);
        STOP_POINT();
        if (is_histogram)
            end_write(cell); /* not 0: a reader that began before would not notice */
        else
            __atomic_store_n(&cell->seq, 0, __ATOMIC_RELEASE);
        unlock(cell);
    }
    return answer(outcome);
}

static PyObject *
Cells_load_gauge(Cells *self, PyObject *args)
{
    Py_ssize_t row, column;
    if (!PyArg_ParseTuple(args, "nn", &row, &column))
        return NULL;
    Cell *cell = Cells_at(self, row, column, 2);
    if (cell == NULL)
        return NULL;
    Number number = gauge_number(cell);
    return number.is_integer ? PyLong_FromLongLong(number.integer) : PyFloat_FromDouble(number.real);
}

static inline Outcome
set_gauge(Cells *cells, Cell *gauge, uint64_t generation, Number number, Contributor by)
{
    Outcome outcome = lock_bound(cells, gauge, generation);
    if (outcome == DONE) {
        contribute(gauge, number, by);
        unlock(gauge);
    }
    return outcome;
}

static inline Outcome
add_to_gauge(Cells *cells, Cell *gauge, uint64_t generation, Number n, Contributor by)
{
    Outcome outcome = lock_bound(cells, gauge, generation);
    if (outcome == DONE) {
        contribute(gauge, sum_of(gauge_number(gauge), n), by);
        unlock(gauge);
    }
    return outcome;
}

/* Add to a contribution that was seen to be of ``seen``, or to 0 where ``anew`` and it is not our own; MISS where it
 * is somebody else's by now. */
static Outcome
add_to_contribution(Cells *cells, Cell *gauge, uint64_t generation, Number n, Contributor by, int64_t seen, int anew)
{
    Outcome outcome = lock_bound(cells, gauge, generation);
    if (outcome == DONE) {
        int64_t owner = load_value(&gauge[OWNER]);
        if (owner == by.owner)
            contribute(gauge, sum_of(gauge_number(gauge), n), by);
        else if (owner == seen)
            contribute(gauge, sum_of(anew ? (Number){1, 0, 0.0} : gauge_number(gauge), n), by);
        else
            outcome = MISS;
        unlock(gauge);
    }
    return outcome;
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

static PyObject *
Cells_set_gauge(Cells *self, PyObject *args)
{
    Py_ssize_t row, column;
    PyObject *value, *tuple = NULL;
    unsigned long long generation;
    Contributor by = {0, 0, 0, 0};
    if (!PyArg_ParseTuple(args, "nnOK|O!", &row, &column, &value, &generation, &PyTuple_Type, &tuple))
        return NULL;
    if (tuple != NULL && parse_contributor(tuple, &by) < 0)
        return NULL;
    Cell *cell = Cells_at(self, row, column, by.owner ? 4 : 2);
    if (cell == NULL)
        return NULL;
    Number number;
    if (!plain_number(value, &number))
        Py_RETURN_FALSE;
    return answer(set_gauge(self, cell, generation, number, by));
}

static PyObject *
Cells_add_gauge(Cells *self, PyObject *args)
{
    Py_ssize_t row, column;
    PyObject *n, *tuple = NULL;
    unsigned long long generation;
    long long seen = 0;
    int anew = 0;
    Contributor by = {0, 0, 0, 0};
    Number number;
    if (!PyArg_ParseTuple(args, "nnOK|O!Lp", &row, &column, &n, &generation, &PyTuple_Type, &tuple, &seen, &anew))
        return NULL;
    if (tuple != NULL && parse_contributor(tuple, &by) < 0)
        return NULL;
    Cell *cell = Cells_at(self, row, column, by.owner ? 4 : 2);
    if (cell == NULL)
        return NULL;
    if (!plain_number(n, &number))
        Py_RETURN_FALSE;
    return answer(by.apart ? add_to_contribution(self, cell, generation, number, by, seen, anew)
                           : add_to_gauge(self, cell, generation, number, by));
}

static PyObject *
Cells_add_distribution(Cells *self, PyObject *args)
{
    Py_ssize_t row, column;
    double sum, maximum;
    PyObject *buckets;
    unsigned long long generation;
    if (!PyArg_ParseTuple(args, "nnddO!K", &row, &column, &sum, &maximum, &PyTuple_Type, &buckets, &generation))
        return NULL;
    Py_ssize_t n_buckets = PyTuple_GET_SIZE(buckets);
    Cell *cell = Cells_at(self, row, column, BUCKETS + n_buckets);
    if (cell == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < n_buckets; i++) {
        if (PyLong_AsLongLong(PyTuple_GET_ITEM(buckets, i)) == -1 && PyErr_Occurred())
            return NULL;
    }
    Outcome outcome = lock_bound(self, cell, generation);
    if (outcome == DONE) {
        begin_write(cell);
        store_double(&cell[SUM], finite_sum(load_double(&cell[SUM]), sum));
        if (maximum > load_double(&cell[MAXIMUM]))
            store_double(&cell[MAXIMUM], maximum);
        for (Py_ssize_t i = 0; i < n_buckets; i++) {
            int64_t n = PyLong_AsLongLong(PyTuple_GET_ITEM(buckets, i));
            store_value(&cell[BUCKETS + i], saturating_add(load_value(&cell[BUCKETS + i]), n));
        }
        end_write(cell);
        unlock(cell);
    }
    return answer(outcome);
}

static PyObject *
Cells_take(Cells *self, PyObject *args)
{
    Py_ssize_t column, width;
    if (!PyArg_ParseTuple(args, "nn", &column, &width))
        return NULL;
    Cell *cell = Cells_at(self, 0, column, width);
    PyObject *values = cell == NULL ? NULL : PyTuple_New(width);
    if (values == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < width; i++) {
        PyObject *value = PyLong_FromLongLong(cell[i].value);
        if (value == NULL) {
            Py_DECREF(values);
            return NULL;
        }
        PyTuple_SET_ITEM(values, i, value);
    }
    for (Py_ssize_t i = 0; i < width; i++)
        cell[i].value = 0;
    return values;
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
    if (self->target == NULL || width < 1 || width > MAX_WIDTH || Cells_at(self->target, row, column, width) == NULL) {
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
    Py_ssize_t flushes, durations;
    PyObject *bounds;
    if (!PyArg_ParseTuple(args, "nnS", &flushes, &durations, &bounds))
        return NULL;
    Py_ssize_t width = BUCKETS + 1 + PyBytes_GET_SIZE(bounds) / (Py_ssize_t)sizeof(double);
    Cell *counter = Cells_at(self, 0, flushes, 1);
    Cell *histogram = counter == NULL ? NULL : Cells_at(self, 0, durations, width);
    if (histogram == NULL)
        return NULL;
    self->flushes = counter;
    self->durations = histogram;
    Py_INCREF(bounds);
    Py_XSETREF(self->bounds, bounds);
    Py_RETURN_NONE;
}

static PyObject *
Cells_publish(Cells *self, PyObject *args)
{
    Py_ssize_t offset;
    unsigned int value;
    if (!PyArg_ParseTuple(args, "nI", &offset, &value))
        return NULL;
    if (self->generation == &no_generation || offset < 0 || offset % 4 || offset > self->buffer.len - 4) {
        PyErr_Format(PyExc_IndexError, "no word at offset %zd", offset);
        return NULL;
    }
    __atomic_store_n((uint32_t *)((char *)self->buffer.buf + offset), value, __ATOMIC_RELEASE);
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
    Py_ssize_t row, column;
    if (!PyArg_ParseTuple(args, "nn", &row, &column))
        return NULL;
    Cell *cell = Cells_at(self, row, column, 1);
    if (cell == NULL)
        return NULL;
    self->takeovers = cell;
    Py_RETURN_NONE;
}

static PyObject *
Cells_hold(Cells *self, PyObject *args)
{
    Py_ssize_t row, column;
    unsigned int word;
    if (!PyArg_ParseTuple(args, "nnI", &row, &column, &word))
        return NULL;
    Cell *cell = Cells_at(self, row, column, 1);
    if (cell == NULL)
        return NULL;
    __atomic_store_n(&cell->lock, word, __ATOMIC_SEQ_CST);
    Py_RETURN_NONE;
}

static PyObject *
Cells_holder(Cells *self, PyObject *args)
{
    Py_ssize_t row, column;
    if (!PyArg_ParseTuple(args, "nn", &row, &column))
        return NULL;
    Cell *cell = Cells_at(self, row, column, 1);
    return cell == NULL ? NULL : PyLong_FromUnsignedLong(__atomic_load_n(&cell->lock, __ATOMIC_ACQUIRE));
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
    {"add", (PyCFunction)Cells_add, METH_VARARGS, NULL},
    {"load", (PyCFunction)Cells_load, METH_VARARGS, NULL},
    {"clear", (PyCFunction)Cells_clear_cells, METH_VARARGS, NULL},
    {"load_gauge", (PyCFunction)Cells_load_gauge, METH_VARARGS, NULL},
    {"set_gauge", (PyCFunction)Cells_set_gauge, METH_VARARGS, NULL},
    {"add_gauge", (PyCFunction)Cells_add_gauge, METH_VARARGS, NULL},
    {"add_distribution", (PyCFunction)Cells_add_distribution, METH_VARARGS, NULL},
    {"take", (PyCFunction)Cells_take, METH_VARARGS, NULL},
    {"route", (PyCFunction)Cells_route, METH_VARARGS, NULL},
    {"flush", (PyCFunction)Cells_flush, METH_VARARGS, NULL},
    {"note_flushes", (PyCFunction)Cells_note_flushes, METH_VARARGS, NULL},
    {"publish", (PyCFunction)Cells_publish, METH_VARARGS, NULL},
    {"raise_generation", (PyCFunction)Cells_raise_generation, METH_NOARGS, NULL},
    {"count_takeovers_at", (PyCFunction)Cells_count_takeovers_at, METH_VARARGS, NULL},
    {"hold", (PyCFunction)Cells_hold, METH_VARARGS, NULL},
    {"holder", (PyCFunction)Cells_holder, METH_VARARGS, NULL},
    {"close", (PyCFunction)Cells_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef Cells_getset[] = {
    {"direct", (getter)Cells_get_direct, (setter)Cells_set_direct, NULL, NULL},
    {"generation", (getter)Cells_get_generation, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyTypeObject Cells_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "shmstats.core._cells.Cells",
    .tp_basicsize = sizeof(Cells),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = PyDoc_STR("The cells of one attached block, seen by one worker."),
    .tp_new = Cells_new,
    .tp_dealloc = (destructor)Cells_dealloc,
    .tp_traverse = (traverseproc)Cells_traverse,
    .tp_clear = (inquiry)Cells_clear,
    .tp_methods = Cells_methods,
    .tp_getset = Cells_getset,
};

/* ---------------------------------------------------------------------------------------- handles */

typedef struct {
    PyObject_HEAD
    PyObject *recorder; /* whose Python methods take the misses */
    PyObject *category, *metric, *labels;
    Cells *cells; /* what the handle is bound to; NULL: nothing yet */
    Cell *cell;
    uint64_t generation; /* of the names when it was bound */
    char monotonic;      /* the counter was never decremented, so the first time is a miss */
    PyObject *bounds;    /* of a histogram: bytes, the upper bounds of its buckets as doubles */
    Contributor by;      /* of a gauge */
} Series;

static PyObject *str_incr, *str_decr, *str_gauge, *str_timing, *str_count_series, *str_set_series,
    *str_observe_series, *str_value;
static PyObject *long_one, *long_minus_one;

/* Whether the handle may be used as it is bound. */
static inline int
is_bound(const Series *series)
{
    return series->cells != NULL && current(series->cells->gate) == series->generation
           && LIKELY(series->generation != no_generation);
}

/* The value of an exact int that fits 64 bits; 0 where it is none, and *fits says so. */
static inline int64_t
plain_integer(PyObject *object, int *fits)
{
    if (UNLIKELY(!PyLong_CheckExact(object))) {
        *fits = 0;
        return 0;
    }
#if PY_VERSION_HEX >= 0x030C0000
    if (LIKELY(PyUnstable_Long_IsCompact((PyLongObject *)object))) {
        *fits = 1;
        return PyUnstable_Long_CompactValue((PyLongObject *)object);
    }
#else
    Py_ssize_t size = Py_SIZE(object);
    if (LIKELY(size == 1)) {
        *fits = 1;
        return ((PyLongObject *)object)->ob_digit[0];
    }
#endif
    int overflow;
    int64_t value = PyLong_AsLongLongAndOverflow(object, &overflow);
    *fits = !overflow;
    return value;
}

static inline Outcome
count(Series *series, int64_t n)
{
    if (UNLIKELY(!is_bound(series)) || UNLIKELY(n < 0 && series->monotonic))
        return MISS;
    return add_integer(series->cells, series->cell, series->generation, n);
}

/* Count sign * n by a handle of the fast kind; n NULL stands for 1. */
static inline Outcome
count_object(Series *series, int sign, PyObject *n)
{
    int fits = 1;
    int64_t value = n == NULL ? 1 : plain_integer(n, &fits);
    if (UNLIKELY(!fits) || UNLIKELY(sign < 0 && value == INT64_MIN))
        return MISS;
    return count(series, sign < 0 ? -value : value);
}

static PyObject *
count_missed(Series *series, int sign, PyObject *n)
{
    return PyObject_CallMethodObjArgs(series->recorder, str_count_series, sign < 0 ? long_minus_one : long_one,
                                      series, n == NULL ? long_one : n, NULL);
}

static int
Series_setup(Series *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"recorder", "category", "metric", "labels", NULL};
    PyObject *recorder, *category, *metric, *labels = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OUU|O!", names, &recorder, &category, &metric, &PyTuple_Type,
                                     &labels))
        return -1;
    self->recorder = Py_NewRef(recorder);
    self->category = Py_NewRef(category);
    self->metric = Py_NewRef(metric);
    self->labels = labels == NULL ? PyTuple_New(0) : Py_NewRef(labels);
    return self->labels == NULL ? -1 : 0;
}

static PyObject *
Series_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    Series *self = (Series *)type->tp_alloc(type, 0);
    if (self != NULL && Series_setup(self, args, kwargs) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int
Series_traverse(Series *self, visitproc visit, void *arg)
{
    Py_VISIT(self->recorder);
    Py_VISIT(self->labels);
    Py_VISIT(self->cells);
    return 0;
}

static int
Series_clear(Series *self)
{
    Py_CLEAR(self->recorder);
    Py_CLEAR(self->labels);
    Py_CLEAR(self->cells);
    return 0;
}

static void
Series_dealloc(Series *self)
{
    PyObject_GC_UnTrack(self);
    Series_clear(self);
    Py_CLEAR(self->category);
    Py_CLEAR(self->metric);
    Py_CLEAR(self->bounds);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *
Series_bind(Series *self, PyObject *args)
{
    Cells *cells;
    Py_ssize_t row, column, width;
    unsigned long long generation;
    int monotonic;
    PyObject *bounds = NULL, *contributor = NULL;
    Contributor by = {0, 0, 0, 0};
    if (!PyArg_ParseTuple(args, "O!nnnKp|SO!", &Cells_Type, &cells, &row, &column, &width, &generation, &monotonic,
                          &bounds, &PyTuple_Type, &contributor))
        return NULL;
    if (contributor != NULL && parse_contributor(contributor, &by) < 0)
        return NULL;
    Cell *cell = Cells_at(cells, row, column, width);
    if (cell == NULL)
        return NULL;
    if (bounds != NULL && PyBytes_GET_SIZE(bounds) != 0
        && PyBytes_GET_SIZE(bounds) != (width - BUCKETS - 1) * (Py_ssize_t)sizeof(double)) {
        PyErr_Format(PyExc_ValueError, "%zd bytes of bounds do not fit a histogram of %zd cells",
                     PyBytes_GET_SIZE(bounds), width);
        return NULL;
    }
    if (bounds != NULL && PyBytes_GET_SIZE(bounds) == 0)
        bounds = NULL;
    Py_XINCREF(bounds);
    Py_XSETREF(self->bounds, bounds);
    Py_INCREF(cells);
    Py_XSETREF(self->cells, cells);
    self->cell = cell;
    self->generation = generation;
    self->monotonic = (char)monotonic;
    self->by = by;
    Py_RETURN_NONE;
}

static PyObject *
Series_value(Series *self, void *Py_UNUSED(closure))
{
    return PyObject_CallMethodOneArg(self->recorder, str_value, (PyObject *)self);
}

static PyObject *
Series_bound(Series *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(is_bound(self));
}

static PyObject *
Series_repr(Series *self)
{
    const char *name = strrchr(Py_TYPE(self)->tp_name, '.');
    return PyUnicode_FromFormat("<%s %R %R>", name == NULL ? Py_TYPE(self)->tp_name : name + 1, self->category,
                                self->metric);
}

/* The one argument of incr and decr, by position or as n=; NULL and *bad where there are others. */
static inline PyObject *
one_or_nothing(const char *function, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, int *bad)
{
    *bad = 0;
    if (LIKELY(kwnames == NULL)) {
        if (LIKELY(nargs == 0))
            return NULL;
        if (LIKELY(nargs == 1))
            return args[0];
    }
    else if (nargs == 0 && PyTuple_GET_SIZE(kwnames) == 1
             && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), "n") == 0)
        return args[0];
    *bad = 1;
    PyErr_Format(PyExc_TypeError, "%s() takes one argument, n", function);
    return NULL;
}

static PyObject *
Counter_incr(Series *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int bad;
    PyObject *n = one_or_nothing("incr", args, nargs, kwnames, &bad);
    if (UNLIKELY(bad))
        return NULL;
    Outcome outcome = count_object(self, 1, n);
    if (LIKELY(outcome == DONE))
        Py_RETURN_NONE;
    return outcome == MISS ? count_missed(self, 1, n) : NULL;
}

static PyObject *
Counter_decr(Series *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int bad;
    PyObject *n = one_or_nothing("decr", args, nargs, kwnames, &bad);
    if (UNLIKELY(bad))
        return NULL;
    Outcome outcome = count_object(self, -1, n);
    if (LIKELY(outcome == DONE))
        Py_RETURN_NONE;
    return outcome == MISS ? count_missed(self, -1, n) : NULL;
}

/* Whether a bound gauge may be written to here: a contribution of another needs a look at whether that one lives. */
static inline int
is_ours(const Series *series)
{
    return !series->by.apart || load_value(&series->cell[OWNER]) == series->by.owner;
}

static Outcome
set_object(Series *series, PyObject *value)
{
    Number number;
    if (UNLIKELY(!plain_number(value, &number)) || UNLIKELY(!isfinite(number.real)) || UNLIKELY(!is_bound(series))
        || UNLIKELY(!is_ours(series)))
        return MISS;
    return set_gauge(series->cells, series->cell, series->generation, number, series->by);
}

static PyObject *
Gauge_set(Series *self, PyObject *value)
{
    Outcome outcome = set_object(self, value);
    if (LIKELY(outcome == DONE))
        Py_RETURN_NONE;
    if (outcome == FAILED)
        return NULL;
    return PyObject_CallMethodObjArgs(self->recorder, str_set_series, self, value, NULL);
}

static PyObject *
Gauge_move(Series *self, const char *function, int sign, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int bad;
    PyObject *given = one_or_nothing(function, args, nargs, kwnames, &bad);
    if (UNLIKELY(bad))
        return NULL;
    Number n = {1, 1, 1.0};
    Outcome outcome = MISS;
    if (LIKELY(given == NULL || plain_number(given, &n)) && LIKELY(isfinite(n.real)) && LIKELY(is_bound(self))
        && LIKELY(is_ours(self)) && LIKELY(!n.is_integer || n.integer != INT64_MIN)) {
        n = sign < 0 ? (Number){n.is_integer, -n.integer, -n.real} : n;
        outcome = add_to_gauge(self->cells, self->cell, self->generation, n, self->by);
    }
    if (LIKELY(outcome == DONE))
        Py_RETURN_NONE;
    return outcome == MISS ? count_missed(self, sign, given) : NULL;
}

static PyObject *
Gauge_incr(Series *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return Gauge_move(self, "incr", 1, args, nargs, kwnames);
}

static PyObject *
Gauge_decr(Series *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return Gauge_move(self, "decr", -1, args, nargs, kwnames);
}

/* Observe an exact float or int by a bound handle; MISS for anything that needs a look. */
static inline Outcome
observe_object(Series *series, PyObject *observed)
{
    double value;
    if (LIKELY(PyFloat_CheckExact(observed)))
        value = PyFloat_AS_DOUBLE(observed);
    else {
        int fits;
        value = (double)plain_integer(observed, &fits);
        if (!fits)
            return MISS;
    }
    if (UNLIKELY(!is_bound(series)) || UNLIKELY(series->bounds == NULL) || UNLIKELY(!(value >= 0 && value <= DBL_MAX)))
        return MISS;
    Py_ssize_t n_bounds = PyBytes_GET_SIZE(series->bounds) / (Py_ssize_t)sizeof(double);
    const double *bounds = (const double *)(const void *)PyBytes_AS_STRING(series->bounds);
    return observe(series->cells, series->cell, series->generation, bucket_of(bounds, n_bounds, value), value);
}

static PyObject *
Histogram_observe(Series *self, PyObject *value)
{
    Outcome outcome = observe_object(self, value);
    if (LIKELY(outcome == DONE))
        Py_RETURN_NONE;
    if (outcome == FAILED)
        return NULL;
    return PyObject_CallMethodObjArgs(self->recorder, str_observe_series, self, value, NULL);
}

static PyMemberDef Series_members[] = {
    {"category", T_OBJECT_EX, offsetof(Series, category), READONLY, NULL},
    {"metric", T_OBJECT_EX, offsetof(Series, metric), READONLY, NULL},
    {"labels", T_OBJECT_EX, offsetof(Series, labels), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef Series_getset[] = {
    {"value", (getter)Series_value, NULL, PyDoc_STR("The value over all workers."), NULL},
    {"_bound", (getter)Series_bound, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef Series_methods[] = {
    {"_bind", (PyCFunction)Series_bind, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

#define FASTCALL (METH_FASTCALL | METH_KEYWORDS)
#define FUNCTION(f) ((PyCFunction)(void (*)(void))(f))

static PyMethodDef Counter_methods[] = {
    {"incr", FUNCTION(Counter_incr), FASTCALL, PyDoc_STR("incr($self, /, n=1)\n--\n\nAdd n.")},
    {"decr", FUNCTION(Counter_decr), FASTCALL, PyDoc_STR("decr($self, /, n=1)\n--\n\nTake n away.")},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef Gauge_methods[] = {
    {"set", (PyCFunction)Gauge_set, METH_O, PyDoc_STR("set($self, value, /)\n--\n\nSet the gauge.")},
    {"incr", FUNCTION(Gauge_incr), FASTCALL, PyDoc_STR("incr($self, /, n=1)\n--\n\nAdd n.")},
    {"decr", FUNCTION(Gauge_decr), FASTCALL, PyDoc_STR("decr($self, /, n=1)\n--\n\nTake n away.")},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef Histogram_methods[] = {
    {"observe", (PyCFunction)Histogram_observe, METH_O,
     PyDoc_STR("observe($self, value, /)\n--\n\nTake up one observation.")},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject Series_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "shmstats.core._cells.Series",
    .tp_basicsize = sizeof(Series),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_doc = PyDoc_STR("A handle: one statistic, bound to its cell."),
    .tp_new = Series_new,
    .tp_dealloc = (destructor)Series_dealloc,
    .tp_traverse = (traverseproc)Series_traverse,
    .tp_clear = (inquiry)Series_clear,
    .tp_repr = (reprfunc)Series_repr,
    .tp_members = Series_members,
    .tp_getset = Series_getset,
    .tp_methods = Series_methods,
};

static PyTypeObject Counter_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "shmstats.core._cells.Counter",
    .tp_basicsize = sizeof(Series),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = PyDoc_STR("A handle of a counter."),
    .tp_base = &Series_Type,
    .tp_traverse = (traverseproc)Series_traverse,
    .tp_clear = (inquiry)Series_clear,
    .tp_methods = Counter_methods,
};

static PyTypeObject Gauge_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "shmstats.core._cells.Gauge",
    .tp_basicsize = sizeof(Series),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = PyDoc_STR("A handle of a gauge."),
    .tp_base = &Series_Type,
    .tp_traverse = (traverseproc)Series_traverse,
    .tp_clear = (inquiry)Series_clear,
    .tp_methods = Gauge_methods,
};

static PyTypeObject Histogram_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "shmstats.core._cells.Histogram",
    .tp_basicsize = sizeof(Series),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = PyDoc_STR("A handle of a histogram."),
    .tp_base = &Series_Type,
    .tp_traverse = (traverseproc)Series_traverse,
    .tp_clear = (inquiry)Series_clear,
    .tp_methods = Histogram_methods,
};

/* --------------------------------------------------------------------------------------- Recorder */

#define SHORTCUTS 8192 /* a power of two */

/* A handle found by the addresses of the very strings that it was made with. */
typedef struct {
    PyObject *category, *metric;
    Series *series;
} Shortcut;

typedef struct {
    PyObject_HEAD
    PyObject *handles;            /* {category: {metric: Series}}, without labels */
    Shortcut *shortcuts;          /* borrowed from handles */
    PyObject *incr, *decr, *gauge, *timing; /* the functions below, bound to this object */
} Recorder;

static inline size_t
shortcut_of(const PyObject *category, const PyObject *metric)
{
    uint64_t mixed = ((uint64_t)(uintptr_t)category * 0x9E3779B97F4A7C15u)
                     ^ ((uint64_t)(uintptr_t)metric * 0xC2B2AE3D27D4EB4Fu);
    return (size_t)(mixed >> 40) & (SHORTCUTS - 1);
}

/* The handle in the two-level dict, borrowed; NULL where there is none (no exception is left). */
static Series *
look_up(Recorder *self, PyObject *category, PyObject *metric)
{
    if (!PyUnicode_CheckExact(category) || !PyUnicode_CheckExact(metric))
        return NULL;
    PyObject *metrics = PyDict_GetItemWithError(self->handles, category);
    PyObject *series = metrics == NULL ? NULL : PyDict_GetItemWithError(metrics, metric);
    if (series == NULL)
        PyErr_Clear();
    return (Series *)series;
}

/* The handle of a name, borrowed, or NULL. */
static inline Series *
find(Recorder *self, PyObject *category, PyObject *metric)
{
    size_t first = shortcut_of(category, metric);
    Shortcut *shortcut = &self->shortcuts[first];
    if (LIKELY(shortcut->metric == metric && shortcut->category == category))
        return shortcut->series;
    Shortcut *other = &self->shortcuts[first ^ 1];
    if (LIKELY(other->metric == metric && other->category == category))
        return other->series;
    Series *series = look_up(self, category, metric);
    if (series != NULL && series->category == category && series->metric == metric) {
        if (shortcut->series != NULL && other->series == NULL)
            shortcut = other;
        *shortcut = (Shortcut){category, metric, series};
    }
    return series;
}

static PyMethodDef calls[4];

static PyObject *
Recorder_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    Recorder *self = (Recorder *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->handles = PyDict_New();
    self->shortcuts = PyMem_Calloc(SHORTCUTS, sizeof(Shortcut));
    self->incr = PyCFunction_New(&calls[0], (PyObject *)self);
    self->decr = PyCFunction_New(&calls[1], (PyObject *)self);
    self->gauge = PyCFunction_New(&calls[2], (PyObject *)self);
    self->timing = PyCFunction_New(&calls[3], (PyObject *)self);
    if (!self->handles || !self->shortcuts || !self->incr || !self->decr || !self->gauge || !self->timing) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static int
Recorder_traverse(Recorder *self, visitproc visit, void *arg)
{
    Py_VISIT(self->handles);
    Py_VISIT(self->incr);
    Py_VISIT(self->decr);
    Py_VISIT(self->gauge);
    Py_VISIT(self->timing);
    return 0;
}

static int
Recorder_clear(Recorder *self)
{
    if (self->shortcuts != NULL)
        memset(self->shortcuts, 0, SHORTCUTS * sizeof(Shortcut));
    Py_CLEAR(self->handles);
    Py_CLEAR(self->incr);
    Py_CLEAR(self->decr);
    Py_CLEAR(self->gauge);
    Py_CLEAR(self->timing);
    return 0;
}

static void
Recorder_dealloc(Recorder *self)
{
    PyObject_GC_UnTrack(self);
    Recorder_clear(self);
    PyMem_Free(self->shortcuts);
    Py_TYPE(self)->tp_free(self);
}

/* Hand a call over, just as it came, to the Python method that can do all of it. */
static PyObject *
call_missed(Recorder *self, PyObject *method, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *bound = PyObject_GetAttr((PyObject *)self, method);
    PyObject *result = bound == NULL ? NULL : PyObject_Vectorcall(bound, args, (size_t)nargs, kwnames);
    Py_XDECREF(bound);
    return result;
}

static inline PyObject *
record_count(Recorder *self, PyObject *method, int sign, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    Outcome outcome = MISS;
    if (LIKELY(kwnames == NULL) && LIKELY(nargs == 3 || nargs == 2)) {
        Series *series = find(self, args[0], args[1]);
        if (LIKELY(series != NULL && Py_IS_TYPE(series, &Counter_Type)))
            outcome = count_object(series, sign, nargs == 3 ? args[2] : NULL);
    }
    if (LIKELY(outcome == DONE))
        Py_RETURN_NONE;
    return outcome == FAILED ? NULL : call_missed(self, method, args, nargs, kwnames);
}

static PyObject *
Recorder_incr(Recorder *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return record_count(self, str_incr, 1, args, nargs, kwnames);
}

static PyObject *
Recorder_decr(Recorder *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return record_count(self, str_decr, -1, args, nargs, kwnames);
}

static PyObject *
Recorder_gauge(Recorder *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    Outcome outcome = MISS;
    if (LIKELY(kwnames == NULL) && LIKELY(nargs == 3)) {
        Series *series = find(self, args[0], args[1]);
        if (LIKELY(series != NULL && Py_IS_TYPE(series, &Gauge_Type)))
            outcome = set_object(series, args[2]);
    }
    if (LIKELY(outcome == DONE))
        Py_RETURN_NONE;
    return outcome == FAILED ? NULL : call_missed(self, str_gauge, args, nargs, kwnames);
}

static PyObject *
Recorder_timing(Recorder *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    Outcome outcome = MISS;
    if (LIKELY(kwnames == NULL) && LIKELY(nargs == 3)) {
        Series *series = find(self, args[0], args[1]);
        if (LIKELY(series != NULL && Py_IS_TYPE(series, &Histogram_Type)))
            outcome = observe_object(series, args[2]);
    }
    if (LIKELY(outcome == DONE))
        Py_RETURN_NONE;
    return outcome == FAILED ? NULL : call_missed(self, str_timing, args, nargs, kwnames);
}

static PyObject *
Recorder_handle(Recorder *self, PyObject *args)
{
    PyObject *category, *metric;
    if (!PyArg_ParseTuple(args, "OO", &category, &metric))
        return NULL;
    Series *series = look_up(self, category, metric);
    return Py_NewRef(series == NULL ? Py_None : (PyObject *)series);
}

static PyObject *
Recorder_keep(Recorder *self, PyObject *argument)
{
    if (!PyObject_TypeCheck(argument, &Series_Type)) {
        PyErr_Format(PyExc_TypeError, "series must be a handle, not %s", Py_TYPE(argument)->tp_name);
        return NULL;
    }
    Series *series = (Series *)argument;
    PyObject *metrics = PyDict_GetItemWithError(self->handles, series->category);
    if (metrics == NULL) {
        if (PyErr_Occurred())
            return NULL;
        metrics = PyDict_New();
        if (metrics == NULL || PyDict_SetItem(self->handles, series->category, metrics) < 0) {
            Py_XDECREF(metrics);
            return NULL;
        }
        Py_DECREF(metrics);
    }
    PyObject *former = PyDict_SetDefault(metrics, series->metric, argument);
    if (former == NULL)
        return NULL;
    if (former != argument) {
        memset(self->shortcuts, 0, SHORTCUTS * sizeof(Shortcut));
        if (PyDict_SetItem(metrics, series->metric, argument) < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Recorder_drop(Recorder *self, PyObject *args)
{
    PyObject *category, *metric;
    if (!PyArg_ParseTuple(args, "UO", &category, &metric))
        return NULL;
    memset(self->shortcuts, 0, SHORTCUTS * sizeof(Shortcut));
    PyObject *metrics = PyDict_GetItemWithError(self->handles, category);
    if (metrics != NULL && metric == Py_None) {
        if (PyDict_DelItem(self->handles, category) < 0)
            return NULL;
    }
    else if (metrics != NULL && PyDict_GetItemWithError(metrics, metric) != NULL) {
        if (PyDict_DelItem(metrics, metric) < 0)
            return NULL;
    }
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

/* What user code calls. They are not methods but slots of the object that hold bound functions: where
 * ``stats`` is an imported name, the compiler emits for stats.incr() an attribute access and a call instead
 * of a method call, and to bind a method each time would cost more than to count. */
static PyMethodDef calls[4] = {
    {"incr", FUNCTION(Recorder_incr), FASTCALL,
     PyDoc_STR("incr($self, /, category, metric, n=1, *, labels=None)\n--\n\nAdd n to a counter.")},
    {"decr", FUNCTION(Recorder_decr), FASTCALL,
     PyDoc_STR("decr($self, /, category, metric, n=1, *, labels=None)\n--\n\nTake n away from a counter.")},
    {"gauge", FUNCTION(Recorder_gauge), FASTCALL,
     PyDoc_STR("gauge($self, /, category, metric, value=..., **labels)\n--\n\nSet a gauge, or return a handle where no value is given.")},
    {"timing", FUNCTION(Recorder_timing), FASTCALL,
     PyDoc_STR("timing($self, /, category, metric, milliseconds=..., **labels)\n--\n\nTake up a duration, or return a handle where none is given.")},
};

static PyMemberDef Recorder_members[] = {
    {"incr", T_OBJECT_EX, offsetof(Recorder, incr), READONLY,
     PyDoc_STR("incr(category, metric, n=1, *, labels=None): add n to a counter.")},
    {"decr", T_OBJECT_EX, offsetof(Recorder, decr), READONLY,
     PyDoc_STR("decr(category, metric, n=1, *, labels=None): take n away from a counter.")},
    {"gauge", T_OBJECT_EX, offsetof(Recorder, gauge), READONLY,
     PyDoc_STR("gauge(category, metric, value, *, labels=None): set a gauge.\n\n"
               "gauge(category, metric, *, labels=None, labelnames=None): a handle of one, or of a metric with labels.")},
    {"timing", T_OBJECT_EX, offsetof(Recorder, timing), READONLY,
     PyDoc_STR("timing(category, metric, milliseconds, *, labels=None): take up one duration.\n\n"
               "timing(category, metric, *, labels=None, labelnames=None): a handle of the histogram.")},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef Recorder_methods[] = {
    {"_handle", (PyCFunction)Recorder_handle, METH_VARARGS, NULL},
    {"_keep", (PyCFunction)Recorder_keep, METH_O, NULL},
    {"_drop", (PyCFunction)Recorder_drop, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject Recorder_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "shmstats.core._cells.Recorder",
    .tp_basicsize = sizeof(Recorder),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_doc = PyDoc_STR("The calls of user code: finds the handle of a name and uses it."),
    .tp_new = Recorder_new,
    .tp_dealloc = (destructor)Recorder_dealloc,
    .tp_traverse = (traverseproc)Recorder_traverse,
    .tp_clear = (inquiry)Recorder_clear,
    .tp_methods = Recorder_methods,
    .tp_members = Recorder_members,
};

/* --------------------------------------------------------------------------------------- Section */

/* A lock with something to be done at its outermost level, for `with`.
 *
 * CPython runs signal handlers at the ends of calls, the starts of Python functions and backward jumps, but not
 * between the end of a C function that `with` calls and what comes next. So an exception that a handler raises finds
 * a section entered, and left by `with`, or not entered; in an __enter__ or __exit__ written in Python it would find
 * it in between. ``first`` and ``last`` may be interrupted anywhere, by an exception or by a handler that enters the
 * same section itself. */
typedef struct {
    PyObject_HEAD
    PyObject *lock;                   /* an RLock, or another Section */
    PyObject *enter, *leave, *is_owned; /* its methods */
    PyObject *first, *last, *after;   /* callables, or NULL */
    Py_ssize_t depth;                 /* levels that are entered, or being; changed under the lock alone */
    int ready;                        /* first has been done, and last has not been begun */
} Section;

enum { MOST_TRIES = 1000 };

/* Take the error that is set away, to be kept. */
static PyObject *
take_error(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (trace != NULL)
        PyException_SetTraceback(error, trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return error;
#endif
}

/* Set an error that was taken away; the reference goes with it. */
static void
put_error(PyObject *error)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(error);
#else
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(error)), error, PyException_GetTraceback(error));
#endif
}

/* Keep the error of a call that has failed, unless there is one already. */
static void
keep_error(PyObject **first)
{
    PyObject *error = take_error();
    if (*first == NULL)
        *first = error;
    else
        Py_XDECREF(error);
}

/* Call something for what it does; returns whether it did not raise, and keeps what it raised. */
static int
succeeds(PyObject *callable, PyObject **first)
{
    PyObject *result = PyObject_CallNoArgs(callable);
    if (result == NULL)
        keep_error(first);
    Py_XDECREF(result);
    return result != NULL;
}

/* Whether the calling thread has the lock; where that cannot be told it has. */
static int
Section_is_held(Section *self, PyObject **error)
{
    PyObject *answer = PyObject_CallNoArgs(self->is_owned);
    int held = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    if (held < 0)
        keep_error(error);
    return held != 0;
}

/* Leave one level. Whatever is raised meanwhile, the lock has been let go when this returns. */
static void
Section_leave(Section *self, PyObject **error)
{
    for (int tries = 0; self->depth == 1 && self->last != NULL && tries < MOST_TRIES; tries++) {
        self->ready = 0;
        /* A handler that entered meanwhile has done first anew: then it was not the last time. */
        if (succeeds(self->last, error) && !self->ready)
            break;
    }
    if (--self->depth == 0)
        self->ready = 0;
    PyObject *result = PyObject_CallFunctionObjArgs(self->leave, Py_None, Py_None, Py_None, NULL);
    if (result == NULL)
        keep_error(error);
    Py_XDECREF(result);
    if (self->after != NULL && !Section_is_held(self, error))
        succeeds(self->after, error);
}

static PyObject *
Section_enter(Section *self, PyObject *Py_UNUSED(ignored))
{
    if (self->lock == NULL) {
        PyErr_SetString(PyExc_ValueError, "the section has no lock");
        return NULL;
    }
    PyObject *result = PyObject_CallNoArgs(self->enter);
    if (result == NULL)
        return NULL;
    Py_DECREF(result);
    self->depth++;
    if (!self->ready) {
        PyObject *error = NULL;
        if (self->first != NULL && !succeeds(self->first, &error)) {
            Section_leave(self, &error);
            put_error(error);
            return NULL;
        }
        self->ready = 1;
    }
    Py_RETURN_NONE;
}

static PyObject *
Section_exit(Section *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    PyObject *error = NULL;
    if (self->depth == 0) {
        PyErr_SetString(PyExc_RuntimeError, "the section was not entered");
        return NULL;
    }
    Section_leave(self, &error);
    if (error != NULL) {
        put_error(error);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Section_is_owned(Section *self, PyObject *Py_UNUSED(ignored))
{
    return self->lock == NULL ? Py_NewRef(Py_False) : PyObject_CallNoArgs(self->is_owned);
}

/* A callable that was given, or NULL for None. */
static PyObject *
given(PyObject *callable)
{
    return callable == Py_None ? NULL : Py_NewRef(callable);
}

static int
Section_init(Section *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"lock", "first", "last", "after", NULL};
    PyObject *lock, *first = Py_None, *last = Py_None, *after = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|OOO", names, &lock, &first, &last, &after))
        return -1;
    if (self->lock != NULL) {
        PyErr_SetString(PyExc_ValueError, "the section has a lock");
        return -1;
    }
    PyObject *enter = PyObject_GetAttrString(lock, "__enter__");
    PyObject *leave = enter == NULL ? NULL : PyObject_GetAttrString(lock, "__exit__");
    PyObject *is_owned = leave == NULL ? NULL : PyObject_GetAttrString(lock, "_is_owned");
    if (is_owned == NULL) {
        Py_XDECREF(enter);
        Py_XDECREF(leave);
        return -1;
    }
    self->lock = Py_NewRef(lock);
    self->enter = enter;
    self->leave = leave;
    self->is_owned = is_owned;
    self->first = given(first);
    self->last = given(last);
    self->after = given(after);
    return 0;
}

static int
Section_traverse(Section *self, visitproc visit, void *arg)
{
    Py_VISIT(self->lock);
    Py_VISIT(self->enter);
    Py_VISIT(self->leave);
    Py_VISIT(self->is_owned);
    Py_VISIT(self->first);
    Py_VISIT(self->last);
    Py_VISIT(self->after);
    return 0;
}

static int
Section_clear(Section *self)
{
    Py_CLEAR(self->lock);
    Py_CLEAR(self->enter);
    Py_CLEAR(self->leave);
    Py_CLEAR(self->is_owned);
    Py_CLEAR(self->first);
    Py_CLEAR(self->last);
    Py_CLEAR(self->after);
    return 0;
}

static void
Section_dealloc(Section *self)
{
    PyObject_GC_UnTrack(self);
    Section_clear(self);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef Section_methods[] = {
    {"__enter__", (PyCFunction)Section_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))Section_exit, METH_FASTCALL, NULL},
    {"_is_owned", (PyCFunction)Section_is_owned, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject Section_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "shmstats.core._cells.Section",
    .tp_basicsize = sizeof(Section),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_doc = PyDoc_STR("A lock with something to be done at its outermost level, for `with`."),
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)Section_init,
    .tp_dealloc = (destructor)Section_dealloc,
    .tp_traverse = (traverseproc)Section_traverse,
    .tp_clear = (inquiry)Section_clear,
    .tp_methods = Section_methods,
};

/* ---------------------------------------------------------------------------------------- reading */

enum { CELLS_PER_PAGE = 4096 / sizeof(Cell) };

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
            int64_t value = load_value(&row[i]);
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

/* ----------------------------------------------------------------------------------------- module */

static PyObject *
cell_layout(void)
{
    return Py_BuildValue("{s:(nn),s:(nn),s:(nn),s:n}", "lock", offsetof(Cell, lock), sizeof(uint32_t), "seq",
                         offsetof(Cell, seq), sizeof(uint32_t), "value", offsetof(Cell, value), sizeof(int64_t),
                         "size", sizeof(Cell));
}

static int
add_types(PyObject *module)
{
    PyTypeObject *types[] = {&Cells_Type,     &Series_Type,   &Counter_Type, &Gauge_Type,
                             &Histogram_Type, &Recorder_Type, &Section_Type};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (PyModule_AddType(module, types[i]) < 0)
            return -1;
    }
    return 0;
}

static int
make_constants(void)
{
    if (long_one != NULL)
        return 0;
    str_incr = PyUnicode_InternFromString("_incr");
    str_decr = PyUnicode_InternFromString("_decr");
    str_gauge = PyUnicode_InternFromString("_gauge");
    str_timing = PyUnicode_InternFromString("_timing");
    str_count_series = PyUnicode_InternFromString("_count_series");
    str_set_series = PyUnicode_InternFromString("_set_series");
    str_value = PyUnicode_InternFromString("_value");
    str_observe_series = PyUnicode_InternFromString("_observe_series");
    long_minus_one = PyLong_FromLong(-1);
    long_one = PyLong_FromLong(1);
    if (!str_incr || !str_decr || !str_gauge || !str_timing || !str_count_series || !str_set_series
        || !str_observe_series || !str_value || !long_minus_one || !long_one)
        return -1;
    if (pthread_atfork(NULL, NULL, after_fork_in_child) != 0) {
        PyErr_SetString(PyExc_OSError, "pthread_atfork failed");
        return -1;
    }
    return 0;
}

#ifdef SHMSTATS_STOP_POINTS
static PyObject *
stop_at(PyObject *Py_UNUSED(module), PyObject *argument)
{
    long number = PyLong_AsLong(argument);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    stop_points_left = number;
    Py_RETURN_NONE;
}

#endif

static PyMethodDef module_functions[] = {
    {"sum_columns", sum_columns, METH_VARARGS, NULL},
#ifdef SHMSTATS_STOP_POINTS
    {"stop_at", stop_at, METH_O, PyDoc_STR("Stop the process when it has passed so many stop points; -1: never.")},
#endif
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef cells_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "shmstats.core._cells",
    .m_doc = PyDoc_STR("The counting path in C; _cells_py is its pure Python twin."),
    .m_size = -1,
    .m_methods = module_functions,
};

PyMODINIT_FUNC
PyInit__cells(void)
{
    if (make_constants() < 0)
        return NULL;
    PyObject *module = PyModule_Create(&cells_module);
    if (module == NULL)
        return NULL;
    PyObject *layout = cell_layout();
    int failed = add_types(module) < 0 || PyModule_AddObjectRef(module, "CELL_LAYOUT", layout) < 0
                 || PyModule_AddIntConstant(module, "PROTOCOL", 1) < 0
                 || PyModule_AddStringConstant(module, "CORE", "C") < 0;
    Py_XDECREF(layout);
    if (failed)
        Py_CLEAR(module);
    return module;
}

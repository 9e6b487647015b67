/* The cells of a block, as one worker uses them, and their locks.
 *
 * A cell is 8 bytes. A series is a lock, its first cell, followed by its values. The lock word is 0 or
 * the owner's word (Worker.word). It is taken by compare-and-swap and held for a few
 * instructions. Under the lock the generation of the names is checked again: a process that removes a name first raises
 * the generation and then takes the series' lock in every row, so nobody can count into cells that another name has
 * got since. A value changes by one aligned 64-bit store, so a worker that is killed at any instruction leaves
 * the old value or the new one.
 */

/* One cell, as layout.py's CELL. The module exports its offsets, and core/__init__.py compares them. */
typedef union {
    struct {
        uint32_t lock;
        uint32_t seq; /* of a gauge: 0: the integer is its value, 1: the double;
                       * of a histogram: odd while it is written, and a different number afterwards */
    };
    int64_t value; /* or a double */
} Cell;

/* The number of cells before a series' values, and of cells that get memory together. */
enum { LOCK_CELLS = 1, PAGE_BYTES = 4096, CELLS_PER_PAGE = PAGE_BYTES / sizeof(Cell) };

typedef struct Cells {
    PyObject_HEAD
    Py_buffer buffer;           /* the whole block; buffer.buf is NULL once closed */
    Cell *first;                /* row 0, column 0 */
    Cell *buffered;             /* the same if the cells are a buffer of this process, else NULL */
    uint64_t *held;             /* of a buffer: operations in it, in our worker slot */
    uint64_t limit;             /* of a buffer: operations that it may hold */
    PyObject *flush;            /* of a buffer: callable(), called when it is full and cannot be flushed here */
    struct Cells *target;       /* of a buffer: the block's cells, where it is flushed to */
    uint32_t *dirty;            /* of a buffer: the columns that are not empty, n_dirty of them */
    Py_ssize_t n_dirty;
    Cell *flushes, *durations;  /* of a buffer: the statistics of its flushes, in the block, or NULL */
    PyObject *scale;            /* of the durations: bytes, as in a handle */
    Py_ssize_t rows, capacity;  /* in cells */
    Py_ssize_t row_bytes;       /* from one row to the next */
    Py_ssize_t pages;           /* offset of the bitmaps of pages that have memory */
    Py_ssize_t bitmap_bytes;    /* from one bitmap to the next; 0: a buffer, or without bitmaps */
    const uint64_t *generation; /* in the header, or &no_generation when closed or inherited by fork */
    const uint64_t *gate;       /* generation, or &no_generation while the fast paths are shut */
    uint32_t owner;             /* the word of our locks */
    PyObject *is_live;          /* callable(word) -> whether the owner of a lock lives */
    Cell *takeovers;            /* the counter of locks taken over from dead owners, or NULL */
    struct Cells *next;         /* in the list of all cells, for the child of a fork */
} Cells;

/* The generation of closed cells, which no binding has. (Cells themselves never have the other one.) */
static const uint64_t no_generation = 0;
static const uint64_t never_current = UINT64_MAX;

/* All cells of this process. Only one interpreter at a time has the module (_cells.c); its GIL protects the list. */
static Cells *all_cells = NULL;

/* In the child of any fork: make sure that nothing is counted into inherited cells. */
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

/* The cell in a row and column, which are within the cells. */
static inline Cell *
cell_at(const Cells *cells, Py_ssize_t row, Py_ssize_t column)
{
    return (Cell *)((char *)cells->first + row * cells->row_bytes) + column;
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

/* Value number i of the series whose lock is this cell. */
static inline void
store_value(Cell *cell, Py_ssize_t i, int64_t value)
{
    STOP_POINT();
    __atomic_store_n(&cell[LOCK_CELLS + i].value, value, __ATOMIC_RELAXED);
}

static inline int64_t
load_value(const Cell *cell, Py_ssize_t i)
{
    return __atomic_load_n(&cell[LOCK_CELLS + i].value, __ATOMIC_RELAXED);
}

/* Call a Python callable with a lock word; returns its truth value, or -1 with an exception set. */
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

/* Yield the processor for a while, without the GIL. */
static void
pause_a_little(long nanoseconds)
{
    struct timespec span = {0, nanoseconds};
    Py_BEGIN_ALLOW_THREADS
    nanosleep(&span, NULL);
    Py_END_ALLOW_THREADS
}

/* Take a lock that was not free: wait for its owner, or take it over from a dead one.
 *
 * Other threads run meanwhile: they may close the block, which is a MISS, and may bind the caller's handle
 * elsewhere. */
static Outcome
wait_for_lock(Cells *cells, Cell *cell)
{
    for (int spin = 0; spin < 200; spin++) {
        if (try_lock(cell, cells->owner))
            return DONE;
        RELAX();
    }
    long nanoseconds = 20000;
    while (cells->generation != &no_generation) {
        uint32_t word = __atomic_load_n(&cell->lock, __ATOMIC_RELAXED);
        if (word == 0) {
            if (try_lock(cell, cells->owner))
                return DONE;
            continue;
        }
        int lives = ask(cells->is_live, word);
        if (lives < 0)
            return FAILED;
        if (cells->generation == &no_generation)
            return MISS;
        if (!lives && __atomic_compare_exchange_n(&cell->lock, &word, cells->owner, 0, __ATOMIC_ACQUIRE,
                                                  __ATOMIC_RELAXED)) {
            STOP_POINT();
            /* The owner's store had happened or not begun: there is nothing to repair. */
            if (cells->takeovers != NULL)
                __atomic_fetch_add(&cells->takeovers[LOCK_CELLS].value, 1, __ATOMIC_RELAXED);
            return DONE;
        }
        if (lives) {
            pause_a_little(nanoseconds);
            if (nanoseconds < 1000000)
                nanoseconds *= 2;
        }
    }
    return MISS;
}

/* Under the lock of a cell: whether a binding of the given generation is still valid; if not, the lock is released. */
static inline int
is_still_bound(const Cells *cells, Cell *cell, uint64_t generation)
{
    if (LIKELY(current(cells->generation) == generation))
        return 1;
    unlock(cell);
    return 0;
}

/* Lock a cell for a binding, if its lock is free and the binding is valid. It calls nothing, so the caller needs no
 * reference while it holds the lock. */
static inline int
lock_at_once(const Cells *cells, Cell *cell, uint64_t generation)
{
    if (UNLIKELY(!try_lock(cell, cells->owner)))
        return 0;
    STOP_POINT();
    return is_still_bound(cells, cell, generation);
}

/* Lock a cell. The caller has a reference to the cells until it releases the lock, which keeps them and the cell's
 * memory alive. */
static inline Outcome
lock(Cells *cells, Cell *cell)
{
    if (LIKELY(try_lock(cell, cells->owner))) {
        STOP_POINT();
        return DONE;
    }
    return wait_for_lock(cells, cell);
}

/* Lock a cell for a binding of the given generation; MISS if that is stale. */
static inline Outcome
lock_bound(Cells *cells, Cell *cell, uint64_t generation)
{
    Outcome outcome = lock(cells, cell);
    return LIKELY(outcome == DONE) && !is_still_bound(cells, cell, generation) ? MISS : outcome;
}

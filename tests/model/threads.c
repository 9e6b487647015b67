/* The C core's locks under ThreadSanitizer: _cells.c as it is, run by threads of this one process without the GIL.
 *
 * Each thread stands for a worker, with cells and an owner's word of its own, on one block. Beside each cell is a
 * plain variable that only its lock protects: should the lock fail to order what is done under it, by the
 * memory order of its operations too, ThreadSanitizer says so, and the sums are wrong. Some threads end with a
 * lock in their hands, as a killed worker does; the others must take it over.
 *
 * The few functions of Python that these paths call are replaced; the others are never called, and not linked.
 * Writes "ok <taken over>" and ends with 0, or says what is wrong and ends with 1.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { WORKERS = 4, MORTAL = 2, ROUNDS = 100000, COUNTERS = 3, OF_COUNTER = 2, OF_HISTOGRAM = 6 };

static uint32_t dead[WORKERS + 1];

/* is_live: whether the worker that has a lock's word has not ended with it. */
static int
answer_of(uint32_t word)
{
    return word > WORKERS || !__atomic_load_n(&dead[word], __ATOMIC_ACQUIRE);
}

#define PyObject_CallFunction(callable, format, word) ((PyObject *)(uintptr_t)(1 + answer_of((uint32_t)(word))))
#define PyObject_IsTrue(object) ((int)((uintptr_t)(object) == 2))
#undef Py_DECREF
#define Py_DECREF(object) ((void)(object))
#undef Py_INCREF
#define Py_INCREF(object) ((void)(object))
#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define Py_BEGIN_ALLOW_THREADS {
#define Py_END_ALLOW_THREADS }

#include "_cells.c"

static struct {
    uint64_t generation;
    Cell cells[COUNTERS * OF_COUNTER + OF_HISTOGRAM];
} block = {.generation = 1};

static int64_t beside[COUNTERS]; /* plain, and protected by nothing but the lock of the counter of that number */
static Cell taken_over[OF_COUNTER];
static Cell *const histogram = &block.cells[COUNTERS * OF_COUNTER];

static Cell *
counter(int number)
{
    return &block.cells[number * OF_COUNTER];
}

static void
make_cells(Cells *cells, uint32_t owner)
{
    memset(cells, 0, sizeof *cells);
    cells->first = block.cells;
    cells->generation = cells->gate = &block.generation;
    cells->owner = owner;
    cells->takeovers = taken_over;
}

static void *
work(void *argument)
{
    uint32_t owner = (uint32_t)(uintptr_t)argument;
    Cells cells;
    make_cells(&cells, owner);
    for (int round = 0; round < ROUNDS; round++) {
        int number = round % COUNTERS;
        Cell *cell = counter(number);
        if (add_integer(&cells, cell, 1, 1) != DONE)
            return "an addition was refused";
        if (lock_bound(&cells, cell, 1) != DONE)
            return "a lock was refused";
        beside[number]++;
        unlock(cell);
        if (add_integer(&cells, cell, 2, 1) != MISS)
            return "an addition by a stale binding was not refused";
        if (observe(&cells, histogram, 1, round % 2, 1.0) != DONE)
            return "an observation was refused";
    }
    if (owner <= MORTAL) {
        if (lock(&cells, counter((int)owner - 1)) != DONE)
            return "the last lock was refused";
        __atomic_store_n(&dead[owner], 1, __ATOMIC_RELEASE);
    }
    return NULL;
}

static int
check(const char *what, int64_t found, int64_t wanted)
{
    if (found == wanted)
        return 0;
    printf("%s: %lld, not %lld\n", what, (long long)found, (long long)wanted);
    return 1;
}

int
main(void)
{
    pthread_t threads[WORKERS];
    int failed = 0;
    for (uintptr_t i = 0; i < WORKERS; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)(i + 1)) != 0)
            return 1;
    for (int i = 0; i < WORKERS; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        if (wrong != NULL) {
            printf("worker %d: %s\n", i + 1, (const char *)wrong);
            failed = 1;
        }
    }
    Cells cells;
    make_cells(&cells, WORKERS + 1);
    int64_t sum = 0, sum_beside = 0;
    for (int number = 0; number < COUNTERS; number++) {
        failed |= add_integer(&cells, counter(number), 1, 0) != DONE;
        failed |= check("a lock after all", counter(number)->lock, 0);
        sum += load_value(counter(number), 0);
        sum_beside += beside[number];
    }
    failed |= check("sum", sum, WORKERS * ROUNDS);
    failed |= check("sum beside", sum_beside, WORKERS * ROUNDS);
    failed |= check("sum of observations", (int64_t)load_double(histogram, SUM), WORKERS * ROUNDS);
    failed |= check("observations", load_value(histogram, BUCKETS) + load_value(histogram, BUCKETS + 1),
                    WORKERS * ROUNDS);
    failed |= check("locks taken over", load_value(taken_over, 0), MORTAL);
    if (!failed)
        printf("ok %lld\n", (long long)load_value(taken_over, 0));
    return failed;
}

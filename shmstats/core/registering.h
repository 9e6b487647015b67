/* A Registrar binds handles that are not bound, or no longer: it finds the name, or adds it under the table lock, in
 * one call. Rare cases are left to Python (shmstats.block.registering), and then nothing has been done.
 *
 * These are: another thread of this process, or this one, holds the lock; the table is full, its index must grow, or it
 * needs repair; no memory can be reserved; Python has not looked at the metric's declaration since the names changed. */

enum { RECORDS_PER_PAGE = PAGE_BYTES / sizeof(Record) };

/* Find a name; MISS if it does not exist. Damage is reported by Python. */
static Outcome
look(const Registrar *self, const char *key, size_t length, uint32_t hash, Py_ssize_t *number, Record *name)
{
    int found = find_hashed(self->index, key, length, hash, 0, number, name);
    if (found < 0)
        PyErr_Clear();
    return found < 0 ? FAILED : found ? DONE : MISS;
}

/* Have memory behind a place in the block, as Segment of shmstats.block.segment does; returns whether there is. */
static int
reserve(const Registrar *self, const char *place, uint64_t size)
{
#ifdef __linux__
    return posix_fallocate(self->descriptor, (off_t)(place - (const char *)self->index->buffer.buf), (off_t)size) == 0;
#else
    return (void)self, (void)place, size == 0;
#endif
}

/* Whether a series has memory behind its cells in the row in which this process counts it. */
static int
has_cells(const Registrar *self, const Record *name)
{
    return (uint64_t)name->cell + name->width <= (uint64_t)self->cells->capacity
           && is_backed(self->cells, row_for(self, name->kind, name->mode), name->cell, name->width);
}

/* Have memory behind the cells of a series in a row. The table lock is held. */
static int
reserve_cells(const Registrar *self, Py_ssize_t row, uint32_t cell, uint32_t width)
{
    const Cells *cells = self->cells;
    if (width == 0 || (uint64_t)cell + width > (uint64_t)cells->capacity)
        return width == 0;
    char *bits = (char *)cells->buffer.buf + cells->pages + row * cells->bitmap_bytes;
    char *first = (char *)cell_at(cells, row, 0);
    for (uint64_t page = cell / CELLS_PER_PAGE; page <= ((uint64_t)cell + width - 1) / CELLS_PER_PAGE; page++) {
        if (is_backed(cells, row, (Py_ssize_t)(page * CELLS_PER_PAGE), 1))
            continue;
        if (!reserve(self, first + page * PAGE_BYTES, PAGE_BYTES))
            return 0;
        STOP_POINT();
        __atomic_fetch_or(bits + page / 8, (char)(1 << page % 8), __ATOMIC_RELEASE);
        STOP_POINT();
    }
    return 1;
}

/* Have memory behind the next record, and behind its key. */
static int
reserve_next(const Registrar *self, uint32_t number, uint64_t heap, uint32_t room)
{
    const NameIndex *names = self->index;
    uint64_t used = (heap + PAGE_BYTES - 1) / PAGE_BYTES, pages = (heap + room + PAGE_BYTES - 1) / PAGE_BYTES;
    return (number % RECORDS_PER_PAGE != 0 || reserve(self, (const char *)(names->names + number), PAGE_BYTES))
           && (pages == used || reserve(self, names->heap + used * PAGE_BYTES, (pages - used) * PAGE_BYTES));
}

/* Add a name at the end, or in the place of a removed one; MISS if that is left to Python. */
static Outcome
add_name(Registrar *self, const char *key, size_t length, uint32_t hash, Record *name)
{
    NameIndex *names = self->index;
    uint64_t heap = GET(LONG_NUMBER(names, HEAP_USED));
    uint32_t number = GET(NUMBER(names, COUNT)), cell = GET(NUMBER(names, CELLS_USED));
    Py_ssize_t row = row_for(self, name->kind, name->mode);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    name->created = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    name->length = (uint32_t)length;
    if (GET(NUMBER(names, REMOVED)) != 0 && know_free(names) < 0)
        return PyErr_Clear(), MISS;
    const FreeNames *free = GET(NUMBER(names, REMOVED)) != 0 ? free_for(names, name->width, length) : NULL;
    if (free != NULL) {
        uint32_t taken = free->numbers[free->n - 1];
        Record former = load_name(names, taken);
        if (!can_replace(names, &former, name, length) || former.cell > (uint64_t)self->cells->capacity - name->width)
            return MISS;
        if (!reserve_cells(self, row, former.cell, name->width)
            || (name->width != 0
                && !empty_everywhere(self->cells, former.cell, name->width, name->kind == 3)))
            return MISS;
        if (replace_name(names, taken, &former, name, key, length, hash) < 0)
            return PyErr_Clear(), FAILED;
        return DONE;
    }
    uint64_t slots = (uint64_t)mask_of(names) + 1;
    uint32_t room = room_of(name->length);
    if (number >= (uint64_t)names->capacity || cell + (uint64_t)name->width > (uint64_t)names->columns || heap % 8 != 0
        || heap > (uint64_t)names->heap_bytes || heap + room > (uint64_t)names->heap_bytes
        || 2 * ((uint64_t)number + 1) - 1 > slots || !reserve_next(self, number, heap, room)
        || !reserve_cells(self, row, cell, name->width))
        return MISS;
    if (append_name(names, name, key, hash) < 0)
        return PyErr_Clear(), FAILED;
    return DONE;
}

/* A handle to be bound, and what was found about its name. */
typedef struct {
    Series *series;
    Wanted wanted;
    SeriesKey key;
    uint32_t hash;
    Record name;
    Outcome outcome;
} Binding;

/* Find or add a series; MISS if that is left to Python. The table lock is held. */
static Outcome
find_or_add(Registrar *self, Binding *binding)
{
    NameIndex *names = self->index;
    const SeriesKey *key = &binding->key;
    const Wanted *wanted = &binding->wanted;
    Record *name = &binding->name;
    Py_ssize_t number = 0;
    Record family = {0};
    int is_labelled = key->length > key->of_family;
    if (GET(NUMBER(names, CHANGING)) != 0
        || (wanted->family != 0
            && (wanted->forgotten != self->forgotten || names->known_revision != GET(LONG_NUMBER(names, REVISION)))))
        return MISS;
    Outcome outcome = look(self, key->text, key->length, binding->hash, &number, name);
    if (outcome == DONE) /* where there is no memory for it, it is not bound */
        reserve_cells(self, row_for(self, name->kind, name->mode), name->cell, name->width);
    if (outcome != MISS)
        return outcome;
    uint32_t of_family = wanted->family; /* of a declared metric: still right, as the names have not changed */
    if (of_family == 0 && (is_labelled || GET(NUMBER(names, FAMILIES)) != 0)) {
        uint32_t family_hash = hash_in(names, key->text, key->of_family);
        outcome = look(self, key->text, key->of_family, family_hash, &number, &family);
        if (outcome == MISS && is_labelled) {
            number = GET(NUMBER(names, COUNT)); /* a family has no cells, so a removed one's record would do as well */
            family = (Record){.kind = wanted->kind, .flags = FLAG_FAMILY};
            outcome = GET(NUMBER(names, REMOVED)) != 0
                          ? MISS
                          : add_name(self, key->text, key->of_family, family_hash, &family);
            if (outcome != DONE)
                return outcome;
        }
        else if (outcome == FAILED)
            return FAILED;
        of_family = outcome == DONE ? (uint32_t)number + 1 : 0;
    }
    if (family.flags & (FLAG_DECLARED | FLAG_WITHDRAWN))
        return MISS;
    if (wanted->labelnames != NULL && !has_labels(binding->series, wanted->labelnames))
        return MISS;
    if (is_labelled && self->limit != 0 && GET(&names->names[of_family - 1].members) >= self->limit)
        return MISS;
    uint8_t flags = (uint8_t)((wanted->kind == 1 ? FLAG_MONOTONIC : 0) | (is_labelled ? FLAG_MEMBER : 0));
    *name = (Record){.kind = wanted->kind, .mode = wanted->mode, .flags = flags, .width = wanted->width,
                     .family = of_family};
    return add_name(self, key->text, key->length, binding->hash, name);
}

/* Take or release the table lock: a record lock, which belongs to the process. Returns whether that succeeded. */
static int
set_table_lock(const Registrar *self, short type)
{
    struct flock whole = {.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)self->position, .l_len = 1};
    if (fcntl(self->descriptor, F_SETLK, &whole) == 0)
        return 1;
    if (type == F_UNLCK || (errno != EAGAIN && errno != EACCES))
        return 0;
    int done;
    Py_BEGIN_ALLOW_THREADS
    done = fcntl(self->descriptor, F_SETLKW, &whole) == 0; /* an interruption is left to Python */
    Py_END_ALLOW_THREADS
    return done;
}

static int
is_open(const Registrar *self)
{
    return self->index != NULL && self->index->buffer.buf != NULL && !self->index->buffer.readonly
           && self->cells->gate != &no_generation;
}

/* Whether the descriptor still refers to the segment: a process that becomes a daemon closes all descriptors, and their
 * numbers are reused. */
static int
has_file(const Registrar *self)
{
    struct stat found;
    return fstat(self->descriptor, &found) == 0 && found.st_dev == self->file.st_dev
           && found.st_ino == self->file.st_ino;
}

static int
is_true(PyObject *answer)
{
    int truth = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    if (truth < 0)
        PyErr_Clear();
    return truth;
}

/* Under the table lock, find or add a name that was not found without it. Nothing here waits for another thread, and no
 * signal handler in Python runs. */
static void
register_name(Registrar *self, Binding *binding)
{
    if (is_true(PyObject_CallNoArgs(self->is_owned)) != 0
        || is_true(PyObject_CallOneArg(self->acquire, Py_False)) != 1)
        return;
    if (is_open(self) && has_file(self) && set_table_lock(self, F_WRLCK)) {
        if (is_open(self))
            binding->outcome = find_or_add(self, binding);
        set_table_lock(self, F_UNLCK);
    }
    PyObject *released = PyObject_CallNoArgs(self->release);
    if (released == NULL)
        PyErr_Clear();
    Py_XDECREF(released);
}

/* Bind a handle to what was found; returns whether that is what it needs, and has memory. */
static int
bind_to(const Registrar *self, const Binding *binding, uint64_t generation)
{
    const Record *name = &binding->name;
    Py_ssize_t row = row_for(self, name->kind, name->mode);
    Cells *cells = self->cells;
    if (binding->outcome != DONE || !is_wanted(self, name, &binding->wanted) || !has_cells(self, name))
        return 0;
    bind(binding->series, cells, cell_at(cells, row, name->cell), generation, name->flags & FLAG_MONOTONIC, binding->wanted.scale,
         binding->wanted.by);
    return is_bound(binding->series);
}

/* Bind a handle with an open registrar; returns whether it is bound. */
static int
bind_with(Registrar *self, Series *series)
{
    Binding binding; /* not cleared: it has a large key */
    uint64_t generation = current(self->cells->generation);
    Py_ssize_t number;
    binding.series = series;
    binding.wanted.known = NULL;
    if (!find_wanted(self, series, &binding.wanted))
        return 0;
    int is_done = make_key(series, self->reserved, self->reserved_labels, &binding.key);
    if (is_done) {
        binding.hash = hash_in(self->index, binding.key.text, binding.key.length);
        binding.outcome = look(self, binding.key.text, binding.key.length, binding.hash, &number, &binding.name);
        if (binding.outcome == DONE && !has_cells(self, &binding.name))
            binding.outcome = MISS; /* they are reserved under the table lock */
        Cells *cells = (Cells *)Py_NewRef((PyObject *)self->cells);
        if (binding.outcome == MISS)
            register_name(self, &binding);
        is_done = self->cells == cells && is_open(self) && bind_to(self, &binding, generation);
        Py_DECREF(cells);
    }
    Py_XDECREF(binding.wanted.known);
    return is_done;
}

static int
is_open_registrar(PyObject *found, const State *state)
{
    return found != NULL && Py_IS_TYPE(found, state->Registrar) && is_open((Registrar *)found);
}

/* The registrar of a recorder if it has an open one, else NULL. */
static Registrar *
registrar_of(PyObject *recorder, const State *state)
{
    PyObject *found = PyObject_TypeCheck(recorder, state->Recorder) ? Py_XNewRef(((Recorder *)recorder)->registrar)
                                                                    : PyObject_GetAttr(recorder, state->str_registrar);
    if (is_open_registrar(found, state))
        return (Registrar *)found;
    PyErr_Clear();
    Py_XDECREF(found);
    return NULL;
}

/* Bind a handle. The registry keeps one without labels for the next call of its name, because timers make new ones. */
static __attribute__((noinline)) int
bind_at_once(Series *series)
{
    Registrar *registrar = registrar_of(series->recorder, series->state);
    int is_done = registrar != NULL && bind_with(registrar, series);
    Py_XDECREF(registrar);
    if (is_done && PyTuple_GET_SIZE(series->labels) == 0 && PyObject_TypeCheck(series->recorder, series->state->Recorder)
        && keep_handle((Recorder *)series->recorder, series) < 0)
        PyErr_Clear();
    return is_done;
}

static PyObject *
Series__bind_at_once(Series *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(bind_at_once(self));
}

static Series *
make_handle(Recorder *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (kwnames != NULL || nargs < 2 || nargs > 3 || !PyUnicode_CheckExact(args[0]) || !PyUnicode_CheckExact(args[1])
        || !is_open_registrar(self->registrar, self->state))
        return NULL;
    Series *made = new_series(type, (PyObject *)self, args[0], args[1], NULL);
    if (made == NULL)
        PyErr_Clear();
    return made;
}

static PyObject *
Registrar_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *declared, *reserved, *labels, *plain;
    if (!PyArg_ParseTuple(args, "O!O!O!S", &PyDict_Type, &declared, &PyTuple_Type, &reserved, &PyTuple_Type, &labels,
                          &plain))
        return NULL;
    if (buckets_of(plain) == 0)
        return PyErr_SetString(PyExc_ValueError, "these bytes are no scale of a histogram"), NULL;
    Registrar *self = (Registrar *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->declared = Py_NewRef(declared);
    self->reserved = Py_NewRef(reserved);
    self->reserved_labels = Py_NewRef(labels);
    self->plain = Py_NewRef(plain);
    self->known = PyDict_New();
    if (self->known == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

#define REGISTRAR_REFERENCES(X)                                                                                        \
    X(index) X(cells) X(acquire) X(release) X(is_owned) X(declared) X(reserved) X(reserved_labels) X(plain) X(known)
COLLECTED(Registrar, REGISTRAR_REFERENCES, (void)0)

/* Drop the knowledge of declared metrics: the names have changed, or the block is another one. */
static void
forget_known(Registrar *self)
{
    self->forgotten++;
    PyDict_Clear(self->known);
}

static PyObject *
Registrar_open(Registrar *self, PyObject *args)
{
    PyObject *index, *cells, *lock;
    Py_ssize_t row;
    int descriptor;
    long long position;
    unsigned int limit;
    State *state = state_of(Py_TYPE(self));
    if (state == NULL
        || !PyArg_ParseTuple(args, "O!O!nIOiL", state->NameIndex, &index, state->Cells, &cells, &row, &limit, &lock,
                             &descriptor, &position))
        return NULL;
    Cells *its = (Cells *)cells;
    if (row < 1 || row >= its->rows || its->bitmap_bytes == 0 || its->buffered != NULL) {
        PyErr_Format(PyExc_ValueError, "these cells have no row %zd to register names in", row);
        return NULL;
    }
    PyObject *acquire = PyObject_GetAttrString(lock, "acquire"), *release = PyObject_GetAttrString(lock, "release");
    PyObject *is_owned = PyObject_GetAttrString(lock, "_is_owned");
    struct stat file = {0};
    if (acquire == NULL || release == NULL || is_owned == NULL || fstat(descriptor, &file) < 0) {
        Py_XDECREF(acquire);
        Py_XDECREF(release);
        Py_XDECREF(is_owned);
        return PyErr_Occurred() ? NULL : PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_XSETREF(self->acquire, acquire);
    Py_XSETREF(self->release, release);
    Py_XSETREF(self->is_owned, is_owned);
    forget_known(self);
    ((NameIndex *)index)->known_revision = UINT64_MAX;
    self->row = row;
    self->limit = limit;
    self->descriptor = descriptor;
    self->file = file;
    self->position = position;
    Py_XSETREF(self->index, (NameIndex *)Py_NewRef(index));
    Py_XSETREF(self->cells, (Cells *)Py_NewRef(cells));
    Py_RETURN_NONE;
}

static PyObject *
Registrar_learn(Registrar *self, PyObject *args)
{
    PyObject *metric, *mine, *by, *labelnames, *scale;
    unsigned int family, kind;
    unsigned char mode;
    unsigned long long revision;
    Contributor contributor;
    if (!PyArg_ParseTuple(args, "KO!OIIbO!OS", &revision, &PyTuple_Type, &metric, &mine, &family, &kind, &mode,
                          &PyTuple_Type, &by, &labelnames, &scale)
        || parse_contributor(by, &contributor) < 0)
        return NULL;
    if (labelnames != Py_None && !PyTuple_Check(labelnames))
        return PyErr_SetString(PyExc_TypeError, "labelnames must be a tuple or None"), NULL;
    if (self->index == NULL)
        Py_RETURN_NONE;
    if (self->index->known_revision != revision) {
        forget_known(self);
        self->index->known_revision = revision;
    }
    PyObject *known = Py_BuildValue("(OIIBOOO)", mine, family, kind, mode, by, labelnames, scale);
    int failed = known == NULL || PyDict_SetItem(self->known, metric, known) < 0;
    Py_XDECREF(known);
    return failed ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef Registrar_methods[] = {
    POSITIONAL(Registrar, open),
    POSITIONAL(Registrar, learn),
    {NULL, NULL, 0, NULL},
};

TYPE(Registrar, Registrar, "Binds handles at once, as far as that is plain.", FINAL,
     {Py_tp_new, Registrar_new}, COLLECTED_SLOTS(Registrar), {Py_tp_methods, Registrar_methods})

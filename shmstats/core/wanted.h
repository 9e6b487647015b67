/* The Python type Registrar, and how it knows what a handle must be bound to: the kind of its series, its mode, its
 * cells.
 *
 * It learns the declarations of metrics from Python; that knowledge is valid as long as the names do not change. */

typedef struct {
    PyObject_HEAD
    NameIndex *index; /* of the block, or NULL if there is none yet */
    Cells *cells;
    Py_ssize_t row;           /* of this process */
    uint32_t limit;           /* label sets that a metric may have; 0: any number */
    int descriptor;           /* of the segment's file, */
    struct stat file;         /* and the file that it must still refer to */
    long long position;       /* of the table lock in it */
    PyObject *acquire, *release, *is_owned; /* of the lock between threads of this process */
    PyObject *declared;       /* dict: the declarations of this process, by (category, metric) */
    PyObject *reserved, *reserved_labels; /* tuples: categories that must not be counted into; label names */
    PyObject *plain;          /* bytes: the default scale of histograms */
    PyObject *known;          /* dict, with the same keys: what Python has found about declared metrics, see `learn` */
    uint64_t forgotten;       /* number of times that this knowledge was dropped */
} Registrar;

/* What a handle must be bound to: its kind, and the declaration of its metric. Other threads may learn meanwhile. */
typedef struct {
    uint8_t kind, mode;   /* as in the block */
    uint32_t width;       /* cells */
    Contributor by;       /* of a gauge */
    uint32_t family;      /* number + 1 of the record of a declared metric; 0: it is not declared */
    PyObject *known;      /* a reference to the knowledge of a declared metric, else NULL */
    uint64_t forgotten;   /* that of the registrar at the time of the lookup */
    PyObject *labelnames; /* tuple, or NULL: any */
    PyObject *scale;      /* bytes of a histogram, else NULL */
} Wanted;

/* The item of a dict by (category, metric), borrowed, or NULL. */
static PyObject *
of_metric(PyObject *dict, const Series *series)
{
    if (PyDict_GET_SIZE(dict) == 0)
        return NULL;
    PyObject *metric = PyTuple_Pack(2, series->category, series->metric);
    PyObject *found = metric == NULL ? NULL : PyDict_GetItemWithError(dict, metric);
    Py_XDECREF(metric);
    PyErr_Clear();
    return found;
}

/* The number of cells in a block of a series with a kind and mode. */
static uint32_t
width_of(uint8_t kind, uint8_t mode, PyObject *scale)
{
    int of_gauge = mode == 0 ? REAL + 1 : MOMENT + 1;
    return (uint32_t)(LOCK_CELLS + (kind == 1 ? 1 : kind == 2 ? of_gauge : BUCKETS + buckets_of(scale)));
}

/* The row for such a series: a gauge without a mode has one value for all, in row 0. */
static Py_ssize_t
row_for(const Registrar *self, uint8_t kind, uint8_t mode)
{
    return kind == 2 && mode == 0 ? 0 : self->row;
}

/* Find out what a handle must be bound to; 0 if that is left to Python. */
static int
find_wanted(const Registrar *self, const Series *series, Wanted *wanted)
{
    PyObject *mine = of_metric(self->declared, series), *known = NULL;
    if (self->index->known_revision == GET(LONG_NUMBER(self->index, REVISION)))
        known = of_metric(self->known, series);
    wanted->kind = series->kind == COUNTER ? 1 : series->kind == GAUGE ? 2 : 3;
    wanted->mode = 0;
    wanted->by = (Contributor){0, 0, 0, 0};
    wanted->family = 0;
    wanted->forgotten = self->forgotten;
    wanted->labelnames = NULL;
    wanted->scale = series->kind == HISTOGRAM ? self->plain : NULL;
    wanted->width = width_of(wanted->kind, 0, self->plain);
    if (known == NULL)
        return mine == NULL && series->kind != TIMESTAMP;
    /* (declaration of this process, family, kind, mode, contributor, label names, scale) */
    PyObject *labelnames = PyTuple_GET_ITEM(known, 5), *scale = PyTuple_GET_ITEM(known, 6);
    if (PyTuple_GET_ITEM(known, 0) != (mine == NULL ? Py_None : mine)
        || PyLong_AsLong(PyTuple_GET_ITEM(known, 2)) != wanted->kind || (wanted->kind == 3 && buckets_of(scale) == 0)
        || parse_contributor(PyTuple_GET_ITEM(known, 4), &wanted->by) < 0)
        return PyErr_Clear(), 0;
    wanted->known = Py_NewRef(known);
    wanted->family = (uint32_t)PyLong_AsUnsignedLong(PyTuple_GET_ITEM(known, 1)) + 1;
    wanted->mode = (uint8_t)PyLong_AsLong(PyTuple_GET_ITEM(known, 3));
    wanted->width = width_of(wanted->kind, wanted->mode, scale);
    wanted->labelnames = labelnames == Py_None ? NULL : labelnames;
    wanted->scale = PyBytes_GET_SIZE(scale) == 0 ? NULL : scale;
    return 1;
}

/* Whether a found series is the wanted one; in other cases Python must report what it is. */
static int
is_wanted(const Registrar *self, const Record *name, const Wanted *wanted)
{
    if (name->kind != wanted->kind || name->mode != wanted->mode || name->width != wanted->width)
        return 0;
    if (wanted->family != 0 || name->family == 0)
        return name->family == wanted->family;
    if (name->family > (uint64_t)self->index->capacity)
        return 0;
    Record family = load_name(self->index, name->family - 1);
    return family.state == RECORD_LIVE && !(family.flags & (FLAG_DECLARED | FLAG_WITHDRAWN));
}

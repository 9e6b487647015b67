/* A record of a block's names, as layout.py's NAME; core/__init__.py compares the places of the fields. */
#define RECORD_FIELDS(X)                                                                                               \
    X(uint8_t, state) X(uint8_t, kind) X(uint8_t, mode) X(uint8_t, flags) X(uint32_t, width) X(uint32_t, cell)         \
    X(uint32_t, family) X(uint32_t, hash) X(uint32_t, declaration) X(uint64_t, key) X(uint32_t, room)                  \
    X(uint32_t, length) X(uint64_t, note) X(uint32_t, note_room) X(uint32_t, members) X(uint64_t, created)

typedef struct {
#define FIELD(type, name) type name;
    RECORD_FIELDS(FIELD)
#undef FIELD
} Record;

enum { RECORD_LIVE = 1, RECORD_REMOVED = 2 };
enum { KIND_COUNTER = 1, KIND_GAUGE = 2, KIND_HISTOGRAM = 3, KIND_TIMESTAMP = 4 };
enum { COUNTER_CELLS = 2, GAUGE_CELLS = 3, OWN_GAUGE_CELLS = 5 }; /* the last: a gauge with a value for each worker */
enum { FLAG_MONOTONIC = 1, FLAG_FAMILY = 2, FLAG_DECLARED = 4, FLAG_MEMBER = 16, FLAG_WITHDRAWN = 32, FLAG_CARRIED = 128 };

/* Whether a record has the number of cells that its kind and mode need; a family has none, and only a gauge a mode. */
static inline int
fits_kind(const Record *name)
{
    if (name->flags & FLAG_FAMILY)
        return name->width == 0;
    if (name->mode != 0)
        return name->kind == KIND_GAUGE && name->width == OWN_GAUGE_CELLS;
    if (name->kind == KIND_COUNTER)
        return name->width == COUNTER_CELLS;
    return name->kind == KIND_HISTOGRAM ? name->width > LOCK_CELLS + BUCKETS : name->width == GAUGE_CELLS;
}

/* Return offset and size of each field, and the size of the record. */
static PyObject *
record_layout(void)
{
    PyObject *layout = Py_BuildValue("{s:n}", "size", (Py_ssize_t)sizeof(Record));
#define FIELD(type, name)                                                                                              \
    if (layout != NULL) {                                                                                              \
        PyObject *place = Py_BuildValue("(nn)", (Py_ssize_t)offsetof(Record, name), (Py_ssize_t)sizeof(type));         \
        if (place == NULL || PyDict_SetItemString(layout, #name, place) < 0)                                           \
            Py_CLEAR(layout);                                                                                          \
        Py_XDECREF(place);                                                                                             \
    }
    RECORD_FIELDS(FIELD)
#undef FIELD
    return layout;
}

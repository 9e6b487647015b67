/* pack_series: the series of a saved snapshot in the form of a block: keys, records, and cells of the shared row.
 * They are read from the text of the file's lists. A series that is not simple is left to Python, which checks it. */

enum { DOES_NOT_FIT = 0, FITS = 1, FAILS = -1, CANNOT_BE_READ = -2 };

/* The lists of a snapshot. */
enum { LISTED_KEY, LISTED_KIND, LISTED_CREATED, LISTED_VALUE, COLUMNS };

/* Only the beginning of a bytes object is used; the rest is cut off at the end, so that no large object is copied. */
typedef struct {
    PyObject *bytes;
    Py_ssize_t used;
} Grown;

typedef struct {
    PyObject *metrics; /* dict: category and metric, joined, to the number of the metric */
    PyObject *buckets; /* list by metric numbers: buckets of its histograms; 0: none is simple, -1: no series is */
    PyObject *carried; /* set: positions of histograms with observations from other buckets */
    int64_t latest;
    Table seen;             /* the hashes of all keys: two keys with the same hash count as equal */
    Bytes aside;
    Grown keys, records, cells;
    unsigned char metric[2 * MOST_TEXT_BYTES + 1]; /* of the previous labelled series, */
    size_t metric_size;
    Py_ssize_t number; /* and its number */
} Packing;

/* Whether a key was there before; -1 with an exception set. */
static int
is_twice(Table *seen, Part key)
{
    static const uint64_t salt[2] = {0, 0};
    uint64_t hash = hash_of(key.text, key.size, salt);
    uint32_t slot = (uint32_t)hash & seen->mask;
    for (; seen->entries[slot] != 0; slot = (slot + 1) & seen->mask)
        if (seen->hashes[slot] == hash)
            return 1;
    return put_entry(seen, slot, hash) < 0 ? PyErr_NoMemory(), -1 : 0;
}

static int
open_grown(Grown *grown, Py_ssize_t size)
{
    *grown = (Grown){PyBytes_FromStringAndSize(NULL, size), 0};
    return grown->bytes == NULL ? -1 : 0;
}

/* Make room for some more bytes; returns their place, or NULL with an exception set. */
static char *
grow(Grown *grown, Py_ssize_t more)
{
    if (grown->used + more > PyBytes_GET_SIZE(grown->bytes)
        && _PyBytes_Resize(&grown->bytes, 2 * (grown->used + more)) < 0)
        return NULL;
    return PyBytes_AS_STRING(grown->bytes) + grown->used;
}

/* The parts of a key. */
typedef struct {
    Part metric; /* with the category */
    int has_labels, is_overflow;
} KeyParts;

/* Read the parts of a key; 0 if no series can have them. */
static int
read_parts(const char *text, Py_ssize_t length, KeyParts *parts)
{
    Key key = {(const unsigned char *)text, (const unsigned char *)text + length};
    Part category = next_part(&key), metric = has_part(&key) ? next_part(&key) : (Part){NULL, 0}, before = {NULL, 0};
    if (category.size < 1 || category.size > MOST_TEXT_BYTES || metric.size < 1 || metric.size > MOST_TEXT_BYTES)
        return 0;
    *parts = (KeyParts){{category.text, category.size + 1 + metric.size}, has_part(&key), has_part(&key)};
    while (has_part(&key)) {
        Part name = next_part(&key);
        if (!has_part(&key) || name.size < 1 || name.size > MOST_TEXT_BYTES)
            return 0;
        Part value = next_part(&key);
        size_t common = before.size < name.size ? before.size : name.size;
        int order = before.text == NULL ? -1 : memcmp(before.text, name.text, common);
        if (value.size > MOST_TEXT_BYTES || order > 0 || (order == 0 && before.size >= name.size))
            return 0;
        parts->is_overflow &= same_part(value, (Part){(const unsigned char *)overflow_value, sizeof overflow_value - 1});
        before = name;
    }
    return 1;
}

/* Find the number of a metric. A metric with labels always has one: a new one gets the next. -1: none; -2 with an
 * exception set. */
static Py_ssize_t
number_of(Packing *self, const KeyParts *parts)
{
    if (parts->has_labels && same_part((Part){self->metric, self->metric_size}, parts->metric))
        return self->number;
    if (!parts->has_labels && PyDict_GET_SIZE(self->metrics) == 0)
        return -1;
    PyObject *metric = PyUnicode_FromStringAndSize((const char *)parts->metric.text, (Py_ssize_t)parts->metric.size);
    PyObject *next = PyLong_FromSsize_t(PyDict_GET_SIZE(self->metrics)), *found = NULL;
    if (metric != NULL && next != NULL)
        found = parts->has_labels ? PyDict_SetDefault(self->metrics, metric, next)
                                  : PyDict_GetItemWithError(self->metrics, metric);
    Py_ssize_t number = found == NULL ? -1 : PyNumber_AsSsize_t(found, PyExc_OverflowError);
    Py_XDECREF(metric);
    Py_XDECREF(next);
    if (PyErr_Occurred())
        return -2;
    if (parts->has_labels) {
        memcpy(self->metric, parts->metric.text, parts->metric.size);
        self->metric_size = parts->metric.size;
        self->number = number;
    }
    return number;
}

/* The number of buckets of a metric's histograms; 0: they are not simple, -1: no series of the metric is. */
static int64_t
declared_buckets(const Packing *self, Py_ssize_t number)
{
    int fits = 1;
    if (number < 0 || number >= PyList_GET_SIZE(self->buckets))
        return 0;
    int64_t buckets = plain_integer(PyList_GET_ITEM(self->buckets, number), &fits);
    return fits && buckets <= INT32_MAX ? buckets : -1;
}

/* Pack the value of a histogram with so many buckets: [sum, maximum, minimum, number of the first bucket, [...]]. */
static int
pack_distribution(List *values, int64_t buckets, Cell *cell)
{
    List value, counts;
    Number sum, maximum, minimum;
    int64_t first, count, any = 0;
    if (!take_list(values, &value) || !take_number(&value, &sum) || !take_number(&value, &maximum)
        || !take_number(&value, &minimum) || !take_integer(&value, &first) || first < 0 || first > buckets
        || !take_list(&value, &counts) || value.at != NULL)
        return DOES_NOT_FIT;
    memset(cell, 0, (size_t)(FIRST_BUCKET + buckets) * sizeof *cell);
    for (; counts.at != NULL; first++) {
        if (first == buckets || !take_integer(&counts, &count) || count < 0)
            return DOES_NOT_FIT;
        store_value(cell, BUCKETS + first, count);
        any |= count;
    }
    add_to_moments(cell, sum.real, maximum.real, any ? bits_of(minimum.real > 0 ? minimum.real : 0) + 1 : 0);
    return FITS;
}

/* Pack the value of a counter or gauge. */
static int
pack_number(List *values, int kind, Cell *cell)
{
    Number number;
    if (!take_number(values, &number) || (!number.is_integer && kind != KIND_GAUGE))
        return DOES_NOT_FIT;
    memset(cell, 0, (kind == KIND_GAUGE ? 3 : 2) * sizeof *cell);
    put_number(cell, number);
    return FITS;
}

/* Pack the series of a key, which was already appended to the keys. */
static int
pack_keyed(Packing *self, const KeyParts *parts, uint32_t length, List *lists, int is_carried)
{
    int64_t listed, created;
    if (!take_integer(&lists[LISTED_KIND], &listed) || listed < -KIND_COUNTER || listed == 0
        || listed > KIND_HISTOGRAM || !take_integer(&lists[LISTED_CREATED], &created))
        return DOES_NOT_FIT;
    uint8_t kind = (uint8_t)(listed < 0 ? -listed : listed);
    Py_ssize_t number = number_of(self, parts);
    if (number < -1)
        return FAILS;
    int64_t buckets = declared_buckets(self, number);
    if (buckets < 0 || (kind == KIND_HISTOGRAM && buckets == 0))
        return DOES_NOT_FIT;
    int64_t width = kind == KIND_HISTOGRAM ? FIRST_BUCKET + buckets : kind == KIND_GAUGE ? 3 : 2;
    char *place = grow(&self->records, sizeof(Record)), *content = grow(&self->cells, width * (Py_ssize_t)sizeof(Cell));
    if (place == NULL || content == NULL)
        return FAILS;
    Cell *cell = (Cell *)(void *)content;
    if (!(kind == KIND_HISTOGRAM ? pack_distribution(&lists[LISTED_VALUE], buckets, cell)
                                 : pack_number(&lists[LISTED_VALUE], kind, cell)))
        return DOES_NOT_FIT;
    int flag = listed == KIND_COUNTER ? FLAG_MONOTONIC
               : is_carried && kind == KIND_HISTOGRAM && load_value(cell, MINIMUM) != 0 ? FLAG_CARRIED : 0;
    Record record = {
        .kind = kind,
        .flags = (uint8_t)(flag | (parts->has_labels && !parts->is_overflow ? FLAG_MEMBER : 0)),
        .width = (uint32_t)width,
        .family = (uint32_t)(number + 1),
        .length = length,
        .members = (uint32_t)parts->has_labels,
        .created = created >= 0 && created <= self->latest ? (uint64_t)created : 0,
    };
    memcpy(place, &record, sizeof record);
    self->records.used += (Py_ssize_t)sizeof record;
    self->keys.used += length;
    self->cells.used += width * (Py_ssize_t)sizeof(Cell);
    return FITS;
}

/* Pack the next series. */
static int
pack_next(Packing *self, List *lists, Py_ssize_t position)
{
    List *names = &lists[LISTED_KEY];
    unsigned char *text = (unsigned char *)PyBytes_AS_STRING(self->keys.bytes) + self->keys.used;
    Py_ssize_t length = take_string(names, text);
    if (length < 0 || length > INT32_MAX)
        return DOES_NOT_FIT;
    int twice = is_twice(&self->seen, (Part){text, (size_t)length}), is_carried = 0;
    if (twice != 0)
        return twice < 0 ? FAILS : CANNOT_BE_READ;
    KeyParts parts;
    if (!read_parts((const char *)text, length, &parts))
        return DOES_NOT_FIT;
    if (PySet_GET_SIZE(self->carried)) {
        PyObject *number = PyLong_FromSsize_t(position);
        is_carried = number == NULL ? -1 : PySet_Contains(self->carried, number);
        Py_XDECREF(number);
    }
    return is_carried < 0 ? FAILS : pack_keyed(self, &parts, (uint32_t)length, lists, is_carried);
}

/* List the next series for Python: its position, and its items of the lists. */
static int
set_aside(Packing *self, List *lists, Py_ssize_t position)
{
    Part texts[COLUMNS];
    size_t size = 32;
    for (int i = 0; i < COLUMNS; i++) {
        if (!take_text(&lists[i], &texts[i]))
            return CANNOT_BE_READ;
        size += texts[i].size + 1;
    }
    if (reserve_bytes(&self->aside, size) < 0)
        return PyErr_NoMemory(), FAILS;
    put_byte(&self->aside, self->aside.used == 0 ? '[' : ',');
    put_byte(&self->aside, '[');
    put_integer(&self->aside, position);
    for (int i = 0; i < COLUMNS; i++) {
        put_byte(&self->aside, ',');
        put_part(&self->aside, texts[i]);
    }
    put_byte(&self->aside, ']');
    return FITS;
}

static int
pack_all(Packing *self, const Py_buffer *columns)
{
    List lists[COLUMNS], before[COLUMNS];
    int are_lists = 1;
    for (int i = 0; i < COLUMNS; i++)
        are_lists &= open_list((Part){columns[i].buf, (size_t)columns[i].len}, &lists[i]);
    if (!are_lists)
        return CANNOT_BE_READ;
    Py_ssize_t most = 1; /* upper bound for the number of series: growing often means copying often */
    for (Py_ssize_t i = 0; i < columns[LISTED_KIND].len; i++)
        most += ((const char *)columns[LISTED_KIND].buf)[i] == ',';
    if (make_table(&self->seen, 1024) < 0)
        return PyErr_NoMemory(), FAILS;
    if (open_grown(&self->keys, columns[LISTED_KEY].len) < 0
        || open_grown(&self->records, most * (Py_ssize_t)sizeof(Record)) < 0
        || open_grown(&self->cells, most * 2 * (Py_ssize_t)sizeof(Cell)) < 0)
        return FAILS;
    for (Py_ssize_t position = 0; lists[0].at != NULL; position++) {
        memcpy(before, lists, sizeof lists);
        int packed = pack_next(self, lists, position);
        if (packed == DOES_NOT_FIT) {
            memcpy(lists, before, sizeof lists);
            packed = set_aside(self, lists, position);
        }
        if (packed < 0)
            return packed;
    }
    for (int i = 1; i < COLUMNS; i++)
        are_lists &= lists[i].at == NULL;
    return are_lists ? FITS : CANNOT_BE_READ;
}

static PyObject *
pack_series(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer columns[COLUMNS];
    PyObject *result = NULL;
    long long latest;
    Packing self = {0};
    if (!PyArg_ParseTuple(args, "y*y*y*y*O!O!O!L", &columns[0], &columns[1], &columns[2], &columns[3], &PyDict_Type,
                          &self.metrics, &PyList_Type, &self.buckets, &PySet_Type, &self.carried,
                          &latest))
        return NULL;
    self.latest = latest;
    int packed = pack_all(&self, columns);
    if (self.aside.used != 0)
        put_byte(&self.aside, ']');
    if (packed == FITS && _PyBytes_Resize(&self.keys.bytes, self.keys.used) == 0
        && _PyBytes_Resize(&self.records.bytes, self.records.used) == 0
        && _PyBytes_Resize(&self.cells.bytes, self.cells.used) == 0)
        result = Py_BuildValue("OOON", self.keys.bytes, self.records.bytes, self.cells.bytes, bytes_of(&self.aside));
    else if (packed == CANNOT_BE_READ)
        result = Py_NewRef(Py_None);
    for (int i = 0; i < COLUMNS; i++)
        PyBuffer_Release(&columns[i]);
    Py_XDECREF(self.keys.bytes);
    Py_XDECREF(self.records.bytes);
    Py_XDECREF(self.cells.bytes);
    free(self.aside.start);
    free_table(&self.seen);
    return result;
}

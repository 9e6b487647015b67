/* pack_series: what a saved snapshot lists of its series, as a block has it: keys, records, and cells of the shared row.
 * They are read from the text of the file's lists. A series that is not plain is left to Python, which says what is wrong
 * with it, or that nothing is. */

enum { DOES_NOT_FIT = 0, FITS = 1, FAILS = -1, CANNOT_BE_READ = -2 };

/* The lists of a snapshot. */
enum { LISTED_KEY, LISTED_KIND, LISTED_CREATED, LISTED_VALUE, COLUMNS };

/* A set of hashes of texts. Two texts of one hash are taken for one: then Python looks at both. */
typedef struct {
    uint64_t *slots; /* 0: free */
    size_t size, used;
} Hashes;

typedef struct {
    PyObject *metrics; /* dict: category and metric, joined, to the number of the metric */
    PyObject *buckets; /* list: by those numbers, of the ones that are declared; of 0 no histogram is plain, of -1 nothing */
    PyObject *carried; /* set: positions of histograms that have observations of other buckets */
    int64_t latest;
    Hashes apart, numbered; /* keys that are left to Python; metrics that have a number */
    Bytes hashes;           /* of all keys, */
    Bytes keys, records, cells, aside;
    unsigned char metric[2 * MOST_TEXT_BYTES + 1]; /* of the labelled series before, */
    size_t metric_size;
    Py_ssize_t number; /* and its number */
} Packing;

/* Have room for so many hashes; -1 with an exception set. */
static int
open_hashes(Hashes *hashes, size_t most)
{
    *hashes = (Hashes){NULL, 16, 0};
    while (hashes->size < 2 * most)
        hashes->size *= 2;
    hashes->slots = calloc(hashes->size, sizeof *hashes->slots);
    return hashes->slots == NULL ? PyErr_NoMemory(), -1 : 0;
}

static int
has_hash(const Hashes *hashes, uint64_t hash)
{
    size_t slot = hash & (hashes->size - 1);
    while (hashes->slots[slot] != 0 && hashes->slots[slot] != hash)
        slot = (slot + 1) & (hashes->size - 1);
    return hashes->slots[slot] != 0;
}

/* Add a hash; 1: it was not there, 0: it was, -1 with an exception set. */
static int
add_hash(Hashes *hashes, uint64_t hash)
{
    if (2 * hashes->used >= hashes->size) {
        Hashes more, former = *hashes;
        if (open_hashes(&more, hashes->size) < 0)
            return -1;
        *hashes = more;
        for (size_t i = 0; i < former.size; i++) {
            if (former.slots[i] != 0)
                add_hash(hashes, former.slots[i]);
        }
        free(former.slots);
    }
    size_t slot = hash & (hashes->size - 1);
    while (hashes->slots[slot] != 0) {
        if (hashes->slots[slot] == hash)
            return 0;
        slot = (slot + 1) & (hashes->size - 1);
    }
    hashes->slots[slot] = hash;
    hashes->used++;
    return 1;
}

static uint64_t
hash_of_part(Part part)
{
    static const uint64_t salt[2] = {0, 0};
    uint64_t hash = long_hash_of(part.text, part.size, salt);
    return hash ? hash : 1;
}

/* Have the hashes of the texts of a collection; -1 with an exception set. */
static int
hash_all(Hashes *hashes, PyObject *texts)
{
    PyObject *list = PySequence_List(texts);
    int failed = list == NULL || open_hashes(hashes, (size_t)PyList_GET_SIZE(list)) < 0;
    for (Py_ssize_t i = 0; !failed && i < PyList_GET_SIZE(list); i++) {
        Py_ssize_t length;
        const char *text = PyUnicode_AsUTF8AndSize(PyList_GET_ITEM(list, i), &length);
        failed = text == NULL
                 || add_hash(hashes, hash_of_part((Part){(const unsigned char *)text, (size_t)length})) < 0;
    }
    Py_XDECREF(list);
    return failed ? -1 : 0;
}

/* Whether two keys have one hash; -1 with an exception set. */
static int
has_twice(const Bytes *hashes)
{
    Hashes seen;
    size_t n = hashes->used / sizeof(uint64_t);
    const uint64_t *hash = (const uint64_t *)(const void *)hashes->start;
    int added = open_hashes(&seen, n) < 0 ? -1 : 1;
    for (size_t i = 0; i < n && added > 0; i++)
        added = add_hash(&seen, hash[i]);
    free(seen.slots);
    return added < 0 ? -1 : !added;
}

/* What the parts of a key are. */
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
    uint64_t hash = hash_of_part(parts->metric);
    if (!parts->has_labels && !has_hash(&self->numbered, hash))
        return -1;
    if (add_hash(&self->numbered, hash) < 0)
        return -2;
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

/* Pack the value of a histogram, [sum, maximum, minimum, number of the first bucket, [...]], which has so many buckets. */
static int
pack_distribution(Part value, int64_t buckets, Cell *cell)
{
    enum { SUM_OF, MAXIMUM_OF, MINIMUM_OF, FIRST_OF, COUNTS_OF, PARTS };
    List list, counts;
    Part parts[PARTS], count;
    Number moments[FIRST_OF];
    int64_t first, number, any = 0;
    int there = open_list(value, &list), next;
    for (int i = 0; i < PARTS && there; i++)
        there = next_value(&list, &parts[i]) > 0;
    for (int i = 0; i < FIRST_OF && there; i++)
        there = read_number(parts[i], &moments[i]);
    if (!there || list.at != NULL || !read_integer(parts[FIRST_OF], &first) || first < 0 || first > buckets
        || !open_list(parts[COUNTS_OF], &counts))
        return DOES_NOT_FIT;
    memset(cell, 0, (size_t)(FIRST_BUCKET + buckets) * sizeof *cell);
    for (; (next = next_value(&counts, &count)) > 0; first++) {
        if (first == buckets || !read_integer(count, &number) || number < 0)
            return DOES_NOT_FIT;
        store_value(cell, BUCKETS + first, number);
        any |= number;
    }
    double minimum = moments[MINIMUM_OF].real;
    add_to_moments(cell, moments[SUM_OF].real, moments[MAXIMUM_OF].real,
                   any ? bits_of(minimum > 0 ? minimum : 0) + 1 : 0);
    return next == 0 ? FITS : DOES_NOT_FIT;
}

/* Pack the value of a counter or gauge. */
static int
pack_number(Part value, int kind, Cell *cell)
{
    Number number;
    if (!read_number(value, &number) || (!number.is_integer && kind != KIND_GAUGE))
        return DOES_NOT_FIT;
    memset(cell, 0, (kind == KIND_GAUGE ? 3 : 2) * sizeof *cell);
    put_number(cell, number);
    return FITS;
}

/* Pack the series of a key, which is behind the others already; the texts are those of its values. */
static int
pack_keyed(Packing *self, const KeyParts *parts, uint32_t length, const Part *texts, int is_carried)
{
    int64_t listed, created;
    if (!read_integer(texts[LISTED_KIND], &listed) || listed < -KIND_COUNTER || listed == 0 || listed > KIND_HISTOGRAM
        || !read_integer(texts[LISTED_CREATED], &created))
        return DOES_NOT_FIT;
    uint8_t kind = (uint8_t)(listed < 0 ? -listed : listed);
    Py_ssize_t number = number_of(self, parts);
    if (number < -1)
        return FAILS;
    int64_t buckets = declared_buckets(self, number);
    if (buckets < 0 || (kind == KIND_HISTOGRAM && buckets == 0))
        return DOES_NOT_FIT;
    int64_t width = kind == KIND_HISTOGRAM ? FIRST_BUCKET + buckets : kind == KIND_GAUGE ? 3 : 2;
    if (reserve_bytes(&self->records, sizeof(Record)) < 0
        || reserve_bytes(&self->cells, (size_t)width * sizeof(Cell)) < 0)
        return PyErr_NoMemory(), FAILS;
    Cell *cell = (Cell *)(void *)(self->cells.start + self->cells.used);
    if (!(kind == KIND_HISTOGRAM ? pack_distribution(texts[LISTED_VALUE], buckets, cell)
                                 : pack_number(texts[LISTED_VALUE], kind, cell)))
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
    put_part(&self->records, (Part){(const unsigned char *)&record, sizeof record});
    self->keys.used += length;
    self->cells.used += (size_t)width * sizeof(Cell);
    return FITS;
}

/* Pack one series. */
static int
pack_one(Packing *self, const Part *texts, Py_ssize_t position)
{
    uint64_t hash;
    if (reserve_bytes(&self->keys, texts[LISTED_KEY].size) < 0 || reserve_bytes(&self->hashes, sizeof hash) < 0)
        return PyErr_NoMemory(), FAILS;
    unsigned char *text = self->keys.start + self->keys.used;
    Py_ssize_t length = read_string(texts[LISTED_KEY], text);
    if (length < 0 || length > INT32_MAX)
        return DOES_NOT_FIT;
    hash = hash_of_part((Part){text, (size_t)length});
    put_part(&self->hashes, (Part){(const unsigned char *)&hash, sizeof hash});
    KeyParts parts;
    if (!read_parts((const char *)text, length, &parts) || has_hash(&self->apart, hash))
        return DOES_NOT_FIT;
    int is_carried = 0;
    if (PySet_GET_SIZE(self->carried)) {
        PyObject *number = PyLong_FromSsize_t(position);
        is_carried = number == NULL ? -1 : PySet_Contains(self->carried, number);
        Py_XDECREF(number);
    }
    return is_carried < 0 ? FAILS : pack_keyed(self, &parts, (uint32_t)length, texts, is_carried);
}

/* List a series that is left to Python: its position, and what the file says of it. */
static int
set_aside(Packing *self, const Part *texts, Py_ssize_t position)
{
    size_t size = 32;
    for (int i = 0; i < COLUMNS; i++)
        size += texts[i].size + 1;
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
    List lists[COLUMNS];
    Part texts[COLUMNS];
    for (int i = 0; i < COLUMNS; i++) {
        if (!open_list((Part){columns[i].buf, (size_t)columns[i].len}, &lists[i]))
            return CANNOT_BE_READ;
    }
    for (Py_ssize_t position = 0;; position++) {
        int there = 0, all = 0;
        for (int i = 0; i < COLUMNS; i++) {
            int next = next_value(&lists[i], &texts[i]);
            there |= next;
            all += next;
        }
        if (there == 0)
            break;
        int packed = all == COLUMNS ? pack_one(self, texts, position) : CANNOT_BE_READ;
        if (packed == DOES_NOT_FIT)
            packed = set_aside(self, texts, position);
        if (packed < 0)
            return packed;
    }
    int twice = has_twice(&self->hashes);
    return twice < 0 ? FAILS : twice ? CANNOT_BE_READ : FITS;
}

static PyObject *
pack_series(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer columns[COLUMNS];
    PyObject *apart, *result = NULL;
    long long latest;
    Packing self = {0};
    if (!PyArg_ParseTuple(args, "y*y*y*y*O!O!O!O!L", &columns[0], &columns[1], &columns[2], &columns[3], &PyDict_Type,
                          &self.metrics, &PyList_Type, &self.buckets, &PySet_Type, &apart, &PySet_Type, &self.carried,
                          &latest))
        return NULL;
    self.latest = latest;
    int packed = FAILS;
    if (hash_all(&self.apart, apart) == 0 && hash_all(&self.numbered, self.metrics) == 0)
        packed = pack_all(&self, columns);
    if (self.aside.used != 0)
        put_byte(&self.aside, ']');
    if (packed == FITS)
        result = Py_BuildValue("NNNN", bytes_of(&self.keys), bytes_of(&self.records), bytes_of(&self.cells),
                               bytes_of(&self.aside));
    else if (packed == CANNOT_BE_READ)
        result = Py_NewRef(Py_None);
    for (int i = 0; i < COLUMNS; i++)
        PyBuffer_Release(&columns[i]);
    free(self.keys.start);
    free(self.records.start);
    free(self.cells.start);
    free(self.aside.start);
    free(self.hashes.start);
    free(self.apart.slots);
    free(self.numbered.slots);
    return result;
}

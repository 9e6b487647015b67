/* Groups of series with one form on the page: of one kind, mode, metric and declaration. They are found in copies of a
 * block's records and heap without a Python object for each series, so Python names a group, not each of its series. */

/* The group number of a record in no group; the label names of a group whose series have different ones. */
#define NO_GROUP UINT32_MAX
#define MIXED UINT32_MAX

/* The place of one part of a key. */
typedef struct {
    const unsigned char *text;
    size_t size;
} Part;

/* A key that is read part by part: category, metric, then names and values of labels, separated by NUL. */
typedef struct {
    const unsigned char *at, *end;
} Key;

static inline int
has_part(const Key *key)
{
    return key->at <= key->end;
}

/* Take the next part, which is empty behind the end. */
static inline Part
next_part(Key *key)
{
    const unsigned char *start = key->at;
    const unsigned char *nul = start < key->end ? memchr(start, 0, (size_t)(key->end - start)) : start;
    Part part = {start, (size_t)((nul == NULL ? key->end : nul) - start)};
    key->at += part.size + 1;
    return part;
}

static inline int
same_part(Part a, Part b)
{
    return a.size == b.size && memcmp(a.text, b.text, a.size) == 0;
}

/* Records, and the heap that contains their keys. */
typedef struct {
    Borrowed records, heap;
    const Record *record;
    uint32_t count;
} Names;

static inline Key
key_of(const Names *names, const Record *record)
{
    const unsigned char *text = (const unsigned char *)names->heap.buf + record->key;
    return (Key){text, text + record->length};
}

/* Fill the struct from the two buffers of an argument. -1 with an exception set: they are not whole records. */
static int
open_names(Names *names)
{
    if (names->records.len % (Py_ssize_t)sizeof(Record) || names->records.len / (Py_ssize_t)sizeof(Record) >= NO_GROUP
        || (uintptr_t)names->records.buf % _Alignof(Record)) {
        PyErr_SetString(PyExc_ValueError, "these are not whole records");
        return -1;
    }
    names->record = names->records.buf;
    names->count = (uint32_t)(names->records.len / (Py_ssize_t)sizeof(Record));
    return 0;
}

/* Whether bytes are UTF-8 by RFC 3629. */
static int
is_utf8(const unsigned char *p, const unsigned char *end)
{
    while (p < end) {
        unsigned char c = *p++;
        if (c < 0x80)
            continue;
        int more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : 1;
        if (c < 0xC2 || c > 0xF4 || end - p < more)
            return 0;
        unsigned char low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
        unsigned char high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
        for (; more > 0; more--, low = 0x80, high = 0xBF)
            if (*p < low || *p++ > high)
                return 0;
    }
    return 1;
}

/* Whether the key of a record is within the heap. */
static inline int
has_place(const Names *names, const Record *record)
{
    uint64_t heap = (uint64_t)names->heap.len;
    return record->key <= heap && record->length <= heap - record->key;
}

/* A byte repeated eight times, by multiplication. */
#define EACH_BYTE 0x0101010101010101u

/* The highest bit of each byte that is 0. */
static inline uint64_t
nuls_in(uint64_t word)
{
    const uint64_t low = EACH_BYTE * 0x7F;
    return ~(((word & low) + low) | word | low);
}

/* Whether a shown record is valid: its key has category, metric and pairs; its kind is known. */
static int
is_sound(const Names *names, const Record *record)
{
    if (!has_place(names, record) || record->kind < KIND_COUNTER)
        return 0;
    Key key = key_of(names, record);
    uint64_t word, nuls = 0, all = 0, last = EACH_BYTE;
    const unsigned char *p = key.at;
    for (; key.end - p >= (ptrdiff_t)sizeof word; p += sizeof word) {
        memcpy(&word, p, sizeof word);
        nuls ^= nuls_in(word);
        all |= word;
    }
    memcpy(&last, p, (size_t)(key.end - p));
    int has_pairs = __builtin_popcountll(nuls ^ nuls_in(last)) % 2 == 1;
    return has_pairs && (((all | last) & EACH_BYTE * 0x80) == 0 || is_utf8(key.at, key.end));
}

/* A hash table of numbers of entries; the code that searches compares the entries. */
typedef struct {
    uint32_t *entries; /* number + 1; 0: free */
    uint64_t *hashes;
    uint32_t mask, used;
} Table;

static int
make_table(Table *table, uint32_t slots)
{
    table->entries = calloc(slots, sizeof *table->entries);
    table->hashes = calloc(slots, sizeof *table->hashes);
    table->mask = slots - 1;
    return table->entries == NULL || table->hashes == NULL ? -1 : 0;
}

static void
free_table(Table *table)
{
    free(table->entries);
    free(table->hashes);
}

/* Put the next number into the free slot where a search ended; -1 without memory. */
static int
put_entry(Table *table, uint32_t slot, uint64_t hash)
{
    table->entries[slot] = ++table->used;
    table->hashes[slot] = hash;
    if (table->used <= table->mask / 2)
        return 0;
    Table larger = {.used = table->used};
    if (make_table(&larger, (table->mask + 1) * 2) < 0) {
        free_table(&larger);
        return -1;
    }
    for (uint32_t i = 0; i <= table->mask; i++) {
        if (table->entries[i] == 0)
            continue;
        uint32_t to = (uint32_t)table->hashes[i] & larger.mask;
        while (larger.entries[to] != 0)
            to = (to + 1) & larger.mask;
        larger.entries[to] = table->entries[i];
        larger.hashes[to] = table->hashes[i];
    }
    free_table(table);
    *table = larger;
    return 0;
}

static inline uint64_t
mix(uint64_t hash, Part part)
{
    const unsigned char *p = part.text;
    size_t left = part.size;
    uint64_t word;
    for (; left >= sizeof word; left -= sizeof word, p += sizeof word) {
        memcpy(&word, p, sizeof word);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 29;
    }
    word = 0;
    memcpy(&word, p, left);
    hash = (hash ^ word ^ part.size << 56) * 0xC2B2AE3D27D4EB4Fu;
    return hash ^ hash >> 32;
}

/* A group. */
typedef struct {
    uint32_t first;      /* its first record */
    uint32_t labels;     /* the label names of its series: their number + 1; 0: none has labels */
    uint32_t has_empty;  /* whether a label of one of its series has an empty value */
} Group;

typedef struct {
    const Names *names;
    Part apart;          /* a category whose series are in no group */
    uint32_t *group_of;
    Group *groups;
    uint32_t groups_room;
    Table table;
    uint32_t last;       /* the group of the last record that is in a group, which its neighbor is likely to be in */
    Part category, metric; /* of that record */
    Key *label_sets;     /* for each choice of label names: the labels of one series that has them */
    uint32_t label_room;
    Table label_table;
} Grouping;

static const Part part_total = {(const unsigned char *)"total", 5};

/* Make room for one more item after `used` ones; NULL without memory. */
static void *
with_room(void *items, uint32_t *room, uint32_t used, size_t size)
{
    if (used < *room)
        return items;
    uint32_t more = *room ? *room * 2 : 256;
    void *larger = realloc(items, (size_t)more * size);
    if (larger != NULL)
        *room = more;
    return larger;
}

/* Whether the labels of two series have the same names; also records whether a value of the second one is empty. */
static inline int
same_label_names(Key a, Key b, uint32_t *has_empty)
{
    while (has_part(&a) && has_part(&b)) {
        Part name = next_part(&a); /* a NUL follows, for each name has a value */
        if (b.end - b.at <= (ptrdiff_t)name.size || memcmp(b.at, name.text, name.size + 1))
            return 0;
        b.at += name.size + 1;
        next_part(&a);
        *has_empty |= next_part(&b).size == 0;
    }
    return !has_part(&a) && !has_part(&b);
}

/* Return the number + 1 of the label names in the rest of a key; 0 without memory. Also records an empty value. */
static uint32_t
number_of_labels(Grouping *self, Key labels, uint32_t *has_empty)
{
    uint64_t hash = 0;
    for (Key key = labels; has_part(&key); next_part(&key))
        hash = mix(hash, next_part(&key));
    uint32_t slot = (uint32_t)hash & self->label_table.mask;
    for (uint32_t entry; (entry = self->label_table.entries[slot]) != 0; slot = (slot + 1) & self->label_table.mask)
        if (self->label_table.hashes[slot] == hash
            && same_label_names(self->label_sets[entry - 1], labels, has_empty))
            return entry;
    Key *sets = with_room(self->label_sets, &self->label_room, self->label_table.used, sizeof *sets);
    if (sets == NULL)
        return 0;
    self->label_sets = sets;
    sets[self->label_table.used] = labels;
    same_label_names(labels, labels, has_empty);
    return put_entry(&self->label_table, slot, hash) < 0 ? 0 : self->label_table.used;
}

/* Whether two records are of one kind, mode and declaration. */
static inline int
are_alike(const Record *a, const Record *b)
{
    return a->kind == b->kind && a->mode == b->mode && a->family == b->family
           && !((a->flags ^ b->flags) & FLAG_MONOTONIC);
}

/* Whether two metrics are one on the page: for those called "total" the category must be equal too. */
static inline int
same_metric(Part category, Part metric, Part other_category, Part other)
{
    return same_part(metric, other) && (!same_part(metric, part_total) || same_part(category, other_category));
}

/* Whether a record belongs to a group. */
static inline int
is_of_group(const Grouping *self, uint32_t group, const Record *record, Part category, Part metric)
{
    const Record *first = &self->names->record[self->groups[group].first];
    if (!are_alike(first, record))
        return 0;
    Key key = key_of(self->names, first);
    Part other = next_part(&key);
    return same_metric(category, metric, other, next_part(&key));
}

/* Return the group of a record, made if there is none; NO_GROUP without memory. */
static uint32_t
group_of_record(Grouping *self, uint32_t number, Part category, Part metric)
{
    const Record *record = &self->names->record[number];
    if (self->last < self->table.used && are_alike(&self->names->record[self->groups[self->last].first], record)
        && same_metric(category, metric, self->category, self->metric))
        return self->last;
    uint64_t hash = (uint64_t)record->family << 24 | (uint64_t)record->kind << 16 | (uint64_t)record->mode << 8
                    | (record->flags & FLAG_MONOTONIC);
    hash = mix(hash, metric);
    if (same_part(metric, part_total))
        hash = mix(hash, category);
    uint32_t slot = (uint32_t)hash & self->table.mask;
    for (uint32_t entry; (entry = self->table.entries[slot]) != 0; slot = (slot + 1) & self->table.mask)
        if (self->table.hashes[slot] == hash && is_of_group(self, entry - 1, record, category, metric))
            return entry - 1;
    Group *groups = with_room(self->groups, &self->groups_room, self->table.used, sizeof *groups);
    if (groups == NULL)
        return NO_GROUP;
    self->groups = groups;
    groups[self->table.used] = (Group){.first = number};
    return put_entry(&self->table, slot, hash) < 0 ? NO_GROUP : self->table.used - 1;
}

/* Put a record into its group. -1 without memory. */
static int
group_record(Grouping *self, uint32_t number)
{
    Key key = key_of(self->names, &self->names->record[number]);
    Part category = next_part(&key), metric = next_part(&key);
    if (same_part(category, self->apart))
        return 0;
    uint32_t found = group_of_record(self, number, category, metric);
    if (found == NO_GROUP)
        return -1;
    self->group_of[number] = self->last = found;
    self->category = category;
    self->metric = metric;
    if (!has_part(&key))
        return 0;
    Group *group = &self->groups[found];
    int is_known = group->labels != 0 && group->labels != MIXED
                   && same_label_names(self->label_sets[group->labels - 1], key, &group->has_empty);
    uint32_t labels = is_known ? group->labels : number_of_labels(self, key, &group->has_empty);
    if (labels == 0)
        return -1;
    group->labels = group->labels == 0 || group->labels == labels ? labels : MIXED;
    return 0;
}

/* Put all records into groups. -1 without memory, -2 with the number of a damaged record. */
static int
group_all(Grouping *self, uint32_t *damaged)
{
    if (make_table(&self->table, 1024) < 0 || make_table(&self->label_table, 64) < 0)
        return -1;
    for (uint32_t i = 0; i < self->names->count; i++) {
        const Record *record = &self->names->record[i];
        self->group_of[i] = NO_GROUP;
        if (record->state != RECORD_LIVE || record->flags & FLAG_FAMILY || record->declaration != 0)
            continue;
        if (!is_sound(self->names, record)) {
            *damaged = i;
            return -2;
        }
        if (group_record(self, i) < 0)
            return -1;
    }
    return 0;
}

/* Return the label names of each choice of them, as a list of tuples of str. */
static PyObject *
label_sets_of(const Grouping *self)
{
    PyObject *sets = PyList_New(0);
    for (uint32_t i = 0; sets != NULL && i < self->label_table.used; i++) {
        PyObject *names = PyList_New(0);
        for (Key key = self->label_sets[i]; names != NULL && has_part(&key); next_part(&key)) {
            Part part = next_part(&key);
            PyObject *name = PyUnicode_DecodeUTF8((const char *)part.text, (Py_ssize_t)part.size, NULL);
            if (name == NULL || PyList_Append(names, name) < 0)
                Py_CLEAR(names);
            Py_XDECREF(name);
        }
        PyObject *set = names == NULL ? NULL : PyList_AsTuple(names);
        if (set == NULL || PyList_Append(sets, set) < 0)
            Py_CLEAR(sets);
        Py_XDECREF(set);
        Py_XDECREF(names);
    }
    return sets;
}

static PyObject *
group_series(PyObject *Py_UNUSED(module), PyObject *args)
{
    Names names = {0};
    Borrowed apart;
    if (!PyArg_ParseTuple(args, "y#y#y#", &names.records.buf, &names.records.len, &names.heap.buf, &names.heap.len,
                          &apart.buf, &apart.len))
        return NULL;
    PyObject *result = NULL, *group_of = NULL, *groups = NULL, *sets = NULL;
    Grouping self = {.names = &names, .apart = {apart.buf, (size_t)apart.len}};
    if (open_names(&names) < 0 || (group_of = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)names.count * 4)) == NULL)
        goto end;
    self.group_of = (uint32_t *)(void *)PyBytes_AS_STRING(group_of);
    uint32_t damaged = 0;
    int outcome;
    Py_BEGIN_ALLOW_THREADS
    outcome = group_all(&self, &damaged);
    Py_END_ALLOW_THREADS
    if (outcome == -1)
        PyErr_NoMemory();
    else if (outcome == -2)
        PyErr_Format(PyExc_BufferError, "record %u has a key or a kind that cannot be", damaged);
    else if ((sets = label_sets_of(&self)) != NULL
             && (groups = PyBytes_FromStringAndSize((const char *)self.groups,
                                                    (Py_ssize_t)(self.table.used * sizeof(Group)))) != NULL)
        result = PyTuple_Pack(3, group_of, groups, sets);
end:
    free_table(&self.table);
    free_table(&self.label_table);
    free(self.groups);
    free(self.label_sets);
    Py_XDECREF(group_of);
    Py_XDECREF(groups);
    Py_XDECREF(sets);
    return result;
}

/* The changes of a block's names: one is added at the end, one takes the place of a removed one, some are
 * removed. The table lock is held. */

/* Begin a change: if the process is killed before its end, the next holder of the lock rebuilds the derived parts.
 * Returns the previous mark, which a change within another one restores. */
static uint32_t
begin_change(NameIndex *names)
{
    uint32_t before = GET(NUMBER(names, CHANGING));
    PUT(NUMBER(names, CHANGING), 1);
    STOP_POINT();
    return before;
}

/* End a change of existing names. What this process knows of them stays right while only it makes such changes. */
static void
end_change(NameIndex *names, uint32_t before)
{
    uint64_t revision = GET(LONG_NUMBER(names, REVISION));
    names->free_revision += names->free_revision == revision;
    names->known_revision += names->known_revision == revision;
    PUT(LONG_NUMBER(names, REVISION), revision + 1);
    STOP_POINT();
    PUT(NUMBER(names, CHANGING), before);
}

/* Write the record of a new name, which gets its places here, and its key. */
static void
write_name(NameIndex *names, Py_ssize_t number, Record *name, const char *key, uint32_t hash, uint32_t cell, uint64_t at)
{
    name->state = RECORD_LIVE;
    name->cell = cell;
    name->hash = hash ^ name->declaration;
    name->key = at;
    name->room = room_of(name->length);
    name->note = name->note_room = name->members = 0;
    store_key(names, at, key, name->length);
    store_name(names, number, name);
}

/* Names to add: their keys, concatenated, a record for each, the families (number + 1) that the records refer to by
 * their position in this list, if there are any, and the hashes of the keys, if they are known. */
typedef struct {
    Borrowed keys, records, families;
    const uint32_t *hashes;
} GivenNames;

static Record
given_name(const GivenNames *given, Py_ssize_t i)
{
    Record name;
    memcpy(&name, (const char *)given->records.buf + i * (Py_ssize_t)sizeof name, sizeof name);
    if (given->families.buf != NULL)
        memcpy(&name.family, (const char *)given->families.buf + (size_t)name.family * sizeof name.family,
               sizeof name.family);
    return name;
}

/* Whether all records refer to a family in the list. */
static int
has_families(const GivenNames *given, Py_ssize_t n)
{
    const char *family = (const char *)given->records.buf + offsetof(Record, family);
    for (Py_ssize_t i = 0; i < n && given->families.buf != NULL; i++, family += sizeof(Record)) {
        uint32_t place;
        memcpy(&place, family, sizeof place);
        if (place >= (size_t)given->families.len / sizeof place)
            return 0;
    }
    return 1;
}

/* The number of given names; -1 with an exception set if they do not fit together or have no room. */
static Py_ssize_t
names_that_fit(const NameIndex *self, const GivenNames *given)
{
    uint64_t columns = GET(NUMBER(self, CELLS_USED)), heap = GET(LONG_NUMBER(self, HEAP_USED)), length = 0;
    Py_ssize_t n = given->records.len / (Py_ssize_t)sizeof(Record);
    int fit = given->records.len % (Py_ssize_t)sizeof(Record) == 0 && heap % 8 == 0
              && n <= self->capacity - (Py_ssize_t)GET(NUMBER(self, COUNT)) && has_families(given, n);
    for (Py_ssize_t i = 0; i < n && fit; i++) {
        Record wanted = given_name(given, i);
        columns += wanted.width;
        heap += room_of(wanted.length);
        length += wanted.length;
        fit = columns <= (uint64_t)self->columns && heap <= (uint64_t)self->heap_bytes;
    }
    if (fit && length == (uint64_t)given->keys.len)
        return n;
    PyErr_SetString(PyExc_BufferError, "the names do not fit into the block");
    return -1;
}

/* Add names at the end, where there is room. */
static int
append_names(NameIndex *self, const GivenNames *given, Py_ssize_t n)
{
    uint32_t cell = GET(NUMBER(self, CELLS_USED)), first = GET(NUMBER(self, COUNT));
    uint64_t heap = GET(LONG_NUMBER(self, HEAP_USED));
    const char *keys = given->keys.buf;
    uint32_t before = begin_change(self);
    for (Py_ssize_t i = 0; i < n; i++) {
        Record name = given_name(given, i);
        uint32_t hash = given->hashes != NULL ? given->hashes[i] : hash_in(self, keys, name.length);
        write_name(self, first + i, &name, keys, hash, cell, heap);
        keys += name.length;
        heap += name.room;
        cell += name.width;
    }
    PUT(LONG_NUMBER(self, HEAP_USED), heap);
    PUT(NUMBER(self, CELLS_USED), cell);
    for (Py_ssize_t i = 0; i < n; i++) {
        Record name = given_name(given, i);
        count_name(self, &name, 1);
    }
    STOP_POINT();
    PUT(NUMBER(self, COUNT), first + (uint32_t)n);
    STOP_POINT();
    for (Py_ssize_t i = 0; i < n; i++) {
        if (enter_name(self, first + i, GET(&self->names[first + i].hash)) < 0)
            return -1;
    }
    PUT(NUMBER(self, CHANGING), before);
    return 0;
}

/* Add a name at the end, where there is room; the caller has its hash. Its record gets its places. */
static int
append_name(NameIndex *names, Record *name, const char *key, uint32_t hash)
{
    GivenNames given = {.keys = {key, name->length}, .records = {name, sizeof *name}, .hashes = &hash};
    uint32_t number = GET(NUMBER(names, COUNT));
    int failed = append_names(names, &given, 1);
    *name = load_name(names, number);
    return failed;
}

/* Removed records ---------------------------------------------------------------------------------- */

/* Remember a removed record, for new names; -1 with an exception set. */
static int
give_free(NameIndex *names, uint32_t number, uint32_t width, uint32_t room)
{
    FreeNames *free = names->free, *end = free + names->n_free;
    while (free < end && (free->width != width || free->room != room))
        free++;
    if (free == end) {
        FreeNames *more = PyMem_Resize(names->free, FreeNames, (size_t)names->n_free + 1);
        if (more == NULL)
            return PyErr_NoMemory(), -1;
        names->free = more;
        free = more + names->n_free++;
        *free = (FreeNames){width, room, NULL, 0, 0};
    }
    if (free->n == free->size) {
        Py_ssize_t size = free->size == 0 ? 16 : 2 * free->size;
        uint32_t *numbers = PyMem_Resize(free->numbers, uint32_t, (size_t)size);
        if (numbers == NULL)
            return PyErr_NoMemory(), -1;
        free->numbers = numbers;
        free->size = size;
    }
    free->numbers[free->n++] = number;
    return 0;
}

/* Search the removed records again, the lowest last, if another process changed names; -1 with an exception set. */
static int
know_free(NameIndex *names)
{
    uint64_t revision = GET(LONG_NUMBER(names, REVISION));
    if (names->free_revision == revision)
        return 0;
    for (Py_ssize_t i = 0; i < names->n_free; i++)
        names->free[i].n = 0;
    uint32_t count = GET(NUMBER(names, COUNT));
    for (uint32_t number = count < names->capacity ? count : (uint32_t)names->capacity; number-- > 0;) {
        Record name = load_name(names, number);
        if (name.state == RECORD_REMOVED && give_free(names, number, name.width, name.room) < 0)
            return -1;
    }
    names->free_revision = revision;
    return 0;
}

/* The removed records with the least sufficient room for a new name; NULL if there are none. */
static FreeNames *
free_for(const NameIndex *names, uint32_t width, size_t length)
{
    FreeNames *found = NULL;
    for (FreeNames *free = names->free; free < names->free + names->n_free; free++) {
        if (free->n > 0 && free->width == width && free->room >= length && (found == NULL || free->room < found->room))
            found = free;
    }
    return found;
}

/* Whether a new name fits into the place of a removed one, whose record may be damaged. */
static int
can_replace(const NameIndex *names, const Record *former, const Record *name, size_t length)
{
    return name->width == former->width && former->state == RECORD_REMOVED && length <= former->room
           && is_in_heap(names, former->key, former->room);
}

/* Clear the place of a note: its content was another name's. */
static void
empty_note(NameIndex *names, const Record *name)
{
    if (!is_in_heap(names, name->note, name->note_room))
        return;
    uint64_t *place = (uint64_t *)(void *)(names->heap + name->note);
    for (size_t i = 0; i < name->note_room / 8; i++)
        PUT(place + i, 0);
}

/* Give a new name the record of a removed one, with its cells, which are 0, and its place in the heap. */
static int
replace_name(NameIndex *names, Py_ssize_t number, const Record *former, Record *name, const char *key, size_t length,
             uint32_t hash)
{
    name->state = RECORD_LIVE;
    name->cell = former->cell;
    name->hash = hash ^ name->declaration;
    name->key = former->key;
    name->room = former->room;
    name->length = (uint32_t)length;
    name->note = former->note;
    name->note_room = former->note_room;
    name->members = 0;
    uint32_t before = begin_change(names);
    store_key(names, name->key, key, length);
    empty_note(names, name);
    store_name(names, number, name);
    count_name(names, name, 1);
    PUT(NUMBER(names, REMOVED), GET(NUMBER(names, REMOVED)) - 1);
    if (enter_name(names, number, name->hash) < 0)
        return -1;
    FreeNames *free = free_for(names, former->width, former->room);
    if (free != NULL && free->room == former->room && free->numbers[free->n - 1] == (uint32_t)number)
        free->n--;
    else
        names->free_revision = UINT64_MAX; /* the caller took a record of its own choice */
    end_change(names, before);
    return 0;
}

/* Remove names, for every worker: their records stay, with the places that they refer to. The new generation
 * invalidates all bindings before their cells can be given to another name. */
static int
discard_names(NameIndex *names, const uint32_t *numbers, Py_ssize_t n)
{
    int is_known = names->free_revision == GET(LONG_NUMBER(names, REVISION));
    uint32_t before = begin_change(names);
    for (Py_ssize_t i = 0; i < n; i++) {
        Record name = load_name(names, numbers[i]);
        if (leave_name(names, numbers[i], name.hash) < 0)
            return -1;
        name.state = RECORD_REMOVED;
        uint64_t word;
        memcpy(&word, &name, sizeof word);
        PUT((uint64_t *)(void *)(names->names + numbers[i]), word);
        STOP_POINT();
        count_name(names, &name, -1);
        if (name.flags & FLAG_DECLARED)
            names->known_revision = UINT64_MAX;
        if (is_known && give_free(names, numbers[i], name.width, name.room) < 0) {
            PyErr_Clear();
            is_known = 0;
        }
    }
    if (!is_known)
        names->free_revision = UINT64_MAX;
    PUT(NUMBER(names, REMOVED), GET(NUMBER(names, REMOVED)) + (uint32_t)n);
    __atomic_add_fetch(LONG_NUMBER(names, GENERATION), 1, __ATOMIC_SEQ_CST);
    STOP_POINT();
    end_change(names, before);
    return 0;
}

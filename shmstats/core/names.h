/* The records of a block's names and their index: how a name is found, and the steps of which a change consists.
 *
 * Only the holder of the table lock changes anything, but other processes may search at the same time. So every load
 * and store of the block is atomic and ordered: a record is complete before the count of names, or the index, refers to
 * it. A process may be killed between any two stores; the next holder of the lock then rebuilds the index and the
 * counts (shmstats.block.repairing). No place that the block states is trusted: all are checked. */

enum { ENTRY_DELETED = 0xFFFFFFFF, KEY_ROOM = 16, RECORD_WORDS = sizeof(Record) / 8 };

/* The fields of the header, in the order in which the constructor takes their offsets; one of them is the salt. */
enum { COUNT, REMOVED, FAMILIES, CELLS_USED, INDEX_SLOTS, CHANGING, HEAP_USED, REVISION, SALT, GENERATION, HEADER_PLACES };

/* Removed records of one size, for new names: the last one is taken next. */
typedef struct {
    uint32_t width, room;
    uint32_t *numbers;
    Py_ssize_t n, size;
} FreeNames;

typedef struct {
    PyObject_HEAD
    Py_buffer buffer; /* the block; buffer.buf is NULL once closed */
    char *header[HEADER_PLACES];
    uint32_t *index;
    Record *names;
    char *heap;
    Py_ssize_t index_slots, capacity, heap_bytes, columns;
    uint64_t salt[2];
    PyObject *record;        /* the class of the records that are returned, a tuple */
    PyObject *kinds, *modes; /* tuples: by number, None for an invalid one */
    FreeNames *free;         /* what this process knows about removed records, by size */
    Py_ssize_t n_free;
    uint64_t free_revision;  /* the revision of the names for which that is right, */
    uint64_t known_revision; /* and the one for which a Registrar's knowledge of declarations is right */
} NameIndex;

#define GET(place) __atomic_load_n((place), __ATOMIC_ACQUIRE)
#define PUT(place, value) __atomic_store_n((place), (value), __ATOMIC_RELEASE)
#define NUMBER(names, which) ((uint32_t *)(void *)(names)->header[which])
#define LONG_NUMBER(names, which) ((uint64_t *)(void *)(names)->header[which])

static Record
load_name(const NameIndex *names, Py_ssize_t number)
{
    uint64_t words[RECORD_WORDS];
    const uint64_t *place = (const uint64_t *)(const void *)(names->names + number);
    for (int i = 0; i < RECORD_WORDS; i++)
        words[i] = GET(place + i);
    Record name;
    memcpy(&name, words, sizeof name);
    return name;
}

/* Store a record, or its words up to one; the first word, which has the state, is stored last. */
static void
store_name(NameIndex *names, Py_ssize_t number, const Record *name)
{
    uint64_t words[RECORD_WORDS];
    memcpy(words, name, sizeof words);
    uint64_t *place = (uint64_t *)(void *)(names->names + number);
    for (int i = RECORD_WORDS - 1; i >= 0; i--) {
        PUT(place + i, words[i]);
        STOP_POINT();
    }
}

/* Whether a text is within the heap, and starts at a valid place. */
static int
is_in_heap(const NameIndex *names, uint64_t place, uint64_t length)
{
    return place % 8 == 0 && place <= (uint64_t)names->heap_bytes && length <= (uint64_t)names->heap_bytes - place;
}

static size_t
words_of(size_t bytes)
{
    return (bytes + 7) / 8;
}

/* The n-th word of a text, padded with zeros at its end. */
static uint64_t
word_at(const char *text, size_t length, size_t n)
{
    uint64_t word = 0;
    size_t left = length - 8 * n;
    memcpy(&word, text + 8 * n, left < 8 ? left : 8);
    return word;
}

/* The bytes that a key takes in the heap. */
static uint32_t
room_of(uint32_t length)
{
    return (uint32_t)(((uint64_t)length + KEY_ROOM - 1) / KEY_ROOM * KEY_ROOM);
}

static int
has_key(const NameIndex *names, const Record *name, const char *key, size_t length)
{
    const uint64_t *place = (const uint64_t *)(const void *)(names->heap + name->key);
    for (size_t i = 0; i < words_of(length); i++) {
        size_t left = length - 8 * i;
        uint64_t differ = GET(place + i) ^ word_at(key, length, i);
        if (left < 8 ? differ << (64 - 8 * left) : differ)
            return 0;
    }
    return 1;
}

static void
store_key(NameIndex *names, uint64_t at, const char *key, size_t length)
{
    uint64_t *place = (uint64_t *)(void *)(names->heap + at);
    for (size_t i = 0; i < words_of(length); i++)
        PUT(place + i, word_at(key, length, i));
    STOP_POINT();
}

static uint32_t
mask_of(const NameIndex *names)
{
    return (GET(NUMBER(names, INDEX_SLOTS)) - 1) & (uint32_t)(names->index_slots - 1);
}

static PyObject *
damaged(Py_ssize_t number)
{
    return PyErr_Format(PyExc_BufferError, "record %zd leads out of the block", number);
}

/* Find a record by its key and the key's hash; 1: found, 0: not found, -1 with an exception set: the record that was
 * found is damaged. */
static int
find_hashed(const NameIndex *names, const char *key, size_t length, uint32_t hash, uint32_t declaration,
            Py_ssize_t *number, Record *name)
{
    uint32_t mask = mask_of(names), count = GET(NUMBER(names, COUNT)), wanted = hash ^ declaration;
    if (count > (uint32_t)names->capacity)
        count = (uint32_t)names->capacity;
    for (uint32_t i = 0, slot = wanted & mask; i <= mask; i++, slot = (slot + 1) & mask) {
        uint32_t entry = GET(names->index + slot);
        if (entry == 0)
            return 0;
        if (entry > count) /* true for a deleted one too */
            continue;
        *number = entry - 1;
        *name = load_name(names, *number);
        if (name->state != RECORD_LIVE || name->hash != wanted || name->length != length
            || name->declaration != declaration)
            continue;
        if (!is_in_heap(names, name->key, length) || name->width > (uint64_t)names->columns
            || name->cell > (uint64_t)names->columns - name->width) {
            damaged(*number);
            return -1;
        }
        if (has_key(names, name, key, length))
            return 1;
    }
    return 0;
}

static uint32_t
hash_in(const NameIndex *names, const char *key, size_t length)
{
    return (uint32_t)hash_of((const unsigned char *)key, length, names->salt);
}

/* The first slot of the index, starting from a hash, with one of two entries; -1 with an exception set: there is none,
 * so the index is damaged. The next holder of the table lock rebuilds it. */
static int64_t
search(NameIndex *names, uint32_t hash, uint32_t one, uint32_t other)
{
    uint32_t mask = mask_of(names);
    for (uint32_t i = 0, slot = hash & mask; i <= mask; i++, slot = (slot + 1) & mask) {
        uint32_t entry = GET(names->index + slot);
        if (entry == one || entry == other)
            return slot;
    }
    PUT(NUMBER(names, CHANGING), 1);
    PyErr_SetString(PyExc_BufferError, "the index of the names is damaged");
    return -1;
}

static int
enter_name(NameIndex *names, Py_ssize_t number, uint32_t hash)
{
    int64_t slot = search(names, hash, 0, ENTRY_DELETED);
    if (slot < 0)
        return -1;
    PUT(names->index + slot, (uint32_t)number + 1);
    STOP_POINT();
    return 0;
}

static int
leave_name(NameIndex *names, Py_ssize_t number, uint32_t hash)
{
    int64_t found = search(names, hash, 0, (uint32_t)number + 1);
    if (found < 0)
        return -1;
    uint32_t mask = mask_of(names), slot = (uint32_t)found;
    if (GET(names->index + slot) == 0)
        return 0;
    PUT(names->index + slot, (uint32_t)ENTRY_DELETED);
    STOP_POINT();
    /* If the next slot is free, no search has to continue past this one. */
    if (GET(names->index + ((slot + 1) & mask)) == 0) {
        for (; GET(names->index + slot) == ENTRY_DELETED; slot = (slot - 1) & mask)
            PUT(names->index + slot, 0);
    }
    return 0;
}

/* Count a name that is added (1) or removed (-1), in its family, or in the number of families. */
static void
count_name(NameIndex *names, const Record *name, int n)
{
    uint32_t *number = NULL;
    if (name->flags & FLAG_FAMILY)
        number = NUMBER(names, FAMILIES);
    else if (name->flags & FLAG_MEMBER && name->family > 0 && name->family <= (uint64_t)names->capacity)
        number = &names->names[name->family - 1].members;
    if (number != NULL)
        PUT(number, GET(number) + (uint32_t)n);
}

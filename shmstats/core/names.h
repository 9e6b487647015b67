/* The index of a block's names and its records: what finds one, and the steps that a change of them is made of.
 *
 * Only who has the table lock changes anything; whoever finds a name may come meanwhile. So every load and store of
 * the block is atomic and in order: a record is whole before the count of names, or the index, leads to it. A process
 * may be killed between any two stores, and the next one that has the lock derives the index and the counts anew
 * (shmstats.block.repairing). Nothing that the block says of a place in it is believed. */

enum { ENTRY_DELETED = 0xFFFFFFFF, KEY_ROOM = 16, RECORD_WORDS = sizeof(Record) / 8 };

/* The numbers of the header, in the order in which the constructor takes their offsets; and the salt. */
enum { COUNT, REMOVED, FAMILIES, CELLS_USED, INDEX_SLOTS, CHANGING, HEAP_USED, REVISION, SALT, GENERATION, HEADER_PLACES };

/* Removed records of one size, for new names: the one to be taken next is the last. */
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
    PyObject *record;        /* the class that records are given as, a tuple */
    PyObject *kinds, *modes; /* tuples: by number, None for one that cannot be */
    FreeNames *free;         /* of this process: what it knows of removed records, by size */
    Py_ssize_t n_free;
    uint64_t free_revision;  /* of the names, with which that is right, */
    uint64_t known_revision; /* and with which a Registrar's knowledge of declarations is */
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

/* Store a record, or its words up to one, the first of them, with the state, last. */
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

/* Whether a text is in the heap, and at a place where one can begin. */
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

/* The n-th word of a text, with zeros behind its end. */
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

/* Find a record by its key, whose hash is given, too; 1: found, 0: not, -1 with an exception set: what was found is
 * damaged. */
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
        if (entry > count) /* also one that was deleted */
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
    return hash_of((const unsigned char *)key, length, names->salt);
}

/* The slot of the index, from where a hash leads, that has one of two entries; -1 with an exception set: none has,
 * and that cannot be. The next who takes the table lock makes the index anew. */
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
    /* At the end of a run nothing lies behind that a search would have to go on to. */
    if (GET(names->index + ((slot + 1) & mask)) == 0) {
        for (; GET(names->index + slot) == ENTRY_DELETED; slot = (slot - 1) & mask)
            PUT(names->index + slot, 0);
    }
    return 0;
}

/* Count a name that comes (1) or goes (-1) where its family, or all families, are counted. */
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

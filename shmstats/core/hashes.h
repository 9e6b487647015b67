/* Sets of texts, stored as hashes of 64 bits: two texts with the same hash count as equal. */

typedef struct {
    uint64_t *slots; /* 0: free */
    size_t size, used;
} Hashes;

/* Make room for so many hashes; -1 with an exception set. */
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

/* Store the hashes of the texts of a collection; -1 with an exception set. */
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

/* Whether two keys have the same hash; -1 with an exception set. */
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

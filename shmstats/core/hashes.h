/* Sets of texts, stored as hashes of 64 bits: two texts with the same hash count as equal. */

/* Make a set with room for so many hashes; -1 with an exception set. */
static int
open_hashes(Table *hashes, size_t most)
{
    uint32_t slots = 16;
    while (slots <= 2 * most && slots < 1u << 30)
        slots *= 2;
    return make_table(hashes, slots) < 0 ? PyErr_NoMemory(), -1 : 0;
}

/* The slot of a hash, or the free slot where the search ends. */
static uint32_t
slot_of(const Table *hashes, uint64_t hash)
{
    uint32_t slot = (uint32_t)hash & hashes->mask;
    while (hashes->entries[slot] != 0 && hashes->hashes[slot] != hash)
        slot = (slot + 1) & hashes->mask;
    return slot;
}

static int
has_hash(const Table *hashes, uint64_t hash)
{
    return hashes->entries[slot_of(hashes, hash)] != 0;
}

/* Add a hash; 1: it was not there, 0: it was, -1 with an exception set. */
static int
add_hash(Table *hashes, uint64_t hash)
{
    uint32_t slot = slot_of(hashes, hash);
    if (hashes->entries[slot] != 0)
        return 0;
    return put_entry(hashes, slot, hash) < 0 ? PyErr_NoMemory(), -1 : 1;
}

static uint64_t
hash_of_part(Part part)
{
    static const uint64_t salt[2] = {0, 0};
    return long_hash_of(part.text, part.size, salt);
}

/* Store the hashes of the texts of a collection; -1 with an exception set. */
static int
hash_all(Table *hashes, PyObject *texts)
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
    Table seen = {.used = 0};
    size_t n = hashes->used / sizeof(uint64_t);
    const uint64_t *hash = (const uint64_t *)(const void *)hashes->start;
    int added = open_hashes(&seen, n) < 0 ? -1 : 1;
    for (size_t i = 0; i < n && added > 0; i++)
        added = add_hash(&seen, hash[i]);
    free_table(&seen);
    return added < 0 ? -1 : !added;
}

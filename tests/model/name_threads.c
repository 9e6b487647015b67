/* The C core's names under ThreadSanitizer: one thread adds, discards and replaces names, as who has the table lock
 * does, and others look names up without a lock, as any process may.
 *
 * Beside each record is a plain variable that is written before its name is added. Should a name be found before what
 * was stored earlier is seen, ThreadSanitizer says so, or a wrong value is found. Writes "ok" and ends with 0, or says
 * what is wrong and ends with 1.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "_cells.c"

enum { READERS = 3, NAMES = 400, SLOTS = 1024, ROUNDS = 40 };

static struct {
    uint64_t header[HEADER_PLACES + 1];
    uint32_t index[SLOTS];
    Record names[NAMES];
    uint64_t heap[NAMES * KEY_ROOM / 8];
} block;

static int beside[NAMES]; /* plain: written before the name of that number is added */
static int is_over;

static NameIndex
make_names(void)
{
    NameIndex names = {0};
    for (int i = 0; i < HEADER_PLACES; i++)
        names.header[i] = (char *)&block.header[i];
    names.index = block.index;
    names.names = block.names;
    names.heap = (char *)block.heap;
    names.index_slots = SLOTS;
    names.capacity = NAMES;
    names.heap_bytes = sizeof block.heap;
    names.columns = 2 * NAMES;
    names.free_revision = names.known_revision = UINT64_MAX; /* nothing is to be kept of removed ones */
    return names;
}

static size_t
name_key(char *key, int number)
{
    return (size_t)snprintf(key, KEY_ROOM, "c%cn%d", 0, number);
}

static void *
look_for_names(void *argument)
{
    NameIndex names = make_names();
    char key[KEY_ROOM];
    Record found;
    Py_ssize_t number;
    for (int i = 0; !__atomic_load_n(&is_over, __ATOMIC_ACQUIRE); i = (i + 7) % NAMES) {
        size_t length = name_key(key, i);
        if (!find_hashed(&names, key, length, hash_in(&names, key, length), 0, &number, &found))
            continue;
        if (number != i || beside[i] != i + 1 || found.cell != 2 * (uint32_t)i) {
            printf("name %d is record %zd, cell %u, with %d beside\n", i, number, found.cell, beside[i]);
            *(int *)argument = 1;
        }
    }
    return NULL;
}

int
main(void)
{
    block.header[INDEX_SLOTS] = SLOTS;
    NameIndex names = make_names();
    pthread_t readers[READERS];
    int wrong[READERS] = {0}, is_wrong = 0;
    char key[KEY_ROOM];
    for (int i = 0; i < READERS; i++)
        pthread_create(&readers[i], NULL, look_for_names, &wrong[i]);
    for (int i = 0; i < NAMES; i++) {
        Record name = {.kind = 1, .width = 2, .length = (uint32_t)name_key(key, i)};
        beside[i] = i + 1;
        append_name(&names, &name, key, hash_in(&names, key, name.length));
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < NAMES; i += 5) {
            discard_names(&names, &i, 1);
            size_t length = name_key(key, (int)i);
            Record former = load_name(&names, i), name = {.kind = 1, .width = 2};
            replace_name(&names, i, &former, &name, key, length, hash_in(&names, key, length));
        }
    }
    __atomic_store_n(&is_over, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < READERS; i++) {
        pthread_join(readers[i], NULL);
        is_wrong |= wrong[i];
    }
    if (block.header[COUNT] != NAMES || (uint32_t)block.header[REMOVED] != 0)
        is_wrong = printf("%llu names, %llu removed\n", (unsigned long long)block.header[COUNT],
                          (unsigned long long)block.header[REMOVED]);
    if (!is_wrong)
        printf("ok\n");
    return is_wrong != 0;
}

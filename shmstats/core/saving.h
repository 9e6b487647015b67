/* plan_save: the text of a saved snapshot (snapshot/format.py), with a place for each value that fill_text fills in. */

/* Write a key as a JSON string. */
static void
put_json_key(Bytes *bytes, Key key)
{
    static const char digits[] = "0123456789abcdef";
    put_byte(bytes, '"');
    for (const unsigned char *p = key.at; p < key.end; p++) {
        if (LIKELY(*p >= 0x20 && *p != '"' && *p != '\\')) {
            put_byte(bytes, *p);
        } else if (*p >= 0x20) {
            put_byte(bytes, '\\');
            put_byte(bytes, *p);
        } else {
            put_part(bytes, (Part){(const unsigned char *)"\\u00", 4});
            put_byte(bytes, (unsigned char)('0' + (*p >> 4)));
            put_byte(bytes, (unsigned char)digits[*p & 15]);
        }
    }
    put_byte(bytes, '"');
}

static void
put_integer(Bytes *bytes, int64_t number)
{
    bytes->used = (size_t)(write_integer(bytes->start + bytes->used, number) - bytes->start);
}

typedef struct {
    Names names;
    Borrowed numbers;
    Py_ssize_t count;
    Bytes keys, kinds, created; /* lists of JSON */
    Bytes text, places;         /* the list of the values */
} SavePlan;

static int
put_save_place(SavePlan *plan, size_t *last, const Record *record, uint32_t form)
{
    if (reserve_bytes(&plan->places, sizeof(Place)) < 0)
        return -1;
    uint32_t argument = form == FORM_IN_USE ? record->width - FIRST_BUCKET : 1;
    Place place = {(uint32_t)(plan->text.used - *last), record->cell, form, argument};
    memcpy(plan->places.start + plan->places.used, &place, sizeof place);
    plan->places.used += sizeof place;
    *last = plan->text.used;
    return 0;
}

/* Write the places of a histogram: sum, maximum, minimum, and the buckets in use. -1 without memory. */
static int
put_save_histogram(SavePlan *plan, size_t *last, const Record *record)
{
    static const uint32_t forms[] = {FORM_SUM, FORM_MAXIMUM, FORM_MINIMUM, FORM_IN_USE, FORM_NOTHING};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        put_byte(&plan->text, i == 0 ? '[' : i == 4 ? ']' : ',');
        if (put_save_place(plan, last, record, forms[i]) < 0)
            return -1;
    }
    return 0;
}

/* Write what a snapshot has of a record. -1 without memory. */
static int
put_saved(SavePlan *plan, size_t *last, Py_ssize_t i)
{
    const Record *record = &plan->names.record[((const uint32_t *)plan->numbers.buf)[i]];
    if (reserve_bytes(&plan->keys, 6 * (size_t)record->length + 8) < 0 || reserve_bytes(&plan->kinds, 32) < 0
        || reserve_bytes(&plan->created, 32) < 0 || reserve_bytes(&plan->text, 32) < 0)
        return -1;
    if (i > 0) {
        put_byte(&plan->keys, ',');
        put_byte(&plan->kinds, ',');
        put_byte(&plan->created, ',');
        put_byte(&plan->text, ',');
    }
    put_json_key(&plan->keys, key_of(&plan->names, record));
    int is_gauge = record->kind == KIND_COUNTER && !(record->flags & FLAG_MONOTONIC);
    put_integer(&plan->kinds, is_gauge ? -(int64_t)record->kind : record->kind);
    put_integer(&plan->created, record->created > INT64_MAX ? 0 : (int64_t)record->created); /* damaged: unknown */
    if (record->kind == KIND_HISTOGRAM)
        return put_save_histogram(plan, last, record);
    return put_save_place(plan, last, record, record->kind == KIND_GAUGE ? FORM_GAUGE : FORM_INTEGER);
}

/* Whether the records to save exist and are valid. */
static int
can_be_saved(const SavePlan *plan)
{
    for (Py_ssize_t i = 0; i < plan->count; i++) {
        uint32_t number = ((const uint32_t *)plan->numbers.buf)[i];
        if (number >= plan->names.count || !is_sound(&plan->names, &plan->names.record[number]))
            return 0;
        const Record *record = &plan->names.record[number];
        if (record->kind == KIND_HISTOGRAM && record->width <= FIRST_BUCKET)
            return 0;
    }
    return plan->numbers.len % 4 == 0;
}

static int
put_all_saved(SavePlan *plan)
{
    size_t last = 0;
    for (Py_ssize_t i = 0; i < plan->count; i++)
        if (put_saved(plan, &last, i) < 0)
            return -1;
    return 0;
}

static PyObject *
plan_save(PyObject *Py_UNUSED(module), PyObject *args)
{
    SavePlan plan = {0};
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y#y#y#", &plan.names.records.buf, &plan.names.records.len, &plan.names.heap.buf,
                          &plan.names.heap.len, &plan.numbers.buf, &plan.numbers.len))
        return NULL;
    plan.count = plan.numbers.len / 4;
    if (open_names(&plan.names) < 0)
        goto end;
    int sound, failed = 0;
    Py_BEGIN_ALLOW_THREADS
    sound = can_be_saved(&plan);
    failed = sound && put_all_saved(&plan) < 0;
    Py_END_ALLOW_THREADS
    if (!sound)
        PyErr_SetString(PyExc_ValueError, "the numbers are not those of records that can be saved");
    else if (failed)
        PyErr_NoMemory();
    else
        result = Py_BuildValue("NNNNN", bytes_of(&plan.keys), bytes_of(&plan.kinds), bytes_of(&plan.created),
                               bytes_of(&plan.text), bytes_of(&plan.places));
end:
    free(plan.keys.start);
    free(plan.kinds.start);
    free(plan.created.start);
    free(plan.text.start);
    free(plan.places.start);
    return result;
}

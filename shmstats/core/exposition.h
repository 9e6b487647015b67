/* The text of an exposition: plan_text writes the lines of groups, with a place for each value, and fill_text fills in
 * the values of one moment. Both work without the GIL, on data that nobody changes. */

/* What is written at a place. A line ends after its place. */
enum {
    FORM_INTEGER,
    FORM_GAUGE,
    FORM_SECONDS,
    FORM_NOTHING,
    FORM_SUM,
    FORM_BUCKET,
    FORM_MAXIMUM,
    FORM_MINIMUM,
    FORM_IN_USE, /* the number of the first bucket that is not 0, and the list of buckets from there to the last one */
    FORMS
};

#define FIRST_BUCKET (LOCK_CELLS + BUCKETS)

/* The place of a value in the text. */
typedef struct {
    uint32_t before; /* bytes of text between the previous place and this one */
    uint32_t cell;   /* first cell of the series */
    uint32_t form;
    uint32_t argument; /* of a sum: its divisor; of a bucket: its number; of buckets in use: number of all buckets */
} Place;

/* A growing array of bytes. */
typedef struct {
    unsigned char *start;
    size_t used, room;
} Bytes;

/* Make room for some more bytes; -1 without memory. */
static int
reserve_bytes(Bytes *bytes, size_t more)
{
    if (bytes->used + more <= bytes->room)
        return 0;
    size_t room = (bytes->used + more) * 2;
    unsigned char *start = realloc(bytes->start, room);
    if (start == NULL)
        return -1;
    bytes->start = start;
    bytes->room = room;
    return 0;
}

static PyObject *
bytes_of(const Bytes *bytes)
{
    return PyBytes_FromStringAndSize((const char *)bytes->start, (Py_ssize_t)bytes->used);
}

static inline void
put_part(Bytes *bytes, Part part)
{
    memcpy(bytes->start + bytes->used, part.text, part.size);
    bytes->used += part.size;
}

static inline void
put_byte(Bytes *bytes, unsigned char byte)
{
    bytes->start[bytes->used++] = byte;
}

static inline unsigned char *
write_part(unsigned char *to, Part part)
{
    memcpy(to, part.text, part.size);
    return to + part.size;
}

/* Write a label value, with a backslash before characters that need one. */
static inline unsigned char *
write_escaped(unsigned char *to, Part part)
{
    for (size_t i = 0; i < part.size; i++) {
        unsigned char c = part.text[i];
        if (UNLIKELY(c == '\\' || c == '"' || c == '\n')) {
            *to++ = '\\';
            c = c == '\n' ? 'n' : c;
        }
        *to++ = c;
    }
    return to;
}

/* The line of a bucket: observations up to its limit. */
typedef struct {
    uint32_t bucket;
    Part limit; /* text after the labels */
} Limit;

/* The parts that all lines of a group share. */
typedef struct {
    Part prefix;  /* before the category */
    Part after;   /* after it */
    Part created; /* before the category in the line with the creation time; empty: no such line */
    Part sum, count;  /* of a histogram: the prefix in its lines of sum and count; prefix is that of its buckets */
    uint32_t divisor; /* of its sum */
    Limit *limits;    /* of its buckets; NULL if it is not a histogram */
    Py_ssize_t limit_count;
    size_t limits_size; /* bytes of their texts */
} Lines;

typedef struct {
    Names names;
    Borrowed group_of, rank_of;
    Py_ssize_t groups, families;
    Lines *lines;        /* of each group */
    Part *heads;         /* of each family */
    uint32_t *order;     /* the records of the page, family by family */
    uint32_t *first;     /* for each family its start in the order; after the last one the end */
    size_t longest, most; /* upper bounds for the text and for the number of places */
    unsigned char *text, *to, *last; /* the text, its current end, and the end of the last line */
    Place *place;        /* the next place */
    uint64_t *ends;      /* of each family: ends of its text and of its places */
} Plan;

static inline uint32_t
rank_of_record(const Plan *plan, uint32_t number)
{
    uint32_t group = ((const uint32_t *)plan->group_of.buf)[number];
    return group < plan->groups ? ((const uint32_t *)plan->rank_of.buf)[group] : NO_GROUP;
}

/* Sort the records of the page by their families, keeping the order within each family. `first` has the number of
 * records of each family, two places later; in the end it has their starts. */
static void
sort_records(Plan *plan)
{
    for (Py_ssize_t rank = 0; rank < plan->families; rank++)
        plan->first[rank + 2] += plan->first[rank + 1];
    for (uint32_t i = 0; i < plan->names.count; i++) {
        uint32_t rank = rank_of_record(plan, i);
        if (rank < plan->families)
            plan->order[plan->first[rank + 1]++] = i;
    }
}

/* Write a line of a series up to its value. */
static unsigned char *
write_series(unsigned char *to, Key key, Part prefix, Part after, Part last)
{
    to = write_escaped(write_part(to, prefix), next_part(&key));
    to = write_part(to, after);
    next_part(&key);
    while (has_part(&key)) {
        *to++ = ',';
        to = write_part(to, next_part(&key));
        *to++ = '=';
        *to++ = '"';
        to = write_escaped(to, next_part(&key));
        *to++ = '"';
    }
    to = write_part(to, last);
    *to++ = '}';
    *to++ = ' ';
    return to;
}

/* Upper bound for `write_series` beside its parts: a byte of a key may need a backslash, and a NUL becomes two bytes. */
static inline size_t
longest_of(const Record *record)
{
    return 2 * (size_t)record->length + 3;
}

/* Add upper bounds for the lines of a record. */
static void
measure_record(Plan *plan, const Record *record, const Lines *lines)
{
    size_t each = lines->after.size + longest_of(record);
    if (lines->limits != NULL) {
        plan->longest += lines->sum.size + lines->count.size + 2 * each + lines->limits_size
                         + (size_t)lines->limit_count * (lines->prefix.size + each);
        plan->most += (size_t)lines->limit_count + 2;
    } else {
        plan->longest += lines->prefix.size + each;
        plan->most++;
    }
    if (lines->created.size > 0 && record->created != 0) {
        plan->longest += lines->created.size + each + MOST_DIGITS;
        plan->most++;
    }
}

/* End a line with the place of a value. */
static inline void
put_place(Plan *plan, uint32_t cell, uint32_t form, uint32_t argument)
{
    *plan->place++ = (Place){(uint32_t)(plan->to - plan->last), cell, form, argument};
    plan->last = plan->to;
}

static uint32_t
form_of(const Record *record)
{
    return record->kind == KIND_COUNTER ? FORM_INTEGER : record->kind == KIND_TIMESTAMP ? FORM_SECONDS : FORM_GAUGE;
}

static const Part no_part = {(const unsigned char *)"", 0};

/* Write the lines of a histogram. */
static void
plan_histogram(Plan *plan, const Record *record, const Lines *lines)
{
    Key key = key_of(&plan->names, record);
    for (Py_ssize_t i = 0; i < lines->limit_count; i++) {
        plan->to = write_series(plan->to, key, lines->prefix, lines->after, lines->limits[i].limit);
        put_place(plan, record->cell, FORM_BUCKET, lines->limits[i].bucket);
    }
    plan->to = write_series(plan->to, key, lines->sum, lines->after, no_part);
    put_place(plan, record->cell, FORM_SUM, lines->divisor);
    plan->to = write_series(plan->to, key, lines->count, lines->after, no_part);
    put_place(plan, record->cell, FORM_BUCKET, record->width - FIRST_BUCKET - 1);
}

/* Write the lines of a record. */
static void
plan_record(Plan *plan, uint32_t number)
{
    const Record *record = &plan->names.record[number];
    const Lines *lines = &plan->lines[((const uint32_t *)plan->group_of.buf)[number]];
    Key key = key_of(&plan->names, record);
    if (lines->limits != NULL) {
        plan_histogram(plan, record, lines);
    } else {
        plan->to = write_series(plan->to, key, lines->prefix, lines->after, no_part);
        put_place(plan, record->cell, form_of(record), 0);
    }
    if (lines->created.size > 0 && record->created != 0) {
        plan->to = write_series(plan->to, key, lines->created, lines->after, no_part);
        plan->to = write_fixed(plan->to, record->created, 1000000000, 9); /* ns in seconds */
        put_place(plan, 0, FORM_NOTHING, 0);
    }
}

/* Write all families. */
static void
plan_families(Plan *plan, Place *places)
{
    plan->place = places;
    plan->to = plan->last = plan->text;
    for (Py_ssize_t rank = 0; rank < plan->families; rank++) {
        plan->to = write_part(plan->to, plan->heads[rank]);
        for (uint32_t i = plan->first[rank]; i < plan->first[rank + 1]; i++)
            plan_record(plan, plan->order[i]);
        plan->ends[2 * rank] = (uint64_t)(plan->to - plan->text);
        plan->ends[2 * rank + 1] = (uint64_t)(plan->place - places) * sizeof *places;
    }
}

/* The bytes of an object as a part; -1 with an exception set if it has none. */
static int
part_of(PyObject *object, Part *part)
{
    char *text;
    Py_ssize_t size;
    if (object == NULL || PyBytes_AsStringAndSize(object, &text, &size) < 0)
        return -1;
    *part = (Part){(const unsigned char *)text, (size_t)size};
    return 0;
}

/* Read the lines of a histogram's buckets: pairs of a number and a text. */
static int
read_limits(Lines *lines, PyObject *limits)
{
    lines->limit_count = PyTuple_GET_SIZE(limits);
    lines->limits = calloc((size_t)lines->limit_count + 1, sizeof *lines->limits);
    if (lines->limits == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < lines->limit_count; i++) {
        unsigned int bucket;
        PyObject *limit;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(limits, i), "IS", &bucket, &limit))
            return -1;
        lines->limits[i].bucket = bucket;
        if (part_of(limit, &lines->limits[i].limit) < 0)
            return -1;
        lines->limits_size += lines->limits[i].limit.size;
    }
    return 0;
}

/* Read the lines of a group. */
static int
read_lines(Lines *lines, PyObject *item)
{
    PyObject *prefix, *after, *created, *sum = NULL, *count = NULL, *limits = NULL;
    unsigned int divisor = 1;
    if (!PyArg_ParseTuple(item, "SSS|SSIO!", &prefix, &after, &created, &sum, &count, &divisor, &PyTuple_Type, &limits))
        return -1;
    lines->divisor = divisor;
    if (part_of(prefix, &lines->prefix) < 0 || part_of(after, &lines->after) < 0
        || part_of(created, &lines->created) < 0)
        return -1;
    if (limits == NULL)
        return 0;
    return part_of(sum, &lines->sum) < 0 || part_of(count, &lines->count) < 0 ? -1 : read_limits(lines, limits);
}

/* Read Python's description of the groups and the families; the references stay borrowed. */
static int
read_names(Plan *plan, PyObject *lines, PyObject *heads)
{
    for (Py_ssize_t i = 0; i < plan->groups; i++) {
        PyObject *item = PyTuple_GET_ITEM(lines, i);
        if (item != Py_None && read_lines(&plan->lines[i], item) < 0)
            return -1;
    }
    for (Py_ssize_t i = 0; i < plan->families; i++)
        if (part_of(PyTuple_GET_ITEM(heads, i), &plan->heads[i]) < 0)
            return -1;
    return 0;
}

/* Whether a record fits the lines of its group. */
static int
has_lines(const Plan *plan, const Record *record, const Lines *lines)
{
    if (!has_place(&plan->names, record) || lines->after.text == NULL)
        return 0;
    return lines->limits == NULL || record->width > FIRST_BUCKET;
}

/* Sort the records and add up bounds for their lines; 0 if the arguments do not fit together. */
static int
measure(Plan *plan)
{
    const uint32_t *group_of = plan->group_of.buf;
    if (plan->group_of.len != (Py_ssize_t)plan->names.count * 4 || plan->rank_of.len != plan->groups * 4)
        return 0;
    for (Py_ssize_t rank = 0; rank < plan->families; rank++)
        plan->longest += plan->heads[rank].size;
    for (uint32_t i = 0; i < plan->names.count; i++) {
        uint32_t rank = rank_of_record(plan, i);
        if (rank >= plan->families)
            continue;
        plan->first[rank + 2]++;
        const Record *record = &plan->names.record[i];
        const Lines *lines = &plan->lines[group_of[i]];
        if (!has_lines(plan, record, lines))
            return 0;
        measure_record(plan, record, lines);
    }
    sort_records(plan);
    return 1;
}

/* Return text, places, and the ends of the families in both. */
static PyObject *
planned_text(Plan *plan)
{
    PyObject *text = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)plan->longest);
    PyObject *places = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(plan->most * sizeof(Place)));
    if (text == NULL || places == NULL) {
        Py_XDECREF(text);
        Py_XDECREF(places);
        return NULL;
    }
    plan->text = (unsigned char *)PyBytes_AS_STRING(text);
    Py_BEGIN_ALLOW_THREADS
    plan_families(plan, (Place *)(void *)PyBytes_AS_STRING(places));
    Py_END_ALLOW_THREADS
    _PyBytes_Resize(&text, plan->to - plan->text);
    return Py_BuildValue("NNN", text, places,
                         PyBytes_FromStringAndSize((const char *)plan->ends,
                                                   plan->families * 2 * (Py_ssize_t)sizeof *plan->ends));
}

static PyObject *
plan_text(PyObject *Py_UNUSED(module), PyObject *args)
{
    Plan plan = {0};
    PyObject *lines, *heads, *result = NULL;
    if (!PyArg_ParseTuple(args, "y#y#y#y#O!O!", &plan.names.records.buf, &plan.names.records.len, &plan.names.heap.buf,
                          &plan.names.heap.len, &plan.group_of.buf, &plan.group_of.len, &plan.rank_of.buf,
                          &plan.rank_of.len, &PyTuple_Type, &lines, &PyTuple_Type, &heads))
        return NULL;
    plan.groups = PyTuple_GET_SIZE(lines);
    plan.families = PyTuple_GET_SIZE(heads);
    if (open_names(&plan.names) < 0)
        goto end;
    plan.lines = calloc((size_t)plan.groups + 1, sizeof *plan.lines);
    plan.heads = calloc((size_t)plan.families + 1, sizeof *plan.heads);
    plan.first = calloc((size_t)plan.families + 2, sizeof *plan.first);
    plan.ends = calloc((size_t)plan.families + 1, 2 * sizeof *plan.ends);
    plan.order = calloc((size_t)plan.names.count + 1, sizeof *plan.order);
    if (!plan.lines || !plan.heads || !plan.first || !plan.ends || !plan.order) {
        PyErr_NoMemory();
        goto end;
    }
    if (read_names(&plan, lines, heads) < 0)
        goto end;
    int fits;
    Py_BEGIN_ALLOW_THREADS
    fits = measure(&plan);
    Py_END_ALLOW_THREADS
    if (fits)
        result = planned_text(&plan);
    else
        PyErr_SetString(PyExc_ValueError, "the groups are not those of these records");
end:
    for (Py_ssize_t i = 0; plan.lines != NULL && i < plan.groups; i++)
        free(plan.lines[i].limits);
    free(plan.lines);
    free(plan.heads);
    free(plan.first);
    free(plan.ends);
    free(plan.order);
    return result;
}

/* The text of an exposition: plan_text writes the lines of groups, with a place for each value, and fill_text fills in the
 * values of one moment. Both do their work without the GIL, on what nobody changes. */

/* What a place is for. A line ends behind its place. */
enum {
    FORM_INTEGER,
    FORM_GAUGE,
    FORM_SECONDS,
    FORM_NOTHING,
    FORM_SUM,
    FORM_BUCKET,
    FORM_MAXIMUM,
    FORM_MINIMUM,
    FORM_IN_USE, /* the number of the first bucket that is not 0, and the list of all from there to the last such */
    FORMS
};

#define FIRST_BUCKET (LOCK_CELLS + BUCKETS)

/* Where the value of a series goes. */
typedef struct {
    uint32_t before; /* bytes of text before it, behind the last place */
    uint32_t cell;   /* of the series: the first */
    uint32_t form;
    uint32_t argument; /* of a sum: what it is divided by; of a bucket: its number; of buckets in use: all of them */
} Place;

/* Bytes that grow. */
typedef struct {
    unsigned char *start;
    size_t used, room;
} Bytes;

/* Have room for some more bytes; -1 without memory. */
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

/* Put the text of a label's value, with a back-slash before what needs one. */
static inline void
put_escaped(Bytes *bytes, Part part)
{
    for (size_t i = 0; i < part.size; i++) {
        unsigned char c = part.text[i];
        if (UNLIKELY(c == '\\' || c == '"' || c == '\n')) {
            put_byte(bytes, '\\');
            c = c == '\n' ? 'n' : c;
        }
        put_byte(bytes, c);
    }
}

/* The line of a bucket: it has what has been observed up to there. */
typedef struct {
    uint32_t bucket;
    Part limit; /* behind the labels */
} Limit;

/* What the lines of a group have in common. */
typedef struct {
    Part prefix;  /* before the category */
    Part after;   /* behind it */
    Part created; /* before the category in a line that tells when the series was made; empty: there is none */
    Part sum, count;  /* of a histogram: the same in its lines of sum and count; the others are of its buckets */
    uint32_t divisor; /* of its sum */
    Limit *limits;    /* of its buckets; NULL for all that is no histogram */
    Py_ssize_t limit_count;
} Lines;

typedef struct {
    Names names;
    Py_buffer group_of, rank_of;
    Py_ssize_t groups, families;
    Lines *lines;        /* of each group */
    Part *heads;         /* of each family */
    uint32_t *order;     /* the records of the page, family by family */
    uint32_t *first;     /* of each family: where it begins in the order; behind the last one its end */
    Bytes text, places;
    uint64_t *ends;      /* of each family: ends of its text and of its places */
} Plan;

static inline uint32_t
rank_of_record(const Plan *plan, uint32_t number)
{
    uint32_t group = ((const uint32_t *)plan->group_of.buf)[number];
    return group < plan->groups ? ((const uint32_t *)plan->rank_of.buf)[group] : NO_GROUP;
}

/* Put the records of the page into the order of their families, each family's as they are. */
static void
sort_records(Plan *plan)
{
    for (uint32_t i = 0; i < plan->names.count; i++) {
        uint32_t rank = rank_of_record(plan, i);
        if (rank < plan->families)
            plan->first[rank + 1]++;
    }
    for (Py_ssize_t rank = 0; rank < plan->families; rank++)
        plan->first[rank + 1] += plan->first[rank];
    for (uint32_t i = 0; i < plan->names.count; i++) {
        uint32_t rank = rank_of_record(plan, i);
        if (rank < plan->families)
            plan->order[plan->first[rank]++] = i;
    }
    for (Py_ssize_t rank = plan->families; rank > 0; rank--)
        plan->first[rank] = plan->first[rank - 1];
    plan->first[0] = 0;
}

/* Put what stands before the value of a series. */
static void
put_series(Bytes *text, Key key, Part prefix, Part after, Part last)
{
    put_part(text, prefix);
    put_escaped(text, next_part(&key));
    put_part(text, after);
    next_part(&key);
    while (has_part(&key)) {
        put_byte(text, ',');
        put_part(text, next_part(&key));
        put_byte(text, '=');
        put_byte(text, '"');
        put_escaped(text, next_part(&key));
        put_byte(text, '"');
    }
    put_part(text, last);
    put_byte(text, '}');
    put_byte(text, ' ');
}

static void
put_place(Plan *plan, size_t *last, uint32_t cell, uint32_t form, uint32_t argument)
{
    Place place = {(uint32_t)(plan->text.used - *last), cell, form, argument};
    memcpy(plan->places.start + plan->places.used, &place, sizeof place);
    plan->places.used += sizeof place;
    *last = plan->text.used;
}

/* Put a moment, given in ns since 1970, in seconds. */
static void
put_moment(Bytes *text, uint64_t moment)
{
    char digits[40];
    int size = snprintf(digits, sizeof digits, "%llu.%09llu", (unsigned long long)(moment / 1000000000u),
                        (unsigned long long)(moment % 1000000000u));
    put_part(text, (Part){(const unsigned char *)digits, (size_t)size});
}

static uint32_t
form_of(const Record *record)
{
    return record->kind == KIND_COUNTER ? FORM_INTEGER : record->kind == KIND_TIMESTAMP ? FORM_SECONDS : FORM_GAUGE;
}

/* Have room for one more line of a record. -1 without memory. */
static int
reserve_line(Plan *plan, const Record *record, Part prefix, Part after, Part last)
{
    size_t longest = prefix.size + after.size + last.size + 4 * (size_t)record->length + 64;
    return reserve_bytes(&plan->text, longest) < 0 || reserve_bytes(&plan->places, sizeof(Place)) < 0 ? -1 : 0;
}

/* Put a line of a record, up to its value. -1 without memory. */
static int
put_line(Plan *plan, const Record *record, Part prefix, Part after, Part last)
{
    if (reserve_line(plan, record, prefix, after, last) < 0)
        return -1;
    put_series(&plan->text, key_of(&plan->names, record), prefix, after, last);
    return 0;
}

static const Part no_part = {(const unsigned char *)"", 0};

/* Put the lines of a histogram. -1 without memory. */
static int
plan_histogram(Plan *plan, const Record *record, const Lines *lines, size_t *end)
{
    for (Py_ssize_t i = 0; i < lines->limit_count; i++) {
        if (put_line(plan, record, lines->prefix, lines->after, lines->limits[i].limit) < 0)
            return -1;
        put_place(plan, end, record->cell, FORM_BUCKET, lines->limits[i].bucket);
    }
    if (put_line(plan, record, lines->sum, lines->after, no_part) < 0)
        return -1;
    put_place(plan, end, record->cell, FORM_SUM, lines->divisor);
    if (put_line(plan, record, lines->count, lines->after, no_part) < 0)
        return -1;
    put_place(plan, end, record->cell, FORM_BUCKET, record->width - FIRST_BUCKET - 1);
    return 0;
}

/* Put the lines of a record. -1 without memory. */
static int
plan_record(Plan *plan, uint32_t number, size_t *end)
{
    const Record *record = &plan->names.record[number];
    const Lines *lines = &plan->lines[((const uint32_t *)plan->group_of.buf)[number]];
    if (lines->limits != NULL) {
        if (plan_histogram(plan, record, lines, end) < 0)
            return -1;
    } else {
        if (put_line(plan, record, lines->prefix, lines->after, no_part) < 0)
            return -1;
        put_place(plan, end, record->cell, form_of(record), 0);
    }
    if (lines->created.size > 0 && record->created != 0) {
        if (put_line(plan, record, lines->created, lines->after, no_part) < 0)
            return -1;
        put_moment(&plan->text, record->created);
        put_place(plan, end, 0, FORM_NOTHING, 0);
    }
    return 0;
}

/* Write all families. -1 without memory, or with a family of more than 4 GiB before its first value. */
static int
plan_families(Plan *plan)
{
    sort_records(plan);
    size_t last = 0;
    for (Py_ssize_t rank = 0; rank < plan->families; rank++) {
        if (reserve_bytes(&plan->text, plan->heads[rank].size) < 0)
            return -1;
        put_part(&plan->text, plan->heads[rank]);
        for (uint32_t i = plan->first[rank]; i < plan->first[rank + 1]; i++)
            if (plan_record(plan, plan->order[i], &last) < 0)
                return -1;
        plan->ends[2 * rank] = plan->text.used;
        plan->ends[2 * rank + 1] = plan->places.used;
    }
    return 0;
}

/* The bytes of an object as a part; -1 with an exception set where it has none. */
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

/* Take the lines of a histogram's buckets: pairs of a number and a text. */
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
    }
    return 0;
}

/* Take the lines of a group. */
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

/* Take what Python has made of the groups and the families: the objects stay theirs. */
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

/* Whether a record can be shown with the lines of its group. */
static int
has_lines(const Plan *plan, const Record *record, const Lines *lines)
{
    if (!is_sound(&plan->names, record) || lines->after.text == NULL)
        return 0;
    return lines->limits == NULL || record->width > FIRST_BUCKET;
}

/* Whether every record that a group has can be shown: the arguments fit together. */
static int
is_planned(const Plan *plan)
{
    const uint32_t *group_of = plan->group_of.buf;
    if (plan->group_of.len != (Py_ssize_t)plan->names.count * 4 || plan->rank_of.len != plan->groups * 4)
        return 0;
    for (uint32_t i = 0; i < plan->names.count; i++)
        if (rank_of_record(plan, i) < plan->families
            && !has_lines(plan, &plan->names.record[i], &plan->lines[group_of[i]]))
            return 0;
    return 1;
}

static PyObject *
plan_text(PyObject *Py_UNUSED(module), PyObject *args)
{
    Plan plan = {0};
    PyObject *lines, *heads, *result = NULL;
    if (!PyArg_ParseTuple(args, "y*y*y*y*O!O!", &plan.names.records, &plan.names.heap, &plan.group_of, &plan.rank_of,
                          &PyTuple_Type, &lines, &PyTuple_Type, &heads))
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
    if (!is_planned(&plan)) {
        PyErr_SetString(PyExc_ValueError, "the groups are not those of these records");
        goto end;
    }
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = plan_families(&plan);
    Py_END_ALLOW_THREADS
    if (failed)
        PyErr_NoMemory();
    else
        result = Py_BuildValue("NNN", bytes_of(&plan.text), bytes_of(&plan.places),
                               PyBytes_FromStringAndSize((const char *)plan.ends,
                                                         plan.families * 2 * (Py_ssize_t)sizeof *plan.ends));
end:
    for (Py_ssize_t i = 0; plan.lines != NULL && i < plan.groups; i++)
        free(plan.lines[i].limits);
    free(plan.lines);
    free(plan.heads);
    free(plan.first);
    free(plan.ends);
    free(plan.order);
    free(plan.text.start);
    free(plan.places.start);
    PyBuffer_Release(&plan.names.records);
    PyBuffer_Release(&plan.names.heap);
    PyBuffer_Release(&plan.group_of);
    PyBuffer_Release(&plan.rank_of);
    return result;
}

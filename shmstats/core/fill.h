/* fill_text: the values of one moment put into their places in a text. */

typedef struct {
    Py_buffer text, places, totals;
    Py_ssize_t count;         /* of places */
    size_t longest;           /* what their values can take */
    char **slow;              /* the texts of doubles that have no short form, in their order */
    Py_ssize_t slow_count, slow_room;
} Filling;

static inline Place
place_at(const Filling *self, Py_ssize_t i)
{
    Place place;
    memcpy(&place, (const char *)self->places.buf + i * (Py_ssize_t)sizeof place, sizeof place);
    return place;
}

/* The double that goes into a place; 0 where no double does. */
static inline int
double_of(const Filling *self, const Place *place, double *number)
{
    const Cell *cell = (const Cell *)self->totals.buf + place->cell;
    if (place->form == FORM_SUM) {
        *number = load_double(cell, SUM) / place->argument;
        return 1;
    }
    if (place->form == FORM_MAXIMUM) {
        *number = load_double(cell, MAXIMUM);
        return 1;
    }
    if (place->form == FORM_MINIMUM) {
        uint64_t kept = (uint64_t)load_value(cell, MINIMUM), bits = kept ? kept - 1 : 0;
        memcpy(number, &bits, sizeof *number);
        return 1;
    }
    if (place->form != FORM_GAUGE || !(cell->seq & 1))
        return 0;
    *number = load_double(cell, REAL);
    return 1;
}

/* Cells that a place looks at. */
static inline uint64_t
cells_of(const Place *place)
{
    if (place->form == FORM_BUCKET)
        return (uint64_t)place->argument + FIRST_BUCKET + 1;
    if (place->form == FORM_IN_USE)
        return (uint64_t)place->argument + FIRST_BUCKET;
    static const unsigned char cells[] = {2, 3, 2, 0, 2, 0, 3, 4};
    return cells[place->form];
}

/* Whether text, places and totals fit together; adds up how long the values can be. */
static int
is_fitting(Filling *self)
{
    uint64_t text = 0, cells = (uint64_t)self->totals.len / sizeof(Cell);
    for (Py_ssize_t i = 0; i < self->count; i++) {
        Place place = place_at(self, i);
        text += place.before;
        if (place.form >= FORMS || (uint64_t)place.cell + cells_of(&place) > cells)
            return 0;
        self->longest += place.form == FORM_IN_USE ? (place.argument + 2) * (size_t)MOST_DIGITS : MOST_DIGITS;
    }
    return text == (uint64_t)self->text.len && self->places.len % (Py_ssize_t)sizeof(Place) == 0
           && (uintptr_t)self->totals.buf % _Alignof(Cell) == 0;
}

/* Keep the text of a double as repr() makes it, which needs the GIL. -1 with an exception set. */
static int
keep_slow(Filling *self, double number)
{
    if (self->slow_count == self->slow_room) {
        Py_ssize_t room = self->slow_room ? self->slow_room * 2 : 64;
        char **larger = realloc(self->slow, (size_t)room * sizeof *larger);
        if (larger == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->slow = larger;
        self->slow_room = room;
    }
    char *text = PyOS_double_to_string(number, 'r', 0, Py_DTSF_ADD_DOT_0, NULL);
    if (text == NULL)
        return -1;
    self->slow[self->slow_count++] = text;
    /* Others are not to wait for a page of such numbers. */
    if (self->slow_count % 1024 == 0) {
        Py_BEGIN_ALLOW_THREADS
        Py_END_ALLOW_THREADS
    }
    return 0;
}

/* Return the next place from there on whose value has no short form; the number of places where there is none. */
static Py_ssize_t
next_slow(const Filling *self, Py_ssize_t i, double *number)
{
    unsigned char unused[MOST_DIGITS];
    for (; i < self->count; i++) {
        Place place = place_at(self, i);
        if (double_of(self, &place, number) && write_short_double(unused, *number) == NULL)
            break;
    }
    return i;
}

/* Keep the texts of all doubles that have no short form. -1 with an exception set. */
static int
keep_all_slow(Filling *self)
{
    double number = 0;
    Py_ssize_t i;
    /* Mostly there is none: the first is looked for without the GIL. */
    Py_BEGIN_ALLOW_THREADS
    i = next_slow(self, 0, &number);
    Py_END_ALLOW_THREADS
    for (; i < self->count; i = next_slow(self, i + 1, &number))
        if (keep_slow(self, number) < 0)
            return -1;
    return 0;
}

/* What has been observed in the buckets of a histogram up to one: lines go from the first to the last. */
typedef struct {
    unsigned __int128 count;
    uint32_t cell, bucket; /* of the histogram, and the next that is to be counted */
} Observed;

static inline void
observe_up_to(const Filling *self, const Place *place, Observed *observed)
{
    const Cell *cell = (const Cell *)self->totals.buf + place->cell;
    if (observed->cell != place->cell || place->argument + 1 < observed->bucket)
        *observed = (Observed){0, place->cell, 0};
    for (; observed->bucket <= place->argument; observed->bucket++)
        observed->count += (uint64_t)load_value(cell, BUCKETS + observed->bucket);
}

/* What is carried from place to place. */
typedef struct {
    Py_ssize_t slow; /* texts of doubles that were put */
    Observed observed;
} Carried;

/* Write which buckets of a histogram are in use, and these. */
static unsigned char *
write_in_use(unsigned char *to, const Cell *cell, uint32_t count)
{
    uint32_t first = 0, last = count;
    while (first < count && load_value(cell, BUCKETS + first) == 0)
        first++;
    while (last > first && load_value(cell, BUCKETS + last - 1) == 0)
        last--;
    to = write_digits(to, first < count ? first : 0);
    *to++ = ',';
    *to++ = '[';
    for (uint32_t i = first; i < last; i++) {
        if (i > first)
            *to++ = ',';
        to = write_integer(to, load_value(cell, BUCKETS + i));
    }
    *to++ = ']';
    return to;
}

/* Write the value of a place. */
static inline unsigned char *
write_value(const Filling *self, unsigned char *to, const Place *place, Carried *carried)
{
    const Cell *cell = (const Cell *)self->totals.buf + place->cell;
    double number;
    if (place->form == FORM_BUCKET) {
        observe_up_to(self, place, &carried->observed);
        return write_long(to, carried->observed.count);
    }
    if (place->form == FORM_NOTHING)
        return to;
    if (place->form == FORM_IN_USE)
        return write_in_use(to, cell, place->argument);
    if (place->form == FORM_SECONDS)
        return write_seconds(to, load_value(cell, INTEGER));
    if (!double_of(self, place, &number))
        return write_integer(to, load_value(cell, INTEGER));
    unsigned char *end = write_short_double(to, number);
    if (end != NULL || carried->slow >= self->slow_count)
        return end != NULL ? end : to;
    const char *text = self->slow[carried->slow++];
    size_t size = strlen(text);
    memcpy(to, text, size);
    return to + size;
}

/* Write the text with its values; returns the end of what is written. */
static unsigned char *
write_text(const Filling *self, unsigned char *to)
{
    const unsigned char *text = self->text.buf;
    Carried carried = {.observed = {.cell = UINT32_MAX}};
    for (Py_ssize_t i = 0; i < self->count; i++) {
        Place place = place_at(self, i);
        memcpy(to, text, place.before);
        text += place.before;
        to = write_value(self, to + place.before, &place, &carried);
        *to++ = '\n';
    }
    return to;
}

static PyObject *
filled_text(Filling *self)
{
    PyObject *result = PyBytes_FromStringAndSize(NULL, self->text.len + (Py_ssize_t)self->longest);
    if (result == NULL)
        return NULL;
    unsigned char *start = (unsigned char *)PyBytes_AS_STRING(result), *end;
    Py_BEGIN_ALLOW_THREADS
    end = write_text(self, start);
    Py_END_ALLOW_THREADS
    _PyBytes_Resize(&result, end - start);
    return result;
}

static PyObject *
fill_text(PyObject *Py_UNUSED(module), PyObject *args)
{
    Filling self = {0};
    if (!PyArg_ParseTuple(args, "y*y*y*", &self.text, &self.places, &self.totals))
        return NULL;
    self.count = self.places.len / (Py_ssize_t)sizeof(Place);
    PyObject *result = NULL;
    int fits;
    Py_BEGIN_ALLOW_THREADS
    fits = is_fitting(&self);
    Py_END_ALLOW_THREADS
    if (!fits)
        PyErr_SetString(PyExc_ValueError, "text, places and totals do not fit together");
    else if (keep_all_slow(&self) == 0)
        result = filled_text(&self);
    for (Py_ssize_t i = 0; i < self.slow_count; i++)
        PyMem_Free(self.slow[i]);
    free(self.slow);
    PyBuffer_Release(&self.text);
    PyBuffer_Release(&self.places);
    PyBuffer_Release(&self.totals);
    return result;
}

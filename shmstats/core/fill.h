/* fill_text: joins pieces of text, with the values of one moment in their places. */

typedef struct {
    Py_buffer text, places;
    Py_ssize_t count; /* of places */
} Piece;

typedef struct {
    Py_buffer totals;
    Piece *piece;
    Py_ssize_t pieces;
    size_t longest;           /* upper bound for text and values */
    char **slow;              /* texts of the doubles without a short form, in order */
    Py_ssize_t slow_count, slow_room;
} Filling;

static inline Place
place_at(const Piece *piece, Py_ssize_t i)
{
    Place place;
    memcpy(&place, (const char *)piece->places.buf + i * (Py_ssize_t)sizeof place, sizeof place);
    return place;
}

/* The double for a place; 0 if the place has no double. */
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

/* Number of cells that a place reads. */
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

/* Whether a piece and the totals fit together; adds an upper bound for its text. */
static int
is_fitting(Filling *self, const Piece *piece)
{
    uint64_t text = 0, cells = (uint64_t)self->totals.len / sizeof(Cell);
    for (Py_ssize_t i = 0; i < piece->count; i++) {
        Place place = place_at(piece, i);
        text += place.before;
        if (place.form >= FORMS || (uint64_t)place.cell + cells_of(&place) > cells)
            return 0;
        self->longest += place.form == FORM_IN_USE ? (place.argument + 2) * (size_t)MOST_DIGITS : MOST_DIGITS;
    }
    self->longest += (size_t)piece->text.len;
    return text <= (uint64_t)piece->text.len && piece->places.len % (Py_ssize_t)sizeof(Place) == 0;
}

static int
are_fitting(Filling *self)
{
    int fits = (uintptr_t)self->totals.buf % _Alignof(Cell) == 0;
    for (Py_ssize_t i = 0; fits && i < self->pieces; i++)
        fits = is_fitting(self, &self->piece[i]);
    return fits;
}

/* Keep a double's text by repr(), which needs the GIL. -1 with an exception set. */
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
    /* Other threads must not wait for a whole page of such numbers. */
    if (self->slow_count % 1024 == 0) {
        Py_BEGIN_ALLOW_THREADS
        Py_END_ALLOW_THREADS
    }
    return 0;
}

/* Return the next place of a piece whose value has no short form; the end of the piece if there is none. */
static Py_ssize_t
next_slow(const Filling *self, const Piece *piece, Py_ssize_t i, double *number)
{
    unsigned char unused[MOST_DIGITS];
    for (; i < piece->count; i++) {
        Place place = place_at(piece, i);
        if (double_of(self, &place, number) && write_short_double(unused, *number) == NULL)
            break;
    }
    return i;
}

/* Keep the texts of all doubles of a piece without a short form. -1 with an exception set. */
static int
keep_all_slow(Filling *self, const Piece *piece)
{
    double number = 0;
    Py_ssize_t i;
    /* Usually there is none: the first is searched without the GIL. */
    Py_BEGIN_ALLOW_THREADS
    i = next_slow(self, piece, 0, &number);
    Py_END_ALLOW_THREADS
    for (; i < piece->count; i = next_slow(self, piece, i + 1, &number))
        if (keep_slow(self, number) < 0)
            return -1;
    return 0;
}

/* The cumulative count of a histogram's buckets: its lines go from the first to the last. */
typedef struct {
    unsigned __int128 count;
    uint32_t cell, bucket; /* of the histogram, and the next bucket to add */
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

/* The state between places. */
typedef struct {
    Py_ssize_t slow; /* texts of doubles written so far */
    Observed observed;
} Carried;

/* Write the number of the first bucket of a histogram in use, and the buckets in use. */
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

/* Write a piece with its values; returns the end of the written text. */
static unsigned char *
write_piece(const Filling *self, const Piece *piece, unsigned char *to, Carried *carried)
{
    const unsigned char *text = piece->text.buf, *end = text + piece->text.len;
    for (Py_ssize_t i = 0; i < piece->count; i++) {
        Place place = place_at(piece, i);
        memcpy(to, text, place.before);
        text += place.before;
        to = write_value(self, to + place.before, &place, carried);
        *to++ = '\n';
    }
    return write_part(to, (Part){text, (size_t)(end - text)});
}

static PyObject *
filled_text(Filling *self)
{
    PyObject *result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)self->longest);
    if (result == NULL)
        return NULL;
    unsigned char *start = (unsigned char *)PyBytes_AS_STRING(result), *end = start;
    Py_BEGIN_ALLOW_THREADS
    Carried carried = {.observed = {.cell = UINT32_MAX}};
    for (Py_ssize_t i = 0; i < self->pieces; i++)
        end = write_piece(self, &self->piece[i], end, &carried);
    *end = '\0';
    Py_END_ALLOW_THREADS
    /* The rest was never touched, so it is not allocated yet. Shrinking the object would make it smaller
     * than the next page, and glibc maps what exceeds everything it has freed: 2 us for each 4 KiB, at every page. */
    Py_SET_SIZE(result, end - start);
    return result;
}

/* Read the pieces: pairs of a text and its places. -1 with an exception set. */
static int
read_pieces(Filling *self, PyObject *pieces)
{
    self->piece = PyMem_Calloc((size_t)PyTuple_GET_SIZE(pieces) + 1, sizeof *self->piece);
    if (self->piece == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (; self->pieces < PyTuple_GET_SIZE(pieces); self->pieces++) {
        Piece *piece = &self->piece[self->pieces];
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(pieces, self->pieces), "y*y*", &piece->text, &piece->places))
            return -1;
        piece->count = piece->places.len / (Py_ssize_t)sizeof(Place);
    }
    return 0;
}

static PyObject *
fill_text(PyObject *Py_UNUSED(module), PyObject *args)
{
    Filling self = {0};
    PyObject *pieces, *result = NULL;
    int fits, failed;
    if (!PyArg_ParseTuple(args, "O!y*", &PyTuple_Type, &pieces, &self.totals))
        return NULL;
    failed = read_pieces(&self, pieces) < 0;
    if (!failed) {
        Py_BEGIN_ALLOW_THREADS
        fits = are_fitting(&self);
        Py_END_ALLOW_THREADS
        failed = !fits;
        if (failed)
            PyErr_SetString(PyExc_ValueError, "text, places and totals do not fit together");
    }
    for (Py_ssize_t i = 0; !failed && i < self.pieces; i++)
        failed = keep_all_slow(&self, &self.piece[i]) < 0;
    if (!failed)
        result = filled_text(&self);
    for (Py_ssize_t i = 0; i < self.slow_count; i++)
        PyMem_Free(self.slow[i]);
    free(self.slow);
    for (Py_ssize_t i = 0; i < self.pieces; i++) {
        PyBuffer_Release(&self.piece[i].text);
        PyBuffer_Release(&self.piece[i].places);
    }
    PyMem_Free(self.piece);
    PyBuffer_Release(&self.totals);
    return result;
}

/* The key of a handle's series, as in its record: see shmstats.block.keys. */

enum { MOST_KEY_BYTES = 4096, MOST_TEXT_BYTES = 255 };

static const char overflow_value[] = "__overflow__";

/* The key of a series: category, metric, and label names and values, with a NUL after each but the last. */
typedef struct {
    char text[MOST_KEY_BYTES];
    size_t length, of_family; /* of_family: length up to the NUL after the metric */
} SeriesKey;

/* Append a text to a key; returns its length, or -1 for a text that no name can have, which is left to Python. */
static Py_ssize_t
add_text(SeriesKey *key, PyObject *text)
{
    Py_ssize_t length = -1;
    const char *utf8 = PyUnicode_Check(text) ? PyUnicode_AsUTF8AndSize(text, &length) : NULL;
    if (utf8 == NULL || length > MOST_TEXT_BYTES || key->length + (size_t)length + 1 > MOST_KEY_BYTES
        || memchr(utf8, 0, (size_t)length) != NULL)
        return PyErr_Clear(), -1;
    memcpy(key->text + key->length, utf8, (size_t)length);
    key->length += (size_t)length;
    key->text[key->length++] = 0;
    return length;
}

/* Whether a text is a label name: letters, digits and underscores. Two leading underscores are reserved. */
static int
is_label_name(const char *name, Py_ssize_t length)
{
    for (Py_ssize_t i = 0; i < length; i++) {
        if (!Py_ISALPHA(name[i]) && name[i] != '_' && !(i > 0 && Py_ISDIGIT(name[i])))
            return 0;
    }
    return length > 0 && !(length > 1 && name[0] == '_' && name[1] == '_');
}

/* Make the key of a series. 0 if that is left to Python: user code may have made the handle, with an invalid name. */
static int
make_key(const Series *series, PyObject *reserved, PyObject *reserved_labels, SeriesKey *key)
{
    key->length = 0;
    if (add_text(key, series->category) < 1 || add_text(key, series->metric) < 1
        || PySequence_Contains(reserved, series->category) != 0)
        return PyErr_Clear(), 0;
    key->of_family = key->length;
    const char *before = "";
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(series->labels); i++) {
        PyObject *pair = PyTuple_GET_ITEM(series->labels, i);
        const char *name = key->text + key->length;
        Py_ssize_t length = PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2
                                ? add_text(key, PyTuple_GET_ITEM(pair, 0)) : -1;
        if (length < 1 || !is_label_name(name, length) || strcmp(before, name) >= 0
            || PySequence_Contains(reserved_labels, PyTuple_GET_ITEM(pair, 0)) != 0)
            return PyErr_Clear(), 0;
        before = name;
        const char *value = key->text + key->length;
        if (add_text(key, PyTuple_GET_ITEM(pair, 1)) < 0 || strcmp(value, overflow_value) == 0)
            return 0;
    }
    key->length--;
    return 1;
}

/* Whether the labels of a series have these names, in this order. */
static int
has_labels(const Series *series, PyObject *names)
{
    Py_ssize_t n = PyTuple_GET_SIZE(series->labels);
    if (n != PyTuple_GET_SIZE(names))
        return 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (PyUnicode_Compare(PyTuple_GET_ITEM(PyTuple_GET_ITEM(series->labels, i), 0), PyTuple_GET_ITEM(names, i)))
            return 0;
    }
    return 1;
}

/* The hash of a name's key: SipHash-1-3 (Aumasson and Bernstein, 2012) of 64 bits, of which 32 are kept, with a salt of
 * 16 bytes as its key. It is fast for short texts, and nobody can construct collisions without knowing the salt. */

typedef struct {
    uint64_t a, b, c, d;
} SipState;

static inline uint64_t
rotated(uint64_t word, int by)
{
    return word << by | word >> (64 - by);
}

static inline void
sip_round(SipState *v)
{
    v->a += v->b;
    v->b = rotated(v->b, 13) ^ v->a;
    v->a = rotated(v->a, 32);
    v->c += v->d;
    v->d = rotated(v->d, 16) ^ v->c;
    v->a += v->d;
    v->d = rotated(v->d, 21) ^ v->a;
    v->c += v->b;
    v->b = rotated(v->b, 17) ^ v->c;
    v->c = rotated(v->c, 32);
}

static inline void
sip_word(SipState *v, uint64_t word)
{
    v->d ^= word;
    sip_round(v);
    v->a ^= word;
}

static uint64_t
hash_of(const unsigned char *text, size_t length, const uint64_t salt[2])
{
    SipState v = {salt[0] ^ 0x736f6d6570736575, salt[1] ^ 0x646f72616e646f6d, salt[0] ^ 0x6c7967656e657261,
                  salt[1] ^ 0x7465646279746573};
    uint64_t word, last = (uint64_t)length << 56;
    const unsigned char *end = text + length / 8 * 8;
    for (; text < end; text += sizeof word) {
        memcpy(&word, text, sizeof word);
        sip_word(&v, word);
    }
    for (size_t i = 0; i < length % 8; i++)
        last |= (uint64_t)text[i] << 8 * i;
    sip_word(&v, last);
    v.c ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(&v);
    return v.a ^ v.b ^ v.c ^ v.d;
}

static PyObject *
hash_key(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *key, *salt;
    Py_ssize_t length, salt_bytes;
    if (!PyArg_ParseTuple(args, "y#y#", &key, &length, &salt, &salt_bytes))
        return NULL;
    uint64_t words[2];
    if (salt_bytes != (Py_ssize_t)sizeof words)
        return PyErr_Format(PyExc_ValueError, "a salt has %zu bytes, not %zd", sizeof words, salt_bytes);
    memcpy(words, salt, sizeof words);
    return PyLong_FromUnsignedLong((uint32_t)hash_of((const unsigned char *)key, (size_t)length, words));
}

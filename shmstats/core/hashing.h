/* The hash of a name's key: BLAKE2b (RFC 7693) of 4 bytes, with a salt of 16 in its parameters, as hashlib.blake2b. */

enum { HASH_BLOCK = 128, HASH_ROUNDS = 12, HASH_BYTES = 4 };

static const uint64_t blake2b_iv[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};

/* The order of the words of a block in each round; the last two rounds are as the first two. */
static const uint8_t blake2b_order[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

static inline uint64_t
rotated(uint64_t word, int by)
{
    return word >> by | word << (64 - by);
}

static inline void
blake2b_mix(uint64_t *v, int a, int b, int c, int d, uint64_t x, uint64_t y)
{
    v[a] += v[b] + x;
    v[d] = rotated(v[d] ^ v[a], 32);
    v[c] += v[d];
    v[b] = rotated(v[b] ^ v[c], 24);
    v[a] += v[b] + y;
    v[d] = rotated(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = rotated(v[b] ^ v[c], 63);
}

/* Take one block up; `so_far` are the bytes of the message until its end. */
static void
blake2b_block(uint64_t *state, const unsigned char *block, uint64_t so_far, int is_last)
{
    uint64_t m[16], v[16];
    memcpy(m, block, HASH_BLOCK);
    memcpy(v, state, 8 * sizeof *v);
    memcpy(v + 8, blake2b_iv, sizeof blake2b_iv);
    v[12] ^= so_far;
    if (is_last)
        v[14] = ~v[14];
    for (int round = 0; round < HASH_ROUNDS; round++) {
        const uint8_t *s = blake2b_order[round % 10];
        for (int i = 0; i < 4; i++)
            blake2b_mix(v, i, 4 + i, 8 + i, 12 + i, m[s[2 * i]], m[s[2 * i + 1]]);
        for (int i = 0; i < 4; i++)
            blake2b_mix(v, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[s[8 + 2 * i]], m[s[9 + 2 * i]]);
    }
    for (int i = 0; i < 8; i++)
        state[i] ^= v[i] ^ v[8 + i];
}

static uint32_t
hash_of(const unsigned char *text, size_t length, const uint64_t salt[2])
{
    uint64_t state[8];
    memcpy(state, blake2b_iv, sizeof state);
    state[0] ^= 0x01010000 | HASH_BYTES; /* no tree: fanout and depth 1 */
    state[4] ^= salt[0];
    state[5] ^= salt[1];
    size_t done = 0;
    for (; length - done > HASH_BLOCK; done += HASH_BLOCK)
        blake2b_block(state, text + done, done + HASH_BLOCK, 0);
    unsigned char last[HASH_BLOCK] = {0};
    memcpy(last, text + done, length - done);
    blake2b_block(state, last, length, 1);
    return (uint32_t)state[0];
}

static PyObject *
hash_key(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *key, *salt;
    Py_ssize_t length, salt_bytes;
    if (!PyArg_ParseTuple(args, "y#y#", &key, &length, &salt, &salt_bytes))
        return NULL;
    uint64_t words[2] = {0, 0};
    if (salt_bytes > (Py_ssize_t)sizeof words) {
        PyErr_Format(PyExc_ValueError, "a salt has at most %zu bytes, not %zd", sizeof words, salt_bytes);
        return NULL;
    }
    memcpy(words, salt, (size_t)salt_bytes);
    return PyLong_FromUnsignedLong(hash_of((const unsigned char *)key, (size_t)length, words));
}

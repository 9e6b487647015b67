/* A record of a block's names, as layout.py's NAME; the module's RECORD_LAYOUT has where its fields are. */
typedef struct {
    uint8_t state, kind, mode, flags;
    uint32_t width, cell, family, hash, declaration;
    uint64_t key;
    uint32_t room, length;
    uint64_t note;
    uint32_t note_room, members;
    uint64_t created;
} Record;

enum { RECORD_LIVE = 1, RECORD_REMOVED = 2 };
enum { FLAG_MONOTONIC = 1, FLAG_FAMILY = 2, FLAG_MEMBER = 16 };

/* The garbage collector functions of a type, from the list of the references that it owns; `last` runs before an
 * object is freed. */
#define VISIT_REFERENCE(field) Py_VISIT(self->field);
#define CLEAR_REFERENCE(field) Py_CLEAR(self->field);
#define COLLECTED(Type, REFERENCES, last) COLLECTED_WITH(Type, REFERENCES, 0, (void)0, last)
#define COLLECTED_WITH(Type, REFERENCES, visit_more, clear_more, last)                                                 \
    static int Type##_traverse(Type *self, visitproc visit, void *arg)                                                 \
    {                                                                                                                  \
        Py_VISIT(Py_TYPE(self));                                                                                       \
        REFERENCES(VISIT_REFERENCE)                                                                                    \
        return visit_more;                                                                                             \
    }                                                                                                                  \
    static int Type##_clear(Type *self)                                                                                \
    {                                                                                                                  \
        (void)self;                                                                                                    \
        REFERENCES(CLEAR_REFERENCE)                                                                                    \
        clear_more;                                                                                                    \
        return 0;                                                                                                      \
    }                                                                                                                  \
    static void Type##_dealloc(Type *self)                                                                             \
    {                                                                                                                  \
        PyTypeObject *type = Py_TYPE(self);                                                                            \
        PyObject_GC_UnTrack(self);                                                                                     \
        last;                                                                                                          \
        Type##_clear(self);                                                                                            \
        type->tp_free(self);                                                                                           \
        Py_DECREF(type);                                                                                               \
    }
#define COLLECTED_SLOTS(Type)                                                                                          \
    {Py_tp_dealloc, Type##_dealloc}, {Py_tp_traverse, Type##_traverse}, {Py_tp_clear, Type##_clear}

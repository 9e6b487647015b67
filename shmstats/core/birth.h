/* When a file was made: statx(2), which Python does not have before 3.15, and which is asked past the C library, for
 * that would need a newer one. */
#include <sys/syscall.h>

static PyObject *
time_of_birth(PyObject *Py_UNUSED(module), PyObject *path)
{
    const char *name = PyBytes_AsString(path);
    if (name == NULL)
        return NULL;
#if defined(SYS_statx) && defined(STATX_BTIME)
    struct statx found;
    if (syscall(SYS_statx, AT_FDCWD, name, 0, STATX_BTIME, &found) == 0 && (found.stx_mask & STATX_BTIME))
        return PyLong_FromLongLong(found.stx_btime.tv_sec * 1000000000LL + found.stx_btime.tv_nsec);
#else
    (void)name;
#endif
    return PyLong_FromLong(0);
}

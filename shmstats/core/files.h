/* File operations that Python does not offer, as system calls: an older C library has no functions for them. */
#include <sys/syscall.h>

#define NO_REPLACE 1 /* RENAME_NOREPLACE of renameat2(2) */

/* The birth time of a file, by statx(2). */
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

/* Rename a file to a name that must not exist: by renameat2(2), or by a link if the file system does not have that. */
static PyObject *
rename_to_new(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "rename_to_new() takes two paths");
        return NULL;
    }
    const char *path = PyBytes_AsString(arguments[0]);
    const char *place = path == NULL ? NULL : PyBytes_AsString(arguments[1]);
    if (place == NULL)
        return NULL;
    int failed = -1;
#ifdef SYS_renameat2
    failed = (int)syscall(SYS_renameat2, AT_FDCWD, path, AT_FDCWD, place, NO_REPLACE);
    if (failed && (errno == ENOSYS || errno == EINVAL))
#endif
        failed = link(path, place) || unlink(path);
    if (failed)
        return PyErr_SetFromErrnoWithFilename(PyExc_OSError, place);
    Py_RETURN_NONE;
}

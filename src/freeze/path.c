/* path.c -- naming a place in the data: data["users"][3].profile.

   A path is built for an error only, from the frames between the root and the place.  Keys
   that are not plain atoms are named by their type: calling their __repr__ would run more
   of the code that may just have failed. */

#include "freeze/freezer.h"

#include <stdarg.h>

#define SHOWN_LENGTH 60             /* characters of a key that a path shows */
#define SHOWN_STEPS 100             /* of a path; more are shown as "..." */

static bool
is_plain_str(PyObject *obj)
{
    if (!PyUnicode_CheckExact(obj) || !PyUnicode_IS_ASCII(obj)) {
        return false;
    }
    const char *text = PyUnicode_DATA(obj);
    for (Py_ssize_t i = 0; i < PyUnicode_GET_LENGTH(obj); i++) {
        if (text[i] < ' ' || text[i] > '~' || text[i] == '"' || text[i] == '\\') {
            return false;
        }
    }
    return true;
}

static bool
has_harmless_repr(PyObject *obj)
{
    return obj == Py_None || PyBool_Check(obj) || PyLong_CheckExact(obj)
           || PyFloat_CheckExact(obj) || PyComplex_CheckExact(obj)
           || PyUnicode_CheckExact(obj) || PyBytes_CheckExact(obj);
}

/* Show a key or element. */
static PyObject *
show_key(PyObject *obj)
{
    if (is_plain_str(obj) && PyUnicode_GET_LENGTH(obj) <= SHOWN_LENGTH) {
        return PyUnicode_FromFormat("\"%U\"", obj);
    }
    if (!has_harmless_repr(obj)) {
        return PyUnicode_FromFormat("<%s>", Py_TYPE(obj)->tp_name);
    }
    PyObject *repr = PyObject_Repr(obj);
    if (repr == NULL) {             /* for example an int of too many digits */
        PyErr_Clear();
        return PyUnicode_FromFormat("<%s>", Py_TYPE(obj)->tp_name);
    }
    if (PyUnicode_GET_LENGTH(repr) > SHOWN_LENGTH) {
        PyObject *head = PyUnicode_Substring(repr, 0, SHOWN_LENGTH);
        Py_SETREF(repr, head ? PyUnicode_FromFormat("%U...", head) : NULL);
        Py_XDECREF(head);
    }
    return repr;
}

static PyObject *
format_shown(const char *format, PyObject *obj)
{
    PyObject *shown = show_key(obj);
    PyObject *result = shown ? PyUnicode_FromFormat(format, shown) : NULL;
    Py_XDECREF(shown);
    return result;
}

static PyObject *
value_step(const ph_frame *frame, PyObject *key)
{
    if (frame->attributes && PyUnicode_CheckExact(key)
        && PyUnicode_IsIdentifier(key)) {
        return PyUnicode_FromFormat(".%U", key);
    }
    return format_shown("[%U]", key);
}

static PyObject *
mapping_step(const ph_frame *frame, PyObject *const *items)
{
    Py_ssize_t n = frame->n / 2;
    return frame->next < n ? format_shown(".key(%U)", items[frame->next])
                           : value_step(frame, items[frame->next - n]);
}

/* Describe the step from a container to its item in work. */
static PyObject *
describe_step(const ph_frame *frame, PyObject *const *items)
{
    assert(frame->next >= 0 && frame->next < frame->n);
    static const char *const slice_parts[] = {".start", ".stop", ".step"};
    static const char *const zone_parts[] = {".offset", ".name"};
    switch ((ph_frame_kind)frame->kind) {
    case PH_FRAME_TUPLE:
        return PyUnicode_FromFormat("[%zd]", frame->next);
    case PH_FRAME_SET:
        return format_shown(".element(%U)", items[frame->next]);
    case PH_FRAME_MAPPING:
        return mapping_step(frame, items);
    case PH_FRAME_SHAPED:
        return value_step(frame, frame->shape->keys[frame->next]);
    case PH_FRAME_SLICE:
        return PyUnicode_FromString(slice_parts[frame->next]);
    case PH_FRAME_TIMEZONE:
        return PyUnicode_FromString(zone_parts[frame->next]);
    case PH_FRAME_AWARE:
        return PyUnicode_FromString(".tzinfo");
    case PH_FRAME_CONVERTED:
        break;
    }
    Py_UNREACHABLE();               /* it has no step of its own */
}

static PyObject *
root_step(const ph_freezer *freezer)
{
    switch (freezer->root_kind) {
    case PH_ROOT_ITEM:
        return PyUnicode_FromFormat("data[%zd]", freezer->root_index);
    case PH_ROOT_KEY:
        return PyUnicode_FromFormat("data.key(<of pair %zd>)", freezer->root_index);
    case PH_ROOT_VALUE:
        return format_shown("data[%U]", freezer->root_key);
    case PH_ROOT_ONLY:
        break;
    }
    return PyUnicode_FromString("data");
}

/* Leave out the middle of a very long path. */
static int
shorten_path(PyObject *steps)
{
    Py_ssize_t n = PyList_GET_SIZE(steps);
    if (n <= SHOWN_STEPS) {
        return 0;
    }
    PyObject *dots = Py_BuildValue("[s]", "...");
    int result = dots == NULL ? -1 : PyList_SetSlice(steps, SHOWN_STEPS / 2,
                                                     n - SHOWN_STEPS / 2, dots);
    Py_XDECREF(dots);
    return result;
}

static int
append_step(PyObject *steps, PyObject *step)
{
    int result = step == NULL ? -1 : PyList_Append(steps, step);
    Py_XDECREF(step);
    return result;
}

static int
append_steps(ph_freezer *freezer, size_t frames, PyObject *steps)
{
    int result = append_step(steps, root_step(freezer));
    for (size_t i = 0; i < frames && result == 0; i++) {
        const ph_frame *frame = &freezer->frames[i];
        if (frame->kind != PH_FRAME_CONVERTED && frame->next < frame->n) {
            result = append_step(steps, describe_step(frame, freezer->items + frame->base));
        }
    }
    return result < 0 ? -1 : shorten_path(steps);
}

PyObject *
ph_path_of(ph_freezer *freezer, size_t frames)
{
    assert(frames <= freezer->frames_used);
    if (freezer->begun && !ph_block_is_foreign(&freezer->block)) {
        ph_block_show(&freezer->block);     /* the path may show frozen keys */
    }
    PyObject *steps = PyList_New(0), *empty = PyUnicode_FromString("");
    PyObject *path = NULL;
    if (steps != NULL && empty != NULL
        && append_steps(freezer, frames, steps) == 0) {
        path = PyUnicode_Join(empty, steps);
    }
    Py_XDECREF(empty);
    Py_XDECREF(steps);
    return path;
}

static void
raise_with_path(PyObject *type, PyObject *message, PyObject *path)
{
    PyObject *text = PyUnicode_FromFormat("%U: %U", path, message);
    PyObject *error = text ? PyObject_CallOneArg(type, text) : NULL;
    if (error != NULL && PyObject_SetAttrString(error, "path", path) == 0) {
        PyErr_SetObject(type, error);
    }
    Py_XDECREF(error);
    Py_XDECREF(text);
}

int
ph_raise_at(ph_freezer *freezer, const char *format, ...)
{
    assert(!PyErr_Occurred());
    va_list args;
    va_start(args, format);
    PyObject *message = PyUnicode_FromFormatV(format, args);
    va_end(args);
    PyObject *path = message ? ph_path_of(freezer, freezer->frames_used) : NULL;
    if (path != NULL) {
        raise_with_path(freezer->exceptions->freeze_error, message, path);
    }
    Py_XDECREF(message);
    Py_XDECREF(path);
    return -1;
}

int
ph_raise_type_at(ph_freezer *freezer, const char *format, PyObject *obj, const char *more)
{
    PyObject *name = ph_type_name(Py_TYPE(obj));
    if (name != NULL) {
        ph_raise_at(freezer, format, name, more);
        Py_DECREF(name);
    }
    return -1;
}

/* Give a FreezeError that code of others has raised, like builtin_default(), the path that
   it could not know. */
static void
set_path(const ph_freezer *freezer, PyObject *error, PyObject *path)
{
    if ((PyObject *)Py_TYPE(error) != freezer->exceptions->freeze_error) {
        return;
    }
    PyObject *known = PyObject_GetAttrString(error, "path");
    PyObject *args = PyObject_GetAttrString(error, "args"), *text = NULL;
    if (known != NULL && PyUnicode_CheckExact(known) && PyUnicode_GET_LENGTH(known) == 0
        && args != NULL && PyTuple_CheckExact(args) && PyTuple_GET_SIZE(args) == 1) {
        text = PyUnicode_FromFormat("%U: %S", path, PyTuple_GET_ITEM(args, 0));
    }
    Py_XSETREF(args, text ? PyTuple_Pack(1, text) : NULL);
    if (args != NULL && PyObject_SetAttrString(error, "args", args) == 0) {
        (void)PyObject_SetAttrString(error, "path", path);
    }
    Py_XDECREF(known);
    Py_XDECREF(args);
    Py_XDECREF(text);
}

int
ph_note_place(ph_freezer *freezer)
{
    assert(PyErr_Occurred());
    PyObject *error = PyErr_GetRaisedException();
    PyObject *path = ph_path_of(freezer, freezer->frames_used);
    PyObject *note = path ? PyUnicode_FromFormat("while freezing %U", path) : NULL;
    if (note != NULL) {
        Py_XDECREF(PyObject_CallMethod(error, "add_note", "O", note));
        PyErr_Clear();
        set_path(freezer, error, path);
    }
    PyErr_Clear();                  /* only the user's exception counts */
    Py_XDECREF(note);
    Py_XDECREF(path);
    PyErr_SetRaisedException(error);
    return -1;
}

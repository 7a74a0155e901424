/* module.c -- the module permaheap._core: one interpreter's state, made and cleared.

   Each feature has its part in module_state.  Its functions and types are in a file of its
   own (*_bindings.c, or the file of the type), which adds them to the module.  Features
   find their part through the ph_interpreter at the front.

   State: per interpreter in module_state; state that the process or the family
   shares belongs to the core. */

#include "channel/channel.h"
#include "core/family/family.h"
#include "core/ring/ring.h"
#include "cow/cow_bindings.h"
#include "freeze/freeze_bindings.h"
#include "interp/call.h"
#include "interp/lend.h"
#include "layout/init.h"
#include "module/c_api.h"
#include "module/stats.h"
#include "module/testing.h"
#include "prefork/holes.h"
#include "prefork/prefork_bindings.h"
#include "share/buffer.h"
#include "share/handle_type.h"
#include "share/release_bindings.h"
#include "state/interpreter.h"
#include "wire/pickle.h"

/* One interpreter's state.  The memory of each part; interp points to the others. */
typedef struct {
    ph_interpreter interp;          /* first: ph_interpreter_of() relies on it */
    ph_wire_state wire;
    ph_wire_kept kept;
    ph_pickles pickles;
    ph_holes holes;
    ph_channels channels;
    ph_lending lending;
} module_state;

_Static_assert(offsetof(module_state, interp) == 0, "ph_interpreter_of() relies on it");

static module_state *
state_of(PyObject *module)
{
    return PyModule_GetState(module);
}

static void
link_state(PyObject *module)
{
    module_state *state = state_of(module);
    assert(state->interp.wire == NULL && state->wire.n == 0);   /* once a module */
    state->wire = (ph_wire_state){.interp = &state->interp, .kept = &state->kept};
    state->pickles = (ph_pickles){.module = module, .wire = &state->wire};
    state->interp.wire = &state->wire;
    state->interp.pickles = &state->pickles;
    state->interp.holes = &state->holes;
    state->interp.channels = &state->channels;
    state->interp.lending = &state->lending;
}

/* Wire types have numbers in messages: the order of their files is that of the numbers,
   and must be the same in the whole family. */
static int
add_features(PyObject *module)
{
    static int (*const add[])(PyObject *module) = {
        ph_freeze_add, ph_handle_add, ph_buffer_add, ph_release_add, ph_prefork_add,
        ph_cow_add, ph_channels_add, ph_lend_add, ph_call_add, ph_stats_add,
        ph_testing_add, ph_c_api_add,
    };
    for (size_t i = 0; i < Py_ARRAY_LENGTH(add); i++) {
        if (add[i](module) < 0) {
            return -1;
        }
    }
    return 0;
}

/* A heap that cannot be made now is no reason not to import: the first use
   tries again and says why. */
static int
core_exec(PyObject *module)
{
    if (ph_layout_init() < 0 || ph_layout_selftest() < 0) {
        return -1;
    }
    ph_rings_init();
    ph_heap_init();
    link_state(module);
    return ph_interpreter_init(module) < 0 ? -1 : add_features(module);
}

static int
core_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = state_of(module);
    int result = ph_interpreter_traverse(&state->interp, visit, arg);
    result = result != 0 ? result : ph_pickles_traverse(&state->pickles, visit, arg);
    result = result != 0 ? result : ph_channels_traverse(&state->channels, visit, arg);
    return result != 0 ? result : ph_lending_traverse(&state->lending, visit, arg);
}

static int
core_clear(PyObject *module)
{
    module_state *state = state_of(module);
    ph_interpreter_clear(&state->interp);
    ph_wire_kept_clear(&state->kept);
    ph_pickles_clear(&state->pickles);
    ph_channels_clear(&state->channels);
    ph_lending_clear(&state->lending);
    return 0;
}

static void
core_free(void *module)
{
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        ph_free_holes(&state_of(module)->holes);    /* the process outlives it */
    }
    core_clear(module);
}

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, core_exec},
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
    {0, NULL},
};

static struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "permaheap._core",
    .m_doc = PyDoc_STR("The core of permaheap, in C."),
    .m_size = sizeof(module_state),
    .m_slots = core_slots,
    .m_traverse = core_traverse,
    .m_clear = core_clear,
    .m_free = core_free,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}

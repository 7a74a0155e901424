/* warm_code.c -- what running code writes into it.

   The interpreter adapts instructions to what they work on, in the code object
   itself.  What can be written ahead, and what cannot:

   - 3.13 and later: the first run of a function replaces its RESUME by
     RESUME_CHECK; from 3.14 on, that of a loop JUMP_BACKWARD by its form without
     a compiler.  Both do the same as before and fall back by themselves, so that
     they can be put there ahead.  (Where a compiler is switched on, code is left
     alone: it counts loops to find those worth compiling.)
   - 3.14: the first run of LOAD_CONST replaces it by a form for mortal constants,
     which counts references without looking, or by one for immortal ones.  What
     ran before its constant was pinned would write to it for ever.
   - Instructions that adapt to types count their runs in the code, and no value
     of the counter stops that: only free-threaded builds leave a counter alone.
     Code that the parent has run often enough has been adapted and counts no
     more; code that it has not is copied by the worker that runs it. */

#include "layout/internal.h"

#if PY_VERSION_HEX >= 0x030d0000

#define NEED_OPCODE_METADATA
#include "internal/pycore_code.h"
#include "internal/pycore_opcode_metadata.h"

static bool
has_compiler(void)
{
#if PY_VERSION_HEX >= 0x030e0000
    return PyInterpreterState_Get()->jit;
#elif defined(_Py_TIER2)
    return true;
#else
    return false;
#endif
}

/* The instruction that the first run leaves in place of this one. */
static uint8_t
after_first_run(const PyCodeObject *code, uint8_t opcode, unsigned oparg)
{
    if (opcode == RESUME) {
        return RESUME_CHECK;
    }
#if PY_VERSION_HEX >= 0x030e0000
    if (opcode == JUMP_BACKWARD) {
        return JUMP_BACKWARD_NO_JIT;
    }
#endif
#ifdef LOAD_CONST_IMMORTAL
    if ((opcode == LOAD_CONST || opcode == LOAD_CONST_MORTAL)
        && oparg < (size_t)PyTuple_GET_SIZE(code->co_consts)
        && _Py_IsImmortal(PyTuple_GET_ITEM(code->co_consts, oparg))) {
        return LOAD_CONST_IMMORTAL;
    }
#endif
    return opcode;
}

void
ph_warm_code(PyCodeObject *code)
{
    if (has_compiler() || code->_co_monitoring != NULL) {
        return;                     /* or somebody is watching it */
    }
    _Py_CODEUNIT *instructions = _PyCode_CODE(code);
    unsigned oparg = 0;
    for (Py_ssize_t i = 0; i < Py_SIZE(code); i++) {
        uint8_t opcode = instructions[i].op.code;
        oparg = oparg << 8 | instructions[i].op.arg;
        uint8_t warm = after_first_run(code, opcode, oparg);
        if (warm != opcode) {
            instructions[i].op.code = warm;
        }
        if (opcode != EXTENDED_ARG) {
            oparg = 0;
        }
        i += _PyOpcode_Caches[_PyOpcode_Deopt[opcode]];
    }
}

#else

void
ph_warm_code(PyCodeObject *Py_UNUSED(code))
{
}

#endif

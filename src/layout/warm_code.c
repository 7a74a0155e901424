/* warm_code.c -- writing into code what its first run would write.

   The interpreter adapts instructions to their operands, in the code object itself.
   Some of this can be written ahead, and some cannot:

   - 3.13 and later: the first run of a function replaces its RESUME by RESUME_CHECK.
     From 3.14 on the first run of a loop replaces JUMP_BACKWARD by its form without a
     compiler.  Both do the same as before and fall back by themselves, so they can be
     put there ahead.  (Where a compiler is switched on, code is left alone: it counts
     loops to find those worth compiling.)
   - 3.14: the first run of LOAD_CONST replaces it by a form for mortal constants,
     which counts references without looking, or by one for immortal ones.  An
     instruction that ran while its constant was mortal would write to it for ever.
   - Instructions that adapt to types count their runs in the code, and no value of the
     counter stops that: only free-threaded builds leave a counter alone.  Code that the
     parent has run often enough has been adapted and counts no more.  Other code is
     copied by the worker that runs it. */

#include "layout/immortal.h"

#if PH_FIRST_RUN_CHANGES_CODE

#include <assert.h>

#define NEED_OPCODE_METADATA
#include "internal/pycore_code.h"
#include "internal/pycore_interp.h"
#include "internal/pycore_opcode_metadata.h"

static bool
has_compiler(void)
{
#if PH_HAS_JIT_SWITCH
    return PyInterpreterState_Get()->jit;
#elif defined(_Py_TIER2)
    return true;
#else
    return false;
#endif
}

/* Return the instruction that the first run leaves in place of this one. */
static uint8_t
get_settled_opcode(const PyCodeObject *code, uint8_t opcode, unsigned oparg)
{
    if (opcode == RESUME) {
        return RESUME_CHECK;
    }
#ifdef JUMP_BACKWARD_NO_JIT
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
        return;                     /* or a tool monitors it */
    }
    _Py_CODEUNIT *instructions = _PyCode_CODE(code);
    unsigned oparg = 0;
    for (Py_ssize_t i = 0; i < Py_SIZE(code); i++) {
        uint8_t opcode = instructions[i].op.code;
        oparg = oparg << 8 | instructions[i].op.arg;
        uint8_t warm = get_settled_opcode(code, opcode, oparg);
        assert(_PyOpcode_Deopt[warm] == _PyOpcode_Deopt[opcode]);
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

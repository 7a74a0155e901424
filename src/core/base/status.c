/* status.c -- the last failure of each thread, and the words for it.

   State: belongs to the thread. */

#include "core/base/status.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

static _Thread_local char error_text[512];
static _Thread_local ph_status error_status;

ph_status
ph_error_status(void)
{
    return error_status;
}

const char *
ph_error_text(void)
{
    return error_text;
}

ph_status
ph_fail(ph_status status, const char *format, ...)
{
    assert(status < PH_OK && status > PH_EMPTY);    /* those of channels have no words */
    va_list args;
    va_start(args, format);
    vsnprintf(error_text, sizeof(error_text), format, args);
    va_end(args);
    error_status = status;
    return status;
}

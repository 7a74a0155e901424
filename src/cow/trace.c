/* trace.c -- children that record the state of their memory at the fork.

   A page fault is the first write to an inherited page only where the process had memory
   when it was forked.  So a child of a traced parent first writes its memory map
   (/proc/self/maps) into the trace's file, and the gaps where there was no page yet.  A
   recorder, a process of its own (permaheap.cow._recorder), reads that and appends the
   first writes.  The file is a memfd:

     0                      ph_trace_header
     PH_TRACE_CHILDREN_AT   a ph_trace_child for each fork
     PH_TRACE_MAPS_AT       for each of them PH_TRACE_MAPS_SIZE bytes: text of maps,
                            and from PH_TRACE_GAPS_AT on a ph_gap for each gap
     PH_TRACE_WRITES_AT     ph_first_write, by the recorder alone

   A child claims its slot by counting `children` up; no other process writes there.  A
   child that cannot read its map says so and runs untraced.  After the kernel's lines come
   lines of our own in the same form, named "[frames]": Python's stack, and C's, which in a
   thread is memory like any other. */

#include "cow/trace.h"

#include <stdatomic.h>
#include <stdio.h>

#include "layout/frames.h"
#include "core/os/page_faults.h"

static char *trace_file;                /* mapped up to PH_TRACE_WRITES_AT; or NULL */

_Static_assert(sizeof(ph_trace_header) <= PH_PAGE, "one page");
_Static_assert(PH_TRACE_CHILDREN * sizeof(ph_trace_child)
               <= PH_TRACE_MAPS_AT - PH_TRACE_CHILDREN_AT, "room for the slots");

#define STACK_NEAR (64 * PH_KIB)        /* of C's stack, on both sides of here */

static size_t
add_frames_line(char *text, size_t used, uintptr_t start, uintptr_t end)
{
    if (used + 128 > PH_TRACE_GAPS_AT) {
        return used;
    }
    return used + (size_t)snprintf(text + used, 128, "%lx-%lx rw-p 0 0:0 0 [frames]\n",
                                   (unsigned long)start, (unsigned long)end);
}

static size_t
add_stacks(char *text, size_t used)
{
    uintptr_t ranges[16][2];
    size_t n = ph_frame_ranges(ranges, 16);
    for (size_t i = 0; i < n; i++) {
        used = add_frames_line(text, used, ranges[i][0], ranges[i][1]);
    }
    uintptr_t here = (uintptr_t)ranges;
    return add_frames_line(text, used, here - STACK_NEAR, here + STACK_NEAR);
}

static int
describe_child(ph_trace_child *child, char *text)
{
    size_t used = 0, gaps = 0;
    int err = ph_os_read_maps(text, PH_TRACE_GAPS_AT, &used);
    if (err == 0) {
        err = ph_os_absent_pages(
            text, used, (ph_gap *)(text + PH_TRACE_GAPS_AT),
            (PH_TRACE_MAPS_SIZE - PH_TRACE_GAPS_AT) / sizeof(ph_gap), &gaps);
    }
    if (err == 0) {
        child->text_size = add_stacks(text, used);
        child->gaps = gaps;
        assert(child->text_size <= PH_TRACE_GAPS_AT);
    }
    return err;
}

static void
register_child(void)
{
    if (trace_file == NULL) {
        return;
    }
    ph_trace_header *header = (ph_trace_header *)trace_file;
    uint32_t i = atomic_fetch_add(&header->children, 1);
    if (i >= PH_TRACE_CHILDREN) {
        return;
    }
    ph_trace_child *child = (ph_trace_child *)(trace_file + PH_TRACE_CHILDREN_AT) + i;
    int err = describe_child(child, trace_file + PH_TRACE_MAPS_AT + i * PH_TRACE_MAPS_SIZE);
    child->pid = (uint32_t)ph_os_pid();
    atomic_store(&child->state, err == 0 ? 1 : 2);
}

int
ph_trace_begin(int fd)
{
    static bool hooked;
    void *file;
    int err = ph_os_map_shared(fd, PH_TRACE_WRITES_AT, &file);
    if (err != 0) {
        return err;
    }
    if (!hooked) {
        err = ph_os_atfork(NULL, NULL, register_child);
        if (err != 0) {
            ph_os_release(file, PH_TRACE_WRITES_AT);
            return err;
        }
        hooked = true;
    }
    if (trace_file != NULL) {       /* of a trace whose file has been closed */
        ph_os_release(trace_file, PH_TRACE_WRITES_AT);
    }
    trace_file = file;
    return 0;
}

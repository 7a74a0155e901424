"""Random graphs of all kinds of objects, immortal, look and act as their twins that are not."""

import gc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import living
import permaheap
from processes import Child

numbers = st.integers(0, 2000)
plans = st.lists(
    st.tuples(st.sampled_from(list(living.KINDS)), numbers, st.lists(numbers, max_size=4)),
    min_size=1,
    max_size=12,
)
steps = st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=25)


def act(pool, todo):
    """Do the steps, with a collection after some; return what showed after each."""
    shown = []
    for i, step in enumerate(todo):
        shown.append((living.act(pool, step), living.portrait(pool)))
        if i % 5 == 4:
            gc.collect()
    return shown


def compare(plan, todo, everything):
    ends, twins_ends = [], []
    pool = living.make(plan, ends.append)
    before = living.portrait(pool)
    permaheap.immortalize(*[] if everything else pool)
    assert living.portrait(pool) == before
    twin = living.make(plan, twins_ends.append)
    assert living.portrait(twin) == before
    for found, expected in zip(act(pool, todo), act(twin, todo), strict=True):
        assert found == expected
    gc.collect()  # ends what the last steps have left of either
    # An object that only a replaced immortal one still holds lives on: nothing dies too early.
    assert set(ends) <= set(twins_ends)
    del pool, twin
    gc.collect()
    permaheap.immortalize()
    gc.collect()


def compare_each(pipe, batch):
    gc.disable()  # objects that die in a collection do so at the same time in both
    for example in batch:
        compare(*example)


@pytest.mark.slow
@settings(max_examples=max(8, settings().max_examples // 8))
@given(st.lists(st.tuples(plans, steps, st.booleans()), min_size=1, max_size=12))
def test_immortal_objects_behave_as_their_twins(batch):
    """Compare a batch of graphs in a child, for immortal objects stay for good."""
    with Child(compare_each, batch) as child:
        child.join()


PROGRAM = """
import gc, os, sys
import living, permaheap
how, plan, todo = sys.argv[1], *map(eval, sys.argv[2:])
pool = living.make(plan, lambda number, write=os.write: write(1, b"%d\\n" % number))
if how == "immortal":
    permaheap.immortalize()
for step in todo:
    living.act(pool, step)
gc.collect()
"""


@pytest.mark.slow
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=plans, todo=steps)
def test_the_end_of_the_process(run, plan, todo):
    """The process ends well, and all finalizers have run, also those held by immortal objects."""
    ends = []
    for how in ("plain", "immortal"):
        # 3.13 warns of pickling iterators.
        done = run(PROGRAM, how, plan, todo, PYTHONWARNINGS="ignore::DeprecationWarning")
        assert (done.stderr, done.returncode) == ("", 0)
        ends.append(sorted(done.stdout.split()))
    assert ends[0] == ends[1]

"""Found by every interpreter that a test starts, under `tests/regrtest --children`."""

import os

if "REGRTEST_MODE" in os.environ:
    try:
        import permaheap
    except ImportError:  # an environment of the test's own, or an interpreter within one of 3.12
        pass
    else:
        if os.environ["REGRTEST_MODE"] == "immortal":
            permaheap.immortalize()

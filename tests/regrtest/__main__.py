"""CPython's own tests, run after everything alive has been made immortal.

    python tests/regrtest [--json FILE] [--seconds N] [--children] [MODULE...]

Prints what fails then and not without, and the class of failures of expected.toml that it belongs
to. The exit status is 1 if one belongs to none. report.py makes a page of the results.
"""

import argparse
import importlib.util
import json
import os
import platform
import sys
import sysconfig
import textwrap
from dataclasses import asdict
from pathlib import Path

from comparing import compare
from expected import class_of

MODULES = """
test_builtin test_dict test_list test_tuple test_set test_str test_unicode test_bytes test_int
test_float test_types test_class test_descr test_dataclasses test_enum test_functools test_itertools
test_generators test_coroutines test_asyncgen test_contextlib test_weakref test_weakset test_gc
test_code test_compile test_inspect test_pickle test_copy test_json test_re test_collections test_io
test_fileio test_gzip test_socket test_threading test_thread test_queue test_asyncio test_subprocess
test_multiprocessing_fork test_sqlite3 test_decimal test_datetime test_ctypes test_struct test_array
test_memoryview test_mmap test_import test_importlib test_typing test_abc test_super test_property
test_exceptions test_traceback test_sys test_atexit test_finalization test_opcache test_monitoring
test_dis test_peepholer test_call test_capi test_unittest test_logging test_tempfile test_shutil
test_zlib test_hashlib test_random test_statistics test_heapq test_bisect test_operator test_math
test_cmath test_fractions test_ast test_tokenize test_symtable test_frozendict test_interpreters
""".split()


def arguments():
    parser = argparse.ArgumentParser(prog="regrtest")
    parser.add_argument("modules", nargs="*", default=MODULES)
    parser.add_argument("--json", type=Path, help="write the results to this file as well")
    parser.add_argument("--seconds", type=float, default=120, help="begin no test after this long")
    parser.add_argument("--per-test", type=float, default=60, help="a test that takes longer hangs")
    parser.add_argument(
        "--children", action="store_true", help="also in each interpreter that a test starts"
    )
    return parser.parse_args()


def is_here(module):
    return importlib.util.find_spec(f"test.{module}") is not None


def show(found):
    """Print what a module showed; return the number of failures that are not expected."""
    notes = [f"{len(found.plain)} fail plain, too"] * bool(found.plain)
    notes += [f"{len(found.immortal)} fail only then"] * bool(found.immortal)
    notes += [f"{len(found.unsteady)} failed only once"] * bool(found.unsteady)
    notes += ["out of time"] * found.out_of_time
    counts = f"{found.tests:5} tests, {found.skipped:3} skipped, {found.seconds:4.0f} s"
    print(f"{found.module:26} {counts}  {', '.join(notes)}", flush=True)
    unexpected = 0
    for test, outcome, why in found.immortal:
        reason = class_of(test)
        print(f"    {test} {outcome}: {reason or 'not expected'}", flush=True)
        if reason is None:
            unexpected += 1
            print(textwrap.indent(why.strip(), " " * 8), flush=True)
    return unexpected


def main():
    args = arguments()
    if args.children:
        os.environ["PYTHONPATH"] = str(Path(__file__).with_name("site"))
    build = platform.python_version() + " debug" * bool(sysconfig.get_config_var("Py_DEBUG"))
    results, unexpected = [], 0
    for module in filter(is_here, args.modules):
        results.append(compare(module, args.seconds, args.per_test))
        unexpected += show(results[-1])
        if args.json:
            found = {"build": build, "modules": [asdict(each) for each in results]}
            args.json.write_text(json.dumps(found, indent=1))
    print(f"{build}: {len(results)} modules, {unexpected} failures that are not expected")
    return unexpected != 0


if __name__ == "__main__":
    sys.exit(main())

"""The interpreters that permaheap supports, and the one sentence that says so.

The build and the import both use it: ``import permaheap`` calls `check` before it loads the C core,
and ``meson.build`` runs this file as a script. So older interpreters must be able to read it.
"""

import os
import sys

FIRST = (3, 12)
LAST = (3, 15)
MACHINES = ("x86_64", "aarch64")
PAGE = 4096  # bytes: the heap is mapped, and given back, in units of it

SENTENCE = (
    "permaheap supports CPython 3.12 to 3.15 (3.14.0 to 3.14.4 are untested), "
    "GIL builds, 64-bit, on Linux on x86-64 and aarch64, with pages of 4 KiB"
)


class Interpreter:
    """The facts about an interpreter that decide whether it is supported.

    The defaults describe the running interpreter; tests pass other values.
    """

    def __init__(
        self,
        *,
        implementation: "str | None" = None,
        version: "tuple[int, int] | None" = None,
        free_threaded: "bool | None" = None,
        bits: "int | None" = None,
        system: "str | None" = None,
        machine: "str | None" = None,
        page: "int | None" = None,
    ) -> None:
        self.implementation = implementation or sys.implementation.name
        self.version = version or (sys.version_info[0], sys.version_info[1])
        if free_threaded is None:
            free_threaded = "t" in getattr(sys, "abiflags", "")
        self.free_threaded = free_threaded
        self.bits = bits or (64 if sys.maxsize > 2**32 else 32)
        self.system = system or sys.platform
        self.machine = machine or os.uname().machine
        self.page = page or (os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else PAGE)

    def refusal(self) -> "str | None":
        """Return the fact about this interpreter that is not supported, or None."""
        if self.implementation != "cpython":
            return self.implementation
        if not FIRST <= self.version <= LAST:
            return "CPython {}.{}".format(*self.version)
        if self.free_threaded:
            return "a free-threaded build"
        if self.system != "linux":
            return self.system
        if self.bits != 64:
            return f"a {self.bits}-bit build"
        if self.machine not in MACHINES:
            return f"a machine of the kind {self.machine}"
        if self.page != PAGE:
            return f"a kernel with pages of {self.page // 1024} KiB"
        return None


def message(refused: str) -> str:
    """Return a sentence with the supported interpreters, and with the fact that is not."""
    return f"{SENTENCE}; this is {refused}."


def check() -> None:
    """Raise ImportError if this interpreter is not supported; the message says why.

    O(1), some microseconds.
    """
    refused = Interpreter().refusal()
    if refused is not None:
        raise ImportError(message(refused), name="permaheap")


def missing_headers(include: str) -> "str | None":
    """Return a sentence if the folder ``include`` lacks CPython's internal headers, or None."""
    if os.access(include + "/internal/pycore_object.h", os.R_OK):
        return None
    return (
        f"{SENTENCE}. To build it, CPython's internal headers are needed, which are missing from "
        f"{include}: install them (on Debian: python3.X-dev)."
    )


def main() -> int:
    """Print on standard error why this interpreter cannot build permaheap; return 1 if so, or 0."""
    import sysconfig  # only the build needs it, and it would slow down every import

    refused = Interpreter().refusal()
    problem = message(refused) if refused else missing_headers(sysconfig.get_path("include"))
    if problem is None:
        return 0
    sys.stderr.write(problem + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())

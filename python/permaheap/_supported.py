"""Which interpreters permaheap runs on, and the one sentence that says so.

Both the build and the import ask here: ``import permaheap`` calls `check` before it loads the C
core, and ``meson.build`` runs this file as a script, so older interpreters must understand it too.
"""

import os
import sys

FIRST = (3, 12)
LAST = (3, 15)
MACHINES = ("x86_64", "aarch64")

SENTENCE = (
    "permaheap supports CPython 3.12 to 3.15 (3.14.0 to 3.14.4 are untested), "
    "GIL builds, 64-bit, on Linux on x86-64 and aarch64"
)


class Interpreter:
    """The facts about an interpreter that decide whether it is supported.

    The defaults describe the running one; tests pass others.
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
    ) -> None:
        self.implementation = implementation or sys.implementation.name
        self.version = version or (sys.version_info[0], sys.version_info[1])
        if free_threaded is None:
            free_threaded = "t" in getattr(sys, "abiflags", "")
        self.free_threaded = free_threaded
        self.bits = bits or (64 if sys.maxsize > 2**32 else 32)
        self.system = system or sys.platform
        self.machine = machine or os.uname().machine

    def refusal(self) -> "str | None":
        """Return what is not supported about this interpreter, or None when all of it is."""
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
        return None


def message(refused: str) -> str:
    """Return the sentence that says what is supported and what was found instead."""
    return f"{SENTENCE}; this is {refused}."


def check() -> None:
    """Raise ImportError, saying what is supported, unless this interpreter is.

    Takes microseconds.
    """
    refused = Interpreter().refusal()
    if refused is not None:
        raise ImportError(message(refused), name="permaheap")


def missing_headers(include: str) -> "str | None":
    """Return a sentence about CPython's internal headers when the folder ``include`` lacks them."""
    if os.access(include + "/internal/pycore_object.h", os.R_OK):
        return None
    return (
        f"{SENTENCE}, and is built with CPython's headers, the internal ones included, "
        f"which are missing from {include} (Debian has them in python3.X-dev)."
    )


def main() -> int:
    """Say on standard error why this interpreter cannot build permaheap; return the exit status."""
    import sysconfig  # only needed to build: it would slow down every import

    refused = Interpreter().refusal()
    problem = message(refused) if refused else missing_headers(sysconfig.get_path("include"))
    if problem is None:
        return 0
    sys.stderr.write(problem + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())

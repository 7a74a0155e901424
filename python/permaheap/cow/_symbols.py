"""Names of functions by address, from the symbol tables of ELF files (the format: elf(5)).

A stripped file names only the functions that it exports. The others then have no name, instead of
that of a neighbour.
"""

import mmap
import struct
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path

_SEGMENT = struct.Struct("<IIQQQQQQ")  # type, flags, offset, address, -, size in file, ...
_SECTION = struct.Struct("<IIQQQQIIQQ")  # name, type, flags, address, offset, size, link, ...
_SYMBOL = struct.Struct("<IBBHQQ")  # name, info, other, section, value, size
_LOAD, _SYMTAB, _DYNSYM = 1, 2, 11
_FUNCTIONS = (2, 10)  # STT_FUNC and STT_GNU_IFUNC, which is resolved when the file is loaded


class Symbols:
    """The functions of one file."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        """Read the tables of an ELF file; any other file has no functions."""
        self._segments: list[tuple[int, int, int]] = []
        self._functions: list[tuple[int, int, str]] = []
        if data[:5] == b"\x7fELF\x02":
            self._read_segments(data)
            self._read_functions(data)

    def _read_segments(self, data: bytes | mmap.mmap) -> None:
        at, size, number = _head(data, 32, 54)
        for i in range(number):
            kind, _, offset, address, _, length, *_ = _SEGMENT.unpack_from(data, at + i * size)
            if kind == _LOAD:
                self._segments.append((offset, offset + length, address - offset))

    def _read_functions(self, data: bytes | mmap.mmap) -> None:
        at, size, number = _head(data, 40, 58)
        sections = [_SECTION.unpack_from(data, at + i * size) for i in range(number)]
        for section in sections:
            if section[1] in (_SYMTAB, _DYNSYM):
                names = sections[section[6]][4]
                table = data[section[4] : section[4] + section[5]]
                for name, info, _, _, value, length in _SYMBOL.iter_unpack(table):
                    if info & 15 in _FUNCTIONS and value:
                        end = data.find(b"\0", names + name)
                        text = data[names + name : end].decode(errors="replace")
                        self._functions.append((value, value + length, text))
        self._functions.sort()

    def at(self, offset: int) -> str | None:
        """Return the name of the function at an offset in the file, or None."""
        for start, end, shift in self._segments:
            if start <= offset < end:
                address = offset + shift
                index = bisect_right(self._functions, (address, 1 << 64, "")) - 1
                if index >= 0 and address < self._functions[index][1]:
                    # Without the suffix that the compiler adds to parts and copies of a function.
                    return self._functions[index][2].partition(".")[0]
        return None


def _head(data: bytes | mmap.mmap, at: int, sizes_at: int) -> tuple[int, int, int]:
    """Return the offset, the size of an entry and the number of entries of one of the tables."""
    (offset,) = struct.unpack_from("<Q", data, at)
    size, number = struct.unpack_from("<HH", data, sizes_at)
    return offset, size, number


@lru_cache(maxsize=64)
def symbols_of(path: str) -> Symbols:
    """Return the functions of a file; none if it cannot be read.

    O(size of its tables) for the first call, then O(1).
    """
    try:
        with (
            Path(path).open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return Symbols(data)
    except (OSError, ValueError, struct.error):
        return Symbols(b"")

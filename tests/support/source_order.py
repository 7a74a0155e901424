"""The order of the sources: written once, in the meson.build of each folder of src/."""

import re
from pathlib import Path

SRC = Path(__file__).resolve().parents[2] / "src"


def listed_folders(build):
    """Return the folders that a meson.build goes through, in its order."""
    loop = re.search(r"foreach folder : \[(.*?)\]", build.read_text(), flags=re.DOTALL)
    return re.findall(r"'(\w+)'", loop[1])


FOLDERS = [f"core/{name}" for name in listed_folders(SRC / "core/meson.build")]
FOLDERS += listed_folders(SRC / "meson.build")


def listed_files(folder):
    """Return the files that a folder's meson.build lists, in its order."""
    return re.findall(r"'([\w]+\.[ch])'", (SRC / folder / "meson.build").read_text())


LISTED = [f"{folder}/{name}" for folder in FOLDERS for name in listed_files(folder)]


def files(suffix):
    """Return the sources with a suffix, as paths below src/."""
    return sorted(path.relative_to(SRC).as_posix() for path in SRC.rglob(f"*{suffix}"))


def place(name):
    """Return where a file stands; a header stands where its .c stands, unless it is listed."""
    if name in LISTED:
        return LISTED.index(name)
    return LISTED.index(name.removesuffix(".h") + ".c")

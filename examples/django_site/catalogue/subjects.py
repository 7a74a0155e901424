"""Subject headings: the reference table that this site holds in memory.

A real table has some hundred thousand headings, each with its broader, narrower and related ones.
These are invented, and always the same ones.
"""

import os
import random

import permaheap

FIELDS = [
    "Acoustics",
    "Botany",
    "Ceramics",
    "Drama",
    "Economics",
    "Folklore",
    "Geology",
    "History",
    "Irrigation",
    "Law",
]
ASPECTS = [
    "Theory",
    "Methods",
    "Sources",
    "Criticism",
    "Teaching",
    "Tools",
    "Biography",
    "Statistics",
    "Ethics",
    "Maps",
]
PLACES = [
    "Bergen",
    "Cork",
    "Dakar",
    "Essaouira",
    "Fes",
    "Ghent",
    "Hue",
    "Izmir",
    "Jaffa",
    "Kyoto",
    "Lima",
    "Mysore",
    "Nantes",
]


def heading(code, chance):
    """Return one heading. Its code is a path of numbers, such as 4.17.3."""
    steps = code.split(".")
    number = int(steps[-1])
    return {
        "code": code,
        "label": " -- ".join(
            (FIELDS[int(steps[0]) % 10], ASPECTS[number % 10], f"{chance.choice(PLACES)} {code}")
        ),
        "level": len(steps),
        "broader": ".".join(steps[:-1]) or None,
        "narrower": [],
        "related": [],
        "note": f"Works on no. {number} of {chance.randint(1, 99_999)} in all respects.",
        "years": {"first": chance.randint(1450, 1900), "last": chance.randint(1901, 2020)},
        "weight": chance.random(),
        "variants": [f"see {chance.choice(PLACES)} ({chance.randint(1, 99_999)})"],
    }


def load(count):
    """Return that many headings by code, with their relations."""
    chance = random.Random(count)
    headings, codes = {}, []
    for i in range(count):
        code = str(i) if i < 10 else f"{codes[(i - 10) // 20]}.{i % 20}"
        codes.append(code)
        headings[code] = heading(code, chance)
    for code, record in headings.items():
        if record["broader"]:
            headings[record["broader"]]["narrower"].append(code)
        record["related"] = [chance.choice(codes) for _ in range(3)]
    return headings


# Loaded and frozen once, when the master imports this module; the workers read them in place.
SUBJECTS = permaheap.freeze(load(int(os.environ.get("SUBJECTS", "60000"))))

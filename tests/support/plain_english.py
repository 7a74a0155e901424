"""Plain English: the rules of CONTRIBUTING.md that a program can check, for docs and comments."""

import ast
import io
import re
import tokenize

LONGEST = 30  # words of a sentence; about 25 is the aim
EVER = re.compile(r"\bwh(?:o|at)ever\b(?! (?:the|its|their)\b)", re.I)
SUBJECT = re.compile(r"\W*(?:Who|What)\b")  # of a short title it may be the first word
WORN = re.compile(r"\b(?:anew|as ever|at first|meanwhile|now and then|so many)\b", re.I)
DRAWING = re.compile(r"^ {7}|\S {3,}\S|--[->]|<--|^\s*\|", re.M)


def faults(paragraph):
    """Return the sentences that break a rule, each with its number of words."""
    found = []
    for sentence in re.split(r"(?<=[.?!])\)?\s+(?=[A-Z(])|[;:]\s", " ".join(paragraph.split())):
        words = len(re.findall(r"[\w'-]+", sentence))
        what = SUBJECT.match(sentence) and "?" not in sentence and words > 7
        if words > LONGEST or what or EVER.search(sentence) or WORN.search(sentence):
            found.append(f"{words} words: {sentence}")
    return found


def prose(path):
    """Yield the paragraphs of a source's comments and docstrings, without drawings and lists."""
    text = path.read_text()
    for comment in _python(text) if path.suffix in (".py", ".pyi") else _c(text):
        for part in re.split(r"\n\s*\n|\n(?=\s*(?:[-*#+]|\d+\.) )", comment):
            if not DRAWING.search(part):
                yield re.sub(r"`[^`]*`", "CODE", part)


def _c(text):
    for match in re.finditer(r'"(?:\\.|[^"\\\n])*"|//([^\n]*)|/\*(.*?)\*/', text, re.S):
        yield match[1] or match[2] or ""


def _python(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    lines = {}  # comments that go on in the next line are one
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            before = lines.pop((row - 1, column), "")
            lines[row, column] = f"{before}\n{token.string.lstrip('#')}"
    yield from lines.values()

"""Turn bitlib's docstrings, plain text with code in `backquotes`, into reStructuredText for the API page.

After the first paragraph, lines that begin with "name: meaning" become a list. Every other character is taken literally, so
no docstring can break the build: not *args, not |error|, not a trailing_.
"""

import re

CODE = re.compile(r"(`[^`]+`)")
SPECIAL = re.compile(r"([\\*|_`])")
FIELD = re.compile(r"^([a-z*][\w.*]*(?:\([\w, *]*\))?(?:, [a-z][\w.]*)*)(?=: | -> )")


def inline(text: str) -> str:
    """Plain text, escaped; code in `backquotes` kept as code."""
    return "".join(f"``{part[1:-1]}``" if CODE.fullmatch(part) else SPECIAL.sub(r"\\\1", part) for part in CODE.split(text))


def to_rst(docstring: list[str]) -> list[str]:
    """reStructuredText for a docstring without its common indentation."""
    result, first, listing, ended = [], True, False, True
    for line in map(str.strip, docstring):
        if not line:
            first, listing = first and not result, False
            result.append("")
        elif not first and ended and (field := FIELD.match(line)):
            result += [""] * (not listing) + [f"- ``{field[1]}``{inline(line[field.end(1) :])}"]
            listing = True
        elif listing and ended and line[0].isupper():  # a new sentence after the list
            listing = False
            result += ["", inline(line)]
        else:
            result.append("  " * listing + inline(line))
        ended = not line or line.endswith((".", ":", ";"))
    return result


def setup(app):
    def convert(app, what, name, obj, options, lines):
        lines[:] = to_rst(lines)

    app.connect("autodoc-process-docstring", convert)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

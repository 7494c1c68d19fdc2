"""Checks, claims and exercises: they turn the sentences of a chapter into code that can fail.

`check` is for identities, which hold in every run; `claim` is for measured results. Both protect the course: a notebook with
a false sentence does not run. `Exercise` is for learners: it tests an answer on prepared cases, and gives a stronger hint after
each failure.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field

from .show import Html, inline, show

BEGIN, END = "# begin solution", "# end solution"


class ClaimFailed(AssertionError):
    """A sentence of the course does not hold here."""


def check(sentence: str, holds) -> None:
    """State something that holds by construction: show the sentence, or raise ClaimFailed if `holds` is false."""
    if not bool(holds):
        raise ClaimFailed(f"this does not hold here: {sentence}")
    show(_statement(sentence, ""))


def claim(sentence: str, value, *, above: float | None = None, below: float | None = None, unit: str = "") -> None:
    """State a measured result and its margin, or raise ClaimFailed, which stops the notebook.

    value: the number that decides, for example a difference in points. Give exactly one of above and below, the limit for
    `value`, else TypeError. The sentence is the same on every machine; the value shown beside it is this machine's.
    """
    if (above is None) == (below is None):
        raise TypeError("claim() takes above= or below=, one of the two; for an identity use check()")
    value, limit = float(value), above if below is None else below
    told = f"{_short(value)}{' ' + unit if unit else ''}; needs {'more' if below is None else 'less'} than {_short(limit)}"
    if not (value > limit if below is None else value < limit):
        raise ClaimFailed(f"this does not hold here: {sentence} ({told})")
    show(_statement(sentence, told))


def _short(value: float) -> str:
    return re.sub("^-", "−", f"{value:.3g}")


def _statement(sentence: str, told: str) -> Html:
    margin = f' <span class="bl-margin">{told}</span>' if told else ""
    kind = "claim" if told else "check"
    body = f'<p class="bl-claim" data-kind="{kind}"><span class="bl-mark">✓</span> {inline(sentence)}{margin}</p>'
    return Html(body, f"✓ {sentence}" + (f" [{told}]" if told else ""))


@dataclass
class Exercise:
    """A question with automatic checks.

    answer: a function that passes. Learners get its `stub`, in which they write the lines between "# begin solution" and
    "# end solution", or without these marks everything below the docstring.
    checks: pairs (what the answer should do, test); a test takes the answer and returns whether it passes.
    hints: three, from a nudge to nearly the answer. Each failed attempt shows the next one.
    """

    question: str
    checks: tuple[tuple[str, Callable[[Callable], bool]], ...]
    hints: tuple[str, str, str]
    answer: Callable
    tries: int = field(default=0, compare=False)

    def check(self, answer: Callable) -> None:
        """Test an answer; prints what is wrong and a hint, or that it passed."""
        self.passes(answer)

    def passes(self, answer: Callable) -> bool:
        """Test an answer, print the outcome and return whether it passed. An empty answer does not use up a hint."""
        wrong = self._first_wrong(answer)
        if wrong is None:
            print("passed: " + "; ".join(what for what, _ in self.checks))
            return True
        if not wrong:
            print("Still empty. Write the function, then run this cell; it will check your answer and give hints.")
            return False
        level = min(self.tries, len(self.hints) - 1)
        self.tries += 1
        print(f"not yet: {wrong}\nhint {level + 1} of {len(self.hints)}: {self.hints[level]}")
        return False

    def solution(self) -> Html:
        """The solution, folded until the reader opens it."""
        source = "\n".join(line for line in self._source() if line.strip() not in (BEGIN, END))
        body = f'<details class="bl-solution"><summary>Solution</summary><pre>{_escaped(source)}</pre></details>'
        return Html(body, "the solution is folded; it needs a page that can show HTML")

    def stub(self) -> str:
        """Source of the function for the learner to complete: `answer` without its solution."""
        lines, source = [], self._source()
        if not any(line.strip() == BEGIN for line in source):
            code = inspect.cleandoc(self.answer.__doc__ or "")
            last = next(i for i, line in enumerate(source) if line.rstrip().endswith('"""')) if code else 0
            lines = [*source[: last + 1], "    # your turn", "    raise NotImplementedError"]
        else:
            inside = False
            for line in source:
                if line.strip() == BEGIN:
                    inside = True
                    indent = line[: len(line) - len(line.lstrip())]
                    lines += [f"{indent}# your turn", f"{indent}raise NotImplementedError"]
                elif line.strip() == END:
                    inside = False
                elif not inside:
                    lines.append(line)
        return "\n".join(lines)

    def _source(self) -> list[str]:
        return textwrap.dedent(inspect.getsource(self.answer)).rstrip().splitlines()

    def _first_wrong(self, answer: Callable) -> str | None:
        """None for a correct answer, "" for an empty one, else a description of the first failure."""
        for what, test in self.checks:
            try:
                passed = test(answer)
            except NotImplementedError:
                return ""
            except Exception as error:  # whatever the learner's code raises is a wrong answer
                return f"it should {what}, but it stopped with {type(error).__name__}: {error}"
            if not passed:
                return f"it should {what}"
        return None


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

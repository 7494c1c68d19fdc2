"""Claims and exercises: what turns a sentence of a chapter into something that can fail.

`claim` is for us: a notebook with an untrue sentence does not run. `Exercise` is for the learner: it tries an answer on
cases worked out beforehand and climbs a ladder of hints.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field


class ClaimFailed(AssertionError):
    """A sentence of the course is not true here."""


def claim(sentence: str, holds) -> None:
    """State a measured result: prints it, always the same, or raises ClaimFailed and so fails the notebook."""
    if not bool(holds):
        raise ClaimFailed(f"this does not hold here: {sentence}")
    print(textwrap.fill(f"claim holds: {sentence}", 78, subsequent_indent="    "))


@dataclass
class Exercise:
    """A question with automatic checks.

    checks: pairs (what the answer should do, test); a test takes the answer and returns whether it does.
    hints: three, from a nudge to nearly the answer. Every failed try shows one more of them.
    """

    question: str
    checks: tuple[tuple[str, Callable[[Callable], bool]], ...]
    hints: tuple[str, str, str]
    tries: int = field(default=0, compare=False)

    def check(self, answer: Callable) -> None:
        """Try an answer; prints what is wrong with it and a hint, or that it passed."""
        self.passes(answer)

    def passes(self, answer: Callable) -> bool:
        """The same, and returns whether it passed."""
        wrong = self._first_wrong(answer)
        if wrong is None:
            print("passed: " + "; ".join(what for what, _ in self.checks))
            return True
        level = min(self.tries, len(self.hints) - 1)
        self.tries += 1
        print(f"not yet: {wrong}\nhint {level + 1} of {len(self.hints)}: {self.hints[level]}")
        return False

    def _first_wrong(self, answer: Callable) -> str | None:
        for what, test in self.checks:
            try:
                passed = test(answer)
            except NotImplementedError:
                return "the exercise is still empty"
            except Exception as error:  # any fault of the learner's code is part of the answer
                return f"it should {what}, but it stopped with {type(error).__name__}: {error}"
            if not passed:
                return f"it should {what}"
        return None

"""Checks, claims, evidence and exercises: they turn the sentences of a chapter into code that can fail.

`check` is for identities, which hold in every run; `claim` for a single measured number; `evidence` for comparisons, repeated
often enough to give an interval for the difference. All three protect the course: a notebook with a false sentence does not
run. `Exercise` is for learners: it tests an answer on prepared cases and on random ones, says what is wrong, and gives a
stronger hint after each wrong result.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
import textwrap
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from numbers import Real
from statistics import fmean

from .show import Html, inline, show

BEGIN, END = "# begin solution", "# end solution"
FEWEST = 5  # differences that evidence needs; with fewer, the interval says more about chance than about the methods


class ClaimFailed(AssertionError):
    """A sentence of the course does not hold here."""


def check(sentence: str, holds) -> None:
    """State something that holds by construction: show the sentence, or raise ClaimFailed if `holds` is false."""
    if not bool(holds):
        raise ClaimFailed(f"this does not hold here: {sentence}")
    show(_statement("check", sentence))


def claim(sentence: str, value, *, above: float | None = None, below: float | None = None, unit: str = "") -> None:
    """State one measured number and its margin, or raise ClaimFailed, which stops the notebook.

    value: the number that decides, for example an error or the size of a file; whether one method beats another is a question
    for `evidence`. Give exactly one of above and below, the limit for `value`, else TypeError. The sentence is the same on
    every machine; the value shown beside it is this machine's.
    """
    value, limit, needs = float(value), *_limit("claim", above, below)
    told = f"{_short(value)}{' ' + unit if unit else ''}; {needs}"
    _stand("claim", sentence, told, value > limit if below is None else value < limit)


def evidence(
    sentence: str,
    differences: Iterable[float],
    *,
    above: float | None = None,
    below: float | None = None,
    unit: str = "points",
    paired: str = "random subset",
) -> None:
    """State the outcome of a comparison, or raise ClaimFailed unless the whole 95 % interval lies beyond the limit.

    differences: for each of five or more repetitions, how far one method is from the other, see `ahead`; fewer raise
    ValueError. The interval is that of their mean, by Student's t, which takes them for independent and roughly normal. Give
    exactly one of above and below, else TypeError. paired: what both methods shared in each repetition, in the singular.
    """
    from scipy import stats  # comes with scikit-learn, and takes a while to import

    differences, (limit, needs) = [float(d) for d in differences], _limit("evidence", above, below)
    if (n := len(differences)) < FEWEST:
        raise ValueError(f"evidence() needs {FEWEST} differences or more and got {n}; repeat the comparison, or use claim()")
    effect = fmean(differences)
    spread = math.sqrt(math.fsum((d - effect) ** 2 for d in differences) / (n - 1))  # statistics.stdev stops on a NaN
    half = float(stats.t.ppf(0.975, n - 1)) * spread / n**0.5
    low, high = effect - half, effect + half
    # Two digits of the half width are worth showing, and one decimal where that would be none.
    digits = max(1, 1 - math.floor(math.log10(half))) if 0 < half < math.inf else 1
    effect, *ends = (f"{value:+.{digits}f}".replace("-", "−") for value in (effect, low, high))
    plural = "es" if paired.endswith(("ch", "sh", "s", "x")) else "s"
    told = f"{effect}{' ' + unit if unit else ''}, 95 % interval {' to '.join(ends)}, {n} {paired}{plural}; {needs}"
    _stand("evidence", sentence, told, low > limit if below is None else high < limit)


def ahead(one: Iterable[float], other: Iterable[float]) -> list[float]:
    """By how many points `one` is ahead of `other`, pair by pair: the differences for `evidence`.

    one, other: accuracies from 0 to 1 in the same order, for example of the same random subsets. Raises ValueError if there
    are more of one than of the other.
    """
    return [100 * (float(a) - float(b)) for a, b in zip(one, other, strict=True)]


def _limit(asker: str, above: float | None, below: float | None) -> tuple[float, str]:
    """The limit, and in words what it asks for."""
    if (above is None) == (below is None):
        raise TypeError(f"{asker}() takes above= or below=, one of the two; for an identity use check()")
    limit = above if below is None else below
    return limit, f"needs {'more' if below is None else 'less'} than {_short(limit)}"


def _stand(kind: str, sentence: str, told: str, holds: bool) -> None:
    if not holds:
        raise ClaimFailed(f"this does not hold here: {sentence} ({told})")
    show(_statement(kind, sentence, told))


def _short(value: float) -> str:
    return re.sub("^-", "−", f"{value:.3g}")


def _statement(kind: str, sentence: str, told: str = "") -> Html:
    margin = f' <span class="bl-margin">{told}</span>' if told else ""
    body = f'<p class="bl-claim" data-kind="{kind}"><span class="bl-mark">✓</span> {inline(sentence)}{margin}</p>'
    return Html(body, f"✓ {sentence}" + (f" [{told}]" if told else ""))


def alike(given, wanted, within: float = 1e-4) -> bool:
    """Whether two results are equal up to rounding, whatever holds them: tensors, arrays, lists or tuples of numbers.

    A set is compared by its members. within: the relative tolerance; a tenth of it is the absolute one.
    """
    if isinstance(wanted, set | frozenset):
        return set(given) == wanted
    given, wanted = (x.tolist() if hasattr(x, "tolist") else x for x in (given, wanted))
    if isinstance(wanted, list | tuple):
        same_length = isinstance(given, list | tuple) and len(given) == len(wanted)
        return same_length and all(alike(g, w, within) for g, w in zip(given, wanted))
    if isinstance(given, Real) and isinstance(wanted, Real):
        both_nan = given != given and wanted != wanted
        return both_nan or math.isclose(given, wanted, rel_tol=within, abs_tol=within / 10)
    return type(given) is type(wanted) and given == wanted


class _NoResult(Exception):
    """An answer that gave nothing to judge: it is empty, stopped with an error, or never returned a value."""


def _apply(answer: Callable, *arguments):
    return answer(*arguments)


@dataclass
class Exercise:
    """A question with automatic checks.

    answer: a function that passes. Learners get its `stub`, in which they write the lines between "# begin solution" and
    "# end solution", or without these marks everything below the docstring.
    checks: pairs (what the answer should do, test); a test takes the answer and returns whether it passes.
    hints: three, from a nudge to a strong one; none is the code. Each wrong result shows the next one.
    inputs: makes random arguments, the same ones at each call; on each, a learner's answer has to agree with `answer`.
    run: run(answer, *arguments) is what is compared there; within: up to this relative difference.
    slips: pairs (what it does, function), common mistakes. One that agrees with a wrong answer on all inputs is named.
    """

    question: str
    checks: tuple[tuple[str, Callable[[Callable], bool]], ...]
    hints: tuple[str, str, str]
    answer: Callable
    inputs: Callable[[], list[tuple]] = list
    slips: tuple[tuple[str, Callable], ...] = ()
    run: Callable = _apply
    within: float = 1e-4
    tries: int = field(default=0, compare=False)

    def check(self, answer: Callable) -> None:
        """Test an answer; prints what is wrong and a hint, or that it passed."""
        self.passes(answer)

    def passes(self, answer: Callable) -> bool:
        """Test an answer, print the outcome and return whether it passed.

        Only a wrong result uses up a hint. An answer that is empty, stops with an error or never returns a value does not.
        """
        try:
            wrong = self._first_wrong(answer)
        except _NoResult as nothing:
            print(nothing)
            return False
        if not wrong:
            print("passed: " + "; ".join(what for what, _ in self.checks))
            return True
        level = min(self.tries, len(self.hints) - 1)
        self.tries += 1
        print(f"not yet: {wrong}{self._slip(answer)}\nhint {level + 1} of {len(self.hints)}: {self.hints[level]}")
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
        """The first thing that the answer does wrong, or None. Raises _NoResult if there is nothing to judge."""
        if not callable(answer):
            raise _NoResult("Give the function itself, without calling it: its name, and no brackets after it.")
        what, returned = "", []

        def watched(*arguments, **options):
            """The answer; an error inside it is told apart from one in a test that cannot use what it returned."""
            try:
                returned.append(answer(*arguments, **options))
            except Exception as error:  # whatever a learner's code raises
                if isinstance(error, NotImplementedError) and not error.args:
                    message = "Still empty. Write the function, then run this cell; it will check your answer and give hints."
                    raise _NoResult(message) from None
                stopped = f"it stopped with {_line(error)}{_place(error, answer)}"
                raise _NoResult(f"not yet: it should {what}, but {stopped}. This uses up no hint.") from error
            return returned[-1]

        for what, test in (*self.checks, *self._trials()):
            try:
                passed, unusable = bool(test(watched)), ""
            except _NoResult:
                raise
            except Exception as error:
                passed, unusable = False, f", but what it returned cannot be used here ({_line(error)})"
            if not passed and self._returns_a_value() and all(value is None for value in returned):
                raise _NoResult(f"not yet: it should {what}, but it returned None. Is `return` missing? This uses up no hint.")
            if not passed:
                return f"it should {what}{unusable}"
        return None

    def _returns_a_value(self) -> bool:
        return any(isinstance(node, ast.Return) for node in ast.walk(ast.parse("\n".join(self._source()))))

    def _trials(self) -> list[tuple[str, Callable]]:
        """Checks that the answer agrees with the solution: one for each of the random inputs."""
        trials = []
        for i, arguments in enumerate(self.inputs()):
            wanted = self.run(self.answer, *self.inputs()[i])  # new arguments each time, which an answer may spoil
            told = f"return {wanted!r} for {self.answer.__name__}({', '.join(map(repr, arguments))})"
            told = re.sub(r"\d+\.\d{5,}", lambda number: f"{float(number[0]):.4g}", told)
            what = told if self.run is _apply and len(told) < 128 else "agree with the solution on random inputs"
            trials.append((what, lambda f, i=i, w=wanted: alike(self.run(f, *self.inputs()[i]), w, self.within)))
        return trials

    def _slip(self, answer: Callable) -> str:
        """The common mistake that gives this answer's results, in words, or nothing."""

        def results(f) -> list:
            return [self.run(f, *arguments) for arguments in self.inputs()]

        for told, slip in self.slips:
            try:
                if alike(results(answer), results(slip), self.within):
                    return f"; it seems to {told}"
            except Exception:  # one of the two cannot cope with these inputs
                continue
        return ""


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split("\n")[0].split())


def _place(error: Exception, answer: Callable) -> str:
    """The line of the learner's own code where it stopped, or nothing where it was called in a wrong way."""
    here = getattr(getattr(answer, "__code__", None), "co_filename", None)
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if frame.filename == here]
    return f', in the line "{lines[-1]}"' if lines and lines[-1] else ""


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

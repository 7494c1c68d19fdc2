"""The exercises of the chapters, a file for each. Stubs and solutions stand in the notebooks."""

from __future__ import annotations

from ..check import Exercise
from . import ch01, ch02, ch03, ch04, ch05, ch06, ch07, ch08, ch09, ch10, ch11, ch12, ch13, ch14, ch15, ch16


def _join(*chapters: dict[str, Exercise]) -> dict[str, Exercise]:
    """All chapters' exercises by name. ValueError if two chapters use the same name."""
    joined: dict[str, Exercise] = {}
    for chapter in chapters:
        if twice := joined.keys() & chapter.keys():
            raise ValueError(f"two chapters have an exercise called {', '.join(sorted(twice))}; rename one")
        joined |= chapter
    return joined


EXERCISES = _join(
    *(
        chapter.EXERCISES
        for chapter in (ch01, ch02, ch03, ch04, ch05, ch06, ch07, ch08, ch09, ch10, ch11, ch12, ch13, ch14, ch15, ch16)
    )
)

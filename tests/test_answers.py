"""Answers that learners give: the wrong ones fail, each with words about its mistake, and the right ones pass."""

import ast
import dataclasses
import importlib

import pytest

from bitlib.course.check import alike
from bitlib.course.exercises import EXERCISES

NUMBERS = ("01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12", "13", "14", "15", "16")
CHAPTERS = [importlib.import_module(f"answers.ch{number}") for number in NUMBERS]
WRONG = {name: answers for chapter in CHAPTERS for name, answers in chapter.WRONG.items()}
RIGHT = {name: answers for chapter in CHAPTERS for name, answers in chapter.RIGHT.items()}


def attempt(name: str, answer, capsys) -> tuple[bool, str]:
    exercise = dataclasses.replace(EXERCISES[name], tries=0)
    return exercise.passes(answer), capsys.readouterr().out


def cases(answers: dict) -> list:
    return [pytest.param(name, told, id=f"{name}: {told}") for name in answers for told in answers[name]]


@pytest.mark.parametrize("name, told", cases(WRONG))
def test_a_wrong_answer_is_told_what_is_wrong(name, told, capsys):
    answer, words = WRONG[name][told]
    passed, said = attempt(name, answer, capsys)
    assert not passed and words in said.splitlines()[0], said


@pytest.mark.parametrize("name, told", cases(RIGHT))
def test_a_right_answer_passes(name, told, capsys):
    passed, said = attempt(name, RIGHT[name][told], capsys)
    assert passed, said


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_has_answers_of_both_kinds(name):
    assert len(WRONG[name]) >= 5 and len(RIGHT[name]) >= 2
    assert WRONG.keys() == RIGHT.keys() == EXERCISES.keys()


@pytest.mark.parametrize("name", EXERCISES)
def test_slips_are_wrong_and_told_apart(name):
    exercise = EXERCISES[name]

    def results(f):
        return [exercise.run(f, *arguments) for arguments in exercise.inputs()]

    for told, slip in exercise.slips:
        assert not alike(results(slip), results(exercise.answer), exercise.within), told
        assert exercise._slip(slip) == f"; it seems to {told}"


@pytest.mark.parametrize("name", EXERCISES)
def test_no_hint_holds_the_code(name):
    """No line of the solution, and no expression of it but names and short ones."""
    exercise = EXERCISES[name]
    given = set(map(str.strip, exercise.stub().splitlines()))
    lines = [line.strip() for line in exercise._source() if line.strip() not in given]
    tree = ast.parse("\n".join(exercise._source()))
    names = ast.Name, ast.Attribute, ast.Constant
    parts = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.expr) and not isinstance(node, names)]
    telling = {"".join(p.split()) for p in lines + parts}
    hint = "".join(exercise.hints[2].split())
    assert not [p for p in telling if len(p) >= 12 and p in hint]

"""The exercises of the notebooks: a blank has no mark, the reference answer passes, plausible
mistakes fail with a message that helps.
"""

import importlib
from pathlib import Path

import pytest
import torch

from imagen_mini.course.exercises import Checked, WrongAnswerError, checks, expect_close

NAMES = sorted(
    p.stem for p in (Path(__file__).parents[1] / "support" / "exercise_solutions").glob("nb*.py")
)


def check_of(name):
    return importlib.import_module(f"imagen_mini.course.exercises.{name}").check


def answers_to(name):
    return importlib.import_module(f"support.exercise_solutions.{name}")


def test_every_check_has_answers_and_every_answer_a_check():
    folder = Path(__file__).parents[2] / "imagen_mini" / "course" / "exercises"
    assert NAMES == sorted(p.stem for p in folder.glob("nb*.py")) and NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_blank_has_no_mark(name):
    def my_answer(*args, **kwargs): ...

    found = check_of(name)(my_answer)
    assert (
        found.correct is None
        and "my_answer" in found.message
        and repr(found).startswith("No answer yet")
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_passes(name):
    found = check_of(name)(answers_to(name).reference)
    assert found.correct is True, found


@pytest.mark.parametrize(
    "name, number",
    [(name, i) for name in NAMES for i in range(len(answers_to(name).INCORRECT_ANSWERS))],
)
def test_plausible_mistakes_fail_with_a_message_that_helps(name, number):
    answer, words = answers_to(name).INCORRECT_ANSWERS[number]
    found = check_of(name)(answer)
    assert found.correct is False, found
    assert words in found.message, found


def test_the_second_exercise_of_notebook_11_is_checked_as_well():
    answers = answers_to("nb11")
    check = importlib.import_module("imagen_mini.course.exercises.nb11").check_ablation
    assert check(answers.ablation_reference).correct is True
    assert check(lambda with_it, without: None).correct is None
    for answer, words in answers.INCORRECT_ABLATIONS:
        found = check(answer)
        assert found.correct is False and words in found.message, found


def test_the_second_exercise_of_notebook_14_is_checked_as_well():
    answers = answers_to("nb14")
    check = importlib.import_module("imagen_mini.course.exercises.nb14").check_energy
    for right in (answers.energy_reference, answers.energy_by_loop):
        assert check(right).correct is True, check(right)
    assert check(lambda maps, mask: None).correct is None
    for answer, words in answers.INCORRECT_ENERGIES:
        found = check(answer)
        assert found.correct is False and words in found.message, found


@pytest.mark.parametrize("name", ["nb16", "nb17"])
def test_diagnoses_are_checked_as_well(name):
    answers = answers_to(name)
    check = importlib.import_module(f"imagen_mini.course.exercises.{name}").check_diagnosis
    assert check(answers.diagnosis_reference).correct is True
    assert check(lambda *args: None).correct is None
    for answer, words in answers.INCORRECT_DIAGNOSES:
        found = check(answer)
        assert found.correct is False and words in found.message, found


@pytest.mark.parametrize("name", NAMES)
def test_there_are_two_mistakes_or_more(name):
    assert len(answers_to(name).INCORRECT_ANSWERS) >= 2


def test_a_check_tells_errors_from_blanks():
    @checks
    def check(answer):
        if answer(2) != 4:
            raise WrongAnswerError("not the square")
        return "the square"

    assert check(lambda x: x * x) == Checked(True, "the square")
    assert check(lambda x: x + 1) == Checked(False, "not the square")
    assert check(lambda x: None).correct is None
    assert (
        check(lambda x: 1 / 0).correct is False
        and "ZeroDivisionError" in check(lambda x: 1 / 0).message
    )


@pytest.mark.parametrize(
    "seen, words",
    [
        (2.0, "should be a tensor"),
        (torch.zeros(3), "shape"),
        (torch.tensor([1.0, 2.5]), "2.5 at [1], expected 2"),
        (torch.tensor([1.0, torch.nan]), "nan at [1]"),
    ],
)
def test_what_is_not_close_is_named(seen, words):
    with pytest.raises(WrongAnswerError, match=words.replace("[", r"\[")):
        expect_close(seen, torch.tensor([1.0, 2.0]), "x_t")
    expect_close(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]), "x_t")

"""How a model gets to see values and errors."""

import pytest

from reasoning_sdk._core.wording import member, printable, said, told


class Mute(Exception):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no such city"), "ValueError: no such city"),
        (ValueError(), "ValueError"),
        (KeyError("k"), "KeyError: 'k'"),
        (Mute(), "Mute"),
        (ValueError("\ud800"), "ValueError: \\ud800"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_its_kind_and_what_it_says(error, text):
    assert said(error) == text


def test_what_an_error_says_is_bounded():
    assert len(said(ValueError("x" * 100_000))) == 2001


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "True"),
        ("a", "'a'"),
        ({"a": 1}, "an object"),
        ([1, 2], "a list of 2"),
        (10**30_000, "an int of 99658 bits"),
        ("a" * 70, "'" + "a" * 59 + "…"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_told_in_few_words(value, text):
    assert told(value) == text


@pytest.mark.parametrize(
    ("name", "path"),
    [("a", "$.a"), ("a b", "$['a b']"), (3, "$[3]"), ("x" * 61, "$['" + "x" * 59 + "…]")],
)
def test_the_path_of_a_member_is_plain_where_its_name_is(name, path):
    assert member("$", name) == path


def test_half_a_character_can_be_written():
    assert printable("a\ud800") == "a\\ud800"

"""What docstrings say, in the styles of Google, NumPy and Sphinx."""

import pytest

from reasoning_sdk._core.docstrings import Docstring

GOOGLE = """Tell the weather.

    It may be wrong.

    Args:
        city (str): The city,
            with its country.
        unit (Literal["C", "F"], optional): The unit: C or F.
        **rest: What else.

    Returns:
        The weather.

    Raises:
        ValueError: It is not known.

    It ends here.
    """
NUMPY = """Tell the weather.

    It may be wrong.

    Parameters
    ----------
    city : str
        The city,
        with its country.
    unit : {"C", "F"}, optional
        The unit: C or F.
    **rest
        What else.

    Returns
    -------
    str
        The weather.
    """
SPHINX = """Tell the weather.

    It may be wrong.

    :param str city: The city,
        with its country.
    :param unit: The unit: C or F.
    :type unit: str
    :param rest: What else.
    :returns: The weather.
    :raises ValueError: It is not known.
    """


@pytest.mark.parametrize("doc", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_a_docstring_describes_the_function_and_its_parameters(doc):
    end = "\n\nIt ends here." if doc is GOOGLE else ""
    assert Docstring.of(doc) == Docstring(
        "Tell the weather.\n\nIt may be wrong." + end,
        {
            "city": "The city, with its country.",
            "unit": "The unit: C or F.",
            "rest": "What else.",
        },
    )


@pytest.mark.parametrize("doc", ["", "One line.", ":class:`X` is made.", "A\n\nNote: that\n:b"])
def test_a_docstring_without_sections_is_the_description(doc):
    assert Docstring.of(doc) == Docstring(doc, {})


def test_no_docstring_says_nothing():
    assert Docstring.of(None) == Docstring("", {})

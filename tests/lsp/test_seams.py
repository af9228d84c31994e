"""Fillings that leave their place are cut, those that lack a bracket get it, and good ones pass untouched."""

from __future__ import annotations

import pytest

from benchmarks.fit import balanced, indentation_right, repeats_suffix
from benchmarks.held_out import gaps
from diffcoder_lsp.features.inline import fitted
from diffcoder_lsp.seams import breaks_off, first_statement, kept_in_step
from diffcoder_lsp.session import PREFIX_CHARS, around


def gap(before, after="", language="python"):
    return around(before + after, len(before), len(before), language)


@pytest.mark.parametrize(
    ("before", "text", "after", "result"),
    [
        ("f(", "a)", ")\n", "a"),
        ("f(g(", "a)", ")\n", "a)"),
        ("f(", "g(a", ")\n", "g(a)"),
        ("f(", "a, [b, {1: 2", ")\n", "a, [b, {1: 2}]"),
        ("x = f(", "a)", "\n", "a)"),
        ("x = ", "f(a)]", "\n", "f(a)"),
        ("x = ", "1\ny = f(\n    2,", "\n", "1"),
        ("x = ", '")"', "\n", '")"'),
        ("x = [", "'a', 'b", "]\n", "'a'"),
        ("x = ", "f(a)  # :)", "\n", "f(a)  # :)"),
        ("# (\nx = ", "f(a))", "\n", "f(a)"),
        ("call(\n    a,\n    ", "b", "\n)\n", "b"),
        ("call(\n    a,\n    ", "b)\nmore()", "\n)\n", "b"),
        ("def f():\n    ", "x = 1\n        y = 2", "\n", "x = 1"),
        ("def f():\n    ", "x = 1\n  y = 2", "\n", "x = 1"),
        ("def f():\n    ", "    x = 1", "\n", "x = 1"),
        ("def f():\n", "    x = 1\n    return x", "\n", "    x = 1\n    return x"),
        (
            "def f():\n    ",
            "if x:\n        y()\n    else:\n        z()",
            "\n",
            "if x:\n        y()\n    else:\n        z()",
        ),
        ("def f():\n    ", "if x:\n    y()", "\n", "if x:"),
        ("def f():\n    x = ", "a + \\\n  b\n    return x", "\n", "a + \\\n  b\n    return x"),
        (
            "def f():\n    ",
            '"""Doc.\n\n  More.\n    """\n    return 1',
            "\n",
            '"""Doc.\n\n  More.\n    """\n    return 1',
        ),
    ],
)
def test_what_is_kept(before, text, after, result):
    assert kept_in_step(text, gap(before, after)) == result
    windows = gap(before.replace("\n", "\r\n"), after.replace("\n", "\r\n"))
    assert kept_in_step(text, windows) == result


@pytest.mark.parametrize(
    ("before", "text", "result"),
    [
        ("def f(x):\n    ", "return x\n    pass", "return x"),
        ("def f(x):\n    return ", "x + 1\n    pass\n    ...", "x + 1"),
        (
            "def f(x):\n    ",
            "return g(\n        x,\n    )\n    # Not so.\n    print(x)",
            "return g(\n        x,\n    )",
        ),
        ("def f(x):\n    ", 'return """\n    a\n    """\n    return 2', 'return """\n    a\n    """'),
        ("for x in y:\n    ", "if x:\n        break\n        x = 1\n    g(x)", "if x:\n        break"),
        ("def f(x):\n    return x", "\n    return 1", ""),
    ],
)
def test_what_can_never_run_is_cut(before, text, result):
    assert kept_in_step(text, gap(before, "\n")) == result


@pytest.mark.parametrize(
    ("before", "text"),
    [
        ("def f(x):\n    ", "if x:\n        return 1\n    return 2"),
        ("def f(x):\n    ", "if x:\n        return 1\n    else:\n        return 2\n    # Never.\n"),
        (
            "def f(x):\n    ",
            "try:\n        return g(x)\n    except KeyError:\n        raise\n    finally:\n        h()",
        ),
        (
            "def f(x):\n    ",
            "match x:\n        case 1:\n            return 2\n        case _:\n            return 3",
        ),
        ("def f(x):\n    ", "return_to = x\n    raised = g(return_to)\n    return raised"),
        ("def f(x):\n    ", "if x: return 1\n    return 2"),
        ("def f(x):\n    ", "return 1\n\n\ndef g(x):\n    return 2"),
        ("def f():\n    ", "return\n    yield"),
        ("def f(x):\n    ", '"""Says.\n\n    return x\n    or not.\n    """\n    x += 1\n    return x'),
        ("def f(x):\n    ", "return g(\n    x,\n    1,\n)"),
        ("def f(x):\n    ", "return x + \\\n    1"),
    ],
)
def test_what_can_run_is_left(before, text):
    assert kept_in_step(text, gap(before, "\n")) == text


def test_languages_where_brackets_need_not_match_are_left_alone():
    assert kept_in_step("a) echo 1;;", gap("case $x in\n", "\nesac\n", "bash")) == "a) echo 1;;"
    assert kept_in_step("f(a))", gap("x = ", "\n", "javascript")) == "f(a)"


def test_a_statement_that_goes_on_below():
    assert breaks_off("f(", gap("x = ", "\n"))
    assert not breaks_off("f(", gap("x = ", ")\n"))
    assert not breaks_off("f('(')", gap("x = ", "\n"))
    assert first_statement("f(\n    a,\n)\ny = 2", gap("x = ", "\n")) == "f(\n    a,\n)"


def test_a_window_that_begins_within_a_string_is_read_rightly():
    text = "x = 1\n" * 8000 + '"""\n' + "text (\n" * 3000 + '"""\n' + "y = 1\n" * 3000
    window = around(text + "z = ", len(text) + 4, len(text) + 4, "python")
    assert len(window.prefix) < PREFIX_CHARS * 2
    assert window.opened == ('"""' if not window.prefix.startswith(("x", "y")) else "")
    assert kept_in_step("f(a))", window) == "f(a)"


def test_damaged_truths_of_real_gaps_are_mended_and_whole_ones_pass():
    counts = 0
    for each in gaps(24, packages="networkx rich sympy"):
        place = around(each.prefix + each.suffix, each.start, each.start, "python")
        assert fitted(each.cut, place) == each.cut.rstrip()
        was_balanced = balanced(each.prefix + each.suffix)
        for damage in (
            ")",
            "\n  foo()",
            "\n" + each.suffix.lstrip()[:60],
            " + foo(a",
            "\n            deep = 1",
            "]}",
        ):
            filling = fitted(each.cut + damage, place)
            assert not repeats_suffix(filling, each.cut, each.suffix)
            assert indentation_right(each.prefix, filling)
            assert not was_balanced or balanced(each.prefix + filling + each.suffix)
            counts += 1
    assert counts == 144

"""Strings, comments, brackets and characters that nobody sees."""

from __future__ import annotations

import pytest

from diffcoder_lsp.scan import in_literal, unmatched, visible


@pytest.mark.parametrize(
    ("language", "prefix", "inside"),
    [
        ("python", "x = 1  # a com", True),
        ("python", "x = 'a", True),
        ("python", "x = 'a' + ", False),
        ("python", "x = 'it\\'s", True),
        ("python", 'def f():\n    """Doc\n    more', True),
        ("python", 'def f():\n    """Doc."""\n    ', False),
        ("python", "x = 'a\ny = ", False),
        ("python", "url = 'http://x'\n", False),
        ("python", "# one\n", False),
        ("javascript", "let a = 1; // b", True),
        ("javascript", "let a = `b\n${c", True),
        ("javascript", "/* a\n b", True),
        ("javascript", "/* a */ b", False),
        ("rust", "fn f<'a>(x: &'a str) -> ", False),
        ("c", "char c = '\"'; int x = ", False),
        ("sql", "select 1 -- all", True),
        ("markdown", "it's a", False),
        (None, "it's a", False),
    ],
)
def test_places_in_strings_and_comments_are_known(language, prefix, inside):
    assert in_literal(prefix, language) is inside


def test_brackets():
    assert unmatched("a(b[c])") == ("", "")
    assert unmatched("b)") == (")", "")
    assert unmatched("f(x[") == ("", "([")


def test_only_visible_characters_get_through():
    assert visible("a\u202eb\u200bc\x1b[31m\u2066\ufeff") == "abc[31m"
    assert visible("\tfür 漢 👩‍💻\n") == "\tfür 漢 👩‍💻\n"
    assert visible("a\u00adb", known="x\u00ad") == "a\u00adb"
    assert (
        visible("is\u200dadmin\u200c\ufe0f = \u3164\u2800") == "isadmin = \u2800"
    )  # names that only look alike
    assert visible("a\U000e0101\U000e0142\ufe01\u034f") == "a"  # text hidden in variation selectors
    assert visible("می\u200cخواهم") == "می\u200cخواهم"

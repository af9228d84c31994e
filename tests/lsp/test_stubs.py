"""Which stub bodies are found, and which gaps a document has."""

from __future__ import annotations

import pytest

from diffcoder_lsp.documents import Document
from diffcoder_lsp.features.gapfill import gaps
from diffcoder_lsp.features.implement import stubs
from diffcoder_lsp.protocol import FillGapsArguments, Position, Range
from model.schema import DiffcoderError


def found(text: str, name: str = "a.py") -> list[str]:
    document = Document.of(f"file:///{name}", text)
    return [text[start:end] for start, end in stubs(document, 0, len(document.lines) - 1)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f():\n    pass\n", ["pass"]),
        ("def f():\n    ...", ["..."]),
        (
            'def f(\n    a,\n) -> int:\n    """Doc.\n\n    More.\n    """\n    raise NotImplementedError("x")\n',
            ['raise NotImplementedError("x")'],
        ),
        (
            "class A:\n    async def f(self):\n        # TODO: do it\n        pass\n\n    x = 1\n",
            ["# TODO: do it\n        pass"],
        ),
        ("def f():\n    pass\ndef g():\n    pass\n", ["pass", "pass"]),
        ("try:\n    f()\nexcept E:\n    pass\n", []),
        ("class A:\n    pass\n", []),
        ("def f():\n    x = 1\n    pass\n", []),
        ("def f():\n    pass\n    x = 1\n", []),
        ("def f():\r\n    pass\r\n", ["pass"]),
        ("def f():\n    # guard\n    if not x:\n        return\n    # TODO: log it\n", []),
        ('def f():\n    """Doc."""\n    s = """a\n    b"""\n    pass\n', []),
        ('def f():\n    """Doc."""\n    # why\n    pass\n', ["pass"]),
        ("def f():\n    # one\n\n    # two\n    pass\n", ["pass"]),
    ],
)
def test_python(text, expected):
    assert found(text) == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.rs", "fn f() -> u8 {\n    todo!()\n}\n", ["todo!()"]),
        (
            "a.ts",
            "function f() {\n  throw new Error('not implemented');\n}\n",
            ["throw new Error('not implemented');"],
        ),
        ("a.go", "func f() {\n\t// TODO sort\n}\n", ["// TODO sort"]),
        ("a.ts", "function f() {\n  throw new Error('bad input');\n}\n", []),
        ("a.c", "int f(void)\n{\n  // TODO\n}\n", ["// TODO"]),
    ],
)
def test_braces(name, text, expected):
    assert found(text, name) == expected


@pytest.mark.parametrize(
    "text",
    ['def f():\n    raise NotImplementedError("‹?›")\n', "def f():\n    # TODO open ‹?› and read it\n"],
)
def test_a_marker_within_a_stub_is_the_gap_that_is_meant(text):
    document = Document.of("file:///a.py", text)
    assert [text[a:b] for a, b in gaps(document, FillGapsArguments("file:///a.py"))] == ["‹?›"]


def test_gaps_of_a_document_of_a_selection_and_of_ranges():
    text = "a = ‹?›\ndef f():\n    pass\nb = ‹?›\n"
    document = Document.of("file:///a.py", text)

    def of(**arguments):
        return [
            text[start:end] for start, end in gaps(document, FillGapsArguments("file:///a.py", **arguments))
        ]

    assert of() == ["‹?›", "pass", "‹?›"]
    assert of(range=Range(Position(3, 0), Position(3, 7))) == ["‹?›"]
    assert of(range=Range(Position(0, 0), Position(0, 1))) == ["a"]
    assert of(ranges=[Range(Position(3, 0), Position(3, 1)), Range(Position(0, 0), Position(0, 0))]) == [
        "",
        "b",
    ]
    whole_lines = [Range(Position(0, 0), Position(1, 0)), Range(Position(3, 0), Position(4, 0))]
    assert of(ranges=whole_lines) == ["a = ‹?›", "b = ‹?›"]  # their line ends stay
    overlap = [Range(Position(0, 0), Position(0, 3)), Range(Position(0, 1), Position(0, 2))]
    with pytest.raises(DiffcoderError, match="overlap"):
        of(ranges=overlap)
    with pytest.raises(DiffcoderError, match="no gap"):
        gaps(Document.of("file:///a.py", "x\n"), FillGapsArguments("file:///a.py"))

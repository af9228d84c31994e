"""The server's text is the client's text: random edits in three encodings against an independent model of it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.text_model import ALPHABET, Model, random_change
from diffcoder_lsp.documents import Document, Documents, path_of, rebased
from diffcoder_lsp.protocol import ContentChange, Position, Range

ENCODINGS = ["utf-8", "utf-16", "utf-32"]
texts = st.lists(st.sampled_from(ALPHABET), max_size=40).map("".join)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(text=texts, seed=st.integers(0, 2**32))
def test_incremental_changes_give_the_clients_text(encoding, text, seed):
    draw = random.Random(seed)
    model = Model(text, encoding)
    document = Document.of("file:///a.py", text, 1, "python", encoding)
    for version in range(2, 12):
        changes = [random_change(draw, model) for _ in range(draw.randint(1, 3))]
        document = document.changed(
            [
                ContentChange(new, None if place is None else Range(*(Position(*end) for end in place)))
                for place, new in changes
            ],
            version,
        )
        assert document.text == "".join(document.lines) == model.text
        assert (document.version, document.language) == (version, "python")


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(text=texts)
def test_positions_of_all_characters_come_back(encoding, text):
    document = Document.of("file:///a.py", text, encoding=encoding)
    model = Model(text, encoding)
    for offset in range(len(text) + 1):
        if text[offset - 1 : offset + 1] == "\r\n":
            continue  # between the two there is no position
        position = document.position(offset)
        assert (position.line, position.character) == model.position(offset)
        assert document.offset(position) == offset


def test_wrong_positions_mean_the_nearest_right_one():
    document = Document.of("file:///a.py", "ab\r\n😀x\n")
    assert document.offset(Position(0, 99)) == 2
    assert document.offset(Position(99, 3)) == len(document.text)
    assert document.offset(Position(-1, -1)) == 0
    assert document.offset(Position(0, -1)) == 0
    assert document.offset(Position(1, 1)) == 4  # within the pair
    assert document.span(Range(Position(1, 2), Position(0, 1))) == (1, 5)


def test_a_form_feed_and_a_line_separator_end_no_line():
    document = Document.of("file:///a.py", "a\x0cb\u2028c\x85d\ne")
    assert len(document.lines) == 2
    assert document.offset(Position(1, 0)) == 8


def test_a_place_moves_with_changes_beside_it_and_is_lost_with_changes_in_it():
    old = Document.of("file:///a.py", "one\ntwo\nthree\n")
    new = Document.of("file:///a.py", "zero\none\ntwo\nthree, four\n")
    assert rebased(old, new, 4, 8) == (9, 13)
    assert rebased(old, Document.of("file:///a.py", "one\ntw0\nthree\n"), 4, 8) is None
    assert rebased(old, old, 4, 8) == (4, 8)


def test_whole_lines_move_with_new_lines_right_above_and_below_them():
    old = Document.of("file:///a.py", "one\ntwo\nthree\n")

    def now(text: str, start: int = 4, end: int = 7) -> tuple[int, int] | None:
        return rebased(old, Document.of("file:///a.py", text), start, end)

    assert now("one\nnew\ntwo\nthree\n") == (8, 11)
    assert now("new\none\ntwo\nthree\n", 0, 7) == (4, 11)
    assert now("one\ntwo\nnew\nthree\n") == (4, 7)
    assert now("one\ntwo\nnew\nthree\n", 4, 8) == (4, 8)
    assert now("one\nnewtwo\nthree\n") is None
    assert now("one\ntwonew\nthree\n") is None
    assert now("one\nt\nwo\nthree\n", 5, 7) is None


def test_the_other_documents_keep_their_order_while_one_is_typed_in():
    documents = Documents()
    for name in "abc":
        documents.open(f"file:///{name}.py", name, 1, "python")
    order = [document.uri for document in documents.others("file:///c.py")]
    assert order == ["file:///b.py", "file:///a.py"]
    documents.change("file:///c.py", [ContentChange("x")], 2)
    assert [document.uri for document in documents.others("file:///c.py")] == order
    assert documents.change("file:///never.py", [ContentChange("x")], 2) is None


def test_languages_and_paths():
    assert Document.of("file:///a%20b/c.rs", "", language="plaintext").language == "rust"
    assert Document.of("file:///a.py", "", language="cython").language == "cython"
    assert path_of("file:///a%20b/c.rs") == "/a b/c.rs"
    assert path_of("untitled:Untitled-1") == "Untitled-1"

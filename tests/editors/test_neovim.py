"""The plugin in real Neovims, 0.11 and newer, key by key, with answers that are known to the letter."""

from __future__ import annotations

import importlib.metadata
import os
import re
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.editors.machines import of_another_version, program, without_python
from tests.editors.neovim import (
    BACKSPACE,
    ENTER,
    ESCAPE,
    INTERRUPT,
    LINE,
    NEXT,
    PREVIOUS,
    TAB,
    WORD,
    command,
    expect,
    neovim,
    project,
    rows,
    started,
    text,
)

ANSWER = '# answer: "if n < 2:\\n        return n\\n    return n * phi(n - 1)"\n'
BODY = ["    if n < 2:", "        return n", "    return n * phi(n - 1)"]
NOTES = "one\ntwo\nthree\nfour\nfive\nsix\nseven\n"
KNOWN = {"model": "answering"}
TWO_HUNKS = "lua require('diffcoder.edit').edit(1, 7, 'one\\ntwo!\\nthree\\nfour\\nfive\\nsix!\\nseven')"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return project(tmp_path / "project", {"phi.py": ANSWER, "notes.txt": NOTES, "tabs.py": "x = 1\n"})


def ghost(terminal) -> None:
    """Type a header and wait for the whole suggestion."""
    started(terminal)
    terminal.type(f"Godef phi(n):{ENTER}")
    terminal.wait(lambda shown: BODY[-1] in shown.split("\n"), 60)


def both_taken(terminal, folder):
    """The end of a review of TWO_HUNKS."""
    terminal.wait("2 of 2 changes taken", 5)
    expect(terminal, folder, NOTES.replace("two", "two!").replace("six", "six!"))


def test_ghost_text_is_taken_by_word_by_line_and_whole(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "phi.py", known_home, settings=KNOWN) as terminal:
        ghost(terminal)
        assert rows(terminal)[1:] == ["def phi(n):", *BODY]
        for key, column in ((WORD, 6), (WORD, 8), (LINE, 13)):
            terminal.keys(key)
            terminal.wait(lambda _, column=column: terminal.cursor() == (2, column), 5)
            assert rows(terminal)[1:] == ["def phi(n):", *BODY], "what is left stays in sight"
        terminal.keys(TAB)
        terminal.wait(lambda _: terminal.cursor() == (4, len(BODY[-1])), 5)
        terminal.keys(ESCAPE)
        expect(terminal, folder, ANSWER + "\n".join(["def phi(n):", *BODY, ""]))
        terminal.keys("u")  # each thing that was taken is a step of undo
        expect(terminal, folder, f"{ANSWER}def phi(n):\n{BODY[0]}\n")


def test_typing_along_keeps_the_text_and_typing_other_things_drops_it(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "phi.py", known_home, settings=KNOWN) as terminal:
        ghost(terminal)
        terminal.type("if n ")
        terminal.settle(0.1, 1)
        assert rows(terminal)[1:] == ["def phi(n):", *BODY]
        terminal.keys("> ")
        terminal.wait(lambda shown: "    return n * phi(n - 1)" not in shown.split("\n"), 5)
        terminal.keys(
            TAB
        )  # nothing that fits is shown now, whatever was: a tab, and not one letter of the old text
        terminal.settle(0.2, 1)
        terminal.keys(ESCAPE)
        assert text(terminal, folder).splitlines()[-1].rstrip() == "    if n >"


def test_alternatives_are_shown_by_turns(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "phi.py", known_home, settings=KNOWN) as terminal:
        ghost(terminal)
        terminal.keys(NEXT)
        terminal.wait("▒▒▒", 20)  # the model's draft, with its masks
        terminal.wait("(1/2)", 30)
        terminal.keys(NEXT)
        terminal.wait(f"{BODY[-1].upper()} (2/2)", 5)
        terminal.keys(PREVIOUS)
        terminal.wait("(1/2)", 5)
        terminal.keys(NEXT)
        terminal.wait("(2/2)", 5)
        terminal.keys(TAB)
        terminal.wait("(2/2)", 5, absent=True)
        terminal.keys(ESCAPE)
        assert text(terminal, folder).splitlines()[-1] == BODY[-1].upper()


def test_tab_is_a_tab_where_nothing_is_suggested(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "tabs.py", known_home, settings=KNOWN) as terminal:
        started(terminal)
        command(terminal, "set noexpandtab")
        terminal.keys(f"Go{TAB}y{ESCAPE}")
        expect(terminal, folder, "x = 1\n\ty\n")


def test_hunks_are_taken_one_by_one_and_undone_at_once(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "notes.txt", known_home, settings=KNOWN) as terminal:
        started(terminal)
        command(terminal, TWO_HUNKS)
        terminal.wait("1 of 2", 30)
        expect(terminal, folder, NOTES)
        assert rows(terminal)[1:4] == ["two", "two!", rows(terminal)[3]]
        terminal.keys(ENTER)
        terminal.wait("1 of 1", 5)
        expect(terminal, folder, NOTES.replace("two", "two!"))
        terminal.keys(BACKSPACE)
        terminal.wait("1 of 2 changes taken", 5)
        expect(terminal, folder, NOTES.replace("two", "two!"))
        terminal.keys("u")
        terminal.wait("two!", 5, absent=True)
        command(terminal, TWO_HUNKS)
        terminal.wait("1 of 2", 30)
        terminal.keys(f"{ENTER}")
        terminal.wait("1 of 1", 5)
        terminal.keys(ENTER)
        both_taken(terminal, folder)
        terminal.keys("u")  # one undo takes it all back
        terminal.wait("six!", 5, absent=True)
        expect(terminal, folder, NOTES)


def test_the_keys_of_a_review_are_lent(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "notes.txt", known_home, settings=KNOWN) as terminal:
        started(terminal)
        command(terminal, "nnoremap <buffer> <CR> <Cmd>echo 'mine'<CR>")
        command(terminal, TWO_HUNKS)
        terminal.wait("1 of 2", 30)
        terminal.keys("7G" + ENTER)  # no change here: the next one is gone to, and none is decided
        terminal.wait(lambda _: terminal.cursor()[0] != 8, 5)
        expect(terminal, folder, NOTES)
        terminal.keys("g" + BACKSPACE)
        terminal.wait("0 of 2 changes taken", 5)
        terminal.keys(ENTER)
        terminal.wait("mine", 5)
        expect(terminal, folder, NOTES)


def test_a_review_survives_other_changes_and_drops_what_no_longer_fits(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "notes.txt", known_home, settings=KNOWN) as terminal:
        started(terminal)
        command(terminal, TWO_HUNKS)
        terminal.wait("1 of 2", 30)
        terminal.keys(f"ggOzero{ESCAPE}")  # above: both move along
        terminal.wait("zero", 5)
        terminal.keys(f"/six{ENTER}Ax{ESCAPE}")
        terminal.wait("a proposed change was dropped: the text there has changed", 10)
        terminal.keys("g" + ENTER)
        terminal.wait("1 of 2 changes taken", 5)
        expect(terminal, folder, "zero\n" + NOTES.replace("two", "two!").replace("six", "sixx"))


def test_reading_the_file_again_keeps_the_review(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "notes.txt", known_home, settings=KNOWN) as terminal:
        started(terminal)
        command(terminal, TWO_HUNKS)
        terminal.wait("1 of 2", 30)
        command(terminal, "edit!")
        terminal.settle()
        assert "1 of 2" in terminal.text()
        terminal.keys("g" + ENTER)
        both_taken(terminal, folder)


def test_an_edit_is_asked_for_drafted_stopped_and_asked_for_again(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "notes.txt", known_home, settings=KNOWN) as terminal:
        started(terminal)
        command(terminal, "2,3Diffcoder edit")
        terminal.wait("Edit:", 5)
        terminal.keys(f"  {ENTER}")
        terminal.wait("the instruction is empty: say what to change", 5)
        words = " ".join(f"w{n}" for n in range(60))
        command(terminal, f"2,3Diffcoder edit {words}")
        terminal.wait("▒▒▒", 20)
        terminal.keys(INTERRUPT)
        terminal.wait("stopped", 5)
        terminal.wait("▒▒▒", 5, absent=True)
        command(terminal, "2,3Diffcoder edit deux trois")
        terminal.wait("1 of 1", 30)
        terminal.keys("gR")
        terminal.wait("Edit: deux trois", 5)
        terminal.keys(f" quatre{ENTER}")
        terminal.wait("1 of 1", 30)
        terminal.keys(ENTER)
        terminal.wait("changes taken", 5)
        expect(terminal, folder, NOTES.replace("two\nthree", "deux trois quatre"))


def test_a_file_that_may_not_be_changed_is_not_until_the_user_says_so(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "notes.txt", known_home, settings=KNOWN) as terminal:
        started(terminal)
        command(terminal, "set readonly nomodifiable")
        command(terminal, "2Diffcoder edit deux")
        terminal.wait("notes.txt is read-only", 10)
        terminal.keys(f"1{ENTER}")
        terminal.wait("1 of 1", 30)
        terminal.keys(ENTER)
        terminal.wait("1 of 1 changes taken", 5)
        expect(terminal, folder, NOTES.replace("two", "deux"))


def test_a_file_that_is_closed_while_the_model_works_loses_nothing(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "notes.txt", known_home, settings=KNOWN) as terminal:
        started(terminal)
        command(terminal, f"2,3Diffcoder edit {' '.join(f'w{n}' for n in range(40))}")
        terminal.wait("▒▒▒", 20)
        command(terminal, "edit tabs.py | bdelete! notes.txt")
        terminal.wait("x = 1", 10)
        time.sleep(3)  # longer than the words take
        assert "rror" not in terminal.settle()
        assert (folder / "notes.txt").read_text() == NOTES


def test_a_user_who_writes_elsewhere_goes_on_and_the_edit_goes_along(any_neovim, folder, known_home):
    words = " ".join(f"w{n}" for n in range(40))
    with neovim(any_neovim, folder, "notes.txt", known_home, settings=KNOWN) as terminal:
        started(terminal)
        command(terminal, f"5,6Diffcoder edit {words}")
        terminal.wait("▒▒▒", 20)
        terminal.keys("ggOzero")
        terminal.wait("1 of 1", 30)
        terminal.type(" and more")  # still where it was, and still in insert mode
        terminal.keys(ESCAPE)
        terminal.wait("1 change waits for your review; :Diffcoder next (]h) goes there", 5)
        there = f"zero and more\n{NOTES}"
        expect(terminal, folder, there)
        terminal.keys(ENTER)  # no change here: the next one is gone to, and none is decided
        terminal.wait(lambda _: terminal.cursor()[0] == 5, 5)
        expect(terminal, folder, there)
        terminal.keys("gR")  # the same lines, where they are now
        terminal.wait(f"Edit: {words[:20]}", 5)
        terminal.keys(f" more{ENTER}")
        terminal.wait("1 of 1", 30)
        terminal.keys(ENTER)
        terminal.wait("1 of 1 changes taken", 5)
        expect(terminal, folder, there.replace("five\nsix", f"{words} more"))


def test_an_edit_of_lines_that_the_user_writes_in_is_dropped(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "notes.txt", known_home, settings=KNOWN) as terminal:
        started(terminal)
        command(terminal, f"5,6Diffcoder edit {' '.join(f'w{n}' for n in range(40))}")
        terminal.wait("▒▒▒", 20)
        terminal.keys(f"5GAx{ESCAPE}")
        terminal.wait("The text changed while the model was at work", 30)
        expect(terminal, folder, NOTES.replace("five", "fivex"))


def test_a_review_of_a_file_that_is_closed_goes_on_when_it_is_opened_again(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "notes.txt", known_home, settings=KNOWN) as terminal:
        started(terminal)
        command(terminal, TWO_HUNKS)
        terminal.wait("1 of 2", 30)
        command(terminal, "edit tabs.py | bdelete notes.txt")
        terminal.wait("x = 1", 10)
        assert (folder / "notes.txt").read_text() == NOTES
        command(terminal, "edit notes.txt")
        terminal.wait("1 of 2", 10)
        terminal.keys("g" + ENTER)
        both_taken(terminal, folder)


def test_work_is_paused_looked_into_and_counted(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "notes.txt", known_home, rows=40, settings=KNOWN) as terminal:
        started(terminal)
        command(terminal, "Diffcoder pause")
        terminal.wait("diffcoder: paused", 10)
        command(terminal, "2Diffcoder edit deux")
        terminal.wait("diffcoder is paused", 10)
        command(terminal, "Diffcoder resume")
        terminal.wait("at work again", 10)
        command(terminal, "2Diffcoder edit deux")
        terminal.wait("1 of 1", 30)
        terminal.keys("gD")  # beside what it would be, in a tab
        terminal.wait(lambda shown: re.search(r"two +│.*deux", shown) is not None, 10)
        terminal.keys("q")
        terminal.wait("1 of 1", 10)
        terminal.keys(ENTER)
        terminal.wait("1 of 1 changes taken", 5)
        command(terminal, "Diffcoder prompt")
        terminal.wait('"instruction": "deux"', 10)
        terminal.keys("q")
        command(terminal, "Diffcoder stats")
        shown = terminal.wait("gaps", 10)
        assert re.search(r"edits +\d+ shown, [1-9]\d* accepted", shown)


def test_without_a_server_the_message_says_what_to_do(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "notes.txt", known_home, cmd=["no-such-program", "lsp"]) as terminal:
        terminal.wait("the option cmd names no-such-program, which cannot be run: correct it", 20)
        terminal.keys(ENTER)
        command(terminal, "Diffcoder edit x")
        terminal.wait("Install it now", 10)
        terminal.keys(f"2{ENTER}")
        terminal.settle()
        command(terminal, "Diffcoder nonsense")
        terminal.wait("there is no :Diffcoder nonsense; <Tab> lists what there is", 5)


def test_without_a_python_the_message_says_what_to_do(any_neovim, folder, known_home, tmp_path):
    bare = without_python(tmp_path / "bin", os.environ["PATH"])
    program(bare / "python3", "#!/bin/sh\necho 3.9\nexit 1\n")
    lost = ["no-such-program", "lsp"]
    for wanted in ("the server needs Python 3.11 or newer, and here is 3.9", "there is no Python"):
        with neovim(any_neovim, folder, "notes.txt", known_home, path=str(bare), cmd=lost) as terminal:
            terminal.wait("cannot be run: correct it", 20)
            terminal.keys(ENTER)
            command(terminal, "Diffcoder install")
            terminal.wait(wanted, 20)
        (bare / "python3").unlink(missing_ok=True)


def test_a_server_of_another_version_is_named(any_neovim, folder, known_home, tmp_path):
    other = of_another_version(tmp_path / "other", "0.9.0")
    cmd = [str(other), "lsp"]
    with neovim(any_neovim, folder, "notes.txt", known_home, cmd=cmd, settings=KNOWN) as terminal:
        version = importlib.metadata.version("diffcoder")
        terminal.wait(f"the server is version 0.9.0 and the plugin {version}: update the older one", 30)


def test_options_that_are_wrong_are_named_and_the_rest_counts(any_neovim, folder, known_home):
    options = {"drafs": True, "inline": {"enable": "yes"}, "keys": {"accept": 3}, "settings": KNOWN}
    with neovim(any_neovim, folder, "notes.txt", known_home, rows=30, **options) as terminal:
        shown = terminal.wait("keys.accept must be a mapping or false; its default is used", 20)
        assert "there is no option drafs; did you mean drafts?" in shown
        assert "inline.enable must be a boolean; its default is used" in shown


def test_a_folder_that_is_not_trusted_is_left_alone_until_it_is(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "phi.py", known_home, trusted="ask", settings=KNOWN) as terminal:
        started(terminal)
        terminal.type(f"Godef phi(n):{ENTER}")
        terminal.settle(1)
        terminal.keys(ESCAPE)
        terminal.wait("is not trusted, so nothing of it is sent to the model", 20)
        terminal.keys(ENTER)
        command(terminal, "silent! undo")
        command(terminal, "Diffcoder trust")
        terminal.wait("is trusted now", 10)
        terminal.keys(ENTER)
        terminal.settle()
        ghost(terminal)


def test_a_server_that_dies_is_started_again(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "phi.py", known_home, settings=KNOWN) as terminal:
        started(terminal)
        (server,) = [
            child
            for child in psutil.Process(terminal.process.pid).children(recursive=True)
            if "lsp" in child.cmdline()
        ]
        os.kill(server.pid, signal.SIGKILL)
        terminal.wait("Client diffcoder quit with exit code 0 and signal 9", 20)
        terminal.keys(ENTER)
        terminal.settle(1)
        terminal.keys(ENTER)
        command(terminal, "messages")
        terminal.wait("the server ended (signal 9) and is started again", 10)
        terminal.keys(ENTER)
        terminal.settle()
        ghost(terminal)


def test_the_command_completes_and_health_is_checked(any_neovim, folder, known_home):
    with neovim(any_neovim, folder, "notes.txt", known_home, rows=40, settings=KNOWN) as terminal:
        started(terminal)
        terminal.keys(f":Diffcoder re{TAB}")
        shown = terminal.wait("restart", 5)
        assert "resume" in shown
        terminal.keys(ESCAPE)
        terminal.settle()
        command(terminal, "Diffcoder status")
        terminal.wait("answering: ", 10)
        terminal.keys(ENTER)
        command(terminal, "checkhealth diffcoder")
        shown = terminal.wait("diffcoder doctor", 60)
        assert f"version {importlib.metadata.version('diffcoder')}, as the plugin" in shown
        command(terminal, "bwipeout")
        command(
            terminal, f"helptags {Path(__file__).parents[2] / 'editors/nvim/doc'} | help diffcoder-review"
        )
        terminal.wait("What would go is marked in the buffer", 10)

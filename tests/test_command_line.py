"""docs/command_line.md names every command with all of its options, and none that there is not; what docs/training.md
says to type can be typed."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import diffcoder_lsp.cli
import evaluation.cli
import training.cli
import training.tune

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "command_line.md").read_text("utf-8")


def parsers(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The parser of each command at the end of a line of them, `diffcoder` left out."""
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not inner:
        yield name, parser
    for choices in inner:
        for word, child in choices.choices.items():
            yield from parsers(f"{name} {word}".strip(), child)


def commands() -> dict[str, argparse.ArgumentParser]:
    found = dict(parsers("", diffcoder_lsp.cli._parser()))
    assert set(found) >= set(diffcoder_lsp.cli.PROGRAMS)
    del found["train"], found["eval"]
    found |= {"tune": training.tune.parser()}
    found |= parsers("train", training.cli._parser(training.cli._common()))
    found |= parsers("eval", evaluation.cli.parser(["TASK"]))
    return found


COMMANDS = commands()


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}


def items(program: str) -> tuple[str, dict[str, str]]:
    """Of a program's section what stands before its list, and its items by the first word."""
    section = TEXT.split(f"### `diffcoder {program}`\n", 1)[1].split("\n### ")[0]
    before, *found = re.split(r"^- `", section, flags=re.M)
    return before, {re.match(r"[\w-]+", item)[0]: item for item in found}


def named(text: str) -> set[str]:
    return set(re.findall(r"`(--?\w[\w-]*)", text))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_described_with_its_options(command: str) -> None:
    program, _, rest = command.partition(" ")
    before, found = items(program)
    item = found[rest or program]
    assert options(COMMANDS[command]) - named(before) - named(item) == set()
    assert named(item) - options(COMMANDS[command]) == set()


def test_nothing_is_described_that_there_is_not() -> None:
    for program in re.findall(r"^### `diffcoder (\w+)`", TEXT, flags=re.M):
        known = {c.partition(" ")[2] or program for c in COMMANDS if c.partition(" ")[0] == program}
        assert set(items(program)[1]) == known


def test_the_commands_of_the_training_page_can_be_typed() -> None:
    page = (DOCS / "training.md").read_text("utf-8").replace("\\\n", " ")
    found = re.findall(r"^    (?:diffcoder train|torchrun .* training\.cli) (.+)", page, flags=re.M)
    assert len(found) > 7
    for line in found:
        common = training.cli._common()
        given, rest = common.parse_known_args(shlex.split(line, comments=True))
        name = [] if rest[0] in training.cli.COMMANDS else ["train"]
        training.cli._parser(common).parse_args([*name, *rest], given)

"""Examples of edits: a file, the lines to rewrite, an instruction, and what these lines became.

Laid out as the engine asks for an edit (`model.layout.edit`), so that what is learnt is what is used; only the answer is
learnt. Where edits come from: `commits.py` (a repository's history), `transformations.py` (changes of which the right
answer is certain). Knows nothing of git or of syntax.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from model import layout, profiles
from model.checkpoints import Checkpoint
from model.layout import Mark, Selection
from model.profiles import Profile
from model.schema import EditRequest
from model.tokens import encode_text, special_ids
from training.layouts import Sequence

MOST_TOKENS = 1024  # of an example, the prompt's file around the selection included


@dataclass(frozen=True)
class Edit:
    """Lines `start` to `end` (1-based, inclusive) of `before` become `replacement` (whole lines). `origin`: where the
    example is from, for the record."""

    path: str
    language: str
    before: str
    start: int
    end: int
    instruction: str
    replacement: str
    origin: str


def sequence(edit: Edit, profile: Profile, tokenizer: Tokenizer) -> Sequence | None:
    """The example in the engine's prompt; None where it does not fit. The answer's first token follows `first`."""
    request = EditRequest(
        before=edit.before,
        start=edit.start,
        end=edit.end,
        instruction=edit.instruction,
        language=edit.language,
    )
    selection = Selection.of(request)
    lines = edit.replacement.removesuffix("\n").split("\n")
    text = "".join(f"{line.removeprefix(selection.indent) if line.strip() else ''}\n" for line in lines)
    answer = ids_of([f"{text}{selection.fence}", layout.end_of_turn(profile)[0]], tokenizer)
    room = MOST_TOKENS - len(answer) - len(encode_text(tokenizer, selection.text))
    if room < 128:
        return None
    prompt = ids_of(layout.edit(profile, request, selection, room), tokenizer)
    if len(prompt) + len(answer) > MOST_TOKENS * 5 // 4:
        return None
    return Sequence(np.array([*prompt, *answer], dtype=np.int64), len(prompt) - 1)


def ids_of(pieces: Iterable[layout.Piece], tokenizer: Tokenizer) -> list[int]:
    """The ids of a prompt's pieces."""
    marks = special_ids(tokenizer)
    return [
        id
        for piece in pieces
        for id in ([marks[piece.name]] if isinstance(piece, Mark) else encode_text(tokenizer, piece))
    ]


def profile_of(checkpoint: Checkpoint, tokenizer: Tokenizer, name: str = "auto") -> Profile:
    """The family of a base, by its name in the registry or by its marks, and what a recipe made of it."""
    return profiles.find(name, checkpoint.architecture, special_ids(tokenizer), checkpoint.made)


def sequences(edits: Iterable[Edit], profile: Profile, tokenizer: Tokenizer) -> Iterator[Sequence]:
    """Those that fit; none at all where the model takes no instructions."""
    if profile.chat != "none":
        yield from (made for edit in edits if (made := sequence(edit, profile, tokenizer)) is not None)

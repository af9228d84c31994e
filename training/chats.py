"""Examples of conversations: JSON lines of messages, every answer of the assistant's an example of its own.

Laid out in the chat form of the base's family (`model.layout`); the conversation before an answer is its prompt, and
only the answer is learnt. Secrets are taken out of all messages, and what stands in a benchmark is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from tokenizers import Tokenizer

from model import layout
from model.profiles import Profile
from model.schema import DiffcoderError
from training.corpus import BENCHMARK
from training.edits import ids_of
from training.layouts import Sequence
from training.scrubbing import scrub

MOST_TOKENS = 4096  # of an example: the context of sdc-sft-lora


class Message(msgspec.Struct, frozen=True):
    role: Literal["system", "user", "assistant"]
    content: str


class Chat(msgspec.Struct, frozen=True):
    """A line of the file; what else it holds is not read."""

    messages: Annotated[tuple[Message, ...], msgspec.Meta(min_length=1)]


def read(file: Path) -> Iterator[Chat]:
    """The conversations of a file, empty lines left out. A line that holds none -> DiffcoderError with its number."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield msgspec.json.decode(line, type=Chat)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise DiffcoderError(
                        "bad_chats",
                        f"Line {number} of {file} is no conversation ({error}): correct it or take it out.",
                    ) from None


def sequences(
    file: Path,
    profile: Profile,
    tokenizer: Tokenizer,
    contaminated: Callable[[str], bool],
    counts: Counter[str],
) -> Iterator[Sequence]:
    """An example for each answer in a file. `contaminated` says whether a text stands in a benchmark; `counts` counts
    what was taken or left out, by reason."""
    if profile.chat == "none":
        raise DiffcoderError("bad_base", "This base has no form for conversations: name another with --base.")
    end, *between = layout.end_of_turn(profile)
    seen: set[str] = set()
    for chat in read(file):
        prompt: list[int] = []
        for message in chat.messages:
            text, secrets = scrub(message.content)
            counts["secrets taken out"] += secrets
            if message.role != "assistant":
                prompt += ids_of(layout.turn(profile, message.role, text), tokenizer)
                continue
            prompt += ids_of(layout.opened(profile), tokenizer)
            answer = ids_of([text, end], tokenizer)
            whole = tokenizer.decode(
                [*prompt, *answer], skip_special_tokens=False
            )  # as `decontaminate` reads it
            if not text.strip():
                counts["left out: empty"] += 1
            elif len(prompt) + len(answer) > MOST_TOKENS:
                counts[f"left out: more than {MOST_TOKENS} tokens"] += 1
            elif whole in seen:
                counts["left out: seen before"] += 1
            elif contaminated(whole):
                counts[f"left out: {BENCHMARK}"] += 1
            else:
                seen.add(whole)
                yield Sequence(np.array([*prompt, *answer], dtype=np.int64), len(prompt) - 1)
            prompt += answer + ids_of(between, tokenizer)

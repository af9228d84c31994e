"""How far drafts are right: a wholly masked block behind many places of source files, by place of the block.

A file gives one piece of text, chosen by a hash of its path, with the context that an editor's prompt has around it;
every other file's in the infill layout. Behind every tenth token of the piece the model drafts a block as the engine
does, and each place is compared with what stands there. Where the model speaks autoregressively, place 1 is its own next
token and the block drafts those after it. Nothing is verified here, and an unlikely draft is not cut short, so numbers
say what drafts are worth before a verifier chooses among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation import repository_infill, statistics
from evaluation.chat_generator import ChatGenerator
from model import layout
from model.decoder import KVCache
from model.generator import FILL_TOKENS
from model.layout import Piece
from model.profiles import Profile
from model.sampler import Block, Network, Run, prefill
from model.schema import DiffcoderError

BEFORE, BEHIND, PIECE = 2000, 800, 640  # characters
EVERY = 10  # tokens from one block to the next
LEAST = 400  # characters of a file


@dataclass(frozen=True)
class File:
    """`piece` stood between `prefix` and `suffix`; without a suffix the prompt is plain text."""

    name: str
    language: str
    prefix: str
    piece: str
    suffix: str


@dataclass(frozen=True)
class Places:
    """Of one language, or of all: by place of the block, the share of drafts that were right, over all places of its
    files alike, with a 95 % interval (bootstrap over files)."""

    language: str
    files: int
    drafts: int
    right: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def files(folder: Path, limit: int) -> list[File]:
    """At most `limit` of each language."""
    found: dict[str, list[File]] = {}
    paths = {str(path.relative_to(folder)): path for path in repository_infill.sources(folder)}
    for name in sorted(paths, key=lambda name: (repository_infill.draw(name, "drafts"), name)):
        language = repository_infill.SUFFIXES[paths[name].suffix]
        mine = found.setdefault(language, [])
        if len(mine) < limit and (file := _cut(name, language, paths[name], infill=len(mine) % 2 == 1)):
            mine.append(file)
    return [file for language in sorted(found) for file in found[language]]


def _cut(name: str, language: str, path: Path, infill: bool) -> File | None:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
    if len(text) < LEAST:
        return None
    at = repository_infill.draw(name, "place") % max(1, len(text) - PIECE)
    at = text.rfind("\n", 0, at) + 1
    end = at + PIECE
    suffix = text[end : end + BEHIND] if infill else ""
    return File(name, language, text[max(0, at - BEFORE) : at], text[at:end], suffix)


def measure(model: ChatGenerator, asked: Sequence[File]) -> Iterator[list[list[bool]]]:
    """For each file its drafts, for each draft which of its places are right."""
    network = model.network
    if not network.diffuses:
        raise DiffcoderError(
            "unsupported_model",
            "This model drafts nothing: name another, or an adapter's file with --adapter.",
        )
    for file in asked:
        prompt = model.encode(_prompt(model.profile, file))
        yield list(right_places(network, [*prompt, *model.encode([file.piece])], len(prompt)))


def _prompt(profile: Profile, file: File) -> list[Piece]:
    if file.suffix:
        return layout.infill(profile, file.prefix, file.suffix, (), FILL_TOKENS)
    return [*layout.begun(profile), file.prefix]


def right_places(network: Network, ids: Sequence[int], first: int) -> Iterator[list[bool]]:
    """Of drafts behind `ids[:first]` and every tenth token after it: which places are those of `ids`."""
    step = network.block if network.aligned else 1  # what a place, and what is read, is a multiple of
    cache = KVCache(network.decoder.config, len(ids) + network.block)
    run = Run(max_tokens=1, ends=frozenset())
    size = network.block + network.shift
    for at in range(max(1, -(-first // step)) * step, len(ids) - size + 1, -(-EVERY // step) * step):
        prefill(network, cache, ids[cache.length : at - step], run)
        draft = _draft(network, cache, ids[cache.length : at])
        yield [token == ids[at + place] for place, token in enumerate(draft)]


def _draft(network: Network, cache: KVCache, clean: Sequence[int]) -> list[int]:
    """The likeliest tokens behind `clean`, which is kept in the cache."""
    block = Block(len(clean), [None] * network.block)
    clean_TV, noisy_BD = network.forward(cache, clean, [block], tail=int(network.speaks_ar))
    cache.keep(len(clean))
    if not network.speaks_ar:
        return network.draft(noisy_BD, clean[-1], unlikely=0.0)[0]
    first = int(clean_TV[0].argmax())
    return [first, *network.draft(noisy_BD[1 - network.shift :], first, unlikely=0.0)[0]]


def table(asked: Sequence[File], right: Sequence[list[list[bool]]]) -> list[Places]:
    """A line for each language, then one for all files."""
    by_language: dict[str, list[list[list[bool]]]] = {}
    for file, drafts in zip(asked, right, strict=True):
        if drafts:
            by_language.setdefault(file.language, []).append(drafts)
    if not by_language:
        raise DiffcoderError(
            "data_damaged", f"No source file of {LEAST} characters or more: name another folder."
        )
    lines = [_places(language, found) for language, found in by_language.items()]
    return [*lines, _places("all", [drafts for found in by_language.values() for drafts in found])]


def _places(language: str, found: Sequence[list[list[bool]]]) -> Places:
    counts = [len(drafts) for drafts in found]
    right, low, high = [], [], []
    for place in range(len(found[0][0])):
        sums = [sum(draft[place] for draft in drafts) for drafts in found]
        right.append(sum(sums) / sum(counts))
        shares = [one / count for one, count in zip(sums, counts, strict=True)]
        ends = statistics.bootstrap(shares, counts)
        low.append(ends[0])
        high.append(ends[1])
    return Places(language, len(found), sum(counts), tuple(right), tuple(low), tuple(high))

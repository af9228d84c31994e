"""The gated recipe's task: noisy blocks after random anchors, asked for what the frozen base would write there.

One clean pass of the base gives a sequence's keys, values and the base's own choices; many noisy blocks attend to it
with gradient. What each block is asked for is `objective.py`'s; the numbers while it trains are `progress.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.adapters import read_adapter
from model.checkpoints import open_checkpoint
from model.schema import DiffcoderError
from training import layouts, objective
from training.corpus import Corpus
from training.draft_head import Asked
from training.examples import Examples
from training.files import reading, save_array, write_atomically
from training.gated import GatedModel, adapter_bytes, checkpoint_sha256, load_adapter
from training.layouts import as_ids
from training.noise import rate_ceiling
from training.noisy_blocks import Noisy
from training.parallel import World
from training.progress import HeldOut, measure
from training.recipe import Gated
from training.trainer import AGAIN, Loss, averages

_DRAWS = 10_000  # of a sequence that holds a block, before the search is given up


class Drafting:
    """`Task` of a gated recipe. `written`: continuations of the base to learn from, where the recipe wants some; `edits`:
    the same of edits.

    `start`: an adapter file whose weights a new run begins with, in place of random ones.
    """

    def __init__(
        self,
        recipe: Gated,
        base: Path,
        corpus: Corpus,
        run: Path,
        held_out: HeldOut,
        written: Examples | None = None,
        start: Path | None = None,
        marks: layouts.Marks | None = None,
        edits: Examples | None = None,
        world: World | None = None,
    ):
        layouts.require_marks(recipe.infill, marks)
        self.recipe, self.corpus, self.held_out, self.written = recipe, corpus, held_out, written
        self.marks, self.edits = marks, edits
        self._require("no_continuations", "continuations of the base", "written", recipe.generated, written)
        self._require("no_examples", "edits", "examples", recipe.edits, edits)
        if edits is not None and not recipe.edits:
            raise DiffcoderError(
                "bad_recipe",
                "The recipe learns no edits: set edits in it to a share, or leave out --examples.",
            )
        self.shares, self.documents = by_language(corpus, recipe.languages)
        self.base_sha256 = checkpoint_sha256(base)
        known_S = None
        if start is not None:
            known_S = read_adapter(start, open_checkpoint(base).config, self.base_sha256).draft_vocab_S
        vocab = draft_vocabulary(corpus, recipe.draft_vocab, run, known_S, world)
        self.model = GatedModel(
            base,
            rank=recipe.rank,
            scale=recipe.scale,
            draft_vocab_S=vocab,
            seed=recipe.seed,
            chain=recipe.chain,
            precision=recipe.products(),
        )
        if start is not None:
            load_adapter(self.model, start)
        self.parameters = self.model.parameters

    def _require(self, code: str, what: str, option: str, share: float, given: Examples | None) -> None:
        """Refuse a share of sequences that there are none of."""
        if share and given is None:
            command = "write" if option == "written" else "commits"
            raise DiffcoderError(
                code,
                f"The recipe wants {what}: make some with `diffcoder train {command}` and name their folder with"
                f" --{option}.",
            )
        if share and given is not None and not any(map(self._holds_a_block, given)):
            raise DiffcoderError(code, f"All {what} in --{option} are too short to learn from: make others.")

    def loss(self, rng: np.random.Generator, step: int, number: int) -> Loss:
        """Of `together` sequences in one pass: a pass over the base's weights costs as much as many rows."""
        recipe, model = self.recipe, self.model
        ceiling = rate_ceiling(step, recipe.noise_warmup, recipe.noise_initial)
        sequences = [self._draw_whole(rng) for _ in range(recipe.together)]
        block = int(rng.choice(recipe.blocks))
        parts: list[Noisy] = []
        asked: list[Asked] = []
        read = model.read(*(as_ids(sequence.ids) for sequence in sequences))
        teacher_CS = model.drafts.teach(torch.cat([hidden_CD for _, hidden_CD in read]))  # of all sequences
        before = 0
        for sequence, (clean, hidden_CD) in zip(sequences, read, strict=True):
            own_CS = teacher_CS[before : before + len(hidden_CD)]
            made = self._blocks(rng, sequence, own_CS, block, ceiling)
            asked.append(Asked.of(made, recipe.shift, before))
            parts.append(Noisy(clean, asked[-1].ids_NB, asked[-1].mask_NB, as_ids(made.anchors_N)))
            before += len(hidden_CD)
        hidden_RD = model.denoise(*parts)
        every = Asked(*map(torch.cat, zip(*asked, strict=True)))
        total, weight = model.drafts.loss(
            hidden_RD, every, teacher_CS, soft=recipe.soft, missed=recipe.missed
        )
        return Loss(total, weight, len(hidden_RD))

    def _blocks(
        self,
        rng: np.random.Generator,
        sequence: layouts.Sequence,
        teacher_CS: Tensor,
        block: int,
        ceiling: float,
    ) -> objective.Blocks:
        recipe = self.recipe
        argmax_C = self.model.drafts.vocab_S[teacher_CS.argmax(-1)].numpy()
        agree_C = np.concatenate([[True], argmax_C[:-1] == sequence.ids[1:]])
        anchors_N = objective.choose_anchors(
            rng, agree_C, sequence.first, block, recipe.shift, recipe.noisy_rows // block, recipe.easy
        )
        return objective.make_blocks(
            rng,
            sequence.ids,
            argmax_C,
            anchors_N,
            block,
            shift=recipe.shift,
            partial=recipe.partial,
            ceiling=ceiling,
            weights=objective.Weights(
                recipe.first_weight, recipe.decay, recipe.off_weight, recipe.partial_weight
            ),
        )

    def _draw_whole(self, rng: np.random.Generator) -> layouts.Sequence:
        for _ in range(_DRAWS):
            if self._holds_a_block(sequence := self._draw(rng)):
                return sequence  # else a file or an answer ended at once
        raise DiffcoderError(
            "too_short",
            f"Of {_DRAWS} sequences none was long enough for a block of {max(self.recipe.blocks)}: add longer files,"
            " or make the recipe's blocks smaller.",
        )

    def _holds_a_block(self, sequence: layouts.Sequence) -> bool:
        return len(sequence.ids) - sequence.first > max(self.recipe.blocks) + self.recipe.shift

    def _draw(self, rng: np.random.Generator) -> layouts.Sequence:
        recipe = self.recipe
        if self.written is not None or self.edits is not None:
            kind = rng.random()
            if self.written is not None and kind < recipe.generated:
                return self.written.draw(rng)
            if self.edits is not None and kind < recipe.generated + recipe.edits:
                return self.edits.draw(rng)
        length = int(rng.integers(recipe.length[0], recipe.length[1] + 1))
        documents = self.documents[int(rng.choice(len(self.documents), p=self.shares))]
        document = self.corpus.document(int(rng.choice(documents)))
        if rng.random() < recipe.infill and self.marks is not None:
            return layouts.infill(rng, document, length, self.marks, ends=layouts.ENDS)
        return layouts.left_to_right(rng, document, length)

    def measure(self) -> dict[str, object]:
        return measure(self.model, self.held_out, self.recipe.shift)

    def export(self, run: Path, weights: dict[str, Tensor], facts: dict[str, object]) -> None:
        export_adapter(self.recipe, self.base_sha256, self.model.drafts.vocab_S, run, weights, facts)


def export_adapter(
    recipe: Gated,
    base_sha256: str,
    draft_vocab_S: Tensor,
    run: Path,
    weights: Mapping[str, Tensor],
    facts: dict[str, object],
) -> Path:
    """Write `adapter.safetensors` into the run folder, in the form that the engine loads."""
    facts = {"shift": recipe.shift, "blocks": recipe.blocks} | facts
    path = run / "adapter.safetensors"
    write_atomically(path, adapter_bytes(weights, draft_vocab_S, recipe.scale, base_sha256, facts))
    return path


def export_checkpoint(recipe: Gated, base: Path, run: Path) -> Path:
    """The adapter of a run's last checkpoint, without loading the base: for a run that was stopped."""
    base_sha256 = checkpoint_sha256(base)
    weights, facts = averages(run, base_sha256)
    return export_adapter(recipe, base_sha256, _known_vocabulary(run), run, weights, facts)


def by_language(corpus: Corpus, languages: dict[str, float]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The share of each language and its documents to train on; one entry for all where none is named."""
    wanted = languages or {"": 1.0}
    documents = [corpus.indices(held_out=False, languages=[name] if name else []) for name in wanted]
    for name, found in zip(wanted, documents, strict=True):
        if not len(found):
            raise DiffcoderError(
                "empty_corpus",
                f"The corpus holds no {name} file to learn from: take {name} out of the recipe.",
            )
    return np.array(list(wanted.values())) / sum(wanted.values()), documents


def draft_vocabulary(
    corpus: Corpus, size: int, run: Path, known_S: Tensor | None = None, world: World | None = None
) -> Tensor:
    """The ids the drafting head knows, sorted: single bytes and special tokens, then the corpus's most frequent; of
    equally frequent ones those of `known_S` first.

    Written to the run folder once, so that a corpus that has grown changes nothing for a run.
    """
    world = world or World()
    if world.leads and not (run / "draft_vocab.npy").is_file():
        run.mkdir(parents=True, exist_ok=True)
        save_array(run / "draft_vocab.npy", _most_frequent(corpus, size, known_S))
    world.wait()
    return _known_vocabulary(run)


def _known_vocabulary(run: Path) -> Tensor:
    """What `draft_vocabulary` wrote."""
    path = run / "draft_vocab.npy"
    with reading(path, AGAIN):
        return as_ids(np.load(path))


def _most_frequent(corpus: Corpus, size: int, known_S: Tensor | None) -> np.ndarray:
    vocab = corpus.facts["vocabulary"]
    counts = corpus.frequencies(vocab["size"]).astype(np.float64)
    if known_S is not None:
        counts[known_S.numpy()] += 0.5  # less than an occurrence
    counts[vocab["always"]] = counts.max() + 1
    return np.sort(np.argsort(-counts, kind="stable")[:size])

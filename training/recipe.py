"""A recipe: every knob of a training run, typed, read from a TOML file. Unknown fields are errors."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from model.schema import DiffcoderError

RECIPES = Path(__file__).parent / "recipes"


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every kind of run has. `kind` in the file says which kind it is."""

    sequences: int = 1
    """Sequences a step."""
    infill: float = 0.5
    """Share of sequences in the infill layout."""
    noise_warmup: int = 100
    """Steps over which the ceiling of the masking rate rises to 1."""
    noise_initial: float = 0.1
    """The ceiling at the first step."""
    lr: float = 1e-3
    """Peak learning rate (AdamW, no weight decay)."""
    lr_warmup: int = 20
    """Steps of linear warm-up."""
    steps: int = 1000
    """Planned steps."""
    decay_steps: int = 300
    """The last steps, over which the learning rate falls linearly to a twentieth."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's averages."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.98
    """Decay of the average of the weights that is evaluated and exported."""
    seed: int = 0
    """Seed of the start and, with the step, of everything drawn at that step."""

    def rate(self, step: int) -> float:
        """The learning rate at `step`, from 0."""
        rise = min(1.0, (step + 1) / max(1, self.lr_warmup))
        left = (self.steps - step) / max(1, self.decay_steps)
        return self.lr * rise * max(0.05, min(1.0, left))


class Gated(Recipe, frozen=True, kw_only=True, tag="gated"):
    """A gated block-diffusion adapter on a frozen autoregressive base (`drafting.py`)."""

    languages: dict[str, float] = {}
    """Share of sequences in each language; empty: documents are drawn regardless of language."""
    rank: int = 32
    """Rank of the low-rank pair on every linear."""
    scale: float = 2.0
    """Factor on the low-rank product."""
    chain: int = 0
    """Inner width of the head that tells a noisy row the token at its own place (`model.decoder.Chain`); 0: none."""
    shift: Literal[0, 1] = 1
    """1: a noisy row predicts the token after it, as the base does; 0: its own."""
    draft_vocab: int = 32768
    """How many token ids the drafting head knows: specials, single bytes, then the most frequent."""
    blocks: tuple[int, ...] = (3, 3, 4)
    """Rows of a noisy block, one number drawn for each sequence."""
    length: tuple[int, int] = (128, 320)
    """Shortest and longest clean sequence, tokens."""
    noisy_rows: int = 384
    """Noisy rows over each clean sequence."""
    easy: float = 2.0
    """Preference for anchors from where the base agrees with the text (`objective.choose_anchors`)."""
    generated: float = 0.0
    """Share of sequences that the base wrote itself (`continuations.py`)."""
    partial: float = 0.15
    """Share of partly masked blocks."""
    first_weight: float = 0.3
    """Loss weight of the place right after the anchor."""
    decay: float = 0.9
    """Loss weight from one place to the next."""
    off_weight: float = 0.25
    """Loss weight behind the first place where the base disagrees with the text."""
    partial_weight: float = 0.5
    """Loss weight of a masked place in a partly masked block."""
    soft: float = 0.0
    """Share of the base's own distribution in the target of a place that is asked for the base's choice."""
    missed: float = 1.0
    """Factor on the loss of places behind the first that the drafter itself gets wrong in a wholly masked block."""


class Team(Recipe, frozen=True, kw_only=True, tag="team"):
    """Low-rank weights on a frozen base that learn one repository (`team.py`)."""

    rank: int = 16
    """Rank of the low-rank pair on every linear."""
    scale: float = 2.0
    """Factor on the low-rank product."""
    length: int = 512
    """Longest window of a file, tokens."""
    edits: float = 0.1
    """Share of sequences that are edits from the repository's history, where there are any."""
    block: int = 3
    """Rows of a noisy block."""
    noisy_rows: int = 48
    """Noisy rows over each clean sequence, where the base has a drafting adapter."""
    noisy_weight: float = 0.2
    """Weight of the noisy rows' loss beside that of the clean ones."""
    epochs: float = 3.0
    """How often the repository is read at most, where the time allows it."""


class Diffusion(Recipe, frozen=True, kw_only=True, tag="diffusion"):
    """Block diffusion over packed documents, `[noisy | clean]`, of all weights or of low-rank ones (`diffusion.py`)."""

    objective: Literal["diffusion", "ar"] = "diffusion"
    """"ar": plain next-token training on the same packs, for comparison (the AR twin)."""
    context: int = 8192
    """Tokens of a packed sequence."""
    block: int = 4
    """Places of a block; blocks lie at absolute multiples of it."""
    clipped: bool = True
    """Whether the masking rate is clipped from below at 1/block."""
    document_mask: bool = True
    """Whether documents of a pack are kept apart; false is the paper's way."""
    causal: bool = False
    """Whether clean rows stay causal, as in an autoregressive model, or see their whole block."""
    ar_weight: float = 0.0
    """Weight of a next-token loss on the clean rows (causal only): keeps a trained model able to verify."""
    ends: int = 4
    """Most end tokens after a document."""
    mask_token: int = 151662
    """The token that stands for a masked place."""
    end_token: int = 151643
    """The token that ends a document."""
    data: Literal["files", "examples"] = "files"
    """"examples": edits and answers whose prompt is never masked (`edits.py`), in place of the corpus's files."""
    rank: int = 0
    """Rank of low-rank pairs on every linear of a frozen base; 0: every weight of the base is trained."""
    scale: float = 2.0
    """Factor on the low-rank product."""
    form: Literal["fp32", "int8", "nf4"] = "fp32"
    """How a frozen base holds its linears; "nf4" takes bitsandbytes, 4.13 bits a weight."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What products are computed in, while weights and their sums stay fp32; "auto": bf16 on a GPU, fp32 elsewhere."""
    recompute: bool = False
    """Whether each layer is computed again in the backward pass, to keep its input alone (gradient checkpointing)."""


Kinds = Gated | Team | Diffusion


def load(name: str) -> Kinds:
    """A recipe by name (this package's own) or by the path of a TOML file."""
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise DiffcoderError(
            "no_recipe", f"There is no recipe {name!r}: use one of {known}, or a .toml file's path."
        )
    try:
        recipe: Kinds = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Kinds)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise DiffcoderError("bad_recipe", f"{path.name} cannot be used: {error}.") from error
    if isinstance(recipe, Diffusion) and recipe.ar_weight and not recipe.causal:
        raise DiffcoderError("bad_recipe", f"{path.name} cannot be used: ar_weight needs causal = true.")
    if isinstance(recipe, Diffusion) and recipe.form != "fp32" and not recipe.rank:
        raise DiffcoderError(
            "bad_recipe",
            f"{path.name} cannot be used: form {recipe.form} is of a frozen base, which needs a rank.",
        )
    return recipe

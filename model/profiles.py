"""What differs between model families, as data: marks, layouts, mask token, blocks, what clean tokens see.

Token marks are written by name; `generator.py` looks their ids up in the model's own tokenizer. Knows no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import msgspec

from model.schema import DiffcoderError

PREFIX, SUFFIX, CONTEXT = "{prefix}", "{suffix}", "{context}"


@dataclass(frozen=True)
class Profile:
    """One family.

    `infill`: the prompt of a gap as a sequence of marks and the placeholders {context}, {prefix}, {suffix}; the gap's
    text follows it. `ends`: marks that end a text. `file_mark`: begins another file's excerpt (its path, a newline,
    the text), or None where the family has none.
    `weights`: "gated" (the adapter acts on noisy rows, the base verifies), "merged" (one set of weights for clean and
    noisy rows) or "base" (no diffusion).
    `clean`: what committed tokens see. `aligned`: blocks lie at absolute multiples of `block`, otherwise they begin
    where the text begins. `mask`: the token that stands for a masked place (merged models embed it; a gated adapter
    brings its own embedding); it is never produced. `verifies`: a merged model's clean rows learnt to predict the next
    token too.
    """

    name: str
    infill: tuple[str, ...]
    ends: tuple[str, ...]
    mask: str | None
    weights: Literal["gated", "merged", "base"]
    block: int
    file_mark: str | None = None
    chat: Literal["chatml", "seed", "none"] = "none"
    clean: Literal["causal", "block_causal"] = "causal"
    aligned: bool = False
    verifies: bool = False
    begin: str | None = None


_QWEN_ENDS = (
    "<|endoftext|>",
    "<|im_end|>",
    "<|file_sep|>",
    "<|repo_name|>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
)

# Suffix first, the prefix running on into the gap: 44 of 60 HumanEval gaps, against 27 in the usual order (greedy
# AR, first line kept); and while the user types only the end of the prompt grows.
QWEN = Profile(
    name="qwen-coder",
    infill=(CONTEXT, "<|fim_prefix|>", "<|fim_suffix|>", SUFFIX, "<|fim_middle|>", PREFIX),
    ends=(*_QWEN_ENDS, "<|fim_middle|>", "<|fim_pad|>"),
    mask="<|fim_pad|>",
    weights="gated",
    block=4,
    file_mark="<|file_sep|>",
    chat="chatml",
)

SMOLLM = Profile(
    name="smollm",
    infill=(PREFIX,),
    ends=("<|endoftext|>", "<|im_end|>", "<file_sep>"),
    mask=None,
    weights="base",
    block=1,
    chat="chatml",
)

SEED_CODER = Profile(
    name="seed-coder",
    infill=("<[fim-suffix]>", SUFFIX, "<[fim-prefix]>", CONTEXT, PREFIX, "<[fim-middle]>"),
    ends=("<[end▁of▁sentence]>",),
    mask=None,
    weights="base",
    block=1,
    chat="seed",
    begin="<[begin▁of▁sentence]>",
)

STABLE_DIFFCODER = replace(
    SEED_CODER,
    name="stable-diffcoder",
    mask="<[MASK_TOKEN]>",
    weights="merged",
    block=4,
    clean="block_causal",
    aligned=True,
)

PROFILES = {profile.name: profile for profile in (QWEN, SMOLLM, SEED_CODER, STABLE_DIFFCODER)}


class Made(msgspec.Struct, frozen=True):
    """What a diffusion recipe (`training/diffusion.py`) notes under "diffcoder" in the config.json of the model it made.
    What else stands there, numbers of the run, does not matter here."""

    objective: Literal["diffusion", "ar"]
    block: Annotated[int, msgspec.Meta(ge=1, le=64)]
    causal: bool
    mask_token: int
    end_token: int
    ar_weight: Annotated[float, msgspec.Meta(ge=0)] = 0.0


def find(name: str, architecture: str, tokens: Mapping[str, int], made: object = None) -> Profile:
    """The profile of that name; for "auto", the one whose marks the tokenizer has (`tokens`: name -> id).

    `made`: what config.json says of a model that a recipe made out of one of that family, unchecked (`Made`).
    """
    family = _family(name, architecture, tokens)
    return family if made is None else _made_from(family, tokens, made)


def _made_from(family: Profile, tokens: Mapping[str, int], entry: object) -> Profile:
    try:
        made = msgspec.convert(entry, Made)
    except msgspec.ValidationError as error:
        raise DiffcoderError(
            "corrupt_model",
            f"config.json cannot be used (its diffcoder entry: {error}): export the model again.",
        ) from None
    names = {id: name for name, id in tokens.items()}
    diffuses = made.objective == "diffusion"
    for field in ("end_token", "mask_token")[: 1 + diffuses]:
        if getattr(made, field) not in names:
            raise DiffcoderError(
                "corrupt_model",
                f"config.json cannot be used (its diffcoder entry: {field} {getattr(made, field)} is no special token of"
                " the tokenizer): export the model again, with its own tokenizer.",
            )
    end = names[made.end_token]
    ends = (end, *(mark for mark in family.ends if mark != end))
    if not diffuses:
        return replace(
            family, ends=ends, weights="base", block=1, clean="causal", aligned=False, verifies=False
        )
    return replace(
        family,
        name=f"{family.name}-diffusion",
        ends=ends,
        mask=names[made.mask_token],
        weights="merged",
        block=made.block,
        clean="causal" if made.causal else "block_causal",
        aligned=True,
        verifies=made.causal and made.ar_weight > 0,
    )


def _family(name: str, architecture: str, tokens: Mapping[str, int]) -> Profile:
    if name in PROFILES:
        return PROFILES[name]
    if name != "auto":
        raise DiffcoderError(
            "bad_registry", f"There is no profile {name!r}: use one of {', '.join(PROFILES)} in models.toml."
        )
    if "<|fim_middle|>" in tokens:
        return replace(QWEN, weights="base", block=1, name="qwen")
    if "<[MASK_TOKEN]>" in tokens:
        return STABLE_DIFFCODER
    if "<[fim-middle]>" in tokens:
        return SEED_CODER
    ends = tuple(
        mark for mark in ("<|endoftext|>", "<|im_end|>", "</s>", "<|end_of_text|>") if mark in tokens
    )
    if not ends:
        raise DiffcoderError(
            "unsupported_model", f"No profile fits this {architecture} model: name one in models.toml."
        )
    return replace(SMOLLM, name="plain", ends=ends, chat="none")

"""One JSON object a line in, one a line out: `diffcoder fill --stdin-json` and `edit --stdin-json`.

A stable contract for scripts. Order is kept, answers are written as they come, a line that cannot be
answered gets `{"id", "error"}` and the rest goes on. Output is ASCII (other characters are escaped), so no
locale can spoil it. Knows nothing of how an engine is reached: it is given a function that has one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from math import isfinite
from typing import Annotated, Any, Protocol

import msgspec

from diffcoder_lsp.edits import check_instruction, replace_lines, unified_diff
from diffcoder_lsp.gaps import gap_between, line_range
from diffcoder_lsp.lines import with_line_ends
from model.schema import (
    DiffcoderError,
    EditRequest,
    EditResponse,
    FillRequest,
    FillResponse,
    Limits,
    Rule,
    Verify,
)

Seed = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Engine(Protocol):
    """What answers: `engine_client.EngineClient`."""

    def fill(self, request: FillRequest) -> FillResponse: ...
    def edit(self, request: EditRequest) -> EditResponse: ...


class FillLine(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One line of `fill --stdin-json`. Only `prefix` is needed; null and a missing key mean the default."""

    id: str | int | float | None = None
    prefix: str
    suffix: str | None = None
    language: str | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    rule: Rule | None = None
    verify: Verify | None = None
    stop: str | tuple[str, ...] | None = None
    seed: Seed | None = None
    model: str | None = None


class EditLine(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One line of `edit --stdin-json`: rewrite lines `start`..`end` (from 1, inclusive) of `before`."""

    id: str | int | float | None = None
    before: str
    start: int
    end: int
    instruction: str
    language: str | None = None


def fill_answer(response: FillResponse) -> dict[str, Any]:
    """The keys of a filling, in the contract's order, without the `id`."""
    return {"text": response.text, **costs(response)}


def costs(response: FillResponse | EditResponse) -> dict[str, Any]:
    """What an answer cost and how it ended."""
    usage = response.usage
    return {
        "tokens": usage.tokens,
        "forwards": usage.forwards,
        "ms": round(usage.ms, 1),
        "prefill_tokens": usage.prefill_tokens,
        "cached_tokens": usage.cached_tokens,
        "confidence": round(response.confidence, 4),
        "stop_reason": response.stop_reason,
    }


def fill_lines(
    lines: Iterable[bytes],
    write: Callable[[str], None],
    engine: Callable[[str | None], Engine],
    limits: Limits,
) -> None:
    """Answer every line of `lines`; `limits` holds what a line does not say, `engine(model)` answers."""

    def answer(line: FillLine) -> dict[str, Any]:
        given = {
            "max_tokens": line.max_tokens,
            "rule": line.rule,
            "verify": line.verify,
            "stop": (line.stop,) if isinstance(line.stop, str) else line.stop,
            "seed": line.seed,
        }
        text, at = line.prefix + (line.suffix or ""), len(line.prefix)
        gap = gap_between(text, at, at, line.language)
        request = gap.request(
            msgspec.structs.replace(
                limits, **{key: value for key, value in given.items() if value is not None}
            ),
            model=line.model,
        )
        response = engine(line.model).fill(request)
        return fill_answer(msgspec.structs.replace(response, text=with_line_ends(response.text, gap.newline)))

    _answer_lines(lines, write, FillLine, answer)


def edit_lines(
    lines: Iterable[bytes],
    write: Callable[[str], None],
    engine: Callable[[str | None], Engine],
    limits: Limits,
) -> None:
    """Answer every line of `lines`; `limits` holds for all of them."""

    def answer(line: EditLine) -> dict[str, Any]:
        line_range(line.before, line.start, line.end)
        check_instruction(line.instruction)
        request = EditRequest(
            before=with_line_ends(line.before, "\n"),
            start=line.start,
            end=line.end,
            instruction=line.instruction,
            language=line.language,
            limits=limits,
        )
        response = engine(None).edit(request)
        text = replace_lines(line.before, line.start, line.end, response.replacement)
        return {"text": text, "diff": unified_diff(line.before, text, "text")}

    _answer_lines(lines, write, EditLine, answer)


def _answer_lines(
    lines: Iterable[bytes],
    write: Callable[[str], None],
    form: type[Any],
    answer: Callable[[Any], dict[str, Any]],
) -> None:
    for number, raw in enumerate(lines, 1):
        raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if not raw.strip():
            continue
        name = None
        try:
            value = _parse(raw, number)
            name = _id_of(value)
            result = answer(_fit(value, form, number))
        except DiffcoderError as error:
            result = {"error": error.message}
        write(json.dumps({"id": name, **result}) + "\n")


def _parse(raw: bytes, number: int) -> Any:
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8 ({error.reason} at byte {error.start + 1})"
    except json.JSONDecodeError as error:
        reason = f"it is not JSON ({error.msg} at character {error.pos + 1})"
    except (ValueError, RecursionError) as error:
        reason = f"it is not JSON ({error})"
    raise DiffcoderError("bad_line", f"Line {number} cannot be read: {reason}.")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _id_of(value: Any) -> str | int | float | None:
    """The id to answer under: what the line says, if it is a string or a number that JSON can carry back."""
    name = value.get("id") if isinstance(value, dict) else None
    return name if isinstance(name, str | int) or (isinstance(name, float) and isfinite(name)) else None


def _fit(value: Any, form: type[Any], number: int) -> Any:
    try:
        line = msgspec.convert(value, form)
        msgspec.json.encode({**value, "id": None})
    except msgspec.ValidationError as error:
        reason = str(error)
    except UnicodeEncodeError as error:  # legal in JSON, but no text: nothing could be written with it
        reason = f"it holds a lone surrogate (U+{ord(error.object[error.start]):04X})"
    else:
        return line
    raise DiffcoderError("bad_line", f"Line {number} does not fit: {reason}.")

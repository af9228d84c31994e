"""What `diffcoder fill` and `diffcoder edit` do with one file, once their arguments are known.

Reads the file, asks the engine, shows the answer and, where asked, writes the file. Knows nothing of how
arguments are spelt, of how an engine is started or of what a filling looks like on a screen.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from diffcoder_lsp.edits import check_instruction, replace_lines, unified_diff
from diffcoder_lsp.engine_client import EngineClient
from diffcoder_lsp.files import read_file, write_file
from diffcoder_lsp.gaps import gap_between, language_of, line_range, offset_of, pieces_at_markers, position_of
from diffcoder_lsp.lines import line_end, with_line_ends
from diffcoder_lsp.stdin_json import costs, fill_answer
from diffcoder_lsp.terminal import Excerpt, Screen, status
from model.schema import DiffcoderError, EditRequest, Limits

_NUMBER = r"-?\d{1,99}"
"""A line or column as people type it; whether the file has it is said once the file is read."""


def fill(
    target: str, limits: Limits, *, model: str = "default", write: bool = False, as_json: bool = False
) -> str:
    """Fill the gap that `target` names (FILE:LINE:COL), or every marker of the file (FILE).

    Several gaps are filled from the first to the last, each with the answers before it in place; the file
    is written once, when all are filled. Returns the whole new text.
    """
    position = re.fullmatch(rf"(.+):({_NUMBER}):({_NUMBER})", target, re.DOTALL)
    if position is None and re.fullmatch(r".+:-?\d+", target, re.DOTALL) and not Path(target).exists():
        raise DiffcoderError("bad_position", f"{target} names no column: give FILE:LINE:COL.")
    source = read_file(position.group(1) if position else target)
    if position:
        offset = offset_of(source.text, int(position.group(2)), int(position.group(3)))
        done, *rest = source.text[:offset], source.text[offset:]
    else:
        done, *rest = pieces_at_markers(source.text)
    screen = Screen()
    with EngineClient(model, on_progress=screen.progress) as engine:
        while rest:
            gap = gap_between(done + "".join(rest), len(done), len(done), language_of(source.path))
            line, column = position_of(done, len(done))
            title = f"{source.path}:{line}:{column}"
            request = gap.request(limits, str(source.path))
            excerpt = Excerpt.around(request.prefix, request.suffix)
            if as_json:
                response = engine.fill(request)
            else:
                with screen.denoising(title, excerpt) as on_draft:
                    response = engine.fill(request, on_draft)
            text = with_line_ends(response.text, gap.newline)
            done += text + rest.pop(0)
            if as_json:
                place = {"path": str(source.path), "line": line, "column": column}
                _print_json(place | fill_answer(response) | {"text": text, "model": response.model})
            else:
                screen.filling(title, excerpt, response.text)
                screen.note(status(response))
    if write:
        write_file(source, done)
        if not as_json:
            screen.note(f"{source.path} is written")
    return done


def edit(
    target: str,
    instruction: str,
    limits: Limits,
    *,
    model: str = "default",
    write: bool = False,
    as_json: bool = False,
) -> str:
    """Rewrite the lines that `target` names (FILE:START-END, or FILE:LINE) as `instruction` says.

    Returns the whole new text.
    """
    lines = re.fullmatch(rf"(.+):({_NUMBER})(?:-({_NUMBER}))?", target, re.DOTALL)
    if lines is None:
        raise DiffcoderError(
            "bad_position", f"{target} names no lines: give FILE:START-END, for example a.py:3-9."
        )
    source = read_file(lines.group(1))
    start, end = int(lines.group(2)), int(lines.group(3) or lines.group(2))
    before, after = line_range(source.text, start, end)
    check_instruction(instruction)
    request = EditRequest(
        before=with_line_ends(source.text, "\n"),
        start=start,
        end=end,
        instruction=instruction,
        language=language_of(source.path),
        path=str(source.path),
        limits=limits,
    )
    screen = Screen()
    with EngineClient(model, on_progress=screen.progress) as engine:
        if as_json:
            response = engine.edit(request)
        else:
            ending = len(line_end(source.text[before:after]))
            excerpt = Excerpt.around(
                with_line_ends(source.text[:before], "\n"),
                with_line_ends(source.text[after - ending :], "\n"),
            )
            with screen.denoising(f"{source.path}:{start}-{end}", excerpt) as on_draft:
                response = engine.edit(request, on_draft)
    text = replace_lines(source.text, start, end, response.replacement)
    mark = "\ufeff" if source.encoding == "utf-8-sig" else ""  # a part of the first line, to `patch`
    diff = unified_diff(mark + source.text, mark + text, source.path.as_posix())
    if as_json:
        place = {"path": str(source.path), "start": start, "end": end}
        _print_json(place | {"text": text, "diff": diff} | costs(response) | {"model": response.model})
    else:
        screen.diff(diff, "utf-8" if mark else source.encoding)
        if not diff:
            whole = response.stop_reason in ("end_token", "stop_string")
            screen.note(
                "the model changed nothing" if whole else "nothing is changed: the answer was cut short"
            )
        screen.note(status(response))
    if write and diff:
        write_file(source, text)
        if not as_json:
            screen.note(f"{source.path} is written")
    return text


def _print_json(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)

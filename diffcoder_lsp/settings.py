"""What a user can set, in one typed schema, and how settings that come from several places become one.

A setting that is unknown or wrong gives a sentence and keeps its default; the server always runs on. The JSON
schema of this file is docs/settings.schema.json. Knows no protocol and no editor.
"""

from __future__ import annotations

import difflib
import fnmatch
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

FILE = "diffcoder.toml"


class Inline(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Ghost text."""

    automatic: Annotated[bool, msgspec.Meta(description="Suggest while the user types.")] = True
    confidence: Annotated[
        float,
        msgspec.Meta(
            ge=0, le=1, description="Show an automatic suggestion only from this mean probability on."
        ),
    ] = 0.75
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=512, description="Write at most so many tokens.")] = 64
    multiline: Annotated[
        Literal["auto", "always", "never"],
        msgspec.Meta(
            description="Several lines: where a block or an empty line suggests it, always, or never."
        ),
    ] = "auto"
    alternatives: Annotated[
        int, msgspec.Meta(ge=1, le=8, description="How many suggestions to make when one was asked for.")
    ] = 3
    in_literals: Annotated[bool, msgspec.Meta(description="Suggest inside strings and comments.")] = False
    debounce_ms: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=5000)] | None,
        msgspec.Meta(description="Wait so long after a key; null adapts to the model's speed."),
    ] = None


class Completion(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The completion list, for clients without ghost text."""

    enable: Annotated[
        Literal["auto", "always", "never"],
        msgspec.Meta(description="auto: only where the client has no inline completion. Read at the start."),
    ] = "auto"


class Edit(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Edits, fixes and implementations."""

    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1024, description="Write at most so many tokens.")] = (
        1024
    )
    instructions: Annotated[
        tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=200)], ...],
        msgspec.Meta(max_length=20, description="Offered as code actions on a selection."),
    ] = ("Add type hints", "Add a docstring", "Simplify this")


class Context(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a prompt holds besides the document."""

    open_files: Annotated[bool, msgspec.Meta(description="Outlines of other open files.")] = True
    tokens: Annotated[int, msgspec.Meta(ge=0, le=2048, description="At most so many tokens of them.")] = 256


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Everything that can be set under `diffcoder`."""

    enable: Annotated[bool, msgspec.Meta(description="Work at all.")] = True
    model: Annotated[
        str, msgspec.Meta(min_length=1, description="A name of `diffcoder model list`. Read at the start.")
    ] = "default"
    languages: Annotated[
        dict[str, bool], msgspec.Meta(description="Language identifiers to work in or to leave alone.")
    ] = {}
    files: Annotated[
        dict[str, bool],
        msgspec.Meta(description="Globs of paths to work in or to leave alone; the last that fits decides."),
    ] = {}
    drafts: Annotated[bool, msgspec.Meta(description="Send diffcoder/draft while the model writes.")] = False
    trusted: Annotated[
        bool,
        msgspec.Meta(description="Whether the workspace is trusted; if not, nothing of it is read or sent."),
    ] = True
    inline: Inline = Inline()
    completion: Completion = Completion()
    edit: Edit = Edit()
    context: Context = Context()

    def works_on(self, path: str, language: str | None) -> bool:
        """Whether a file is to be worked on."""
        wanted = self.enable and self.languages.get(language or "", self.languages.get("*", True))
        for glob, on in self.files.items():
            if fnmatch.fnmatch(path, glob) or fnmatch.fnmatch(path, f"*/{glob}"):
                wanted = on
        return wanted


def merged(layers: Iterable[tuple[str, Any]]) -> tuple[Settings, list[str]]:
    """Settings from (where it is from, its settings), a later one before an earlier one, and what is wrong."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for source, layer in layers:
        if isinstance(layer, Mapping):
            _take(Settings, layer, values, source, "", problems)
        elif layer is not None:
            problems.append(f"{source}: the settings are not an object; the defaults are used.")
    return msgspec.convert(values, Settings), problems


def _take(
    kind: type[msgspec.Struct],
    layer: Mapping[Any, Any],
    values: dict[str, Any],
    source: str,
    path: str,
    problems: list[str],
) -> None:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key, value in layer.items():
        name = f"{path}{key}"
        field = fields.get(key)
        if field is None:
            near = difflib.get_close_matches(str(key), fields, 1)
            meant = f"; did you mean {path}{near[0]}?" if near else "."
            problems.append(f"{source}: there is no setting {name}{meant}")
        elif isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            if isinstance(value, Mapping):
                _take(field.type, value, values.setdefault(key, {}), source, f"{name}.", problems)
            else:
                problems.append(f"{source}: {name} must be an object; its defaults are used.")
        else:
            try:
                msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                why = str(error).partition(" - at ")[0]
                problems.append(f"{source}: {name} is not used ({why[:1].lower()}{why[1:]}).")
            else:
                values[key] = value


def from_file(folder: Path) -> tuple[Any, str | None]:
    """The workspace's own settings and what is wrong with their file."""
    try:
        return tomllib.loads((folder / FILE).read_text("utf-8")), None
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError) as error:
        return None, f"{FILE} is not used ({error})."


def schema() -> dict[str, Any]:
    """The JSON schema of the settings."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Settings)}

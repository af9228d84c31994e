"""From edits of one version of a document to a WorkspaceEdit of the version that is there now, and to the client.

An edit whose place changed meanwhile is dropped, one beside a change moves along; a client is never asked to edit a
version that it has left. Knows no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from diffcoder_lsp.documents import Document, Documents, rebased
from diffcoder_lsp.edits import Edit, edits
from diffcoder_lsp.protocol import (
    ApplyEditParams,
    ApplyEditResult,
    ChangeAnnotation,
    EditResult,
    InitializeParams,
    TextDocumentEdit,
    VersionedTextDocumentIdentifier,
    WorkspaceEdit,
)
from model.schema import DiffcoderError

ANSWER_SECONDS = 30.0
"""For a client that never answers `workspace/applyEdit`."""
CHANGED = "The text changed while the model was at work, so nothing was edited; try again."


@dataclass(frozen=True)
class Change:
    """Replace `document.text[start:end]` by `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Client:
    """What a client can do with edits."""

    versions: bool = False
    annotations: bool = False
    resolves: bool = False
    applies: bool = False

    @classmethod
    def of(cls, params: InitializeParams) -> Client:
        resolvable = params.can("textDocument.codeAction.resolveSupport.properties")
        return cls(
            versions=bool(params.can("workspace.workspaceEdit.documentChanges")),
            annotations=params.can("workspace.workspaceEdit.changeAnnotationSupport") is not None,
            resolves=isinstance(resolvable, list) and "edit" in resolvable,
            applies=bool(params.can("workspace.applyEdit")),
        )


def smallest(document: Document, changes: Sequence[Change]) -> list[Edit]:
    """The edits within `changes`: only what differs is replaced."""
    found = []
    for change in sorted(changes, key=lambda change: change.start):
        for edit in edits(document.text[change.start : change.end], change.text):
            found.append(Edit(change.start + edit.start, change.start + edit.end, edit.text))
    return found


def moved(old: Document, new: Document, changes: Sequence[Change]) -> list[Change]:
    """`changes` of `old` in `new`, without those whose place is not what it was."""
    if old is new:
        return list(changes)
    result = []
    for change in changes:
        place = rebased(old, new, change.start, change.end)
        if place is not None:
            result.append(Change(*place, change.text))
    return result


def workspace_edit(document: Document, changes: Sequence[Edit], label: str, client: Client) -> WorkspaceEdit:
    """`changes` as the client takes them best: versioned, and annotated with `label`."""
    plain = [document.text_edit(change) for change in changes]
    if not client.versions:
        return WorkspaceEdit(changes={document.uri: plain})
    identifier = VersionedTextDocumentIdentifier(document.uri, document.version)
    if not client.annotations:
        return WorkspaceEdit(document_changes=[TextDocumentEdit(identifier, plain)])
    annotated = [msgspec.structs.replace(edit, annotation_id="diffcoder") for edit in plain]
    return WorkspaceEdit(
        document_changes=[TextDocumentEdit(identifier, annotated)],
        change_annotations={"diffcoder": ChangeAnnotation(label, "written by a model")},
    )


async def applied(
    document: Document,
    changes: Sequence[Change],
    label: str,
    documents: Documents,
    client: Client,
    ask: Callable[..., Awaitable[Any]],
) -> EditResult:
    """Have the client make `changes` of `document` in the version that it shows now, as one edit."""
    current = documents.get(document.uri)
    if current is None:
        return EditResult(False, 0, "The document was closed.")
    if not client.applies:
        raise DiffcoderError("no_apply_edit", "Your editor does not let a server edit; use the code actions.")
    wanted = moved(document, current, changes)
    if not wanted and changes:
        return EditResult(False, 0, CHANGED)
    made = smallest(current, wanted)
    if not made:
        return EditResult(False, 0, "The model left the text as it is.")
    params = ApplyEditParams(label, workspace_edit(current, made, label, client))
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer: ApplyEditResult = await ask("workspace/applyEdit", params, ApplyEditResult)
    except TimeoutError:
        return EditResult(False, 0, "The editor did not answer.")
    return EditResult(answer.applied, len(made) if answer.applied else 0, answer.failure_reason)

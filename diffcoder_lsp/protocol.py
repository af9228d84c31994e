"""The parts of the Language Server Protocol that we speak, and our own methods, as types. No behaviour.

Names are the protocol's, in snake case; fields that we do not read are left out and ignored when they come.
Own methods (`diffcoder/...`) are described in docs/protocol.md. lsprotocol has all types, but importing it
takes longer than the server may take to be ready (ARCHITECTURE.md); the tests hold our messages to it.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Token = int | str


class _Struct(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    pass


class Position(msgspec.Struct, frozen=True, order=True):
    """A place in a document: line from 0, code units of the agreed encoding from the line's start."""

    line: int
    character: int


class Range(msgspec.Struct, frozen=True):
    start: Position
    end: Position


class TextDocumentIdentifier(_Struct, frozen=True):
    uri: str


class VersionedTextDocumentIdentifier(msgspec.Struct, frozen=True):
    uri: str
    version: int | None = None


class TextDocumentItem(_Struct, frozen=True):
    uri: str
    text: str
    language_id: str = ""
    version: int = 0


class DidOpenParams(_Struct, frozen=True):
    text_document: TextDocumentItem


class ContentChange(_Struct, frozen=True):
    """Replace `range` (the whole document without one) by `text`."""

    text: str
    range: Range | None = None


class DidChangeParams(_Struct, frozen=True):
    text_document: VersionedTextDocumentIdentifier
    content_changes: list[ContentChange]


class DocumentParams(_Struct, frozen=True):
    text_document: TextDocumentIdentifier


class WorkspaceFolder(_Struct, frozen=True):
    uri: str
    name: str = ""


class WorkspaceFoldersChange(_Struct, frozen=True):
    added: list[WorkspaceFolder] = []
    removed: list[WorkspaceFolder] = []


class DidChangeWorkspaceFoldersParams(_Struct, frozen=True):
    event: WorkspaceFoldersChange


class FileEvent(_Struct, frozen=True):
    uri: str


class DidChangeWatchedFilesParams(_Struct, frozen=True):
    changes: list[FileEvent]


class InitializeParams(_Struct, frozen=True):
    capabilities: dict[str, Any] = {}
    process_id: int | None = None
    root_uri: str | None = None
    root_path: str | None = None
    workspace_folders: list[WorkspaceFolder] | None = None
    initialization_options: Any = None

    def can(self, path: str) -> Any:
        """A client capability by its dotted path; None where the client says nothing."""
        found: Any = self.capabilities
        for name in path.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        return found


class DidChangeConfigurationParams(_Struct, frozen=True):
    settings: Any = None


class SelectedCompletionInfo(_Struct, frozen=True):
    range: Range
    text: str


class InlineCompletionContext(_Struct, frozen=True):
    trigger_kind: int = 2
    """1 invoked, 2 automatic."""
    selected_completion_info: SelectedCompletionInfo | None = None


class InlineCompletionParams(_Struct, frozen=True):
    text_document: TextDocumentIdentifier
    position: Position
    context: InlineCompletionContext = InlineCompletionContext()
    partial_result_token: Token | None = None


class CompletionParams(_Struct, frozen=True):
    text_document: TextDocumentIdentifier
    position: Position


class TextEdit(_Struct, frozen=True):
    """`annotation_id` makes it an AnnotatedTextEdit."""

    range: Range
    new_text: str
    annotation_id: str | None = None


class TextDocumentEdit(msgspec.Struct, frozen=True, rename="camel"):
    text_document: VersionedTextDocumentIdentifier
    edits: list[TextEdit]


class ChangeAnnotation(_Struct, frozen=True):
    label: str
    description: str = ""


class WorkspaceEdit(_Struct, frozen=True):
    changes: dict[str, list[TextEdit]] | None = None
    document_changes: list[TextDocumentEdit] | None = None
    change_annotations: dict[str, ChangeAnnotation] | None = None


class ApplyEditParams(msgspec.Struct, frozen=True):
    label: str
    edit: WorkspaceEdit


class ApplyEditResult(_Struct, frozen=True):
    applied: bool = False
    failure_reason: str | None = None


class InlineCompletionItem(msgspec.Struct, frozen=True, rename="camel"):
    insert_text: str
    range: Range


class InlineCompletionList(msgspec.Struct, frozen=True):
    items: list[InlineCompletionItem]


class CompletionItem(_Struct, frozen=True):
    label: str
    text_edit: TextEdit
    detail: str = ""
    kind: int = 1
    filter_text: str | None = None
    sort_text: str | None = None


class CompletionList(msgspec.Struct, frozen=True, rename="camel"):
    is_incomplete: bool
    items: list[CompletionItem]


class Noted(_Struct, frozen=True):
    """What is read of a diagnostic. It is kept as it came, so that a client knows it again."""

    range: Range
    message: str


class CodeActionContext(_Struct, frozen=True):
    diagnostics: list[dict[str, Any]] = []
    only: list[str] | None = None


class CodeActionParams(_Struct, frozen=True):
    text_document: TextDocumentIdentifier
    range: Range
    context: CodeActionContext = CodeActionContext()


class Command(_Struct, frozen=True):
    title: str
    command: str
    arguments: list[Any] = []


class CodeAction(_Struct, frozen=True):
    title: str
    kind: str = ""
    diagnostics: list[dict[str, Any]] = []
    edit: WorkspaceEdit | None = None
    command: Command | None = None
    data: Any = None


class ExecuteCommandParams(_Struct, frozen=True):
    command: str
    arguments: list[Any] | None = None
    partial_result_token: Token | None = None


class MessageActionItem(_Struct, frozen=True):
    title: str


class ProgressCancelParams(_Struct, frozen=True):
    token: Token


# Our own methods


class EditArguments(_Struct, frozen=True, forbid_unknown_fields=True):
    """Of the command `diffcoder.edit`: rewrite the lines that `range` touches as `instruction` says. Another
    `variation` gives another answer, 0 the model's first."""

    uri: str
    range: Range
    instruction: str
    diagnostics: list[dict[str, Any]] = []
    variation: int = 0


class ImplementArguments(_Struct, frozen=True, forbid_unknown_fields=True):
    """Of the command `diffcoder.implement`: write the body of the stub around `range`."""

    uri: str
    range: Range
    variation: int = 0


class FillGapsArguments(_Struct, frozen=True, forbid_unknown_fields=True):
    """Of the command `diffcoder.fillGaps`: markers and stubs within `range` (or everywhere), or just `ranges`."""

    uri: str
    range: Range | None = None
    ranges: list[Range] | None = None
    variation: int = 0


class EditResult(_Struct, frozen=True):
    """What `diffcoder.edit`, `.implement` and `.fillGaps` answer; `applied` is the client's own word."""

    applied: bool
    edits: int
    reason: str | None = None


class ShowPromptArguments(_Struct, frozen=True, forbid_unknown_fields=True):
    """Of the command `diffcoder.showPrompt`; without `uri` the last prompt of any document."""

    uri: str | None = None


class PullArguments(_Struct, frozen=True, forbid_unknown_fields=True):
    """Of the command `diffcoder.pull`: download a model. A client sends it when its user has agreed."""

    model: str


class OutcomeArguments(_Struct, frozen=True, forbid_unknown_fields=True):
    """Of the command `diffcoder.outcome`: a client's review shows hunks, or its user decided on some; `texts` are
    what the hunks put into the document."""

    uri: str
    kind: Literal["edit", "gap"]
    outcome: Literal["shown", "accepted", "rejected"]
    texts: list[str]


class ModelEntry(msgspec.Struct, frozen=True):
    """One model of the answer to `diffcoder.models`; `bytes` is its download, `memory` what an engine takes."""

    name: str
    title: str
    licence: str
    bytes: int
    memory: int
    state: Literal["ready", "missing", "partial", "loaded"]


class DraftParams(msgspec.Struct, frozen=True, rename="camel"):
    """Notification `diffcoder/draft`: what is written at `position` so far; None stands for a masked place."""

    uri: str
    version: int | None
    position: Position
    kind: Literal["inline", "edit", "gap"]
    text: str
    block: list[str | None]
    done: bool


State = Literal["off", "starting", "ready", "failed", "paused"]
Silence = Literal[
    "none",
    "no_model",
    "loading",
    "slow",
    "ignored_file",
    "paused",
    "unsure",
    "disabled",
    "literal",
    "failed",
    "untrusted",
]


class StatusParams(msgspec.Struct, frozen=True, rename="camel"):
    """`diffcoder/status`, as a notification when it changes and as the answer to a request.

    `silent` says why the last automatic suggestion was not shown ("none": it was).
    """

    model: str
    state: State
    silent: Silence
    message: str
    tokens_per_second: float
    tokens_per_forward: float
    confidence: float
    suggestions: int
    reused: int
    last_error: str

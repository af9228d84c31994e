"""What can be done with a document beyond typing: code actions, and the commands behind them.

A code action carries its command and arguments. Where the client can, it is resolved: the model works, the client
applies. Otherwise its command is executed, and the server asks the client to apply. Knows nothing of the session's life.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec

from diffcoder_lsp import statistics
from diffcoder_lsp.applying import Client, applied, moved, smallest, workspace_edit
from diffcoder_lsp.documents import Document
from diffcoder_lsp.engine_link import shown
from diffcoder_lsp.features import edit, fix, gapfill, implement, pull
from diffcoder_lsp.features.pull import Pull
from diffcoder_lsp.protocol import (
    CodeAction,
    CodeActionParams,
    Command,
    EditArguments,
    EditResult,
    ExecuteCommandParams,
    FillGapsArguments,
    ImplementArguments,
    OutcomeArguments,
    PullArguments,
    ShowPromptArguments,
    StatusParams,
    Token,
)
from diffcoder_lsp.rpc import CONTENT_MODIFIED, INVALID_PARAMS, Connection, ReplyError
from diffcoder_lsp.session import Session
from model.schema import DiffcoderError

_EDITS: dict[str, Any] = {
    "diffcoder.edit": EditArguments,
    "diffcoder.implement": ImplementArguments,
    "diffcoder.fillGaps": FillGapsArguments,
}
KINDS = [fix.KIND, edit.KIND]
COMMANDS = [
    *_EDITS,
    *("diffcoder.showPrompt", "diffcoder.models", "diffcoder.pull", "diffcoder.pause", "diffcoder.resume"),
    *("diffcoder.outcome", "diffcoder.statistics"),
]


class Actions:
    """Of one session. `client` is what it said of itself."""

    def __init__(self, session: Session, connection: Connection, pull: Pull):
        self.session, self.client = session, Client()
        self._connection, self._pull = connection, pull

    def offered(self, params: CodeActionParams) -> list[CodeAction]:
        document = self.session.documents.get(params.text_document.uri)
        if document is None or self.session.why_not(document) is not None:
            return []
        offers = [
            *fix.actions(document, params),
            *implement.actions(document, params),
            *edit.actions(self.session, document, params),
        ]
        only = params.context.only
        result = []
        for action, command, argument in offers:
            if only and not any(action.kind == kind or action.kind.startswith(f"{kind}.") for kind in only):
                continue
            call = Command(action.title, command, [argument])
            if self.client.resolves:
                data = {"command": command, "argument": argument, "version": document.version}
                result.append(msgspec.structs.replace(action, data=data))
            else:
                result.append(msgspec.structs.replace(action, command=call))
        return result

    def resolve(self, action: CodeAction) -> Any:
        data = action.data if isinstance(action.data, dict) else {}
        command, kind = data.get("command"), _EDITS.get(str(data.get("command")))
        if kind is None:
            raise ReplyError(INVALID_PARAMS, "This code action is none of ours.")
        argument = _argument(kind, data.get("argument"))
        document = self.session.document(argument.uri)
        if document.version != data.get("version"):
            raise ReplyError(CONTENT_MODIFIED, "The text has changed since the action was offered.")
        return self._resolved(action, document, self._changes(str(command), document, argument))

    async def _resolved(
        self, action: CodeAction, document: Document, work: Coroutine[Any, Any, Any]
    ) -> CodeAction:
        changes = await work
        current = self.session.documents.get(document.uri)
        if current is None or (changes and not (changes := moved(document, current, changes))):
            raise ReplyError(CONTENT_MODIFIED, "The text changed while the model was at work.")
        made = smallest(current, changes)
        if not made:
            raise DiffcoderError("unchanged", "The model left the text as it is.")
        return msgspec.structs.replace(
            action, edit=workspace_edit(current, made, action.title, self.client), data=None
        )

    def execute(self, params: ExecuteCommandParams) -> Any:
        arguments = params.arguments or []
        first = arguments[0] if arguments else {}
        if params.command in _EDITS:
            argument = _argument(_EDITS[params.command], first)
            document = self.session.document(argument.uri)
            changes = self._changes(params.command, document, argument, params.partial_result_token)
            return self._edited(document, params.command, changes)
        if params.command == "diffcoder.showPrompt":
            return self._prompt(_argument(ShowPromptArguments, first))
        if params.command == "diffcoder.models":
            return asyncio.to_thread(pull.models)
        if params.command == "diffcoder.pull":
            return self._pull.pull(_argument(PullArguments, first).model)
        if params.command == "diffcoder.outcome":
            return self._outcome(_argument(OutcomeArguments, first))
        if params.command == "diffcoder.statistics":
            self.session.statistics.write()
            return statistics.tallies()
        if params.command in ("diffcoder.pause", "diffcoder.resume"):
            return self._set_paused(params.command == "diffcoder.pause")
        raise ReplyError(INVALID_PARAMS, f"There is no command {params.command!r}.")

    def _changes(
        self, command: str, document: Document, argument: Any, token: Token | None = None
    ) -> Coroutine[Any, Any, Any]:
        """The changes that a command makes of a document, as a coroutine; what is wrong with it is raised now."""
        if command == "diffcoder.edit":
            return edit.changes(self.session, document, argument, token)
        places = (
            gapfill.stub(document, argument)
            if command == "diffcoder.implement"
            else gapfill.gaps(document, argument)
        )
        return gapfill.changes(self.session, document, places, argument.variation, token)

    async def _edited(self, document: Document, command: str, work: Coroutine[Any, Any, Any]) -> EditResult:
        changes = await work
        answer = await applied(
            document, changes, f"diffcoder: {command.partition('.')[2]}",
            self.session.documents, self.client, self._connection.request,
        )  # fmt: skip
        if answer.applied:
            kind: statistics.Kind = "edit" if command == "diffcoder.edit" else "gap"
            self.session.statistics.count(kind, "shown", len(changes))
            self.session.statistics.accepted(kind, document.uri, [change.text for change in changes])
        return answer

    def _prompt(self, argument: ShowPromptArguments) -> str | None:
        prompts = self.session.link.prompts
        uri = argument.uri if argument.uri is not None else next(reversed(prompts), None)
        return shown(prompts[uri]) if uri in prompts else None

    def _outcome(self, argument: OutcomeArguments) -> None:
        if argument.outcome == "accepted":
            self.session.statistics.accepted(argument.kind, argument.uri, argument.texts)
        else:
            self.session.statistics.count(argument.kind, argument.outcome, len(argument.texts))

    def _set_paused(self, paused: bool) -> StatusParams:
        self.session.paused = paused
        self.session.tell("paused" if paused else "none")
        return self.session.status()


def _argument(kind: Any, value: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ReplyError(INVALID_PARAMS, f"The argument is not what the command takes ({error}).") from None

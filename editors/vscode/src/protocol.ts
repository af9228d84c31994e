// The server's own methods, as docs/protocol.md has them. Types only.
import { NotificationType, RequestType, type Position, type TextEdit } from 'vscode-languageclient/node';

export type State = 'off' | 'starting' | 'ready' | 'failed' | 'paused';

export interface Status {
  model: string;
  state: State;
  silent: string;
  message: string;
  tokensPerSecond: number;
  tokensPerForward: number;
  suggestions: number;
  reused: number;
  lastError: string;
}

export interface Draft {
  uri: string;
  version: number | null;
  position: Position;
  kind: 'inline' | 'edit' | 'gap';
  text: string;
  block: (string | null)[];
  done: boolean;
}

/** An entry of `diffcoder.models`; sizes in bytes. */
export interface Model {
  name: string;
  title: string;
  licence: string;
  bytes: number;
  memory: number;
  state: 'ready' | 'missing' | 'partial' | 'loaded';
}

/** What a code action of ours carries until it is resolved. */
export interface ActionData {
  command: string;
  argument: { uri: string } & Record<string, unknown>;
  version: number;
}

/** A resolved code action, as far as we read it. */
export interface Resolved {
  edit?: { documentChanges?: { textDocument: { uri: string; version: number | null }; edits: TextEdit[] }[] };
}

export const statusRequest = new RequestType<null, Status, void>('diffcoder/status');
export const statusChanged = new NotificationType<Status>('diffcoder/status');
export const draftChanged = new NotificationType<Draft>('diffcoder/draft');
export const resolveAction = new RequestType<{ title: string; data: ActionData }, Resolved, void>('codeAction/resolve');

// Code actions of the server's, led into the review.
import { CodeAction } from 'vscode';
import type { ActionData } from './protocol';

/** A code action that writes into the review instead of straight into the document. */
export function reviewed(action: CodeAction & { data?: ActionData }): CodeAction {
  if (!action.data) return action;
  const made = new CodeAction(action.title, action.kind);
  if (action.diagnostics) made.diagnostics = action.diagnostics;
  made.command = { title: action.title, command: 'diffcoder.run', arguments: [action.title, action.data] };
  return made;
}

// Where places in a text are after it was changed elsewhere, as plain values. No editor in here.
import type { Edit } from './hunks';

export interface Place {
  line: number;
  character: number;
}

/** Below zero where `a` comes first. */
function order(a: Place, b: Place): number {
  return a.line - b.line || a.character - b.character;
}

/** Where `place` is after `change`: behind what was inserted at it, and at the end of what now stands around it. */
export function placeAfter(place: Place, change: Edit): Place {
  if (order(place, change.start) < 0) return place;
  const lines = change.text.split(/\r\n|\r|\n/);
  const first = lines.length === 1 ? change.start.character : 0;
  const end = { line: change.start.line + lines.length - 1, character: first + lines.at(-1)!.length };
  if (order(place, change.end) < 0) return end;
  const shift = place.line === change.end.line ? end.character - change.end.character : 0;
  return { line: place.line + end.line - change.end.line, character: place.character + shift };
}

/** `edits`, not made yet, after `change` of their text; undefined where it went into one of them. */
export function editsAfter(edits: Edit[], change: Edit): Edit[] | undefined {
  const result: Edit[] = [];
  for (const edit of edits) {
    if (order(change.end, edit.start) <= 0) {
      result.push({ ...edit, start: placeAfter(edit.start, change), end: placeAfter(edit.end, change) });
    } else if (order(edit.end, change.start) <= 0) {
      result.push(edit);
    } else {
      return undefined;
    }
  }
  return result;
}

// Hunks: whole lines that were replaced, as plain values. No editor in here.
export interface Edit {
  start: { line: number; character: number };
  end: { line: number; character: number };
  text: string;
}

/** Lines `start` to `end` (exclusive) of the document stand where the lines `old` stood. */
export interface Hunk {
  start: number;
  end: number;
  old: string[];
}

/** The hunks that `edits` make of a text with these lines, placed in the text after them. Changed lines that follow each
 * other are one hunk, unless they are to stay `apart`. */
export function hunksOf(lines: string[], edits: Edit[], apart = false): Hunk[] {
  const spans: { start: number; end: number; delta: number }[] = [];
  const sorted = [...edits].sort((a, b) => a.start.line - b.start.line || a.start.character - b.start.character);
  for (const edit of sorted) {
    const span = spanOf(lines, edit);
    const last = spans.at(-1);
    if (last && (span.start < last.end || (span.start === last.end && !apart))) {
      last.end = Math.max(last.end, span.end);
      last.delta += span.delta;
    } else {
      spans.push(span);
    }
  }
  let moved = 0;
  return spans.map((span) => {
    const start = span.start + moved;
    moved += span.delta;
    return { start, end: span.end + moved, old: lines.slice(span.start, span.end) };
  });
}

/** The lines that an edit touches, and by how many lines the text grows. */
function spanOf(lines: string[], edit: Edit): { start: number; end: number; delta: number } {
  const text = edit.text.replace(/\r\n?/g, '\n');
  const delta = text.split('\n').length - 1 - (edit.end.line - edit.start.line);
  const { start, end } = edit;
  const whole = start.character === 0 && end.character === 0;
  if (whole && (text === '' || text.endsWith('\n'))) return { start: start.line, end: end.line, delta };
  // From the end of a line to the end of a line: the lines between.
  const atEnd = (place: { line: number; character: number }) => place.character === (lines[place.line] ?? '').length;
  if (atEnd(start) && atEnd(end) && (text === '' || text.startsWith('\n'))) {
    return { start: start.line + 1, end: end.line + 1, delta };
  }
  return { start: start.line, end: end.line + 1, delta };
}

/** Where a hunk is after `change` of the document; undefined when the change went through one of its borders. */
export function moved(hunk: Hunk, change: Edit): Hunk | undefined {
  const delta = change.text.split('\n').length - 1 - (change.end.line - change.start.line);
  const touchedEnd = change.end.character === 0 && change.end.line > change.start.line ? change.end.line : change.end.line + 1;
  const inserted = change.start.line === change.end.line && change.start.character === 0 && change.end.character === 0;
  if (inserted && change.text.endsWith('\n') && change.start.line <= hunk.start) {
    return { ...hunk, start: hunk.start + delta, end: hunk.end + delta };
  }
  if (change.start.line >= hunk.end) return hunk;
  if (touchedEnd <= hunk.start) return { ...hunk, start: hunk.start + delta, end: hunk.end + delta };
  if (change.start.line >= hunk.start && touchedEnd <= hunk.end) return { ...hunk, end: Math.max(hunk.start, hunk.end + delta) };
  return undefined;
}

/** The one edit that puts the old lines of `hunks`, which are in order, back into a text with `lines`. */
export function putBack(lines: string[], hunks: Hunk[], eol: string): Edit {
  const first = hunks[0]!.start;
  let at = first;
  const by: string[] = [];
  for (const hunk of hunks) {
    by.push(...lines.slice(at, hunk.start), ...hunk.old);
    at = hunk.end;
  }
  return replaceLines(lines, first, at, by, eol);
}

/** The edit that puts lines in the place of lines `start` to `end` (exclusive) of a text with `lines`. */
function replaceLines(lines: string[], start: number, end: number, by: string[], eol: string): Edit {
  if (end < lines.length) {
    const text = by.map((line) => line + eol).join('');
    return { start: { line: start, character: 0 }, end: { line: end, character: 0 }, text };
  }
  const last = { line: lines.length - 1, character: lines.at(-1)!.length };
  if (start > 0) {
    const text = by.map((line) => eol + line).join('');
    return { start: { line: start - 1, character: lines[start - 1]!.length }, end: last, text };
  }
  return { start: { line: 0, character: 0 }, end: last, text: by.join(eol) };
}

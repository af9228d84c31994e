// Shows what the model has written so far at the place where it will stand. The document itself stays as it is.
//
// An editor has no room for lines that are not in the document. So a draft lies over the document, in two layers: what
// is settled, and the block in work. Only the first line of a gap flows, in place of what is there, in its own line.
import { Position, Range, ThemeColor, window, workspace } from 'vscode';
import type { DecorationOptions, Disposable, TextDocument, TextDocumentChangeEvent } from 'vscode';
import type { Draft } from './protocol';

const MASK = '░░░';
const MARKER = '‹?›';

interface Place {
  line: number;
  character: number;
  kind: 'edit' | 'gap';
  /** The text that the draft stands in for. */
  hidden: Range;
  settled: string;
  block: string;
}

/** The drafts of one request. */
export class DraftView implements Disposable {
  private readonly places = new Map<string, Place>();
  private readonly hide = window.createTextEditorDecorationType({ textDecoration: 'none; display: none' });
  private readonly dim = window.createTextEditorDecorationType({ isWholeLine: true, opacity: '0.45' });
  private readonly show = window.createTextEditorDecorationType({});
  private readonly listener: Disposable;

  constructor(
    private readonly document: TextDocument,
    /** What is being rewritten, if that is known. */
    private readonly ranges: readonly Range[],
  ) {
    this.listener = workspace.onDidChangeTextDocument((event) => this.moved(event));
    this.render();
  }

  take(draft: Draft): void {
    if (draft.kind === 'inline' || draft.uri !== this.document.uri.toString()) return;
    const key = `${draft.position.line}:${draft.position.character}`;
    const place = this.places.get(key) ?? this.place(draft.position, draft.kind);
    place.settled = draft.text;
    place.block = draft.block.map((piece) => piece ?? MASK).join('');
    // The model's answer to an instruction ends with a fence; what it guesses beyond that is nobody's text.
    if (draft.kind === 'edit') place.block = place.block.replace(/\n?```[^]*$/, '');
    this.places.set(key, place);
    this.render();
  }

  dispose(): void {
    this.listener.dispose();
    for (const type of [this.hide, this.dim, this.show]) type.dispose();
  }

  private place({ line, character }: Draft['position'], kind: Place['kind']): Place {
    const at = this.document.validatePosition(new Position(line, character));
    const end = this.document.lineAt(at.line).range.end;
    const marked = new Range(at, at.translate(0, Math.min(MARKER.length, end.character - at.character)));
    const within = this.ranges.find((range) => range.contains(at) && !range.isEmpty);
    const gap = this.document.getText(marked) === MARKER ? marked : new Range(at, within?.end.line === at.line ? within.end : end);
    const hidden = kind === 'edit' ? new Range(at, at) : gap;
    return { line: at.line, character: at.character, kind, hidden, settled: '', block: '' };
  }

  /** Places below a change of the user's move with the text. */
  private moved(event: TextDocumentChangeEvent): void {
    if (event.document !== this.document) return;
    for (const change of event.contentChanges) {
      const lines = change.text.split('\n').length - 1 - (change.range.end.line - change.range.start.line);
      for (const place of this.places.values()) {
        if (lines && change.range.end.line < place.line) {
          place.line += lines;
          place.hidden = new Range(place.hidden.start.translate(lines), place.hidden.end.translate(lines));
        }
      }
    }
  }

  private render(): void {
    for (const editor of window.visibleTextEditors.filter((each) => each.document === this.document)) {
      const tab = ' '.repeat(Number(editor.options.tabSize) || 4);
      const started = [...this.places.values()].filter((place) => place.settled || place.block);
      editor.setDecorations(this.dim, [...this.ranges]);
      editor.setDecorations(
        this.hide,
        started.map((place) => place.hidden).filter((range) => !range.isEmpty),
      );
      editor.setDecorations(
        this.show,
        started.flatMap((place) => decorations(place, tab)),
      );
    }
  }
}

function decorations(place: Place, tab: string): DecorationOptions[] {
  const settled = clean(place.settled, tab).split('\n');
  const block = clean(place.block, tab).split('\n');
  // Line by line: what is settled, and the block in work with as much space before it as the former takes.
  const work = settled.map(() => '');
  work[work.length - 1] = ' '.repeat([...settled.at(-1)!].length) + block[0]!;
  for (const line of block.slice(1)) {
    settled.push('');
    work.push(line);
  }
  const at = new Position(place.line, place.character);
  const range = new Range(at, at);
  const over = (below: boolean, from: number): DecorationOptions => ({
    range,
    renderOptions: {
      before: layer(settled.slice(from), SETTLED, below, true),
      after: layer(work.slice(from), MASKED, below, false),
    },
  });
  if (place.kind === 'edit') return [over(false, 0)];
  const flow = 'none; white-space: pre; opacity: 1';
  const first: DecorationOptions = {
    range,
    renderOptions: {
      before: { contentText: settled[0]!, color: SETTLED, textDecoration: flow },
      after: { contentText: work[0]!.trimStart(), color: MASKED, textDecoration: flow },
    },
  };
  return settled.length > 1 ? [first, over(true, 1)] : [first];
}

const SETTLED = new ThemeColor('diffcoder.draft');
const MASKED = new ThemeColor('diffcoder.masked');

/** Lines that lie over those below. `contentText` ends at the first line's end, so the style brings the rest. */
function layer(lines: string[], color: ThemeColor, below: boolean, opaque: boolean) {
  const text = lines.join('\n').replace(/[\\"]/g, '\\$&').replace(/\n/g, '\\A ');
  const background = opaque ? 'background: var(--vscode-editor-background); ' : '';
  const place = `position: absolute; top: ${below ? '100%' : '0'}; left: 0; width: 100vw; z-index: 1; white-space: pre; opacity: 1`;
  return { contentText: ' ', color, textDecoration: `none; content: "${text}" !important; ${background}${place}` };
}

function clean(text: string, tab: string): string {
  // Line ends, then whatever else is no character of a line.
  // A token may hold a part of a character only; it is whole when the block is.
  const whole = text.replace(/\r\n?/g, '\n').replace(/\t/g, tab).replace(/\ufffd+/g, MASK[0]!);
  return whole.replace(/[\u0000-\u0009\u000b-\u001f\u007f]/g, '');
}

// Shows what the model has written so far at the place where it will stand. The document itself stays as it is.
//
// An editor has no room for lines that are not in the document. So a draft lies over the document, in two layers: what
// is settled, and the block in work. Only the first line of a gap flows, in place of what is there, in its own line.
import { Position, Range, ThemeColor, window } from 'vscode';
import type { DecorationOptions, Disposable } from 'vscode';
import type { Changes } from './changes';
import type { Draft } from './protocol';

const MASK = '░░░';
const MARKER = '‹?›';

interface Written {
  kind: 'edit' | 'gap';
  /** The text that the draft stands in for, in the document of `version`. */
  hidden: Range;
  version: number;
  settled: string;
  block: string;
}

/** The drafts of one request. */
export class DraftView implements Disposable {
  private readonly written = new Map<string, Written>();
  private readonly begun: number;
  private latest: Written | undefined;
  private readonly hide = window.createTextEditorDecorationType({ textDecoration: 'none; display: none' });
  private readonly dim = window.createTextEditorDecorationType({ isWholeLine: true, opacity: '0.45' });
  private readonly show = window.createTextEditorDecorationType({});

  constructor(
    private readonly changes: Changes,
    /** What is being rewritten, if that is known. */
    private readonly ranges: readonly Range[],
  ) {
    this.begun = changes.document.version;
    this.render();
  }

  /** The line that is being written. */
  get line(): number {
    const first = this.latest?.hidden ?? this.ranges[0];
    return first ? this.changes.range(first, this.latest?.version ?? this.begun).start.line : 0;
  }

  take(draft: Draft): void {
    if (draft.kind === 'inline' || draft.uri !== this.changes.document.uri.toString()) return;
    const key = `${draft.position.line}:${draft.position.character}`;
    const written = this.written.get(key) ?? this.begin(draft, draft.kind);
    written.settled = draft.text;
    written.block = draft.block.map((piece) => piece ?? MASK).join('');
    // The model's answer to an instruction ends with a fence; what it guesses beyond that is nobody's text.
    if (draft.kind === 'edit') written.block = written.block.replace(/\n?```[^]*$/, '');
    this.written.set(key, written);
    this.latest = written;
    this.render();
  }

  dispose(): void {
    for (const type of [this.hide, this.dim, this.show]) type.dispose();
  }

  private begin(draft: Draft, kind: Written['kind']): Written {
    const { document } = this.changes;
    const { line, character } = this.changes.place(draft.position, draft.version ?? this.begun);
    const at = document.validatePosition(new Position(line, character));
    const end = document.lineAt(at.line).range.end;
    const marked = new Range(at, at.translate(0, Math.min(MARKER.length, end.character - at.character)));
    const ranges = this.ranges.map((range) => this.changes.range(range, this.begun));
    const within = ranges.find((range) => range.contains(at) && !range.isEmpty);
    const gap = document.getText(marked) === MARKER ? marked : new Range(at, within?.end.line === at.line ? within.end : end);
    const hidden = kind === 'edit' ? new Range(at, at) : gap;
    return { kind, hidden, version: document.version, settled: '', block: '' };
  }

  private render(): void {
    const { changes } = this;
    for (const editor of window.visibleTextEditors.filter((each) => each.document === changes.document)) {
      const tab = ' '.repeat(Number(editor.options.tabSize) || 4);
      const started = [...this.written.values()]
        .filter((each) => each.settled || each.block)
        .map((each) => ({ ...each, hidden: changes.range(each.hidden, each.version) }));
      editor.setDecorations(this.dim, this.ranges.map((range) => changes.range(range, this.begun)));
      editor.setDecorations(
        this.hide,
        started.map((each) => each.hidden).filter((range) => !range.isEmpty),
      );
      editor.setDecorations(
        this.show,
        started.flatMap((each) => decorations(each, tab)),
      );
    }
  }
}

function decorations(written: Written, tab: string): DecorationOptions[] {
  const settled = clean(written.settled, tab).split('\n');
  const block = clean(written.block, tab).split('\n');
  // Line by line: what is settled, and the block in work with as much space before it as the former takes.
  const work = settled.map(() => '');
  work[work.length - 1] = ' '.repeat([...settled.at(-1)!].length) + block[0]!;
  for (const line of block.slice(1)) {
    settled.push('');
    work.push(line);
  }
  const range = new Range(written.hidden.start, written.hidden.start);
  const over = (below: boolean, from: number): DecorationOptions => ({
    range,
    renderOptions: {
      before: layer(settled.slice(from), SETTLED, below, true),
      after: layer(work.slice(from), MASKED, below, false),
    },
  });
  if (written.kind === 'edit') return [over(false, 0)];
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

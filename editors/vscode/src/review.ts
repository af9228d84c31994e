// The review of an edit: its hunks in the editor, taken or put back one by one. The edit is in the document from the
// start, so that other tools see valid code and a save keeps what is shown; putting a hunk back joins the same undo step.
import {
  CodeLens,
  DecorationRangeBehavior,
  EventEmitter,
  MarkdownString,
  OverviewRulerLane,
  Position,
  Range,
  Selection,
  TabInputTextDiff,
  TextEditorRevealType,
  ThemeColor,
  Uri,
  commands,
  languages,
  window,
  workspace,
} from 'vscode';
import type { DecorationOptions, Disposable, Memento, TextDocument, TextDocumentChangeEvent, TextEditor } from 'vscode';
import { hunksOf, moved, putBack, type Edit, type Hunk } from './hunks';
import { Problem } from './messages';

const KEY = 'reviews';
/** Reviews of closed files that are kept; each holds its file's text twice. */
const MOST_ASLEEP = 20;
const SCHEME = 'diffcoder-before';

export type Outcome = 'accepted' | 'rejected';
export type Kind = 'edit' | 'gap';

/** What `diffcoder.outcome` tells the server. */
export interface Told {
  uri: string;
  kind: Kind;
  outcome: Outcome | 'shown';
  texts: string[];
}

/** The text was another when an edit came to it. */
export class TextChanged extends Problem {
  constructor() {
    super('The editor did not take the change: the text had just changed.');
  }
}

/** The file takes no edits in this session. */
export class ReadOnly extends Problem {
  constructor() {
    super('The editor did not take the change: the file is read-only.');
  }
}

export interface Review {
  uri: string;
  title: string;
  kind: Kind;
  /** The whole text before the edit. */
  before: string;
  hunks: Hunk[];
  /** The text that the hunks are placed in, so that a review is only taken up again where it fits. */
  text: string;
  /** Ask the model once more; not there after a reload of the window. */
  again?: (() => unknown) | undefined;
}

export class Reviews implements Disposable {
  private readonly open = new Map<string, Review>();
  /** Those of files that are not open now, the latest last: they go on when the file is opened and is still the same. */
  private readonly asleep: Map<string, Review>;
  private readonly lensesChanged = new EventEmitter<void>();
  private readonly outcomes = new EventEmitter<Told>();
  readonly onOutcome = this.outcomes.event;
  private own = 0;
  private hint: Disposable | undefined;
  private readonly disposables: Disposable[];

  private readonly added = window.createTextEditorDecorationType({
    isWholeLine: true,
    backgroundColor: new ThemeColor('diffEditor.insertedLineBackground'),
    overviewRulerColor: new ThemeColor('editorGutter.addedBackground'),
    overviewRulerLane: OverviewRulerLane.Left,
    rangeBehavior: DecorationRangeBehavior.ClosedClosed,
  });
  private readonly removed = window.createTextEditorDecorationType({});

  constructor(private readonly memory: Memento) {
    this.asleep = new Map(Object.entries(memory.get<Record<string, Review>>(KEY, {})));
    this.disposables = [
      this.added,
      this.removed,
      this.lensesChanged,
      this.outcomes,
      languages.registerCodeLensProvider({ pattern: '**' }, {
        onDidChangeCodeLenses: this.lensesChanged.event,
        provideCodeLenses: (document) => this.lenses(document),
      }),
      workspace.registerTextDocumentContentProvider(SCHEME, {
        provideTextDocumentContent: (uri) => this.open.get(original(uri))?.before ?? '',
      }),
      workspace.onDidChangeTextDocument((event) => this.changed(event)),
      workspace.onDidOpenTextDocument((document) => this.takeUp(document)),
      workspace.onDidCloseTextDocument((document) => this.layDown(document)),
      window.onDidChangeVisibleTextEditors(() => this.render()),
      window.tabGroups.onDidChangeTabs(() => this.render()),
      window.onDidChangeActiveTextEditor(() => this.setContext()),
    ];
    for (const document of workspace.textDocuments) this.takeUp(document);
  }

  has(document: TextDocument): boolean {
    return this.open.has(document.uri.toString());
  }

  dispose(): void {
    for (const each of this.disposables) each.dispose();
  }

  /** Make `edits` and open their review; `go` to the first of them. */
  async begin(
    editor: TextEditor,
    edits: Edit[],
    how: { title: string; kind: Kind; go: boolean; again?: () => unknown },
  ): Promise<void> {
    const document = editor.document;
    const before = document.getText();
    const hunks = hunksOf(linesOf(before), edits, how.kind === 'gap');
    await this.apply(editor, edits, true);
    const uri = document.uri.toString();
    const review = { uri, title: how.title, kind: how.kind, before, hunks, text: document.getText(), again: how.again };
    this.open.set(uri, review);
    this.tell(document, review, hunks, 'shown');
    if (how.go) this.reveal(editor, hunks[0]!);
    this.update();
    this.hint?.dispose();
    this.hint = window.setStatusBarMessage(KEYS, 8000);
  }

  /** Settle the hunk at the cursor, or the one that a lens names; elsewhere, go to the next one, so that nothing unseen
   * is decided. */
  async decide(outcome: Outcome, index?: number): Promise<void> {
    const [editor, review] = this.current();
    const line = editor.selection.active.line;
    const at = (hunk: Hunk) => line === firstLine(hunk, editor.document) || (line >= hunk.start && line < hunk.end);
    const hunk = index === undefined ? review.hunks.find(at) : review.hunks[index];
    if (hunk) await this.settle(editor, review, [hunk], outcome);
    else if (index === undefined) this.go(1);
  }

  async decideAll(outcome: Outcome): Promise<void> {
    const [editor, review] = this.current();
    await this.settle(editor, review, [...review.hunks], outcome);
  }

  async tryAgain(): Promise<void> {
    const [editor, review] = this.current();
    if (!review.again) throw new Problem('What was asked for is not known any more: ask again.', [editButton]);
    await this.settle(editor, review, [...review.hunks], 'rejected');
    await review.again();
  }

  async compare(): Promise<void> {
    const [editor, review] = this.current();
    const uri = editor.document.uri;
    const left = Uri.from({ scheme: SCHEME, path: uri.path, query: encodeURIComponent(review.uri) });
    await commands.executeCommand('vscode.diff', left, uri, `${review.title}: before ↔ now`);
  }

  go(step: 1 | -1): void {
    const [editor, review] = this.current();
    const line = editor.selection.active.line;
    const ordered = step === 1 ? review.hunks : [...review.hunks].reverse();
    const next = ordered.find((hunk) => (step === 1 ? hunk.start > line : hunk.start < line)) ?? ordered[0]!;
    this.reveal(editor, next);
  }

  private current(): [TextEditor, Review] {
    const editor = window.activeTextEditor;
    const review = editor && this.open.get(editor.document.uri.toString());
    if (!editor || !review) throw new Problem('There is no change to review in this editor.', [editButton]);
    return [editor, review];
  }

  private tell(document: TextDocument, review: Review, hunks: Hunk[], outcome: Told['outcome']): void {
    const lines = linesOf(document.getText());
    const texts = hunks.map((hunk) => lines.slice(hunk.start, hunk.end).join(eol(document)));
    this.outcomes.fire({ uri: review.uri, kind: review.kind, outcome, texts });
  }

  private async settle(editor: TextEditor, review: Review, hunks: Hunk[], outcome: Outcome): Promise<void> {
    this.tell(editor.document, review, hunks, outcome);
    if (outcome === 'rejected') {
      const lines = linesOf(editor.document.getText());
      await this.apply(editor, [putBack(lines, hunks, eol(editor.document))], false);
    }
    const settled = new Set(hunks);
    const left: Hunk[] = [];
    let delta = 0;
    for (const hunk of review.hunks) {
      if (!settled.has(hunk)) left.push({ ...hunk, start: hunk.start + delta, end: hunk.end + delta });
      else if (outcome === 'rejected') delta += hunk.old.length - (hunk.end - hunk.start);
    }
    review.hunks = left;
    review.text = editor.document.getText();
    if (!left.length) this.open.delete(review.uri);
    else this.reveal(editor, left.find((hunk) => hunk.start >= hunks[0]!.start) ?? left[0]!);
    this.update();
  }

  /** One edit of the document; `first` begins an undo step, the others join the one before. */
  private async apply(editor: TextEditor, edits: Edit[], first: boolean): Promise<void> {
    const { document } = editor;
    const changes = edits
      .map(({ start, end, text }) => ({ range: new Range(start.line, start.character, end.line, end.character), text }))
      .filter(({ range, text }) => document.getText(range) !== text);
    if (!changes.length) return;
    const { version } = document;
    this.own += 1;
    try {
      const done = await editor.edit(
        (builder) => {
          for (const { range, text } of changes) builder.replace(range, text);
        },
        { undoStopBefore: first, undoStopAfter: false },
      );
      if (!done) throw new TextChanged();
      // An edit of a file that is read-only in this session is said to be done.
      if (document.version === version) throw new ReadOnly();
    } finally {
      this.own -= 1;
    }
  }

  private changed(event: TextDocumentChangeEvent): void {
    const review = this.open.get(event.document.uri.toString());
    if (!review || this.own || !event.contentChanges.length) return;
    const text = event.document.getText();
    if (text === review.before) {
      this.open.delete(review.uri); // undone, or the file was read again as it was
    } else {
      // From the last to the first, each change is in the coordinates of the text that the hunks are placed in.
      const changes = [...event.contentChanges].sort((a, b) => b.rangeOffset - a.rangeOffset);
      for (const change of changes) {
        const edit = { start: change.range.start, end: change.range.end, text: change.text };
        review.hunks = review.hunks.map((hunk) => moved(hunk, edit)).filter((hunk) => hunk !== undefined);
      }
      review.text = text;
      if (!review.hunks.length) this.open.delete(review.uri);
    }
    this.update();
  }

  /** A review that was open when the window or the file was left goes on where its text is still the same. */
  private takeUp(document: TextDocument): void {
    const uri = document.uri.toString();
    const kept = this.asleep.get(uri);
    if (!kept) return;
    this.asleep.delete(uri);
    // Another text: closed without a save, so the change is not there, or written anew by somebody else.
    if (kept.text === document.getText() && kept.before !== kept.text) this.open.set(uri, kept);
    this.update();
  }

  private layDown(document: TextDocument): void {
    const uri = document.uri.toString();
    const review = this.open.get(uri);
    if (!review) return;
    this.open.delete(uri);
    this.asleep.delete(uri);
    this.asleep.set(uri, review);
    for (const oldest of [...this.asleep.keys()].slice(0, -MOST_ASLEEP)) this.asleep.delete(oldest);
    this.update();
  }

  private update(): void {
    if (!this.open.size) this.hint?.dispose();
    const kept: Record<string, Review> = {};
    for (const [uri, review] of [...this.asleep, ...this.open]) kept[uri] = { ...review, again: undefined };
    void this.memory.update(KEY, kept);
    this.lensesChanged.fire();
    this.render();
    this.setContext();
  }

  private setContext(): void {
    const editor = window.activeTextEditor;
    void commands.executeCommand('setContext', 'diffcoder.reviewing', !!editor && this.has(editor.document));
  }

  private reveal(editor: TextEditor, hunk: Hunk): void {
    const at = new Position(firstLine(hunk, editor.document), 0);
    editor.selection = new Selection(at, at);
    editor.revealRange(new Range(at, at), TextEditorRevealType.InCenterIfOutsideViewport);
  }

  private lenses(document: TextDocument): CodeLens[] {
    const review = this.open.get(document.uri.toString());
    if (!review) return [];
    const several = review.hunks.length > 1;
    return review.hunks.flatMap((hunk, index) => {
      const line = firstLine(hunk, document);
      const at = new Range(line, 0, line, 0);
      const lens = (title: string, command: string, tooltip: string, ...given: unknown[]) =>
        new CodeLens(at, { title, command: `diffcoder.${command}`, tooltip, arguments: given });
      const gone = hunk.old.length - (hunk.end - hunk.start);
      return [
        ...(several ? [new CodeLens(at, { title: `Change ${index + 1} of ${review.hunks.length}`, command: '' })] : []),
        lens('$(check) Accept', 'acceptHunk', summary(hunk), index),
        lens('$(close) Reject', 'rejectHunk', 'Put the text before back', index),
        ...(index === 0 && several ? [lens('$(check-all) Accept All', 'acceptAll', 'Take every change')] : []),
        ...(index === 0 && review.again ? [lens('$(refresh) Try Again', 'tryAgain', 'Put all back and ask once more')] : []),
        ...(index === 0 ? [lens('$(diff) Compare', 'showDiff', 'Show the text before beside it')] : []),
        ...(gone > 0 && hunk.start === hunk.end ? [lens(`− ${gone} lines`, 'showDiff', 'Removed lines')] : []),
      ];
    });
  }

  private render(): void {
    // Beside the text before, the old lines need not be shown once more. An editor within a diff may have no column.
    const compared = window.tabGroups.all
      .filter(({ activeTab }) => activeTab?.input instanceof TabInputTextDiff && activeTab.input.original.scheme === SCHEME)
      .map(({ viewColumn }) => viewColumn);
    for (const editor of window.visibleTextEditors) {
      const beside = compared.length > 0 && (!editor.viewColumn || compared.includes(editor.viewColumn));
      const review = this.open.get(editor.document.uri.toString());
      const hunks = editor.document.uri.scheme === SCHEME ? [] : (review?.hunks ?? []);
      editor.setDecorations(
        this.added,
        hunks.filter((hunk) => hunk.end > hunk.start).map((hunk) => green(editor.document, hunk)),
      );
      editor.setDecorations(
        this.removed,
        beside ? [] : hunks.flatMap((hunk) => struck(editor.document, hunk)),
      );
    }
  }
}

/** Short enough for the status bar of a narrow window. */
const KEYS =
  process.platform === 'darwin' ? '⌥⏎ accepts, ⌥⌘⌫ rejects' : 'Alt+Enter accepts, Alt+Backspace rejects';

const editButton = {
  title: 'Edit with Instruction',
  run: () => commands.executeCommand('diffcoder.editWithInstruction'),
};

export function linesOf(text: string): string[] {
  return text.split(/\r\n|\r|\n/);
}

function eol(document: TextDocument): string {
  return document.eol === 2 ? '\r\n' : '\n';
}

/** The line that shows a hunk: that of its first new line, or the one that stands where lines were removed. */
function firstLine(hunk: Hunk, document: TextDocument): number {
  return Math.min(hunk.start, document.lineCount - 1);
}

function original(uri: Uri): string {
  return decodeURIComponent(uri.query);
}

function summary(hunk: Hunk): string {
  const [fresh, old] = [hunk.end - hunk.start, hunk.old.length];
  return `${fresh} new and ${old} old line${old === 1 ? '' : 's'}`;
}

function green(document: TextDocument, hunk: Hunk): DecorationOptions {
  const last = Math.min(hunk.end, document.lineCount) - 1;
  const hoverMessage = new MarkdownString();
  if (hunk.old.length) {
    hoverMessage.appendMarkdown('Before:').appendCodeblock(hunk.old.join('\n'), document.languageId);
  } else {
    hoverMessage.appendMarkdown('These lines are new.');
  }
  return { range: new Range(hunk.start, 0, last, document.lineAt(last).text.length), hoverMessage };
}

/** The old lines behind the new ones that took their place, struck out; the rest of them behind the last. */
function struck(document: TextDocument, hunk: Hunk): DecorationOptions[] {
  const fresh = hunk.end - hunk.start;
  const rows = Math.max(fresh, 1);
  const found: DecorationOptions[] = [];
  for (let row = 0; row < rows; row += 1) {
    const line = Math.min(hunk.start + row, document.lineCount - 1);
    const old = (row === rows - 1 ? hunk.old.slice(row) : hunk.old.slice(row, row + 1)).map((each) => each.trim());
    const text = old.filter((each) => each && each !== document.lineAt(line).text.trim()).join(' ⏎ ');
    if (!text) continue;
    const end = document.lineAt(line).range.end;
    found.push({
      range: new Range(end, end),
      renderOptions: {
        after: {
          contentText: text.length > 120 ? `${text.slice(0, 119)}…` : text,
          color: new ThemeColor('descriptionForeground'),
          backgroundColor: new ThemeColor('diffEditor.removedTextBackground'),
          margin: '0 0 0 3ch',
          textDecoration: 'line-through; white-space: pre',
        },
      },
    });
  }
  return found;
}

export async function readOnly(document: TextDocument): Promise<boolean> {
  const writable = workspace.fs.isWritableFileSystem(document.uri.scheme);
  if (writable === false) return true;
  try {
    const { permissions } = await workspace.fs.stat(document.uri);
    return ((permissions ?? 0) & 1) !== 0;
  } catch {
    return false; // not on disk: an untitled document
  }
}


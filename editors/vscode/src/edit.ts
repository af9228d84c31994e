// Asks for an edit, shows it while it is written, and hands it to the review: instructions, gaps, fixes.
import {
  CancellationTokenSource,
  CodeLens,
  EventEmitter,
  ProgressLocation,
  Range,
  TextEditorRevealType,
  ThemeColor,
  ThemeIcon,
  commands,
  languages,
  window,
  workspace,
} from 'vscode';
import type { Disposable, Memento, QuickPickItem, Selection, TextDocument, TextDocumentChangeEvent, TextEditor } from 'vscode';
import { Changes } from './changes';
import { DraftView } from './draft';
import { moved, type Edit } from './hunks';
import { logButton, Problem, report, sentence, tell, type Button } from './messages';
import type { Place } from './places';
import { resolveAction, type ActionData } from './protocol';
import { ReadOnly, readOnly, TextChanged, type Kind, type Reviews } from './review';
import type { Server } from './server';

const HISTORY = 'instructions';
const MOST_KEPT = 50;
const REQUEST_CANCELLED = -32800;
const CONTENT_MODIFIED = -32801;
/** How often a review is begun anew because a key came in between. */
const MOST_TRIES = 20;

interface PlainRange {
  start: Place;
  end: Place;
}

/** What a command of the server's is given, without the document's address. */
interface Argument extends Record<string, unknown> {
  range?: PlainRange;
  ranges?: PlainRange[];
  diagnostics?: { range: PlainRange }[];
}

interface Job {
  title: string;
  view: DraftView;
  stop: CancellationTokenSource;
}

/** What was written, for the text of `version`. */
interface Answer {
  edits: Edit[];
  version: number;
}

/** An answer that nobody has seen yet. */
interface Waiting {
  show: () => Promise<void>;
  changes: Changes;
}

export class Editing implements Disposable {
  private readonly jobs = new Map<string, Job>();
  /** What was written for documents that are out of sight: their reviews open when they are looked at again. */
  private readonly ready = new Map<TextDocument, Waiting>();
  /** The ranges that were last asked about: they go along with the text, so that the same can be asked again. */
  private readonly asked = new Map<TextDocument, PlainRange[]>();
  private readonly lensesChanged = new EventEmitter<void>();
  private readonly workChanged = new EventEmitter<boolean>();
  readonly onWork = this.workChanged.event;
  private readonly marked = window.createTextEditorDecorationType({
    isWholeLine: true,
    backgroundColor: new ThemeColor('editor.selectionHighlightBackground'),
  });
  private readonly disposables: Disposable[];

  constructor(
    private readonly server: Server,
    private readonly reviews: Reviews,
    private readonly memory: Memento,
  ) {
    this.disposables = [
      this.lensesChanged,
      this.workChanged,
      this.marked,
      workspace.onDidCloseTextDocument((document) => {
        this.jobs.get(document.uri.toString())?.stop.cancel();
        this.forget(document);
        this.asked.delete(document);
      }),
      workspace.onDidChangeTextDocument((event) => this.follow(event)),
      window.onDidChangeVisibleTextEditors((editors) => {
        for (const { document } of editors) this.ready.get(document)?.show().catch(report);
      }),
      languages.registerCodeLensProvider({ pattern: '**' }, {
        onDidChangeCodeLenses: this.lensesChanged.event,
        provideCodeLenses: (document) => this.lenses(document),
      }),
    ];
  }

  dispose(): void {
    this.cancel();
    for (const document of [...this.ready.keys()]) this.forget(document);
    for (const each of this.disposables) each.dispose();
  }

  cancel(): void {
    for (const job of this.jobs.values()) job.stop.cancel();
  }

  async editWithInstruction(given?: unknown): Promise<void> {
    const editor = await this.editor();
    const range = wholeLines(editor);
    const instruction = typeof given === 'string' ? given : await this.askInstruction(editor, range);
    if (instruction === undefined) return;
    await this.remember(instruction);
    await this.write(editor, `edit: ${instruction}`, 'diffcoder.edit', { range: plain(range), instruction });
  }

  /** The markers and stubs of the document or of the selection, or several selections as they are. */
  async fill(): Promise<void> {
    const editor = await this.editor();
    const chosen = editor.selections.filter((selection) => !selection.isEmpty);
    const argument =
      editor.selections.length > 1 ? { ranges: editor.selections.map(plain) } : chosen[0] ? { range: plain(chosen[0]) } : {};
    await this.write(editor, 'fill gaps', 'diffcoder.fillGaps', argument);
  }

  /** What a code action of the server's stands for. */
  async run(title: string, data: ActionData): Promise<void> {
    const editor = await this.editor();
    const { uri: _, ...argument } = data.argument;
    await this.write(editor, title.replace(/^diffcoder: /, ''), data.command, argument);
  }

  private async editor(): Promise<TextEditor> {
    const editor = window.activeTextEditor;
    if (!editor) {
      throw new Problem('There is no text editor in front: open a file first.', [
        { title: 'Open File', run: () => commands.executeCommand('workbench.action.quickOpen') },
      ]);
    }
    await this.free(editor.document);
    return editor;
  }

  /** Whether something may be written now; a Problem says what has to be done first. */
  private async free(document: TextDocument): Promise<void> {
    this.server.get();
    if (this.jobs.has(document.uri.toString())) {
      throw new Problem('The model is still writing in this file.', [{ title: 'Stop It', run: () => this.cancel() }]);
    }
    if (this.reviews.has(document)) {
      throw new Problem('Changes in this file wait for your review.', [
        { title: 'Accept All', run: () => this.reviews.decideAll('accepted') },
        { title: 'Reject All', run: () => this.reviews.decideAll('rejected') },
      ]);
    }
    if (await readOnly(document)) throw notWritable(() => undefined);
  }

  private askInstruction(editor: TextEditor, range: Range): Promise<string | undefined> {
    const offered = workspace.getConfiguration('diffcoder').get<string[]>('edit.instructions', []);
    const history = this.memory.get<string[]>(HISTORY, []);
    const box = window.createQuickPick<QuickPickItem>();
    const forget = { iconPath: new ThemeIcon('close'), tooltip: 'Forget' };
    const known = () => {
      const kept = this.memory.get<string[]>(HISTORY, []);
      return [
        ...kept.map((label) => ({ label, iconPath: new ThemeIcon('history'), buttons: [forget] })),
        ...offered.filter((label) => !kept.includes(label)).map((label) => ({ label, iconPath: new ThemeIcon('lightbulb') })),
      ];
    };
    const lines = range.start.line === range.end.line ? `line ${range.start.line + 1}` : `lines ${range.start.line + 1} to ${range.end.line + 1}`;
    box.title = `Edit ${lines}`;
    box.placeholder = history.length ? 'Say what to change, or choose what you said before' : 'Say what to change';
    const render = () => {
      const typed = box.value.trim();
      const items = known();
      // What is typed comes first, so that Enter sends it.
      const own = { label: typed, iconPath: new ThemeIcon('sparkle'), alwaysShow: true };
      box.items = typed ? [own, ...items.filter((item) => item.label !== typed)] : items;
    };
    render();
    editor.setDecorations(this.marked, [range]);
    return new Promise((resolve) => {
      box.onDidChangeValue(render);
      box.onDidTriggerItemButton(async ({ item }) => {
        await this.memory.update(HISTORY, this.memory.get<string[]>(HISTORY, []).filter((each) => each !== item.label));
        render();
      });
      box.onDidAccept(() => {
        // The list may lag behind fast fingers: an entry that does not hold what is typed was not meant.
        const typed = box.value.trim();
        const chosen = box.selectedItems[0]?.label ?? '';
        resolve((chosen.toLowerCase().includes(typed.toLowerCase()) ? chosen : typed) || undefined);
        box.hide();
      });
      box.onDidHide(() => {
        editor.setDecorations(this.marked, []);
        resolve(undefined);
        box.dispose();
      });
      box.show();
    });
  }

  private async remember(instruction: string): Promise<void> {
    const kept = this.memory.get<string[]>(HISTORY, []).filter((each) => each !== instruction);
    await this.memory.update(HISTORY, [instruction, ...kept].slice(0, MOST_KEPT));
  }

  private async write(
    editor: TextEditor,
    title: string,
    command: string,
    argument: Argument,
    variation = 0,
  ): Promise<void> {
    const { document, selection } = editor;
    const uri = document.uri.toString();
    const again = async () => {
      await this.free(document);
      await this.write(editor, title, command, argument, variation + 1);
    };
    this.asked.set(document, rangesOf(argument));
    this.forget(document);
    const changes = new Changes(document);
    const ranges = rewritten(document, command, argument);
    // After a long selection its end is in sight, and what is written first is not.
    if (ranges[0]) editor.revealRange(new Range(ranges[0].start, ranges[0].start), TextEditorRevealType.InCenterIfOutsideViewport);
    const view = new DraftView(changes, ranges);
    const job: Job = { title, view, stop: new CancellationTokenSource() };
    this.jobs.set(uri, job);
    this.workHasChanged();
    const hearing = this.server.onDraft((draft) => {
      const { line } = view;
      view.take(draft);
      if (view.line !== line) this.lensesChanged.fire();
    });
    let answer: Answer;
    try {
      answer = await window.withProgress({ location: ProgressLocation.Window, title: 'diffcoder writes' }, () =>
        this.ask(document, title, command, variation ? { ...argument, variation } : argument, job.stop),
      );
    } catch (error) {
      changes.dispose();
      if (job.stop.token.isCancellationRequested) return;
      throw this.problemOf(error, again);
    } finally {
      view.dispose();
      hearing.dispose();
      job.stop.dispose();
      this.jobs.delete(uri);
      this.workHasChanged();
      void this.server.refresh();
    }
    const how = { title, kind: command === 'diffcoder.edit' ? ('edit' as const) : ('gap' as const), again };
    const show = () => this.show(answer, changes, selection, how);
    this.ready.set(document, { show, changes });
    await show();
  }

  /** Open the review of an answer, or say that it is there when the user has gone elsewhere. */
  private async show(
    answer: Answer,
    changes: Changes,
    selection: Selection,
    how: { title: string; kind: Kind; again: () => Promise<void> },
  ): Promise<void> {
    const { document } = changes;
    const shown = window.visibleTextEditors.find((each) => each.document === document);
    if (!shown) {
      // Keys that are under way belong where the user is now, so nothing comes to the front by itself.
      const name = workspace.asRelativePath(document.uri);
      return tell('information', `The changes of ${name} are ready.`, [
        { title: 'Review', run: () => window.showTextDocument(document) },
      ]);
    }
    const waiting = this.ready.get(document);
    this.ready.delete(document); // at once, so that it is not shown twice
    try {
      for (let tries = 0; ; tries += 1) {
        const edits = changes.edits(answer.edits, answer.version);
        if (!edits || tries === MOST_TRIES) {
          throw new Problem('The text changed where the model wrote.', [{ title: 'Try Again', run: how.again }]);
        }
        try {
          // The cursor of somebody who works elsewhere in the file stays: the next key is not meant for a change.
          return await this.reviews.begin(shown, edits, { ...how, go: shown.selection.isEqual(selection) });
        } catch (error) {
          // A key came in between: once we have heard of it too, the same goes beside it.
          if (!(error instanceof TextChanged)) throw error;
          await new Promise((resolve) => setTimeout(resolve, 50));
        }
      }
    } catch (error) {
      if (!(error instanceof ReadOnly) || !waiting) throw error;
      this.ready.set(document, waiting);
      throw notWritable(waiting.show);
    } finally {
      if (!this.ready.has(document)) changes.dispose();
    }
  }

  /** Let go of an answer that was not looked at. */
  private forget(document: TextDocument): void {
    this.ready.get(document)?.changes.dispose();
    this.ready.delete(document);
  }

  private async ask(
    document: TextDocument,
    title: string,
    command: string,
    argument: Argument,
    stop: CancellationTokenSource,
  ): Promise<Answer> {
    const client = this.server.get();
    const uri = client.code2ProtocolConverter.asUri(document.uri);
    const data: ActionData = { command, argument: { uri, ...argument }, version: document.version };
    const answer = await client.sendRequest(resolveAction, { title, data }, stop.token);
    const change = answer.edit?.documentChanges?.[0];
    if (!change?.edits.length) throw new Problem('The model left the text as it is.');
    const edits = change.edits.map((edit) => ({ start: edit.range.start, end: edit.range.end, text: edit.newText }));
    return { edits, version: change.textDocument.version ?? document.version };
  }

  private problemOf(error: unknown, again: () => unknown): Problem {
    const retry: Button = { title: 'Try Again', run: again };
    const message = sentence(error);
    const status = this.server.status;
    const code = (error as { code?: number }).code;
    if (code === REQUEST_CANCELLED) return new Problem('Writing was stopped.', [retry]);
    if (code === CONTENT_MODIFIED) return new Problem(message, [retry]);
    if (!workspace.isTrusted) {
      const trust = { title: 'Manage Trust', run: () => commands.executeCommand('workbench.trust.manage') };
      return new Problem(message, [trust]);
    }
    if (status?.state === 'paused') {
      return new Problem(message, [{ title: 'Resume', run: () => commands.executeCommand('diffcoder.togglePause') }]);
    }
    if (status?.silent === 'no_model') {
      const choose = { title: 'Choose Model', run: () => commands.executeCommand('diffcoder.chooseModel') };
      return new Problem(message, [choose]);
    }
    if (/There is no gap/.test(message)) {
      const insert = { title: 'Insert ‹?›', run: () => window.activeTextEditor?.edit((edit) => edit.insert(window.activeTextEditor!.selection.active, '‹?›')) };
      return new Problem(message, [insert]);
    }
    if (/instruction/.test(message)) {
      const edit = { title: 'Another Instruction', run: () => commands.executeCommand('diffcoder.editWithInstruction') };
      return new Problem(message, [edit]);
    }
    return new Problem(message, [retry, logButton]);
  }

  private follow(event: TextDocumentChangeEvent): void {
    const ranges = this.asked.get(event.document) ?? [];
    for (const change of [...event.contentChanges].sort((a, b) => b.rangeOffset - a.rangeOffset)) {
      for (const { start, end } of ranges) {
        const lines = moved({ start: start.line, end: end.line + 1, old: [] }, { ...plain(change.range), text: change.text });
        if (lines) [start.line, end.line] = [lines.start, Math.max(lines.start, lines.end - 1)];
      }
    }
  }

  private lenses(document: TextDocument): CodeLens[] {
    const job = this.jobs.get(document.uri.toString());
    if (!job) return [];
    const { line } = job.view;
    const at = new Range(line, 0, line, 0);
    return [
      new CodeLens(at, { title: `$(loading~spin) ${job.title}`, command: '' }),
      new CodeLens(at, { title: 'Stop (Esc)', command: 'diffcoder.cancel' }),
    ];
  }

  private workHasChanged(): void {
    void commands.executeCommand('setContext', 'diffcoder.working', this.jobs.size > 0);
    this.workChanged.fire(this.jobs.size > 0);
    this.lensesChanged.fire();
  }
}

function plain(range: Range): PlainRange {
  const place = ({ line, character }: Place) => ({ line, character });
  return { start: place(range.start), end: place(range.end) };
}

function rangesOf(argument: Argument): PlainRange[] {
  const known = (argument.diagnostics ?? []).map(({ range }) => range);
  return [...(argument.range ? [argument.range] : []), ...(argument.ranges ?? []), ...known];
}

/** What a command will write in the place of, as far as that is known before. */
function rewritten(document: TextDocument, command: string, { range, ranges }: Argument): Range[] {
  if (ranges) return ranges.map(({ start, end }) => new Range(start.line, start.character, end.line, end.character));
  if (command !== 'diffcoder.edit' || !range) return [];
  const { start, end } = range;
  const last = end.character === 0 && end.line > start.line ? end.line - 1 : end.line;
  return [new Range(start.line, 0, last, document.lineAt(last).text.length)];
}

/** The lines that a selection touches, as the server counts them. */
function wholeLines(editor: TextEditor): Range {
  const { start, end } = editor.selection;
  const last = end.character === 0 && end.line > start.line ? end.line - 1 : end.line;
  return new Range(start.line, 0, last, editor.document.lineAt(last).text.length);
}

function notWritable(then: () => unknown): Problem {
  return new Problem('This file is read-only, so there is no place for a change.', [
    {
      title: 'Make It Writable',
      run: async () => {
        await commands.executeCommand('workbench.action.files.setActiveEditorWriteableInSession');
        await then();
      },
    },
  ]);
}

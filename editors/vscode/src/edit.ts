// Asks for an edit, shows it while it is written, and hands it to the review: instructions, gaps, fixes.
import {
  CancellationTokenSource,
  CodeLens,
  EventEmitter,
  ProgressLocation,
  Range,
  ThemeColor,
  ThemeIcon,
  commands,
  languages,
  window,
  workspace,
} from 'vscode';
import type { Disposable, Memento, QuickPickItem, TextDocument, TextEditor } from 'vscode';
import { DraftView } from './draft';
import type { Edit } from './hunks';
import { Problem, sentence, type Button } from './messages';
import { resolveAction, type ActionData } from './protocol';
import { readOnly, type Reviews } from './review';
import { logButton, type Server } from './server';

const HISTORY = 'instructions';
const MOST_KEPT = 50;
const REQUEST_CANCELLED = -32800;
const CONTENT_MODIFIED = -32801;

interface Job {
  document: TextDocument;
  line: number;
  title: string;
  stop: CancellationTokenSource;
}

export class Editing implements Disposable {
  private readonly jobs = new Map<string, Job>();
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
      workspace.onDidCloseTextDocument((document) => this.jobs.get(document.uri.toString())?.stop.cancel()),
      languages.registerCodeLensProvider({ pattern: '**' }, {
        onDidChangeCodeLenses: this.lensesChanged.event,
        provideCodeLenses: (document) => this.lenses(document),
      }),
    ];
  }

  dispose(): void {
    this.cancel();
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
    await this.write(editor, `edit: ${instruction}`, 'diffcoder.edit', { range: plain(range), instruction }, [range]);
  }

  /** The markers and stubs of the document or of the selection, or several selections as they are. */
  async fill(): Promise<void> {
    const editor = await this.editor();
    const chosen = editor.selections.filter((selection) => !selection.isEmpty);
    const argument =
      editor.selections.length > 1 ? { ranges: editor.selections.map(plain) } : chosen[0] ? { range: plain(chosen[0]) } : {};
    const ranges = editor.selections.length > 1 ? [...editor.selections] : [];
    await this.write(editor, 'fill gaps', 'diffcoder.fillGaps', argument, ranges);
  }

  /** What a code action of the server's stands for. */
  async run(title: string, data: ActionData): Promise<void> {
    const editor = await this.editor();
    const range = data.argument.range as { start: { line: number; character: number }; end: { line: number; character: number } };
    const { uri: _, ...argument } = data.argument;
    const end = range.end.character === 0 && range.end.line > range.start.line ? range.end.line - 1 : range.end.line;
    const lines = new Range(range.start.line, 0, end, 0);
    await this.write(editor, title.replace(/^diffcoder: /, ''), data.command, argument, data.command === 'diffcoder.edit' ? [lines] : []);
  }

  private async editor(): Promise<TextEditor> {
    const editor = window.activeTextEditor;
    if (!editor) {
      throw new Problem('There is no text editor in front: open a file first.', [
        { title: 'Open File', run: () => commands.executeCommand('workbench.action.quickOpen') },
      ]);
    }
    this.server.get();
    if (this.jobs.has(editor.document.uri.toString())) {
      throw new Problem('The model is still writing in this file.', [{ title: 'Stop It', run: () => this.cancel() }]);
    }
    if (this.reviews.has(editor.document)) {
      throw new Problem('Changes in this file wait for your review.', [
        { title: 'Accept All', run: () => this.reviews.decideAll('accepted') },
        { title: 'Reject All', run: () => this.reviews.decideAll('rejected') },
      ]);
    }
    if (await readOnly(editor.document)) throw notWritable(() => undefined);
    return editor;
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
    argument: Record<string, unknown>,
    ranges: Range[],
    variation = 0,
  ): Promise<void> {
    const document = editor.document;
    const uri = document.uri.toString();
    const again = () => this.write(editor, title, command, argument, ranges, variation + 1);
    const job: Job = { document, line: ranges[0]?.start.line ?? 0, title, stop: new CancellationTokenSource() };
    this.jobs.set(uri, job);
    this.workHasChanged();
    const view = new DraftView(document, ranges);
    const hearing = this.server.onDraft((draft) => {
      view.take(draft);
      if (draft.uri === uri && draft.kind !== 'inline' && job.line !== draft.position.line) {
        job.line = draft.position.line;
        this.lensesChanged.fire();
      }
    });
    let edits: Edit[];
    try {
      edits = await window.withProgress({ location: ProgressLocation.Window, title: 'diffcoder writes' }, () =>
        this.ask(document, title, command, variation ? { ...argument, variation } : argument, job.stop),
      );
    } catch (error) {
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
    await this.show(document, edits, title, command, () => again());
  }

  private async show(document: TextDocument, edits: Edit[], title: string, command: string, again: () => unknown): Promise<void> {
    const editor =
      window.visibleTextEditors.find((each) => each.document === document) ?? (await window.showTextDocument(document));
    try {
      await this.reviews.begin(editor, edits, { title, kind: command === 'diffcoder.edit' ? 'edit' : 'gap', again });
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      throw notWritable(() => this.show(document, edits, title, command, again));
    }
  }

  /** The edits of the document as it is now. */
  private async ask(
    document: TextDocument,
    title: string,
    command: string,
    argument: Record<string, unknown>,
    stop: CancellationTokenSource,
  ): Promise<Edit[]> {
    const client = this.server.get();
    const uri = client.code2ProtocolConverter.asUri(document.uri);
    const data: ActionData = { command, argument: { uri, ...argument }, version: document.version };
    const answer = await client.sendRequest(resolveAction, { title, data }, stop.token);
    const change = answer.edit?.documentChanges?.[0];
    if (!change?.edits.length) throw new Problem('The model left the text as it is.');
    if (change.textDocument.version !== null && change.textDocument.version !== document.version) {
      throw new Problem('The text changed while the model was at work.');
    }
    return change.edits.map((edit) => ({ start: edit.range.start, end: edit.range.end, text: edit.newText }));
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

  private lenses(document: TextDocument): CodeLens[] {
    const job = this.jobs.get(document.uri.toString());
    if (!job) return [];
    const at = new Range(job.line, 0, job.line, 0);
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

function plain(range: Range) {
  const place = ({ line, character }: { line: number; character: number }) => ({ line, character });
  return { start: place(range.start), end: place(range.end) };
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

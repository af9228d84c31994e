// The entry in the status bar and its menu: what the model is, what it does, what is wrong and what mends it.
import { MarkdownString, QuickPickItemKind, StatusBarAlignment, ThemeColor, commands, window, workspace } from 'vscode';
import type { Disposable, QuickPickItem } from 'vscode';
import type { Program } from './find';
import type { Button } from './messages';
import type { Server } from './server';

const SILENCE: Record<string, string> = {
  no_model: 'the model is not on this machine',
  loading: 'the model is loading',
  slow: 'the last suggestion took too long',
  ignored_file: 'this file is ignored or looks secret',
  paused: 'paused',
  unsure: 'not sure enough of the last suggestion to show it',
  disabled: 'switched off for this file',
  literal: 'inside a string or comment',
  untrusted: 'this workspace is not trusted',
  failed: 'the engine failed',
};

const ORIGINS: Record<Program['from'], string> = {
  setting: 'the one of diffcoder.server.path',
  variable: 'the one of DIFFCODER_SERVER',
  managed: 'the one that was installed here',
  path: 'the one on the PATH',
};

export class StatusBar implements Disposable {
  private readonly item = window.createStatusBarItem('diffcoder', StatusBarAlignment.Right, 100);
  private readonly disposables: Disposable[];
  private working = false;

  constructor(
    private readonly server: Server,
    onWork: (listener: (working: boolean) => void) => Disposable,
  ) {
    this.item.name = 'diffcoder';
    this.item.command = 'diffcoder.menu';
    this.disposables = [
      this.item,
      server.onStatus(() => this.render()),
      onWork((working) => {
        this.working = working;
        this.render();
      }),
      workspace.onDidChangeConfiguration((event) => {
        if (event.affectsConfiguration('diffcoder.statusBar')) this.render();
      }),
    ];
    this.render();
  }

  dispose(): void {
    for (const each of this.disposables) each.dispose();
  }

  /** One line: what is the case. */
  private state(): { icon: string; words: string; bad: boolean } {
    const { problem, status } = this.server;
    if (problem) return { icon: '$(error)', words: problem.message, bad: true };
    if (!status) return { icon: '$(loading~spin)', words: 'the server is starting', bad: false };
    if (this.working) return { icon: '$(loading~spin)', words: 'writing', bad: false };
    if (!workspace.isTrusted) return { icon: '$(shield)', words: SILENCE.untrusted!, bad: false };
    if (status.silent === 'no_model') return { icon: '$(cloud-download)', words: SILENCE.no_model!, bad: true };
    if (status.state === 'failed') {
      return { icon: '$(error)', words: status.message || status.lastError || SILENCE.failed!, bad: true };
    }
    if (status.state === 'starting') return { icon: '$(loading~spin)', words: SILENCE.loading!, bad: false };
    if (status.state === 'paused') return { icon: '$(debug-pause)', words: 'paused', bad: false };
    const silent = SILENCE[status.silent];
    if (status.silent === 'disabled') return { icon: '$(circle-slash)', words: silent!, bad: false };
    if (status.state === 'off') return { icon: '$(sparkle)', words: 'the model is loaded when it is needed', bad: false };
    return { icon: '$(sparkle)', words: silent ?? 'ready', bad: false };
  }

  private render(): void {
    const { icon, words, bad } = this.state();
    const status = this.server.status;
    const name = status?.model ?? 'diffcoder';
    const speed = status?.tokensPerSecond ? ` ${pace(status.tokensPerSecond)}/s` : '';
    this.item.text = `${icon} ${shortName(name)}${bad || this.working ? '' : speed}`;
    this.item.accessibilityInformation = { label: `diffcoder, model ${name}: ${words}`, role: 'button' };
    const color = bad ? new ThemeColor('statusBarItem.errorBackground') : undefined;
    if (color) this.item.backgroundColor = color;
    else (this.item as { backgroundColor: ThemeColor | undefined }).backgroundColor = undefined;
    this.item.tooltip = this.tooltip(words);
    const when = workspace.getConfiguration('diffcoder').get<string>('statusBar', 'always');
    if (when === 'always' || (when === 'attention' && (bad || this.working))) this.item.show();
    else this.item.hide();
  }

  private tooltip(words: string): MarkdownString {
    const status = this.server.status;
    const text = new MarkdownString();
    text.appendMarkdown('**diffcoder** ').appendText(`${words}\n\n`);
    const { program } = this.server;
    if (status) {
      text.appendMarkdown('| | |\n|---|---|\n');
      const row = (name: string, value: string) => text.appendMarkdown(`| ${name}  | `).appendText(value).appendMarkdown(' |\n');
      row('model', status.model);
      if (status.tokensPerSecond) row('speed', `${status.tokensPerSecond} tokens a second`);
      if (status.tokensPerForward) row('tokens per forward', `${status.tokensPerForward}`);
      row('suggestions shown', `${status.suggestions}, ${status.reused} of them without asking the model`);
      if (program) row('server', program.path);
      if (status.lastError) row('last error', status.lastError);
    }
    return text;
  }

  async menu(): Promise<void> {
    const { problem, status, program } = this.server;
    type Entry = QuickPickItem & { run?: () => unknown };
    const entry = (icon: string, label: string, command: string, description?: string): Entry => ({
      label: `$(${icon}) ${label}`,
      ...(description ? { description } : {}),
      run: () => commands.executeCommand(`diffcoder.${command}`),
    });
    const line = (label: string): Entry => ({ label, kind: QuickPickItemKind.Separator });
    const mend = (button: Button): Entry => ({ label: `$(tools) ${button.title}`, run: button.run });
    const language = window.activeTextEditor?.document.languageId;
    const { words } = this.state();
    const entries: Entry[] = [
      ...(problem ? [line(problem.message), ...problem.buttons.map(mend)] : []),
      ...(workspace.isTrusted ? [] : [mend({ title: 'Manage Trust of This Workspace', run: () => commands.executeCommand('workbench.trust.manage') })]),
      line('write'),
      entry('sparkle', 'Edit with Instruction…', 'editWithInstruction'),
      entry('symbol-snippet', 'Fill Gaps', 'fill', 'markers ‹?›, stubs, or the selections'),
      line('model'),
      entry('package', 'Choose Model…', 'chooseModel', status?.model),
      entry('mortar-board', 'Learn This Workspace…', 'tune', 'a small adapter, trained and measured here'),
      status?.state === 'paused' ? entry('play', 'Resume', 'togglePause') : entry('debug-pause', 'Pause', 'togglePause'),
      ...(language ? [entry('code', `${enabledFor(language) ? 'Disable' : 'Enable'} for ${language}`, 'toggleLanguage')] : []),
      line('look inside'),
      entry('eye', 'Show Prompt', 'showSentPrompt', 'exactly what the model was last sent'),
      entry('graph', 'Statistics', 'statistics', 'shown, accepted, kept after a minute'),
      entry('output', 'Show Log', 'showLog'),
      line('server'),
      entry('debug-restart', 'Restart Server', 'restart', program && ORIGINS[program.from]),
      entry('gear', 'Settings', 'settings'),
      entry('book', 'Walkthrough', 'walkthrough'),
    ];
    const chosen = await window.showQuickPick(entries, { title: `diffcoder: ${words}`, matchOnDescription: true });
    await chosen?.run?.();
  }
}

export function enabledFor(language: string): boolean {
  const all = workspace.getConfiguration('diffcoder').get<Record<string, boolean>>('languages', {});
  return all[language] ?? all['*'] ?? true;
}

function pace(speed: number): string {
  return speed < 10 ? speed.toFixed(1) : String(Math.round(speed));
}

/** A model given as a path is shown by its last part. */
function shortName(name: string): string {
  return name.split(/[/\\]/).filter(Boolean).at(-1) ?? name;
}

// Where the editor meets us: makes the parts, knows the commands, and turns every failure into a message.
import { commands, EventEmitter, Uri, window, workspace } from 'vscode';
import type { ExtensionContext, TextDocumentContentProvider } from 'vscode';
import { Editing } from './edit';
import { clearPath } from './find';
import { install } from './install';
import { logTo, Problem, report, sentence, tell } from './messages';
import { chooseModel } from './models';
import type { ActionData } from './protocol';
import { Reviews } from './review';
import { Server } from './server';
import { showStatistics } from './statistics';
import { enabledFor, StatusBar } from './status';
import { TuneView } from './tune';

let server: Server | undefined;

/** The last prompt that was asked for, as a document that nobody can edit. */
class Prompts implements TextDocumentContentProvider {
  readonly uri = Uri.from({ scheme: 'diffcoder-prompt', path: '/prompt.json' });
  private readonly changed = new EventEmitter<Uri>();
  readonly onDidChange = this.changed.event;
  private text = '';

  set(text: string): void {
    this.text = text;
    this.changed.fire(this.uri);
  }

  provideTextDocumentContent(): string {
    return this.text;
  }
}

export async function activate(context: ExtensionContext): Promise<void> {
  const channel = window.createOutputChannel('diffcoder', { log: true });
  logTo(channel);
  server = new Server(context, channel);
  const own = server;
  const reviews = new Reviews(context.workspaceState);
  const editing = new Editing(own, reviews, context.globalState);
  const bar = new StatusBar(own, editing.onWork);
  const tune = new TuneView(context, own);
  const prompts = new Prompts();
  context.subscriptions.push(channel, own, reviews, editing, bar, tune);
  context.subscriptions.push(workspace.registerTextDocumentContentProvider(prompts.uri.scheme, prompts));

  reviews.onOutcome((told) => {
    // Statistics are worth no message when there is nobody to count.
    if (own.running) own.execute('diffcoder.outcome', told).catch((error) => channel.warn(sentence(error)));
  });

  const table: Record<string, (...given: never[]) => unknown> = {
    editWithInstruction: (instruction?: unknown) => editing.editWithInstruction(instruction),
    fill: () => editing.fill(),
    run: (title: string, data: ActionData) => editing.run(title, data),
    cancel: () => editing.cancel(),
    acceptHunk: (index?: number) => reviews.decide('accepted', number(index)),
    rejectHunk: (index?: number) => reviews.decide('rejected', number(index)),
    acceptAll: () => reviews.decideAll('accepted'),
    rejectAll: () => reviews.decideAll('rejected'),
    tryAgain: () => reviews.tryAgain(),
    showDiff: () => reviews.compare(),
    nextHunk: () => reviews.go(1),
    previousHunk: () => reviews.go(-1),
    menu: () => bar.menu(),
    chooseModel: () => chooseModel(own),
    showSentPrompt: () => showPrompt(own, prompts),
    showLog: () => channel.show(),
    statistics: () => showStatistics(own),
    tune: () => tune.show(),
    togglePause: () => own.execute(own.status?.state === 'paused' ? 'diffcoder.resume' : 'diffcoder.pause'),
    toggleLanguage: () => toggleLanguage(),
    restart: () => own.restart(),
    install: async () => {
      const ran = own.running;
      await own.stop(); // so that nothing is replaced under a running program
      let installed = false;
      try {
        installed = await install(context, channel);
      } finally {
        if (installed || ran) await own.restart();
      }
      if (installed) void tellInstalled(own);
    },
    settings: () => commands.executeCommand('workbench.action.openSettings', `@ext:${context.extension.id}`),
    walkthrough: () =>
      commands.executeCommand('workbench.action.openWalkthrough', `${context.extension.id}#start`, false),
  };
  for (const [name, run] of Object.entries(table)) {
    context.subscriptions.push(
      commands.registerCommand(`diffcoder.${name}`, async (...given: never[]) => {
        try {
          return await run(...given);
        } catch (error) {
          return report(error);
        }
      }),
    );
  }

  context.subscriptions.push(
    workspace.onDidGrantWorkspaceTrust(() => void own.restart()),
    workspace.onDidChangeConfiguration((event) => {
      if (['model', 'server'].some((name) => event.affectsConfiguration(`diffcoder.${name}`))) void own.restart();
      else if (event.affectsConfiguration('diffcoder')) own.sendSettings();
    }),
  );
  await own.restart();
}

export async function deactivate(): Promise<void> {
  await server?.stop();
}

/** What the user has set counts more than what was installed: then it is said what is used. */
function tellInstalled(server: Server): Promise<void> {
  const from = server.program?.from;
  if (from === 'setting') {
    return tell('information', 'The server is installed, and the setting diffcoder.server.path names another one.', [
      { title: 'Use the Installed One', run: clearPath },
    ]);
  }
  if (from === 'variable') {
    return tell('information', 'The server is installed, and the one that DIFFCODER_SERVER names is used.');
  }
  return tell('information', 'The server is installed.');
}

function number(value: unknown): number | undefined {
  return typeof value === 'number' ? value : undefined;
}

async function showPrompt(server: Server, prompts: Prompts): Promise<void> {
  const uri = window.activeTextEditor?.document.uri;
  const ask = (argument: object) => server.execute<string | null>('diffcoder.showPrompt', argument);
  const sent = (uri && (await ask({ uri: uri.toString() }))) ?? (await ask({}));
  if (!sent) {
    throw new Problem('Nothing was sent to the model yet in this session.', [
      { title: 'Suggest Something', run: () => commands.executeCommand('editor.action.inlineSuggest.trigger') },
    ]);
  }
  prompts.set(sent);
  await window.showTextDocument(await workspace.openTextDocument(prompts.uri), { preview: true });
}

async function toggleLanguage(): Promise<void> {
  const language = window.activeTextEditor?.document.languageId;
  if (!language) {
    throw new Problem('There is no text editor in front, so no language to switch.', [
      { title: 'Open Setting', run: () => commands.executeCommand('workbench.action.openSettings', 'diffcoder.languages') },
    ]);
  }
  const all = workspace.getConfiguration('diffcoder').get<Record<string, boolean>>('languages', {});
  const on = !enabledFor(language);
  await workspace.getConfiguration('diffcoder').update('languages', { ...all, [language]: on }, true);
  window.setStatusBarMessage(`diffcoder is ${on ? 'on' : 'off'} for ${language}`, 3000);
}

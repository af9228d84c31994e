// Owns the language client: starts it, starts it again, hears its status and drafts. Starts never overlap, nor do processes.
import type { ChildProcess } from 'node:child_process';
import { CodeAction, EventEmitter, ProgressLocation, commands, env, window, workspace } from 'vscode';
import type { Disposable, ExtensionContext, LogOutputChannel, Progress } from 'vscode';
import { CloseAction, ErrorAction, LanguageClient, RevealOutputChannelOn } from 'vscode-languageclient/node';
import type { DynamicFeature, LanguageClientOptions, Middleware, ProgressToken, StaticFeature } from 'vscode-languageclient/node';
import { reviewed } from './actions';
import { findServer, openSetting, settings, type Program } from './find';
import { logButton, Problem, sentence, tell, type Button } from './messages';
import { draftChanged, statusChanged, statusRequest, type Draft, type Model, type Status } from './protocol';

/** The settings that are the server's; the others are the extension's own. */
const SERVER_SETTINGS = ['enable', 'model', 'languages', 'files', 'inline', 'edit', 'context'];
const MOST_RESTARTS = 3;
const RESTART_WINDOW_MS = 120_000;
/** The client kills a server that has not ended two seconds after it was told to. */
const LONGEST_END_MS = 3000;

/** The client without what we do ourselves: palette commands have our names, and messages our buttons. */
class Client extends LanguageClient {
  override registerFeature(feature: StaticFeature | DynamicFeature<unknown>): void {
    if ('registrationType' in feature && feature.registrationType.method === 'workspace/executeCommand') return;
    super.registerFeature(feature);
  }

  override error(message: string, data?: unknown): void {
    super.error(message, data, false);
  }
}

export class Server implements Disposable {
  private readonly statusEmitter = new EventEmitter<Status | undefined>();
  private readonly draftEmitter = new EventEmitter<Draft>();
  readonly onStatus = this.statusEmitter.event;
  readonly onDraft = this.draftEmitter.event;
  status: Status | undefined;
  /** Why there is no server; undefined while there is one, or none is wanted. */
  problem: Problem | undefined;
  program: Program | undefined;
  private client: LanguageClient | undefined;
  private process: ChildProcess | undefined;
  private work: Promise<void> = Promise.resolve();
  private queued: Promise<void> | undefined;
  private crashes: number[] = [];
  private asked = 0;
  private starting = false;

  constructor(
    private readonly context: ExtensionContext,
    readonly channel: LogOutputChannel,
  ) {}

  get running(): boolean {
    return this.client?.isRunning() ?? false;
  }

  /** The client, or the reason why there is none. */
  get(): LanguageClient {
    if (this.client?.isRunning()) return this.client;
    throw this.problem ?? new Problem('The server is not running.', [restartButton, logButton]);
  }

  /** Stop what runs and start anew. While one restart is at work at most one more waits. */
  restart(): Promise<void> {
    this.queued ??= this.work.then(() => {
      this.queued = undefined;
      return (this.work = this.startAnew());
    });
    return this.queued;
  }

  async stop(): Promise<void> {
    await this.work;
    await this.end();
  }

  /** Ask for the status, at most twice a second: its numbers change with every answer. */
  async refresh(): Promise<void> {
    if (Date.now() - this.asked < 500 || !this.client?.isRunning()) return;
    this.asked = Date.now();
    try {
      this.took(await this.client.sendRequest(statusRequest, null));
    } catch {
      // The next change tells.
    }
  }

  /** What is asked for while the server starts waits until it has: a new model or program starts it anew. */
  async execute<T>(command: string, argument: object = {}): Promise<T> {
    await (this.queued ?? this.work);
    return this.get().sendRequest<T>('workspace/executeCommand', { command, arguments: [argument] });
  }

  models(): Promise<Model[]> {
    return this.execute<Model[]>('diffcoder.models');
  }

  dispose(): void {
    this.statusEmitter.dispose();
    this.draftEmitter.dispose();
  }

  private async startAnew(): Promise<void> {
    await this.end();
    this.problem = undefined;
    try {
      this.program = await findServer(this.context);
      this.channel.info(`starting ${this.program.path} (${this.program.from})`);
      const client = this.make(this.program);
      this.client = client;
      client.onNotification(statusChanged, (status) => this.took(status));
      client.onNotification(draftChanged, (draft) => this.draftEmitter.fire(draft));
      this.starting = true;
      await client.start();
      this.process = client.serverProcess;
      this.starting = false;
      await commands.executeCommand('setContext', 'diffcoder.running', true);
      this.took(await client.sendRequest(statusRequest, null));
      this.compareVersions(client.initializeResult?.serverInfo?.version);
    } catch (error) {
      await this.failed(error);
    }
  }

  private async end(): Promise<void> {
    const client = this.client;
    const process = client?.serverProcess ?? this.process; // the client forgets one whose connection closed
    this.client = this.process = undefined;
    this.took(undefined);
    await commands.executeCommand('setContext', 'diffcoder.running', false);
    if (client?.needsStop()) {
      try {
        await client.stop(3000);
      } catch {
        // It had ended by itself.
      }
    }
    if (process) await ended(process);
  }

  private async failed(error: unknown): Promise<void> {
    this.starting = false;
    await this.end();
    this.problem =
      error instanceof Problem
        ? error
        : new Problem(`The server did not start (${this.why(error)}).`, [this.other(), restartButton, logButton]);
    this.channel.error(this.problem.message);
    this.statusEmitter.fire(undefined);
    void tell('error', this.problem.message, this.problem.buttons);
  }

  /** The client's words for a program that ended are those of a protocol. */
  private why(error: unknown): string {
    const said = sentence(error);
    return /disposed|closed|destroyed|EPIPE/.test(said) ? `${this.program?.path} ended before it answered` : said;
  }

  private took(status: Status | undefined): void {
    this.status = status;
    void commands.executeCommand('setContext', 'diffcoder.ready', status?.state === 'ready');
    this.statusEmitter.fire(status);
  }

  private make(program: Program): LanguageClient {
    const environment = settings().get<Record<string, string>>('server.environment', {});
    const run = {
      command: program.path,
      args: ['lsp'],
      options: { env: { ...process.env, ...environment } },
    };
    const options: LanguageClientOptions = {
      documentSelector: [
        { scheme: 'file' },
        { scheme: 'untitled' },
        { scheme: 'vscode-notebook-cell' },
      ],
      outputChannel: this.channel,
      revealOutputChannelOn: RevealOutputChannelOn.Never,
      initializationOptions: () => this.settings(),
      middleware: this.middleware(),
      errorHandler: {
        error: () => ({ action: ErrorAction.Continue, handled: true }),
        closed: () => this.closed(),
      },
      initializationFailedHandler: () => false,
    };
    return new Client('diffcoder', 'diffcoder', run, options);
  }

  /** What the server may know of the settings. Trust is the editor's to tell. */
  private settings(): Record<string, unknown> {
    const all = settings();
    const chosen = SERVER_SETTINGS.map((name) => [name, all.get(name)] as const);
    return { ...Object.fromEntries(chosen), drafts: true, trusted: workspace.isTrusted };
  }

  sendSettings(): void {
    if (this.client?.isRunning()) {
      void this.client.sendNotification('workspace/didChangeConfiguration', {
        settings: { diffcoder: this.settings() },
      });
    }
  }

  private middleware(): Middleware {
    return {
      provideInlineCompletionItems: async (document, position, context, token, next) => {
        const answer = await next(document, position, context, token);
        void this.refresh();
        return answer;
      },
      provideCodeActions: async (document, range, context, token, next) =>
        (await next(document, range, context, token))?.map((action) =>
          action instanceof CodeAction ? reviewed(action) : action,
        ),
      resolveCodeAction: async (action) => action,
      handleWorkDoneProgress: this.bars(),
      workspace: {
        configuration: (params, token, next) =>
          params.items.every((item) => item.section === 'diffcoder')
            ? params.items.map(() => this.settings())
            : next(params, token),
        didChangeConfiguration: async () => this.sendSettings(),
      },
    };
  }

  /** Work that can be stopped gets a bar with a button; the client's own bars have none. */
  private bars(): NonNullable<Middleware['handleWorkDoneProgress']> {
    const open = new Map<ProgressToken, { report: Progress<{ message?: string; increment?: number }>; end: () => void; at: number }>();
    return (token, params, next) => {
      if (params.kind === 'begin' && params.cancellable) {
        void window.withProgress(
          { location: ProgressLocation.Notification, title: params.title, cancellable: true },
          (report, stop) =>
            new Promise<void>((end) => {
              open.set(token, { report, end, at: 0 });
              report.report(params.message ? { message: params.message } : {});
              stop.onCancellationRequested(() => {
                void this.client?.sendNotification('window/workDoneProgress/cancel', { token });
              });
            }),
        );
        return;
      }
      const bar = open.get(token);
      if (!bar) return next(token, params);
      if (params.kind === 'end') {
        open.delete(token);
        bar.end();
      } else if (params.kind === 'report') {
        const at = params.percentage ?? bar.at;
        bar.report.report({ message: params.message ?? '', increment: Math.max(0, at - bar.at) });
        bar.at = Math.max(bar.at, at);
      }
    };
  }

  private closed(): { action: CloseAction; handled: boolean } {
    const alone = { action: CloseAction.DoNotRestart, handled: true };
    if (this.starting) return alone; // the start itself tells
    void commands.executeCommand('setContext', 'diffcoder.running', false);
    const now = Date.now();
    this.crashes = [...this.crashes.filter((time) => now - time < RESTART_WINDOW_MS), now];
    if (this.crashes.length <= MOST_RESTARTS) {
      void this.restart();
    } else {
      this.problem = new Problem(`The server ended ${this.crashes.length} times in two minutes and was left alone.`, [
        { title: 'Start It Again', run: () => commands.executeCommand('diffcoder.restart') },
        logButton,
        this.other(),
      ]);
      this.took(undefined);
      void tell('error', this.problem.message, this.problem.buttons);
    }
    return alone;
  }

  private compareVersions(server: string | undefined): void {
    const own: string = this.context.extension.packageJSON.version;
    const [a, b] = [server, own].map((version) => version?.split('.').slice(0, 2).join('.'));
    if (a === b) return;
    void tell('warning', `The server is ${server ?? 'of an unknown version'} and this extension is ${own}: they may not fit.`, [
      this.other(),
      { title: 'Copy Path', run: () => env.clipboard.writeText(this.program?.path ?? '') },
    ]);
  }

  /** How to come by another program: an installation of ours counts less than what the user has set. */
  private other(): Button {
    return this.program?.from === 'setting' || this.program?.from === 'variable' ? settingButton : installButton;
  }
}

/** Its process has ended, or does not want to. */
function ended(process: ChildProcess): Promise<void> {
  if (process.exitCode !== null || process.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => {
    const longest = setTimeout(resolve, LONGEST_END_MS);
    process.once('exit', () => {
      clearTimeout(longest);
      resolve();
    });
  });
}

const restartButton: Button = { title: 'Restart', run: () => commands.executeCommand('diffcoder.restart') };
const installButton: Button = { title: 'Install It Again', run: () => commands.executeCommand('diffcoder.install') };
const settingButton: Button = {
  title: 'Open Setting',
  run: () => openSetting('diffcoder.server.path'),
};

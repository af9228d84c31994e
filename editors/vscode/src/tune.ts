// The tune view: starts `diffcoder tune` on the workspace and shows how it goes, from the files that the run writes.
import { spawn, type ChildProcess } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { ViewColumn, commands, window, workspace } from 'vscode';
import type { Disposable, ExtensionContext, WebviewPanel, WorkspaceFolder } from 'vscode';
import { findServer, settings } from './find';
import { Problem, sentence } from './messages';
import type { Server } from './server';

const EVERY_MS = 1000;

interface Numbers {
  bits_per_token: number;
  exact: number;
  tokens_per_forward: number;
  ms_per_token?: number; // results of older versions have none
}

/** What the page shows. */
interface State {
  running: boolean;
  /** A run that was begun and not finished can go on. */
  begun: boolean;
  /** It has learnt something that can be measured. */
  learning: boolean;
  said: string;
  failed: string;
  steps: number;
  losses: number[];
  secondsLeft: number | null;
  result: { better: boolean; before: Numbers; after: Numbers } | null;
}

export class TuneView implements Disposable {
  private panel: WebviewPanel | undefined;
  private process: ChildProcess | undefined;
  private timer: NodeJS.Timeout | undefined;
  private said = '';
  private failed = '';

  constructor(
    private readonly context: ExtensionContext,
    private readonly server: Server,
  ) {}

  dispose(): void {
    this.stop();
    this.panel?.dispose();
  }

  async show(): Promise<void> {
    if (!workspace.isTrusted) {
      throw new Problem('Tuning reads the whole workspace, which is not trusted yet.', [
        { title: 'Manage Trust', run: () => commands.executeCommand('workbench.trust.manage') },
      ]);
    }
    const folder = this.folder();
    if (!this.panel) {
      const options = { enableScripts: true, retainContextWhenHidden: true, localResourceRoots: [] };
      this.panel = window.createWebviewPanel('diffcoder.tune', 'diffcoder tune', ViewColumn.Active, options);
      this.panel.webview.html = page(folder.name);
      this.panel.webview.onDidReceiveMessage((message: { does: string; minutes?: number }) => this.heard(message, folder));
      this.panel.onDidDispose(() => {
        this.panel = undefined;
        clearInterval(this.timer);
      });
      this.timer = setInterval(() => void this.render(folder), EVERY_MS);
    }
    this.panel.reveal();
    await this.render(folder);
  }

  private folder(): WorkspaceFolder {
    const active = window.activeTextEditor?.document.uri;
    const folder = (active && workspace.getWorkspaceFolder(active)) ?? workspace.workspaceFolders?.[0];
    if (folder) return folder;
    throw new Problem('There is no folder to learn from: open one.', [
      { title: 'Open Folder', run: () => commands.executeCommand('vscode.openFolder') },
    ]);
  }

  /** A folder of ours for each repository and model. */
  private run(folder: WorkspaceFolder): string {
    const model = this.server.status?.model ?? settings().get<string>('model', 'default');
    const key = createHash('sha256').update(`${folder.uri.fsPath}\0${model}`).digest('hex').slice(0, 8);
    return join(this.context.globalStorageUri.fsPath, 'tune', `${folder.name}-${key}`);
  }

  private async heard(message: { does: string; minutes?: number }, folder: WorkspaceFolder): Promise<void> {
    try {
      const minutes = String(Math.min(100_000, Math.max(1, Number(message.minutes) || 60)));
      if (message.does === 'start') await this.start(folder, ['--minutes', minutes]);
      else if (message.does === 'resume') await this.start(folder, ['--minutes', minutes, '--resume']);
      else if (message.does === 'finish') await this.start(folder, ['--finish']);
      else if (message.does === 'use') await this.start(folder, ['--use']);
      else if (message.does === 'off') await this.start(folder, ['--off']);
      else if (message.does === 'anew' && (await agreed())) {
        await rm(this.run(folder), { recursive: true, force: true });
        await this.start(folder, ['--minutes', minutes]);
      }
      else if (message.does === 'stop') this.stop();
    } catch (error) {
      this.failed = sentence(error);
    }
    await this.render(folder);
  }

  /** The first interrupt lets it end in order: its work is kept. */
  private stop(): void {
    this.process?.kill('SIGINT');
  }

  private async start(folder: WorkspaceFolder, how: string[]): Promise<void> {
    if (this.process) return;
    const program = await findServer(this.context);
    const run = this.run(folder);
    await mkdir(join(run, '..'), { recursive: true });
    const model = this.server.status?.model ?? 'default';
    const options = ['tune', folder.uri.fsPath, '--run', run, '--model', model, ...how];
    this.server.channel.info(`${program.path} ${options.join(' ')}`);
    this.said = 'starting';
    this.failed = '';
    const environment = settings().get<Record<string, string>>('server.environment', {});
    const child = spawn(program.path, options, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, COLUMNS: '200', ...environment },
    });
    this.process = child;
    let complaint = '';
    const read = (data: Buffer, isError: boolean) => {
      for (const line of data.toString().split(/\r?\n/).filter((each) => each.trim())) {
        this.server.channel.info(line);
        this.said = line;
        if (isError) complaint = line;
      }
    };
    child.stdout?.on('data', (data) => read(data, false));
    child.stderr?.on('data', (data) => read(data, true));
    const ended = (failed: string, said = this.said) => {
      this.process = undefined;
      this.failed = failed;
      this.said = said;
      void this.render(folder);
    };
    child.on('error', (error) => ended(`${program.path} could not be started (${error.message}).`));
    child.on('close', (status) => {
      if (status === 130) ended('', 'Stopped. What was done is kept.');
      // A run that ended says nothing more: the page has its result. What uses or takes away has said that it did.
      else if (status === 0) ended('', how.some((each) => each === '--use' || each === '--off') ? this.said : '');
      else ended(complaint.replace(/^diffcoder(?: tune)?: /, '') || 'It ended early; the log says why.', '');
    });
  }

  private async render(folder: WorkspaceFolder): Promise<void> {
    await this.panel?.webview.postMessage(await this.state(this.run(folder)));
  }

  private async state(run: string): Promise<State> {
    const read = async (name: string): Promise<string> => readFile(join(run, name), 'utf8').catch(() => '');
    const lines = (await read('log.jsonl')).split('\n').flatMap((line) => parsed<{ step?: number; loss?: number; time?: string }>(line) ?? []);
    const steps = lines.filter((line) => line.loss !== undefined);
    const planned = parsed<{ steps?: number }>(await read('recipe.json'))?.steps ?? 0;
    const recent = steps.slice(-30);
    const seconds = recent.length > 1 ? (Date.parse(recent.at(-1)!.time!) - Date.parse(recent[0]!.time!)) / 1000 : 0;
    const done = steps.at(-1)?.step ?? 0;
    return {
      running: this.process !== undefined,
      begun: steps.length > 0 || (await read('before.jsonl')) !== '', // gaps are measured before it learns
      learning: steps.length > 0,
      said: this.said,
      failed: this.failed,
      steps: planned,
      losses: steps.map((line) => line.loss!),
      secondsLeft: seconds && planned ? Math.max(0, planned - done) * (seconds / (recent.length - 1)) : null,
      result: parsed<NonNullable<State['result']>>(await read('result.json')) ?? null,
    };
  }
}

async function agreed(): Promise<boolean> {
  const anew = 'Learn Anew';
  const detail = 'An adapter that is in use stays until another one takes its place.';
  return (await window.showWarningMessage('The numbers and the adapter of the last run are removed.', { modal: true, detail }, anew)) === anew;
}

function parsed<T>(text: string): T | undefined {
  try {
    return text ? (JSON.parse(text) as T) : undefined;
  } catch {
    return undefined; // a line that is being written
  }
}

function page(name: string): string {
  const nonce = randomBytes(16).toString('hex');
  const title = name.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
  return `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-${nonce}'">
<title>diffcoder tune</title>
<style>
  body { max-width: 46rem; padding: 1rem 2rem; }
  p { line-height: 1.5; }
  .quiet { color: var(--vscode-descriptionForeground); }
  .bad { color: var(--vscode-errorForeground); }
  button { font: inherit; padding: .35rem .9rem; margin: 0 .5rem .5rem 0; border: 1px solid var(--vscode-button-border, transparent);
    color: var(--vscode-button-foreground); background: var(--vscode-button-background); border-radius: 2px; cursor: pointer; }
  button:hover { background: var(--vscode-button-hoverBackground); }
  button.second { color: var(--vscode-button-secondaryForeground); background: var(--vscode-button-secondaryBackground); }
  input { font: inherit; width: 4.5rem; color: var(--vscode-input-foreground); background: var(--vscode-input-background);
    border: 1px solid var(--vscode-input-border, var(--vscode-editorWidget-border)); padding: .25rem .4rem; }
  svg { width: 100%; height: 11rem; margin: 1rem 0; background: var(--vscode-editorWidget-background); }
  polyline { fill: none; stroke: var(--vscode-charts-blue); stroke-width: 2; vector-effect: non-scaling-stroke; }
  polyline.raw { stroke-width: 1; opacity: .35; }
  table { border-collapse: collapse; margin: 1rem 0; }
  th, td { padding: .4rem 1rem .4rem 0; text-align: right; } th[scope=row] { text-align: left; font-weight: 400; }
  [hidden] { display: none; }
</style></head><body>
<h1>Learn ${title}</h1>
<p class="quiet">A small adapter for the model, trained on this machine on the workspace's own files and history, and measured on
files that it never saw. It takes most of the processor; nothing leaves the machine.</p>
<p><label>Minutes <input id="minutes" type="number" min="1" value="60"></label></p>
<p><button id="start">Start</button><button id="resume" class="second">Go On</button><button id="finish" class="second">Measure Now</button>
<button id="stop" class="second">Stop</button><button id="use">Use This Adapter</button><button id="off" class="second">Use None</button>
<button id="anew" class="second">Learn Anew</button></p>
<p id="said" role="status" aria-live="polite"></p><p id="failed" class="bad" role="alert"></p>
<svg id="plot" viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="loss by step" hidden><polyline class="raw"/><polyline class="smooth"/></svg>
<p id="loss" class="quiet"></p>
<table id="result" hidden><thead><tr><td></td><th>before</th><th>after</th></tr></thead><tbody></tbody></table>
<script nonce="${nonce}">
const code = acquireVsCodeApi(), $ = (id) => document.getElementById(id);
for (const id of ['start', 'resume', 'finish', 'stop', 'use', 'off', 'anew'])
  $(id).onclick = () => code.postMessage({ does: id, minutes: Number($('minutes').value) });
const show = (id, on) => $(id).toggleAttribute('hidden', !on); // an SVG element has no property for it
const set = (id, text) => { if ($(id).textContent !== text) $(id).textContent = text; };
addEventListener('message', ({ data }) => {
  const unfinished = !data.result || data.losses.length < data.steps; // what was learnt so far may have been measured
  show('start', !data.running && !data.begun); show('resume', !data.running && data.begun && unfinished);
  show('finish', !data.running && data.learning && !data.result); show('stop', data.running);
  show('use', !data.running && data.result?.better); // the command takes no other
  for (const id of ['off', 'anew']) show(id, !data.running && data.result);
  set('said', data.said); set('failed', data.failed);
  const losses = data.losses, n = losses.length;
  show('plot', n > 1);
  if (n > 1) {
    const smooth = []; let mean = losses[0];
    for (const [i, loss] of losses.entries()) { mean += (loss - mean) * Math.max(0.08, 1 / (i + 1)); smooth.push(mean); }
    const low = Math.min(...losses), high = Math.max(...losses), steps = Math.max(data.steps, n);
    const points = (values) => values.map((value, i) => (100 * (i + 1) / steps).toFixed(2) + ',' + (95 - 90 * (value - low) / ((high - low) || 1)).toFixed(2)).join(' ');
    document.querySelector('.raw').setAttribute('points', points(losses));
    document.querySelector('.smooth').setAttribute('points', points(smooth));
    const left = data.running && data.secondsLeft ? ', ' + Math.ceil(data.secondsLeft / 60) + ' minutes left' : '';
    set('loss', 'step ' + n + ' of ' + steps + ', loss ' + smooth.at(-1).toFixed(3) + ' (began at ' + smooth[Math.min(4, (n - 1) >> 1)].toFixed(3) + ')' + left);
  }
  show('result', !!data.result);
  if (data.result) {
    const rows = [['bits a token', 'bits_per_token', 3, 1], ['exact, %', 'exact', 1, 100], ['tokens a forward', 'tokens_per_forward', 2, 1], ['ms a token', 'ms_per_token', 0, 1]];
    $('result').tBodies[0].replaceChildren(...rows.filter(([, key]) => key in data.result.after).map(([name, key, digits, times]) => {
      const row = document.createElement('tr'), head = document.createElement('th');
      head.scope = 'row'; head.textContent = name; row.append(head);
      for (const side of ['before', 'after']) { const cell = row.insertCell(); cell.textContent = (times * data.result[side][key]).toFixed(digits); }
      return row;
    }));
    if (!data.running && !data.said) set('said', data.result.better ? 'The tuned model is better.' : 'The tuned model is not measurably better.');
  }
});
</script></body></html>`;
}

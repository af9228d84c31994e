// The managed installation: a Python environment in the extension's own storage, made with the user's pip settings.
import { execFile, spawn } from 'node:child_process';
import { readFile, readdir, rm, writeFile, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { ProgressLocation, Uri, commands, env, window, type ExtensionContext, type LogOutputChannel } from 'vscode';
import type { CancellationToken, Progress } from 'vscode';
import { completeMark, managedFolder, onPath, openSetting, programIn, settings } from './find';
import { logButton as log, Problem } from './messages';

const NAMES = ['python3.14', 'python3.13', 'python3.12', 'python3.11', 'python3', 'python'];
const again = { title: 'Try Again', run: () => commands.executeCommand('diffcoder.install') };

class Cancelled extends Error {}

let atWork = false;

/** Install the server that belongs to this version of the extension; false when the user stopped it. */
export async function install(context: ExtensionContext, channel: LogOutputChannel): Promise<boolean> {
  if (atWork) {
    throw new Problem('The server is being installed already.', [
      { title: 'Show Progress', run: () => commands.executeCommand('notifications.showList') },
    ]);
  }
  atWork = true;
  try {
    return await withBar(await findPython(), context, channel);
  } finally {
    atWork = false;
  }
}

function withBar(python: string, context: ExtensionContext, channel: LogOutputChannel): Thenable<boolean> {
  return window.withProgress(
    { location: ProgressLocation.Notification, title: 'Installing the diffcoder server', cancellable: true },
    async (progress, token) => {
      const folder = managedFolder(context);
      try {
        await make(folder, python, context, channel, progress, token);
        return true;
      } catch (error) {
        await rm(folder, { recursive: true, force: true });
        if (error instanceof Cancelled) return false;
        throw error;
      }
    },
  );
}

async function make(
  folder: string,
  python: string,
  context: ExtensionContext,
  channel: LogOutputChannel,
  progress: Progress<{ message?: string; increment?: number }>,
  token: CancellationToken,
): Promise<void> {
  await rm(folder, { recursive: true, force: true });
  await mkdir(context.globalStorageUri.fsPath, { recursive: true });
  progress.report({ message: 'making a Python environment' });
  await run(python, ['-m', 'venv', folder], channel, token, () => undefined);
  const inside = programIn(folder, 'python');
  const step = reporter(progress);
  const install = ['-m', 'pip', 'install', '--disable-pip-version-check', '--no-input', '--progress-bar'];
  if (!(await tellsProgress(inside))) {
    progress.report({ message: 'bringing pip up to date' });
    await run(inside, [...install, 'off', '--upgrade', 'pip'], channel, token, step).catch((error) => {
      if (error instanceof Cancelled) throw error; // else it does without
    });
  }
  const bar = (await tellsProgress(inside)) ? 'raw' : 'off';
  const pip = [...install, bar, '-c', context.asAbsolutePath('constraints.txt')];
  // torch first and by its exact version: so pip takes a CPU build where the user's settings offer one.
  await run(inside, [...pip, await torch(context)], channel, token, step);
  const asked = settings().get<string>('install.package', '').trim();
  await run(inside, [...pip, asked || `diffcoder==${context.extension.packageJSON.version}`], channel, token, step);
  progress.report({ message: 'looking at the result' });
  await run(programIn(folder, 'diffcoder'), ['--version'], channel, token, () => undefined);
  await writeFile(completeMark(folder), '');
  for (const name of await readdir(context.globalStorageUri.fsPath)) {
    const path = join(context.globalStorageUri.fsPath, name);
    if (name.startsWith('server-') && path !== folder) await rm(path, { recursive: true, force: true });
  }
}

async function torch(context: ExtensionContext): Promise<string> {
  const lines = (await readFile(context.asAbsolutePath('constraints.txt'), 'utf8')).split('\n');
  return lines.find((line) => line.startsWith('torch==')) ?? 'torch';
}

/** Whether the pip of an environment can say how much it has fetched, line by line: since 24.1, and Python 3.12 brings 24.0. */
function tellsProgress(python: string): Promise<boolean> {
  return new Promise((resolve) => {
    execFile(python, ['-I', '-m', 'pip', '--version'], { timeout: 30_000 }, (error, output) => {
      const found = error ? undefined : /^pip (\d+)\.(\d+)/.exec(output);
      resolve(!!found && Number(found[1]) * 100 + Number(found[2]) >= 2401);
    });
  });
}

/** pip's lines as progress: what it fetches, and how much of it is here. */
function reporter(progress: Progress<{ message?: string; increment?: number }>): (line: string) => void {
  let name = '';
  let all = '';
  let shown = '';
  return (line) => {
    const what = /^\s*(?:Downloading|Using cached|Collecting|Processing) (?:\S*\/)?([A-Za-z0-9_.]+)/.exec(line);
    if (what) {
      name = what[1]!;
      all = / \(([\d.]+ [kMG]B)\)/.exec(line)?.[1] ?? '';
    }
    const size = /^Progress (\d+) of (\d+)/.exec(line);
    const percent = size && Number(size[2]) ? ` ${Math.floor((100 * Number(size[1])) / Number(size[2]))} %` : '';
    const message = line.startsWith('Installing collected') ? 'unpacking' : `fetching ${name}${percent || (all && ` (${all})`)}`;
    if (message !== shown && (what || size || message === 'unpacking')) progress.report({ message: (shown = message) });
  };
}

async function findPython(): Promise<string> {
  const wanted = settings().get<string>('install.python', '').trim();
  const candidates = wanted ? [wanted] : await Promise.all(NAMES.map(onPath));
  const seen: string[] = [];
  for (const path of candidates) {
    const version = path && (await versionOf(path));
    if (version && (version[0] > 3 || (version[0] === 3 && version[1] >= 11))) return path;
    if (version) seen.push(version.join('.'));
  }
  const choose = { title: 'Choose a Python', run: () => openSetting('diffcoder.install.python') };
  const get = { title: 'Get Python', run: () => env.openExternal(Uri.parse('https://www.python.org/downloads/')) };
  if (wanted) throw new Problem(`${wanted} is no Python 3.11 or newer.`, [choose, get]);
  const found = seen.length ? ` (there is ${[...new Set(seen)].join(', ')})` : '';
  throw new Problem(`The server needs Python 3.11 or newer, and none was found${found}.`, [get, choose]);
}

function versionOf(python: string): Promise<[number, number] | undefined> {
  const code = 'import sys, venv; print(*sys.version_info[:2])';
  return new Promise((resolve) => {
    execFile(python, ['-I', '-c', code], { timeout: 10_000 }, (error, output) => {
      const found = error ? [] : output.trim().split(' ').map(Number);
      resolve(found.length === 2 ? [found[0]!, found[1]!] : undefined);
    });
  });
}

/** Run a program to its end; its lines go to the log and to `onLine`. */
function run(
  program: string,
  options: string[],
  channel: LogOutputChannel,
  token: CancellationToken,
  onLine: (line: string) => void,
): Promise<void> {
  return new Promise((resolve, reject) => {
    if (token.isCancellationRequested) return reject(new Cancelled());
    channel.info(`${program} ${options.join(' ')}`);
    const child = spawn(program, options, { stdio: ['ignore', 'pipe', 'pipe'] });
    const stopped = token.onCancellationRequested(() => child.kill());
    let said = '';
    const read = (data: Buffer) => {
      for (const line of data.toString().split(/\r?\n/).filter(Boolean)) {
        onLine(line);
        if (!line.startsWith('Progress ')) {
          channel.info(line);
          said = `${said}\n${line}`.slice(-4000);
        }
      }
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
    child.on('error', (error) => reject(new Problem(`${program} could not be started (${error.message}).`, [again, log])));
    child.on('close', (status) => {
      stopped.dispose();
      if (token.isCancellationRequested) reject(new Cancelled());
      else if (status === 0) resolve();
      else reject(failure(said));
    });
  });
}

function failure(said: string): Problem {
  const choose = { title: 'Choose a Package', run: () => openSetting('diffcoder.install.package') };
  if (/ensurepip|No module named venv/.test(said)) {
    const python = { title: 'Choose a Python', run: () => openSetting('diffcoder.install.python') };
    return new Problem('This Python cannot make environments: install its venv package, or choose another.', [python, log]);
  }
  if (/NewConnectionError|Name or service|NameResolution|ConnectTimeout|ProxyError|Connection (?:refused|broken)/.test(said)) {
    return new Problem('The server could not be downloaded: the package index was not reached.', [again, choose, log]);
  }
  if (/No matching distribution|Could not find a version|does not look like a valid|Invalid wheel|not exist/.test(said)) {
    return new Problem('pip found no package of this version of the server: choose a wheel or another index.', [choose, log]);
  }
  if (/No space left/.test(said)) {
    return new Problem('The disk is full: the server needs 2 GB in its folder; make room and try again.', [again, log]);
  }
  return new Problem('The server could not be installed; the log says why.', [log, again]);
}

// Where the server's program is: the setting, then the environment's variable, then our own installation, then the PATH.
import { access, constants, stat } from 'node:fs/promises';
import { delimiter, isAbsolute, join } from 'node:path';
import { commands, env, workspace, type ExtensionContext } from 'vscode';
import { Problem } from './messages';

export interface Program {
  path: string;
  from: 'setting' | 'variable' | 'managed' | 'path';
}

const windows = process.platform === 'win32';

export function settings() {
  return workspace.getConfiguration('diffcoder');
}

/** The folder of the installation that belongs to this version of the extension. */
export function managedFolder(context: ExtensionContext): string {
  return join(context.globalStorageUri.fsPath, `server-${context.extension.packageJSON.version}`);
}

export function programIn(environment: string, name: string): string {
  return windows ? join(environment, 'Scripts', `${name}.exe`) : join(environment, 'bin', name);
}

/** Written last, so that half an installation is none. */
export function completeMark(environment: string): string {
  return join(environment, 'complete');
}

export async function findServer(context: ExtensionContext): Promise<Program> {
  const install = { title: 'Install It', run: () => commands.executeCommand('diffcoder.install') };
  const wanted = settings().get<string>('server.path', '').trim();
  if (wanted) {
    const path = await resolved(wanted);
    if (path) return { path, from: 'setting' };
    throw new Problem(`The setting diffcoder.server.path names ${wanted}, which is no program here.`, [
      { title: 'Open Setting', run: () => openSetting('diffcoder.server.path') },
      { title: 'Use Another', run: () => clearPath() },
    ]);
  }
  const named = process.env.DIFFCODER_SERVER;
  if (named) {
    const path = await resolved(named);
    if (path) return { path, from: 'variable' };
  }
  // Also where the variable names nothing: this is what the message below offers to make.
  const managed = managedFolder(context);
  const own = (await exists(completeMark(managed))) ? programIn(managed, 'diffcoder') : undefined;
  if (own && (await exists(own))) return { path: own, from: 'managed' };
  if (named) {
    throw new Problem(`The environment's DIFFCODER_SERVER names ${named}, which is no program here.`, [
      install,
      { title: 'Open Setting', run: () => openSetting('diffcoder.server.path') },
    ]);
  }
  const found = await onPath('diffcoder');
  if (found) return { path: found, from: 'path' };
  throw new Problem('The server is not installed on this machine.', [
    install,
    { title: 'I Have It', run: () => openSetting('diffcoder.server.path') },
  ]);
}

/** Show a setting that is a machine's own: in a window on a remote machine those are on a page of their own. */
export function openSetting(name: string): Thenable<unknown> {
  const page = env.remoteName ? 'openRemoteSettings' : 'openSettings';
  return commands.executeCommand(`workbench.action.${page}`, { query: name });
}

/** Forget the path in every place that sets it. */
export async function clearPath(): Promise<void> {
  const found = settings().inspect('server.path');
  if (found?.workspaceValue !== undefined) await settings().update('server.path', undefined, false);
  if (found?.globalValue !== undefined) await settings().update('server.path', undefined, true);
}

async function resolved(name: string): Promise<string | undefined> {
  const path = name.replace(/^~(?=[/\\])/, process.env.HOME ?? '~');
  if (!isAbsolute(path)) return path.includes('/') ? undefined : onPath(path);
  return (await runs(path)) ? path : undefined;
}

export async function onPath(name: string): Promise<string | undefined> {
  for (const folder of (process.env.PATH ?? '').split(delimiter).filter(isAbsolute)) {
    const path = join(folder, windows ? `${name}.exe` : name);
    if (await runs(path)) return path;
  }
  return undefined;
}

async function runs(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}

export async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch {
    return false;
  }
}

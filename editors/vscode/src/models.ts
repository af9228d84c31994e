// The model picker: every model with its size, licence and memory; what is not here is pulled first.
import { ThemeIcon, commands, window, workspace, type QuickPickItem } from 'vscode';
import { totalmem } from 'node:os';
import { logButton, Problem, sentence, tell } from './messages';
import type { Model } from './protocol';
import type { Server } from './server';

interface Entry extends QuickPickItem {
  model: Model;
}

export async function chooseModel(server: Server): Promise<void> {
  const models = await server.models();
  const used = server.status?.model;
  const entries: Entry[] = models.map((model) => {
    const here = model.state === 'ready' || model.state === 'loaded';
    const short = model.memory > totalmem() ? ' $(warning) more memory than this machine has' : '';
    const memory = model.memory ? `needs ${giga(model.memory)} of memory` : '';
    const size = here ? 'on this machine' : `${giga(model.bytes)} to download${model.state === 'partial' ? ', begun' : ''}`;
    return {
      model,
      label: `${model.name === used ? '$(check) ' : ''}${model.name}`,
      description: model.title,
      detail: [size, memory, model.licence].filter(Boolean).join(' · ') + short,
      iconPath: new ThemeIcon(here ? 'package' : 'cloud-download'),
    };
  });
  const chosen = await window.showQuickPick(entries, {
    title: 'Choose the model',
    placeHolder: 'Models stay on this machine once they are downloaded',
    matchOnDescription: true,
    matchOnDetail: true,
  });
  if (chosen) await use(server, chosen.model);
}

async function use(server: Server, model: Model): Promise<void> {
  if (model.state !== 'ready' && model.state !== 'loaded' && !(await pull(server, model))) return;
  if (model.name !== server.status?.model) {
    const setting = workspace.getConfiguration('diffcoder');
    const inWorkspace = setting.inspect('model')?.workspaceValue !== undefined;
    await setting.update('model', model.name, !inWorkspace);
  }
}

/** Download a model after the user has agreed; whether it is here now. */
async function pull(server: Server, model: Model): Promise<boolean> {
  const agree = `Download ${giga(model.bytes)}`;
  const question = `${model.title} is not on this machine.`;
  const answer = await window.showInformationMessage(
    question,
    { modal: true, detail: `Licence: ${model.licence}. It is checked against its known hash.` },
    agree,
  );
  if (answer !== agree) return false;
  try {
    await server.execute('diffcoder.pull', { model: model.name });
    return true;
  } catch (error) {
    const message = sentence(error);
    if (/was stopped/.test(message)) {
      void tell('information', `The download of ${model.name} was stopped; what has come is kept.`, [
        { title: 'Go On', run: () => use(server, model) },
      ]);
      return false;
    }
    throw new Problem(message, [
      { title: 'Try Again', run: () => use(server, model) },
      { title: 'Choose Model', run: () => commands.executeCommand('diffcoder.chooseModel') },
      logButton,
    ]);
  }
}

function giga(bytes: number): string {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.round(bytes / 1e6)} MB`;
}

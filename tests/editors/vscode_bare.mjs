// Drives VS Code on a machine where nothing is there yet: no server, no Python, no network, no model, no trust. What each
// step has to find, test_vscode_bare.py says.
//
//     node vscode_bare.mjs OPTIONS [STEP...]      (those of vscode.mjs, and "python", "pip", "ran", "other")
import fs from 'node:fs';
import path from 'node:path';
import { drive, setUserSetting } from './vscode.mjs';

const options = JSON.parse(process.argv[2]);
const NOWHERE = 'http://127.0.0.1:9';
const INSTALL = 'diffcoder: Install or Update Server';
const INSTALLING = 'Installing the diffcoder server';

/** What a workspace must not set is the machine's, in a window of a remote one; and that is what code-server is. */
function setMachineSetting(name, value) {
  setUserSetting(name, value, options.machine);
}

function installed() {
  const storage = path.join(path.dirname(options.settings), 'globalStorage', 'diffcoder.diffcoder');
  return fs.existsSync(storage) ? fs.readdirSync(storage).filter((name) => name.startsWith('server-')) : [];
}

const STEPS = {
  async noServer(w) {
    const message = await w.waitForMessage('not installed');
    return { ...message, entry: await w.entry('not installed') };
  },

  async noPython(w) {
    await w.press('not installed', 'Install It');
    const message = await w.waitForMessage('Python 3.11');
    await w.press('Python 3.11', 'Choose a Python');
    const setting = await w.settingShown('Python');
    setMachineSetting('diffcoder.install.python', options.python);
    return { ...message, setting };
  },

  async noNetwork(w) {
    fs.writeFileSync(options.pip, `[global]\nproxy = ${NOWHERE}\n`);
    await w.command(INSTALL);
    const message = await w.waitForMessage('could not be downloaded');
    fs.writeFileSync(options.pip, '');
    return { ...message, installed: installed() };
  },

  async stopped(w) {
    await w.press('could not be downloaded', 'Try Again');
    const bar = w.page.locator('.notification-toast', { hasText: INSTALLING });
    await bar.locator('.monaco-button', { hasText: 'Cancel' }).click();
    await bar.waitFor({ state: 'detached' });
    for (let tries = 0; installed().length && tries < 100; tries += 1) await w.page.waitForTimeout(100);
    return { installed: installed(), entry: await w.entry('not installed') };
  },

  async install(w) {
    await w.command(INSTALL);
    const bar = await w.bar(INSTALLING);
    const message = await w.waitForMessage('The server is installed.');
    return { ...bar, ...message, installed: installed() };
  },

  async untrusted(w) {
    const entry = await w.entry('not trusted');
    await w.openFile('prices.py');
    await w.say('Add a docstring');
    const message = await w.waitForMessage('not trusted');
    const ran = fs.existsSync(options.ran);
    fs.rmSync(path.join(options.folder, '.vscode'), { recursive: true, force: true });
    await w.page.waitForTimeout(3000); // until it is noticed: what a trusted folder sets, counts
    await w.press('not trusted', 'Manage Trust');
    await w.page.locator('.workspace-trust-editor .monaco-button', { hasText: 'Trust' }).first().click();
    const trusted = await w.entry('loaded when it is needed');
    await w.command('View: Close Modal Editor');
    await w.page.locator('.workspace-trust-editor').waitFor({ state: 'detached' });
    return { ...message, entry, ran, trusted };
  },

  async noModel(w) {
    await w.openFile('prices.py');
    await w.keys('Control+End');
    await w.type('\n\ndef double(x):\nreturn ');
    const message = await w.waitForMessage('is not on this machine');
    await w.press('is not on this machine', 'Not now');
    return { ...message, entry: await w.entry('not on this machine') };
  },

  async noNetworkForModels(w) {
    const proxies = ['http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY'];
    setMachineSetting('diffcoder.server.environment', Object.fromEntries(proxies.map((name) => [name, NOWHERE])));
    await w.entry('loaded when it is needed'); // started again
    await w.command('diffcoder: Choose Model');
    await w.choose('SmolLM2');
    await w.page.locator('.monaco-dialog-box .monaco-button', { hasText: 'Download' }).click();
    const message = await w.waitForMessage('Try Again');
    setMachineSetting('diffcoder.server.environment', {});
    return message;
  },

  async model(w) {
    fs.symlinkSync(options.model, path.join(options.home, 'models', 'default'));
    await w.command('diffcoder: Restart Server');
    await w.entry('loaded when it is needed');
    await w.openFile('prices.py');
    await w.keys('Control+End');
    const shown = await w.waitForGhost();
    return { shown };
  },

  async otherVersion(w) {
    setMachineSetting('diffcoder.server.path', options.other);
    const message = await w.waitForMessage('0.9.0');
    await w.press('0.9.0', 'Open Setting');
    return { ...message, setting: await w.settingShown('Path') };
  },

  async noSuchServer(w) {
    setMachineSetting('diffcoder.server.path', '/bin/true');
    const message = await w.waitForMessage('did not start');
    setMachineSetting('diffcoder.server.path', '');
    await w.running();
    return message;
  },
};

await drive(STEPS, 'prices.py', process.argv.slice(3));

// Drives VS Code in a browser: keys in, what stands on the screen out. Each step prints a JSON line {step, found}: what
// the editor showed and what the file on the disk held. What that has to be, test_vscode.py says.
//
//     node vscode.mjs '{"modules", "chromium", "address", "folder", "shots", "diffcoder", "home", "settings"}' [STEP...]
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const options = JSON.parse(process.argv[2]);
const { chromium } = createRequire(path.join(options.modules, 'x'))('playwright-core');
const SLOW = options.slow ?? 240_000; // milliseconds; a busy machine loads a model for minutes

/** A Code window with one file in front. */
export class Window {
  constructor(page) {
    this.page = page;
  }

  /** The window with `file` open; without one, as it was when it was left. */
  async load(file) {
    let address = `${options.address}/?folder=${encodeURIComponent(options.folder)}`;
    if (file) {
      const remote = `vscode-remote://${new URL(options.address).host}${path.join(options.folder, file)}`;
      address += `&payload=${encodeURIComponent(JSON.stringify([['openFile', remote]]))}`;
    }
    await this.page.goto(address, { waitUntil: 'domcontentloaded', timeout: SLOW });
    await this.page.waitForSelector('.monaco-workbench', { timeout: SLOW });
    await this.page.waitForSelector('.editor-instance .view-lines .view-line', { timeout: SLOW });
  }

  async keys(...keys) {
    for (const key of keys) await this.page.keyboard.press(key);
  }

  type(text, delay = 30) {
    return this.page.keyboard.type(text, { delay });
  }

  async command(title) {
    await this.page.keyboard.press('F1');
    await this.page.waitForSelector('.quick-input-widget:visible input');
    await this.page.locator('.quick-input-widget input').first().fill(`>${title}`);
    // The very one: others have names that begin the same.
    const name = this.page.locator('.label-name', { hasText: new RegExp(`^${title}…?$`) });
    await this.page.locator('.quick-input-list .monaco-list-row', { has: name }).first().click({ timeout: 15000 });
  }

  /** Ready to work: the server runs. On a very busy machine VS Code gives its extension host up, silently, when it takes
   * more than a minute to start; then the window is loaded anew. */
  async running() {
    const ready = this.status().locator('.codicon-sparkle');
    for (let tries = 0; tries < 3; tries += 1) {
      try {
        return await ready.waitFor({ timeout: SLOW / 2 });
      } catch {
        await this.load();
      }
    }
    return ready.waitFor({ timeout: SLOW });
  }

  async openFile(file) {
    await this.page.locator('.explorer-folders-view .monaco-list-row', { hasText: file }).dblclick();
    await this.page.locator('.tab.active', { hasText: file }).waitFor({ timeout: SLOW });
    await this.page.locator('.editor-group-container.active .view-lines .view-line').first().waitFor();
    await this.page.locator('.editor-group-container.active .monaco-editor.focused').first().waitFor();
  }

  async select(first, last) {
    await this.goTo(first);
    for (let line = first; line <= last; line += 1) await this.keys('Shift+ArrowDown');
  }

  async say(instruction) {
    await this.keys('Control+i');
    await this.page.waitForSelector('.quick-input-widget:visible input');
    await this.type(instruction, 5);
    await this.keys('Enter');
  }

  async choose(text) {
    const row = this.page.locator('.quick-input-list .monaco-list-row', { hasText: text }).first();
    await row.waitFor({ timeout: SLOW });
    await row.click();
  }

  /** What drafts show: the text of pseudo elements, which is all that a decoration can bring. */
  drafts() {
    return this.page.evaluate(() =>
      [...document.querySelectorAll('.view-line span span')]
        .flatMap((node) => ['::before', '::after'].map((which) => getComputedStyle(node, which).content))
        .filter((text) => text !== 'none' && text !== 'normal' && text.length > 3)
        .map((text) => text.slice(1, -1)),
    );
  }

  /** Wait for the lenses of a review; the drafts that were seen meanwhile. */
  async reviewed(silent = false) {
    const seen = new Set();
    const end = Date.now() + SLOW;
    while (Date.now() < end && !(await this.lens('Accept').count())) {
      for (const draft of await this.drafts()) seen.add(draft);
      const said = await this.messages();
      if (said.length && !silent) throw new Error(said.join(' | '));
      await this.page.waitForTimeout(60);
    }
    return [...seen];
  }

  /** Ask for the first lines to be rewritten, and see the model at work. */
  async rename(last) {
    await this.select(1, last);
    await this.say('Rename the variable result to money');
    await this.lens('Stop').first().waitFor({ timeout: SLOW });
  }

  async rejectAll() {
    await this.keys('Shift+Alt+Backspace');
    await this.gone('Accept');
  }

  async goTo(line, column = 1) {
    await this.page.keyboard.press('Control+g');
    await this.page.waitForSelector('.quick-input-widget:visible input');
    await this.page.locator('.quick-input-widget input').first().fill(`:${line}:${column}`);
    await this.page.keyboard.press('Enter');
    await this.page.waitForTimeout(200);
  }

  /** The document in front, as it is on the screen now. */
  now() {
    return this.page.evaluate(() =>
      [...document.querySelectorAll('.editor-group-container.active .view-lines .view-line')]
        .sort((a, b) => parseFloat(a.style.top) - parseFloat(b.style.top))
        .map((line) => {
          const copy = line.cloneNode(true);
          for (const ghost of copy.querySelectorAll('[class*=ghost-text]')) ghost.remove();
          return copy.textContent.replace(/[\u00a0\u00b7]/g, ' ').replace(/\u200c/g, '');
        })
        .join('\n'),
    );
  }

  /** The document in front, as it is on the screen, once it stays the same for a moment. */
  async text() {
    for (let last = await this.now(), tries = 0; ; tries += 1) {
      await this.page.waitForTimeout(700);
      const now = await this.now();
      if (now === last || tries > 20) return now;
      last = now;
    }
  }

  /** The document once `holds` is true of it. */
  async textWhere(holds) {
    for (let tries = 0; tries < 60; tries += 1) {
      const text = await this.text();
      if (holds(text)) return text;
    }
    return this.text();
  }

  /** The file after a save. */
  async saved(file) {
    await this.page.waitForTimeout(500);
    await this.keys('Control+s');
    await this.page.waitForTimeout(500);
    await this.page.locator('.tab.active.dirty').waitFor({ state: 'detached', timeout: SLOW });
    return onDisk(file);
  }

  /** Wait until no lens has this title. */
  async gone(title) {
    for (let tries = 0; await this.lens(title).count(); tries += 1) {
      if (tries === 150) throw new Error(`${title} is still there`);
      await this.page.waitForTimeout(200);
    }
  }

  /** What the entry in the status bar says to those who cannot see it, once it holds `words`. */
  async entry(words) {
    const entry = this.page.locator(`.statusbar-item[id="diffcoder.diffcoder.diffcoder"][aria-label*="${words}"]`);
    await entry.waitFor({ timeout: SLOW });
    return entry.getAttribute('aria-label');
  }

  /** A bar with a button, to its end: all that it said. */
  async bar(title) {
    const bar = this.page.locator('.notification-toast', { hasText: title });
    await bar.waitFor({ timeout: SLOW });
    const cancel = await bar.locator('.monaco-button', { hasText: 'Cancel' }).count();
    const seen = new Set();
    while (await bar.count()) {
      seen.add((await bar.innerText({ timeout: 1000 }).catch(() => '')).replace(/\s+/g, ' '));
      await this.page.waitForTimeout(50);
    }
    return { cancel, seen: [...seen] };
  }

  /** The settings that are shown, once `name` is among them. */
  async settingShown(name) {
    const found = this.page.locator('.settings-editor .setting-item-label', { hasText: name }).first();
    await found.waitFor({ timeout: SLOW });
    await this.keys('Escape');
    await this.page.locator('.settings-editor').waitFor({ state: 'detached' });
    return true;
  }

  /** Click a lens until another is gone. A window that was loaded anew first shows lenses from its own memory, dead ones. */
  async click(title, other) {
    for (let tries = 0; tries < 10 && (await this.lens(other).count()); tries += 1) {
      await this.lens(title).first().click();
      for (let moment = 0; moment < 20 && (await this.lens(other).count()); moment += 1) await this.page.waitForTimeout(100);
    }
    await this.gone(other);
  }

  /** Ghost text: one line in pieces among what stands there, further lines in a space of their own. */
  ghost() {
    return this.page.evaluate(() => {
      const lines = new Map();
      for (const node of document.querySelectorAll('[class*=ghost-text]')) {
        if (node.querySelector('[class*=ghost-text]')) continue;
        const line = node.closest('.view-line') ?? node;
        lines.set(line, (lines.get(line) ?? '') + node.textContent);
      }
      const top = ([line]) => line.getBoundingClientRect().top; // the page has them in any order
      return [...lines].sort((a, b) => top(a) - top(b)).map(([, text]) => text).join('\n').replace(/\u00a0/g, ' ').trim();
    });
  }

  /** Ghost text that stays the same for a second: what is left of another entry's goes a moment after the entry. */
  async settledGhost() {
    let ghost = await this.ghost();
    for (let end = Date.now() + 8000, since = Date.now(); Date.now() < end && !(ghost && Date.now() - since > 1000); ) {
      await this.page.waitForTimeout(100);
      const now = await this.ghost();
      if (now !== ghost) [ghost, since] = [now, Date.now()];
    }
    return ghost;
  }

  async waitForGhost() {
    // On a busy machine an automatic suggestion is given up as too slow; one that is asked for is not.
    for (let tries = 0; tries < 40; tries += 1) {
      for (const end = Date.now() + 10000; Date.now() < end; await this.page.waitForTimeout(100)) {
        const text = await this.ghost();
        if (text) return text;
      }
      if (tries % 6 === 0) await this.keys('Alt+\\');
    }
    return '';
  }

  /** The entry of the code actions at the cursor that holds `title`. VS Code asks for actions by itself when the cursor
   * has moved, and drops the list that a key asked for meanwhile (one press in eight, on a busy machine). */
  async action(title) {
    const entry = this.page.locator('.action-widget .monaco-list-row', { hasText: title }).first();
    for (let tries = 1; ; tries += 1) {
      await this.keys('Control+.');
      try {
        await entry.waitFor({ timeout: 20_000 });
        return entry;
      } catch (error) {
        if (tries === 5) throw error;
        await this.keys('Escape');
      }
    }
  }

  lens(title) {
    return this.page.locator('.codelens-decoration > :is(a, span)', { hasText: title });
  }

  status() {
    return this.page.locator('.statusbar-item[id="diffcoder.diffcoder.diffcoder"]');
  }

  /** The messages on the screen. */
  messages() {
    return this.page.locator('.notification-toast .notification-list-item-message').allInnerTexts();
  }

  async waitForMessage(text) {
    const toast = this.page.locator('.notification-toast', { hasText: text });
    await toast.waitFor({ timeout: SLOW });
    return {
      text: (await toast.locator('.notification-list-item-message').innerText()).trim(),
      buttons: await toast.locator('.notification-list-item-buttons-container .monaco-button').allInnerTexts(),
    };
  }

  press(text, button) {
    const toast = this.page.locator('.notification-toast', { hasText: text });
    return toast.locator('.monaco-button', { hasText: button }).click();
  }

  shot(name) {
    return this.page.screenshot({ path: path.join(options.shots, `${name}.png`) });
  }
}

function onDisk(file) {
  return fs.readFileSync(path.join(options.folder, file), 'utf8');
}

function diffcoder(...command) {
  return execFileSync(options.diffcoder, command, { env: { ...process.env, DIFFCODER_HOME: options.home } });
}

function engines() {
  return JSON.parse(diffcoder('engine', 'status', '--json'));
}

/** The language servers of this home, by their process numbers. */
function servers() {
  const ours = (pid) => {
    try {
      const command = fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      return command.includes('lsp') && fs.readFileSync(`/proc/${pid}/environ`, 'utf8').includes(`DIFFCODER_HOME=${options.home}\0`);
    } catch {
      return false; // it has ended
    }
  };
  const found = fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name) && ours(name)).map(Number);
  return found.filter((pid) => !found.includes(parent(pid))); // what a server starts looks like it for an instant
}

function parent(pid) {
  try {
    return Number(/^PPid:\s*(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8'))[1]);
  } catch {
    return 0; // it has ended
  }
}

/** Change a setting of the workspace; without a value, there are none any more. */
function setSetting(name, value) {
  const file = path.join(options.folder, '.vscode', 'settings.json');
  fs.writeFileSync(file, JSON.stringify(value === undefined ? {} : { [name]: value }));
}

/** Change a setting of the user, or of the machine. */
export function setUserSetting(name, value, file = options.settings) {
  const all = JSON.parse(fs.readFileSync(file, 'utf8'));
  fs.writeFileSync(file, JSON.stringify({ ...all, [name]: value }));
}

const STEPS = {
  async ghost(w) {
    await w.openFile('ghost.py');
    await w.keys('Control+End');
    await w.type('def double(x):\nreturn '); // the editor indents
    const shown = await w.waitForGhost();
    const typed = await w.text();
    await w.shot('ghost');
    await w.keys('Control+ArrowRight');
    const word = await w.textWhere((text) => text !== typed);
    await w.waitForGhost();
    await w.keys('Tab');
    await w.textWhere((text) => text !== word);
    return { shown, typed, word, all: await w.saved('ghost.py') };
  },

  async line(w) {
    await w.openFile('lines.py');
    await w.keys('Control+End');
    await w.type('def median(numbers):\n');
    const shown = await w.waitForGhost();
    const typed = await w.text();
    await w.keys('Control+Alt+ArrowRight');
    const line = await w.textWhere((text) => text !== typed);
    await w.keys('Escape');
    return { shown, typed, line };
  },

  async alternatives(w) {
    setSetting('diffcoder.inline.alternatives', 3);
    await w.page.waitForTimeout(3000); // the editor watches the file, and tells the server
    await w.openFile('names.py');
    await w.keys('Control+End');
    await w.keys('Escape');
    await w.keys('Alt+\\');
    const seen = new Set([await w.waitForGhost()]);
    for (const key of ['Alt+]', 'Alt+]', 'Alt+[']) {
      const before = await w.ghost();
      await w.keys(key); // the first time, the model writes the others
      for (const end = Date.now() + 15000; Date.now() < end && [before, ''].includes(await w.ghost()); ) await w.page.waitForTimeout(100);
      seen.add(await w.ghost());
    }
    const shown = await w.ghost();
    const typed = await w.text();
    await w.keys('Tab');
    await w.textWhere((text) => text !== typed);
    setSetting();
    return { seen: [...seen], shown, text: await w.saved('names.py') };
  },

  async edit(w) {
    await w.openFile('prices.py');
    const before = onDisk('prices.py');
    await w.select(1, 5);
    await w.say('Rename the variable result to money');
    const drafts = await w.reviewed();
    await w.lens('Change 2 of 2').first().waitFor({ timeout: SLOW });
    const made = await w.text();
    await w.shot('review');
    await w.keys('Alt+Enter');
    await w.gone('Change');
    await w.keys('Alt+Backspace');
    await w.gone('Accept');
    const decided = await w.text();
    await w.keys('Control+z'); // once; a save would have been a stop on the way back
    return { before, drafts, made, decided, undone: await w.saved('prices.py') };
  },

  async gaps(w) {
    await w.openFile('gaps.py');
    await w.keys('Control+Alt+g');
    const drafts = await w.reviewed();
    await w.lens('Change 1 of 2').first().waitFor({ timeout: SLOW });
    const lenses = await w.page.locator('.codelens-decoration > :is(a, span)').allInnerTexts();
    await w.shot('gaps');
    await w.keys('Shift+Alt+Enter');
    await w.gone('Accept');
    const filled = await w.text();
    await w.keys('Control+z');
    return { drafts, lenses, filled, undone: await w.saved('gaps.py') };
  },

  /** Several selections, each of them a gap. */
  async selections(w) {
    await w.openFile('selected.py');
    await w.goTo(2, 16);
    await w.keys('Shift+ArrowRight', 'Shift+ArrowRight', 'Shift+ArrowRight', 'Control+d', 'Control+Alt+g');
    await w.reviewed();
    await w.lens('Change 2 of 2').first().waitFor({ timeout: SLOW });
    const made = await w.text();
    await w.keys('Shift+Alt+Enter');
    await w.gone('Accept');
    await w.keys('Control+z');
    return { made, undone: await w.saved('selected.py') };
  },

  /** The user writes elsewhere in the file, key after key, while the model writes and when its changes come. */
  async elsewhere(w) {
    await w.openFile('elsewhere.py');
    await w.rename(40);
    await w.keys('Control+Home');
    await w.type('# ours: \n', 5);
    await w.keys('ArrowUp', 'End');
    const writing = await w.lens('Stop').count();
    let typed = 0;
    // Lenses come when the keys rest; the text tells at once.
    const changed = w.page.locator('.editor-group-container.active .view-line', { hasText: 'money' });
    for (const end = Date.now() + SLOW; Date.now() < end && !(await changed.count()); typed += 1) {
      if ((await w.messages()).length) break;
      await w.type('x');
    }
    await w.type('yyy');
    const first = (await w.text()).split('\n')[0];
    await w.keys('Alt+Enter'); // no change here: it goes to the next one
    await w.page.waitForTimeout(500);
    const undecided = await w.lens('Accept').count();
    const made = await w.saved('elsewhere.py');
    await w.rejectAll();
    return { writing, typed, first, undecided, made, back: await w.saved('elsewhere.py') };
  },

  /** The user writes within the lines that the model is rewriting, asks once more, and stops that. */
  async within(w) {
    await w.openFile('within.py');
    await w.rename(40);
    await w.goTo(2, 100);
    await w.type('  # ours', 5);
    const message = await w.waitForMessage('text changed');
    const left = await w.saved('within.py');
    await w.press('text changed', 'Try Again');
    await w.lens('Stop').first().waitFor({ timeout: SLOW });
    await w.lens('Stop').first().click();
    await w.gone('Stop');
    return { ...message, left, back: await w.saved('within.py') };
  },

  /** The file is closed while the model writes, and opened again. */
  async closing(w) {
    await w.openFile('within.py');
    const before = onDisk('within.py');
    await w.rename(40);
    await w.command('View: Close Editor');
    await w.page.locator('.tab', { hasText: 'within.py' }).waitFor({ state: 'detached' });
    await w.running();
    const messages = await w.messages();
    await w.openFile('within.py');
    await w.page.waitForTimeout(1000);
    if (await w.lens('Accept').count()) {
      await w.rejectAll();
    }
    return { before, messages, after: await w.saved('within.py') };
  },

  /** The engine is killed while it writes. */
  async killWriting(w) {
    await w.openFile('within.py');
    const before = onDisk('within.py');
    await w.rename(40);
    const [{ pid }] = engines();
    process.kill(pid, 'SIGKILL');
    const toast = w.page.locator('.notification-toast', { hasText: 'diffcoder:' });
    await w.lens('Accept').first().or(toast.first()).first().waitFor({ timeout: SLOW });
    const messages = await w.messages();
    if (messages.length) await toast.locator('.monaco-button', { hasText: 'Try Again' }).first().click();
    await w.reviewed(true);
    const made = await w.saved('within.py');
    await w.rejectAll();
    return { before, messages, made, other: engines()[0].pid !== pid, after: await w.saved('within.py') };
  },

  /** The language server is killed; then it is started anew, three times at once. */
  async restarts(w) {
    const [first] = servers();
    process.kill(first, 'SIGKILL');
    for (const end = Date.now() + SLOW; Date.now() < end && servers().every((pid) => pid === first); ) await w.page.waitForTimeout(100);
    await w.running();
    const [second] = servers();
    for (let times = 0; times < 3; times += 1) await w.command('diffcoder: Restart Server');
    let most = 0;
    for (const end = Date.now() + 4000; Date.now() < end; await w.page.waitForTimeout(20)) most = Math.max(most, servers().length);
    await w.running();
    const last = servers();
    return { first, second, most, last, messages: await w.messages() };
  },

  /** While a list of words is open, only what goes on from the chosen one is shown. */
  async list(w) {
    await w.openFile('words.py');
    await w.keys('Control+End');
    await w.type('total_');
    await w.keys('Control+Space');
    const row = w.page.locator('.suggest-widget.visible .monaco-list-row.focused');
    const seen = [];
    for (let times = 0; times < 2; times += 1) {
      await row.waitFor({ timeout: SLOW });
      const chosen = (await row.locator('.label-name').innerText()).trim();
      seen.push({ chosen, ghost: await w.settledGhost() });
      await w.keys('ArrowDown');
    }
    await w.keys('Escape', 'Escape');
    return { seen };
  },

  /** A click on the entry in the status bar, and the log. */
  async menu(w) {
    const entry = await w.entry('model');
    await w.status().click();
    await w.page.locator('.quick-input-list .monaco-list-row', { hasText: 'Fill Gaps' }).first().waitFor();
    const offered = (await w.page.locator('.quick-input-list .monaco-list-row').allInnerTexts()).join('\n');
    await w.choose('Show Log');
    const log = w.page.locator('.part.panel .view-lines');
    await log.filter({ hasText: 'starting' }).first().waitFor({ timeout: SLOW });
    await w.command('View: Toggle Panel Visibility');
    return { entry, offered };
  },

  /** Asked again from the history; another answer; the text before beside it; one undo. */
  async again(w) {
    await w.openFile('prices.py');
    await w.select(1, 5);
    await w.keys('Control+i');
    const rows = w.page.locator('.quick-input-list .monaco-list-row');
    await rows.first().waitFor();
    const history = await rows.allInnerTexts();
    await w.keys('Enter');
    await w.reviewed();
    const first = await w.text();
    await w.lens('Try Again').first().click();
    // What is put back stays for as long as the model writes anew, which can be short.
    let between = '';
    for (const end = Date.now() + SLOW; Date.now() < end && between.trimEnd() !== onDisk('prices.py').trimEnd(); ) between = await w.now();
    await w.lens('Stop').first().waitFor({ timeout: SLOW });
    await w.reviewed();
    const second = await w.text();
    await w.lens('Compare').first().click();
    const left = w.page.locator('.monaco-diff-editor .editor.original .view-lines');
    await left.filter({ hasText: 'total' }).waitFor({ timeout: SLOW });
    const compared = (await left.innerText()).replace(/\u00a0/g, ' ');
    await w.shot('compare');
    await w.command('View: Close Editor');
    await w.command('View: Focus Active Editor Group');
    await w.keys('Control+z');
    await w.gone('Accept');
    return { history, first, between, second, compared, undone: await w.saved('prices.py') };
  },

  /** The document is edited above and between its changes while they are reviewed. */
  async meanwhile(w) {
    await w.openFile('meanwhile.py');
    await w.select(1, 5);
    await w.say('Rename the variable result to money');
    await w.reviewed();
    await w.goTo(1);
    await w.type('# ours\n');
    await w.goTo(4, 100);
    await w.type('  # each');
    await w.goTo(3);
    await w.keys('Alt+Enter');
    await w.gone('Change');
    const one = await w.text();
    await w.keys('Alt+Backspace');
    await w.gone('Accept');
    return { one, all: await w.saved('meanwhile.py') };
  },

  /** The document is closed while it is reviewed: saved, and then without a save. */
  async closed(w) {
    await w.openFile('closed.py');
    await w.select(1, 5);
    await w.say('Rename the variable result to money');
    await w.reviewed();
    const made = await w.saved('closed.py');
    await w.command('View: Close Editor');
    await w.openFile('closed.py');
    await w.lens('Change 2 of 2').first().waitFor({ timeout: SLOW });
    await w.click('Reject', 'Change');
    const one = await w.text();
    await w.command('View: Close Editor');
    await w.page.locator('.monaco-dialog-box .monaco-button', { hasText: "Don't Save" }).click();
    await w.openFile('closed.py');
    const again = await w.text();
    await w.page.waitForTimeout(2000);
    // VS Code may have taken the text of the disk before it closed the file: then what was not decided still waits.
    if (await w.lens('Reject').count()) await w.click('Reject', 'Accept');
    return { made, one, again, last: await w.text() };
  },

  /** The user goes elsewhere, and later writes on, while the model writes. */
  async away(w) {
    await w.openFile('ghost.py');
    await w.openFile('away.py');
    await w.select(1, 5);
    await w.say('Rename the variable result to money');
    // At once: five lines are written in a second.
    await w.page.locator('.tab', { hasText: 'ghost.py' }).click();
    await w.waitForMessage('away.py are ready');
    const front = await w.page.locator('.tab.active').innerText();
    const untouched = onDisk('away.py');
    await w.press('away.py are ready', 'Review');
    await w.reviewed(true);
    const made = await w.text();
    await w.rejectAll();
    await w.saved('away.py');
    return { front, untouched, made };
  },

  async language(w) {
    await w.openFile('names.py');
    await w.command('diffcoder: Enable or Disable for This Language');
    await w.keys('Control+End');
    await w.type('\n\n\ndef last(names):\n');
    const off = await w.entry('switched off for this file');
    const setting = JSON.parse(fs.readFileSync(options.settings, 'utf8'))['diffcoder.languages'];
    await w.command('diffcoder: Enable or Disable for This Language');
    const shown = await w.waitForGhost();
    await w.keys('Escape');
    await w.saved('names.py');
    return { off, setting, shown };
  },

  async fix(w) {
    await w.openFile('colours.json');
    await w.page.locator('.squiggly-error').first().waitFor({ timeout: SLOW });
    await w.goTo(3, 5);
    const offer = await w.action('diffcoder: fix');
    const offered = await offer.innerText();
    await w.shot('fix');
    await offer.click();
    await w.reviewed();
    await w.keys('Shift+Alt+Enter');
    await w.gone('Accept');
    return { offered, fixed: await w.saved('colours.json') };
  },

  async prompt(w) {
    await w.command('diffcoder: Show Prompt');
    await w.page.locator('.tab.active', { hasText: 'prompt.json' }).waitFor({ timeout: SLOW });
    await w.page.waitForTimeout(500);
    const text = await w.page.locator('.editor-group-container.active .view-lines').innerText();
    await w.command('View: Close Editor');
    return { text: text.replace(/\u00a0/g, ' ') };
  },

  async kill(w) {
    const [before] = engines();
    process.kill(before.pid, 'SIGKILL');
    await w.openFile('ghost.py');
    await w.keys('Control+End');
    await w.type('\n\n\n');
    await w.keys('Home');
    await w.type('def triple(x):\nreturn ');
    const shown = await w.waitForGhost();
    const [after] = engines();
    const typed = await w.text();
    await w.keys('Tab');
    await w.textWhere((text) => text !== typed);
    return { before: before.pid, after: after.pid, shown, messages: await w.messages(), text: await w.saved('ghost.py') };
  },

  async reload(w) {
    await w.openFile('prices.py');
    await w.select(1, 5);
    await w.say('Rename the variable result to money');
    await w.reviewed();
    const made = await w.saved('prices.py');
    await w.openFile('unsaved.py');
    await w.keys('Control+Alt+g');
    await w.reviewed();
    const unsaved = await w.text();
    await w.page.waitForTimeout(3000); // VS Code keeps what is not saved a moment after it was written
    await w.load();
    await w.running();
    await w.lens('Accept').first().waitFor({ timeout: SLOW });
    const kept = await w.text();
    await w.click('Reject', 'Accept');
    const back = await w.saved('unsaved.py');
    await w.openFile('prices.py'); // was not looked at since
    await w.lens('Change 2 of 2').first().waitFor({ timeout: SLOW });
    await w.click('Reject', 'Change');
    const one = await w.saved('prices.py');
    await w.click('Reject', 'Accept');
    return { made, unsaved, kept, back, one, all: await w.saved('prices.py') };
  },

  async pull(w) {
    const row = w.page.locator('.quick-input-list .monaco-list-row', { hasText: 'tiny' }).first();
    await w.command('diffcoder: Choose Model');
    await row.waitFor({ timeout: SLOW });
    const offered = await row.innerText();
    await row.click();
    const dialog = w.page.locator('.monaco-dialog-box');
    await dialog.waitFor({ timeout: SLOW });
    const asked = await dialog.innerText();
    await dialog.locator('.monaco-button', { hasText: 'Download' }).click();
    const toast = w.page.locator('.notification-toast', { hasText: 'Downloading tiny' });
    await toast.locator('.monaco-button', { hasText: 'Cancel' }).click();
    const stopped = await w.waitForMessage('tiny');
    const folder = path.join(options.home, 'models', 'tiny');
    const here = () => fs.existsSync(folder) && fs.readdirSync(folder).some((name) => name.endsWith('.gguf'));
    const halfway = here();
    await w.press('tiny', 'Go On');
    await dialog.locator('.monaco-button', { hasText: 'Download' }).click();
    const bar = await w.bar('Downloading tiny');
    await w.status().filter({ hasText: 'tiny' }).waitFor({ timeout: SLOW });
    await w.command('diffcoder: Choose Model');
    await w.choose('Qwen2.5-Coder 0.5B');
    await w.status().filter({ hasText: 'default' }).waitFor({ timeout: SLOW });
    return { offered, asked, ...bar, stopped, halfway, here: here() };
  },

  async statistics(w) {
    await w.command('diffcoder: Show Statistics');
    const frame = w.page.frameLocator('iframe.webview.ready').frameLocator('iframe');
    await frame.locator('table').waitFor({ timeout: SLOW });
    const rows = await frame.locator('tbody tr').allInnerTexts();
    await w.shot('statistics');
    await w.command('View: Close Editor');
    return { rows, stats: JSON.parse(diffcoder('stats', '--json')) };
  },

  /** A run of a model that is tiny and knows nothing, so that it is over in a minute. */
  async tune(w) {
    setSetting('diffcoder.model', options.tiny);
    await w.status().filter({ hasText: path.basename(options.tiny) }).waitFor({ timeout: SLOW });
    await w.running();
    await w.command('diffcoder: Learn This Workspace');
    const frame = w.page.frameLocator('iframe.webview.ready').frameLocator('iframe');
    await frame.locator('#minutes').fill('5');
    await frame.locator('#start').click();
    await frame.locator('#stop').waitFor({ timeout: SLOW });
    const losses = new Set();
    const plot = frame.locator('#plot');
    await plot.locator('polyline.smooth').evaluate((curve) => {
      window.curves = new Set(); // each as it is drawn, however quick
      new MutationObserver(() => window.curves.add(curve.getAttribute('points'))).observe(curve, { attributes: true });
    });
    const result = frame.locator('#result');
    while (!(await result.isVisible())) {
      const failed = await frame.locator('#failed').innerText();
      if (failed) throw new Error(failed);
      losses.add(await frame.locator('#loss').innerText());
      await w.page.waitForTimeout(100);
    }
    await frame.locator('#use').waitFor({ timeout: SLOW });
    const numbers = await result.locator('tbody tr').allInnerTexts();
    const verdict = await frame.locator('#said').innerText();
    const plotted = (await plot.boundingBox()).height;
    const curves = await plot.evaluate(() => window.curves.size);
    await w.shot('tune');
    const adapters = () => fs.readdirSync(options.home, { recursive: true }).filter((name) => name.endsWith('.safetensors'));
    const before = adapters();
    await frame.locator('#use').click();
    await frame.locator('#said', { hasText: 'In use' }).waitFor({ timeout: SLOW });
    const used = adapters().filter((name) => !before.includes(name));
    await frame.locator('#off').click();
    await frame.locator('#said', { hasText: 'is off' }).waitFor({ timeout: SLOW });
    const off = adapters().filter((name) => !before.includes(name));
    await w.command('View: Close Editor');
    setSetting();
    await w.status().filter({ hasText: 'default' }).waitFor({ timeout: SLOW });
    await w.running();
    return { losses: [...losses], curves, plotted, numbers, verdict, used, off };
  },

  async noServer(w) {
    setSetting('diffcoder.server.path', '/nowhere/diffcoder');
    const message = await w.waitForMessage('/nowhere/diffcoder');
    const entry = await w.status().getAttribute('aria-label');
    await w.press('/nowhere/diffcoder', 'Use Another');
    await w.running();
    return { ...message, entry };
  },

  async readOnly(w) {
    await w.openFile('locked.py');
    await w.select(1, 2);
    await w.say('Add a docstring');
    const message = await w.waitForMessage('read-only');
    const before = await w.text();
    await w.press('read-only', 'Make It Writable');
    await w.reviewed(true);
    const after = await w.text();
    await w.keys('Shift+Alt+Enter');
    await w.gone('Accept');
    return { ...message, before, after, saved: await w.saved('locked.py') };
  },
};

/** Go through steps, in one window with a file in front. */
export async function drive(steps, file, names) {
  const browser = await chromium.launch({ executablePath: options.chromium, args: ['--no-sandbox', '--disable-gpu'] });
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  page.setDefaultTimeout(60_000);
  page.on('dialog', (dialog) => dialog.accept()); // a window with unsaved text asks whether it may be left
  const w = new Window(page);
  await w.load(file);
  for (const step of names.length ? names : Object.keys(steps)) {
    try {
      console.log(JSON.stringify({ step, found: await steps[step](w) }));
    } catch (error) {
      await w.shot(`failed-${step}`).catch(() => undefined);
      console.log(JSON.stringify({ step, error: `${error.message} ${await w.messages()}` }));
      await page.keyboard.press('Escape');
    }
  }
  await browser.close();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const begin = { async begin(w) { await w.running(); } };
  const names = process.argv.slice(3);
  await drive({ ...begin, ...STEPS }, 'ghost.py', names.length ? ['begin', ...names] : []);
}

// Takes pictures of each capability, in a light and a dark window, and the frames of a draft. pictures.py starts it.
//
//     node vscode_pictures.mjs OPTIONS      (those of vscode.mjs, and "settings", the user's settings file)
import { createRequire } from 'node:module';
import fs from 'node:fs';
import path from 'node:path';
import { Window } from './vscode.mjs';

const options = JSON.parse(process.argv[2]);
const { chromium } = createRequire(path.join(options.modules, 'x'))('playwright-core');
const THEMES = { light: 'Light Modern', dark: 'Dark Modern' };
const FILES = {
  'ghost.py': 'def mean(numbers):\n    return sum(numbers) / len(numbers)\n\n\n',
  'prices.py':
    'def total(prices, discount):\n    result = 0\n    for price in prices:\n        result += price\n    return result - discount\n',
  'gaps.py':
    'def average(prices):\n    return sum(‹?›) / len(‹?›)\n\n\ndef below(prices, limit):\n    return [p for p in prices if ‹?›]\n',
  'colours.json': '{\n  "red": 1\n  "green": 2\n}\n',
};
const WIDTH = 760;
const only = process.argv.slice(3);

for (const [name, theme] of Object.entries(THEMES)) {
  for (const [file, text] of Object.entries(FILES)) fs.writeFileSync(path.join(options.folder, file), text);
  const settings = JSON.parse(fs.readFileSync(options.settings, 'utf8'));
  settings['workbench.colorTheme'] = theme;
  fs.writeFileSync(options.settings, JSON.stringify(settings));
  const browser = await chromium.launch({ executablePath: options.chromium, args: ['--no-sandbox', '--disable-gpu'] });
  const page = await browser.newPage({ viewport: { width: WIDTH, height: 460 }, deviceScaleFactor: 1.5 });
  page.setDefaultTimeout(30_000);
  const w = new Window(page);
  const shot = async (what) => {
    await page.waitForTimeout(700);
    await w.shot(`${what}-${name}`);
  };
  /** The list that is open, whole, and a little of what is below it. */
  const list = async (what) => {
    await page.mouse.move(WIDTH - 8, 300); // off its input, which would say its words once more
    await page.waitForTimeout(700);
    const box = await page.locator('.quick-input-widget:visible').boundingBox();
    const clip = { x: 0, y: 0, width: WIDTH, height: Math.ceil(box.y + box.height) + 24 };
    await page.screenshot({ path: path.join(options.shots, `${what}-${name}.png`), clip });
    await w.keys('Escape');
  };
  await w.load('ghost.py');
  await w.running();
  for (const file of Object.keys(FILES)) await w.openFile(file);
  await w.command('View: Close Primary Side Bar');
  const open = async (file, height = 260, width = WIDTH) => {
    await page.setViewportSize({ width, height });
    await page.locator('.tab', { hasText: file }).click();
    await page.locator('.tab.active', { hasText: file }).waitFor();
    await page.mouse.move(752, 130); // off the tab, which would say its path
  };
  const pictures = {
    async ghost() {
      await open('ghost.py', 290);
      await w.goTo(5);
      await w.type('def median(numbers):\n');
      await w.waitForGhost();
      await shot('ghost');
      await w.keys('Tab');
      await w.saved('ghost.py');
    },
    async review() {
      await open('prices.py');
      await w.select(1, 5);
      await w.keys('Control+i');
      await page.waitForTimeout(800);
      await shot('ask');
      await w.type('Rename the variable result to money', 5);
      await w.keys('Enter');
      for (let frame = 0; frame < 400 && !(await w.lens('Accept').count()); frame += 1) {
        await w.shot(`frame-${name}-${String(frame).padStart(3, '0')}`);
        await page.waitForTimeout(30);
      }
      await w.lens('Change 2 of 2').first().waitFor();
      await shot('review');
      await page.setViewportSize({ width: 1000, height: 290 });
      await w.lens('Compare').first().click();
      await page.locator('.monaco-diff-editor .editor.original .view-line', { hasText: 'total' }).waitFor();
      await shot('compare');
      await w.command('View: Close Editor');
      await w.command('View: Focus Active Editor Group');
      await page.setViewportSize({ width: WIDTH, height: 260 });
      await w.keys('Shift+Alt+Backspace');
      await w.gone('Accept');
      await w.saved('prices.py');
    },
    async gaps() {
      await open('gaps.py');
      await w.goTo(1);
      await w.keys('Control+Alt+g');
      await w.reviewed();
      await w.lens('Change 1 of').first().waitFor();
      await shot('gaps');
      await w.keys('Shift+Alt+Enter');
      await w.gone('Accept');
      await w.saved('gaps.py');
    },
    async fix() {
      await open('colours.json');
      await page.locator('.squiggly-error').first().waitFor();
      await w.goTo(3, 5);
      await w.action('diffcoder: fix');
      await shot('fix');
      await w.keys('Escape');
    },
    async models() {
      await open('ghost.py', 900);
      await w.command('diffcoder: Choose Model');
      await page.locator('.quick-input-list .monaco-list-row', { hasText: 'tiny' }).first().waitFor();
      await list('models');
    },
    async menu() {
      await open('ghost.py', 900);
      await w.command('diffcoder: Show Menu');
      await page.locator('.quick-input-list .monaco-list-row', { hasText: 'Fill Gaps' }).first().waitFor();
      await list('menu');
    },
    async install() {
      await open('ghost.py', 300);
      await w.command('diffcoder: Install or Update Server');
      const bar = page.locator('.notification-toast', { hasText: 'Installing the diffcoder server' });
      await bar.filter({ hasText: 'fetching torch' }).waitFor({ timeout: 240_000 });
      await w.shot(`install-${name}`);
      await bar.locator('.monaco-button', { hasText: 'Cancel' }).click();
      await bar.waitFor({ state: 'detached' });
      await w.running();
    },
    async statistics() {
      await open('ghost.py', 460);
      await page.waitForTimeout(65_000); // what was accepted has to stand for a minute
      await w.command('diffcoder: Show Statistics');
      const frame = page.frameLocator('iframe.webview.ready').frameLocator('iframe');
      await frame.locator('table').waitFor();
      await shot('statistics');
    },
    /** A whole run of the small model on a small repository, which takes minutes; the dark window shows it again. */
    async tune() {
      await open('ghost.py', 740);
      const use = async (model) => {
        await w.command('diffcoder: Choose Model');
        await w.choose(model);
        const dialog = page.locator('.monaco-dialog-box .monaco-button', { hasText: 'Download' });
        const chosen = w.status().filter({ hasText: model === 'SmolLM2' ? 'tiny' : 'default' });
        await Promise.race([dialog.click({ timeout: 240_000 }).catch(() => undefined), chosen.waitFor({ timeout: 240_000 })]);
        await chosen.waitFor({ timeout: 240_000 });
        await w.running();
      };
      await use('SmolLM2');
      await w.command('diffcoder: Learn This Workspace');
      const frame = page.frameLocator('iframe.webview.ready').frameLocator('iframe');
      await frame.locator('button:visible').first().waitFor();
      if (await frame.locator('#start').isVisible()) {
        await frame.locator('#minutes').fill('4');
        await frame.locator('#start').click();
        await frame.locator('#plot').waitFor({ timeout: 600_000 });
        await shot('tuning');
      }
      await frame.locator('#use').waitFor({ timeout: 900_000 });
      await shot('tune');
      await use('Qwen2.5-Coder 0.5B');
    },
    async walkthrough() {
      await open('ghost.py', 720, 1080);
      await w.command('diffcoder: Open Walkthrough');
      await page.waitForTimeout(2500);
      await shot('walkthrough');
    },
  };
  for (const [what, take] of Object.entries(pictures)) {
    if (only.length && !only.includes(what)) continue;
    try {
      await take();
      console.log(what, name);
    } catch (error) {
      await w.shot(`failed-${what}-${name}`);
      console.log(what, name, error.message.slice(0, 300), await w.messages());
    }
  }
  await browser.close();
}

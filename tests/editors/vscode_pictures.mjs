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
const only = process.argv.slice(3);

for (const [name, theme] of Object.entries(THEMES)) {
  for (const [file, text] of Object.entries(FILES)) fs.writeFileSync(path.join(options.folder, file), text);
  const settings = JSON.parse(fs.readFileSync(options.settings, 'utf8'));
  settings['workbench.colorTheme'] = theme;
  fs.writeFileSync(options.settings, JSON.stringify(settings));
  const browser = await chromium.launch({ executablePath: options.chromium, args: ['--no-sandbox', '--disable-gpu'] });
  const page = await browser.newPage({ viewport: { width: 760, height: 460 }, deviceScaleFactor: 1.5 });
  page.setDefaultTimeout(30_000);
  const w = new Window(page);
  const shot = async (what) => {
    await page.waitForTimeout(700);
    await w.shot(`${what}-${name}`);
  };
  await w.load('ghost.py');
  await w.running();
  for (const file of Object.keys(FILES)) await w.openFile(file);
  await w.command('View: Close Primary Side Bar');
  const open = async (file, height = 260) => {
    await page.setViewportSize({ width: 760, height });
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
      await w.type('Rename the variable result to money', 5);
      await w.keys('Enter');
      for (let frame = 0; frame < 400 && !(await w.lens('Accept').count()); frame += 1) {
        await w.shot(`frame-${name}-${String(frame).padStart(3, '0')}`);
        await page.waitForTimeout(30);
      }
      await w.lens('Change 2 of 2').first().waitFor();
      await shot('review');
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
      await w.keys('Control+.');
      await page.locator('.action-widget .monaco-list-row', { hasText: 'diffcoder: fix' }).first().waitFor();
      await shot('fix');
      await w.keys('Escape');
    },
    async models() {
      await open('ghost.py', 400);
      await w.command('diffcoder: Choose Model');
      await page.locator('.quick-input-list .monaco-list-row', { hasText: 'tiny' }).first().waitFor();
      await shot('models');
      await w.keys('Escape');
    },
    async menu() {
      await open('ghost.py', 452);
      await w.command('diffcoder: Show Menu');
      await page.locator('.quick-input-list .monaco-list-row', { hasText: 'Fill Gaps' }).first().waitFor();
      await shot('menu');
      await w.keys('Escape');
    },
    async statistics() {
      await open('ghost.py', 460);
      await w.command('diffcoder: Show Statistics');
      const frame = page.frameLocator('iframe.webview.ready').frameLocator('iframe');
      await frame.locator('table').waitFor();
      await shot('statistics');
    },
    async tune() {
      await open('ghost.py', 340);
      await w.command('diffcoder: Learn This Workspace');
      const frame = page.frameLocator('iframe.webview.ready').frameLocator('iframe');
      await frame.locator('button:visible').first().waitFor();
      await shot('tune');
    },
    async walkthrough() {
      await open('ghost.py', 560);
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

// What became of suggestions and edits, as a page. The server counts; nothing leaves the machine.
import { ViewColumn, window, type WebviewPanel } from 'vscode';
import type { Server } from './server';

interface Tally {
  kind: 'inline' | 'edit' | 'gap';
  shown: number;
  accepted: number;
  rejected: number;
  kept: number;
  gone: number;
}

const NAMES = { inline: 'Ghost text', edit: 'Edits, by change', gap: 'Gaps' };
let panel: WebviewPanel | undefined;

export async function showStatistics(server: Server): Promise<void> {
  const tallies = await server.execute<Tally[]>('diffcoder.statistics');
  if (!panel) {
    panel = window.createWebviewPanel('diffcoder.statistics', 'diffcoder statistics', ViewColumn.Active, {
      enableScripts: false,
      enableFindWidget: true,
    });
    panel.onDidDispose(() => (panel = undefined));
  }
  panel.webview.html = page(tallies, server);
  panel.reveal();
}

function page(tallies: Tally[], server: Server): string {
  const status = server.status;
  const rows = tallies.map((tally) => {
    const judged = tally.kept + tally.gone;
    return `<tr><th scope="row">${NAMES[tally.kind]}</th>
      <td>${tally.shown}</td>
      <td>${tally.accepted}${bar(tally.accepted, tally.shown)}</td>
      <td>${tally.rejected}${bar(tally.rejected, tally.shown, 'bad')}</td>
      <td>${judged ? `${tally.kept} of ${judged}` : '–'}${bar(tally.kept, judged)}</td></tr>`;
  });
  const speed = status?.tokensPerSecond
    ? `The last answer of ${escaped(status.model)} came at ${status.tokensPerSecond} tokens a second (tokens per forward: ${status.tokensPerForward}).`
    : 'The model has not answered yet in this session.';
  return `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>diffcoder statistics</title>
<style>
  body { max-width: 46rem; padding: 1rem 2rem; }
  table { border-collapse: collapse; width: 100%; margin: 1.5rem 0; }
  th, td { text-align: right; padding: .6rem .8rem; border-bottom: 1px solid var(--vscode-widget-border, var(--vscode-editorWidget-border)); vertical-align: top; }
  th[scope=row], thead th:first-child { text-align: left; font-weight: 600; }
  thead th { font-weight: 400; color: var(--vscode-descriptionForeground); }
  .bar { display: block; height: 4px; margin-top: .35rem; background: var(--vscode-editorWidget-border, #8884); border-radius: 2px; }
  .bar span { display: block; height: 100%; background: var(--vscode-charts-green, var(--vscode-progressBar-background)); border-radius: 2px; }
  .bar .bad { background: var(--vscode-charts-red, var(--vscode-errorForeground)); }
  p { color: var(--vscode-descriptionForeground); line-height: 1.5; }
</style></head><body>
<h1>What became of it</h1>
<table><thead><tr><td></td><th>shown</th><th>accepted</th><th>rejected</th><th>kept a minute later</th></tr></thead>
<tbody>${rows.join('')}</tbody></table>
<p>${speed}</p>
<p>Counts of all editors and sessions on this machine, by day, without text or file names. They stay in the file
<code>statistics.jsonl</code> of the model cache; <code>diffcoder stats</code> prints them.</p>
</body></html>`;
}

function bar(part: number, whole: number, kind = 'good'): string {
  const share = whole ? Math.min(100, Math.round((100 * part) / whole)) : 0;
  return `<span class="bar" role="img" aria-label="${share} percent"><span class="${kind}" style="width: ${share}%"></span></span>`;
}

function escaped(text: string): string {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}

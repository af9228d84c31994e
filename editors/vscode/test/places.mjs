// Laws of places over random texts and changes: run by `npm test`, which bundles src/places.ts beside this file.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { editsAfter } from '../dist/places.mjs';
import { applied, edits, text } from './texts.mjs';

test('edits beside what the user typed come to the same, whichever is made first', () => {
  let beside = 0;
  for (let round = 0; round < 5000; round += 1) {
    const before = text();
    const all = edits(before);
    const [typed] = all.splice(round % all.length, 1);
    if (!all.length) continue;
    const together = applied(before, [...all, typed]);
    assert.equal(applied(applied(before, [typed]), editsAfter(all, typed)), together, JSON.stringify({ before, all, typed }));
    beside += 1;
  }
  assert.ok(beside > 500);
});

test('edits are given up where the user typed into one of them', () => {
  let into = 0;
  for (let round = 0; round < 5000; round += 1) {
    const [edit] = edits(text());
    const { start, end } = edit;
    if (start.line !== end.line || end.character - start.character < 2) continue;
    const place = { line: start.line, character: start.character + 1 };
    assert.equal(editsAfter([edit], { start: place, end: place, text: 'x' }), undefined);
    into += 1;
  }
  assert.ok(into > 50);
});

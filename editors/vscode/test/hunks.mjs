// Laws of hunks over random texts and edits: run by `npm test`, which bundles src/hunks.ts beside this file.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hunksOf, moved, putBack } from '../dist/hunks.mjs';
import { applied, edits, linesOf, text } from './texts.mjs';

/** The text with some hunks put back. */
function back(value, hunks) {
  return hunks.length ? applied(value, [putBack(linesOf(value), hunks, '\n')]) : value;
}

test('putting every hunk back gives the text before, to the last character', () => {
  for (let round = 0; round < 5000; round += 1) {
    const before = text();
    const made = edits(before);
    const after = applied(before, made);
    for (const apart of [false, true]) {
      assert.equal(back(after, hunksOf(linesOf(before), made, apart)), before, JSON.stringify({ before, made, apart }));
    }
  }
});

test('hunks are in order, do not overlap, and lie within the text', () => {
  for (let round = 0; round < 5000; round += 1) {
    const before = text();
    const made = edits(before);
    const lines = linesOf(applied(before, made));
    let last = 0;
    for (const hunk of hunksOf(linesOf(before), made)) {
      assert.ok(hunk.start >= last && hunk.end >= hunk.start && hunk.end <= lines.length);
      last = hunk.end;
    }
  }
});

test('what the user types beside a hunk leaves it whole', () => {
  for (let round = 0; round < 5000; round += 1) {
    const before = text();
    const made = edits(before).slice(0, 1);
    const after = applied(before, made);
    const [hunk] = hunksOf(linesOf(before), made);
    const [typed] = edits(after);
    const [first, end] = [typed.start.line, typed.end.line];
    if (!(end < hunk.start || first >= hunk.end)) continue;
    const now = moved(hunk, typed);
    if (!now) continue; // through a border: the hunk is given up
    const later = applied(after, [typed]);
    const fresh = linesOf(after).slice(hunk.start, hunk.end);
    assert.deepEqual(linesOf(later).slice(now.start, now.end), fresh, JSON.stringify({ before, made, typed }));
  }
});

// Laws of hunks over random texts and edits: run by `npm test`, which bundles src/hunks.ts beside this file.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hunksOf, moved, putBack } from '../dist/hunks.mjs';

let seed = 1;
const random = (below) => {
  seed = (seed * 48271) % 2147483647;
  return seed % below;
};
const word = () => ['a', 'bb', '', 'x y', '\t'][random(5)];
const text = () => Array.from({ length: 1 + random(8) }, word).join('\n');
const linesOf = (value) => value.split('\n');

function offset(lines, { line, character }) {
  return lines.slice(0, line).reduce((sum, each) => sum + each.length + 1, 0) + character;
}

function applied(value, edits) {
  const lines = linesOf(value);
  let result = value;
  for (const edit of [...edits].sort((a, b) => offset(lines, b.start) - offset(lines, a.start))) {
    result = result.slice(0, offset(lines, edit.start)) + edit.text + result.slice(offset(lines, edit.end));
  }
  return result;
}

/** Edits that do not touch each other, in order. */
function edits(value) {
  const lines = linesOf(value);
  const place = () => {
    const line = random(lines.length);
    return { line, character: random(lines[line].length + 1) };
  };
  const places = Array.from({ length: 2 * (1 + random(3)) }, place).sort((a, b) => offset(lines, a) - offset(lines, b));
  const found = [];
  for (let index = 0; index < places.length; index += 2) {
    const [start, end] = [places[index], places[index + 1]];
    const last = found.at(-1);
    if (last && offset(lines, last.end) >= offset(lines, start)) continue;
    found.push({ start, end, text: [word(), text(), `${text()}\n`][random(3)] });
  }
  return found;
}

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

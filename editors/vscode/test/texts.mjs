// Random texts and edits of them, the same at every run.
let seed = 1;
const random = (below) => {
  seed = (seed * 48271) % 2147483647;
  return seed % below;
};
const word = () => ['a', 'bb', '', 'x y', '\t'][random(5)];
export const text = () => Array.from({ length: 1 + random(8) }, word).join('\n');
export const linesOf = (value) => value.split('\n');

function offset(lines, { line, character }) {
  return lines.slice(0, line).reduce((sum, each) => sum + each.length + 1, 0) + character;
}

export function applied(value, edits) {
  const lines = linesOf(value);
  let result = value;
  for (const edit of [...edits].sort((a, b) => offset(lines, b.start) - offset(lines, a.start))) {
    result = result.slice(0, offset(lines, edit.start)) + edit.text + result.slice(offset(lines, edit.end));
  }
  return result;
}

/** Edits that do not touch each other, in order. */
export function edits(value) {
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

// What a user changes in a document while the model writes for an earlier text of it: places and edits go along.
import { Range, workspace } from 'vscode';
import type { Disposable, TextDocument } from 'vscode';
import type { Edit } from './hunks';
import { editsAfter, placeAfter, type Place } from './places';

/** The changes of a document from now on. */
export class Changes implements Disposable {
  private readonly seen: { version: number; edit: Edit }[] = [];
  private readonly listener: Disposable;

  constructor(readonly document: TextDocument) {
    this.listener = workspace.onDidChangeTextDocument((event) => {
      if (event.document !== document) return;
      // From the last to the first, each is in the coordinates of the text before all of them.
      for (const { range, text } of [...event.contentChanges].sort((a, b) => b.rangeOffset - a.rangeOffset)) {
        const edit = { start: plain(range.start), end: plain(range.end), text };
        this.seen.push({ version: document.version, edit });
      }
    });
  }

  dispose(): void {
    this.listener.dispose();
  }

  /** Where a place of the text of `version` is now. */
  place(place: Place, version: number): Place {
    return this.after(version).reduce(placeAfter, plain(place));
  }

  range(range: Range, version: number): Range {
    const [start, end] = [this.place(range.start, version), this.place(range.end, version)];
    return this.document.validateRange(new Range(start.line, start.character, end.line, end.character));
  }

  /** Edits of the text of `version` as those of the text now; undefined where a change went into one of them. */
  edits(edits: Edit[], version: number): Edit[] | undefined {
    return this.after(version).reduce((all: Edit[] | undefined, change) => all && editsAfter(all, change), edits);
  }

  private after(version: number): Edit[] {
    return this.seen.filter((each) => each.version > version).map(({ edit }) => edit);
  }
}

function plain({ line, character }: Place): Place {
  return { line, character };
}

// What goes wrong, told in one sentence with the buttons that mend it.
import { window } from 'vscode';

export interface Button {
  title: string;
  run: () => unknown;
}

/** Something that the user can do something about. */
export class Problem extends Error {
  constructor(
    message: string,
    readonly buttons: Button[] = [],
  ) {
    super(message);
  }
}

type Severity = 'error' | 'warning' | 'information';

export async function tell(severity: Severity, message: string, buttons: Button[] = []): Promise<void> {
  const show =
    severity === 'error'
      ? window.showErrorMessage
      : severity === 'warning'
        ? window.showWarningMessage
        : window.showInformationMessage;
  const titles = buttons.map((button) => button.title);
  const chosen = await show(`diffcoder: ${message}`, ...titles);
  await buttons.find((button) => button.title === chosen)?.run();
}

export function sentence(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

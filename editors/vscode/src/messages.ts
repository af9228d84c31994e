// What goes wrong, told in one sentence with the buttons that mend it.
import { commands, window, type LogOutputChannel } from 'vscode';

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
  try {
    await buttons.find((button) => button.title === chosen)?.run();
  } catch (error) {
    await report(error);
  }
}

export const logButton: Button = { title: 'Show Log', run: () => commands.executeCommand('diffcoder.showLog') };

let log: LogOutputChannel | undefined;

/** Where the details of a failure go that is nobody's mistake. */
export function logTo(channel: LogOutputChannel): void {
  log = channel;
}

/** Tell a failure of whatever kind. */
export async function report(error: unknown): Promise<void> {
  if (error instanceof Problem) {
    await tell('warning', error.message, error.buttons);
    return;
  }
  log?.error(error instanceof Error ? (error.stack ?? error.message) : String(error));
  await tell('error', sentence(error), [logButton]);
}

export function sentence(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

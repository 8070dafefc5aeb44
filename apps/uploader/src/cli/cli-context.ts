import type { CommandResult } from '../command-result.ts';
import type { Flags } from '../settings/load-settings.ts';
import type { Terminal } from '../terminal.ts';

/** What every command is given. */
export type CliContext = {
  terminal: Terminal;
  interrupt: AbortSignal;
  finish: (result: CommandResult) => void;
};

export type Options = Record<string, string | boolean>;

/** commander has `wait: true` when --no-wait is not given, which is no setting of the caller's. */
export function flagsOf(options: Options): Flags {
  return Object.fromEntries(
    Object.entries(options)
      .filter(([name, value]) => !(name === 'wait' && value === true))
      .map(([name, value]) => [name, String(value)]),
  );
}

export function textOf(option: string | boolean | undefined): string | undefined {
  return typeof option === 'string' ? option : undefined;
}

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import headless from '@xterm/headless';

const RUN_ON_TERMINAL = fileURLToPath(new URL('./run_on_terminal.py', import.meta.url));
const BIN = fileURLToPath(new URL('../../bin/uploader.js', import.meta.url));

export type TerminalRun = {
  /** What a person sees: the lines of the screen, without the empty ones at its end. */
  screen: () => string[];
  /** All lines that were ever shown and scrolled away, and the screen. */
  everything: () => string[];
  raw: () => string;
  resize: (columns: number, rows: number) => void;
  type: (text: string) => void;
  exitCode: Promise<number | null>;
  kill: () => void;
};

/** Node has no pseudo-terminals; python3 is where CI runs, and nearly everywhere else. */
export const hasTerminal = (): boolean => spawnSync('python3', ['--version']).status === 0;

/** The uploader on a pseudo-terminal, and behind that a terminal that shows what it writes. */
export function startOnTerminal(
  args: string[],
  env: Record<string, string>,
  columns: number,
  rows: number,
  cwd = process.cwd(),
): TerminalRun {
  const shown = new headless.Terminal({
    cols: Math.max(columns, 2),
    rows: Math.max(rows, 2),
    allowProposedApi: true,
  });
  let raw = '';
  const child = spawn(
    'python3',
    [RUN_ON_TERMINAL, String(columns), String(rows), process.execPath, BIN, ...args],
    {
      cwd,
      env: { PATH: process.env.PATH ?? '', TERM: 'xterm-256color', ...env },
      stdio: ['pipe', 'pipe', 'inherit'],
    },
  );
  child.stdout.on('data', (data: Buffer) => {
    raw += data.toString();
    shown.write(data);
  });
  const lines = (from: number): string[] => {
    const { active } = shown.buffer;
    const texts: string[] = [];
    for (let y = from; y < active.length; y++) texts.push(active.getLine(y)?.translateToString(true) ?? '');
    while (texts.length > 0 && texts.at(-1) === '') texts.pop();
    return texts;
  };
  return {
    screen: () => lines(shown.buffer.active.baseY),
    everything: () => lines(0),
    raw: () => raw,
    resize: (newColumns, newRows) => {
      shown.resize(newColumns, newRows);
      child.stdin.write(`resize ${newColumns} ${newRows}\n`);
    },
    type: (text) => void child.stdin.write(`type ${text}\n`),
    exitCode: once(child, 'close').then(([code]) => code),
    kill: () => void child.kill('SIGKILL'),
  };
}

import type { listTokens } from '../runs/tokens.ts';

type Token = Awaited<ReturnType<typeof listTokens>>[number];

const COLUMNS: readonly [string, (token: Token) => string][] = [
  ['ID', (it) => String(it.token_id)],
  ['NAME', (it) => it.name],
  ['STATE', (it) => it.state],
  ['SCOPES', (it) => it.scopes.join(',')],
  ['MODELS', (it) => it.models?.join(',') ?? '(all)'],
  ['CREATED', (it) => day(it.created_at)],
  ['EXPIRES', (it) => (it.expires_at === null ? 'never' : day(it.expires_at))],
  ['LAST USED', (it) => it.last_used_at?.toISOString().slice(0, 16).replace('T', ' ') ?? 'never'],
];

/** A table for people; times are UTC. */
export function formatTokens(tokens: readonly Token[]): string {
  const rows = [COLUMNS.map(([title]) => title), ...tokens.map((it) => COLUMNS.map(([, cell]) => cell(it)))];
  const widths = COLUMNS.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]) => row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  ');
  return rows.map((row) => `${line(row).trimEnd()}\n`).join('');
}

function day(date: Date): string {
  return date.toISOString().slice(0, 10);
}

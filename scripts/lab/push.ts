import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import type { LabEnv } from './home.ts';
import { ROOT } from './settings.ts';

const END_WITH_PARENT = fileURLToPath(new URL('./end-with-parent.ts', import.meta.url));
const UPLOADER = join(ROOT, 'apps/uploader/bin/uploader.js');
const EXAMPLES = 3;

/** Pushes with the real uploader, then prints what the database shows. @returns the uploader's exit code. */
export async function pushAndShow(env: LabEnv, sourceDir: string, uploaderArgs: string[]): Promise<number> {
  const args = ['push', sourceDir, ...uploaderArgs];
  console.log(`\n$ npx uploader ${args.join(' ')}`);
  const uploader = spawn(process.execPath, ['--import', END_WITH_PARENT, UPLOADER, ...args], {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, UPLOADER_URL: env.uploaderUrl, UPLOADER_TOKEN: env.uploaderToken },
  });
  const [code] = await once(uploader, 'close');
  await printPublished(env.databaseUrl);
  return code ?? 1;
}

/** Prints what applications see now: the run of each model, the number of its rows, and some of them. */
async function printPublished(databaseUrl: string): Promise<void> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    // With the rights of an application, not of the superuser.
    await client.query('SET ROLE lab_reader');
    const { rows: views } = await client.query<{ model: string }>(
      `SELECT viewname AS model FROM pg_views WHERE schemaname = 'scores' ORDER BY viewname`,
    );
    const lines: string[][] = [];
    for (const { model } of views) lines.push(...(await publishedOf(client, model)));
    if (lines.length === 0) console.log('\nNo model has a published run yet.');
    else console.log(`\nIn the database now (SELECT … FROM scores.<model>):\n${formatLines(lines)}`);
  } finally {
    await client.end();
  }
}

async function publishedOf(client: pg.Client, model: string): Promise<string[][]> {
  const view = `scores.${client.escapeIdentifier(model)}`;
  const { rows: runs } = await client.query<{ run: string; count: string }>(
    `SELECT run, count(*) FROM ${view} GROUP BY run`,
  );
  const { rows: examples } = await client.query<{ pk: string; score: number }>(
    `SELECT pk, score FROM ${view} ORDER BY pk LIMIT ${EXAMPLES}`,
  );
  const shown = examples.map(({ pk, score }) => `${pk} → ${score}`).join(', ');
  return runs.map(({ run, count }) => [model, run, Number(count).toLocaleString('en-US'), shown]);
}

function formatLines(lines: readonly string[][]): string {
  const table = [['model', 'run', 'rows', 'examples'], ...lines];
  const widths = [0, 1, 2, 3].map((at) => Math.max(...table.map((cells) => cells[at]?.length ?? 0)));
  const pad = (cell: string, at: number) =>
    at === 2 ? cell.padStart(widths[at] ?? 0) : cell.padEnd(widths[at] ?? 0);
  table.splice(
    1,
    0,
    widths.map((width) => '-'.repeat(width)),
  );
  return table.map((cells) => `  ${cells.map(pad).join('   ')}`.trimEnd()).join('\n');
}

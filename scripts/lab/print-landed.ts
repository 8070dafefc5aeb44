import pg from 'pg';
import { formatTable } from './format-table.ts';

const EXAMPLES = 3;

interface Landed {
  model: string;
  run: string;
  rows: string;
  examples: string;
}

/** What applications see now: of every model its run, the number of its rows, and a few of them. */
export async function printLanded(databaseUrl: string): Promise<void> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    // Read with the rights of an application, not with the superuser's.
    await client.query('SET ROLE lab_reader');
    const { rows: views } = await client.query<{ model: string }>(
      `SELECT viewname AS model FROM pg_views WHERE schemaname = 'scores' ORDER BY viewname`,
    );
    const landed: Landed[] = [];
    for (const { model } of views) landed.push(...(await landedOf(client, model)));
    if (landed.length === 0) console.log('\nNo model has a published run yet.');
    else console.log(`\nIn the database now (SELECT … FROM scores.<model>):\n${formatTable(landed)}`);
  } finally {
    await client.end();
  }
}

async function landedOf(client: pg.Client, model: string): Promise<Landed[]> {
  const view = `scores.${client.escapeIdentifier(model)}`;
  const { rows: runs } = await client.query<{ run: string; count: string }>(
    `SELECT run, count(*) FROM ${view} GROUP BY run`,
  );
  const { rows: examples } = await client.query<{ pk: string; score: number }>(
    `SELECT pk, score FROM ${view} ORDER BY pk LIMIT ${EXAMPLES}`,
  );
  return runs.map(({ run, count }) => ({
    model,
    run,
    rows: Number(count).toLocaleString('en-US'),
    examples: examples.map(({ pk, score }) => `${pk} → ${score}`).join(', '),
  }));
}

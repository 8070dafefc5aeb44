import type { ClientBase } from 'pg';
import { sqlStateOf } from '../errors.ts';
import { DataFault } from './data-fault.ts';

const UNIQUE_VIOLATION = '23505';
const NAMED_KEYS = 5;

/**
 * Builds the primary key after the rows are in: several times faster than keeping it while they come.
 * Under a savepoint, so that duplicates can be named from the rows themselves.
 *
 * @throws {DataFault} `duplicate_keys`, naming some and counting all of them.
 */
export async function buildKey(client: ClientBase, partition: string): Promise<void> {
  await client.query('SAVEPOINT build_key');
  try {
    await client.query(`ALTER TABLE ${partition} ADD PRIMARY KEY (pk)`);
  } catch (error) {
    if (sqlStateOf(error) !== UNIQUE_VIOLATION) throw error;
    await client.query('ROLLBACK TO SAVEPOINT build_key');
    throw await duplicateKeys(client, partition);
  }
  await client.query('RELEASE SAVEPOINT build_key');
}

async function duplicateKeys(client: ClientBase, partition: string): Promise<DataFault> {
  const { rows } = await client.query<{ pk: string; copies: number; keys: number }>(`
    SELECT pk, copies, count(*) OVER () AS keys
    FROM (SELECT pk, count(*) AS copies FROM ${partition} GROUP BY pk HAVING count(*) > 1) d
    ORDER BY pk LIMIT ${NAMED_KEYS}`);
  const keys = rows[0]?.keys ?? 0;
  const named = rows.map((row) => `${JSON.stringify(row.pk)} (${row.copies} times)`).join(', ');
  const more = keys > rows.length ? ` and ${keys - rows.length} more` : '';
  return new DataFault({
    code: 'duplicate_keys',
    detail: `${keys === 1 ? 'A key stands' : `${keys} keys stand`} more than once in this run: ${named}${more}. Each pk may stand once; mend the data and push again.`,
  });
}

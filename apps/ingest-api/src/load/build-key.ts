import type { ClientBase } from 'pg';
import { sqlStateOf } from '../errors.ts';
import type { DataFault } from './data-fault.ts';

const UNIQUE_VIOLATION = '23505';

/**
 * Builds the primary key after the rows are in: several times faster than keeping it while they come.
 * Under a savepoint, so that duplicates can be named from the rows themselves: by `findDuplicates`, whose fault
 * is thrown.
 */
export async function buildKey(
  client: ClientBase,
  partition: string,
  findDuplicates: () => Promise<DataFault>,
): Promise<void> {
  await client.query('SAVEPOINT build_key');
  try {
    // Full pages: no row comes later.
    await client.query(`ALTER TABLE ${partition} ADD PRIMARY KEY (pk) WITH (fillfactor = 100)`);
  } catch (error) {
    if (sqlStateOf(error) !== UNIQUE_VIOLATION) throw error;
    await client.query('ROLLBACK TO SAVEPOINT build_key');
    throw await findDuplicates();
  }
  await client.query('RELEASE SAVEPOINT build_key');
}

import { migrateToLatest } from 'db-schema';
import type { DatabaseConfig } from '../config.ts';

/** Brings the database up to date; `DATABASE_URL` must be its owner, with the right to create roles. */
export async function migrate(config: DatabaseConfig): Promise<void> {
  const { applied, alreadyThere, accessChanged, advice } = await migrateToLatest(config.databaseUrl);
  for (const name of applied) process.stdout.write(`applied ${name}\n`);
  for (const object of accessChanged) process.stdout.write(`owner and grants put right: ${object}\n`);
  for (const line of advice) process.stdout.write(`advice (nothing was changed): ${line}\n`);
  process.stdout.write(
    applied.length + accessChanged.length === 0
      ? `nothing to do: ${alreadyThere} migration(s) are there already, roles, owners and grants are right\n`
      : 'the database is up to date\n',
  );
}

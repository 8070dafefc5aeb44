import type { DatabaseConfig } from '../config.ts';
import { adoptStore } from '../runs/store-identity.ts';
import { prepareDataDir } from '../store/folder.ts';

import { cliActor, withDatabase } from './with-database.ts';

/** Makes the folder the store of the database, and prints what is missing in it. */
export async function adopt(
  config: DatabaseConfig & { readonly dataDir: string },
  reason: string,
): Promise<void> {
  await prepareDataDir(config.dataDir);
  await withDatabase(config, 'ingest-api store', async (db) => {
    const { storeId, lost } = await adoptStore(db, config.dataDir, { actor: cliActor(), reason });
    for (const { uploadId, recordedBytes, storedBytes } of lost)
      process.stdout.write(`upload ${uploadId}: ${storedBytes} of ${recordedBytes} bytes are there\n`);
    process.stdout.write(
      `${config.dataDir} is the store ${storeId} of this database; ${lost.length} upload(s) lack bytes, which the next push sends\n`,
    );
  });
}

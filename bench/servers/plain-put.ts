/**
 * A plain Express PUT, piped to a file that is synced once, at its end.
 *
 *   node plain-put.ts FOLDER [DATABASE_URL]
 *
 * With a database also the least that must be kept of a file whose upload is acknowledged for good: its name in the
 * folder is synced, and one row about it committed.
 */
import { createWriteStream } from 'node:fs';
import { open } from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import express from 'express';
import pg from 'pg';

const [dataDir = '', databaseUrl] = process.argv.slice(2);
const record = databaseUrl === undefined ? async () => {} : await recordIn(databaseUrl);
const app = express();
app.put('/files/:name', async (req, res) => {
  const name = path.basename(req.params.name);
  await pipeline(req, createWriteStream(path.join(dataDir, name), { flush: true }));
  await record(name);
  res.status(204).end();
});
const server = app.listen(0, '127.0.0.1', () => {
  const address = server.address();
  if (typeof address === 'object') console.log(address?.port);
});

async function recordIn(connectionString: string): Promise<(name: string) => Promise<void>> {
  const pool = new pg.Pool({ connectionString });
  await pool.query('CREATE TABLE received_put (name text NOT NULL)');
  return async (name) => {
    await syncFolder();
    await pool.query('INSERT INTO received_put VALUES ($1)', [name]);
  };
}

async function syncFolder(): Promise<void> {
  const folder = await open(dataDir);
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

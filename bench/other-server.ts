/**
 * A server that ours is compared with, as a process. Prints its port.
 *
 *   node other-server.ts plain-put|recorded-put|stock-tus FOLDER DATABASE_URL
 *   node other-server.ts s3-tus BUCKET ENDPOINT
 *
 * plain-put     an Express PUT, piped to a file that is synced once, at its end
 * recorded-put  the same, and what an acknowledged file needs at least: its folder is synced and one row about it is
 *               committed
 * stock-tus     @tus/server with @tus/file-store, as in their manual
 * s3-tus        @tus/server with @tus/s3-store, as in their manual; credentials from the environment
 */
import { createWriteStream } from 'node:fs';
import { open } from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { FileStore } from '@tus/file-store';
import { S3Store } from '@tus/s3-store';
import { type DataStore, Server } from '@tus/server';
import express from 'express';
import pg from 'pg';

const [kind, dataDir = '', databaseUrl = ''] = process.argv.slice(2);
const app = express();
if (kind === 'stock-tus') serveTus(new FileStore({ directory: dataDir }));
else if (kind === 's3-tus') serveTus(bucketStore(dataDir, databaseUrl));
else servePut(kind === 'recorded-put' ? await recordIn(databaseUrl) : async () => {});
const server = app.listen(0, '127.0.0.1', () => {
  const address = server.address();
  if (typeof address === 'object') console.log(address?.port);
});

function bucketStore(bucket: string, endpoint: string): S3Store {
  const s3ClientConfig = { bucket, endpoint, region: 'us-east-1', forcePathStyle: true };
  return new S3Store({ partSize: 8 * 1024 ** 2, s3ClientConfig });
}

function serveTus(datastore: DataStore): void {
  const tus = new Server({ path: '/files', datastore });
  app.all('/files{/*path}', (req, res) => tus.handle(req, res));
}

function servePut(record: (name: string) => Promise<void>): void {
  app.put('/files/:name', async (req, res) => {
    const name = path.basename(req.params.name);
    await pipeline(req, createWriteStream(path.join(dataDir, name), { flush: true }));
    await record(name);
    res.status(204).end();
  });
}

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

/** A plain Express PUT, piped to a file that syncs once at its end. */
import { createWriteStream } from 'node:fs';
import { open } from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import express from 'express';

const dataDir = process.argv[2] ?? '';
const app = express();
app.put('/file', async (req, res) => {
  const file = path.join(dataDir, 'file');
  await pipeline(req, createWriteStream(file));
  const handle = await open(file, 'r+');
  await handle.datasync();
  await handle.close();
  res.status(204).end();
});
const server = app.listen(0, '127.0.0.1', () => {
  const address = server.address();
  if (typeof address === 'object') console.log(address?.port);
});

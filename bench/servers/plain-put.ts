/** A plain Express PUT, piped to a file that is synced once, at its end. */
import { createWriteStream } from 'node:fs';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import express from 'express';

const dataDir = process.argv[2] ?? '';
const app = express();
app.put('/files/:name', async (req, res) => {
  const file = path.join(dataDir, path.basename(req.params.name));
  await pipeline(req, createWriteStream(file, { flush: true }));
  res.status(204).end();
});
const server = app.listen(0, '127.0.0.1', () => {
  const address = server.address();
  if (typeof address === 'object') console.log(address?.port);
});

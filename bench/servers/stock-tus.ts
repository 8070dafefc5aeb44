/** @tus/server with @tus/file-store, as their manual shows it. */
import { FileStore } from '@tus/file-store';
import { Server } from '@tus/server';
import express from 'express';

const tus = new Server({ path: '/files', datastore: new FileStore({ directory: process.argv[2] ?? '' }) });
const app = express();
app.all('/files{/*path}', (req, res) => tus.handle(req, res));
const server = app.listen(0, '127.0.0.1', () => {
  const address = server.address();
  if (typeof address === 'object') console.log(address?.port);
});

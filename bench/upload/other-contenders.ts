import path from 'node:path';
import type { ContenderName, UploadContender } from './contender.ts';
import { sendAll, sendByPut, sendByTus } from './send-files.ts';
import { type ServerProcess, startServer } from './server-process.ts';

/** `servers/plain-put.ts` or `servers/stock-tus.ts`. */
export function startScript(
  name: string,
  dataDir: string,
  ...args: readonly string[]
): Promise<ServerProcess> {
  const script = path.join(import.meta.dirname, '../servers', name);
  return startServer({ name, command: process.execPath, args: [script, dataDir, ...args], portOf: Number });
}

export function startTusd(binary: string, dataDir: string): Promise<ServerProcess> {
  return startServer({
    name: 'tusd',
    command: binary,
    args: ['-host', '127.0.0.1', '-port', '0', '-upload-dir', dataDir],
    portOf: (line) => {
      const port = /upload files to: http:\/\/127\.0\.0\.1:(\d+)\//.exec(line)?.[1];
      return port === undefined ? undefined : Number(port);
    },
  });
}

export function plainPut({ url }: ServerProcess, dataDir: string): UploadContender {
  return {
    name: 'plainPut',
    label: 'plain Express PUT piped to a file',
    syncs: 'each file once, at its end',
    dataDir,
    send: (_dir, files, transfers) =>
      sendAll(files, transfers, (file) => sendByPut(file, `${url}/files/${file.name}`)),
  };
}

/** The least that any server must do which keeps what it acknowledged: what ours takes beyond it is our own. */
export function recordedPut(server: ServerProcess, dataDir: string): UploadContender {
  return {
    ...plainPut(server, dataDir),
    name: 'recordedPut',
    label: 'the same PUT, with its folder synced and one row in PostgreSQL',
    syncs: 'each file once, at its end, its folder, its record in PostgreSQL',
  };
}

export function stockTus(server: ServerProcess, dataDir: string): UploadContender {
  return byTus('stockTus', 'stock @tus/server + @tus/file-store, tus-js-client', server, dataDir, false);
}

export function tusd(server: ServerProcess, dataDir: string): UploadContender {
  return byTus('tusd', 'tusd, tus-js-client', server, dataDir, false);
}

/** As few requests as tusd can do with; it is not what tus-js-client does unless it is told. */
export function tusdOneRequest(server: ServerProcess, dataDir: string): UploadContender {
  return byTus('tusdOneRequest', 'tusd, the bytes within the POST', server, dataDir, true);
}

function byTus(
  name: ContenderName,
  label: string,
  { url }: ServerProcess,
  dataDir: string,
  uploadDataDuringCreation: boolean,
): UploadContender {
  return {
    name,
    label,
    syncs: 'nothing',
    dataDir,
    send: (_dir, files, transfers) =>
      sendAll(files, transfers, (file) =>
        sendByTus(file, { endpoint: `${url}/files/`, uploadDataDuringCreation }),
      ),
  };
}

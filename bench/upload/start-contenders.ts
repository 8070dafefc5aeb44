import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { startService } from '../bench-service.ts';
import type { ContenderName, UploadContender } from './contender.ts';
import {
  plainPut,
  recordedPut,
  startScript,
  startTusd,
  stockTus,
  tusd,
  tusdOneRequest,
} from './other-contenders.ts';
import { ours, ourUploader } from './our-contenders.ts';
import type { ServerProcess } from './server-process.ts';
import { tusdBinary } from './tusd-binary.ts';

export interface StartedContenders {
  readonly contenders: readonly UploadContender[];
  stop(): Promise<void>;
}

/** Those that are wanted and can be had here, each server once. What cannot be had is named on the terminal. */
export async function startContenders(
  wanted: readonly ContenderName[],
  dir: string,
  databaseUrl: string,
): Promise<StartedContenders> {
  const servers: ServerProcess[] = [];
  const contenders: UploadContender[] = [];
  const wants = (...names: ContenderName[]) => names.some((name) => wanted.includes(name));
  const started = async <T extends ServerProcess>(server: Promise<T>): Promise<T> => {
    servers.push(await server);
    return server;
  };

  if (wants('ours', 'uploader')) {
    const dataDir = await folder(dir, 'ours');
    const service = await started(startService(dataDir, databaseUrl));
    contenders.push(ours(service, dataDir), ourUploader(service, dataDir, path.join(dir, 'state')));
  }
  if (wants('plainPut')) {
    const dataDir = await folder(dir, 'plain-put');
    contenders.push(plainPut(await started(startScript('plain-put.ts', dataDir)), dataDir));
  }
  if (wants('recordedPut')) {
    const dataDir = await folder(dir, 'recorded-put');
    const server = await started(startScript('plain-put.ts', dataDir, databaseUrl));
    contenders.push(recordedPut(server, dataDir));
  }
  if (wants('stockTus')) {
    const dataDir = await folder(dir, 'stock-tus');
    contenders.push(stockTus(await started(startScript('stock-tus.ts', dataDir)), dataDir));
  }
  const binary = wants('tusd', 'tusdOneRequest') ? await tusdBinary() : null;
  if (binary !== null) {
    const dataDir = await folder(dir, 'tusd');
    const server = await started(startTusd(binary, dataDir));
    contenders.push(tusd(server, dataDir), tusdOneRequest(server, dataDir));
  }
  return {
    contenders: contenders.filter(({ name }) => wanted.includes(name)),
    async stop() {
      for (const server of servers) await server.stop();
    },
  };
}

async function folder(dir: string, name: string): Promise<string> {
  const made = path.join(dir, name);
  await mkdir(made);
  return made;
}

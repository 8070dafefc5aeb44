import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import type { BenchService } from '../bench-service.ts';
import type { UploadContender } from './contender.ts';
import { sendAll, sendByTus } from './send-files.ts';
import type { SourceFile } from './source-files.ts';

const UPLOADER = path.join(import.meta.dirname, '../../apps/uploader/bin/uploader.js');
const SYNCS = 'each file some 4 MiB at a time and at its end, its folder, its record in PostgreSQL';

/** The service makes the uploads itself, from the manifest; then HEAD and PATCH, as any tus client does. */
export function ours({ url, token }: BenchService, dataDir: string): UploadContender {
  const headers = { authorization: `Bearer ${token}` };
  return {
    name: 'ours',
    label: 'score-ingest, tus-js-client',
    syncs: SYNCS,
    dataDir,
    async send(_dir, files, transfers, turn) {
      const uploadUrls = await declare(`${url}/v1/models/${turn}/runs/bench`, headers, files);
      await sendAll(files, transfers, (file) =>
        sendByTus(file, { headers, uploadUrl: new URL(uploadUrls.get(file.name) ?? '', url).href }),
      );
    },
  };
}

async function declare(
  url: string,
  headers: Record<string, string>,
  files: readonly SourceFile[],
): Promise<Map<string, string>> {
  const manifest = files.map(({ name, bytes, sha256, lines }) => ({ name, bytes, sha256, lines }));
  const response = await fetch(url, {
    method: 'PUT',
    headers: { ...headers, 'content-type': 'application/json' },
    body: JSON.stringify({ files: manifest }),
  });
  if (response.status !== 201)
    throw new Error(`PUT ${url} answered ${response.status}: ${await response.text()}`);
  const urls = new Map<string, string>();
  for (let cursor: string | null = ''; cursor !== null; ) {
    const from: string = cursor === '' ? '' : `&cursor=${cursor}`;
    const answer = await fetch(`${url}/files?limit=1000${from}`, { headers });
    const page = (await answer.json()) as {
      files: { name: string; uploadUrl: string }[];
      nextCursor: string | null;
    };
    for (const { name, uploadUrl } of page.files) urls.set(name, uploadUrl);
    cursor = page.nextCursor;
  }
  return urls;
}

/** The real program, which reads and hashes every file before it sends the first. */
export function ourUploader(
  { url, token }: BenchService,
  dataDir: string,
  stateDir: string,
): UploadContender {
  return {
    name: 'uploader',
    label: 'score-ingest, `uploader push --no-wait`: start and hashing too',
    syncs: SYNCS,
    dataDir,
    async send(dir, _files, transfers, turn) {
      const args = ['push', dir, '--model', turn, '--run', 'bench', '--no-wait'];
      await promisify(execFile)(process.execPath, [UPLOADER, ...args, '--transfers', `${transfers}`], {
        env: {
          ...process.env,
          UPLOADER_URL: url,
          UPLOADER_TOKEN: token,
          // Another for each turn, so that no hash is known from the one before.
          UPLOADER_STATE_DIR: path.join(stateDir, turn),
        },
      });
    },
  };
}

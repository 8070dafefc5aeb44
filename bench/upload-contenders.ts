import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import type { RunningS3 } from 'local-s3';
import { DefaultHttpStack, type HttpRequest, Upload, type UploadOptions } from 'tus-js-client';
import type { SourceFile } from './score-file.ts';
import {
  type ServerProcess,
  startOtherServer,
  startS3Tus,
  startService,
  startTusd,
} from './upload-servers.ts';

const UPLOADER = path.join(import.meta.dirname, '../apps/uploader/bin/uploader.js');
/** The default of the uploader. */
const CHUNK_BYTES = 64 * 1024 ** 2;
const OUR_SYNCS = 'each file some 4 MiB at a time and at its end, its folder, its record in PostgreSQL';

export const CONTENDERS = [
  'ours',
  'oursOneRequest',
  'uploader',
  'plainPut',
  'recordedPut',
  'stockTus',
  'tusd',
  'tusdOneRequest',
] as const;
/** With `--store s3`: the same bytes into one bucket. */
export const S3_CONTENDERS = ['ours', 'directPut', 's3Tus'] as const;
export type ContenderName = (typeof CONTENDERS | typeof S3_CONTENDERS)[number];

export interface UploadContender {
  readonly name: ContenderName;
  /** The name in tables. */
  readonly label: string;
  /** What is on the disk for certain when the server has answered. */
  readonly syncs: string;
  /** The folder in which the server stores what it receives. */
  readonly dataDir: string;
  /** Sends all files of `dir`, at most `transfers` at a time. `turn` is a name that is new each time. */
  send(dir: string, files: readonly SourceFile[], transfers: number, turn: string): Promise<void>;
}

export interface StartedContenders {
  readonly contenders: readonly UploadContender[];
  stop(): Promise<void>;
}

/** Starts each server of the wanted contenders once. Leaves tusd out, with a line, where it cannot be built. */
export async function startContenders(
  wanted: readonly ContenderName[],
  dir: string,
  databaseUrl: string,
): Promise<StartedContenders> {
  const servers: ServerProcess[] = [];
  const contenders: UploadContender[] = [];
  const wants = (...names: ContenderName[]) => names.some((name) => wanted.includes(name));
  const makeFolder = async (name: string) => {
    const made = path.join(dir, name);
    await mkdir(made);
    return made;
  };

  if (wants('ours', 'oursOneRequest', 'uploader')) {
    const dataDir = await makeFolder('ours');
    const { server, token } = await startService(dataDir, databaseUrl);
    servers.push(server);
    contenders.push(ours(server.url, token, dataDir), oursOneRequest(server.url, token, dataDir));
    contenders.push(ourUploader(server.url, token, dataDir, path.join(dir, 'state')));
  }
  const others = [
    ['plainPut', 'plain-put', plainPut],
    ['recordedPut', 'recorded-put', recordedPut],
    ['stockTus', 'stock-tus', stockTus],
  ] as const;
  for (const [name, kind, contender] of others) {
    if (!wants(name)) continue;
    const dataDir = await makeFolder(kind);
    const server = await startOtherServer(kind, dataDir, databaseUrl);
    servers.push(server);
    contenders.push(contender(server.url, dataDir));
  }
  if (wants('tusd', 'tusdOneRequest')) {
    const dataDir = await makeFolder('tusd');
    const server = await startTusd(dataDir);
    if (server !== null) {
      servers.push(server);
      contenders.push(tusd(server.url, dataDir), tusdOneRequest(server.url, dataDir));
    }
  }
  return {
    contenders: contenders.filter(({ name }) => wanted.includes(name)),
    async stop() {
      for (const server of servers) await server.stop();
    },
  };
}

/** Each server stores what it receives in the same bucket. */
export async function startS3Contenders(
  s3: RunningS3,
  wanted: readonly ContenderName[],
  databaseUrl: string,
): Promise<StartedContenders> {
  const dataDir = s3.bucketDir;
  const { server, token } = await startService(s3.bucketDir, databaseUrl, s3.env);
  const stock = await startS3Tus(s3);
  const contenders: UploadContender[] = [
    { ...ours(server.url, token, dataDir), label: 'score-ingest on S3, tus-js-client', syncs: S3_SYNCS },
    directPut(s3, dataDir),
    {
      ...byTus('s3Tus', '@tus/server + @tus/s3-store, tus-js-client', stock.url, dataDir, false),
      syncs: 'each part; the last one at its end',
    },
  ];
  return {
    contenders: contenders.filter(({ name }) => wanted.includes(name)),
    async stop() {
      await server.stop();
      await stock.stop();
    },
  };
}

const S3_SYNCS = 'each object of 8 MiB, with its record in PostgreSQL';
const OBJECT_BYTES = 8 * 1024 ** 2;

/** The SDK, without a service: one object after the other for each file. */
function directPut(
  { endpoint, bucketDir, accessKeyId, secretAccessKey }: RunningS3,
  dataDir: string,
): UploadContender {
  const client = new S3Client({
    endpoint,
    region: 'us-east-1',
    forcePathStyle: true,
    credentials: { accessKeyId, secretAccessKey },
    requestChecksumCalculation: 'WHEN_REQUIRED',
  });
  return {
    name: 'directPut',
    label: 'the same bytes put by the SDK, in objects of 8 MiB',
    syncs: 'each object of 8 MiB',
    dataDir,
    send: (_dir, files, transfers, turn) =>
      sendAll(files, transfers, async (file) => {
        const source = await open(file.path);
        try {
          for (let start = 0; start < file.bytes; start += OBJECT_BYTES) {
            const body = Buffer.allocUnsafe(Math.min(OBJECT_BYTES, file.bytes - start));
            await source.read(body, 0, body.byteLength, start);
            const Key = `uploads/${turn}/${file.name}/${start}`;
            await client.send(new PutObjectCommand({ Bucket: path.basename(bucketDir), Key, Body: body }));
          }
        } finally {
          await source.close();
        }
      }),
  };
}

/** The service creates the uploads from the manifest; then HEAD and PATCH, as with every tus client. */
function ours(url: string, token: string, dataDir: string): UploadContender {
  const headers = { authorization: `Bearer ${token}` };
  return {
    name: 'ours',
    label: 'score-ingest, tus-js-client',
    syncs: OUR_SYNCS,
    dataDir,
    async send(_dir, files, transfers, turn) {
      const uploadUrls = await declare(`${url}/v1/models/${turn}/runs/bench`, headers, files);
      await sendAll(files, transfers, (file) =>
        sendByTus(file, { headers, uploadUrl: new URL(uploadUrls.get(file.name) ?? '', url).href }),
      );
    },
  };
}

/** The answer to the manifest has the offsets, so that HEAD tells nothing new: as `uploader` sends a small file. */
function oursOneRequest(url: string, token: string, dataDir: string): UploadContender {
  return {
    ...ours(url, token, dataDir),
    name: 'oursOneRequest',
    label: 'score-ingest, PATCH without a HEAD before it',
    async send(_dir, files, transfers, turn) {
      const headers = { authorization: `Bearer ${token}` };
      const uploadUrls = await declare(`${url}/v1/models/${turn}/runs/bench`, headers, files);
      await sendAll(files, transfers, (file) => {
        const uploadUrl = new URL(uploadUrls.get(file.name) ?? '', url).href;
        return sendByTus(file, { headers, uploadUrl, httpStack: new FromTheStart(file.bytes) });
      });
    },
  };
}

/** tus-js-client asks for the offset of every upload that exists; this answers that nothing was received. */
class FromTheStart extends DefaultHttpStack {
  readonly #sizeBytes: number;

  constructor(sizeBytes: number) {
    super({ agent });
    this.#sizeBytes = sizeBytes;
  }

  override createRequest(method: string, url: string): HttpRequest {
    const request = super.createRequest(method, url);
    if (method !== 'HEAD') return request;
    const answer = new Map([
      ['upload-offset', '0'],
      ['upload-length', String(this.#sizeBytes)],
    ]);
    return Object.assign(request, {
      send: async () => ({
        getStatus: () => 200,
        getHeader: (name: string) => answer.get(name.toLowerCase()),
        getBody: () => '',
        getUnderlyingObject: () => null,
      }),
    });
  }
}

/** Declares a run. @returns the address of the upload of each file, by name. */
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

/** The real program, which hashes every file before it sends the first. */
function ourUploader(url: string, token: string, dataDir: string, stateDir: string): UploadContender {
  return {
    name: 'uploader',
    label: 'score-ingest, `uploader push --no-wait`: start and hashing too',
    syncs: OUR_SYNCS,
    dataDir,
    async send(dir, _files, transfers, turn) {
      const args = ['push', dir, '--model', turn, '--run', 'bench', '--no-wait'];
      await promisify(execFile)(process.execPath, [UPLOADER, ...args, '--transfers', `${transfers}`], {
        env: {
          ...process.env,
          UPLOADER_URL: url,
          UPLOADER_TOKEN: token,
          // A new folder for each turn, so that no hash is known from an earlier turn.
          UPLOADER_STATE_DIR: path.join(stateDir, turn),
        },
      });
    },
  };
}

function plainPut(url: string, dataDir: string): UploadContender {
  return {
    name: 'plainPut',
    label: 'plain Express PUT piped to a file',
    syncs: 'each file once, at its end',
    dataDir,
    send: (_dir, files, transfers) =>
      sendAll(files, transfers, (file) => sendByPut(file, `${url}/files/${file.name}`)),
  };
}

/** The least that a server must do to keep what it acknowledges. */
function recordedPut(url: string, dataDir: string): UploadContender {
  return {
    ...plainPut(url, dataDir),
    name: 'recordedPut',
    label: 'the same PUT, with its folder synced and one row in PostgreSQL',
    syncs: 'each file once, at its end, its folder, its record in PostgreSQL',
  };
}

function stockTus(url: string, dataDir: string): UploadContender {
  return byTus('stockTus', 'stock @tus/server + @tus/file-store, tus-js-client', url, dataDir, false);
}

function tusd(url: string, dataDir: string): UploadContender {
  return byTus('tusd', 'tusd, tus-js-client', url, dataDir, false);
}

/** The fewest requests that tusd needs. tus-js-client sends like this only with an option. */
function tusdOneRequest(url: string, dataDir: string): UploadContender {
  return byTus('tusdOneRequest', 'tusd, the bytes within the POST', url, dataDir, true);
}

function byTus(
  name: ContenderName,
  label: string,
  url: string,
  dataDir: string,
  uploadDataDuringCreation: boolean,
): UploadContender {
  const to = { endpoint: `${url}/files/`, uploadDataDuringCreation };
  const send: UploadContender['send'] = (_dir, files, transfers) =>
    sendAll(files, transfers, (file) => sendByTus(file, to));
  return { name, label, syncs: 'nothing', dataDir, send };
}

const agent = new Agent({ keepAlive: true });

/** Sends the files in order, at most `transfers` at a time. */
async function sendAll(
  files: readonly SourceFile[],
  transfers: number,
  send: (file: SourceFile) => Promise<void>,
): Promise<void> {
  const queue = files.values();
  await Promise.all(
    Array.from({ length: transfers }, async () => {
      for (const file of queue) await send(file);
    }),
  );
}

/** The same client for every server that speaks tus. */
async function sendByTus(file: SourceFile, to: UploadOptions): Promise<void> {
  const source = createReadStream(file.path);
  try {
    await new Promise<void>((resolve, reject) => {
      const upload = new Upload(source, {
        httpStack: new DefaultHttpStack({ agent }),
        ...to,
        chunkSize: CHUNK_BYTES,
        uploadSize: file.bytes,
        retryDelays: null,
        storeFingerprintForResuming: false,
        onSuccess: () => resolve(),
        onError: reject,
      });
      upload.start();
    });
  } finally {
    source.destroy();
  }
}

/** One PUT, streamed from the file. */
async function sendByPut(file: SourceFile, url: string): Promise<void> {
  const req = request(url, { method: 'PUT', agent, headers: { 'content-length': file.bytes } });
  const answered = once(req, 'response');
  await pipeline(createReadStream(file.path), req);
  const [response] = await answered;
  response.resume();
  await once(response, 'end');
  if (response.statusCode !== 204) throw new Error(`PUT ${url} answered ${response.statusCode}.`);
}

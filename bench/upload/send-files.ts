import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { Agent, request } from 'node:http';
import { pipeline } from 'node:stream/promises';
import { DefaultHttpStack, Upload, type UploadOptions } from 'tus-js-client';
import type { SourceFile } from './source-files.ts';

/** That of the uploader, by default. */
export const CHUNK_BYTES = 64 * 1024 ** 2;

const agent = new Agent({ keepAlive: true });

/** At most `transfers` at a time, in their order. */
export async function sendAll(
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

/** The same client for every server that speaks tus; `to` says where, and what they are asked for beside it. */
export async function sendByTus(file: SourceFile, to: UploadOptions): Promise<void> {
  const source = createReadStream(file.path);
  try {
    await new Promise<void>((resolve, reject) => {
      const upload = new Upload(source, {
        ...to,
        chunkSize: CHUNK_BYTES,
        uploadSize: file.bytes,
        retryDelays: null,
        storeFingerprintForResuming: false,
        httpStack: new DefaultHttpStack({ agent }),
        onSuccess: () => resolve(),
        onError: reject,
      });
      upload.start();
    });
  } finally {
    source.destroy();
  }
}

/** One PUT, straight from the file. */
export async function sendByPut(file: SourceFile, url: string): Promise<void> {
  const req = request(url, { method: 'PUT', agent, headers: { 'content-length': file.bytes } });
  const answered = once(req, 'response');
  await pipeline(createReadStream(file.path), req);
  const [response] = await answered;
  response.resume();
  await once(response, 'end');
  if (response.statusCode !== 204) throw new Error(`PUT ${url} answered ${response.statusCode}.`);
}

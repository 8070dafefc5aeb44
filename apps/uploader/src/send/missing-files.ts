import type { RunFile } from 'wire';
import { UploaderError } from '../errors.ts';
import type { TimeLimit } from '../http/exchange.ts';
import type { RunView } from '../progress/view.ts';
import { commonHeaders, type InSlot, listFiles, type Run } from '../service/client.ts';
import type { SourceRun } from '../source/find-runs.ts';
import { type HashedFile, refuseChangedRun } from '../source/hash.ts';
import { foundAfterSending } from '../source/read.ts';
import type { PushContext } from './context.ts';
import { sendFile } from './file.ts';

/**
 * Sends the files that the service does not have; it lists them in pages, since a run may have 100,000 files.
 * The first permanent fault ends the other transfers of the run.
 */
export async function sendMissingFiles(
  run: Run,
  source: SourceRun,
  files: HashedFile[],
  view: RunView,
  context: PushContext,
): Promise<void> {
  const local = new Map(files.map((file) => [file.name, file]));
  // With the last bytes the run is complete, and is loaded: this is the last moment to end it when its folder has changed.
  const ending = new Set<string>();
  const beforeLastBytes = async (file: HashedFile) => {
    ending.add(file.name);
    if (ending.size >= files.length - run.files.received) await refuseChangedRun(source, files);
  };
  const stop = new AbortController();
  const signal = AbortSignal.any([context.limit.signal, stop.signal]);
  const limit: TimeLimit = { ...context.limit, signal };
  const queue = missingFiles(run, limit, view, context);
  // A few loops over one queue, and not a task for each of 10,000 files: V8 promotes tasks that wait for long
  // to its old generation, and frees what they refer to only in a full collection (280 MB resident instead of
  // 150).
  const sendFromQueue = async () => {
    for await (const remote of queue) {
      const file = local.get(remote.name);
      if (!file || file.identity.bytes !== remote.bytes || file.sha256 !== remote.sha256)
        throw otherFile(run, remote);
      await oncePerUpload(remote.uploadUrl, context.uploading, () =>
        sendOne(file, remote, () => beforeLastBytes(file), view, limit, context),
      );
    }
  };
  const loops = Array.from({ length: context.settings.transfers }, () =>
    sendFromQueue().catch((error: unknown) => {
      stop.abort(error);
      throw error;
    }),
  );
  // Not Promise.all(): when this function returns, no transfer may still run or have a file open.
  const settled = await Promise.allSettled(loops);
  if (settled.some((result) => result.status === 'rejected')) throw stop.signal.reason;
  // What happened while the last bytes were on their way.
  await refuseChangedRun(source, files).catch((error: unknown) => {
    throw foundAfterSending(error);
  });
}

/** The pages are ordered by name, so that files which arrive meanwhile do not shift the next pages. */
async function* missingFiles(
  run: Run,
  limit: TimeLimit,
  view: RunView,
  context: PushContext,
): AsyncGenerator<RunFile> {
  const retries = context.retries(view.label, limit);
  let { files, nextCursor: cursor } = run.missing;
  for (;;) {
    yield* files;
    if (cursor === null) return;
    const page = await listFiles(
      context.service,
      run.model,
      run.run,
      { state: 'receiving', cursor },
      retries,
    );
    ({ files, nextCursor: cursor } = page);
  }
}

function otherFile({ model, run, revision }: Run, { name, bytes, sha256 }: RunFile): UploaderError {
  return new UploaderError(
    'bug',
    `${model}/${run} revision ${revision}: the service asks for ${name} of ${bytes} bytes, sha256 ${sha256}, which this push has not declared.`,
  );
}

async function sendOne(
  file: HashedFile,
  remote: RunFile,
  beforeLastBytes: () => Promise<void>,
  view: RunView,
  limit: TimeLimit,
  context: PushContext,
): Promise<void> {
  const { settings, service } = context;
  const progress = { name: file.name, totalBytes: remote.bytes, sentBytes: remote.offset };
  const inSlot: InSlot = (oneTry) =>
    context.transferSlots(async () => {
      limit.signal.throwIfAborted();
      view.receivedBytes -= progress.sentBytes;
      view.active.set(file.name, progress);
      try {
        return await oneTry();
      } finally {
        view.active.delete(file.name);
        view.receivedBytes += progress.sentBytes;
      }
    });
  await sendFile(
    {
      file,
      uploadUrl: service.url + remote.uploadUrl,
      // A file of one chunk needs no HEAD: at worst the chunk is sent twice. It halves the requests of many
      // small files.
      offsetBytes: remote.bytes <= settings.chunkSizeBytes ? remote.offset : undefined,
      headers: () => commonHeaders(service),
      chunkSizeBytes: settings.chunkSizeBytes,
      inSlot,
      compression: context.compression,
      stallTimeoutMs: settings.stallTimeoutMs,
      signal: limit.signal,
      pauseMs: context.budget,
      beforeLastBytes,
      onBytes: (bytes, wireBytes) => {
        view.sentBytes += bytes;
        view.wireBytes += wireBytes;
        progress.sentBytes += bytes;
      },
      onAcknowledged: (offsetBytes) => {
        progress.sentBytes = offsetBytes;
      },
    },
    context.retries(view.label, limit),
  );
  view.filesReceived++;
}

/**
 * Files with the same content can share an upload. Two transfers into one upload would conflict, so the
 * second waits for the first; the state of the run then says whether anything is left to send.
 */
async function oncePerUpload(url: string, uploading: Map<string, Promise<void>>, send: () => Promise<void>) {
  const other = uploading.get(url);
  if (other) return other.catch(() => {});
  const mine = send().finally(() => uploading.delete(url));
  uploading.set(url, mine);
  return mine;
}

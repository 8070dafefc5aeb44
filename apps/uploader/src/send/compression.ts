import { open } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import type { Transform } from 'node:stream';
import { promisify } from 'node:util';
import { constants, createZstdCompress, zstdCompress } from 'node:zlib';
import { compressionOf } from 'score-lines';
import type { HttpFault } from '../http/http-fault.ts';
import { isRefusedByProxy } from '../http/verdict.ts';
import { formatBytes } from '../progress/view.ts';
import type { HashedFile } from '../source/hash.ts';

export type CompressMode = 'auto' | 'zstd' | 'off';

/** What one request carries: this many bytes of a file, as they are or compressed. */
export type Cargo = { bytes: number; isCompressed: boolean };

/** A request that was answered. */
export type SentCargo = Cargo & { wireBytes: number; tookMs: number };

export type Compression = {
  /** What the next request may carry. Call `sent` or `failed` with it at the end of the request. */
  next: (file: HashedFile, leftBytes: number) => Promise<Cargo>;
  sent: (cargo: SentCargo) => void;
  failed: () => void;
  /** `fault` may be about the compression. @returns whether the same bytes are now sent as they are. */
  refused: (cargo: Cargo, fault: HttpFault) => boolean;
};

/**
 * Level 1 makes 200 to 300 MB/s of score lines on one core, and leaves a quarter to a thirteenth of them. Node compresses
 * on threads of its own (libuv's), so that reading and sending go on beside it.
 */
const LEVEL = 1;
const OPTIONS = { params: { [constants.ZSTD_c_compressionLevel]: LEVEL } };

export function createEncoder(): Transform {
  return createZstdCompress(OPTIONS);
}

/** Smaller bodies are sent as they are: their time is that of the request. */
const LEAST_BYTES = 64 * 1024;
/** Smaller requests say nothing about the rate of the connection. */
const LEAST_MEASURED_BYTES = 256 * 1024;
/**
 * While the rate is unknown the requests are small at first: at 100 Mbit/s the first one takes 0.2 s. Each that is too
 * short to measure makes the next one larger, so that a fast connection has two requests more, and no decision.
 */
const FIRST_PROBE_BYTES = 2 * 2 ** 20;
const PROBE_GROWTH = 8;
/** Requests that together took this long measure the rate: the time that the service takes for each matters less. */
const MEASURED_MS = 150;
/** Compression takes a core from whatever else this machine does, so it has to be this many times faster. */
const LEAST_GAIN = 2.5;
const LEAST_RATIO = 1.5;
/** Compression that is this near to its own limit may hold back a connection that has become faster. */
const OWN_LIMIT = 0.7;
const MEASURE_AGAIN_MS = 20_000;
const SAMPLE_BYTES = 2 ** 20;

type Sample = { bytesPerSecond: number; ratio: number };

/**
 * Whether requests are compressed; one for all transfers of a push. `auto` compresses when the connection is the
 * bottleneck: it measures the rate of requests that are sent as they are, and what compression makes of a sample of the
 * file. It tells `say` what it has decided, and why.
 */
export function createCompression(
  mode: CompressMode,
  chunkSizeBytes: number,
  say: (sentence: string) => void,
): Compression {
  let decision: 'unknown' | 'plain' | 'zstd' =
    mode === 'auto' ? 'unknown' : mode === 'zstd' ? 'zstd' : 'plain';
  let said: 'plain' | 'zstd' | undefined;
  let isRefused = false;
  let hasPassed = false;
  let probeBytes = FIRST_PROBE_BYTES;
  let active = 0;
  let measured = { bytes: 0, ms: 0 };
  let measuredAtMs = performance.now();
  let deciding: Promise<void> | undefined;
  let sample: Sample | undefined;

  const forget = () => {
    measured = { bytes: 0, ms: 0 };
  };
  const decide = async (file: HashedFile) => {
    const bytesPerSecond = (measured.bytes / measured.ms) * 1000;
    const sharing = Math.max(1, active);
    forget();
    sample ??= await sampleOf(file);
    if (sample === undefined) return;
    const cores = Math.min(sharing, Math.max(1, availableParallelism() - 1));
    const ours = sample.bytesPerSecond * cores;
    decision = ours >= LEAST_GAIN * bytesPerSecond && sample.ratio >= LEAST_RATIO ? 'zstd' : 'plain';
    measuredAtMs = performance.now();
    if (decision === said) return;
    said = decision;
    const link = `the connection takes ${formatBytes(bytesPerSecond)}/s`;
    const able = `compression ${formatBytes(ours)}/s, to 1/${sample.ratio.toFixed(1)} of the size`;
    say(
      decision === 'zstd'
        ? `Sending compressed (zstd): ${link}, ${able}.`
        : `Sending uncompressed: ${link}, ${able}.`,
    );
  };

  return {
    async next(file, leftBytes) {
      const isSuitable = compressionOf(file.name) === undefined;
      if (mode === 'auto' && !isRefused && isSuitable && measured.ms >= MEASURED_MS && decision !== 'zstd') {
        deciding ??= decide(file).finally(() => {
          deciding = undefined;
        });
        await deciding;
      }
      active += 1;
      const mostBytes = decision === 'unknown' ? Math.min(probeBytes, chunkSizeBytes) : chunkSizeBytes;
      const bytes = Math.min(mostBytes, leftBytes);
      return { bytes, isCompressed: decision === 'zstd' && !isRefused && isSuitable && bytes >= LEAST_BYTES };
    },
    sent({ bytes, isCompressed, tookMs }) {
      const sharing = active;
      active -= 1;
      hasPassed ||= isCompressed;
      if (mode !== 'auto' || isRefused || bytes < LEAST_MEASURED_BYTES) return;
      // Requests that run at the same time share the connection.
      const ms = tookMs / sharing;
      if (decision === 'unknown' && tookMs < MEASURED_MS && bytes >= probeBytes) probeBytes *= PROBE_GROWTH;
      if (isCompressed !== (decision === 'zstd')) return;
      if (!isCompressed) {
        measured = { bytes: measured.bytes + bytes, ms: measured.ms + ms };
        return;
      }
      const ownShare = sample === undefined ? 0 : ((bytes / tookMs) * 1000) / sample.bytesPerSecond;
      if (ownShare < OWN_LIMIT || performance.now() - measuredAtMs < MEASURE_AGAIN_MS) return;
      decision = 'unknown';
      probeBytes = FIRST_PROBE_BYTES;
      forget();
    },
    failed() {
      active -= 1;
    },
    refused({ isCompressed }, fault) {
      // A proxy that has let one through has other reasons.
      if (!isCompressed || !(fault.status === 415 || (isRefusedByProxy(fault) && !hasPassed))) return false;
      if (isRefused) return true;
      isRefused = true;
      const who = fault.isForeign ? 'A proxy' : 'The service';
      const answered = fault.isForeign ? ` (${fault.fact})` : '';
      say(`${who} does not take compressed bodies${answered}: sending uncompressed.`);
      return true;
    },
  };
}

const compress = promisify(zstdCompress);

/** From the middle of the file. undefined: it is too small, or cannot be read (then sending it fails too). */
async function sampleOf({ path, identity }: HashedFile): Promise<Sample | undefined> {
  const text = await readAt(path, Math.max(0, Math.floor((identity.bytes - SAMPLE_BYTES) / 2))).catch(
    () => undefined,
  );
  if (text === undefined || text.length < LEAST_BYTES) return undefined;
  let fastestMs = Number.POSITIVE_INFINITY;
  let compressedBytes = text.length;
  for (let turn = 0; turn < 2; turn += 1) {
    const startedMs = performance.now();
    compressedBytes = (await compress(text, OPTIONS)).length;
    fastestMs = Math.min(fastestMs, performance.now() - startedMs);
  }
  return { bytesPerSecond: (text.length / fastestMs) * 1000, ratio: text.length / compressedBytes };
}

async function readAt(path: string, position: number): Promise<Buffer> {
  await using handle = await open(path, 'r');
  const { buffer, bytesRead } = await handle.read(
    Buffer.allocUnsafe(SAMPLE_BYTES),
    0,
    SAMPLE_BYTES,
    position,
  );
  return buffer.subarray(0, bytesRead);
}

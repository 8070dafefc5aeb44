import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { constants, createGunzip, createZstdDecompress } from 'node:zlib';
import type { Request, Response } from 'express';
import { ZstdFrames } from 'score-lines';
import { IngestError } from '../errors.ts';
import { chargeMemory, refuseCoding } from './json-body.ts';

export type Coding = 'zstd' | 'gzip';

/** For `Accept-Encoding`: the codings that the body of an upload may have (RFC 7694). */
export const ACCEPTED_CODINGS = 'zstd, gzip';

/**
 * The coding of an upload's body; undefined when it has none.
 *
 * @throws 415 with `Accept-Encoding` for every other coding, and for several, one over the other.
 */
export function codingOf(req: Request, res: Response): Coding | undefined {
  const coding = req.get('content-encoding')?.trim().toLowerCase() ?? '';
  if (coding === '' || coding === 'identity') return undefined;
  if (coding === 'zstd') return 'zstd';
  if (coding === 'gzip' || coding === 'x-gzip') return 'gzip'; // RFC 9110 §8.4.1.3
  throw refuseCoding(res, coding, ACCEPTED_CODINGS);
}

const OUTPUT_BYTES = 64 * 1024;
/** RFC 9659 §3: no frame of this coding needs a larger window, which the decoder keeps in memory. */
const ZSTD_WINDOW_LOG_MAX = 23;
/** What a decoder takes besides its window: a block before and after decoding, buffers of the stream, and garbage of these. */
const DECODER_BYTES = 1024 * 1024;

export interface DecodedBody {
  /** The bytes as they are before the coding. Ends with the body, or with the connection after all that it brought. */
  readonly bytes: Readable;
  /** Why the body is not what its header says. The bytes before the fault have been delivered. */
  fault(): IngestError | undefined;
  /** Frees the decoder. The rest of the body is not read. */
  close(): void;
}

/**
 * Decodes a body while it arrives. Whatever it expands to, the decoder holds little of it: it waits for its reader, and
 * makes the sender wait. Its memory is charged like that of other bodies. The reader counts and limits decoded bytes.
 *
 * @param limitBytes more decoded bytes than this are an error of the reader. A body that is longer although it is
 *   compressed is refused here: frames without content have no other limit.
 */
export function decodeBody(
  body: IncomingMessage,
  res: Response,
  coding: Coding,
  { limitBytes, onProgress }: { readonly limitBytes: number; onProgress(): void },
): DecodedBody {
  const decoder =
    coding === 'gzip'
      ? createGunzip({ chunkSize: OUTPUT_BYTES })
      : createZstdDecompress({
          chunkSize: OUTPUT_BYTES,
          params: { [constants.ZSTD_d_windowLogMax]: ZSTD_WINDOW_LOG_MAX },
        });
  const frames = coding === 'zstd' ? new ZstdFrames() : undefined;
  const mostBytes = limitBytes + limitBytes / 64 + OUTPUT_BYTES;
  let fault: IngestError | undefined;
  let bodyBytes = 0;
  let chargedBytes = 0;
  let undecodedChunks = 0;
  let isCut = false;
  let isEnded = false;

  const onData = (chunk: Buffer) => {
    bodyBytes += chunk.length;
    if (bodyBytes > mostBytes)
      return stop(
        new IngestError('too_large', 'The compressed body is longer than the rest of the upload itself.'),
      );
    frames?.add(chunk);
    const neededBytes = DECODER_BYTES + Math.min(frames?.largestWindowBytes ?? 0, 2 ** ZSTD_WINDOW_LOG_MAX);
    try {
      if (neededBytes > chargedBytes) chargeMemory(res, neededBytes - chargedBytes);
      chargedBytes = Math.max(chargedBytes, neededBytes);
    } catch (error) {
      return stop(error as IngestError);
    }
    onProgress();
    undecodedChunks += 1;
    const hasRoom = decoder.write(chunk, () => {
      undecodedChunks -= 1;
      endWhenDecoded();
    });
    if (!hasRoom) body.pause();
  };
  const onDrain = () => {
    if (!isEnded) body.resume();
  };
  const onEnd = () => {
    isEnded = true;
    decoder.end();
  };
  // The decoder takes the end of its input for the end of the text, and reports that it is missing. So a body that is cut
  // ends with what its last chunk decodes to.
  const onCut = () => {
    if (isEnded) return;
    isEnded = true;
    isCut = true;
    endWhenDecoded();
  };
  const endWhenDecoded = () => {
    if (isCut && undecodedChunks === 0) decoder.push(null);
  };
  const stop = (error: IngestError) => {
    fault ??= error;
    body.pause();
    onCut();
  };

  decoder.on('error', (error: Error) => {
    fault ??= undecodable(coding, error.message);
  });
  decoder.on('drain', onDrain);
  decoder.once('end', () => {
    if (isCut) return;
    // Node's decoders accept a last frame without its last bytes, and ignore what follows the last member.
    if (frames?.isWhole === false) fault ??= undecodable(coding, 'it ends in the middle of a frame');
    else if (decoder.bytesWritten < bodyBytes)
      fault ??= undecodable(coding, 'other bytes follow the compressed ones');
  });
  if (body.destroyed || body.readableEnded) onCut();
  else body.on('data', onData).on('end', onEnd).on('error', onCut).on('close', onCut);

  return {
    bytes: decoder,
    fault: () => fault,
    close() {
      isEnded = true;
      body.off('data', onData).off('end', onEnd).off('error', onCut).off('close', onCut);
      decoder.destroy();
    },
  };
}

function undecodable(coding: Coding, reason: string): IngestError {
  return new IngestError(
    'invalid_request',
    `The body cannot be decoded as ${coding}: ${reason}. What was decoded before counts: ask for the offset with HEAD and continue from there.`,
  );
}

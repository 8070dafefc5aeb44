import type { ClientRequest } from 'node:http';
import { pipeline, type Readable, Transform } from 'node:stream';

/** The body of a request that is read while it is sent. */
export type StreamBody = {
  sizeBytes: number;
  open: () => Promise<Readable>;
  onBytes: (bytes: number) => void;
  /** What to throw when the stream ends before `sizeBytes`, or fails to be read. */
  tooShort: () => Error;
  unreadable: (cause: unknown) => Error;
};

/** Sends the stream as the request's body, to its end. Returns whether all of it is on its way by now. */
export function sendStream(
  stream: Readable,
  body: StreamBody,
  request: ClientRequest,
  onMoved: () => void,
  fail: (error: unknown) => void,
): () => boolean {
  let sentBytes = 0;
  const counter = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      sentBytes += chunk.length;
      body.onBytes(chunk.length);
      onMoved();
      done(null, chunk);
    },
    flush(done) {
      // Without this the request would wait for bytes that never come.
      if (sentBytes < body.sizeBytes) fail(body.tooShort());
      done();
    },
  });
  // pipeline() hands a fault of the request up to the source as well; only the source's own counts here.
  let requestEnded = false;
  const end = () => {
    requestEnded = true;
  };
  request.once('error', end).once('close', end);
  stream.once('error', (error) => {
    if (!requestEnded) fail(body.unreadable(error));
  });
  pipeline(stream, counter, request, () => {});
  return () => sentBytes >= body.sizeBytes;
}

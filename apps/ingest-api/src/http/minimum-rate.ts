import type { IncomingMessage, Server } from 'node:http';

export interface MinimumRate {
  readonly minBytesPerSecond: number;
  /** The rate is taken over this long. */
  readonly windowMs: number;
}

/**
 * Cuts a request whose body trickles: a byte now and then keeps every idle time-out away and a connection,
 * a lock and a slot busy for ever. What has come in is kept, and a real client goes on from there.
 */
export function demandMinimumRate(server: Server, { minBytesPerSecond, windowMs }: MinimumRate): void {
  const leastBytes = (minBytesPerSecond * windowMs) / 1000;
  const watch = (req: IncomingMessage) => {
    const { headers, socket } = req;
    if (headers['content-length'] === undefined && headers['transfer-encoding'] === undefined) return;
    let seenBytes = socket.bytesRead;
    const timer = setInterval(() => {
      const cameBytes = socket.bytesRead - seenBytes;
      seenBytes = socket.bytesRead;
      // Bytes that wait for us are no fault of the client's: a disk or a lock is slow.
      const isOurTurn = req.readableLength > 0;
      if (req.complete) clearInterval(timer);
      else if (cameBytes < leastBytes && !isOurTurn) socket.destroy();
    }, windowMs);
    timer.unref();
    req.once('close', () => clearInterval(timer));
  };
  server.on('request', watch).on('checkContinue', watch);
}

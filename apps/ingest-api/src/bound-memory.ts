import { setFlagsFromString } from 'node:v8';

/**
 * V8 lets its young generation grow to 64 MB before it collects garbage, and every chunk of a file leaves
 * some. At its first size it is collected more often: 40 to 50 MB less resident memory, at the same speed
 * (`node bench/killed-push.ts` prints the peaks). `bin/ingest-api.js` imports this file before any other,
 * because a heap that has grown does not shrink.
 */
setFlagsFromString('--semi-space-growth-factor=1');

/**
 * Each chunk that Node reads is memory outside of V8's heap. After each 20 MB of it, V8 marks its whole heap,
 * incrementally: 48 times for a body of 1 GB, half of the service's time. Without increments it waits longer
 * and marks 4 times, about 40 ms each; the peak stays the same (docs/performance.md).
 */
setFlagsFromString('--no-incremental-marking');

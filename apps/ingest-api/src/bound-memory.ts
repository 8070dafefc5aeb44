import { setFlagsFromString } from 'node:v8';

/**
 * V8 lets its young generation grow to 64 MB before it looks for garbage, and every chunk of a file leaves some.
 * Kept at its first size it is collected more often and holds almost nothing: 40 to 50 MB less resident, at the
 * same speed (`node bench/killed-push.ts` prints the peaks). Imported before anything else, as what has grown stays.
 */
setFlagsFromString('--semi-space-growth-factor=1');

/**
 * Each chunk that Node reads is memory outside of V8's heap, and each 20 MB of it V8 begins to mark the whole heap, bit by
 * bit beside the work: 48 times for a body of 1 GB, half of the service's time. At once, it waits until there is more to find, and
 * marks 4 times, some 40 ms each; the peak stays the same (docs/performance.md).
 */
setFlagsFromString('--no-incremental-marking');

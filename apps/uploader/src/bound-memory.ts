import { setFlagsFromString } from 'node:v8';

/**
 * V8 lets its young generation grow to 64 MB before it looks for garbage, and every chunk of a file leaves some.
 * Kept at its first size it is collected more often and holds almost nothing: 40 to 50 MB less resident, at the
 * same speed (`node bench/killed-push.ts` prints the peaks). Imported before anything else, as what has grown stays.
 */
setFlagsFromString('--semi-space-growth-factor=1');

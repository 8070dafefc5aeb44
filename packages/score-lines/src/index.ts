export { CompressionFault, compressionOf, expand, ZstdFrames } from './compression.ts';
export { COPY_COLUMNS, COPY_HEAD, COPY_TAIL } from './copy-rows.ts';
export { type FoundKey, KeyOrder } from './keys.ts';
export { ScoreProfile, stabilityIndex } from './profile.ts';
export type { RejectCode, RejectedLine } from './rejects.ts';
export { createScoreLineScanner, type LineCounts } from './scanner.ts';

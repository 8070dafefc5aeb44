export { COPY_HEAD, COPY_TAIL } from './copy-rows.ts';
export { printable, printableJson, printableLines } from './excerpt.ts';
export { type Compression, CompressionFault, compressionOf, expand } from './expand.ts';
export { KeyOrder } from './key-order.ts';
export type { FoundKey, KeySearch } from './key-search.ts';
export type { RejectCode, RejectedLine } from './rejected-line.ts';
export type { LineCounts, ScoreLineScanner, ScoreLineScannerOptions } from './scanner.ts';
export { COPY_COLUMNS, createScoreLineScanner } from './scanner.ts';
export { type ProfileSummary, ScoreProfile, stabilityIndex } from './score-profile.ts';

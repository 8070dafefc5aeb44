export type { RejectCode, RejectedLine } from './rejected-line.ts';
export type { LineCounts, ScoreLineScanner, ScoreLineScannerOptions } from './scanner.ts';
export { COPY_COLUMNS, createScoreLineScanner } from './scanner.ts';

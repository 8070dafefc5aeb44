import type { SourceFile } from './source-files.ts';

export const CONTENDERS = [
  'ours',
  'uploader',
  'plainPut',
  'recordedPut',
  'stockTus',
  'tusd',
  'tusdOneRequest',
] as const;
export type ContenderName = (typeof CONTENDERS)[number];

export interface UploadContender {
  readonly name: ContenderName;
  /** How it is called in tables. */
  readonly label: string;
  /** What is on the disk for sure when it has answered. */
  readonly syncs: string;
  /** Where its server keeps what it receives. */
  readonly dataDir: string;
  /** Sends all files of `dir`, `transfers` at a time; `turn` is a name that is new each time. */
  send(dir: string, files: readonly SourceFile[], transfers: number, turn: string): Promise<void>;
}

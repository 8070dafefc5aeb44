import type { WriteStream } from 'node:tty';

/** The process's surroundings, handed in by main.ts. */
export type Terminal = {
  env: NodeJS.ProcessEnv;
  writeOut: (text: string) => void;
  writeError: (text: string) => void;
  /** stderr, when a person is looking at it. */
  errorTty: WriteStream | null;
};

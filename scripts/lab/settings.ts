import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** An error that the user can fix; the message says how. It is printed without a stack. */
export class LabFailure extends Error {
  override readonly name = 'LabFailure';
}

export interface LabSettings {
  home: string;
  /** The port in LAB_PORT. */
  port: number | undefined;
  /** The directory to push; undefined: the samples. */
  sourceDir: string | undefined;
  /** Stop after the push. */
  exit: boolean;
  /** `s3`: the bytes of uploads are kept in a bucket of a local S3 server. */
  store: 'folder' | 's3';
  /** All other arguments, for `uploader push`. */
  uploaderArgs: string[];
}

/** `npm run lab -- [DIR] [--exit] [--store s3] [options of uploader push]` */
export function readLabSettings(args: string[], env: Record<string, string | undefined>): LabSettings {
  // npm runs scripts in the root of the checkout; a relative path is relative to the folder of the user's shell.
  const startDir = env.INIT_CWD ?? process.cwd();
  const store = readStore(args);
  const rest = args.filter((arg, i) => arg !== '--exit' && arg !== '--store' && args[i - 1] !== '--store');
  const dir = rest[0]?.startsWith('-') ? undefined : rest[0];
  return {
    // A database belongs to one store, so each kind has a home of its own.
    home: env.LAB_HOME ? resolve(startDir, env.LAB_HOME) : join(ROOT, store === 's3' ? '.lab-s3' : '.lab'),
    port: readPort(env.LAB_PORT),
    sourceDir: dir === undefined ? undefined : resolve(startDir, dir),
    exit: args.includes('--exit'),
    store,
    uploaderArgs: dir === undefined ? rest : rest.slice(1),
  };
}

function readStore(args: string[]): 'folder' | 's3' {
  const at = args.indexOf('--store');
  const store = at === -1 ? 'folder' : args[at + 1];
  if (store === 'folder' || store === 's3') return store;
  throw new LabFailure(`--store is ${JSON.stringify(store ?? '')}. It must be folder or s3.`);
}

function readPort(text: string | undefined): number | undefined {
  if (!text) return undefined;
  const port = Number(text);
  if (Number.isInteger(port) && port >= 0 && port <= 65_535) return port;
  throw new LabFailure(
    `LAB_PORT is "${text}", which is not a port number. Set it to a number from 0 (any free port) to 65535.`,
  );
}

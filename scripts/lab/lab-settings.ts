import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LabFailure } from './lab-failure.ts';

export const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** What is tried when LAB_PORT says nothing; where it is taken, any free port will do. */
export const USUAL_PORT = 8080;

export interface LabSettings {
  home: string;
  /** What LAB_PORT asks for. */
  port: number | undefined;
  /** The directory to push; undefined pushes the samples. */
  sourceDir: string | undefined;
  /** Leave when the push is done. */
  exit: boolean;
  /** Every other argument, for `uploader push`. */
  uploaderArgs: string[];
}

/** `npm run lab -- [DIR] [--exit] [options of uploader push]` */
export function readLabSettings(args: string[], env: Record<string, string | undefined>): LabSettings {
  // npm runs scripts in the root of the checkout; paths are meant from where the person stands.
  const startDir = env.INIT_CWD ?? process.cwd();
  const rest = args.filter((arg) => arg !== '--exit');
  const dir = rest[0]?.startsWith('-') ? undefined : rest[0];
  return {
    home: env.LAB_HOME ? resolve(startDir, env.LAB_HOME) : join(ROOT, '.lab'),
    port: readPort(env.LAB_PORT),
    sourceDir: dir === undefined ? undefined : resolve(startDir, dir),
    exit: rest.length < args.length,
    uploaderArgs: dir === undefined ? rest : rest.slice(1),
  };
}

function readPort(text: string | undefined): number | undefined {
  if (!text) return undefined;
  const port = Number(text);
  if (Number.isInteger(port) && port >= 0 && port <= 65_535) return port;
  throw new LabFailure(
    `LAB_PORT is "${text}", which is no port. Set it to a number from 0 (any free one) to 65535.`,
  );
}

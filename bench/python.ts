import { execFile } from 'node:child_process';
import { access } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';

const SCRIPT = path.join(import.meta.dirname, 'load_contenders.py');
const PACKAGES = [
  'duckdb==1.5.5',
  'duckdb-extension-postgres-scanner==1.5.5',
  'psycopg[binary]==3.3.9',
  'orjson==3.13.0',
  'dlt[postgres]==1.31.0',
];
const INSTALL_TIMEOUT_MS = 600_000;
const LOAD_TIMEOUT_MS = 3_600_000;

export interface BenchPython {
  /** Runs one contender of load_contenders.py, which prints its figures. */
  run(name: string, job: Readonly<Record<string, unknown>>): Promise<{ seconds: number }>;
}

/**
 * A virtual environment with the packages, made in `dir`; BENCH_PYTHON names the python of one that is there already.
 *
 * @returns why there is none, as a sentence, where Python or the packages cannot be had.
 */
export async function startPython(dir: string): Promise<BenchPython | string> {
  let python = process.env.BENCH_PYTHON;
  try {
    if (python === undefined) {
      const venv = path.join(dir, 'python');
      await promisify(execFile)('python3', ['-m', 'venv', venv], { timeout: INSTALL_TIMEOUT_MS });
      python = path.join(venv, 'bin/python');
      const install = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', ...PACKAGES];
      await promisify(execFile)(python, install, { timeout: INSTALL_TIMEOUT_MS });
    } else await access(python);
  } catch (error) {
    const { stderr, message } = error as Error & { stderr?: string };
    const reason = (stderr?.trim() || message).split('\n').at(-1);
    return `DuckDB, psycopg and dlt are skipped: Python 3 with their packages is not at hand (${reason}).`;
  }
  const program = python;
  return {
    async run(name, job) {
      const { stdout } = await promisify(execFile)(program, [SCRIPT, name, JSON.stringify({ ...job, dir })], {
        timeout: LOAD_TIMEOUT_MS,
        env: { ...process.env, RUNTIME__DLTHUB_TELEMETRY: 'false' },
      });
      return JSON.parse(stdout.trim().split('\n').at(-1) ?? '');
    },
  };
}

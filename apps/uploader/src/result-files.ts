import { renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Where the sidecar of Airflow's KubernetesPodOperator looks for a task's XCom. */
const XCOM_DIR = '/airflow/xcom';

/**
 * The files that want the result. Found from the arguments themselves and not from the settings, because the
 * result is written also when the settings are what is wrong.
 */
export function findResultFiles(args: string[], env: NodeJS.ProcessEnv): string[] {
  const at = args.findIndex((arg) => arg === '--result-file' || arg.startsWith('--result-file='));
  const named = at < 0 ? env.UPLOADER_RESULT_FILE : (args[at]?.split('=', 2)[1] ?? args[at + 1]);
  const xcomDir = env.UPLOADER_XCOM_DIR || XCOM_DIR;
  return [...(named ? [named] : []), ...(isFolder(xcomDir) ? [join(xcomDir, 'return.json')] : [])];
}

/** Whole or not at all: whoever polls for the file must not find half of it. */
export function writeResultFile(path: string, text: string): void {
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, text);
  renameSync(temporary, path);
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

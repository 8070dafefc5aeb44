import { describeLoad, formatBytes, formatCount, type RunView } from '../progress/view.ts';
import { EXIT_CODE_OF_STATE } from '../results/outcome.ts';
import { UploaderError } from '../results/result.ts';
import type { Run } from '../service/run-schema.ts';
import type { HashedFile } from '../source/hash.ts';

/** What the service said to the manifest. */
export function describeDeclared(remote: Run, files: HashedFile[], view: RunView): string {
  if (remote.files.total !== files.length || remote.bytes.total !== view.totalBytes)
    throw miscounted(remote, files, view);
  const lines = files.reduce((sum, file) => sum + file.lines, 0);
  const what = `${view.label}: revision ${remote.revision}, ${formatCount(files.length, 'file')}, ${formatBytes(view.totalBytes)}, ${formatCount(lines, 'line')}`;
  if (remote.state !== 'receiving') return `${what}: the service has it (${remote.state})`;
  const there = view.receivedBytes === 0 ? 'nothing' : formatBytes(view.receivedBytes);
  return `${what}: ${there} is there, ${formatBytes(view.totalBytes - view.receivedBytes)} to send`;
}

function miscounted({ files: { total }, bytes }: Run, files: HashedFile[], view: RunView): UploaderError {
  return new UploaderError(
    'bug',
    `${view.label}: the service counts ${formatCount(total, 'file')} of ${bytes.total} bytes; this push has declared ${formatCount(files.length, 'file')} of ${view.totalBytes} bytes.`,
  );
}

/** What changed between two answers, a sentence each. How a run ended is told with the result. */
export function describeChange(before: Run, now: Run, view: RunView): string[] {
  const sentences: string[] = [];
  const phase = now.load?.phase;
  if (now.load && phase && phase !== before.load?.phase) {
    sentences.push(`${view.label}: ${describeLoad(now.load, view.totalBytes)}`);
    // That it is loading is told with its phase, which comes a moment later.
  } else if (
    now.state !== before.state &&
    now.state !== 'loading' &&
    EXIT_CODE_OF_STATE[now.state] === null
  ) {
    sentences.push(`${view.label}: ${now.state}`);
  }
  if (now.load?.lastError && now.load.lastError !== before.load?.lastError) {
    const next = now.load.nextTryAt ? `; the service tries again at ${now.load.nextTryAt}` : '';
    sentences.push(`${view.label}: a load failed: ${now.load.lastError}${next}`);
  }
  return sentences;
}

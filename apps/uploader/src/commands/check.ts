import { open, readFile } from 'node:fs/promises';
import { createScoreLineScanner, type LineCounts, type RejectedLine } from 'score-lines';
import { type Attribute, contract, EXIT_CODE_OF, type ExitCode } from 'wire';
import { UploaderError } from '../errors.ts';
import {
  formatBytes,
  formatCount,
  formatDuration,
  newRunView,
  type RunView,
  startReporter,
  type Terminal,
} from '../progress/view.ts';
import { newPushView } from '../push/push.ts';
import {
  type CommandResult,
  describeBadLines,
  describeIgnored,
  errorOf,
  errorOfAll,
  type Ignored,
  ignoredOf,
  labelled,
  type RunError,
  WORD_OF,
  worstExitCode,
} from '../results.ts';
import { type Flags, loadLocalSettings } from '../settings/settings.ts';
import { findRuns, type SourceRun } from '../source/find-runs.ts';
import { identify, refuseEmpty } from '../source/hash.ts';
import { readBlocks, readText, unreadableSource } from '../source/read.ts';

/** A run that could not be read to its end has its `error`, and no counts. */
type UncheckedRun = { model: string; run: string; error: RunError };
type CheckResult = CommandResult & { runs: Array<CheckedRun | UncheckedRun>; ignored?: Ignored };

/** `uploader check DIR`: what the service would say of each line, without a service. */
export async function check(
  dir: string,
  contractFile: string | undefined,
  flags: Flags,
  terminal: Terminal,
  interrupt: AbortSignal,
): Promise<CheckResult> {
  const settings = loadLocalSettings('check', flags, terminal.env);
  const { runs, faults, ignored } = await findRuns(dir, settings.model, settings.run, settings.ignore);
  const attributes = contractFile === undefined ? undefined : await readAttributes(contractFile, runs);
  const view = newPushView(runs);
  const reporter = await startReporter(terminal, view);
  const checked: CheckResult['runs'] = [];
  const codes: ExitCode[] = faults.map((fault) => errorOf(fault).exitCode);
  const sentences = faults.map((fault) => fault.message);
  try {
    for (const line of describeIgnored(ignored)) reporter.say(line);
    for (const [index, run] of runs.entries()) {
      const runView = view.runs[index] ?? newRunView(run.run, run.files.length);
      const startedAtMs = performance.now();
      try {
        runView.stage = 'checking';
        const one = await checkRun(run, attributes, runView, interrupt);
        checked.push(one);
        codes.push(one.rejects.total > 0 || one.rows === 0 ? EXIT_CODE_OF.data : 0);
        for (const line of describeBadLines(one)) reporter.say(line);
        sentences.push(describeChecked(one, performance.now() - startedAtMs));
      } catch (error) {
        const fault = errorOf(error);
        codes.push(fault.exitCode);
        checked.push({ model: run.model, run: run.run, error: fault.error });
        sentences.push(labelled(runView.label, fault.error.detail));
      } finally {
        runView.stage = 'done';
      }
    }
    sentences.push(...describeAll(checked, worstExitCode(codes)));
    for (const sentence of settings.json ? sentences : []) reporter.say(sentence);
  } finally {
    reporter.stop();
  }
  for (const sentence of settings.json ? [] : sentences) terminal.writeOut(`${sentence}\n`);
  const exitCode = worstExitCode(codes);
  const result = exitCode === 0 ? 'valid' : WORD_OF[exitCode];
  return { result, exitCode, runs: checked, ...errorOfAll(faults), ...ignoredOf(ignored) };
}

/** After several runs: how many ended how. */
function describeAll(runs: CheckResult['runs'], exitCode: ExitCode): string[] {
  if (runs.length < 2) return [];
  const counts = Map.groupBy(runs, (run) => {
    if ('error' in run) return 'cannot be read';
    if (run.rejects.total > 0) return 'with bad lines';
    return run.rows === 0 ? 'without rows' : 'without bad lines';
  });
  return [`${[...counts].map(([word, some]) => `${some.length} ${word}`).join(', ')}; exit ${exitCode}`];
}

/**
 * The attributes that a contract declares, from a file with the body of `PUT /v1/models/{model}` or the answer to its
 * `GET`.
 */
async function readAttributes(
  file: string,
  runs: readonly SourceRun[],
): Promise<readonly Attribute[] | undefined> {
  const models = [...new Set(runs.map(({ model }) => model))];
  if (models.length > 1)
    throw new UploaderError(
      'usage',
      `--contract is the contract of one model, and the runs here are of ${models.slice(0, 5).join(', ')}${models.length > 5 ? ', …' : ''}. Check the folder of one model, with --model.`,
    );
  let json: unknown;
  try {
    json = JSON.parse(await readFile(file, 'utf8'));
  } catch (cause) {
    throw new UploaderError('usage', `--contract: ${file} is not a JSON file: ${(cause as Error).message}.`, {
      cause,
    });
  }
  const given = typeof json === 'object' && json !== null && 'contract' in json ? json.contract : json;
  const result = contract.safeParse(given);
  if (result.success) return result.data.attributes;
  const faults = result.error.issues.map(({ path, message }) => [...path, message].join(': '));
  throw new UploaderError(
    'usage',
    `--contract: ${file} is not a contract as PUT /v1/models/MODEL takes it: ${faults.slice(0, 5).join('; ')}.`,
  );
}

function describeChecked(run: CheckedRun, elapsedMs: number): string {
  const label = `${run.model}/${run.run}`;
  const what = `${formatCount(run.files, 'file')}, ${formatBytes(run.bytes)}, ${formatCount(run.lines, 'line')} in ${formatDuration(elapsedMs)}`;
  if (run.rejects.total > 0) {
    const codes = Object.entries(run.rejects.byCode).map(([code, count]) => `${count} ${code}`);
    return `${label}: ${formatCount(run.rejects.total, 'line')} would be rejected (${codes.join(', ')}); ${what}.`;
  }
  if (run.rows === 0) return `${label}: it has no rows, and the service rejects a run without rows; ${what}.`;
  return `${label}: no line would be rejected, ${formatCount(run.rows, 'row')}; ${what}.`;
}

/** In the form in which the service reports bad lines. */
type Rejects = {
  total: number;
  byCode: Record<string, number>;
  first: Array<{
    file: string;
    line: number;
    byte_offset: number;
    code: string;
    detail: string;
    excerpt: string;
  }>;
};
type CheckedRun = {
  model: string;
  run: string;
  files: number;
  bytes: number;
  lines: number;
  blank: number;
  rows: number;
  rejects: Rejects;
};

const SHOWN_REJECTS = 10;

async function checkRun(
  run: SourceRun,
  attributes: readonly Attribute[] | undefined,
  view: RunView,
  signal: AbortSignal,
): Promise<CheckedRun> {
  if (run.fault) throw run.fault;
  refuseEmpty(run);
  const sizes: number[] = [];
  for (const file of run.files) sizes.push((await identify(file.path)).bytes);
  view.totalBytes = sizes.reduce((sum, bytes) => sum + bytes, 0);
  const rejects: Rejects = { total: 0, byCode: {}, first: [] };
  const checked = { bytes: view.totalBytes, lines: 0, blank: 0, rows: 0 };
  for (const [index, { name, path }] of run.files.entries()) {
    const onReject = (rejected: RejectedLine) => addReject(rejects, name, rejected);
    const scanner = createScoreLineScanner({ onReject, attributes });
    const counts = await checkFile(path, sizes[index] ?? 0, signal, scanner, (bytes) => {
      view.hashedBytes += bytes;
    });
    checked.lines += counts.lines;
    checked.blank += counts.blank;
    checked.rows += counts.rows;
  }
  return { model: run.model, run: run.run, files: run.files.length, ...checked, rejects };
}

function addReject(rejects: Rejects, file: string, rejected: RejectedLine): void {
  const { line, byteOffset, code, detail, excerpt } = rejected;
  rejects.total += 1;
  rejects.byCode[code] = (rejects.byCode[code] ?? 0) + 1;
  if (rejects.first.length < SHOWN_REJECTS) {
    rejects.first.push({ file, line, byte_offset: byteOffset, code, detail, excerpt });
  }
}

/**
 * Reads a file with the scanner that the service loads it with. `onBytes` counts bytes of text, decompressed
 * if necessary.
 */
async function checkFile(
  path: string,
  sizeBytes: number,
  signal: AbortSignal,
  scanner: ReturnType<typeof createScoreLineScanner>,
  onBytes: (bytes: number) => void,
): Promise<LineCounts> {
  const handle = await open(path, 'r').catch((error: unknown) => {
    throw unreadableSource(path, error);
  });
  try {
    for await (const text of readText(readBlocks(handle, path, sizeBytes, signal), path, sizeBytes)) {
      discard(scanner.scan(text));
      onBytes(text.length);
    }
    discard(scanner.finish());
    return scanner.counts;
  } finally {
    await handle.close();
  }
}

/** The rows are not needed: frees their memory at once instead of leaving it to the garbage collector. */
function discard(rows: Buffer): void {
  if (rows.buffer instanceof ArrayBuffer && rows.byteLength > 0) rows.buffer.transfer(0);
}

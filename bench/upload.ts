/**
 * Our upload service (real process, PostgreSQL, tokens, locks, checkpoints) against a plain Express PUT, the stock
 * @tus/server with @tus/file-store, and tusd: the same files, in turn, in one run. Prints medians and ratios.
 *
 *   node bench/upload.ts [--shapes 1x1GB,100x10MB,1000x10KB] [--rounds 3] [--transfers 4]
 *     [--contenders ours,oursOneRequest,uploader,plainPut,recordedPut,stockTus,tusd,tusdOneRequest] [--json FILE]
 *   node bench/upload.ts --store s3 [--contenders ours,directPut,s3Tus] …     into versitygw instead of a folder
 *
 * Warm: the files to send are in the page cache, all servers run, and each has received some files. Before each turn
 * everything is synced, so that no contender is slowed by the unwritten data of another.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { startBenchDatabase } from './database.ts';
import { emptyFolder, quietDisk, quietMachine } from './quiet-machine.ts';
import { type Measure, median, type PartResult, report, type Table } from './result.ts';
import { parseShape, type Shape, type SourceFile, writeSourceFiles } from './score-file.ts';
import {
  CONTENDERS,
  type ContenderName,
  S3_CONTENDERS,
  startContenders,
  startS3Contenders,
  type UploadContender,
} from './upload-contenders.ts';
import { startBucket } from './upload-servers.ts';

/** The number of requests per file matters for files up to this size. */
const SMALL_FILE_BYTES = 1e6;
/** tus with one request a file; compared with each other. */
const ONE_REQUEST: ReadonlySet<ContenderName> = new Set(['oursOneRequest', 'tusdOneRequest']);
const LIKE_WITH_LIKE =
  'tusd with the bytes within the POST is compared with our PATCH without a HEAD before it.';

/** What is promised of our throughput against that of others. */
const TARGETS: Partial<Record<ContenderName, number>> = { tusd: 1, plainPut: 0.9, directPut: 0.8, s3Tus: 1 };

/** One contender has sent all files once. */
interface Turn {
  /** Until the last answer. */
  readonly answeredSeconds: number;
  /** Until the end of a `sync` after it, because some servers answer before they have written. */
  readonly onDiskSeconds: number;
}

interface Measured {
  readonly shape: Shape;
  readonly contender: UploadContender;
  /** One per round. */
  readonly turns: Turn[];
}

const { values } = parseArgs({
  options: {
    shapes: { type: 'string', default: '1x1GB,100x10MB,1000x10KB' },
    rounds: { type: 'string', default: '3' },
    transfers: { type: 'string', default: '4' },
    contenders: { type: 'string' },
    store: { type: 'string', default: 'folder' },
    json: { type: 'string' },
  },
});
const shapes = values.shapes.split(',').map(parseShape);
const rounds = Number(values.rounds);
const transfers = Number(values.transfers);
const known: readonly ContenderName[] = values.store === 's3' ? S3_CONTENDERS : CONTENDERS;
const wanted = known.filter((name) => values.contenders?.split(',').includes(name) ?? true);

const database = await startBenchDatabase();
let turnCount = 0;
try {
  const { contenders, stop } =
    values.store === 's3'
      ? await startS3Contenders(await startBucket(database.dir), wanted, database.url)
      : await startContenders(wanted, database.dir, database.url);
  try {
    const measured: Measured[] = [];
    for (const shape of shapes) measured.push(...(await measureShape(shape, contenders)));
    await report(summarize(measured), values.json);
  } finally {
    await stop();
  }
} finally {
  await database.stop();
}

async function measureShape(shape: Shape, all: readonly UploadContender[]): Promise<Measured[]> {
  const sourceDir = path.join(database.dir, 'source', shape.name);
  const files = await writeSourceFiles(sourceDir, shape);
  const contenders = all.filter(({ name }) => !ONE_REQUEST.has(name) || shape.fileBytes <= SMALL_FILE_BYTES);
  const measured = contenders.map((contender): Measured => ({ shape, contender, turns: [] }));
  await warmUp(contenders);
  for (let round = 0; round < rounds; round += 1) {
    // Another contender begins in each round.
    for (let at = 0; at < measured.length; at += 1) {
      const next = measured[(at + round) % measured.length];
      if (next === undefined) continue;
      const turn = await timeTurn(next.contender, sourceDir, files);
      next.turns.push(turn);
      console.log(
        `  ${shape.name}, round ${round + 1}: ${turn.answeredSeconds.toFixed(2)} s  ${next.contender.label}`,
      );
    }
  }
  await rm(sourceDir, { recursive: true });
  return measured;
}

async function warmUp(contenders: readonly UploadContender[]): Promise<void> {
  const sourceDir = path.join(database.dir, 'source', 'warm-up');
  const files = await writeSourceFiles(sourceDir, parseShape('20x100KB'));
  for (const contender of contenders) await timeTurn(contender, sourceDir, files);
  await rm(sourceDir, { recursive: true });
}

async function timeTurn(
  contender: UploadContender,
  sourceDir: string,
  files: readonly SourceFile[],
): Promise<Turn> {
  turnCount += 1;
  await quietMachine(files.map((file) => file.path));
  const startedMs = performance.now();
  await contender.send(sourceDir, files, transfers, `turn_${turnCount}`);
  const answeredSeconds = (performance.now() - startedMs) / 1000;
  await quietDisk();
  const onDiskSeconds = (performance.now() - startedMs) / 1000;
  await emptyFolder(contender.dataDir);
  return { answeredSeconds, onDiskSeconds };
}

function summarize(measured: readonly Measured[]): PartResult {
  const measures: Measure[] = [];
  const tables = shapes.map((shape): Table => {
    const ofShape = measured.filter((one) => one.shape === shape);
    const turnsOf = (name: ContenderName) =>
      ofShape.find(({ contender }) => contender.name === name)?.turns ?? [];
    const rows = ofShape.map(({ contender: { name, label }, turns }) => {
      const ours = turnsOf(name === 'tusdOneRequest' ? 'oursOneRequest' : 'ours');
      const seconds = median(turns.map(({ answeredSeconds }) => answeredSeconds));
      const answered = timesAsFast(ours, turns, 'answeredSeconds');
      const onDisk = timesAsFast(ours, turns, 'onDiskSeconds');
      if (name === 'uploader' && ours.length > 0) {
        const compared = `upload ${shape.name}: seconds of \`uploader push\` / of the transfer alone`;
        measures.push({ name: compared, value: answered, better: 'lower', target: null });
      } else if (name !== 'ours' && name !== 'oursOneRequest' && ours.length > 0) {
        const how = name === 'tusdOneRequest' ? 'our throughput in one request a file' : 'our throughput';
        const compared = `upload ${shape.name}: ${how} / ${name}`;
        const target = TARGETS[name] ?? null;
        measures.push({ name: compared, value: answered, better: 'higher', target });
        measures.push({ name: `${compared}, on the disk`, value: onDisk, better: 'higher', target: null });
      }
      return [
        label,
        seconds.toFixed(2),
        ((shape.files * shape.fileBytes) / 1e6 / seconds).toPrecision(3),
        (shape.files / seconds).toPrecision(3),
        formatRatio(answered),
        median(turns.map(({ onDiskSeconds }) => onDiskSeconds)).toFixed(2),
        formatRatio(onDisk),
      ];
    });
    return {
      title: `Upload of ${shape.name}, ${transfers} at a time`,
      columns: ['contender', 'median s', 'MB/s', 'files/s', 'ours is', 's until on the disk', 'ours is'],
      rows,
      notes: turnsOf('tusdOneRequest').length > 0 ? [LIKE_WITH_LIKE] : [],
    };
  });
  const contenders = new Map(measured.map(({ contender }) => [contender.name, contender]));
  const syncs = {
    title: 'What is on the disk for sure when a server has answered',
    columns: ['contender', 'synced'],
    rows: [...contenders.values()].map(({ label, syncs }) => [label, syncs]),
  };
  const raw = measured.map(({ shape, contender, turns }) => ({
    shape: shape.name,
    contender: contender.name,
    turns,
  }));
  return { part: 'upload', tables: [...tables, syncs], measures, raw };
}

/** The median of the ratios of each round, because a disturbance of a round affects both contenders. */
function timesAsFast(ours: readonly Turn[], theirs: readonly Turn[], figure: keyof Turn): number {
  return median(theirs.map((turn, round) => turn[figure] / (ours[round]?.[figure] ?? Number.NaN)));
}

function formatRatio(ratio: number): string {
  return Number.isNaN(ratio) ? '-' : `${ratio.toFixed(2)}x as fast`;
}

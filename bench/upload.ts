/**
 * Our upload service (real process, PostgreSQL, tokens, locks, checkpoints) against a plain Express PUT, the stock
 * @tus/server with @tus/file-store, and tusd: the same files, in turn, in one run; medians and ratios.
 *
 *   node bench/upload.ts [--shapes 1x1GB,100x10MB,1000x10KB] [--rounds 3] [--transfers 4]
 *     [--contenders ours,uploader,plainPut,recordedPut,stockTus,tusd,tusdOneRequest] [--json FILE]
 *
 * Warm: the files to send are in the page cache, all servers run, and the smallest shape has been sent once. Before
 * each turn everything is synced, so that nobody pays for what another left unwritten.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { startBenchDatabase } from './bench-database.ts';
import { report } from './part-result.ts';
import { emptyFolder, quietDisk } from './quiet-disk.ts';
import { quietMachine } from './quiet-machine.ts';
import { CONTENDERS, type UploadContender } from './upload/contender.ts';
import { parseShape, type Shape } from './upload/shape.ts';
import { type SourceFile, writeSourceFiles } from './upload/source-files.ts';
import { startContenders } from './upload/start-contenders.ts';
import { type Measured, summarize, type Turn } from './upload/summary.ts';

/** Up to here it matters how many requests a file takes. */
const SMALL_FILE_BYTES = 1e6;

const { values } = parseArgs({
  options: {
    shapes: { type: 'string', default: '1x1GB,100x10MB,1000x10KB' },
    rounds: { type: 'string', default: '3' },
    transfers: { type: 'string', default: '4' },
    contenders: { type: 'string', default: CONTENDERS.join(',') },
    json: { type: 'string' },
  },
});
const shapes = values.shapes.split(',').map(parseShape);
const rounds = Number(values.rounds);
const transfers = Number(values.transfers);
const wanted = CONTENDERS.filter((name) => values.contenders.split(',').includes(name));

const database = await startBenchDatabase();
let turns = 0;
try {
  const { contenders, stop } = await startContenders(wanted, database.dir, database.url);
  try {
    const measured: Measured[] = [];
    for (const shape of shapes) measured.push(...(await measureShape(shape, contenders)));
    await report(summarize(shapes, measured, transfers), values.json);
  } finally {
    await stop();
  }
} finally {
  await database.stop();
}

async function measureShape(shape: Shape, all: readonly UploadContender[]): Promise<Measured[]> {
  const sourceDir = path.join(database.dir, 'source', shape.name);
  const files = await writeSourceFiles(sourceDir, shape);
  const contenders = all.filter(
    ({ name }) => name !== 'tusdOneRequest' || shape.fileBytes <= SMALL_FILE_BYTES,
  );
  const measured = contenders.map((contender): Measured => ({ shape, contender, turns: [] }));
  await warmUp(contenders);
  for (let round = 0; round < rounds; round += 1) {
    // Each goes first in turn.
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
  turns += 1;
  await quietMachine(files.map((file) => file.path));
  const startedMs = performance.now();
  await contender.send(sourceDir, files, transfers, `turn_${turns}`);
  const answeredSeconds = (performance.now() - startedMs) / 1000;
  await quietDisk();
  const onDiskSeconds = (performance.now() - startedMs) / 1000;
  await emptyFolder(contender.dataDir);
  return { answeredSeconds, onDiskSeconds };
}

/**
 * Our load against other ways to load the same rows into the same table, in turn, on one server. Prints medians and
 * ratios, and writes every figure as JSON.
 *
 *   node bench/load.ts [--rows 5000000] [--rounds 3] [--order random|sorted] [--only ours,serverCopy] [--json FILE]
 *   node bench/load.ts --data attributes …                    rows with a decile, a version and two reason codes
 *   node bench/load.ts --store s3 [--only ours,oursFromS3] …     our load from a bucket of versitygw too
 *
 * Warm: the files are in the page cache and the server runs. Each contender begins after a CHECKPOINT.
 * (b) to (g) run in the first round only, because their ratios are far from 1. (e), (f) and (g) need Python 3 with venv,
 * and install their packages into the work folder with pip, or use the python that BENCH_PYTHON names.
 */
import path from 'node:path';
import { parseArgs } from 'node:util';
import { startBenchDatabase } from './database.ts';
import {
  copyIntoKey,
  type LoadContender,
  type LoadTurn,
  multiRowInserts,
  ours,
  oursDeclared,
  oursFromS3,
  PYTHON_NAMES,
  psqlCopy,
  pythonLoads,
  serverCopy,
  uncheckedLoad,
} from './load-contenders.ts';
import { startPython } from './python.ts';
import { quietMachine } from './quiet-machine.ts';
import { describeMachine, formatMachine, type Machine, median, type PartResult, report } from './result.ts';
import { type DataSet, type KeyOrder, writeCopyText, writeScoreFile } from './score-file.ts';
import { startBucket } from './upload-servers.ts';

/** What is promised of our time against that of others, with random keys. */
const TARGETS: Readonly<Record<string, number>> = { unchecked: 1.05, serverCopy: 0.85, copyIntoKey: 0.3 };
const PEAK_TARGET_MB = 200;

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '5000000' },
    rounds: { type: 'string', default: '3' },
    order: { type: 'string', default: 'random' },
    only: { type: 'string' },
    data: { type: 'string', default: 'plain' },
    store: { type: 'string', default: 'folder' },
    json: { type: 'string' },
  },
});
const rows = Number(values.rows);
const rounds = Number(values.rounds);
const order: KeyOrder = values.order === 'sorted' ? 'sorted' : 'random';
const set: DataSet = values.data === 'attributes' ? 'attributes' : 'plain';
const what = set === 'plain' ? `${order} keys` : `${order} keys, with attributes`;

const database = await startBenchDatabase();
try {
  const machine = await describeMachine(database.version);
  console.log(formatMachine(machine));
  const jsonPath = path.join(database.dir, 'scores.jsonl');
  const textPath = path.join(database.dir, 'rows.txt');
  const file = await writeScoreFile(jsonPath, rows, order, set);
  await writeCopyText(textPath, rows, order, set);
  const data = { jsonPath, textPath, file, set };
  console.log(`${rows} rows (${file.bytes} bytes), ${what}, ${rounds} rounds`);

  const wanted = values.only?.split(',');
  const isWanted = ({ name }: LoadContender) => wanted === undefined || wanted.includes(name);
  const often = [ours(database, data), uncheckedLoad(database, data), serverCopy(database, data)];
  if (set === 'attributes') often.splice(1, 0, oursDeclared(database, data));
  const once = [copyIntoKey(database, data)];
  if (set === 'plain') once.push(multiRowInserts(database, data));
  if (values.store === 's3') often.splice(1, 0, oursFromS3(database, data, await startBucket(database.dir)));
  if (machine.psql !== null) once.unshift(psqlCopy(database, data));
  if (wanted === undefined || PYTHON_NAMES.some((name) => wanted.includes(name))) {
    const python = await startPython(database.dir);
    if (typeof python === 'string') console.log(python);
    else once.push(...pythonLoads(database, data, python));
  }

  const turns = new Map<LoadContender, LoadTurn[]>();
  for (let round = 1; round <= rounds; round += 1) {
    for (const contender of [...often, ...(round === 1 ? once : [])].filter(isWanted)) {
      await database.client.query('CHECKPOINT');
      await quietMachine([jsonPath, textPath]);
      const turn = await contender.run(round);
      turns.set(contender, [...(turns.get(contender) ?? []), turn]);
      console.log(`  round ${round}: ${turn.seconds.toFixed(2)} s  ${contender.label}`);
    }
  }
  await report(summarize(machine, file.bytes, turns), values.json);
} finally {
  await database.stop();
}

function summarize(
  machine: Machine,
  bytes: number,
  turns: ReadonlyMap<LoadContender, readonly LoadTurn[]>,
): PartResult {
  const ourTurns = [...turns].find(([{ name }]) => name === 'ours')?.[1] ?? [];
  const results = [...turns].map(([{ name, label }, list]) => {
    // Per row: a contender may load only a part of the file.
    const ratios = list.map(
      ({ seconds, rows: loaded = rows }, round) =>
        (ourTurns[round]?.seconds ?? Number.NaN) / rows / (seconds / loaded),
    );
    return { name, label, turns: list, ratio: median(ratios) };
  });
  const peakResidentMb = Math.max(0, ...ourTurns.map((turn) => turn.peakResidentMb ?? 0));
  const table = {
    title: `Load of ${rows.toLocaleString('en')} rows, ${what}`,
    columns: ['contender', 'median s', 'rows/s', 'ours / this', 'COPY s', 'key s', 'COMMIT and the rest s'],
    rows: results.map(({ label, turns, ratio }) => {
      const seconds = median(turns.map((turn) => turn.seconds));
      const rate = Math.round((turns[0]?.rows ?? rows) / seconds).toLocaleString('en');
      return [label, seconds.toFixed(2), rate, ratio.toFixed(2), ...phaseColumns(turns)];
    }),
    notes: [`Peak resident memory of the loader: ${peakResidentMb} MB.`],
  };
  const ratios = results
    .filter(({ name }) => name !== 'ours')
    .map(({ name, ratio }) => ({
      name: `load, ${what}: our seconds / ${name}`,
      value: ratio,
      better: 'lower' as const,
      target: order === 'random' && set === 'plain' ? (TARGETS[name] ?? null) : null,
    }));
  const peak = {
    name: `load, ${what}: peak resident MB of the loader`,
    value: peakResidentMb,
    better: 'lower' as const,
    target: PEAK_TARGET_MB,
  };
  const raw = { machine, rows, order, set, bytes, peakResidentMb, results };
  return { part: 'load', tables: [table], measures: [...ratios, peak], raw };
}

function phaseColumns(turns: readonly LoadTurn[]): string[] {
  const known = turns.flatMap(({ seconds, phases }) =>
    phases === undefined ? [] : [{ seconds, ...phases }],
  );
  if (known.length === 0) return ['-', '-', '-'];
  return [
    median(known.map(({ copySeconds }) => copySeconds)),
    median(known.map(({ keySeconds }) => keySeconds)),
    median(known.map(({ seconds, copySeconds, keySeconds }) => seconds - copySeconds - keySeconds)),
  ].map((value) => value.toFixed(2));
}

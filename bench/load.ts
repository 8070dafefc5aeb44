/**
 * Our load against other ways to bring the same rows into the same shape of table, in turn, on one server:
 * prints medians and ratios, and writes every figure as JSON.
 *
 *   node bench/load.ts [--rows 5000000] [--rounds 3] [--order random|sorted] [--only ours,serverCopy] [--json FILE]
 *
 * Warm: the files are in the page cache and the server runs; each contender begins after a CHECKPOINT.
 * (c) and (d) are slow and run in the first round only.
 */
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { startBenchDatabase } from './bench-database.ts';
import {
  copyIntoKey,
  type LoadContender,
  multiRowInserts,
  ours,
  psqlCopy,
  serverCopy,
  uncheckedLoad,
} from './load-contenders.ts';
import { describeMachine } from './machine.ts';
import { median } from './median.ts';
import { quietMachine } from './quiet-machine.ts';
import { type KeyOrder, writeCopyText, writeScoreFile } from './score-file.ts';

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '5000000' },
    rounds: { type: 'string', default: '3' },
    order: { type: 'string', default: 'random' },
    only: { type: 'string' },
    json: { type: 'string' },
  },
});
const rows = Number(values.rows);
const rounds = Number(values.rounds);
const order: KeyOrder = values.order === 'sorted' ? 'sorted' : 'random';

const database = await startBenchDatabase();
try {
  const machine = await describeMachine(database.version);
  console.log(
    Object.entries(machine)
      .map(([name, value]) => `${name}: ${value ?? 'none'}`)
      .join('; '),
  );
  const jsonPath = path.join(database.dir, 'scores.jsonl');
  const textPath = path.join(database.dir, 'rows.txt');
  const file = await writeScoreFile(jsonPath, rows, order);
  await writeCopyText(textPath, rows, order);
  const data = { jsonPath, textPath, file };
  console.log(`${rows} rows (${file.bytes} bytes), ${order} keys, ${rounds} rounds`);

  const wanted = values.only?.split(',');
  const isWanted = ({ name }: LoadContender) => wanted === undefined || wanted.includes(name);
  const quick = [ours(database, data), uncheckedLoad(database, data), serverCopy(database, data)];
  if (machine.psql !== null) quick.push(psqlCopy(database, data));
  const slow = [copyIntoKey(database, data), multiRowInserts(database, data)];

  const seconds = new Map<LoadContender, number[]>();
  let peakResidentMb = 0;
  for (let round = 1; round <= rounds; round += 1) {
    for (const contender of [...quick, ...(round === 1 ? slow : [])].filter(isWanted)) {
      await database.client.query('CHECKPOINT');
      await quietMachine();
      const result = await contender.run(round);
      peakResidentMb = Math.max(peakResidentMb, result.peakResidentMb ?? 0);
      seconds.set(contender, [...(seconds.get(contender) ?? []), result.seconds]);
      console.log(`  round ${round}: ${result.seconds.toFixed(2)} s  ${contender.label}`);
    }
  }

  const ourSeconds = [...seconds].find(([{ name }]) => name === 'ours')?.[1] ?? [];
  console.log(
    `\n| load of ${rows} rows, ${order} keys | median s | rows/s | ours / this |\n|---|---|---|---|`,
  );
  const results = [...seconds].map(([{ name, label }, list]) => {
    const ratio = median(list.map((value, round) => (ourSeconds[round] ?? Number.NaN) / value));
    console.log(
      `| ${label} | ${median(list).toFixed(2)} | ${Math.round(rows / median(list)).toLocaleString('en')} | ${ratio.toFixed(2)} |`,
    );
    return { name, label, seconds: list, ratio };
  });
  console.log(`Peak resident memory of the loader: ${peakResidentMb} MB.`);
  if (values.json !== undefined) {
    await writeFile(
      values.json,
      `${JSON.stringify({ machine, rows, order, bytes: file.bytes, peakResidentMb, results }, null, 2)}\n`,
    );
  }
} finally {
  await database.stop();
}

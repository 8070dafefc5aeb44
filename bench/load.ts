/**
 * Our load against other ways to bring the same rows into the same shape of table, in turn, on one server:
 * prints medians and ratios, and writes every figure as JSON.
 *
 *   node bench/load.ts [--rows 5000000] [--rounds 3] [--order random|sorted] [--only ours,serverCopy] [--json FILE]
 *
 * Warm: the files are in the page cache and the server runs; each contender begins after a CHECKPOINT.
 * (b), (c) and (d) run in the first round only: no narrow ratio hangs on them.
 */
import path from 'node:path';
import { parseArgs } from 'node:util';
import { startBenchDatabase } from './bench-database.ts';
import { summarize } from './load/summary.ts';
import {
  copyIntoKey,
  type LoadContender,
  type LoadTurn,
  multiRowInserts,
  ours,
  psqlCopy,
  serverCopy,
  uncheckedLoad,
} from './load-contenders.ts';
import { describeMachine } from './machine.ts';
import { median } from './median.ts';
import { report } from './part-result.ts';
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
  const often = [ours(database, data), uncheckedLoad(database, data), serverCopy(database, data)];
  const once = [copyIntoKey(database, data), multiRowInserts(database, data)];
  if (machine.psql !== null) once.unshift(psqlCopy(database, data));

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

  const ourTurns = [...turns].find(([{ name }]) => name === 'ours')?.[1] ?? [];
  const results = [...turns].map(([{ name, label }, list]) => {
    const ratios = list.map(({ seconds }, round) => (ourTurns[round]?.seconds ?? Number.NaN) / seconds);
    return { name, label, turns: list, ratio: median(ratios) };
  });
  const peakResidentMb = Math.max(0, ...ourTurns.map((turn) => turn.peakResidentMb ?? 0));
  await report(summarize({ machine, rows, order, bytes: file.bytes, peakResidentMb, results }), values.json);
} finally {
  await database.stop();
}

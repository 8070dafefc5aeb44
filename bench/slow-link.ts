/**
 * What compression gains: a push until the service has all bytes, over a line of 100 Mbit/s with 20 ms and over the
 * loopback, for each value of `--compress`. Hashing and the start of the program count.
 *
 *   node bench/slow-link.ts [--megabytes 500] [--rounds 3] [--files 1] [--json FILE]
 */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { watchPeaks } from '../e2e/support/programs.ts';
import { startSlowLink } from '../e2e/support/proxies.ts';
import type { TestSystem } from '../e2e/support/test-system.ts';
import { withBenchSystem } from './database.ts';
import { type Measure, median, type PartResult, report } from './result.ts';
import { writeScoreFile } from './score-file.ts';

const BYTES_PER_SECOND = 100e6 / 8;
const ROUND_TRIP_MS = 20;
const ROW_BYTES = 38;
const MODES = ['off', 'auto', 'zstd'] as const;
type Mode = (typeof MODES)[number];
type Line = 'loopback' | '100 Mbit/s, 20 ms';

const { values } = parseArgs({
  options: {
    megabytes: { type: 'string', default: '500' },
    rounds: { type: 'string', default: '3' },
    files: { type: 'string', default: '1' },
    json: { type: 'string' },
  },
});
const rounds = Number(values.rounds);
let pushed = 0;

interface Push {
  readonly line: Line;
  readonly mode: Mode;
  readonly seconds: number;
  readonly bytesOnWire: number;
  readonly uploaderMb: number;
  readonly serviceMb: number;
}

await withBenchSystem(async (system) => {
  const dir = join(system.workDir, 'source');
  await mkdir(dir);
  const files = Number(values.files);
  const rows = Math.round((Number(values.megabytes) * 1e6) / ROW_BYTES / files);
  let bytes = 0;
  for (let n = 0; n < files; n += 1)
    bytes += (await writeScoreFile(join(dir, `${n}.jsonl`), rows + n, 'random')).bytes;
  const service = await system.startService();
  const slow = await startSlowLink(service.port, {
    bytesPerSecond: BYTES_PER_SECOND,
    roundTripMs: ROUND_TRIP_MS,
  });
  const pushes: Push[] = [];
  for (let round = 1; round <= rounds; round += 1) {
    for (const mode of MODES) pushes.push(await push(system, service, service.url, 'loopback', mode, dir));
    if (round === 1)
      for (const mode of MODES)
        pushes.push(await push(system, service, slow.url, '100 Mbit/s, 20 ms', mode, dir));
  }
  await slow.stop();
  await report(summarize(pushes, bytes), values.json);
});

async function push(
  system: TestSystem,
  service: { readonly pid: number },
  url: string,
  line: Line,
  mode: Mode,
  dir: string,
): Promise<Push> {
  pushed += 1;
  const model = `bench_${pushed}`; // another model shares no upload with this one
  const stateDir = join(system.workDir, 'state');
  const startedMs = performance.now();
  const running = system.startUploader(url, [
    'push',
    dir,
    ...['--model', model, '--run', 'r', '--no-wait', '--json', '--state-dir', stateDir, '--compress', mode],
  ]);
  const watch = watchPeaks({ uploader: running.pid, service: service.pid });
  const { code, stdout, stderr } = await running.ended;
  const seconds = (performance.now() - startedMs) / 1000;
  watch.stop();
  if (code !== 0) throw new Error(`The push ended with ${code}:\n${stderr}`);
  await rm(stateDir, { recursive: true, force: true });
  const { bytesOnWire } = JSON.parse(stdout).runs[0] as { bytesOnWire: number };
  console.log(
    `  ${line}, ${mode}: ${seconds.toFixed(2)} s. ${stderr
      .split('\n')
      .filter((text) => /compressed/.test(text))
      .join(' ')}`,
  );
  const { uploader: uploaderMb, service: serviceMb } = watch.peaks;
  return { line, mode, seconds, bytesOnWire, uploaderMb, serviceMb };
}

function summarize(pushes: readonly Push[], bytes: number): PartResult {
  const of = (line: Line, mode: Mode) => pushes.filter((push) => push.line === line && push.mode === mode);
  const secondsOf = (line: Line, mode: Mode) => median(of(line, mode).map(({ seconds }) => seconds));
  const lines: readonly Line[] = ['100 Mbit/s, 20 ms', 'loopback'];
  const measures: Measure[] = [
    {
      name: 'compression: push at 100 Mbit/s with `auto` / with `off`',
      value: secondsOf('100 Mbit/s, 20 ms', 'auto') / secondsOf('100 Mbit/s, 20 ms', 'off'),
      better: 'lower',
      target: 0.3,
    },
    {
      name: 'compression: push over the loopback with `auto` / with `off`',
      value: secondsOf('loopback', 'auto') / secondsOf('loopback', 'off'),
      better: 'lower',
      target: 1.03,
    },
    {
      name: 'compression: peak resident MB of the uploader',
      value: Math.max(...pushes.map(({ uploaderMb }) => uploaderMb)),
      better: 'lower',
      target: 200,
    },
  ];
  const table = {
    title: `Push of ${(bytes / 1e6).toFixed(0)} MB until the service has it (\`--no-wait\`)`,
    columns: ['line', '--compress', 'median s', 'of `off`', 'MB on the wire', 'uploader MB', 'service MB'],
    rows: lines.flatMap((line) =>
      MODES.map((mode) => [
        line,
        mode,
        secondsOf(line, mode).toFixed(2),
        `${(secondsOf(line, mode) / secondsOf(line, 'off')).toFixed(2)}x`,
        (median(of(line, mode).map((push) => push.bytesOnWire)) / 1e6).toFixed(1),
        String(Math.max(...of(line, mode).map((push) => push.uploaderMb))),
        String(Math.max(...of(line, mode).map((push) => push.serviceMb))),
      ]),
    ),
  };
  return { part: 'link', tables: [table], measures, raw: pushes };
}

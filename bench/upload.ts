/**
 * Our upload service (real process, PostgreSQL, locks, checkpoints) against a plain Express PUT piped to a file
 * that syncs once at its end, and against the stock @tus/server with @tus/file-store. One request each, in turn,
 * in one run; prints MB/s and the ratios.
 *
 *   node bench/upload.ts [--mb 1024] [--rounds 5]
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { migrateToLatest } from 'db-schema';
import { startPostgres } from 'local-postgres';
import { type BenchServer, startOurs, startPlainPut, startStockTus } from './upload-servers.ts';

const { values } = parseArgs({
  options: { mb: { type: 'string', default: '1024' }, rounds: { type: 'string', default: '5' } },
});
const sizeBytes = Number(values.mb) * 1024 ** 2;
const block = randomBytes(1024 ** 2);

const dir = await mkdtemp(path.join(process.env.BENCH_DIR ?? tmpdir(), 'upload-bench-'));
const postgres = await startPostgres({ dataDir: path.join(dir, 'postgres') });
const servers: BenchServer[] = [];
try {
  await migrateToLatest(postgres.superuserUrl);
  for (const name of ['ours', 'plain', 'stock']) await mkdir(path.join(dir, name));
  servers.push(
    await startOurs(path.join(dir, 'ours'), postgres.superuserUrl),
    await startPlainPut(path.join(dir, 'plain')),
    await startStockTus(path.join(dir, 'stock')),
  );
  const seconds = new Map<string, number[]>(servers.map(({ name }) => [name, []]));
  for (let round = 0; round <= Number(values.rounds); round += 1) {
    // Each goes first in turn; the first round only warms up.
    for (let turn = 0; turn < servers.length; turn += 1) {
      const server = servers[(turn + round) % servers.length];
      if (server === undefined) continue;
      const target = await server.prepare(sizeBytes);
      const startedMs = performance.now();
      await send(target);
      if (round > 0) seconds.get(server.name)?.push((performance.now() - startedMs) / 1000);
      await server.clean();
    }
  }
  console.log(`${values.mb} MiB in one request, ${values.rounds} rounds, medians`);
  const ours = seconds.get('ours') ?? [];
  for (const { name } of servers) {
    const its = seconds.get(name) ?? [];
    const ratio = median(its.map((time, round) => time / (ours[round] ?? Number.NaN)));
    console.log(
      `${name.padEnd(6)} ${median(its).toFixed(2)} s  ${(Number(values.mb) / median(its)).toFixed(0)} MiB/s` +
        `  ours is ${ratio.toFixed(2)}x as fast  (${its.map((time) => time.toFixed(2)).join(' ')})`,
    );
  }
} finally {
  for (const server of servers) await server.stop();
  await postgres.stop();
  await rm(dir, { recursive: true, force: true });
}

/** The same bytes from this process, as fast as they are taken. */
async function send({ url, method, headers }: Awaited<ReturnType<BenchServer['prepare']>>): Promise<void> {
  const req = request(url, { method, headers: { ...headers, 'content-length': sizeBytes } });
  const answered = once(req, 'response');
  for (let sentBytes = 0; sentBytes < sizeBytes; sentBytes += block.length) {
    if (!req.write(block.subarray(0, Math.min(block.length, sizeBytes - sentBytes))))
      await once(req, 'drain');
  }
  req.end();
  const [response] = await answered;
  response.resume();
  await once(response, 'end');
  if (response.statusCode !== 204) throw new Error(`${method} ${url} answered ${response.statusCode}.`);
}

function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';

const EVERY_MS = 40;

export interface OffsetLog {
  /** @returns how many offsets were compared. @throws when one was more than its file holds, or went back. */
  check(): number;
  stop(): void;
}

/** Compares what is recorded of every upload with its file, all the time: never more than is there, never less than before. */
export function watchOffsets(databaseUrl: string, dataDir: string): OffsetLog {
  const faults: string[] = [];
  const before = new Map<string, number>();
  let compared = 0;
  let isStopped = false;
  const compare = async () => {
    for (const { upload_id, file, offset_bytes } of await recordedOffsets(databaseUrl)) {
      const offset = Number(offset_bytes);
      // A file that retention has removed since is told by the next reading of its record.
      const size = await stat(join(dataDir, file)).then(
        (file) => file.size,
        () => undefined,
      );
      if (size !== undefined && size < offset) faults.push(`${upload_id}: ${offset} recorded, ${size} there`);
      if (offset < (before.get(upload_id) ?? 0)) faults.push(`${upload_id}: went back to ${offset}`);
      before.set(upload_id, offset);
      compared += 1;
    }
  };
  const loop = async () => {
    while (!isStopped) {
      await compare().catch(() => {}); // the server is down
      await delay(EVERY_MS);
    }
  };
  void loop();
  return {
    check() {
      if (faults.length > 0) throw new Error(`Recorded offsets were wrong: ${faults.slice(0, 3).join('; ')}`);
      return compared;
    },
    stop() {
      isStopped = true;
    },
  };
}

async function recordedOffsets(
  databaseUrl: string,
): Promise<{ upload_id: string; file: string; offset_bytes: string }[]> {
  const client = new pg.Client({ connectionString: databaseUrl, application_name: 'offsets' });
  client.on('error', () => {});
  await client.connect();
  try {
    const { rows } = await client.query(
      `SELECT upload_id, coalesce(file, upload_id) AS file, offset_bytes FROM ingest.upload WHERE offset_bytes > 0 AND removed_at IS NULL
       ORDER BY created_at DESC LIMIT 5`,
    );
    return rows;
  } finally {
    await client.end().catch(() => {});
  }
}

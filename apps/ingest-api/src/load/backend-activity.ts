import type { KeyBuild } from 'db-schema';
import type pg from 'pg';

export interface BackendActivity {
  /** A text that changes while the backend gets on with its statement. */
  readonly sign: string;
  /** What it waits for, as `pg_stat_activity` names it; undefined while it works. */
  readonly waitsFor: string | undefined;
  readonly isWorking: boolean;
  /** The index that it builds, if it builds one. */
  readonly index: IndexProgress | undefined;
}

export type IndexProgress = Pick<KeyBuild, 'step' | 'done' | 'total'>;

/** What PostgreSQL tells of a backend and of the index it builds; undefined when it has gone. */
export async function backendActivity(
  pool: pg.Pool,
  backendPid: number,
): Promise<BackendActivity | undefined> {
  const client = await pool.connect();
  let failed = true;
  try {
    // A backend is shown to the login that it came in by, not to the role that both have taken.
    await client.query('BEGIN; SET LOCAL ROLE NONE');
    const { rows } = await client.query<ActivityRow>(
      `SELECT a.state, p.phase, p.blocks_done, p.blocks_total, p.tuples_done, p.tuples_total,
              a.wait_event_type || '/' || a.wait_event AS wait,
              concat_ws(' ', a.state, a.wait_event_type, a.wait_event, a.query_start,
                        p.phase, p.blocks_done, p.tuples_done) AS sign
       FROM pg_stat_activity a LEFT JOIN pg_stat_progress_create_index p USING (pid)
       WHERE a.pid = $1`,
      [backendPid],
    );
    await client.query('COMMIT');
    failed = false;
    const [row] = rows;
    if (row === undefined) return undefined;
    return {
      sign: row.sign,
      waitsFor: row.wait ?? undefined,
      isWorking: row.state === 'active' && row.wait === null,
      index: indexProgress(row),
    };
  } finally {
    client.release(failed);
  }
}

interface ActivityRow {
  readonly sign: string;
  readonly state: string;
  readonly wait: string | null;
  readonly phase: string | null;
  readonly blocks_done: number;
  readonly blocks_total: number;
  readonly tuples_done: number;
  readonly tuples_total: number;
}

/** The phases of a B-tree (PostgreSQL's manual, "CREATE INDEX Progress Reporting"); others have nothing to tell. */
function indexProgress(row: ActivityRow): IndexProgress | undefined {
  switch (row.phase) {
    case 'building index: scanning table':
      return { step: 'scanning', done: row.blocks_done, total: row.blocks_total };
    case 'building index: sorting live tuples':
    case 'building index: sorting dead tuples':
      return { step: 'sorting', done: 0, total: 0 };
    case 'building index: loading tuples in tree':
      return { step: 'writing', done: row.tuples_done, total: row.tuples_total };
    default:
      return undefined;
  }
}

/** True when it waits for the next message of its client, i.e. of the loader. */
export function waitsForUs({ waitsFor }: BackendActivity): boolean {
  return waitsFor === 'Client/ClientRead';
}

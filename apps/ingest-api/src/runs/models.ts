import type { Database } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Contract, ModelName } from 'wire';
import { IngestError, sqlStateOf } from '../errors.ts';
import { type DueRun, dueOf } from './due.ts';
import { recordAudit } from './history.ts';
import type { Query } from './transitions.ts';

/** A model as the API answers it. `publicationId` grows with each publication, and is its ETag. */
export interface ModelView {
  readonly model: ModelName;
  readonly contract: Contract;
  readonly due: DueRun | null;
  readonly current: CurrentRun | null;
  readonly createdAt: Date;
}

interface CurrentRun {
  readonly run: string;
  readonly revision: number;
  readonly as_of: Date;
  readonly publishedAt: Date;
  readonly publishedBy: string;
  readonly rows: number | null;
  readonly publicationId: number;
}

interface ModelFilter {
  /** null covers every model. */
  readonly models: readonly string[] | null;
  /** The last name of the page before. */
  readonly after?: string | undefined;
  readonly limit: number;
}

/** A page of models ends when their contracts are longer; one may have 128 KiB. */
const PAGE_CONTRACT_CHARACTERS = 128 * 1024;

interface ModelPage {
  readonly models: readonly ModelView[];
  /** The last name of the page, if more models follow. */
  readonly nextCursor: string | null;
}

/** Models by name. */
export async function listModels(
  db: Kysely<Database>,
  { models, after = '', limit }: ModelFilter,
): Promise<ModelPage> {
  const { rows } = await sql<
    Omit<ModelView, 'current' | 'due'> &
      Partial<CurrentRun> & { dueAsOf: Date | null; dueAt: Date; overdue: boolean; more: boolean }
  >`
    SELECT m.name AS model, m.contract, m.created_at AS "createdAt", r.run_key AS run, r.revision, r.as_of,
           d.as_of AS "dueAsOf", d.at AS "dueAt", d.at < now() AS overdue, p.published_at AS "publishedAt", p.published_by AS "publishedBy", r.row_count AS rows,
           p.publication_id AS "publicationId", m.place < m.found AS more
    FROM (
      SELECT *, row_number() OVER (ORDER BY name) AS place, count(*) OVER () AS found,
             sum(length(contract::text)) OVER (ORDER BY name) - length(contract::text) AS characters
      FROM (
        SELECT * FROM ingest.model
        WHERE (${models}::text[] IS NULL OR name = ANY (${models}::text[])) AND name > ${after}
        ORDER BY name LIMIT ${limit + 1}) page) m
    LEFT JOIN LATERAL (
      SELECT * FROM ingest.publication p WHERE p.model = m.name ORDER BY publication_id DESC LIMIT 1) p ON true
    LEFT JOIN ingest.run_revision r ON r.revision_id = p.revision_id
    CROSS JOIN LATERAL (${dueOf(sql.ref('r.as_of'))}) d
    WHERE m.place <= ${limit} AND m.characters < ${PAGE_CONTRACT_CHARACTERS}
    ORDER BY m.name`.execute(db);
  const last = rows.at(-1);
  return {
    models: rows.map(({ model, contract, createdAt, dueAsOf, dueAt, overdue, more: _, ...current }) => ({
      model,
      contract,
      due: dueAsOf === null ? null : { as_of: dueAsOf, at: dueAt, overdue },
      current: current.publicationId === null ? null : (current as CurrentRun),
      createdAt,
    })),
    nextCursor: last?.more === true ? last.model : null,
  };
}

/** @throws a 404 for a model that has neither run nor contract. */
export async function findModel(db: Kysely<Database>, model: ModelName): Promise<ModelView> {
  const [found] = (await listModels(db, { models: [model], limit: 1 })).models;
  if (found !== undefined) return found;
  throw new IngestError(
    'not_found',
    `There is no model "${model}"; its first push, or PUT /v1/models/${model}, creates it.`,
  );
}

/**
 * Replaces a model's contract, and creates the model if it is new. A load reads it when it starts (limits)
 * and when it publishes (gates). The audit log records a contract that differs from the one before.
 *
 * @param admit called before a change; rejects when the actor may not make another one.
 */
export async function setContract(
  db: Kysely<Database>,
  model: ModelName,
  contract: Contract,
  actor: string,
  admit: (trx: Transaction<Database>) => Promise<void> = async () => {},
): Promise<void> {
  await db.transaction().execute(async (trx) => {
    const isChange = !(await hasContract(trx, model, contract));
    if (isChange) await admit(trx);
    await trx
      .insertInto('ingest.model')
      .values({ name: model, contract: JSON.stringify(contract) })
      .onConflict((conflict) => conflict.column('name').doUpdateSet({ contract: JSON.stringify(contract) }))
      .execute()
      .catch((error: unknown) => {
        throw viewFault(error);
      });
    if (isChange) await recordAudit(trx, { actor, action: 'set_contract', model, detail: { contract } });
  });
}

/** The row of the model stays locked until the transaction ends. */
async function hasContract(
  trx: Transaction<Database>,
  model: ModelName,
  contract: Contract,
): Promise<boolean> {
  const { rows } = await sql<{ isSame: boolean }>`
    SELECT contract = ${JSON.stringify(contract)}::jsonb AS "isSame"
    FROM ingest.model WHERE name = ${model} FOR NO KEY UPDATE`.execute(trx);
  return rows[0]?.isSame === true;
}

const OBJECT_IN_USE = '55006';
const DEPENDENT_OBJECTS = '2BP01';

/** The database creates the typed view of a model with its contract (`set_typed_view`), and may have to refuse. */
function viewFault(cause: unknown): unknown {
  const sqlState = sqlStateOf(cause);
  if (!(cause instanceof Error)) return cause;
  if (sqlState === OBJECT_IN_USE)
    return new IngestError(
      'database_unavailable',
      `${cause.message} Nothing was changed; set the contract again.`,
      { cause },
    );
  if (sqlState !== DEPENDENT_OBJECTS) return cause;
  const remedy =
    'Drop these objects and set the contract again; or keep the declared attributes, with their order and types, and add new ones at the end.';
  return new IngestError('conflict', `${cause.message} Nothing was changed. ${remedy}`, { cause });
}

/**
 * The contract of a model, whose row stays locked until the transaction ends: its publications happen one
 * after the other.
 */
export async function lockModel(query: Query, model: ModelName): Promise<Contract> {
  const [row] = await query<{ contract: Contract }>(
    'SELECT contract FROM ingest.model WHERE name = $1 FOR NO KEY UPDATE',
    [model],
  );
  if (row === undefined) throw new IngestError('not_found', `There is no model "${model}".`);
  return row.contract;
}

/** The contract of a model; a model that does not exist asks for nothing. */
export async function contractOf(query: Query, model: ModelName): Promise<Contract> {
  const [row] = await query<{ contract: Contract }>('SELECT contract FROM ingest.model WHERE name = $1', [
    model,
  ]);
  return row?.contract ?? {};
}

/** Bad lines that a run may have when its model's contract does not say. */
export const MAX_REJECTED_LINES_DEFAULT = 0;
/** Loaded revisions that are kept beside the published one when the contract does not say. */
export const KEEP_REVISIONS_DEFAULT = 3;

/**
 * The most that a run may have when its model's contract does not say: all models share PostgreSQL's disk.
 */
export interface RunLimits {
  readonly maxRows: number;
  /** Of lines, decompressed. */
  readonly maxBytes: number;
}

export function limitsOf(contract: Contract, defaults: RunLimits): RunLimits {
  return { maxRows: contract.maxRows ?? defaults.maxRows, maxBytes: contract.maxBytes ?? defaults.maxBytes };
}

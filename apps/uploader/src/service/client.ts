import { readFileSync } from 'node:fs';
import * as wire from 'wire';
import { EXIT_CODE_OF, type ExitCode, type FilePage, type RunState } from 'wire';
import { z } from 'zod';
import { type ExchangeResponse, exchange, useTlsIdentity } from '../http/exchange.ts';
import { HttpFault } from '../http/http-fault.ts';
import { type RetryOptions, retrying } from '../http/retry.ts';
import { refusalOf } from '../http/verdict.ts';
import { currentToken, type Settings } from '../settings/settings.ts';

/**
 * What the uploader acts on or shows, of the answers that `wire` defines. The service may add fields: they
 * are ignored.
 */
const OF_BOTH = {
  model: true,
  run: true,
  revision: true,
  state: true,
  rows: true,
  as_of: true,
  shown: true,
  files: true,
  bytes: true,
  load: true,
  error: true,
  pushedBy: true,
} as const;

export const runSchema = wire.run.pick({
  ...OF_BOTH,
  missing: true,
  progress: true,
  rejects: true,
  gates: true,
});

const runSummarySchema = wire.runSummary.pick({ ...OF_BOTH, declaredAt: true });

const runListSchema = wire.runList.extend({ runs: runSummarySchema.array() });
const filePageSchema = wire.filePage;
const historySchema = wire.history.pick({ events: true });
const modelSchema = wire.model.pick({ model: true, current: true });

/** A service of an earlier version has no such list. */
const overdueSchema = z.object({ overdue: wire.status.shape.overdue.default([]) });

export type Run = z.infer<typeof runSchema>;
export type RunSummary = z.infer<typeof runSummarySchema>;
export type Shown = NonNullable<Run['shown']>;
export type Model = z.infer<typeof modelSchema>;
export type OverdueRun = z.infer<typeof overdueSchema>['overdue'][number];

/** The exit code for a run in this state; null: it has not ended yet. */
export const EXIT_CODE_OF_STATE: Record<RunState, ExitCode | null> = {
  receiving: null,
  queued: null,
  loading: null,
  published: 0,
  superseded: 0,
  held: EXIT_CODE_OF.data,
  failed: EXIT_CODE_OF.data,
  cancelled: EXIT_CODE_OF.data,
};

/** The address of the service, with the headers that identify the caller. */
export function serviceAddress(settings: Settings): ServiceAddress {
  useTlsIdentity(settings);
  const { url, stallTimeoutMs } = settings;
  let { token } = settings;
  return {
    url,
    get token() {
      token = currentToken(settings.tokenSource, token);
      return token;
    },
    stallTimeoutMs,
    userAgent: `uploader/${uploaderVersion()}`,
  };
}

/** `token` is read again for each request: its file may have changed. */
export type ServiceAddress = {
  readonly url: string;
  readonly token: string;
  readonly stallTimeoutMs: number;
  readonly userAgent: string;
};
type ManifestFile = { name: string; bytes: number; sha256: string; lines: number };
export type Manifest = { files: ManifestFile[]; as_of?: string; source: Record<string, unknown> };
export type Retries = Omit<RetryOptions, 'asked' | 'madeProgress'>;
type Answer<T> = { headers: ExchangeResponse['headers']; value: T };
type Request = {
  method: 'GET' | 'PUT' | 'POST' | 'DELETE';
  path: string;
  body?: unknown;
  headers?: Record<string, string>;
  /** How many stall time-outs the answer may take. */
  takes?: number;
  inSlot?: InSlot;
};
/** Does one try when it is its turn. It does not include the pauses between tries: they may last for hours. */
export type InSlot = <T>(oneTry: () => Promise<T>) => Promise<T>;

/**
 * The service creates an upload for every file before it answers, which takes time for thousands of files.
 */
const DECLARING_TAKES = 5;
const PAGE_FILES = 1000;

export function commonHeaders(service: ServiceAddress): Record<string, string> {
  return { Authorization: `Bearer ${service.token}`, 'User-Agent': service.userAgent };
}

/** Makes the run equal to the manifest; safe to repeat. */
export async function declareRun(
  service: ServiceAddress,
  model: string,
  run: string,
  manifest: Manifest,
  inSlot: InSlot,
  retries: Retries,
): Promise<Run> {
  const request: Request = {
    method: 'PUT',
    path: runPath(model, run),
    body: manifest,
    takes: DECLARING_TAKES,
    inSlot,
  };
  return ask(service, request, runSchema, retries);
}

function getRun(service: ServiceAddress, model: string, run: string, retries: Retries): Promise<Run> {
  return ask(service, { method: 'GET', path: runPath(model, run) }, runSchema, retries);
}

/**
 * Why a cancelled revision that is the newest of its run was cancelled. A history that does not say it counts as withdrawn:
 * what a person withdrew is not pushed again.
 */
export async function readCancellation(
  service: ServiceAddress,
  { model, run, revision }: Run,
  retries: Retries,
): Promise<'expired' | { withdrawn: string }> {
  const request: Request = { method: 'GET', path: `${runPath(model, run)}/history` };
  const { events } = await ask(service, request, historySchema, retries);
  const event = events.find(
    (one) => one.revision === revision && (one.action === 'withdraw' || one.action === 'expire'),
  );
  if (event?.action === 'expire') return 'expired';
  const by = event === undefined ? '' : ` by ${event.actor} at ${event.at}`;
  const reason = event?.detail?.reason;
  return { withdrawn: `It was withdrawn${by}${typeof reason === 'string' ? ` (${reason})` : ''}.` };
}

/** A page of the run's files by name: those that need bytes, or all. */
export function listFiles(
  service: ServiceAddress,
  model: string,
  run: string,
  page: { state?: 'receiving'; cursor: string | null },
  retries: Retries,
): Promise<FilePage> {
  const query = new URLSearchParams({ limit: String(PAGE_FILES) });
  if (page.state !== undefined) query.set('state', page.state);
  if (page.cursor !== null) query.set('cursor', page.cursor);
  const request: Request = { method: 'GET', path: `${runPath(model, run)}/files?${query}` };
  return ask(service, request, filePageSchema, retries);
}

type RunQuery = { model: string | null; state: string | null; limit: number };
const PAGE_RUNS = 500;

/**
 * Runs by their newest revision, the one that was declared last first, page after page up to `limit`; and
 * whether there are more.
 */
export async function listRuns(
  service: ServiceAddress,
  { model, state, limit }: RunQuery,
  retries: Retries,
): Promise<{ runs: RunSummary[]; more: boolean }> {
  const runs: RunSummary[] = [];
  let cursor: string | null | undefined = null;
  do {
    const query = new URLSearchParams({
      limit: String(Math.min(PAGE_RUNS, limit - runs.length)),
      ...(model ? { model } : {}),
      ...(state ? { state } : {}),
      ...(cursor ? { cursor } : {}),
    });
    const request: Request = { method: 'GET', path: `/v1/runs?${query}` };
    const page = await ask(service, request, runListSchema, retries);
    runs.push(...page.runs);
    cursor = page.nextCursor;
  } while (cursor && runs.length < limit);
  return { runs, more: Boolean(cursor) };
}

/** The models whose next run is overdue, as their contracts say; the first 50. */
export async function listOverdue(service: ServiceAddress, retries: Retries): Promise<OverdueRun[]> {
  const request: Request = { method: 'GET', path: '/v1/status' };
  return (await ask(service, request, overdueSchema, retries)).overdue;
}

/** Makes the service load a failed run again. */
export function retryRun(
  service: ServiceAddress,
  model: string,
  run: string,
  reason: string | undefined,
  retries: Retries,
): Promise<Run> {
  const request: Request = {
    method: 'POST',
    path: `${runPath(model, run)}/retry`,
    body: reason === undefined ? {} : { reason },
  };
  return ask(service, request, runSchema, retries);
}

/** Withdraws a revision that readers do not see; without a revision, the newest of the run. */
export function withdrawRun(
  service: ServiceAddress,
  model: string,
  run: string,
  action: { reason?: string; revision?: number },
  retries: Retries,
): Promise<Run> {
  const query = new URLSearchParams();
  if (action.reason !== undefined) query.set('reason', action.reason);
  if (action.revision !== undefined) query.set('revision', String(action.revision));
  const path = query.size === 0 ? runPath(model, run) : `${runPath(model, run)}?${query}`;
  return ask(service, { method: 'DELETE', path }, runSchema, retries);
}

/** The model, and the tag that says which publication was current. */
export async function getModel(
  service: ServiceAddress,
  model: string,
  retries: Retries,
): Promise<{ model: Model; tag: string | undefined }> {
  const request: Request = { method: 'GET', path: modelPath(model) };
  const { headers, value } = await exchangeJson(service, request, modelSchema, retries);
  return { model: value, tag: headers.etag };
}

export type Publication = { run: string; revision?: number; force?: boolean; reason: string };

/** Moves the pointer of the model. Resolves to null when somebody else has moved it since `tag` was read. */
export async function publishRun(
  service: ServiceAddress,
  model: string,
  publication: Publication,
  tag: string | undefined,
  retries: Retries,
): Promise<Model | null> {
  const request: Request = {
    method: 'PUT',
    path: `${modelPath(model)}/current`,
    body: publication,
    headers: tag === undefined ? {} : { 'If-Match': tag },
  };
  try {
    return await ask(service, request, modelSchema, retries);
  } catch (error) {
    if (refusalOf(error)?.status === 412) return null;
    throw error;
  }
}

const modelPath = (model: string): string => `/v1/models/${encodeURIComponent(model)}`;
/** The address that lists the rejected lines of a run. */
export function rejectsUrl(service: ServiceAddress, model: string, run: string): string {
  return `${service.url}${runPath(model, run)}/rejects`;
}

/** The run on the status page. */
export function pageUrl(service: ServiceAddress, model: string, run: string): string {
  return `${service.url}/#/runs/${encodeURIComponent(model)}/${encodeURIComponent(run)}`;
}

const runPath = (model: string, run: string): string => `${modelPath(model)}/runs/${encodeURIComponent(run)}`;

async function ask<T>(
  service: ServiceAddress,
  request: Request,
  schema: z.ZodType<T>,
  retries: Retries,
): Promise<T> {
  return (await exchangeJson(service, request, schema, retries)).value;
}

/** Tries until the answer is what the service answers. */
function exchangeJson<T>(
  service: ServiceAddress,
  { method, path, body, headers, takes = 1, inSlot = (oneTry) => oneTry() }: Request,
  schema: z.ZodType<T>,
  retries: Retries,
): Promise<Answer<T>> {
  const text = body === undefined ? undefined : JSON.stringify(body);
  const oneTry = async () => {
    retries.limit.signal.throwIfAborted();
    const response = await exchange({
      method,
      url: service.url + path,
      headers: () => ({
        ...commonHeaders(service),
        ...(text === undefined ? {} : { 'Content-Type': 'application/json' }),
        Accept: 'application/json',
        ...headers,
      }),
      ...(text === undefined ? {} : { body: text }),
      signal: retries.limit.signal,
      stallTimeoutMs: service.stallTimeoutMs * takes,
    });
    const json = [200, 201].includes(response.status) ? parseJson(response.body) : undefined;
    if (json === undefined) throw new HttpFault(response);
    const parsed = schema.safeParse(json);
    if (parsed.success) {
      retries.faults.answered(method);
      return { headers: response.headers, value: parsed.data };
    }
    const issue = parsed.error.issues[0];
    throw new HttpFault(
      response,
      `this is not the ingest service, or its version is not that of the uploader (${issue?.path.join('.')}: ${issue?.message})`,
    );
  };
  return retrying(() => inSlot(oneTry), { ...retries, asked: 'run' });
}

/** undefined when it is not JSON. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/**
 * The run, or null when the service has no such run or the token does not cover it: the answer is the same.
 */
export async function findRun(
  service: ServiceAddress,
  model: string,
  run: string,
  retries: Retries,
): Promise<Run | null> {
  try {
    return await getRun(service, model, run, retries);
  } catch (error) {
    const refusal = refusalOf(error);
    if (refusal?.status === 404 && refusal.problem?.code !== 'unknown_address') return null;
    throw error;
  }
}

/** Put in by `scripts/build.ts`: the executable has no package.json beside it. */
declare const UPLOADER_VERSION: string | undefined;

/** In the sources, which tests run, from package.json. */
export function uploaderVersion(): string {
  if (typeof UPLOADER_VERSION === 'string') return UPLOADER_VERSION;
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  const parsed: unknown = JSON.parse(text);
  if (parsed && typeof parsed === 'object' && 'version' in parsed) return String(parsed.version);
  return 'unknown';
}

import type { FilePage, Model, ModelList, Run, RunHistory, RunList, RunSummary, Session, Status } from 'wire';

export type {
  Attribute,
  Contract,
  FilePage,
  Model,
  Profile,
  Run,
  RunFile,
  RunHistory,
  RunState,
  RunSummary,
  Session,
  Status,
} from 'wire';

export const getSession = () => ask<Session>('GET', '/session');
export const signIn = (token: string) => ask<Session>('POST', '/session', { token });
export const signOut = () => ask<Session>('DELETE', '/session');

export const getStatus = () => ask<Status>('GET', '/v1/status');

/** Of each model, three years of monthly runs; of all, this many. */
export const RUNS_PER_MODEL = 36;
export const MOST_RUNS = 4_000;
const PAGE = 1_000;

/** The newest runs of every model, and whether some were left out because there are too many. */
export async function getRuns(): Promise<{ runs: RunSummary[]; hasMore: boolean }> {
  const runs: RunSummary[] = [];
  for (let cursor: string | null = null; ; ) {
    const page: RunList = await ask(
      'GET',
      `/v1/runs?${query({ perModel: RUNS_PER_MODEL, limit: PAGE, cursor })}`,
    );
    runs.push(...page.runs);
    cursor = page.nextCursor;
    if (cursor === null || runs.length >= MOST_RUNS) return { runs, hasMore: cursor !== null };
  }
}

export async function getModels(): Promise<Model[]> {
  const models: Model[] = [];
  for (let cursor: string | null = null; ; ) {
    const page: ModelList = await ask('GET', `/v1/models?${query({ limit: PAGE, cursor })}`);
    models.push(...page.models);
    cursor = page.nextCursor;
    if (cursor === null) return models;
  }
}

export const getModel = (model: string) => ask<Model>('GET', modelPath(model));

/** Runs of a model with their scores, those declared last first. */
export const getModelRuns = (model: string, cursor: string | null) =>
  ask<RunList>('GET', `/v1/runs?${query({ model, profile: true, limit: 500, cursor })}`);

function query(parameters: Readonly<Record<string, string | number | boolean | null>>): URLSearchParams {
  const given = Object.entries(parameters).filter(([, value]) => value !== null);
  return new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
}

export const getRun = (model: string, run: string) => ask<Run>('GET', runPath(model, run));
export const getHistory = (model: string, run: string) =>
  ask<RunHistory>('GET', `${runPath(model, run)}/history`);

export type FileFilter = 'all' | 'receiving' | 'received' | 'stalled';

export function getFiles(model: string, run: string, filter: FileFilter, cursor: string | null) {
  const state = filter === 'all' ? null : filter;
  return ask<FilePage>('GET', `${runPath(model, run)}/files?${query({ limit: 200, state, cursor })}`);
}

export function rejectsPath({ model, run }: { readonly model: string; readonly run: string }): string {
  return belowPage(`${runPath(model, run)}/rejects`);
}

/** Of this revision only, although another one may have been pushed since it was read. */
export const retryRun = ({ model, run, revision }: Run, reason: string) =>
  ask('POST', `${runPath(model, run)}/retry`, { revision, reason });
export const withdrawRun = ({ model, run, revision }: Run, reason: string) =>
  ask('DELETE', runPath(model, run), { revision, reason });

/** The ETag of what readers of a model see now. */
export async function currentEtag(model: string): Promise<string> {
  const response = await send('GET', modelPath(model));
  return response.headers.get('etag') ?? '"0"';
}

/** Changes what readers of a model see, unless it has changed since `etag` was read (If-Match). */
export async function publishRun(
  model: string,
  body: { run: string; revision: number; force: boolean; reason: string },
  etag: string,
): Promise<void> {
  await ask('PUT', `${modelPath(model)}/current`, body, { 'If-Match': etag });
}

function modelPath(model: string): string {
  return `/v1/models/${encodeURIComponent(model)}`;
}

function runPath(model: string, run: string): string {
  return `${modelPath(model)}/runs/${encodeURIComponent(run)}`;
}

async function ask<T>(
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<T> {
  const response = await send(method, path, body, headers);
  return parseJson<T>(await response.text());
}

/** A proxy may publish the service below a path, which the service does not know: addresses are relative to the page's. */
function belowPage(path: string): string {
  return `.${path}`;
}

async function send(
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Response> {
  const response = await fetch(belowPage(path), {
    method,
    headers: { ...(body === undefined ? {} : { 'Content-Type': 'application/json' }), ...headers },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  }).catch((error: unknown) => {
    throw new ServiceProblem(
      0,
      `The service does not answer (${(error as Error).message}). Check that it runs and that this computer can reach it.`,
    );
  });
  if (response.ok) return response;
  const problem = (await response.json().catch(() => undefined)) as { detail?: string } | undefined;
  throw new ServiceProblem(
    response.status,
    problem?.detail ??
      `${method} ${path} failed with HTTP status ${response.status}. A proxy may have answered in place of the service.`,
  );
}

/** An error answer of the service (RFC 9457); status 0 when there was no answer. */
export class ServiceProblem extends Error {
  override readonly name = 'ServiceProblem';
  readonly status: number;

  constructor(status: number, detail: string) {
    super(detail);
    this.status = status;
  }
}

/**
 * Parses an answer and makes its texts safe to show: characters that reverse the direction of writing or are invisible
 * become `\u{202e}`. Senders choose some of these texts (host, user, DAG), and the page shows them among its own words.
 */
function parseJson<T>(json: string): T {
  return JSON.parse(json, (_key, value: unknown) => (typeof value === 'string' ? printable(value) : value));
}

/** The same rule as `printable` of score-lines, a package that does not run in a browser. */
function printable(text: string): string {
  return text.replace(
    /(?!\n)[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u{${character.codePointAt(0)?.toString(16)}}`,
  );
}

export type Liveness = 'live' | 'polling' | 'connecting';

export interface LiveOptions {
  onRun(run: RunSummary): void;
  /** Changes may have been missed: read everything again. */
  onReset(): void;
  onLiveness(liveness: Liveness): void;
}

const FIRST_EVENT_WITHIN_MS = 8_000;
const POLL_EVERY_MS = 5_000;
const RETRY_STREAM_AFTER_MS = 30_000;

/**
 * Listens to /v1/events; the browser reconnects by itself, with Last-Event-ID. When no event arrives (a proxy may buffer
 * answers), it polls every few seconds instead, and retries the stream later.
 */
export class LiveEvents {
  readonly #options: LiveOptions;
  #source: EventSource | undefined;
  #polling: number | undefined;
  #timers: number[] = [];

  constructor(options: LiveOptions) {
    this.#options = options;
  }

  start(): void {
    this.stop();
    this.#options.onLiveness('connecting');
    const source = new EventSource(belowPage('/v1/events'));
    this.#source = source;
    const noEvent = window.setTimeout(() => this.#poll(), FIRST_EVENT_WITHIN_MS);
    this.#timers.push(noEvent);
    const heard = () => {
      clearTimeout(noEvent);
      this.#options.onLiveness('live');
    };
    source.addEventListener('open', heard);
    source.addEventListener('reset', () => {
      heard();
      this.#options.onReset();
    });
    source.addEventListener('run', (event) => {
      heard();
      this.#options.onRun(parseJson<RunSummary>((event as MessageEvent<string>).data));
    });
    source.addEventListener('error', () => {
      // CLOSED: the service refused the stream. Otherwise the browser is already reconnecting.
      if (source.readyState === EventSource.CLOSED) this.#poll();
      else this.#options.onLiveness('connecting');
    });
  }

  stop(): void {
    this.#source?.close();
    this.#source = undefined;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers = [];
    clearInterval(this.#polling);
    this.#polling = undefined;
  }

  #poll(): void {
    this.stop();
    this.#options.onLiveness('polling');
    this.#options.onReset();
    this.#polling = window.setInterval(() => this.#options.onReset(), POLL_EVERY_MS);
    this.#timers.push(window.setTimeout(() => this.start(), RETRY_STREAM_AFTER_MS));
  }
}

import type { FilePage, Run, RunHistory, RunList, Session, Status } from 'wire';

/** What the service answered instead of what was asked for (RFC 9457). */
export class ServiceProblem extends Error {
  override readonly name = 'ServiceProblem';
  readonly status: number;

  constructor(status: number, detail: string) {
    super(detail);
    this.status = status;
  }
}

export interface ModelAnswer {
  readonly etag: string | null;
}

export const getSession = () => ask<Session>('GET', '/session');
export const signIn = (token: string) => ask<Session>('POST', '/session', { token });
export const signOut = () => ask<Session>('DELETE', '/session');
export const getStatus = () => ask<Status>('GET', '/v1/status');
export const getGrid = () => ask<RunList>('GET', '/v1/runs?perModel=60&limit=1000');
export const getRun = (model: string, run: string) => ask<Run>('GET', runPath(model, run));
export type FileFilter = 'all' | 'receiving' | 'received' | 'stalled';
export const getFiles = (model: string, run: string, filter: FileFilter, cursor: string | null) => {
  const query = new URLSearchParams({ limit: '200' });
  if (filter !== 'all') query.set('state', filter);
  if (cursor !== null) query.set('cursor', cursor);
  return ask<FilePage>('GET', `${runPath(model, run)}/files?${query}`);
};
export const getHistory = (model: string, run: string) =>
  ask<RunHistory>('GET', `${runPath(model, run)}/history`);

export const retryRun = (model: string, run: string, reason: string) =>
  ask('POST', `${runPath(model, run)}/retry`, { reason });
export const withdrawRun = (model: string, run: string, reason: string) =>
  ask('DELETE', runPath(model, run), { reason });

/** Moves what readers see, unless somebody else has moved it since this page looked (If-Match). */
export async function publishRun(
  model: string,
  body: { run: string; revision: number; force: boolean; reason: string },
  etag: string,
): Promise<void> {
  await ask('PUT', `${modelPath(model)}/current`, body, { 'If-Match': etag });
}

/** The ETag of what readers of a model see now. */
export async function currentEtag(model: string): Promise<string> {
  const response = await send('GET', modelPath(model));
  return response.headers.get('etag') ?? '"0"';
}

export function rejectsPath(model: string, run: string): string {
  return `${runPath(model, run)}/rejects`;
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

async function send(
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Response> {
  const response = await fetch(path, {
    method,
    headers: { ...(body === undefined ? {} : { 'Content-Type': 'application/json' }), ...headers },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  }).catch((error: unknown) => {
    throw new ServiceProblem(0, `The service cannot be reached (${(error as Error).message}).`);
  });
  if (response.ok) return response;
  const problem = (await response.json().catch(() => undefined)) as { detail?: string } | undefined;
  throw new ServiceProblem(response.status, problem?.detail ?? `The service answered ${response.status}.`);
}

/**
 * What the service sends, with texts as a person may see them: what turns the direction of writing, or cannot be seen,
 * is shown as `\u{202e}`. Senders choose some of it (host, user, DAG), and the page shows it among its own words.
 */
export function parseJson<T>(json: string): T {
  return JSON.parse(json, (_key, value: unknown) => (typeof value === 'string' ? printable(value) : value));
}

/** As `printable` of score-lines, which is not made for browsers. */
function printable(text: string): string {
  return text.replace(
    /(?!\n)[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u{${character.codePointAt(0)?.toString(16)}}`,
  );
}

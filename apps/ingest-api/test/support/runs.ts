import { createHash } from 'node:crypto';
import { eventually } from './eventually.ts';
import type { TestSystem } from './system.ts';

export interface SourceFile {
  readonly name: string;
  readonly content: string | Buffer;
  /** Of what is in a compressed file; counted when it is left out. */
  readonly lines?: number;
}

export function manifestOf(files: readonly SourceFile[]) {
  return {
    files: files.map(({ name, content, ...declared }) => {
      const bytes = Buffer.from(content);
      const newlines = bytes.reduce((count, byte) => count + (byte === 10 ? 1 : 0), 0);
      const lines = declared.lines ?? newlines + (bytes.length > 0 && bytes.at(-1) !== 10 ? 1 : 0);
      return { name, bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex'), lines };
    }),
  };
}

interface DeclaredFile {
  readonly name: string;
  readonly offset: number;
  readonly stalled: boolean;
  readonly state: string;
  readonly uploadUrl: string;
}

export interface RunAnswer {
  readonly revision: number;
  readonly state: string;
  readonly rows: number | null;
  readonly files: { total: number; received: number; stalled: number };
  readonly bytes: { total: number; received: number };
  readonly lastProgressAt: string | null;
  readonly missing: { readonly files: readonly DeclaredFile[]; readonly nextCursor: string | null };
  readonly load: {
    attempt: number;
    outcome: string | null;
    lastError: string | null;
    phase: string | null;
  } | null;
  readonly error: { code: string; detail: string; file?: string; line?: number; byte_offset?: number } | null;
  readonly rejects: {
    total: number;
    byCode: Record<string, number>;
    first: { line: number; code: string }[];
  };
  readonly mayDo: string[];
}

/** Declares a run, and sends nothing of it. */
export async function declare(
  system: TestSystem,
  model: string,
  run: string,
  files: readonly SourceFile[],
  more: Record<string, unknown> = {},
): Promise<RunAnswer> {
  const answer = await system.request('PUT', runPath(model, run), {
    json: { ...manifestOf(files), ...more },
  });
  if (!answer.ok) throw new Error(`PUT answered ${answer.status}: ${await answer.text()}`);
  return (await answer.json()) as RunAnswer;
}

/** Declares a run and sends what is missing of it, as a client would: by the answer alone. */
export async function pushRun(
  system: TestSystem,
  model: string,
  run: string,
  files: readonly SourceFile[],
  more: Record<string, unknown> = {},
): Promise<RunAnswer> {
  const declared = await declare(system, model, run, files, more);
  for (const file of declared.missing.files) {
    const content = Buffer.from(files.find(({ name }) => name === file.name)?.content ?? '');
    const sent = await patch(system, file.uploadUrl, file.offset, content.subarray(file.offset));
    if (sent.status !== 204) throw new Error(`PATCH answered ${sent.status}: ${await sent.text()}`);
  }
  return declared;
}

export function runPath(model: string, run: string): string {
  return `/v1/models/${model}/runs/${encodeURIComponent(run)}`;
}

export function patch(
  system: TestSystem,
  uploadUrl: string,
  offset: number,
  body: Buffer,
): Promise<Response> {
  return system.request('PATCH', uploadUrl, {
    body: new Uint8Array(body),
    headers: {
      'tus-resumable': '1.0.0',
      'upload-offset': String(offset),
      'content-type': 'application/offset+octet-stream',
    },
  });
}

export async function getRun(system: TestSystem, model: string, run: string): Promise<RunAnswer> {
  const answer = await system.request('GET', runPath(model, run));
  if (!answer.ok) throw new Error(`GET answered ${answer.status}: ${await answer.text()}`);
  return (await answer.json()) as RunAnswer;
}

/** All files of the newest revision, from as many pages as it takes. */
export async function listFiles(
  system: TestSystem,
  model: string,
  run: string,
  query = '',
): Promise<readonly DeclaredFile[]> {
  const files: DeclaredFile[] = [];
  for (let cursor: string | null = ''; cursor !== null; ) {
    const next: string = cursor === '' ? '' : `&cursor=${cursor}`;
    const answer = await system.request('GET', `${runPath(model, run)}/files?limit=1000${query}${next}`);
    if (!answer.ok) throw new Error(`GET answered ${answer.status}: ${await answer.text()}`);
    const page = (await answer.json()) as { files: DeclaredFile[]; nextCursor: string | null };
    files.push(...page.files);
    cursor = page.nextCursor;
  }
  return files;
}

const FINAL = new Set(['published', 'superseded', 'held', 'failed', 'cancelled']);

export function untilFinal(
  system: TestSystem,
  model: string,
  run: string,
  deadlineMs?: number,
): Promise<RunAnswer> {
  return eventually(
    () => getRun(system, model, run),
    ({ state }) => FINAL.has(state),
    deadlineMs,
  );
}

/** `count` lines with the keys `first`, `first + 1` …, each scored by its key plus `shift`. */
export function scoreLines(count: number, first = 1, shift = 0): string {
  let text = '';
  for (let key = first; key < first + count; key += 1)
    text += `{ "pk": "${key}", "score": "${key + shift}" }\n`;
  return text;
}

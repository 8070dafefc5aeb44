import { createHash, type Hash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { PassThrough } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { createZstdDecompress } from 'node:zlib';
import type { RunState } from 'wire';
import type { Run } from '../../src/service/client.ts';

type DeclaredFile = { name: string; bytes: number; sha256: string; lines: number };
type Upload = { bytes: number; sha256: string; offset: number; content: Hash };
type Revision = {
  revision: number;
  digest: string;
  files: DeclaredFile[];
  state: RunState | null;
  mismatch: boolean;
};

const INSTANT = '2026-11-01T00:00:00.000Z';
const PLACE = { file: 'a.jsonl', line: 7, byte_offset: 240 };
const INVALID_JSON = { code: 'invalid_json', detail: 'A line is not JSON.', ...PLACE };
const MISMATCH = { code: 'content_mismatch', detail: 'What arrived is not what was declared.' };
const BAD_LINES = {
  total: 12,
  byCode: { invalid_json: 12 },
  first: [{ ...PLACE, code: 'invalid_json', detail: 'It ends too early.', excerpt: '{"pk":' }],
};

export type IngestServer = {
  url: string;
  token: string;
  requests: string[];
  /** Decoded body bytes of PATCH requests. */
  receivedBytes: () => number;
  /** What a whole and right run becomes. */
  settleAs: RunState;
  /** What the run says of its load. */
  load: Run['load'];
  /** Moves every run that is whole on. */
  settle: (state: RunState) => void;
  /** Answers in the service's place, when it returns true. */
  intercept: (request: IncomingMessage, response: ServerResponse) => boolean;
  /** false: it answers 415 to a compressed body, as services did before they knew any coding. */
  takesCompressed: boolean;
  /** false: as the service does it, no upload serves two files of a revision. */
  sharesWithinRun: boolean;
  /** How long a declaration takes. */
  declareAfterMs: number;
  /** Stops reading bodies when this many bytes have come in; the bytes until then are kept. */
  stopReadingAtBytes: number;
  forgetAll: () => void;
  lastManifest: () => unknown;
  stop: () => Promise<void>;
};

/**
 * The ingest service's contract over real HTTP and tus 1.0, with faults to order: what the real service
 * does not do on demand (a 502 of a proxy, a Retry-After, a stalled line) has to come from somewhere.
 */
export async function startIngestServer(prefix = ''): Promise<IngestServer> {
  const uploads = new Map<string, Upload>();
  const runs = new Map<string, Revision[]>();
  let receivedBytes = 0;
  let manifest: unknown = null;

  const http = createServer((request, response) => {
    server.requests.push(`${request.method} ${request.url}`);
    if (server.intercept(request, response)) return;
    if (request.headers.authorization !== `Bearer ${server.token}`) {
      return problem(response, 401, 'Unauthorized', 'The token is not known.');
    }
    const path = (request.url ?? '').slice(prefix.length);
    const [, listed, query = ''] = /^(\/v1\/models\/[^/]+\/runs\/[^/]+)\/files\?(.*)$/.exec(path) ?? [];
    if (listed && request.method === 'GET') return sendFiles(response, listed, new URLSearchParams(query));
    const [, runPath] = /^(\/v1\/models\/[^/]+\/runs\/[^/]+)$/.exec(path) ?? [];
    if (!request.url?.startsWith(prefix)) return problem(response, 404, 'Not found', 'No such path.');
    if (runPath && request.method === 'PUT') return void declare(runPath, request, response);
    if (runPath && request.method === 'GET') return sendRun(response, 200, runPath);
    const upload = uploads.get(path);
    if (!upload) return problem(response, 404, 'Not found', 'No such upload.');
    if (request.method === 'HEAD') return head(upload, response);
    if (request.method === 'PATCH') return void patch(upload, request, response);
    problem(response, 405, 'Not allowed', 'No such method.');
  });

  /** By content, so that the same file, pushed again, continues where it was. */
  function uploadUrl({ sha256, name }: DeclaredFile): string {
    return `/v1/uploads/${sha256.slice(0, 24)}${server.sharesWithinRun ? '' : Buffer.from(name).toString('hex')}`;
  }

  async function declare(key: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    if (server.declareAfterMs > 0) await sleep(server.declareAfterMs);
    manifest = JSON.parse(Buffer.concat(chunks).toString());
    const files = (manifest as { files: DeclaredFile[] }).files;
    const digest = JSON.stringify(files);
    const revisions = runs.get(key) ?? [];
    runs.set(key, revisions);
    const last = revisions.at(-1);
    const known = last?.digest === digest && !last.mismatch;
    if (last?.mismatch) for (const file of files) uploads.delete(uploadUrl(file));
    if (!known)
      revisions.push({ revision: revisions.length + 1, digest, files, state: null, mismatch: false });
    for (const file of files) {
      const url = uploadUrl(file);
      if (!uploads.has(url)) {
        uploads.set(url, {
          bytes: file.bytes,
          sha256: file.sha256,
          offset: 0,
          content: createHash('sha256'),
        });
      }
    }
    sendRun(response, known ? 200 : 201, key);
  }

  function sendRun(response: ServerResponse, status: number, key: string): void {
    const revision = runs.get(key)?.at(-1);
    if (!revision) {
      problem(response, 404, 'Not found', 'No such run.');
      return;
    }
    const [, , , model = '', , run = ''] = key.split('/');
    const files = filesOf(revision);
    const received = files.filter((file) => file.state === 'received');
    const whole = received.length === files.length;
    const state = revision.state ?? (whole ? settleRevision(revision) : 'receiving');
    response.writeHead(status, { 'Content-Type': 'application/json' }).end(
      JSON.stringify({
        model: decodeURIComponent(model),
        run: decodeURIComponent(run),
        revision: revision.revision,
        state,
        as_of: INSTANT,
        shown:
          state === 'published'
            ? {
                run: decodeURIComponent(run),
                revision: revision.revision,
                as_of: INSTANT,
                publishedAt: INSTANT,
              }
            : null,
        rows: state === 'published' ? files.reduce((sum, file) => sum + file.lines, 0) : null,
        files: { total: files.length, received: received.length, stalled: 0 },
        bytes: {
          total: files.reduce((sum, file) => sum + file.bytes, 0),
          received: files.reduce((sum, file) => sum + file.offset, 0),
        },
        missing: pageOf(
          files.filter((file) => file.state === 'receiving'),
          MISSING_SHOWN,
          null,
        ),
        load: server.load,
        error: revision.mismatch ? MISMATCH : state === 'failed' ? INVALID_JSON : null,
        rejects: state === 'failed' && !revision.mismatch ? BAD_LINES : { total: 0, byCode: {}, first: [] },
        pushedBy: 'tests',
      }),
    );
  }

  function sendFiles(response: ServerResponse, key: string, query: URLSearchParams): void {
    const revision = runs.get(key)?.at(-1);
    if (!revision) {
      problem(response, 404, 'Not found', 'No such run.');
      return;
    }
    const state = query.get('state');
    const files = filesOf(revision).filter((file) => state === null || file.state === state);
    const page = pageOf(files, Number(query.get('limit')), query.get('cursor'));
    response
      .writeHead(200, { 'Content-Type': 'application/json' })
      .end(JSON.stringify({ revision: revision.revision, ...page }));
  }

  function filesOf(revision: Revision) {
    return revision.files.map((file) => {
      const offset = uploads.get(uploadUrl(file))?.offset ?? 0;
      return {
        ...file,
        offset,
        state: offset === file.bytes ? 'received' : 'receiving',
        lastProgressAt: INSTANT,
        stalled: false,
        uploadUrl: uploadUrl(file),
      };
    });
  }

  function settleRevision(revision: Revision): RunState {
    const intact = revision.files.every((file) => {
      const upload = uploads.get(uploadUrl(file));
      return file.bytes === 0 || upload?.content.copy().digest('hex') === file.sha256;
    });
    revision.mismatch = !intact;
    revision.state = intact ? server.settleAs : 'failed';
    return revision.state;
  }

  async function patch(upload: Upload, request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (Number(request.headers['upload-offset']) !== upload.offset) {
      return problem(response, 409, 'Conflict', 'The offset is another one.');
    }
    const isCompressed = request.headers['content-encoding'] === 'zstd';
    if (isCompressed && !server.takesCompressed) {
      request.resume();
      return problem(response, 415, 'Unsupported', 'No coding is taken.', { 'Accept-Encoding': 'identity' });
    }
    const body = request.pipe(isCompressed ? createZstdDecompress() : new PassThrough());
    request.on('close', () => {
      if (!request.complete) body.destroy(new Error('cut'));
    });
    try {
      for await (const chunk of body as AsyncIterable<Buffer>) {
        receivedBytes += chunk.length;
        upload.offset += chunk.length;
        upload.content.update(chunk);
        if (receivedBytes >= server.stopReadingAtBytes) await once(body, 'close');
      }
    } catch {
      return; // The client went away; what came until then stays.
    }
    response.writeHead(204, { 'Tus-Resumable': '1.0.0', 'Upload-Offset': upload.offset }).end();
  }

  const server: IngestServer = {
    url: '',
    token: 'test-token',
    requests: [],
    receivedBytes: () => receivedBytes,
    settleAs: 'published',
    load: null,
    settle: (state) => {
      for (const revision of [...runs.values()].flat()) if (revision.state) revision.state = state;
    },
    intercept: () => false,
    takesCompressed: true,
    sharesWithinRun: true,
    declareAfterMs: 0,
    stopReadingAtBytes: Number.POSITIVE_INFINITY,
    forgetAll: () => {
      uploads.clear();
      runs.clear();
    },
    lastManifest: () => manifest,
    stop: async () => {
      http.close();
      http.closeAllConnections();
      await once(http, 'close');
    },
  };
  http.listen(0, '127.0.0.1');
  await once(http, 'listening');
  server.url = `http://127.0.0.1:${(http.address() as AddressInfo).port}${prefix}`;
  return server;
}

const MISSING_SHOWN = 3;

/** The service's own cursors are more than a name, which is nobody's business. */
function pageOf<F extends { name: string }>(files: F[], limit: number, cursor: string | null) {
  const after = files.filter((file) => cursor === null || file.name > cursor);
  const page = after.slice(0, limit);
  return { files: page, nextCursor: after.length > limit ? (page.at(-1)?.name ?? null) : null };
}

function head(upload: Upload, response: ServerResponse): void {
  const headers = { 'Tus-Resumable': '1.0.0', 'Upload-Offset': upload.offset, 'Upload-Length': upload.bytes };
  // Without a length Node's client does not use the connection again, not even after a HEAD.
  response.writeHead(200, { ...headers, 'Content-Length': 0 }).end();
}

export function problem(
  response: ServerResponse,
  status: number,
  title: string,
  detail: string,
  headers: Record<string, string> = {},
): void {
  const body = JSON.stringify({ type: 'about:blank', title, status, detail, request_id: 'r-1' });
  response.writeHead(status, { 'Content-Type': 'application/problem+json', ...headers }).end(body);
}

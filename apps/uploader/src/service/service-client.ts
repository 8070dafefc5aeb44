import { type ExchangeResponse, exchange } from '../net/exchange.ts';
import { HttpFault } from '../net/http-fault.ts';
import { type RetryOptions, retrying } from '../net/retrying.ts';
import { UploaderError } from '../uploader-error.ts';
import { type Run, runSchema } from './run-schema.ts';

export type ServiceAddress = { url: string; token: string; stallTimeoutMs: number; userAgent: string };
export type ManifestFile = { name: string; bytes: number; sha256: string; lines: number };
export type Manifest = { files: ManifestFile[]; as_of?: string; source: Record<string, unknown> };
type Retries = Omit<RetryOptions, 'asked' | 'madeProgress'>;

/** The service creates an upload for every file before it answers: give thousands of them their time. */
const DECLARING_TAKES = 5;

export function commonHeaders(service: ServiceAddress): Record<string, string> {
  return { Authorization: `Bearer ${service.token}`, 'User-Agent': service.userAgent };
}

/** Makes the run equal to the manifest; safe to repeat. */
export function declareRun(
  service: ServiceAddress,
  model: string,
  run: string,
  manifest: Manifest,
  retries: Retries,
): Promise<Run> {
  const body = JSON.stringify(manifest);
  return retrying(
    async () =>
      readRun(
        await exchange({
          method: 'PUT',
          url: runUrl(service, model, run),
          headers: {
            ...commonHeaders(service),
            'Content-Type': 'application/json',
            Accept: 'application/json',
          },
          body,
          signal: retries.signal,
          stallTimeoutMs: service.stallTimeoutMs * DECLARING_TAKES,
        }),
      ),
    { ...retries, asked: 'run' },
  );
}

export function getRun(
  service: ServiceAddress,
  model: string,
  run: string,
  retries: Retries & { asked: 'run' | 'known_run' },
): Promise<Run> {
  return retrying(
    async () =>
      readRun(
        await exchange({
          method: 'GET',
          url: runUrl(service, model, run),
          headers: { ...commonHeaders(service), Accept: 'application/json' },
          signal: retries.signal,
          stallTimeoutMs: service.stallTimeoutMs,
        }),
      ),
    retries,
  );
}

function runUrl(service: ServiceAddress, model: string, run: string): string {
  return `${service.url}/v1/models/${encodeURIComponent(model)}/runs/${encodeURIComponent(run)}`;
}

function readRun(response: ExchangeResponse): Run {
  if (response.status !== 200 && response.status !== 201) throw new HttpFault(response);
  let body: unknown;
  try {
    body = JSON.parse(response.body);
  } catch {
    throw new HttpFault(response);
  }
  const parsed = runSchema.safeParse(body);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new UploaderError(
    'bug',
    `${response.method} ${response.url} answered with a run that this uploader does not understand (${issue?.path.join('.')}: ${issue?.message}). Use an uploader of the service's version.`,
  );
}

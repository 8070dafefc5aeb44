import type { Run, RunFile, RunHistory, RunSummary, Session, Status } from 'wire';
import type { FileFilter } from './api-client.ts';
import type { Liveness } from './live-events.ts';

export type Route =
  | { readonly page: 'grid' }
  | { readonly page: 'run'; readonly model: string; readonly run: string };

/** The pages of the run's files that were asked for so far. */
export interface FilesShown {
  readonly filter: FileFilter;
  /** By the reader, not by the page. */
  readonly isChosen: boolean;
  readonly files: readonly RunFile[];
  readonly nextCursor: string | null;
}

/** Everything that the views are made of. Changed in main.ts only, and drawn anew after each change. */
export interface AppState {
  session: Session | undefined;
  route: Route;
  liveness: Liveness;
  status: Status | undefined;
  /** Of every model the newest runs, by `model run`. */
  runs: Map<string, RunSummary>;
  /** There are more than the page asks for. */
  hasMoreRuns: boolean;
  run: Run | undefined;
  history: RunHistory | undefined;
  files: FilesShown | undefined;
  /** What went wrong last, until the next thing goes well. */
  fault: string | undefined;
  nowMs: number;
}

export function keyOf({ model, run }: { readonly model: string; readonly run: string }): string {
  return `${model} ${run}`;
}

export function routeOf(hash: string): Route {
  const [page, model, run] = hash.replace(/^#\/?/, '').split('/');
  if (page !== 'runs' || !model || !run) return { page: 'grid' };
  try {
    return { page: 'run', model: decodeURIComponent(model), run: decodeURIComponent(run) };
  } catch {
    return { page: 'grid' }; // a percent sign that encodes nothing
  }
}

export function runHref({ model, run }: { readonly model: string; readonly run: string }): string {
  return `#/runs/${encodeURIComponent(model)}/${encodeURIComponent(run)}`;
}

export function may(session: Session | undefined, scope: Session['scopes'][number]): boolean {
  return session !== undefined && (session.scopes.includes(scope) || session.scopes.includes('admin'));
}

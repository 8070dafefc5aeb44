import type { FileFilter, Liveness, Run, RunFile, RunHistory, RunSummary, Session, Status } from './api.ts';

/** Everything that the views show. Only main.ts changes it, and draws the page again after each change. */
export interface AppState {
  /** undefined until the service has answered for the first time. */
  session: Session | undefined;
  route: Route;
  liveness: Liveness;
  status: Status | undefined;
  /** The newest runs of each model, by `keyOf`. */
  runs: Map<string, RunSummary>;
  /** The service has more runs than the page asked for. */
  hasMoreRuns: boolean;
  run: Run | undefined;
  history: RunHistory | undefined;
  files: FilesShown | undefined;
  /** The last error, until a request succeeds. */
  fault: string | undefined;
  nowMs: number;
}

export type Route =
  | { readonly page: 'overview' }
  | { readonly page: 'run'; readonly model: string; readonly run: string };

/** The pages of the run's files that are loaded so far. */
export interface FilesShown {
  readonly filter: FileFilter;
  /** The user selected the filter; otherwise the page did. */
  readonly isChosen: boolean;
  readonly files: readonly RunFile[];
  readonly nextCursor: string | null;
}

interface RunKey {
  readonly model: string;
  readonly run: string;
}

export function keyOf({ model, run }: RunKey): string {
  return `${model} ${run}`;
}

export function runHref({ model, run }: RunKey): string {
  return `#/runs/${encodeURIComponent(model)}/${encodeURIComponent(run)}`;
}

export function routeOf(hash: string): Route {
  const [page, model, run] = hash.replace(/^#\/?/, '').split('/');
  if (page !== 'runs' || !model || !run) return { page: 'overview' };
  try {
    return { page: 'run', model: decodeURIComponent(model), run: decodeURIComponent(run) };
  } catch {
    return { page: 'overview' }; // a percent sign that encodes nothing
  }
}

import type {
  FileFilter,
  Liveness,
  Model,
  Run,
  RunFile,
  RunHistory,
  RunState,
  RunSummary,
  Session,
  Status,
} from './api.ts';

/** Everything that the views show. Only main.ts changes it, and draws the page again after each change. */
export interface AppState {
  /** undefined until the service has answered for the first time. */
  session: Session | undefined;
  route: Route;
  liveness: Liveness;
  status: Status | undefined;
  models: Map<string, Model>;
  /** The newest runs of each model, by `keyOf`. */
  runs: Map<string, RunSummary>;
  /** The service has more runs than the page asked for. */
  hasMoreRuns: boolean;
  view: View;
  /** Of the page of a model. */
  modelRuns: ModelRuns | undefined;
  run: Run | undefined;
  history: RunHistory | undefined;
  files: FilesShown | undefined;
  /** The last error, until a request succeeds. */
  fault: string | undefined;
  /** By the clock of the service. */
  nowMs: number;
  /** Of the window, in pixels. */
  width: number;
}

export type RunFilter = RunState | 'stalled' | 'overdue' | 'needs';

/** What the user has chosen to see of the overview. */
export interface View {
  readonly text: string;
  readonly only: RunFilter | undefined;
  /** Groups of models that the user has folded or unfolded. */
  readonly folds: ReadonlyMap<string, boolean>;
}

export interface ModelRuns {
  readonly runs: readonly RunSummary[];
  readonly nextCursor: string | null;
}

export type Route =
  | { readonly page: 'overview' }
  | { readonly page: 'model'; readonly model: string }
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

export function modelHref(model: string): string {
  return `#/models/${encodeURIComponent(model)}`;
}

export function routeOf(hash: string): Route {
  const [page, model, run] = hash.replace(/^#\/?/, '').split('/');
  try {
    if (page === 'models' && model) return { page: 'model', model: decodeURIComponent(model) };
    if (page === 'runs' && model && run)
      return { page: 'run', model: decodeURIComponent(model), run: decodeURIComponent(run) };
  } catch {
    // a percent sign that encodes nothing
  }
  return { page: 'overview' };
}

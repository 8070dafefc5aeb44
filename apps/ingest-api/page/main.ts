import {
  type FileFilter,
  type FilePage,
  getFiles,
  getHistory,
  getModel,
  getModelRuns,
  getModels,
  getRun,
  getRuns,
  getSession,
  getStatus,
  LiveEvents,
  type RunSummary,
  ServiceProblem,
  type Status,
  signIn,
  signOut,
} from './api.ts';
import { firstFilter } from './files.ts';
import { frame, signInPage } from './layout.ts';
import { modelPage } from './model.ts';
import { overviewPage } from './overview.ts';
import { runPage } from './run.ts';
import { type AppState, type FilesShown, keyOf, type Route, routeOf, type View } from './state.ts';
import { render, type TemplateResult } from './vendor/lit-html.js';

const STATUS_EVERY_MS = 10_000;
const MODELS_EVERY_MS = 60_000;

const root = document.querySelector<HTMLElement>('#app') ?? document.body;
const state: AppState = {
  session: undefined,
  route: routeOf(location.hash),
  liveness: 'connecting',
  status: undefined,
  models: new Map(),
  runs: new Map(),
  hasMoreRuns: false,
  view: { text: '', only: undefined, folds: new Map() },
  modelRuns: undefined,
  run: undefined,
  history: undefined,
  files: undefined,
  fault: undefined,
  nowMs: Date.now(),
  width: document.documentElement.clientWidth,
};

/** What the clock of the service is ahead of this computer's. */
let aheadMs = 0;

const live = new LiveEvents({
  onRun: showRun,
  onReset: () => void refreshAll(),
  onLiveness(liveness) {
    state.liveness = liveness;
    draw();
  },
});

function draw(): void {
  const { session, route } = state;
  if (session === undefined) return;
  document.title = titleOf(route);
  if (!session.signedIn) {
    render(
      signInPage(state.fault, (token) => guarded(() => enter(token))),
      root,
    );
    return;
  }
  render(
    frame(state, pageOf(route), () => guarded(leave)),
    root,
  );
}

function pageOf({ page }: Route): TemplateResult {
  if (page === 'run') return runPage(state, refreshRun, showFiles);
  return page === 'model' ? modelPage(state, showMoreRuns) : overviewPage(state, changeView);
}

function titleOf(route: Route): string {
  if (route.page === 'overview') return 'score-ingest';
  return `${route.model}${route.page === 'run' ? ` ${route.run}` : ''} · score-ingest`;
}

function changeView(view: Partial<View>): void {
  state.view = { ...state.view, ...view };
  draw();
}

let isDrawing = false;

/** Many events arrive at once: they are drawn once. */
function drawSoon(): void {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    state.nowMs = Date.now() + aheadMs;
    draw();
  });
}

/** Shows what goes wrong in `work`. When the session has ended, shows the sign-in page. */
async function guarded(work: () => Promise<void>): Promise<void> {
  try {
    await work();
    state.fault = undefined;
  } catch (error) {
    state.fault = (error as Error).message;
    if (error instanceof ServiceProblem && error.status === 401 && state.session?.signedIn === true) {
      live.stop();
      state.session = { ...state.session, signedIn: false };
    }
  }
  state.nowMs = Date.now() + aheadMs;
  draw();
}

async function enter(token: string): Promise<void> {
  state.session = await signIn(token);
  live.start();
}

async function leave(): Promise<void> {
  live.stop();
  state.session = await signOut();
  state.runs.clear();
  state.models.clear();
  clearRun();
}

async function refreshAll(): Promise<void> {
  await guarded(async () => {
    const [status, models, { runs, hasMore }] = await Promise.all([getStatus(), getModels(), getRuns()]);
    setStatus(status);
    state.models = new Map(models.map((model) => [model.model, model]));
    state.runs = new Map(runs.map((run) => [keyOf(run), run]));
    state.hasMoreRuns = hasMore;
  });
  await refreshRun();
  await refreshModelRuns();
}

function setStatus(status: Status): void {
  state.status = status;
  aheadMs = Date.parse(status.at) - Date.now();
}

/** The first page of runs as it is now. Further pages that the user has loaded stay as they were. */
async function refreshModelRuns(): Promise<void> {
  const { route } = state;
  if (route.page !== 'model') return;
  await guarded(async () => {
    const [model, { runs, nextCursor }] = await Promise.all([
      getModel(route.model),
      getModelRuns(route.model, null),
    ]);
    if (state.route !== route) return; // the user has moved on to another page
    state.models.set(model.model, model);
    const fresh = new Set(runs.map(keyOf));
    const others = (state.modelRuns?.runs ?? []).filter((run) => !fresh.has(keyOf(run)));
    state.modelRuns = {
      runs: [...runs, ...others],
      nextCursor: others.length > 0 ? (state.modelRuns?.nextCursor ?? null) : nextCursor,
    };
  });
}

function showMoreRuns(): void {
  const { route, modelRuns } = state;
  if (route.page !== 'model' || modelRuns === undefined) return;
  void guarded(async () => {
    const { runs, nextCursor } = await getModelRuns(route.model, modelRuns.nextCursor);
    if (state.route !== route || state.modelRuns?.nextCursor !== modelRuns.nextCursor) return;
    state.modelRuns = { runs: [...state.modelRuns.runs, ...runs], nextCursor };
  });
}

async function refreshRun(): Promise<void> {
  const { route } = state;
  if (route.page !== 'run') return;
  await guarded(async () => {
    const [run, history] = await Promise.all([
      getRun(route.model, route.run),
      getHistory(route.model, route.run),
    ]);
    if (state.route !== route) return; // the user has moved on to another page
    const shown = state.files;
    const filter = shown?.isChosen ? shown.filter : firstFilter(run);
    const page = await getFiles(route.model, route.run, filter, null);
    if (state.route !== route) return;
    state.run = run;
    state.history = history;
    // Unless the user has selected another filter meanwhile.
    if (state.files === undefined || state.files.filter === shown?.filter)
      state.files = updatedFiles(filter, page);
  });
}

/** The first page as it is now. Files of further pages that the user has loaded stay as they were. */
function updatedFiles(filter: FileFilter, { files, nextCursor }: FilePage): FilesShown {
  const shown = state.files;
  const isChosen = shown?.isChosen ?? false;
  if (shown?.filter !== filter || shown.files.length <= files.length)
    return { filter, isChosen, files, nextCursor };
  const fresh = new Map(files.map((file) => [file.name, file]));
  return { ...shown, files: shown.files.map((file) => fresh.get(file.name) ?? file) };
}

function showFiles(filter: FileFilter, more: boolean): void {
  const { route } = state;
  if (route.page !== 'run') return;
  const cursor = more ? (state.files?.nextCursor ?? null) : null;
  void guarded(async () => {
    const page = await getFiles(route.model, route.run, filter, cursor);
    const shown = state.files;
    if (state.route !== route) return; // the user has moved on to another page
    if (more && (shown?.filter !== filter || shown.nextCursor !== cursor)) return;
    const files = more ? [...(shown?.files ?? []), ...page.files] : page.files;
    state.files = { filter, isChosen: true, files, nextCursor: page.nextCursor };
  });
}

function clearRun(): void {
  state.modelRuns = undefined;
  state.run = undefined;
  state.history = undefined;
  state.files = undefined;
}

function showRun(run: RunSummary): void {
  const before = state.runs.get(keyOf(run));
  state.runs.set(keyOf(run), run);
  const { route } = state;
  if (route.page === 'run' && route.model === run.model && route.run === run.run) void refreshRun();
  if (before?.state !== run.state || before.shown?.publishedAt !== run.shown?.publishedAt)
    refreshModelSoon(run.model);
  drawSoon();
}

const REFRESH_AFTER_MS = 500;
const modelsToRefresh = new Set<string>();

/** What is due depends on what readers see. Several runs of a model change with each publication. */
function refreshModelSoon(model: string): void {
  if (modelsToRefresh.has(model)) return;
  modelsToRefresh.add(model);
  setTimeout(() => {
    modelsToRefresh.delete(model);
    if (state.route.page === 'model' && state.route.model === model) void refreshModelRuns();
    else
      void guarded(async () => {
        state.models.set(model, await getModel(model));
      });
  }, REFRESH_AFTER_MS);
}

function navigate(): void {
  state.route = routeOf(location.hash);
  clearRun();
  state.fault = undefined;
  draw();
  scrollTo(0, 0);
  if (state.session?.signedIn === true) {
    void refreshRun();
    void refreshModelRuns();
  }
  document.querySelector<HTMLElement>('h1')?.focus();
}

addEventListener('hashchange', navigate);
addEventListener('resize', () => {
  state.width = document.documentElement.clientWidth;
  drawSoon();
});
addEventListener('keydown', (event) => {
  const isTyping = event.target instanceof HTMLElement && event.target.matches('input, textarea');
  if (event.key !== '/' || isTyping) return;
  const filter = document.querySelector<HTMLElement>('#filter');
  if (filter === null) return;
  event.preventDefault();
  filter.focus();
});
setInterval(() => {
  if (state.session?.signedIn !== true || document.hidden) return;
  void guarded(async () => {
    setStatus(await getStatus());
  });
}, STATUS_EVERY_MS);

/** Contracts change without an event. */
setInterval(() => {
  if (state.session?.signedIn !== true || document.hidden) return;
  void guarded(async () => {
    const models = await getModels();
    state.models = new Map(models.map((model) => [model.model, model]));
  });
}, MODELS_EVERY_MS);

await guarded(async () => {
  state.session = await getSession();
  if (state.session.signedIn) live.start();
});
if (state.session === undefined) root.textContent = state.fault ?? '';

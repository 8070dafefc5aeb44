import {
  type FileFilter,
  type FilePage,
  getFiles,
  getHistory,
  getRun,
  getRuns,
  getSession,
  getStatus,
  LiveEvents,
  type RunSummary,
  ServiceProblem,
  signIn,
  signOut,
} from './api.ts';
import { firstFilter } from './files.ts';
import { frame, signInPage } from './layout.ts';
import { overviewPage } from './overview.ts';
import { runPage } from './run.ts';
import { type AppState, type FilesShown, keyOf, routeOf } from './state.ts';
import { render } from './vendor/lit-html.js';

const STATUS_EVERY_MS = 5_000;

const root = document.querySelector<HTMLElement>('#app') ?? document.body;
const state: AppState = {
  session: undefined,
  route: routeOf(location.hash),
  liveness: 'connecting',
  status: undefined,
  runs: new Map(),
  hasMoreRuns: false,
  run: undefined,
  history: undefined,
  files: undefined,
  fault: undefined,
  nowMs: Date.now(),
};

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
  document.title = route.page === 'run' ? `${route.model} ${route.run} · score-ingest` : 'score-ingest';
  if (!session.signedIn) {
    render(
      signInPage(state.fault, (token) => guarded(() => enter(token))),
      root,
    );
    return;
  }
  const page = route.page === 'overview' ? overviewPage(state) : runPage(state, refreshRun, showFiles);
  render(
    frame(state, page, () => guarded(leave)),
    root,
  );
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
  state.nowMs = Date.now();
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
  clearRun();
}

async function refreshAll(): Promise<void> {
  await guarded(async () => {
    const [status, { runs, nextCursor }] = await Promise.all([getStatus(), getRuns()]);
    state.status = status;
    state.runs = new Map(runs.map((run) => [keyOf(run), run]));
    state.hasMoreRuns = nextCursor !== null;
  });
  await refreshRun();
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
  state.run = undefined;
  state.history = undefined;
  state.files = undefined;
}

function showRun(run: RunSummary): void {
  state.runs.set(keyOf(run), run);
  const { route } = state;
  if (route.page === 'run' && route.model === run.model && route.run === run.run) void refreshRun();
  state.nowMs = Date.now();
  draw();
}

function navigate(): void {
  state.route = routeOf(location.hash);
  clearRun();
  state.fault = undefined;
  draw();
  scrollTo(0, 0);
  if (state.session?.signedIn === true) void refreshRun();
  document.querySelector<HTMLElement>('h1')?.focus();
}

addEventListener('hashchange', navigate);
setInterval(() => {
  if (state.session?.signedIn !== true || document.hidden) return;
  void guarded(async () => {
    state.status = await getStatus();
  });
}, STATUS_EVERY_MS);

await guarded(async () => {
  state.session = await getSession();
  if (state.session.signedIn) live.start();
});
if (state.session === undefined) root.textContent = state.fault ?? '';

import type { FilePage, RunSummary } from 'wire';
import {
  type FileFilter,
  getFiles,
  getGrid,
  getHistory,
  getRun,
  getSession,
  getStatus,
  ServiceProblem,
  signIn,
  signOut,
} from './api-client.ts';
import { type AppState, type FilesShown, keyOf, routeOf } from './app-state.ts';
import { firstFilter } from './files-view.ts';
import { frame } from './frame-view.ts';
import { gridPage } from './grid-view.ts';
import { LiveEvents } from './live-events.ts';
import { runPage } from './run-view.ts';
import { signInPage } from './sign-in-view.ts';
import { render } from './vendor/lit-html.js';

const OVERVIEW_EVERY_MS = 5_000;

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
  onRun: noteRun,
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
  const page = route.page === 'grid' ? gridPage(state) : runPage(state, refreshRun, showFiles);
  render(
    frame(state, page, () => guarded(leave)),
    root,
  );
}

/** A fault is shown, never swallowed; a session that has ended leads to the sign-in. */
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
  forgetRun();
}

async function refreshAll(): Promise<void> {
  await guarded(async () => {
    const [status, grid] = await Promise.all([getStatus(), getGrid()]);
    state.status = status;
    state.runs = new Map(grid.runs.map((run) => [keyOf(run), run]));
    state.hasMoreRuns = grid.nextCursor !== null;
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
    if (state.route !== route) return; // the reader has gone on meanwhile
    const shown = state.files;
    const filter = shown?.isChosen ? shown.filter : firstFilter(run);
    const page = await getFiles(route.model, route.run, filter, null);
    if (state.route !== route) return;
    state.run = run;
    state.history = history;
    // Unless the reader has chosen others meanwhile.
    if (state.files === undefined || state.files.filter === shown?.filter)
      state.files = renewed(filter, page);
  });
}

/** The first page as it is now. What a reader has paged through beyond it stays as it was. */
function renewed(filter: FileFilter, { files, nextCursor }: FilePage): FilesShown {
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
    if (state.route !== route) return; // the reader has gone on meanwhile
    if (more && (shown?.filter !== filter || shown.nextCursor !== cursor)) return;
    const files = more ? [...(shown?.files ?? []), ...page.files] : page.files;
    state.files = { filter, isChosen: true, files, nextCursor: page.nextCursor };
  });
}

function forgetRun(): void {
  state.run = undefined;
  state.history = undefined;
  state.files = undefined;
}

function noteRun(run: RunSummary): void {
  state.runs.set(keyOf(run), run);
  const { route } = state;
  if (route.page === 'run' && route.model === run.model && route.run === run.run) void refreshRun();
  state.nowMs = Date.now();
  draw();
}

function follow(): void {
  state.route = routeOf(location.hash);
  forgetRun();
  state.fault = undefined;
  draw();
  scrollTo(0, 0);
  if (state.session?.signedIn === true) void refreshRun();
  document.querySelector<HTMLElement>('h1')?.focus();
}

addEventListener('hashchange', follow);
setInterval(() => {
  if (state.session?.signedIn !== true || document.hidden) return;
  void guarded(async () => {
    state.status = await getStatus();
  });
}, OVERVIEW_EVERY_MS);

await guarded(async () => {
  state.session = await getSession();
  if (state.session.signedIn) live.start();
});
if (state.session === undefined) root.textContent = state.fault ?? 'The service cannot be reached.';

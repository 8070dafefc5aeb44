import type { RunSummary } from '../dist/http/answers.d.ts';
import {
  getGrid,
  getHistory,
  getRun,
  getSession,
  getStatus,
  ServiceProblem,
  signIn,
  signOut,
} from './api-client.ts';
import { type AppState, keyOf, routeOf } from './app-state.ts';
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
  run: undefined,
  history: undefined,
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
  const page = route.page === 'grid' ? gridPage(state) : runPage(state, refreshRun);
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
  state.run = undefined;
  state.history = undefined;
}

async function refreshAll(): Promise<void> {
  await guarded(async () => {
    const [status, grid] = await Promise.all([getStatus(), getGrid()]);
    state.status = status;
    state.runs = new Map(grid.runs.map((run) => [keyOf(run), run]));
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
    state.run = run;
    state.history = history;
  });
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
  state.run = undefined;
  state.history = undefined;
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

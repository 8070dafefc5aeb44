import type { Run, RunHistory } from './api.ts';
import './charts.ts';
import { formatBytes, formatCount, formatSeconds, percent, STEPS, secondsBetween, time } from './format.ts';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

const IMMEDIATE_SECONDS = 0.1;

/** When the run reached each step, and how long that took since the step before. */
export function timeline(run: Run): TemplateResult {
  const { declaredAt, queuedAt, load, loadedAt, publishedAt, state } = run;
  // An earlier attempt is not shown when the run has been queued again since, or waits for files again.
  const isCurrent = load !== null && queuedAt !== null && Date.parse(load.startedAt) >= Date.parse(queuedAt);
  const steps = [
    { name: 'Declared', at: declaredAt },
    { name: 'Received', at: queuedAt },
    { name: 'Load started', at: isCurrent ? load.startedAt : null },
    { name: lastStep(run), at: state === 'published' ? publishedAt : loadedAt },
  ];
  const reached = steps.filter(({ at }) => at !== null).length;
  return html`<ol class="timeline" aria-label="Timeline">
    ${steps.map(({ name, at }, index) => {
      const before = steps[index - 1]?.at;
      return html`<li
        ?data-reached=${at !== null}
        ?data-alarm=${name === 'Failed'}
        aria-current=${index === reached && state !== 'cancelled' ? 'step' : nothing}
      >
        <strong>${name}</strong>
        <span>${at !== null ? time(at) : state === 'cancelled' ? 'not reached' : 'not yet'}</span>
        ${at === null || before == null ? nothing : html`<span>${took(secondsBetween(before, at))}</span>`}
      </li>`;
    })}
  </ol>`;
}

function lastStep({ state }: Run): string {
  if (state === 'failed') return 'Failed';
  if (state === 'held') return 'Loaded and held';
  return state === 'published' ? 'Published' : 'Loaded';
}

function took(seconds: number): string {
  return seconds < IMMEDIATE_SECONDS ? 'immediately' : `after ${formatSeconds(seconds)}`;
}

/** A line through fewer samples says nothing. */
const WORTH_A_CHART = 5;

export function progressSection(
  run: Run,
  history: RunHistory,
  nowMs: number,
): TemplateResult | typeof nothing {
  const hasChart = history.throughput.length >= WORTH_A_CHART;
  if (run.progress == null && !hasChart) return nothing;
  return html`<section aria-labelledby="progress-title">
    <h2 id="progress-title">Progress</h2>
    ${run.progress == null ? nothing : step(run, run.progress)} ${phases(run, nowMs)}
    ${hasChart ? html`<throughput-chart .samples=${history.throughput}></throughput-chart>` : nothing}
  </section>`;
}

type Progress = NonNullable<Run['progress']>;

function step(run: Run, progress: Progress): TemplateResult {
  const name = STEPS[progress.step];
  const countsBytes = progress.step === 'receiving' || progress.step === 'copying';
  const { done, total, parts } = countsBytes ? bytePace(run, progress) : keyPace(run);
  return html`<div class="step">
    <strong>${name}</strong>
    ${
      total === 0
        ? html`<progress aria-label=${name}></progress>`
        : html`<progress aria-label=${name} max=${total} .value=${done}></progress>`
    }
    <span>${[...parts, ...timeLeft(progress)].join(' · ')}</span>
  </div>`;
}

interface Pace {
  readonly done: number;
  /** 0: nothing is counted. */
  readonly total: number;
  readonly parts: readonly string[];
}

function bytePace({ load, state }: Run, { doneBytes, totalBytes, bytesPerSecond }: Progress): Pace {
  const parts = [
    `${percent(doneBytes, totalBytes)} %`,
    `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`,
    ...(bytesPerSecond === null ? [] : [`${formatBytes(bytesPerSecond)}/s`]),
    ...(load === null || state !== 'loading' ? [] : [`${formatCount(load.rows)} rows`]),
  ];
  return { done: doneBytes, total: Math.max(1, totalBytes), parts };
}

const KEY_STEPS = {
  scanning: 'reading the rows',
  sorting: 'sorting (PostgreSQL does not report how far)',
  writing: 'writing the index',
} as const;

function keyPace({ load }: Run): Pace {
  const rows = load === null ? [] : [`${formatCount(load.rows)} rows`];
  if (load?.keyBuild == null) return { done: 0, total: 0, parts: rows };
  const { step, done, total } = load.keyBuild;
  const share = total === 0 ? [] : [`${percent(done, total)} %`];
  return { done, total, parts: [KEY_STEPS[step], ...share, ...rows] };
}

function timeLeft({ step, etaSeconds, loadEtaSeconds }: Progress): string[] {
  if (step === 'attaching' || step === 'publishing') return [];
  if (etaSeconds === null) return ['time left unknown'];
  if (loadEtaSeconds === null) return [`${formatSeconds(etaSeconds)} left in this step`];
  if (step !== 'copying') return [`${formatSeconds(loadEtaSeconds)} left`];
  return [`${formatSeconds(etaSeconds)} left in this step, ${formatSeconds(loadEtaSeconds)} in total`];
}

const PHASES = ['copying', 'building_key', 'attaching', 'publishing'] as const;

function phases({ load }: Run, nowMs: number): TemplateResult | typeof nothing {
  if (load === null || load.phase === null) return nothing;
  const current = PHASES.indexOf(load.phase);
  const seconds = Math.round((nowMs - Date.parse(load.startedAt)) / 1000);
  return html`<ol class="phases" aria-label="Phases of the load">
      ${PHASES.map(
        (phase, index) => html`<li
          ?data-reached=${index < current}
          aria-current=${index === current ? 'step' : nothing}
        >${STEPS[phase]}</li>`,
      )}
    </ol>
    <p class="hint">Attempt ${load.attempt}, running for ${formatSeconds(seconds)} on loader ${load.worker}.</p>`;
}

import type { Run, RunHistory } from 'wire';
import { formatBytes, formatCount, formatSeconds, percent } from './format.ts';
import './throughput-chart.ts';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

const STEPS = {
  receiving: 'Receiving',
  copying: 'Copying rows',
  building_key: 'Building the primary key',
  attaching: 'Attaching the partition',
  publishing: 'Publishing',
} as const;

const PHASES = ['copying', 'building_key', 'attaching', 'publishing'] as const;

/** Fewer looks draw no line that says anything. */
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

const KEY_STEPS = {
  scanning: 'reading the rows',
  sorting: 'sorting, which cannot be counted',
  writing: 'writing the index',
} as const;

type Progress = NonNullable<Run['progress']>;

function step(run: Run, progress: Progress): TemplateResult {
  const name = STEPS[progress.step];
  const isLoad = progress.step !== 'receiving' && progress.step !== 'copying';
  const { done, total, parts } = isLoad ? keyPace(run) : bytePace(run, progress);
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

function bytePace(run: Run, { doneBytes, totalBytes, bytesPerSecond }: Progress): Pace {
  const parts = [
    `${percent(doneBytes, totalBytes)} %`,
    `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`,
    ...(bytesPerSecond === null ? [] : [`${formatBytes(bytesPerSecond)}/s`]),
    ...(run.load === null || run.state !== 'loading' ? [] : [`${formatCount(run.load.rows)} rows`]),
  ];
  return { done: doneBytes, total: Math.max(1, totalBytes), parts };
}

function keyPace({ load }: Run): Pace {
  const rows = load === null ? [] : [`${formatCount(load.rows)} rows`];
  if (load?.keyBuild == null) return { done: 0, total: 0, parts: rows };
  const { step, done, total } = load.keyBuild;
  const share = total === 0 ? [] : [`${percent(done, total)} %`];
  return { done, total, parts: [KEY_STEPS[step], ...share, ...rows] };
}

function timeLeft({ step, etaSeconds, loadEtaSeconds }: Progress): string[] {
  if (step === 'attaching' || step === 'publishing') return [];
  if (etaSeconds === null) return ['no telling when it ends'];
  if (loadEtaSeconds === null) return [`${formatSeconds(etaSeconds)} left of this step`];
  if (step !== 'copying') return [`${formatSeconds(loadEtaSeconds)} left`];
  return [`${formatSeconds(etaSeconds)} left of this step, ${formatSeconds(loadEtaSeconds)} of the load`];
}

function phases({ load }: Run, nowMs: number): TemplateResult | typeof nothing {
  if (load === null || load.phase === null) return nothing;
  const at = PHASES.indexOf(load.phase);
  return html`<ol class="phases" aria-label="Phases of the load">
      ${PHASES.map(
        (phase, index) => html`<li
          ?data-reached=${index < at}
          aria-current=${index === at ? 'step' : nothing}
        >${STEPS[phase]}</li>`,
      )}
    </ol>
    <p class="hint">
      Try ${load.attempt} by ${load.worker}, for ${formatSeconds(Math.round((nowMs - Date.parse(load.startedAt)) / 1000))}.
    </p>`;
}

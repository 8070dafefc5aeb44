import type { Run, RunHistory } from '../dist/http/answers.d.ts';
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

function step(run: Run, progress: NonNullable<Run['progress']>): TemplateResult {
  const { doneBytes, totalBytes, bytesPerSecond, etaSeconds } = progress;
  const name = STEPS[progress.step];
  const parts = [
    `${percent(doneBytes, totalBytes)} %`,
    `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`,
    bytesPerSecond === null ? undefined : `${formatBytes(bytesPerSecond)}/s`,
    run.load === null || run.state !== 'loading' ? undefined : `${formatCount(run.load.rows)} rows`,
    etaSeconds === null ? 'no telling when it ends' : `${formatSeconds(etaSeconds)} left of this step`,
  ];
  return html`<div class="step">
    <strong>${name}</strong>
    <progress aria-label=${name} max=${Math.max(1, totalBytes)} .value=${doneBytes}></progress>
    <span>${parts.filter((part) => part !== undefined).join(' · ')}</span>
  </div>`;
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

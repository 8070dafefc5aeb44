import { MOST_RUNS, type RunSummary, type Status } from './api.ts';
import {
  capitalized,
  formatAgo,
  formatBytes,
  formatCount,
  formatSeconds,
  meaningOf,
  percent,
  STATES,
  signOf,
  stateBadge,
} from './format.ts';
import { scrollable } from './layout.ts';
import { type AppState, runHref } from './state.ts';
import { describeGate } from './vendor/gates.js';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

export function overviewPage({ status, runs, hasMoreRuns, fault, nowMs }: AppState): TemplateResult {
  if (status === undefined)
    return fault === undefined ? html`<p class="hint">Waiting for the service…</p>` : html``;
  return html`<h1 tabindex="-1" class="out-of-sight">Overview</h1>
    ${tiles(status)} ${attention(status.needsAttention, nowMs)}
    <section aria-labelledby="grid-title">
      <h2 id="grid-title">Runs by model and month</h2>
      ${runs.size === 0 ? noRuns() : grid([...runs.values()])}
      ${
        hasMoreRuns
          ? html`<p class="hint">Only the ${formatCount(MOST_RUNS)} most recently declared runs are shown.</p>`
          : nothing
      }
    </section>`;
}

function tiles({ queue, receiving, loaders, disk }: Status): TemplateResult {
  const wait =
    queue.oldestWaitSeconds === null
      ? 'none is waiting'
      : `the oldest for ${formatSeconds(queue.oldestWaitSeconds)}`;
  const queued = queue.betweenTries > 0 ? `${queue.betweenTries} after a failed attempt` : wait;
  const connected = loaders === 0 ? 'no loader is connected' : `loaders connected: ${loaders}`;
  const free = disk.freeBytes === null ? 'kept in a bucket' : `${formatBytes(disk.freeBytes)} free on disk`;
  return html`<dl class="tiles">
    ${tile('Runs receiving files', String(receiving.runs), `${formatBytes(receiving.missingBytes)} missing`)}
    ${tile('Stalled files', String(receiving.stalledFiles), `no bytes for over ${formatSeconds(receiving.stalledAfterSeconds)}`, receiving.stalledFiles > 0)}
    ${tile('Runs queued', String(queue.waiting), queued, queue.betweenTries > 0)}
    ${tile('Runs loading', String(queue.loading), connected, loaders === 0)}
    ${tile('Largest file accepted', formatBytes(disk.largestUploadBytes), free)}
  </dl>`;
}

function tile(name: string, value: string, hint: string, isAlarming = false): TemplateResult {
  return html`<div class="tile" ?data-alarm=${isAlarming}>
    <dt>${name}</dt>
    <dd><strong>${value}</strong><span>${hint}</span></dd>
  </div>`;
}

/** The service lists this many, the newest. */
const MOST_ATTENTION = 50;

function attention(runs: readonly RunSummary[], nowMs: number): TemplateResult {
  if (runs.length === 0) {
    return html`<p class="calm"><span aria-hidden="true">✓</span> No run needs attention.</p>`;
  }
  return html`<section aria-labelledby="attention-title">
    <h2 id="attention-title">Needs attention</h2>
    <ul class="attention">
      ${runs.map(
        (run) => html`<li>
          ${stateBadge(run.state)}
          <a href=${runHref(run)}>${run.model} <span class="key">${run.run}</span></a>
          <span class="why">${problemOf(run, nowMs)}</span>
        </li>`,
      )}
    </ul>
    ${
      runs.length < MOST_ATTENTION
        ? nothing
        : html`<p class="hint">Only the ${MOST_ATTENTION} most recently declared runs are listed here.</p>`
    }
  </section>`;
}

function problemOf(
  { state, error, brokenGates, files, lastProgressAt, load }: RunSummary,
  nowMs: number,
): string {
  if (state === 'failed') return error?.detail ?? 'The data was rejected.';
  if (state === 'held')
    return `Not published. ${brokenGates.map((gate) => `${capitalized(describeGate(gate).sentence)}.`).join(' ')}`;
  if (files.stalled > 0) {
    const last = lastProgressAt === null ? '' : ` Last activity: ${formatAgo(lastProgressAt, nowMs)}.`;
    return `Stalled files: ${files.stalled} of ${files.total}.${last}`;
  }
  if (state === 'loading') return `Load attempt ${load?.attempt} is running; an earlier attempt failed.`;
  if (load?.lastError == null)
    return `Load attempt ${load?.attempt} failed; the run is queued for another one.`;
  return `Load attempt ${load.attempt} failed and is retried automatically: ${load.lastError}`;
}

function noRuns(): TemplateResult {
  return html`<p class="card">There are no runs yet. To send one: <code>uploader push DIR</code></p>`;
}

const SHOWN_MONTHS = 12;
const SHOWN_IN_A_CELL = 3;

/** A row a model, a column a month of `as_of`: a missing run shows as an empty cell. */
function grid(runs: readonly RunSummary[]): TemplateResult {
  const models = [...new Set(runs.map((run) => run.model))].sort();
  const months = [...new Set(runs.map(monthOf))].sort().reverse().slice(0, SHOWN_MONTHS);
  const cells = Map.groupBy(runs, (run) => `${run.model} ${monthOf(run)}`);
  const table = html`<table class="grid">
    <thead>
      <tr>
        <th scope="col">Model</th>
        ${months.map((month) => html`<th scope="col">${month}</th>`)}
      </tr>
    </thead>
    <tbody>
      ${models.map(
        (model) => html`<tr>
          <th scope="row">${model}</th>
          ${months.map((month) => html`<td>${cell(cells.get(`${model} ${month}`) ?? [])}</td>`)}
        </tr>`,
      )}
    </tbody>
  </table>`;
  return html`${scrollable('grid-title', table)} ${legend()}`;
}

function monthOf({ as_of }: RunSummary): string {
  return as_of.slice(0, 7);
}

function cell(runs: readonly RunSummary[]): TemplateResult {
  if (runs.length === 0) return html`<span class="hole" title="no run">·</span>`;
  const newestFirst = [...runs].sort((a, b) => Date.parse(b.as_of) - Date.parse(a.as_of));
  const hidden = runs.length - SHOWN_IN_A_CELL;
  return html`${newestFirst.slice(0, SHOWN_IN_A_CELL).map(chip)}
  ${hidden > 0 ? html`<span class="hint">${hidden} more</span>` : nothing}`;
}

function chip(run: RunSummary): TemplateResult {
  const { state, publishedRevision, revision, files } = run;
  const shown =
    publishedRevision === null || publishedRevision === revision
      ? ''
      : `; readers see revision ${publishedRevision}`;
  const stalled = files.stalled > 0 ? `; stalled files: ${files.stalled}` : '';
  return html`<a
    class="chip"
    href=${runHref(run)}
    data-state=${state}
    ?data-shown=${publishedRevision !== null}
    ?data-alarm=${files.stalled > 0}
    title=${`${run.run}: ${state} (${meaningOf(state)})${shown}${stalled}`}
    aria-label=${`${run.model} ${run.run}: ${state}${shown}${stalled}`}
  >
    <span class="sign" aria-hidden="true">${signOf(state)}</span>
    <span class="key">${run.run}</span>
    ${progress(run)}
  </a>`;
}

function progress({ state, bytes, load }: RunSummary): TemplateResult | typeof nothing {
  if (state !== 'receiving' && state !== 'queued' && state !== 'loading') return nothing;
  const done = state === 'loading' ? (load?.bytes ?? 0) : bytes.received;
  return html`<progress max="100" .value=${percent(done, bytes.total)} aria-hidden="true"></progress>`;
}

function legend(): TemplateResult {
  return html`<dl class="legend" aria-label="Legend">
    ${STATES.map(
      (state) => html`<div>
        <dt><span class="sign" data-state=${state} aria-hidden="true">${signOf(state)}</span> ${state}</dt>
        <dd>${meaningOf(state)}</dd>
      </div>`,
    )}
    <div>
      <dt><span class="sign shown" aria-hidden="true"></span> green frame</dt>
      <dd>readers see this run</dd>
    </div>
    <div>
      <dt><span class="sign stalled" aria-hidden="true"></span> red dashes</dt>
      <dd>a file of the run is stalled</dd>
    </div>
  </dl>`;
}

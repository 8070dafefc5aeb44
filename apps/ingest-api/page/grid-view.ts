import type { RunSummary, Status } from 'wire';
import { type AppState, runHref } from './app-state.ts';
import { attentionList } from './attention-view.ts';
import { formatBytes, formatSeconds, percent } from './format.ts';
import { isMoving, meaningOf, STATES, signOf } from './run-state.ts';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

const SHOWN_MONTHS = 12;
const SHOWN_IN_A_CELL = 3;

export function gridPage(state: AppState): TemplateResult {
  if (state.status === undefined) return html`<p class="hint">Asking the service…</p>`;
  return html`<h1 tabindex="-1" class="out-of-sight">Overview</h1>
    ${tiles(state.status)} ${attentionList(state.status.needsAttention, state.nowMs)}
    <section aria-labelledby="grid-title">
      <h2 id="grid-title">Models and months</h2>
      ${state.runs.size === 0 ? nothingYet() : grid([...state.runs.values()])}
      ${state.hasMoreRuns ? html`<p class="hint">Only the runs that were declared last are shown.</p>` : nothing}
    </section>`;
}

function nothingYet(): TemplateResult {
  return html`<p class="card">No run yet. <code>uploader push DIR</code> sends the first one.</p>`;
}

function tiles({ queue, receiving, loaders, disk }: Status): TemplateResult {
  const wait =
    queue.oldestWaitSeconds === null ? 'nothing waits' : `oldest ${formatSeconds(queue.oldestWaitSeconds)}`;
  return html`<dl class="tiles">
    ${tile('Receiving', String(receiving.runs), `${formatBytes(receiving.missingBytes)} to come`)}
    ${tile('Stalled files', String(receiving.stalledFiles), `no byte for ${formatSeconds(receiving.stalledAfterSeconds)}`, receiving.stalledFiles > 0)}
    ${tile('Waiting', String(queue.waiting), queue.betweenTries > 0 ? `${queue.betweenTries} to be tried again` : wait, queue.betweenTries > 0)}
    ${tile('Loading', String(queue.loading), `${loaders} ${loaders === 1 ? 'loader' : 'loaders'} up`, loaders === 0)}
    ${tile('Largest upload', formatBytes(disk.largestUploadBytes), `${formatBytes(disk.freeBytes)} free on the disk`)}
  </dl>`;
}

function tile(name: string, value: string, hint: string, isAlarming = false): TemplateResult {
  return html`<div class="tile" ?data-alarm=${isAlarming}>
    <dt>${name}</dt>
    <dd><strong>${value}</strong><span>${hint}</span></dd>
  </div>`;
}

/** A column a month of `as_of`: a run that is missing shows as a hole. */
function grid(runs: readonly RunSummary[]): TemplateResult {
  const models = [...new Set(runs.map((run) => run.model))].sort();
  const months = [...new Set(runs.map(monthOf))].sort().reverse().slice(0, SHOWN_MONTHS);
  const cells = Map.groupBy(runs, (run) => `${run.model} ${monthOf(run)}`);
  return html`<div class="scroll" tabindex="0" role="region" aria-labelledby="grid-title">
      <table class="grid">
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
      </table>
    </div>
    ${legend()}`;
}

function cell(runs: readonly RunSummary[]): TemplateResult {
  if (runs.length === 0) return html`<span class="hole" title="no run">·</span>`;
  const newestFirst = [...runs].sort((a, b) => Date.parse(b.as_of) - Date.parse(a.as_of));
  return html`${newestFirst.slice(0, SHOWN_IN_A_CELL).map(chip)}
  ${runs.length > SHOWN_IN_A_CELL ? html`<span class="hint">+${runs.length - SHOWN_IN_A_CELL}</span>` : nothing}`;
}

function chip(run: RunSummary): TemplateResult {
  const isShown = run.publishedRevision !== null;
  const stalled = run.files.stalled > 0 ? `, ${run.files.stalled} stalled` : '';
  return html`<a
    class="chip"
    href=${runHref(run)}
    data-state=${run.state}
    ?data-shown=${isShown}
    ?data-alarm=${run.files.stalled > 0}
    title=${`${run.run}: ${meaningOf(run.state)}${stalled}`}
    aria-label=${`${run.model} ${run.run}: ${run.state}${isShown ? ', shown to readers' : ''}${stalled}`}
  >
    <span class="sign" aria-hidden="true">${signOf(run.state)}</span>
    <span class="key">${run.run}</span>
    ${isMoving(run.state) ? html`<progress max="100" .value=${progressPercent(run)} aria-hidden="true"></progress>` : nothing}
  </a>`;
}

function progressPercent(run: RunSummary): number {
  if (run.state === 'loading') return percent(run.load?.bytes ?? 0, run.bytes.total);
  return percent(run.bytes.received, run.bytes.total);
}

function legend(): TemplateResult {
  return html`<ul class="legend" aria-label="Legend">
    ${STATES.map(
      (state) =>
        html`<li title=${meaningOf(state)}>
          <span class="sign" data-state=${state} aria-hidden="true">${signOf(state)}</span> ${state}
        </li>`,
    )}
    <li><span class="sign shown" aria-hidden="true"></span> framed: readers see it</li>
  </ul>`;
}

function monthOf({ as_of }: RunSummary): string {
  return as_of.slice(0, 7);
}

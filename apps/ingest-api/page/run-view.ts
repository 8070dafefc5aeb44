import type { Run, RunHistory, RunState } from 'wire';
import { actionBar } from './actions-view.ts';
import { type AppState, runHref } from './app-state.ts';
import { filesSection, type ShowFiles } from './files-view.ts';
import { formatBytes, formatCount, formatInstant } from './format.ts';
import { describeGate, nameOfGate } from './gate-names.ts';
import { attemptsTable, eventsTable } from './history-view.ts';
import { profileSection } from './profile-view.ts';
import { progressSection } from './progress-view.ts';
import { rejectsSection } from './rejects-view.ts';
import { stateBadge } from './run-state.ts';
import { timeline } from './timeline-view.ts';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

const WHY: Partial<Record<RunState, string>> = { failed: 'The data is at fault' };

export function runPage(state: AppState, refresh: () => Promise<void>, showFiles: ShowFiles): TemplateResult {
  const { run, history, route, files } = state;
  if (route.page !== 'run') return html``;
  if (run === undefined || history === undefined) {
    return html`<h1 tabindex="-1">${route.model} <span class="key">${route.run}</span></h1>
      ${state.fault === undefined ? html`<p class="hint">Asking the service…</p>` : nothing}`;
  }
  return html`<p class="crumbs"><a href="#/">Overview</a></p>
    <div class="title">
      <h1 tabindex="-1">${run.model} <span class="key">${run.run}</span></h1>
      ${stateBadge(run.state)}
      <span class="hint">revision ${run.revision}</span>
      ${actionBar(run, state, refresh)}
    </div>
    ${shownTo(run)} ${reason(run)} ${timeline(run)} ${progressSection(run, history, state.nowMs)}
    ${gates(run)} ${facts(run)} ${rejectsSection(run)} ${profileSection(run)} ${filesSection(run, files, state.nowMs, showFiles)}
    ${past(history)}`;
}

function shownTo({ shown, run, revision, model }: Run): TemplateResult {
  if (shown === null)
    return html`<p class="hint">Readers of <code>scores.${model}</code> see no run yet.</p>`;
  if (shown.run !== run) {
    return html`<p class="hint">
      Readers of <code>scores.${model}</code> see
      <a href=${runHref({ model, run: shown.run })}>${shown.run}</a> (as of ${formatInstant(shown.as_of)}).
    </p>`;
  }
  return html`<p class="calm">
    <span aria-hidden="true">✓</span> Readers of <code>scores.${model}</code> see
    ${shown.revision === revision ? 'this revision' : `revision ${shown.revision} of this run`}.
  </p>`;
}

function reason({ error, load, state, gates }: Run): TemplateResult | typeof nothing {
  if (state === 'held') {
    const broken = (gates ?? []).filter((gate) => gate.broken);
    return html`<div class="banner" data-state=${state} role="alert">
      <strong>Loaded, but not shown to readers: somebody must decide</strong>
      ${broken.map((gate) => html`<p>${describeGate(gate)}</p>`)}
    </div>`;
  }
  if (error !== null) {
    return html`<div class="banner" data-state=${state} role="alert">
      <strong>${WHY[state] ?? 'It could not be loaded'}: <code>${error.code}</code></strong>
      <p>${error.detail}</p>
    </div>`;
  }
  if (load?.lastError == null || load.outcome !== 'retry') return nothing;
  return html`<div class="banner" data-state="queued" role="status">
    <strong>The load is tried again by itself</strong>
    <p>${load.lastError}</p>
    ${load.nextTryAt === null ? nothing : html`<p>Next try ${formatInstant(load.nextTryAt)}.</p>`}
  </div>`;
}

function gates({ gates }: Run): TemplateResult | typeof nothing {
  if (gates == null || gates.length === 0) return nothing;
  return html`<section aria-labelledby="gates-title">
    <h2 id="gates-title">Gates</h2>
    <div class="scroll" tabindex="0" role="region" aria-labelledby="gates-title">
      <table>
        <thead>
          <tr><th scope="col">Gate</th><th scope="col">Expected</th><th scope="col">Found</th><th scope="col">Result</th></tr>
        </thead>
        <tbody>
          ${gates.map(
            (gate) => html`<tr ?data-alarm=${gate.broken}>
              <th scope="row">${nameOfGate(gate.gate)}</th>
              <td>${text(gate.expected)}</td>
              <td>${text(gate.found)}</td>
              <td>${gate.broken ? '✕ broken' : '✓ kept'}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
  </section>`;
}

function facts(run: Run): TemplateResult {
  const source = run.source ?? {};
  const airflow = (source.airflow ?? {}) as Record<string, unknown>;
  return html`<section aria-labelledby="facts-title">
    <h2 id="facts-title">Sent by</h2>
    <dl class="facts">
      ${fact('Token', run.pushedBy)} ${fact('Host', source.host)} ${fact('User', source.user)}
      ${fact('DAG', airflow.dag_id)} ${fact('Task', airflow.task_id)} ${fact('DAG run', airflow.run_id)}
      ${fact('Try', airflow.try_number)} ${fact('As of', formatInstant(run.as_of))}
      ${fact('Declared', formatInstant(run.declaredAt))}
      ${fact('Files', `${formatCount(run.files.total)}, ${formatBytes(run.bytes.total)}`)}
      ${fact('Lines', run.lines === null ? 'not declared' : formatCount(run.lines))}
      ${fact('Rows', run.rows === null ? undefined : formatCount(run.rows))}
    </dl>
  </section>`;
}

function fact(name: string, value: unknown): TemplateResult | typeof nothing {
  if (value === undefined || value === null || value === '') return nothing;
  return html`<div><dt>${name}</dt><dd>${text(value)}</dd></div>`;
}

function past(history: RunHistory): TemplateResult {
  return html`${attemptsTable(history)} ${eventsTable(history)}`;
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

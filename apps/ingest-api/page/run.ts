import { actionBar } from './actions.ts';
import type { Contract, Profile, Run } from './api.ts';
import './charts.ts';
import { filesSection, rejectsSection, type ShowFiles } from './files.ts';
import {
  capitalized,
  formatAsOf,
  formatBytes,
  formatCount,
  formatMinute,
  formatScore,
  formatSeconds,
  formatValue,
  stateBadge,
  time,
} from './format.ts';
import { attemptsSection, auditSection } from './history.ts';
import { tableSection } from './layout.ts';
import { ownerLine } from './model.ts';
import { progressSection, timeline } from './progress.ts';
import { type AppState, modelHref, runHref } from './state.ts';
import { describeGate } from './vendor/gates.js';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

export function runPage(state: AppState, refresh: () => Promise<void>, showFiles: ShowFiles): TemplateResult {
  const { run, history, route, files, session, nowMs } = state;
  if (route.page !== 'run') return html``;
  const contract = state.models.get(route.model)?.contract ?? {};
  const overview = html`<p class="crumbs">
    <a href="#/">Overview</a> <span aria-hidden="true">›</span> <a href=${modelHref(route.model)}>${route.model}</a>
  </p>`;
  if (run === undefined || history === undefined) {
    return html`${overview}
      <h1 tabindex="-1">${route.model} <span class="key">${route.run}</span></h1>
      ${state.fault === undefined ? html`<p class="hint">Waiting for the service…</p>` : nothing}`;
  }
  return html`${overview}
    <div class="title">
      <h1 tabindex="-1">${run.model} <span class="key">${run.run}</span></h1>
      ${stateBadge(run.state)}
      <span class="hint">revision ${run.revision}</span>
      ${actionBar(run, session, refresh)}
    </div>
    ${shownToReaders(run)} ${banner(run, contract)} ${timeline(run)} ${progressSection(run, history, nowMs)} ${gatesSection(run)}
    ${detailsSection(run)} ${rejectsSection(run)} ${scoresSection(run)} ${filesSection(run, files, nowMs, showFiles)}
    ${attemptsSection(history)} ${auditSection(history)}`;
}

function shownToReaders({ shown, run, revision, model }: Run): TemplateResult {
  const readers = html`Readers of <code>scores.${model}</code>`;
  if (shown === null) return html`<p class="hint">${readers} see no run yet.</p>`;
  if (shown.run !== run) {
    return html`<p class="hint">
      ${readers} see run <a href=${runHref({ model, run: shown.run })}>${shown.run}</a> (as of ${formatAsOf(shown.as_of)}).
    </p>`;
  }
  return html`<p class="calm">
    <span aria-hidden="true">✓</span> ${readers} see
    ${shown.revision === revision ? 'this revision' : `revision ${shown.revision} of this run`}.
  </p>`;
}

/** What an operator must know first: why the run is held, was rejected, or is not loaded yet. */
function banner(
  { error, load, state, gates, files }: Run,
  contract: Contract,
): TemplateResult | typeof nothing {
  const owner = ownerLine(contract);
  if (state === 'held') {
    const broken = (gates ?? []).filter((gate) => gate.broken);
    return html`<div class="banner" data-state=${state} role="alert">
      <strong>Loaded, but not published: an operator must decide</strong>
      ${broken.map((gate) => html`<p>${capitalized(describeGate(gate).sentence)}.</p>`)}
      <p>
        Ask the owner of the model${owner === nothing ? nothing : html` (${owner})`} whether the scores are right. If they are, publish the run; if not, withdraw it. Until
        then, readers do not see it.
      </p>
    </div>`;
  }
  if (error !== null) {
    return html`<div class="banner" data-state=${state} role="alert">
      <strong>The data was rejected (<code>${error.code}</code>)</strong>
      <p>${error.detail}</p>
      ${owner === nothing ? nothing : html`<p>Owner of the model: ${owner}</p>`}
    </div>`;
  }
  if (files.stalled > 0) {
    return html`<div class="banner" data-state="failed" role="alert">
      <strong>Stalled files: ${files.stalled} of ${files.total}</strong>
      <p>
        Their bytes stopped arriving. Check whether the sender still runs (see Details). To continue, push the run again: only
        the missing bytes are sent.
      </p>
    </div>`;
  }
  const hasFailed = load?.outcome === 'retry' || load?.outcome === 'lost';
  if (!hasFailed || (state !== 'queued' && state !== 'receiving')) return nothing;
  return html`<div class="banner" data-state="queued" role="status">
    <strong>Load attempt ${load.attempt} failed</strong>
    <p>${load.lastError}</p>
    ${
      state === 'receiving'
        ? html`<p>The load is retried when all files are received again.</p>`
        : html`<p>
            The load is retried automatically${load.nextTryAt === null ? '' : html`, not before ${time(load.nextTryAt)}`}.
          </p>`
    }
  </div>`;
}

function gatesSection({ gates }: Run): TemplateResult | typeof nothing {
  if (gates == null || gates.length === 0) return nothing;
  const table = html`<table>
    <thead>
      <tr>
        <th scope="col">Gate</th><th scope="col">Contract</th><th scope="col">Found</th><th scope="col">Result</th>
      </tr>
    </thead>
    <tbody>
      ${gates.map((gate) => {
        const { name, limit, found } = describeGate(gate);
        return html`<tr ?data-alarm=${gate.broken}>
          <th scope="row">${name}</th>
          <td>${limit}</td>
          <td>${found}</td>
          <td>${gate.broken ? '✕ broken' : '✓ passed'}</td>
        </tr>`;
      })}
    </tbody>
  </table>`;
  return tableSection('gates-title', 'Quality gates', table);
}

function detailsSection(run: Run): TemplateResult {
  const source = run.source ?? {};
  const airflow = (source.airflow ?? {}) as Record<string, unknown>;
  return html`<section aria-labelledby="details-title">
    <h2 id="details-title">Details</h2>
    <dl class="facts">
      ${fact('As of', formatAsOf(run.as_of))} ${fact('Declared', time(run.declaredAt, formatMinute))}
      ${fact('Files', `${formatCount(run.files.total)}, ${formatBytes(run.bytes.total)}`)}
      ${fact('Lines', run.lines === null ? 'not declared' : formatCount(run.lines))}
      ${fact('Rows loaded', run.rows === null ? undefined : formatCount(run.rows))}
      ${fact('Sent with token', run.pushedBy)} ${fact('Host', source.host)} ${fact('User', source.user)}
      ${fact('Airflow DAG', airflow.dag_id)} ${fact('Airflow task', airflow.task_id)}
      ${fact('Airflow run', airflow.run_id)} ${fact('Airflow try', airflow.try_number)}
    </dl>
  </section>`;
}

function fact(name: string, value: unknown): TemplateResult | typeof nothing {
  if (value === undefined || value === null || value === '') return nothing;
  return html`<div><dt>${name}</dt><dd>${isTemplate(value) ? value : formatValue(value)}</dd></div>`;
}

function isTemplate(value: unknown): value is TemplateResult {
  return typeof value === 'object' && value !== null && '_$litType$' in value;
}

interface Measure {
  readonly name: string;
  of(profile: Profile): number | null;
  format(value: number | null): string;
}

const MEASURES: readonly Measure[] = [
  { name: 'Rows', of: ({ rows }) => rows, format: (rows) => formatCount(rows ?? 0) },
  { name: 'Lowest score', of: ({ min }) => min, format: formatScore },
  { name: 'Mean score', of: ({ mean }) => mean, format: formatScore },
  { name: 'Highest score', of: ({ max }) => max, format: formatScore },
  { name: 'Standard deviation', of: ({ stddev }) => stddev, format: formatScore },
  { name: 'Bytes', of: ({ bytes }) => bytes, format: (bytes) => formatBytes(bytes ?? 0) },
  { name: 'Load time', of: ({ seconds }) => seconds, format: (seconds) => formatSeconds(seconds ?? 0) },
];

/** The scores of this run beside those that readers saw before: the question "what changed?". */
function scoresSection({ profile, previous }: Run): TemplateResult | typeof nothing {
  if (profile == null) return nothing;
  const before = previous?.profile ?? undefined;
  return html`<section aria-labelledby="scores-title">
    <h2 id="scores-title">
      Scores${previous == null ? nothing : html` compared with run <span class="key">${previous.run}</span>`}
    </h2>
    <div class="beside">
      <figure>
        <figcaption class="hint">Score below which 0 %, 10 %, … 100 % of the rows are</figcaption>
        <decile-chart .profiles=${{ now: profile, before }}></decile-chart>
      </figure>
      <table>
        <thead>
          <tr>
            <td></td>
            <th scope="col" class="number">This run</th>
            ${before === undefined ? nothing : html`<th scope="col" class="number">Previous</th><th scope="col" class="number">Change</th>`}
          </tr>
        </thead>
        <tbody>
          ${MEASURES.map(
            ({ name, of, format }) => html`<tr>
              <th scope="row">${name}</th>
              <td class="number">${format(of(profile))}</td>
              ${
                before === undefined
                  ? nothing
                  : html`<td class="number">${format(of(before))}</td>
                      <td class="number">${change(of(before), of(profile))}</td>`
              }
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
  </section>`;
}

function change(before: number | null, now: number | null): string {
  if (before === null || now === null || before === 0) return '–';
  const percent = (100 * (now - before)) / Math.abs(before);
  const rounded = Number(percent.toFixed(Math.abs(percent) < 10 ? 1 : 0));
  return `${rounded > 0 ? '+' : ''}${rounded} %`;
}

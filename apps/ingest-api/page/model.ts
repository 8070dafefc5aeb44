import type { Attribute, Contract, Model, Profile, RunSummary } from './api.ts';
import './charts.ts';
import type { HistoryChartData } from './charts.ts';
import {
  ago,
  formatAsOf,
  formatBytes,
  formatCount,
  formatDay,
  formatMinute,
  formatScore,
  formatSpan,
  inNaturalOrder,
  stateBadge,
  time,
} from './format.ts';
import { tableSection } from './layout.ts';
import { senderOf } from './overview.ts';
import { type AppState, runHref } from './state.ts';
import { describeLimit } from './vendor/gates.js';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

/** A model over all its runs: what readers see, what is due, how its scores develop, and every run. */
export function modelPage(state: AppState, showMore: () => void): TemplateResult {
  const { route, models, modelRuns, fault, nowMs } = state;
  if (route.page !== 'model') return html``;
  const crumbs = html`<p class="crumbs"><a href="#/">Overview</a></p>`;
  const model = models.get(route.model);
  if (model === undefined || modelRuns === undefined) {
    return html`${crumbs}
      <h1 tabindex="-1">${route.model}</h1>
      ${fault === undefined ? html`<p class="hint">Waiting for the service…</p>` : nothing}`;
  }
  const runs = modelRuns.runs.toSorted(
    (a, b) => Date.parse(b.as_of) - Date.parse(a.as_of) || inNaturalOrder(b.run, a.run),
  );
  return html`${crumbs}
    <div class="title"><h1 tabindex="-1">${model.model}</h1></div>
    ${overdueBanner(model, runs, nowMs)} ${factsSection(model, nowMs)} ${chartsSection(runs)} ${contractSection(model.contract)} ${attributesSection(model.contract)}
    ${runsSection(runs, modelRuns.nextCursor !== null, showMore)}`;
}

/** Who answers for a model, as its contract says; nothing when it does not. */
export function ownerLine({ owner, contact }: Contract): TemplateResult | typeof nothing {
  if (owner === undefined && contact === undefined) return nothing;
  return html`<span class="owner">${owner}${owner !== undefined && contact !== undefined ? ', ' : ''}${contact === undefined ? nothing : contactLink(contact)}</span>`;
}

/** Only web and e-mail addresses become links: whoever may set a contract chooses the text. */
function contactLink(contact: string): TemplateResult {
  const address = /^[^\s@:/?]+@[^\s@:/?]+$/.test(contact) ? `mailto:${contact}` : contact;
  return /^(https:\/\/|mailto:)/.test(address)
    ? html`<a href=${address} rel="noreferrer">${contact}</a>`
    : html`${contact}`;
}

function overdueBanner({ due, current, contract }: Model, runs: readonly RunSummary[], nowMs: number) {
  if (due === null || Date.parse(due.at) >= nowMs) return nothing;
  const later = runs.find(({ as_of }) => current === null || Date.parse(as_of) > Date.parse(current.as_of));
  return html`<div class="banner" data-state="failed" role="alert">
    <strong>The next run has been overdue for ${formatSpan((nowMs - Date.parse(due.at)) / 1000)}</strong>
    <p>
      No run as of ${formatAsOf(due.as_of)} or later is published; the contract expects one ${every(contract)}.
      ${
        later === undefined
          ? 'No later run has been declared: check whether the job of this model ran.'
          : html`Run <a href=${runHref(later)}>${later.run}</a> is ${later.state}.`
      }
    </p>
  </div>`;
}

function factsSection({ model, contract, current, due, createdAt }: Model, nowMs: number): TemplateResult {
  const { expectEvery, expectGrace } = contract;
  return html`<section aria-label="Facts">
    <dl class="facts">
      ${
        current === null
          ? fact('Readers see', 'no run yet')
          : html`${fact('Readers see', html`<a href=${runHref({ model, run: current.run })}><span class="key">${current.run}</span></a>`)}
            ${fact('As of', formatAsOf(current.as_of))} ${fact('Rows', current.rows === null ? '–' : formatCount(current.rows))}
            ${fact('Published', html`${ago(current.publishedAt, nowMs)} by ${current.publishedBy}`)}`
      }
      ${fact('Owner', contract.owner)} ${fact('Contact', contract.contact === undefined ? undefined : contactLink(contract.contact))}
      ${fact('A run is expected', expectEvery === undefined ? 'not in the contract' : `${every(contract)}, ${expectGrace ?? '1 day'} of grace`)}
      ${
        due === null
          ? nothing
          : html`${fact('Next run', `as of ${formatAsOf(due.as_of)}`)} ${fact('Due by', html`${time(due.at, formatMinute)}${dueIn(due.at, nowMs)}`)}`
      }
      ${fact('Model created', time(createdAt, formatDay))}
    </dl>
  </section>`;
}

function every({ expectEvery = '' }: Contract): string {
  return `every ${expectEvery.replace(/^0*1 /, '')}`;
}

function dueIn(at: string, nowMs: number): string {
  const seconds = (Date.parse(at) - nowMs) / 1000;
  return seconds < 0 ? ' – overdue' : `, in ${formatSpan(seconds)}`;
}

function fact(name: string, value: unknown): TemplateResult | typeof nothing {
  if (value === undefined) return nothing;
  return html`<div><dt>${name}</dt><dd>${value}</dd></div>`;
}

type LoadedRun = RunSummary & { readonly profile: Profile };

function chartsSection(runs: readonly RunSummary[]): TemplateResult | typeof nothing {
  const loaded = runs.filter((run): run is LoadedRun => run.profile != null).reverse();
  if (loaded.length === 0) return nothing;
  const chart = (title: string, data: Omit<HistoryChartData, 'title' | 'runs'>) => html`<figure class="card">
    <figcaption>${title}</figcaption>
    <history-chart .data=${{ title, runs: loaded, ...data }}></history-chart>
  </figure>`;
  const line = (label: string, of: (profile: Profile) => number | null) => ({ label, of });
  return html`<section aria-labelledby="charts-title">
    <h2 id="charts-title">Over ${formatCount(loaded.length)} loaded ${loaded.length === 1 ? 'run' : 'runs'}</h2>
    <div class="charts">
      ${chart('Rows', { format: formatCount, fromZero: true, lines: [line('rows', ({ rows }) => rows)] })}
      ${chart('Mean score', { format: formatScore, fromZero: false, lines: [line('mean', ({ mean }) => mean)] })}
      ${chart('Deciles of the scores', {
        format: formatScore,
        fromZero: false,
        lines: [
          line('10 %', decile(1)),
          line('30 %', decile(3)),
          line('median', decile(5)),
          line('70 %', decile(7)),
          line('90 %', decile(9)),
        ],
      })}
      ${chart('Bytes', { format: formatBytes, fromZero: true, lines: [line('bytes', ({ bytes }) => bytes)] })}
    </div>
  </section>`;
}

/** The score below which `tenths` tenths of the rows are. */
function decile(tenths: number): (profile: Profile) => number | null {
  return ({ deciles }) => deciles[tenths - 1] ?? null;
}

const LIMITS: readonly (readonly [keyof Contract, string, (value: number) => string])[] = [
  ['maxRows', 'Rows, or the run is refused', (rows) => `at most ${formatCount(rows)}`],
  ['maxBytes', 'Bytes of lines, or the run is refused', (bytes) => `at most ${formatBytes(bytes)}`],
  ['keepRevisions', 'Loaded revisions kept beside the published one', formatCount],
];

function contractSection(contract: Contract): TemplateResult {
  const rows = [
    ...Object.entries(contract).flatMap(([gate, expected]) => {
      const gateInWords = describeLimit(gate, expected);
      return gateInWords === undefined ? [] : [[gateInWords.name, gateInWords.limit] as const];
    }),
    ...LIMITS.flatMap(([field, name, format]) => {
      const value = contract[field];
      return typeof value === 'number' ? [[name, format(value)] as const] : [];
    }),
  ];
  if (rows.length === 0) {
    return html`<section aria-labelledby="gates-title">
      <h2 id="gates-title">Quality gates</h2>
      <p class="hint">The contract has none: every run whose lines are valid is published. To set one: <code>ingest-api model set</code></p>
    </section>`;
  }
  const table = html`<table>
    <thead><tr><th scope="col">Gate or limit</th><th scope="col">Contract</th></tr></thead>
    <tbody>${rows.map(([name, limit]) => html`<tr><th scope="row">${name}</th><td>${limit}</td></tr>`)}</tbody>
  </table>`;
  return tableSection('gates-title', 'Quality gates', table);
}

function attributesSection({ attributes = [] }: Contract): TemplateResult | typeof nothing {
  if (attributes.length === 0) return nothing;
  const table = html`<table>
    <thead>
      <tr><th scope="col">Attribute</th><th scope="col">Type</th><th scope="col">In every line</th><th scope="col">Allowed values</th></tr>
    </thead>
    <tbody>${attributes.map(
      (it) =>
        html`<tr><th scope="row">${it.name}</th><td>${it.type}</td><td>${it.required ? 'yes' : 'no'}</td><td>${allowedValues(it)}</td></tr>`,
    )}</tbody>
  </table>`;
  return tableSection('attributes-title', 'Declared attributes', table);
}

function allowedValues(attribute: Attribute): string {
  const { min, max } = 'min' in attribute || 'max' in attribute ? attribute : {};
  const rules = [
    ...(min === undefined ? [] : [`at least ${min}`]),
    ...(max === undefined ? [] : [`at most ${max}`]),
    ...('enum' in attribute ? [`one of ${attribute.enum?.join(', ')}`] : []),
  ];
  return rules.length === 0 ? 'any' : rules.join('; ');
}

function runsSection(runs: readonly RunSummary[], hasMore: boolean, showMore: () => void): TemplateResult {
  const table = html`<table class="runs">
    <thead>
      <tr>
        <th scope="col">As of</th><th scope="col">Run</th><th scope="col">State</th>
        <th scope="col" class="number">Rows</th><th scope="col" class="number">Mean</th>
        <th scope="col" class="number">Median</th><th scope="col" class="number">Bytes</th>
        <th scope="col">Declared</th><th scope="col">Sender</th>
      </tr>
    </thead>
    <tbody>
      ${runs.map(
        (run) => html`<tr ?data-shown=${run.publishedRevision !== null}>
          <td class="time">${formatAsOf(run.as_of)}</td>
          <th scope="row"><a href=${runHref(run)}><span class="key">${run.run}</span></a>${run.revision === 1 ? nothing : html` <span class="hint">revision ${run.revision}</span>`}</th>
          <td>${stateBadge(run.state)}</td>
          <td class="number">${run.rows === null ? '–' : formatCount(run.rows)}</td>
          <td class="number">${formatScore(run.profile?.mean ?? null)}</td>
          <td class="number">${formatScore(run.profile?.deciles[4] ?? null)}</td>
          <td class="number">${formatBytes(run.bytes.total)}</td>
          <td class="time">${time(run.declaredAt, formatMinute)}</td>
          <td class="sender">${senderOf(run)}</td>
        </tr>`,
      )}
    </tbody>
  </table>`;
  const title = `Runs: ${formatCount(runs.length)}${hasMore ? ' of more' : ''}`;
  return tableSection('runs-title', title, table, {
    ...(hasMore ? { after: html`<p><button @click=${showMore}>Show more runs</button></p>` } : {}),
  });
}

import type { RunSummary, Status } from './api.ts';
import {
  ago,
  capitalized,
  formatAsOf,
  formatBytes,
  formatCount,
  formatSpan,
  inNaturalOrder,
  signOf,
} from './format.ts';
import { gridSection } from './grid.ts';
import { type AppState, modelHref, runHref, type View } from './state.ts';
import { describeGate } from './vendor/gates.js';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

export function overviewPage(state: AppState, change: (view: Partial<View>) => void): TemplateResult {
  const { status, fault } = state;
  if (status === undefined)
    return fault === undefined ? html`<p class="hint">Waiting for the service…</p>` : html``;
  return html`<h1 tabindex="-1" class="out-of-sight">Overview</h1>
    ${figures(status)} ${needsSection(state, status)} ${gridSection(state, change)}`;
}

function figures({ queue, receiving, loaders, disk }: Status): TemplateResult {
  const wait =
    queue.oldestWaitSeconds === null ? '' : `the oldest for ${formatSpan(queue.oldestWaitSeconds)}`;
  const queued = queue.betweenTries > 0 ? `${queue.betweenTries} after a failed attempt` : wait;
  const missing = receiving.missingBytes === 0 ? '' : `${formatBytes(receiving.missingBytes)} missing`;
  const connected =
    loaders === 0
      ? 'no loader is connected'
      : `${formatCount(loaders)} ${loaders === 1 ? 'loader' : 'loaders'}`;
  const stalled =
    receiving.stalledFiles > 0 ? `no bytes for over ${formatSpan(receiving.stalledAfterSeconds)}` : '';
  const largest = `for files up to ${formatBytes(disk.largestUploadBytes)}`;
  return html`<dl class="figures">
    ${figure('Receiving', formatCount(receiving.runs), missing)}
    ${figure('Stalled files', formatCount(receiving.stalledFiles), stalled, receiving.stalledFiles > 0)}
    ${figure('Queued', formatCount(queue.waiting), queued, queue.betweenTries > 0)}
    ${figure('Loading', formatCount(queue.loading), connected, loaders === 0)}
    ${
      disk.freeBytes === null
        ? figure('Store', 'bucket', largest)
        : figure('Free disk', formatBytes(disk.freeBytes), largest)
    }
  </dl>`;
}

function figure(name: string, value: string, hint: string, isAlarming = false): TemplateResult {
  return html`<div ?data-alarm=${isAlarming}>
    <dt>${name}</dt>
    <dd><strong>${value}</strong> <span>${hint}</span></dd>
  </div>`;
}

type Need = 'failed' | 'held' | 'stalled' | 'retrying' | 'overdue';

/** Why the run needs a person, as the service decides it, too. */
export function needOf({ state, files, load }: RunSummary): Exclude<Need, 'overdue'> | undefined {
  if (state === 'failed' || state === 'held') return state;
  if (state === 'receiving') return files.stalled > 0 ? 'stalled' : undefined;
  if ((state === 'queued' || state === 'loading') && load !== null && load.attempt > 1) return 'retrying';
  return undefined;
}

const NEEDS: Readonly<
  Record<Need, { readonly sign: string; readonly name: string; readonly advice: string }>
> = {
  failed: {
    sign: signOf('failed'),
    name: 'Failed',
    advice: 'The data is wrong. Its sender fixes it and pushes again.',
  },
  held: {
    sign: signOf('held'),
    name: 'Held',
    advice: 'A quality gate is broken. Ask the owner; then publish the run or withdraw it.',
  },
  stalled: {
    sign: signOf('receiving'),
    name: 'Stalled',
    advice: 'Bytes stopped arriving. Check the sender; pushing again sends what is missing.',
  },
  retrying: {
    sign: signOf('queued'),
    name: 'Retrying',
    advice: 'Loads broke off: a fault of network, database or disk. They are retried without help.',
  },
  overdue: {
    sign: '!',
    name: 'Overdue',
    advice: 'The expected run was not published in time. Check whether its job ran.',
  },
};

/** A model with what it needs. */
interface Line {
  readonly model: string;
  /** Of this kind, the newest first; of an overdue model the one that is not published yet, with its state. */
  readonly runs: readonly { readonly run: string; readonly note?: string }[];
  readonly why: string;
  readonly since: string | null;
  readonly who: string;
}

/** The service lists this many of each, the newest. */
const MOST_LISTED = 50;
const UNFOLDED_LINES = 6;

function needsSection({ models, nowMs }: AppState, status: Status): TemplateResult {
  const { needsAttention, overdue, overdueModels } = status;
  const kinds = Map.groupBy(needsAttention, (run) => needOf(run) ?? 'retrying');
  const groups = (Object.keys(NEEDS) as Need[]).map((need) => {
    const lines = need === 'overdue' ? overdue.map(overdueLine) : runLines(kinds.get(need) ?? []);
    return { need, lines: lines.map((line) => ({ ...line, who: line.who || ownerOf(line.model) })) };
  });
  function ownerOf(model: string): string {
    const { owner, contact } = models.get(model)?.contract ?? {};
    return [owner, contact].filter((text) => text !== undefined).join(', ');
  }
  const count = needsAttention.length + overdueModels;
  if (count === 0) return html`<p class="calm"><span aria-hidden="true">✓</span> Nothing needs you.</p>`;
  const isCut = needsAttention.length >= MOST_LISTED || overdueModels > overdue.length;
  return html`<section class="needs" aria-labelledby="needs-title">
    <h2 id="needs-title">Needs you <span class="count">${count}${needsAttention.length >= MOST_LISTED ? '+' : ''}</span></h2>
    ${groups.map(({ need, lines }) => needGroup(need, lines, nowMs))}
    ${isCut ? html`<p class="hint">At most ${MOST_LISTED} runs, the last declared, and ${MOST_LISTED} overdue models are listed here.</p>` : nothing}
  </section>`;
}

function needGroup(need: Need, lines: readonly Line[], nowMs: number): TemplateResult | typeof nothing {
  if (lines.length === 0) return nothing;
  const { sign, name, advice } = NEEDS[need];
  const count = lines.reduce((sum, { runs }) => sum + Math.max(1, runs.length), 0);
  const list = (some: readonly Line[]) => html`<ul>${some.map((line) => needLine(line, nowMs))}</ul>`;
  const more = lines.slice(UNFOLDED_LINES);
  return html`<section class="need" data-need=${need} aria-label=${name}>
    <h3><span class="sign" aria-hidden="true">${sign}</span> ${name} ${count} <span class="hint">${advice}</span></h3>
    ${list(lines.slice(0, UNFOLDED_LINES))}
    ${more.length === 0 ? nothing : html`<details><summary>${more.length} more models</summary>${list(more)}</details>`}
  </section>`;
}

const SHOWN_RUNS = 3;

function needLine({ model, runs, why, since, who }: Line, nowMs: number): TemplateResult {
  const hidden = runs.length - SHOWN_RUNS;
  return html`<li>
    <span class="what">
      <a class="model" href=${modelHref(model)}>${model}</a>
      ${runs
        .slice(0, SHOWN_RUNS)
        .map(
          ({ run, note }) =>
            html`<a class="key" href=${runHref({ model, run })}>${run}</a> ${note === undefined ? nothing : html`<span class="hint">${note}</span> `}`,
        )}
      ${hidden > 0 ? html`<a class="hint" href=${modelHref(model)}>and ${hidden} more</a>` : nothing}
    </span>
    <span class="why" title=${why}>${why}</span>
    <span class="when">${since === null ? nothing : ago(since, nowMs)}</span>
    <span class="who" title=${who}>${who}</span>
  </li>`;
}

/** One line a model; its text is about the newest of the runs. */
function runLines(runs: readonly RunSummary[]): Line[] {
  return [...Map.groupBy(runs, ({ model }) => model)].flatMap(([model, ofModel]) => {
    const sorted = ofModel.toSorted(
      (a, b) => Date.parse(b.as_of) - Date.parse(a.as_of) || inNaturalOrder(b.run, a.run),
    );
    const [newest] = sorted;
    if (newest === undefined) return [];
    return [{ model, runs: sorted, why: problemOf(newest), since: sinceOf(newest), who: senderOf(newest) }];
  });
}

function sinceOf({ state, loadedAt, lastProgressAt, load, queuedAt }: RunSummary): string | null {
  if (state === 'failed' || state === 'held') return loadedAt;
  return state === 'receiving' ? lastProgressAt : (load?.startedAt ?? queuedAt);
}

/** Token, host and DAG. */
export function senderOf({ pushedBy, sentFrom }: RunSummary): string {
  return [pushedBy, sentFrom.dag, sentFrom.host].filter((text) => text !== null).join(' · ');
}

function problemOf({ state, error, brokenGates, files, load }: RunSummary): string {
  if (state === 'failed') return error?.detail ?? 'The data was rejected.';
  if (state === 'held')
    return brokenGates.map((gate) => `${capitalized(describeGate(gate).sentence)}.`).join(' ');
  if (files.stalled > 0) return `Stalled files: ${files.stalled} of ${files.total}.`;
  if (state === 'loading') return `Load attempt ${load?.attempt} is running; an earlier attempt failed.`;
  const failed = `Load attempt ${load?.attempt} failed`;
  return load?.lastError == null ? `${failed}.` : `${failed}: ${load.lastError}`;
}

function overdueLine({ model, due, shown, newest }: Status['overdue'][number]): Line {
  const readers = shown === null ? 'Readers see no run yet.' : `Readers see ${shown.run}.`;
  const why = `No run as of ${formatAsOf(due.as_of)} or later. ${readers}`;
  const runs = newest === null ? [] : [{ run: newest.run, note: newest.state }];
  return { model, runs, why, since: due.at, who: '' };
}

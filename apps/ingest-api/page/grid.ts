import { MOST_RUNS, type Model, RUNS_PER_MODEL, type RunSummary } from './api.ts';
import {
  formatAsOf,
  formatCount,
  formatDay,
  formatInstant,
  formatSpan,
  inNaturalOrder,
  meaningOf,
  monthName,
  percent,
  STATES,
  shortened,
  signOf,
} from './format.ts';
import { needOf } from './overview.ts';
import { type AppState, modelHref, type RunFilter, runHref, type View } from './state.ts';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

/** A line of the grid. */
interface Line {
  readonly name: string;
  readonly model: Model | undefined;
  readonly runs: readonly RunSummary[];
  readonly group: Group;
  /** The filters that show it. */
  readonly filters: ReadonlySet<RunFilter>;
}

const GROUPS = { needs: 'Need you', moving: 'In progress', calm: 'Need nobody' } as const;
type Group = keyof typeof GROUPS;

/** With fewer models, those that need nobody are not folded: they fit on a screen. */
const FOLDED_FROM = 25;

/** Models and months: a line a model, a column a month of `as_of`, so that a missing run shows as a gap. */
export function gridSection(state: AppState, change: (view: Partial<View>) => void): TemplateResult {
  const { view, hasMoreRuns } = state;
  const lines = linesOf(state);
  const found = lines.filter((line) => isFound(line, view));
  const isFiltered = view.text !== '' || view.only !== undefined;
  return html`<section aria-labelledby="grid-title">
    <h2 id="grid-title">Runs by model and month</h2>
    ${
      lines.length === 0
        ? html`<p class="card">There are no runs yet. To send one: <code>uploader push DIR</code></p>`
        : html`${filterBar(lines, found.length, view, change)}
            ${found.length === 0 ? html`<p class="card">No model matches.</p>` : grid(state, found, isFiltered, change)}`
    }
    ${
      hasMoreRuns || lines.some((line) => line.runs.length >= RUNS_PER_MODEL)
        ? html`<p class="hint">
            At most ${RUNS_PER_MODEL} runs of each model${hasMoreRuns ? html`, and the ${formatCount(MOST_RUNS)} last declared of all,` : nothing}
            are shown here. The page of a model has all.
          </p>`
        : nothing
    }
    ${legend()}
  </section>`;
}

function linesOf({ models, runs, nowMs }: AppState): Line[] {
  const byModel = Map.groupBy(runs.values(), ({ model }) => model);
  const names = [...new Set([...models.keys(), ...byModel.keys()])].sort(inNaturalOrder);
  return names.map((name) => {
    const model = models.get(name);
    const ofModel = byModel.get(name) ?? [];
    const filters = new Set<RunFilter>(ofModel.map(({ state }) => state));
    const needs = ofModel.map(needOf);
    if (needs.includes('stalled')) filters.add('stalled');
    if (isOverdue(model, nowMs)) filters.add('overdue');
    if (needs.some((need) => need !== undefined) || filters.has('overdue')) filters.add('needs');
    const isMoving = filters.has('receiving') || filters.has('queued') || filters.has('loading');
    const group = filters.has('needs') ? 'needs' : isMoving ? 'moving' : 'calm';
    return { name, model, runs: ofModel, group, filters };
  });
}

function isOverdue(model: Model | undefined, nowMs: number): boolean {
  return model?.due != null && Date.parse(model.due.at) < nowMs;
}

function isFound({ name, model, runs, filters }: Line, { text, only }: View): boolean {
  if (only !== undefined && !filters.has(only)) return false;
  const { owner = '', contact = '' } = model?.contract ?? {};
  const words = text.toLowerCase().split(/\s+/);
  const texts = [name, owner, contact, ...runs.map(({ run }) => run)].map((it) => it.toLowerCase());
  return words.every((word) => texts.some((it) => it.includes(word)));
}

function filterBar(
  lines: readonly Line[],
  found: number,
  { text, only }: View,
  change: (view: Partial<View>) => void,
): TemplateResult {
  const button = (filter: RunFilter | undefined, name: string, sign: string, title: string) => {
    const count =
      filter === undefined ? lines.length : lines.filter(({ filters }) => filters.has(filter)).length;
    if (count === 0 && filter !== only) return nothing;
    const isChosen = filter === only;
    return html`<button
      aria-pressed=${isChosen ? 'true' : 'false'}
      title=${title}
      data-filter=${filter ?? 'all'}
      @click=${() => change({ only: isChosen ? undefined : filter })}
    >${sign === '' ? nothing : html`<span class="sign" aria-hidden="true">${sign}</span> `}${name} <span class="count">${formatCount(count)}</span></button>`;
  };
  return html`<div class="filter-bar">
    <input
      type="search"
      id="filter"
      aria-label="Filter models"
      placeholder="Model, owner or run"
      autocomplete="off"
      spellcheck="false"
      .value=${text}
      @input=${(event: Event) => change({ text: (event.target as HTMLInputElement).value.trimStart() })}
    />
    <div class="filters" role="group" aria-label="Which models">
      ${button(undefined, 'all', '', 'every model')}
      ${button('needs', 'needs you', '', 'models with a run that needs a person, or an overdue one')}
      ${button('overdue', 'overdue', '!', 'models whose next run is overdue')}
      ${button('stalled', 'stalled', '', 'models with a run whose files receive no bytes')}
      ${STATES.map((state) => button(state, state, signOf(state), `models with a run that is ${state}: ${meaningOf(state)}`))}
    </div>
    <span class="out-of-sight" role="status">${text === '' && only === undefined ? '' : `Models found: ${found}`}</span>
  </div>`;
}

/** Sizes in pixels: the columns that fit are shown, so that nothing scrolls sideways. */
interface Layout {
  readonly nameLength: number;
  readonly nameWidth: number;
  readonly seenWidth: number;
  readonly dueWidth: number;
  readonly monthWidth: number;
  readonly months: readonly number[];
}

const WIDEST_PAGE = 1760;
const NARROWEST_MONTH = 31;
const WIDEST_MONTH = 60;
const PIXELS_PER_CHARACTER = 7.6;

function layoutOf({ width, models, runs, nowMs }: AppState, lines: readonly Line[]): Layout {
  const isPhone = width < 700;
  const margins = isPhone ? 26 : 2 * Math.min(32, Math.max(13, width * 0.03)) + 2;
  const available = Math.min(width - margins, WIDEST_PAGE);
  const longest = Math.max(5, ...lines.map(({ name }) => name.length));
  const nameLength = Math.min(longest, isPhone ? 17 : width < 1100 ? 26 : 40);
  const nameWidth = Math.ceil(nameLength * PIXELS_PER_CHARACTER) + 26;
  const seenWidth = width < 900 ? 0 : 112;
  const hasDue = [...models.values()].some(({ due }) => due !== null);
  const dueWidth = !hasDue || isPhone ? 0 : 112;
  const left = available - nameWidth - seenWidth - dueWidth - 6;
  const most = Math.max(1, Math.floor(left / NARROWEST_MONTH));
  const months = monthsOf([...runs.values()], [...models.values()], nowMs, most);
  const monthWidth = Math.min(WIDEST_MONTH, Math.floor(left / months.length));
  return { nameLength, nameWidth, seenWidth, dueWidth, monthWidth, months };
}

/** Months since the year 0, the newest first, without a gap between them. */
function monthsOf(
  runs: readonly RunSummary[],
  models: readonly Model[],
  nowMs: number,
  most: number,
): number[] {
  const today = monthOf(new Date(nowMs).toISOString());
  const present = runs.map(({ as_of }) => monthOf(as_of));
  const newestRun = present.reduce((newest, month) => Math.max(newest, month), 0);
  const isRecent =
    newestRun === 0 || newestRun > today - most || models.some((model) => isOverdue(model, nowMs));
  const newest = isRecent ? Math.max(newestRun, today) : newestRun;
  const oldest = present.reduce((oldest, month) => Math.min(oldest, month), newest);
  return Array.from({ length: Math.min(most, newest - oldest + 1) }, (_, index) => newest - index);
}

function monthOf(instant: string): number {
  return Number(instant.slice(0, 4)) * 12 + Number(instant.slice(5, 7)) - 1;
}

function yearOf(month: number): number {
  return Math.floor(month / 12);
}

function grid(
  state: AppState,
  lines: readonly Line[],
  isFiltered: boolean,
  change: (view: Partial<View>) => void,
): TemplateResult {
  const { view, nowMs } = state;
  const layout = layoutOf(state, lines);
  const { months, nameWidth, seenWidth, dueWidth, monthWidth } = layout;
  const years = [...Map.groupBy(months, yearOf)];
  const columns = 1 + (seenWidth > 0 ? 1 : 0) + (dueWidth > 0 ? 1 : 0) + months.length;
  const byGroup = Map.groupBy(lines, ({ group }) => group);
  const isFolded = (group: Group) =>
    !isFiltered && (view.folds.get(group) ?? (group === 'calm' && state.models.size >= FOLDED_FROM));
  return html`<div class="scroll grid-frame" ?data-full=${monthWidth < WIDEST_MONTH}>
    <table class="grid" data-only=${view.only ?? nothing}>
      <colgroup>
        <col width=${nameWidth} />
        ${seenWidth > 0 ? html`<col width=${seenWidth} />` : nothing}
        ${dueWidth > 0 ? html`<col width=${dueWidth} />` : nothing}
        ${months.map(() => html`<col width=${monthWidth} />`)}
      </colgroup>
      <thead>
        <tr>
          <th scope="col" rowspan="2">Model</th>
          ${seenWidth > 0 ? html`<th scope="col" rowspan="2">Readers see</th>` : nothing}
          ${dueWidth > 0 ? html`<th scope="col" rowspan="2">Next due</th>` : nothing}
          ${years.map(([year, ofYear]) => html`<th class="year" scope="colgroup" colspan=${ofYear.length} title=${year}>${ofYear.length === 1 ? `’${year % 100}` : year}</th>`)}
        </tr>
        <tr>
          ${months.map(
            (
              month,
              index,
            ) => html`<th scope="col" class="month" ?data-january=${month % 12 === 0 && index < months.length - 1}>
              <span aria-hidden="true">${monthName(month)}</span><span class="out-of-sight">${monthName(month)} ${yearOf(month)}</span>
            </th>`,
          )}
        </tr>
      </thead>
      ${(Object.keys(GROUPS) as Group[]).map((group) => {
        const ofGroup = byGroup.get(group) ?? [];
        if (ofGroup.length === 0) return nothing;
        const folded = isFolded(group);
        const fold = () => change({ folds: new Map(view.folds).set(group, !folded) });
        return html`<tbody data-group=${group}>
          <tr class="group">
            <th scope="rowgroup" colspan=${columns}>
              <button aria-expanded=${folded ? 'false' : 'true'} ?disabled=${isFiltered} @click=${fold}>
                <span aria-hidden="true">${folded ? '▸' : '▾'}</span> ${GROUPS[group]}
                <span class="count">${formatCount(ofGroup.length)}</span>
              </button>
            </th>
          </tr>
          ${folded ? nothing : ofGroup.map((line) => row(line, layout, nowMs))}
        </tbody>`;
      })}
    </table>
  </div>`;
}

function row(line: Line, { months, nameLength, seenWidth, dueWidth }: Layout, nowMs: number): TemplateResult {
  const { name, model, runs } = line;
  const cells = Map.groupBy(runs, ({ as_of }) => monthOf(as_of));
  const owner = model?.contract.owner === undefined ? '' : `; owner: ${model.contract.owner}`;
  return html`<tr>
    <th scope="row"><a href=${modelHref(name)} title=${`${name}${owner}`} aria-label=${name}>${shortened(name, nameLength)}</a></th>
    ${seenWidth > 0 ? html`<td class="date">${seen(line)}</td>` : nothing}
    ${dueWidth > 0 ? html`<td class="date">${due(model, nowMs)}</td>` : nothing}
    ${months.map((month) => html`<td ?data-january=${month % 12 === 0}>${cell(line, cells.get(month) ?? [], month, nowMs)}</td>`)}
  </tr>`;
}

function seen({ name, model, runs }: Line): TemplateResult | typeof nothing {
  const shown = runs[0]?.shown ?? model?.current;
  if (shown == null) return nothing;
  const title = `Readers see run ${shown.run}, published ${formatInstant(shown.publishedAt)}`;
  return html`<a href=${runHref({ model: name, run: shown.run })} title=${title}>${formatDay(shown.as_of)}</a>`;
}

function due(model: Model | undefined, nowMs: number): TemplateResult | typeof nothing {
  if (model?.due == null) return nothing;
  const title = dueTitle(model);
  if (!isOverdue(model, nowMs)) return html`<span title=${title}>${formatDay(model.due.at)}</span>`;
  const late = formatSpan((nowMs - Date.parse(model.due.at)) / 1000);
  return html`<a class="overdue" href=${modelHref(model.model)} title=${title}>${late} overdue</a>`;
}

function dueTitle({ due }: Model): string {
  return due === null ? '' : `The run as of ${formatAsOf(due.as_of)} is due by ${formatInstant(due.at)}`;
}

function cell(line: Line, runs: readonly RunSummary[], month: number, nowMs: number): TemplateResult {
  const { name, model } = line;
  const [first] = runs;
  if (first === undefined) {
    const isMissing =
      model?.due != null &&
      isOverdue(model, nowMs) &&
      month >= monthOf(model.due.as_of) &&
      month <= monthOf(new Date(nowMs).toISOString());
    if (!isMissing) return html`<span class="hole" aria-hidden="true">·</span>`;
    return html`<a class="mark" data-overdue href=${modelHref(name)} title=${dueTitle(model)} aria-label=${`${name}: overdue`}>!</a>`;
  }
  return runs.length === 1 ? mark(first) : marks(name, runs);
}

function mark(run: RunSummary): TemplateResult {
  const { state, publishedRevision, revision, files } = run;
  const shown =
    publishedRevision === null || publishedRevision === revision
      ? ''
      : `; readers see revision ${publishedRevision}`;
  const stalled = files.stalled > 0 ? `; stalled files: ${files.stalled}` : '';
  return html`<a
    class="mark"
    href=${runHref(run)}
    data-state=${state}
    ?data-shown=${publishedRevision !== null}
    ?data-alarm=${files.stalled > 0}
    title=${`${run.run}: ${state} (${meaningOf(state)})${shown}${stalled}`}
    aria-label=${`${run.model} ${run.run}: ${state}${shown}${stalled}`}
  ><span aria-hidden="true">${signOf(state)}</span>${progress(run)}</a>`;
}

/** The state that a person has to know of first. */
const MOST_PRESSING: readonly RunSummary['state'][] = [
  'failed',
  'held',
  'receiving',
  'loading',
  'queued',
  'published',
  'superseded',
  'cancelled',
];

/** Several runs of a month: their number, in the colour of the most pressing state. The page of the model has each. */
function marks(model: string, runs: readonly RunSummary[]): TemplateResult {
  const states = MOST_PRESSING.filter((state) => runs.some((run) => run.state === state));
  const counts = states
    .map((state) => `${runs.filter((run) => run.state === state).length} ${state}`)
    .join(', ');
  return html`<a
    class="mark many"
    href=${modelHref(model)}
    data-state=${states[0] ?? 'cancelled'}
    ?data-shown=${runs.some(({ publishedRevision }) => publishedRevision !== null)}
    ?data-alarm=${runs.some(({ files }) => files.stalled > 0)}
    title=${`${runs.length} runs: ${counts}`}
    aria-label=${`${model}: ${runs.length} runs: ${counts}`}
  >${runs.length}</a>`;
}

function progress({ state, bytes, load }: RunSummary): TemplateResult | typeof nothing {
  if (state !== 'receiving' && state !== 'queued' && state !== 'loading') return nothing;
  const done = state === 'loading' ? (load?.bytes ?? 0) : bytes.received;
  return html`<progress max="100" .value=${percent(done, bytes.total)} aria-hidden="true"></progress>`;
}

function legend(): TemplateResult {
  return html`<details class="legend">
    <summary>What the signs mean</summary>
    <dl>
      ${STATES.map(
        (state) => html`<div>
          <dt><span class="mark" data-state=${state} aria-hidden="true">${signOf(state)}</span> ${state}</dt>
          <dd>${meaningOf(state)}</dd>
        </div>`,
      )}
      <div>
        <dt><span class="mark" data-state="published" data-shown aria-hidden="true">${signOf('published')}</span> filled</dt>
        <dd>readers see this run, or a revision of it</dd>
      </div>
      <div>
        <dt><span class="mark" data-overdue aria-hidden="true">!</span> overdue</dt>
        <dd>the contract expects a run, and none was published in time</dd>
      </div>
      <div>
        <dt><span class="mark" data-state="receiving" data-alarm aria-hidden="true">${signOf('receiving')}</span> red dashes</dt>
        <dd>a file of the run is stalled</dd>
      </div>
      <div>
        <dt><span class="mark many" data-state="superseded" aria-hidden="true">4</span> number</dt>
        <dd>several runs in this month, in the colour of the most pressing state</dd>
      </div>
    </dl>
  </details>`;
}

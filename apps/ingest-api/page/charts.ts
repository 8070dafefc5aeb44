import type { Profile, RunHistory, RunSummary } from './api.ts';
import { formatAsOf, formatBytes, formatDay, formatScore } from './format.ts';
import { runHref } from './state.ts';
import uPlot from './vendor/uplot.js';

/** An element that draws its chart with uPlot, as wide as the element is. */
abstract class Chart extends HTMLElement {
  protected abstract readonly heightPx: number;
  protected plot: uPlot | undefined;
  readonly #resize = new ResizeObserver(() => {
    if (this.clientWidth > 0) this.plot?.setSize({ width: this.clientWidth, height: this.heightPx });
  });

  protected abstract draw(): void;

  connectedCallback(): void {
    this.setAttribute('role', 'img');
    this.draw();
    this.#resize.observe(this);
  }

  disconnectedCallback(): void {
    this.#resize.disconnect();
    this.plot?.destroy();
    this.plot = undefined;
  }

  protected create(options: Omit<uPlot.Options, 'width' | 'height'>, data: uPlot.AlignedData): void {
    this.plot?.destroy();
    this.plot = new uPlot({ ...options, width: this.clientWidth || 400, height: this.heightPx }, data, this);
  }
}

type Sample = RunHistory['throughput'][number];

/** Bytes per second over time: received from the sender, and loaded into the database. */
class ThroughputChart extends Chart {
  protected readonly heightPx = 190;
  #samples: readonly Sample[] = [];

  set samples(samples: readonly Sample[]) {
    this.#samples = samples;
    if (this.isConnected) this.draw();
  }

  protected draw(): void {
    const data = ratesOf(this.#samples);
    const [, received, loaded] = data;
    const peak = Math.max(0, ...received, ...loaded);
    this.setAttribute('aria-label', `Throughput over time, at most ${formatRate(peak)}`);
    if (this.plot === undefined) this.create(throughputOptions(), data);
    else {
      this.plot.setData(data);
      showNewest(this.plot);
    }
  }
}

/** While no pointer is over the chart, the legend shows the newest sample. */
function showNewest(plot: uPlot): void {
  if (plot.cursor.idx == null) plot.setLegend({ idx: plot.data[0].length - 1 }, false);
}

function throughputOptions(): Omit<uPlot.Options, 'width' | 'height'> {
  const { first, firstFill, second, axis } = colours();
  const line = {
    width: 2,
    points: { show: false },
    value: (_: uPlot, rate: number | null) => formatRate(rate),
  };
  return {
    hooks: { ready: [showNewest] },
    cursor: { y: false },
    padding: [null, 28, null, null], // room for the last label
    scales: { y: { range: (_, _min, max) => [0, Math.max(max * 1.1, 1)] } },
    series: [
      { label: 'time (UTC)', value: (_, at) => (at == null ? '–' : timeOfDay(at)) },
      { ...line, label: 'received', stroke: first, fill: firstFill },
      { ...line, label: 'loaded', stroke: second },
    ],
    axes: [
      { ...axis, size: 32, space: 90, values: (_, ticks) => ticks.map(timeOfDay) },
      { ...axis, size: 78, values: (_, ticks) => ticks.map((tick) => formatRate(tick)) },
    ],
  };
}

function formatRate(bytesPerSecond: number | null | undefined): string {
  return bytesPerSecond == null ? '–' : `${formatBytes(bytesPerSecond)}/s`;
}

function timeOfDay(seconds: number): string {
  return new Date(seconds * 1000).toLocaleTimeString('en-GB', { timeZone: 'UTC' });
}

/** A rate is the mean over this time, as the rates between single samples jump up and down. */
const WINDOW_SECONDS = 3;

/** Times in seconds, received bytes per second, loaded bytes per second. */
function ratesOf(samples: readonly Sample[]): [number[], number[], number[]] {
  const times: number[] = [];
  const received: number[] = [];
  const loaded: number[] = [];
  let from = 0;
  for (const [index, sample] of samples.entries()) {
    const at = secondsOf(sample);
    while (from + 1 < index && at - secondsOf(samples[from + 1]) >= WINDOW_SECONDS) from += 1;
    const before = samples[from];
    const span = at - secondsOf(before);
    if (before === undefined || span <= 0) continue;
    times.push(at);
    received.push(Math.max(0, sample.receivedBytes - before.receivedBytes) / span);
    loaded.push(Math.max(0, sample.loadedBytes - before.loadedBytes) / span);
  }
  return [times, received, loaded];
}

function secondsOf(sample: Sample | undefined): number {
  return sample === undefined ? 0 : Date.parse(sample.at) / 1000;
}

interface Profiles {
  readonly now: Profile;
  readonly before: Profile | undefined;
}

/** The score below which 0 %, 10 %, … 100 % of the rows are, of this run and of the previous one. */
class DecileChart extends Chart {
  protected readonly heightPx = 220;
  #profiles: Profiles | undefined;
  #drawn = '';

  set profiles(profiles: Profiles) {
    this.#profiles = profiles;
    if (this.isConnected) this.draw();
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.#drawn = '';
  }

  protected draw(): void {
    if (this.#profiles === undefined) return;
    const { now, before } = this.#profiles;
    const shares = Array.from({ length: 11 }, (_, index) => index * 10);
    const data = [shares, quantiles(now), ...(before === undefined ? [] : [quantiles(before)])];
    const drawn = JSON.stringify(data);
    if (drawn === this.#drawn) return; // profiles rarely change, and a new plot would lose the cursor
    this.#drawn = drawn;
    const previous = before === undefined ? '' : `; previous run ${formatScore(medianOf(before))}`;
    this.setAttribute('aria-label', `Deciles of the scores: median ${formatScore(medianOf(now))}${previous}`);
    this.create(decileOptions(before !== undefined), data as unknown as uPlot.AlignedData);
  }
}

function decileOptions(hasPrevious: boolean): Omit<uPlot.Options, 'width' | 'height'> {
  const { first, second, axis } = colours();
  const line = { width: 2, value: (_: uPlot, score: number | null) => formatScore(score) };
  const median = 5; // in 0 %, 10 %, … 100 %
  return {
    scales: { x: { time: false } },
    // While no pointer is over the chart, the legend shows the median.
    hooks: { ready: [(plot) => plot.setLegend({ idx: median }, false)] },
    series: [
      { label: 'rows', value: (_, share) => (share == null ? '–' : `${share} %`) },
      { ...line, label: 'this run', stroke: first },
      ...(hasPrevious ? [{ ...line, label: 'previous', stroke: second, dash: [6, 4] }] : []),
    ],
    axes: [{ ...axis, size: 32, values: (_, shares) => shares.map((share) => `${share} %`) }, axis],
  };
}

function quantiles({ min, deciles, max }: Profile): (number | null)[] {
  return [min, ...deciles, max];
}

function medianOf({ deciles }: Profile): number | null {
  return deciles[4] ?? null;
}

type LoadedRun = RunSummary & { readonly profile: Profile };

export interface HistoryChartData {
  readonly title: string;
  /** By `as_of`, the oldest first. */
  readonly runs: readonly LoadedRun[];
  format(value: number): string;
  /** Amounts begin at zero; scores do not. */
  readonly fromZero: boolean;
  /** The one in the middle is the thick one; the others are the edges of bands, from the lowest to the highest. */
  readonly lines: readonly { readonly label: string; of(profile: Profile): number | null }[];
}

/** A figure of a model over its runs. A click opens the run under the pointer. */
class HistoryChart extends Chart {
  protected readonly heightPx = 190;
  #data: HistoryChartData | undefined;
  #drawn = '';

  set data(data: HistoryChartData) {
    this.#data = data;
    if (this.isConnected) this.draw();
  }

  override connectedCallback(): void {
    super.connectedCallback();
    this.addEventListener('click', this.#open);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.removeEventListener('click', this.#open);
    this.#drawn = '';
  }

  readonly #open = () => {
    const run = this.#data?.runs[this.plot?.cursor.idx ?? -1];
    if (run !== undefined) location.hash = runHref(run);
  };

  protected draw(): void {
    if (this.#data === undefined) return;
    const { title, runs, lines, format } = this.#data;
    const times = runs.map(({ as_of }) => Date.parse(as_of) / 1000);
    const values = lines.map(({ of }) => runs.map(({ profile }) => of(profile)));
    const drawn = JSON.stringify([runs.map(({ run }) => run), times, values]);
    if (drawn === this.#drawn) return; // a new plot would lose the cursor
    this.#drawn = drawn;
    const newest = values[middleOf(lines)]?.at(-1);
    this.setAttribute(
      'aria-label',
      `${title} of ${runs.length} runs; the newest: ${newest == null ? 'none' : format(newest)}. The table of runs has each.`,
    );
    this.create(historyOptions(this.#data), [times, ...values] as uPlot.AlignedData);
  }
}

const MOST_POINTS = 60;

function historyOptions({
  runs,
  lines,
  format,
  fromZero,
}: HistoryChartData): Omit<uPlot.Options, 'width' | 'height'> {
  const { first, firstFill, axis } = colours();
  const shown = (value: number | null) => (value === null ? '–' : format(value));
  const newest = runs.length - 1;
  const showNewest = (plot: uPlot) => {
    if (plot.cursor.idx == null) plot.setLegend({ idx: newest }, false);
  };
  return {
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), 'Etc/UTC'),
    hooks: { ready: [showNewest], setCursor: [showNewest] },
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: 'runs' } },
    padding: [null, 34, null, null],
    scales: {
      x: { range: (_, min, max) => (min === max ? [min - 86_400, max + 86_400] : [min, max]) },
      y: { range: (_, min, max) => rangeOf(min, max, fromZero) },
    },
    series: [
      { label: 'run', value: (_, _seconds, _series, index) => nameOf(runs[index ?? newest]) },
      ...lines.map(({ label }, index) => ({
        label,
        stroke: first,
        width: index === middleOf(lines) ? 2 : 0.5,
        points: { show: index === middleOf(lines) && runs.length <= MOST_POINTS, size: 5, fill: first },
        value: (_: uPlot, value: number | null) => shown(value),
        ...(lines.length === 1 && fromZero ? { fill: firstFill } : {}),
      })),
    ],
    bands: Array.from({ length: middleOf(lines) }, (_, index) => ({
      series: [lines.length - index, index + 1] as [number, number],
      fill: firstFill,
    })),
    axes: [
      {
        ...axis,
        size: 30,
        space: 84,
        values: (_, ticks) => ticks.map((tick) => tickLabel(tick, ticks)),
      },
      { ...axis, size: 74, values: (_, ticks) => ticks.map((tick) => format(tick)) },
    ],
  };
}

function middleOf(lines: HistoryChartData['lines']): number {
  return Math.floor(lines.length / 2);
}

const MONTH_SECONDS = 28 * 86_400;

function tickLabel(tick: number, [first = 0, second = 0]: readonly number[]): string {
  const day = formatDay(new Date(tick * 1000).toISOString());
  return second - first >= MONTH_SECONDS ? day.slice(day.indexOf(' ') + 1) : day;
}

/** With some room above and below; a single value has some, too. */
function rangeOf(min: number | null, max: number | null, fromZero: boolean): [number, number] {
  const [low, high] = [fromZero ? 0 : (min ?? 0), max ?? 1];
  const room = (high - low || Math.abs(high) || 1) * 0.12;
  return [fromZero ? 0 : low - room, high + room];
}

function nameOf(run: LoadedRun | undefined): string {
  if (run === undefined) return '–';
  return `${run.run} (${formatAsOf(run.as_of)})`;
}

/** The colours of the style sheet, light or dark as they are now: a canvas does not read it. */
function colours() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  return {
    first: colour('--chart-first'),
    firstFill: colour('--chart-first-fill'),
    second: colour('--chart-second'),
    axis: {
      stroke: colour('--chart-text'),
      grid: { stroke: colour('--chart-grid'), width: 1 },
      ticks: { show: false },
    },
  };
}

customElements.define('throughput-chart', ThroughputChart);
customElements.define('decile-chart', DecileChart);
customElements.define('history-chart', HistoryChart);

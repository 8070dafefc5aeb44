import type { Profile, RunHistory } from './api.ts';
import { formatBytes, formatScore } from './format.ts';
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
      { label: 'time', value: (_, at) => (at == null ? '–' : timeOfDay(at)) },
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
  return new Date(seconds * 1000).toLocaleTimeString('en-GB');
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

import type { RunHistory } from 'wire';
import { chartColours, fitToWidth } from './chart-frame.ts';
import { formatBytes } from './format.ts';
import uPlot from './vendor/uplot.js';

type Sample = RunHistory['throughput'][number];

const HEIGHT_PX = 190;
/** Rates are taken over at least so much, so that single looks do not make it a saw. */
const WINDOW_SECONDS = 3;

/** Bytes a second over time: what came in, and what went into the database. */
class ThroughputChart extends HTMLElement {
  #plot: uPlot | undefined;
  #samples: readonly Sample[] = [];

  set samples(samples: readonly Sample[]) {
    this.#samples = samples;
    if (this.isConnected) this.#draw();
  }

  connectedCallback(): void {
    this.setAttribute('role', 'img');
    this.#draw();
  }

  disconnectedCallback(): void {
    this.#plot?.destroy();
    this.#plot = undefined;
  }

  #draw(): void {
    const data = ratesOf(this.#samples);
    const peak = Math.max(0, ...data[1], ...data[2]);
    this.setAttribute('aria-label', `Throughput over time; at most ${formatBytes(peak)} a second`);
    if (this.#plot === undefined) this.#plot = this.#create(data);
    else this.#plot.setData(data as unknown as uPlot.AlignedData);
    // Without a pointer over it, the legend tells the newest figures.
    if (this.#plot.cursor.idx == null) this.#plot.setLegend({ idx: data[0].length - 1 }, false);
  }

  #create(data: readonly number[][]): uPlot {
    const colours = chartColours();
    const axis = { stroke: colours.text, grid: { stroke: colours.grid, width: 1 }, ticks: { show: false } };
    const value = (_: uPlot, rate: number | null) => (rate == null ? '–' : `${formatBytes(rate)}/s`);
    const plot = new uPlot(
      {
        width: this.clientWidth || 600,
        height: HEIGHT_PX,
        cursor: { y: false },
        padding: [null, 28, null, null], // room for the last label
        scales: { y: { range: (_, _min, max) => [0, Math.max(max * 1.1, 1)] } },
        series: [
          { label: 'time', value: (_, at) => (at == null ? '–' : timeOfDay(at)) },
          {
            label: 'received',
            stroke: colours.first,
            fill: colours.firstFill,
            width: 2,
            points: { show: false },
            value,
          },
          { label: 'loaded', stroke: colours.second, width: 2, points: { show: false }, value },
        ],
        axes: [
          { ...axis, size: 32, space: 90, values: (_, ticks) => ticks.map(timeOfDay) },
          { ...axis, size: 78, values: (_, ticks) => ticks.map((tick) => `${formatBytes(tick)}/s`) },
        ],
      },
      data as unknown as uPlot.AlignedData,
      this,
    );
    fitToWidth(this, plot, HEIGHT_PX);
    return plot;
  }
}

function timeOfDay(seconds: number): string {
  return new Date(seconds * 1000).toLocaleTimeString(undefined, { hour12: false });
}

/** Times in seconds, bytes received a second, bytes loaded a second. */
function ratesOf(samples: readonly Sample[]): [number[], number[], number[]] {
  const times: number[] = [];
  const received: number[] = [];
  const loaded: number[] = [];
  let from = 0;
  for (const [index, sample] of samples.entries()) {
    const at = Date.parse(sample.at) / 1000;
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

customElements.define('throughput-chart', ThroughputChart);

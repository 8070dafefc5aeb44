import type { Profile } from 'wire';
import { chartColours, fitToWidth } from './chart-frame.ts';
import { formatScore } from './format.ts';
import uPlot from './vendor/uplot.js';

const HEIGHT_PX = 220;
/** The place of the median in 0, 10 … 100 %. */
const MEDIAN = 5;

interface Profiles {
  readonly now: Profile;
  readonly before: Profile | undefined;
}

/** The score below which 0, 10 … 100 % of the rows lie, of this run and of the one before. */
class DecileChart extends HTMLElement {
  #profiles: Profiles | undefined;
  #shown = '';
  #plot: uPlot | undefined;

  set profiles(profiles: Profiles) {
    this.#profiles = profiles;
    if (this.isConnected) this.#draw();
  }

  connectedCallback(): void {
    this.setAttribute('role', 'img');
    this.#draw();
  }

  disconnectedCallback(): void {
    this.#plot?.destroy();
    this.#plot = undefined;
    this.#shown = '';
  }

  #draw(): void {
    if (this.#profiles === undefined) return;
    const { now, before } = this.#profiles;
    const data = [
      Array.from({ length: 11 }, (_, index) => index * 10),
      quantiles(now),
      before === undefined ? [] : quantiles(before),
    ];
    const shown = JSON.stringify(data);
    if (shown === this.#shown) return; // profiles hardly ever change: leave the pointer's place alone
    this.#shown = shown;
    this.#plot?.destroy();
    this.setAttribute(
      'aria-label',
      `Deciles of the scores: median ${formatScore(now.deciles[4] ?? null)}${before === undefined ? '' : `, before ${formatScore(before.deciles[4] ?? null)}`}`,
    );
    this.#plot = this.#create(before === undefined ? data.slice(0, 2) : data);
  }

  #create(data: (number | null)[][]): uPlot {
    const colours = chartColours();
    const axis = { stroke: colours.text, grid: { stroke: colours.grid, width: 1 }, ticks: { show: false } };
    const value = (_: uPlot, score: number | null) => formatScore(score);
    const plot = new uPlot(
      {
        width: this.clientWidth || 400,
        height: HEIGHT_PX,
        scales: { x: { time: false } },
        // What the legend tells until a pointer asks for another.
        hooks: { ready: [(plot) => plot.setLegend({ idx: MEDIAN }, false)] },
        series: [
          { label: 'of the rows', value: (_, share) => (share == null ? '–' : `${share} %`) },
          { label: 'this run', stroke: colours.first, width: 2, value },
          ...(data.length > 2
            ? [{ label: 'before', stroke: colours.second, width: 2, dash: [6, 4], value }]
            : []),
        ],
        axes: [{ ...axis, size: 32, values: (_, shares) => shares.map((share) => `${share} %`) }, axis],
      },
      data as unknown as uPlot.AlignedData,
      this,
    );
    fitToWidth(this, plot, HEIGHT_PX);
    return plot;
  }
}

function quantiles({ min, deciles, max }: Profile): (number | null)[] {
  return [min, ...deciles, max];
}

customElements.define('decile-chart', DecileChart);

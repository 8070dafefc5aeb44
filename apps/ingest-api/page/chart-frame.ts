import type uPlot from './vendor/uplot.js';

/** The page's own colours, light or dark as they are now: a canvas knows no style sheet. */
export function chartColours() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  return {
    text: colour('--chart-text'),
    grid: colour('--chart-grid'),
    first: colour('--chart-first'),
    firstFill: colour('--chart-first-fill'),
    second: colour('--chart-second'),
  };
}

export function fitToWidth(element: HTMLElement, plot: uPlot, height: number): void {
  new ResizeObserver(() => {
    if (element.clientWidth > 0) plot.setSize({ width: element.clientWidth, height });
  }).observe(element);
}

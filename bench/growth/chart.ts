import { writeFile } from 'node:fs/promises';
import { init } from 'echarts';
import { LABELS, type Point, secondsPerMillion } from './summary.ts';

const WIDTH_PX = 760;
const HEIGHT_PX = 400;
const COLOURS = { ours: '#1d6fb8', copyIntoKey: '#c2571a' } as const;

/** A line each over the sizes, as an SVG file that needs nothing else. */
export async function drawGrowth(points: readonly Point[], svgPath: string): Promise<void> {
  const chart = init(null, null, { renderer: 'svg', ssr: true, width: WIDTH_PX, height: HEIGHT_PX });
  const line = (contender: keyof typeof LABELS) => ({
    name: LABELS[contender],
    type: 'line' as const,
    symbol: 'circle',
    symbolSize: 8,
    lineStyle: { width: 2 },
    label: {
      show: true,
      position: 'top' as const,
      formatter: ({ value }: { value: unknown }) => Number(value).toFixed(2),
    },
    // null leaves a gap.
    data: points.map((point) => (point[contender].length > 0 ? secondsPerMillion(point, contender) : null)),
  });
  chart.setOption({
    animation: false,
    backgroundColor: '#ffffff', // read on dark pages too
    color: [COLOURS.ours, COLOURS.copyIntoKey],
    textStyle: { fontFamily: 'sans-serif' },
    legend: { top: 8, itemGap: 48 }, // texts are measured without a browser, and come out too short
    grid: { left: 64, right: 24, top: 48, bottom: 56 },
    xAxis: {
      type: 'category',
      data: points.map(({ millionRows }) => String(millionRows)),
      name: 'million rows, random keys',
      nameLocation: 'middle',
      nameGap: 32,
    },
    yAxis: {
      type: 'value',
      min: 0,
      name: 'seconds per million rows',
      nameLocation: 'middle',
      nameGap: 40,
    },
    series: [line('ours'), line('copyIntoKey')],
  });
  const svg = chart.renderToSVGString();
  chart.dispose();
  await writeFile(svgPath, `${svg}\n`);
}

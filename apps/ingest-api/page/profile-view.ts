import type { Profile, Run } from 'wire';
import { formatBytes, formatCount, formatScore, formatSeconds } from './format.ts';
import './decile-chart.ts';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

const MEASURES = [
  { name: 'Rows', of: ({ rows }: Profile) => formatCount(rows), number: ({ rows }: Profile) => rows },
  { name: 'Smallest score', of: ({ min }: Profile) => formatScore(min), number: ({ min }: Profile) => min },
  { name: 'Mean', of: ({ mean }: Profile) => formatScore(mean), number: ({ mean }: Profile) => mean },
  { name: 'Largest score', of: ({ max }: Profile) => formatScore(max), number: ({ max }: Profile) => max },
  {
    name: 'Standard deviation',
    of: ({ stddev }: Profile) => formatScore(stddev),
    number: ({ stddev }: Profile) => stddev,
  },
  { name: 'Bytes', of: ({ bytes }: Profile) => formatBytes(bytes), number: ({ bytes }: Profile) => bytes },
  {
    name: 'Load',
    of: ({ seconds }: Profile) => formatSeconds(seconds),
    number: ({ seconds }: Profile) => seconds,
  },
];

/** What the scores look like, beside those that readers saw before: the question "what changed?". */
export function profileSection({ profile, previous }: Run): TemplateResult | typeof nothing {
  if (profile == null) return nothing;
  const before = previous?.profile ?? undefined;
  return html`<section aria-labelledby="profile-title">
    <h2 id="profile-title">
      Scores${previous == null ? nothing : html`, against <span class="key">${previous.run}</span>`}
    </h2>
    <div class="beside">
      <decile-chart .profiles=${{ now: profile, before }}></decile-chart>
      <table>
        <thead>
          <tr>
            <td></td>
            <th scope="col" class="number">This run</th>
            ${before === undefined ? nothing : html`<th scope="col" class="number">Before</th><th scope="col" class="number">Change</th>`}
          </tr>
        </thead>
        <tbody>
          ${MEASURES.map(
            ({ name, of, number }) => html`<tr>
              <th scope="row">${name}</th>
              <td class="number">${of(profile)}</td>
              ${
                before === undefined
                  ? nothing
                  : html`<td class="number">${of(before)}</td>
                      <td class="number">${change(number(before), number(profile))}</td>`
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
  return `${percent > 0 ? '+' : ''}${percent.toFixed(Math.abs(percent) < 10 ? 1 : 0)} %`;
}

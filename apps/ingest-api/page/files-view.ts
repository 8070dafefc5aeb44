import type { Run } from '../dist/http/answers.d.ts';
import { formatAgo, formatBytes, formatCount, formatInstant, percent } from './format.ts';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

const SHOWN_FILES = 200;

type RunFile = Run['files'][number];

/** Stuck ones first, then those on their way: of a thousand files, the one that is looked for stands on top. */
export function filesTable(run: Run, nowMs: number): TemplateResult {
  const files = [...run.files].sort((a, b) => rank(a) - rank(b) || (a.name < b.name ? -1 : 1));
  return html`<section aria-labelledby="files-title">
    <h2 id="files-title">Files: ${formatCount(run.totals.files)}</h2>
    <div class="scroll" tabindex="0" role="region" aria-labelledby="files-title">
      <table class="files">
        <thead>
          <tr>
            <th scope="col">Name</th><th scope="col">Received</th><th scope="col" class="number">Bytes</th>
            <th scope="col" class="number">Lines</th><th scope="col">Last byte</th>
          </tr>
        </thead>
        <tbody>
          ${files.slice(0, SHOWN_FILES).map((file) => row(file, run, nowMs))}
        </tbody>
      </table>
    </div>
    ${files.length > SHOWN_FILES ? html`<p class="hint">${files.length - SHOWN_FILES} more, all received.</p>` : nothing}
  </section>`;
}

function row(file: RunFile, run: Run, nowMs: number): TemplateResult {
  const isStuck = file.stalled && run.state === 'receiving';
  return html`<tr ?data-alarm=${isStuck}>
    <th scope="row">${file.name}</th>
    <td>
      <progress aria-label=${`received of ${file.name}`} max=${Math.max(1, file.bytes)} .value=${file.bytes === 0 ? 1 : file.offset}></progress>
      <span>${isStuck ? 'stalled at ' : ''}${percent(file.offset, file.bytes)} %</span>
    </td>
    <td class="number">${formatBytes(file.bytes)}</td>
    <td class="number">${file.lines === null ? '–' : formatCount(file.lines)}</td>
    <td title=${formatInstant(file.lastProgressAt)}>${formatAgo(file.lastProgressAt, nowMs)}</td>
  </tr>`;
}

function rank(file: RunFile): number {
  if (file.state === 'received') return 2;
  return file.stalled ? 0 : 1;
}

import type { Run, RunFile } from 'wire';
import type { FileFilter } from './api-client.ts';
import type { FilesShown } from './app-state.ts';
import { formatAgo, formatBytes, formatCount, formatInstant, percent } from './format.ts';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

/** Asks for the first page of other files, or for one more of those that are shown. */
export type ShowFiles = (filter: FileFilter, more: boolean) => void;

/** A run may have 100,000 files: they come page by page, those that need a look first. */
export function filesSection(
  run: Run,
  shown: FilesShown | undefined,
  nowMs: number,
  show: ShowFiles,
): TemplateResult {
  return html`<section aria-labelledby="files-title">
    <h2 id="files-title">Files: ${formatCount(run.files.total)}</h2>
    ${filters(run, shown?.filter, show)}
    ${shown === undefined ? html`<p class="hint">Asking the service…</p>` : table(run, shown, nowMs)}
    ${
      shown == null || shown.nextCursor === null
        ? nothing
        : html`<p><button @click=${() => show(shown.filter, true)}>Show more files</button>
            <span class="hint">${formatCount(shown.files.length)} are shown.</span></p>`
    }
  </section>`;
}

/** What is worth a look at first. */
export function firstFilter({ state, files }: Run): FileFilter {
  if (state !== 'receiving') return 'all';
  return files.stalled > 0 ? 'stalled' : 'receiving';
}

function filters({ files }: Run, chosen: FileFilter | undefined, show: ShowFiles): TemplateResult {
  const counts: readonly (readonly [FileFilter, string, number])[] = [
    ['all', 'All', files.total],
    ['stalled', 'Stalled', files.stalled],
    ['receiving', 'Incomplete', files.total - files.received],
    ['received', 'Received', files.received],
  ];
  return html`<p class="filters" role="group" aria-label="Which files">
    ${counts.map(
      ([filter, name, count]) => html`<button
        aria-pressed=${filter === chosen ? 'true' : 'false'}
        @click=${() => show(filter, false)}
      >${name} ${formatCount(count)}</button> `,
    )}
  </p>`;
}

function table(run: Run, { files }: FilesShown, nowMs: number): TemplateResult {
  if (files.length === 0) return html`<p class="hint">None.</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-labelledby="files-title">
    <table class="files">
      <thead>
        <tr>
          <th scope="col">Name</th><th scope="col">Received</th><th scope="col" class="number">Bytes</th>
          <th scope="col" class="number">Lines</th><th scope="col">Last byte</th>
        </tr>
      </thead>
      <tbody>
        ${files.map((file) => row(file, run, nowMs))}
      </tbody>
    </table>
  </div>`;
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

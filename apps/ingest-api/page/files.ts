import { rejectsFile } from './actions.ts';
import { type FileFilter, type Run, type RunFile, rejectsPath } from './api.ts';
import { ago, formatBytes, formatCount, percent } from './format.ts';
import { scrollable, tableSection } from './layout.ts';
import type { FilesShown } from './state.ts';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

/** Loads the first page of files with a filter, or one more page of those that are shown. */
export type ShowFiles = (filter: FileFilter, more: boolean) => void;

/** A run may have 100,000 files: they are loaded page by page, those with a problem first. */
export function filesSection(
  { files, state }: Run,
  shown: FilesShown | undefined,
  nowMs: number,
  show: ShowFiles,
): TemplateResult {
  return html`<section aria-labelledby="files-title">
    <h2 id="files-title">Files: ${formatCount(files.total)}</h2>
    ${filters(files, shown?.filter, show)}
    ${shown === undefined ? html`<p class="hint">Waiting for the service…</p>` : table(state, shown, nowMs)}
    ${
      shown === undefined || shown.nextCursor === null
        ? nothing
        : html`<p><button @click=${() => show(shown.filter, true)}>Show more files</button>
            <span class="hint">${formatCount(shown.files.length)} shown</span></p>`
    }
  </section>`;
}

/** Of a run that is being received, the files that are not complete. */
export function firstFilter({ state, files }: Run): FileFilter {
  if (state !== 'receiving') return 'all';
  return files.stalled > 0 ? 'stalled' : 'receiving';
}

function filters(files: Run['files'], chosen: FileFilter | undefined, show: ShowFiles): TemplateResult {
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

function table(state: Run['state'], { files }: FilesShown, nowMs: number): TemplateResult {
  if (files.length === 0) return html`<p class="hint">No files.</p>`;
  return scrollable(
    'files-title',
    html`<table class="files">
      <thead>
        <tr>
          <th scope="col">Name</th><th scope="col">Received</th><th scope="col" class="number">Bytes</th>
          <th scope="col" class="number">Lines</th><th scope="col">Last activity</th>
        </tr>
      </thead>
      <tbody>
        ${files.map((file) => row(file, state, nowMs))}
      </tbody>
    </table>`,
  );
}

function row(file: RunFile, state: Run['state'], nowMs: number): TemplateResult {
  const isStalled = file.stalled && state === 'receiving';
  // The offset of a file that was removed after its load is 0.
  const received = file.state === 'received' ? file.bytes : file.offset;
  return html`<tr ?data-alarm=${isStalled}>
    <th scope="row">${file.name}</th>
    <td>
      <progress aria-label=${`received of ${file.name}`} max=${Math.max(1, file.bytes)} .value=${file.bytes === 0 ? 1 : received}></progress>
      <span>${isStalled ? 'stalled at ' : ''}${percent(received, file.bytes)} %</span>
    </td>
    <td class="number">${formatBytes(file.bytes)}</td>
    <td class="number">${file.lines === null ? '–' : formatCount(file.lines)}</td>
    <td>${ago(file.lastProgressAt, nowMs)}</td>
  </tr>`;
}

/** The service keeps this many rejected lines of a run, and counts all. */
const MOST_REJECTS = 1_000;

export function rejectsSection(run: Run): TemplateResult | typeof nothing {
  const { total, byCode, first } = run.rejects;
  if (total === 0) return nothing;
  const codes = html`<ul class="codes">
    ${Object.entries(byCode).map(([code, count]) => html`<li><code>${code}</code> ${formatCount(count)}</li>`)}
  </ul>`;
  const table = html`<table>
    <thead>
      <tr>
        <th scope="col">File</th><th scope="col" class="number">Line</th><th scope="col" class="number">Byte offset</th>
        <th scope="col">Problem</th><th scope="col">Text of the line</th>
      </tr>
    </thead>
    <tbody>
      ${first.map(
        (line) => html`<tr>
          <td class="file">${line.file}</td>
          <td class="number">${formatCount(line.line)}</td>
          <td class="number">${formatCount(line.byte_offset)}</td>
          <td class="wide">${line.detail}</td>
          <td class="wide"><code class="excerpt">${line.excerpt}</code></td>
        </tr>`,
      )}
    </tbody>
  </table>`;
  const download = html`<p>
    <span class="hint">The first ${first.length} are shown.</span>
    <a href=${rejectsPath(run)} download=${rejectsFile(run)}
      >Download ${total > MOST_REJECTS ? `the first ${formatCount(MOST_REJECTS)}` : `all ${formatCount(total)}`} (NDJSON)</a
    >
  </p>`;
  return tableSection('rejects-title', `Rejected lines: ${formatCount(total)}`, table, {
    before: codes,
    ...(total > first.length ? { after: download } : {}),
  });
}

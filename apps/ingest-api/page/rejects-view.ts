import type { Run } from 'wire';
import { rejectsPath } from './api-client.ts';
import { formatCount } from './format.ts';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

export function rejectsSection(run: Run): TemplateResult | typeof nothing {
  const { total, byCode, first } = run.rejects;
  if (total === 0) return nothing;
  return html`<section aria-labelledby="rejects-title">
    <h2 id="rejects-title">Rejected lines: ${formatCount(total)}</h2>
    <ul class="codes">
      ${Object.entries(byCode).map(([code, count]) => html`<li><code>${code}</code> ${formatCount(count)}</li>`)}
    </ul>
    <div class="scroll" tabindex="0" role="region" aria-labelledby="rejects-title">
      <table>
        <thead>
          <tr>
            <th scope="col">File</th><th scope="col" class="number">Line</th><th scope="col" class="number">Byte</th>
            <th scope="col">What is wrong</th><th scope="col">The line</th>
          </tr>
        </thead>
        <tbody>
          ${first.map(
            (line) => html`<tr>
              <td class="file">${line.file}</td>
              <td class="number">${formatCount(line.line)}</td>
              <td class="number">${formatCount(line.byte_offset)}</td>
              <td>${line.detail}</td>
              <td><code class="excerpt">${line.excerpt}</code></td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
    ${
      total > first.length
        ? html`<p><a href=${rejectsPath(run.model, run.run)} download=${`${run.model}-${run.run}-rejects.ndjson`}>
            All that are kept, as NDJSON</a></p>`
        : nothing
    }
  </section>`;
}

import type { RunHistory } from 'wire';
import { formatBytes, formatCount, formatInstant, formatSeconds, secondsBetween } from './format.ts';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

export function attemptsTable({ attempts }: RunHistory): TemplateResult | typeof nothing {
  if (attempts.length === 0) return nothing;
  return html`<section aria-labelledby="attempts-title">
    <h2 id="attempts-title">Loads that were tried</h2>
    <div class="scroll" tabindex="0" role="region" aria-labelledby="attempts-title">
      <table>
        <thead>
          <tr>
            <th scope="col" class="number">Revision</th><th scope="col" class="number">Try</th><th scope="col">Began</th>
            <th scope="col" class="number">Took</th><th scope="col" class="number">Rows</th><th scope="col" class="number">Bytes</th>
            <th scope="col">Outcome</th><th scope="col">Loader</th>
          </tr>
        </thead>
        <tbody>
          ${attempts.map(
            (attempt) => html`<tr>
              <td class="number">${attempt.revision}</td>
              <td class="number">${attempt.attempt}</td>
              <td>${formatInstant(attempt.startedAt)}</td>
              <td class="number">${attempt.finishedAt === null ? '–' : formatSeconds(secondsBetween(attempt.startedAt, attempt.finishedAt))}</td>
              <td class="number">${formatCount(attempt.rows)}</td>
              <td class="number">${formatBytes(attempt.bytes)}</td>
              <td>${attempt.outcome ?? attempt.phase}${phasesOf(attempt.phaseSeconds)}${attempt.error === null ? nothing : html`<br /><span class="hint">${attempt.error}</span>`}</td>
              <td>${attempt.worker}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
  </section>`;
}

interface Entry {
  readonly at: string;
  readonly who: string;
  readonly what: string;
  readonly revision: number | null;
  readonly detail: string;
}

/** Acts and publications in one list: who did what, when, and why. */
export function eventsTable({ events, publications }: RunHistory): TemplateResult | typeof nothing {
  const entries: Entry[] = [
    ...events.map((event) => ({
      at: event.at,
      who: event.actor,
      what: event.action.replaceAll('_', ' '),
      revision: event.revision,
      detail: reasonIn(event.detail),
    })),
    ...publications.map((publication) => ({
      at: publication.at,
      who: publication.by,
      what: 'shown to readers',
      revision: publication.revision,
      detail: publication.reason ?? '',
    })),
  ].sort((a, b) => Date.parse(b.at) - Date.parse(a.at));
  if (entries.length === 0) return nothing;
  return html`<section aria-labelledby="events-title">
    <h2 id="events-title">Who did what</h2>
    <div class="scroll" tabindex="0" role="region" aria-labelledby="events-title">
      <table>
        <thead>
          <tr>
            <th scope="col">When</th><th scope="col">Who</th><th scope="col">What</th>
            <th scope="col" class="number">Revision</th><th scope="col">Why, or what</th>
          </tr>
        </thead>
        <tbody>
          ${entries.map(
            (entry) => html`<tr>
              <td>${formatInstant(entry.at)}</td>
              <td>${entry.who}</td>
              <td>${entry.what}</td>
              <td class="number">${entry.revision ?? '–'}</td>
              <td>${entry.detail}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
  </section>`;
}

function reasonIn(detail: Record<string, unknown> | null): string {
  if (detail === null) return '';
  if (typeof detail.reason === 'string') return detail.reason;
  const { source: _source, ...rest } = detail;
  return Object.entries(rest)
    .map(([name, value]) => `${name}: ${typeof value === 'string' ? value : JSON.stringify(value)}`)
    .join(', ');
}

/** What took its time; what took none is left out. */
function phasesOf(seconds: Record<string, number> | null): TemplateResult | typeof nothing {
  const long = Object.entries(seconds ?? {}).filter(([, spent]) => spent >= 0.1);
  if (long.length === 0) return nothing;
  const text = long
    .map(([phase, spent]) => `${phase.replaceAll('_', ' ')} ${formatSeconds(spent)}`)
    .join(', ');
  return html`<br /><span class="hint">${text}</span>`;
}

import type { RunHistory } from './api.ts';
import {
  formatBytes,
  formatCount,
  formatSeconds,
  formatValue,
  STEPS,
  secondsBetween,
  time,
} from './format.ts';
import { tableSection } from './layout.ts';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

type Attempt = RunHistory['attempts'][number];

const OUTCOMES: Readonly<Record<NonNullable<Attempt['outcome']>, string>> = {
  published: 'published',
  superseded: 'loaded; readers already saw a newer run',
  held: 'loaded, held by a quality gate',
  failed: 'failed: data rejected',
  retry: 'failed: temporary error',
  lost: 'failed: loader lost',
};

export function attemptsSection({ attempts }: RunHistory): TemplateResult | typeof nothing {
  if (attempts.length === 0) return nothing;
  const table = html`<table>
    <thead>
      <tr>
        <th scope="col" class="number">Revision</th><th scope="col" class="number">Attempt</th>
        <th scope="col">Started</th><th scope="col" class="number">Duration</th>
        <th scope="col" class="number">Rows</th><th scope="col" class="number">Bytes</th>
        <th scope="col">Outcome</th><th scope="col">Loader</th>
      </tr>
    </thead>
    <tbody>
      ${attempts.map(
        (attempt) => html`<tr>
          <td class="number">${attempt.revision}</td>
          <td class="number">${attempt.attempt}</td>
          <td class="time">${time(attempt.startedAt)}</td>
          <td class="number">${duration(attempt)}</td>
          <td class="number">${formatCount(attempt.rows)}</td>
          <td class="number">${formatBytes(attempt.bytes)}</td>
          <td class="wide">
            ${attempt.outcome === null ? `running: ${STEPS[attempt.phase]}` : OUTCOMES[attempt.outcome]}
            ${[attempt.error, longSteps(attempt)].map((note) => (note ? html`<br /><span class="hint">${note}</span>` : nothing))}
          </td>
          <td>${attempt.worker}</td>
        </tr>`,
      )}
    </tbody>
  </table>`;
  return tableSection('attempts-title', 'Load attempts', table);
}

function duration({ startedAt, finishedAt }: Attempt): string {
  return finishedAt === null ? '–' : formatSeconds(secondsBetween(startedAt, finishedAt));
}

const LONG_SECONDS = 0.1;

function longSteps({ phaseSeconds }: Attempt): string {
  return Object.entries(phaseSeconds ?? {})
    .filter(([, seconds]) => seconds >= LONG_SECONDS)
    .map(
      ([phase, seconds]) => `${(STEPS as Record<string, string>)[phase] ?? phase}: ${formatSeconds(seconds)}`,
    )
    .join(', ');
}

/** A name that is newer than this page is shown as it is. */
const ACTIONS: Readonly<Record<string, string>> = {
  declare: 'declared',
  lose_bytes: 'received bytes missing on disk',
  retry: 'load requested',
  retire: 'retired by retention',
  expire: 'cancelled: no bytes received',
  withdraw: 'withdrawn',
};

interface Entry {
  readonly at: string;
  readonly who: string;
  readonly action: string;
  readonly revision: number | null;
  readonly detail: string;
}

/** Acts and publications in one list: who did what, when, and why. */
export function auditSection({ events, publications }: RunHistory): TemplateResult | typeof nothing {
  const entries: Entry[] = [
    ...events
      .filter(({ action }) => action !== 'publish') // each one has its publication
      .map(({ at, actor, action, revision, detail }) => ({
        at,
        who: actor,
        action: ACTIONS[action] ?? action.replaceAll('_', ' '),
        revision,
        detail: reasonIn(detail),
      })),
    ...publications.map(({ at, by, revision, reason }) => ({
      at,
      who: by,
      action: 'published',
      revision,
      detail: reason ?? '',
    })),
  ].sort((a, b) => Date.parse(b.at) - Date.parse(a.at));
  if (entries.length === 0) return nothing;
  const table = html`<table>
    <thead>
      <tr>
        <th scope="col">Time</th><th scope="col">Who</th><th scope="col">Action</th>
        <th scope="col" class="number">Revision</th><th scope="col">Reason or details</th>
      </tr>
    </thead>
    <tbody>
      ${entries.map(
        ({ at, who, action, revision, detail }) => html`<tr>
          <td class="time">${time(at)}</td>
          <td>${who}</td>
          <td>${action}</td>
          <td class="number">${revision ?? '–'}</td>
          <td class="wide">${detail}</td>
        </tr>`,
      )}
    </tbody>
  </table>`;
  return tableSection('audit-title', 'Audit log', table);
}

function reasonIn(detail: Record<string, unknown> | null): string {
  if (typeof detail?.reason === 'string') return detail.reason;
  return Object.entries(detail ?? {})
    .map(([name, value]) => `${name}: ${formatValue(value)}`)
    .join(', ');
}

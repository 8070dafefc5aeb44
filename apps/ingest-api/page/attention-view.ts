import type { RunSummary } from 'wire';
import { runHref } from './app-state.ts';
import { formatAgo } from './format.ts';
import { describeGate } from './gate-names.ts';
import { stateBadge } from './run-state.ts';
import { html, type TemplateResult } from './vendor/lit-html.js';

/** What a human should look at, with the reason, so that the next click is the right one. */
export function attentionList(runs: readonly RunSummary[], nowMs: number): TemplateResult {
  if (runs.length === 0) {
    return html`<p class="calm"><span aria-hidden="true">✓</span> Nothing needs you.</p>`;
  }
  return html`<section aria-labelledby="attention-title">
    <h2 id="attention-title">Needs you</h2>
    <ul class="attention">
      ${runs.map(
        (run) => html`<li>
          ${stateBadge(run.state)}
          <a href=${runHref(run)}>${run.model} <span class="key">${run.run}</span></a>
          <span class="why">${reasonOf(run, nowMs)}</span>
        </li>`,
      )}
    </ul>
  </section>`;
}

function reasonOf(run: RunSummary, nowMs: number): string {
  if (run.state === 'failed') return run.error?.detail ?? 'The data is at fault.';
  if (run.state === 'held')
    return run.brokenGates.map(describeGate).join(' ') || 'A quality gate holds it until someone decides.';
  if (run.files.stalled > 0) {
    const since =
      run.lastProgressAt === null ? '' : `; the last byte came ${formatAgo(run.lastProgressAt, nowMs)}`;
    return `${run.files.stalled} of ${run.files.total} files are stalled${since}.`;
  }
  return `Try ${run.load?.attempt}: ${run.load?.lastError ?? 'the tries before broke off.'}`;
}

import type { Run } from 'wire';
import { formatInstant, formatSeconds, secondsBetween } from './format.ts';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

const AT_ONCE_SECONDS = 0.1;

interface Step {
  readonly name: string;
  readonly at: string | null;
}

/** The way of the run: when it reached each step, and how long it took from the one before. */
export function timeline(run: Run): TemplateResult {
  const steps: Step[] = [
    { name: 'declared', at: run.declaredAt },
    { name: 'received', at: run.queuedAt },
    { name: 'load began', at: run.load?.startedAt ?? null },
    { name: endOf(run), at: run.loadedAt },
  ];
  const reached = steps.filter(({ at }) => at !== null).length;
  return html`<ol class="timeline" aria-label="Timeline">
    ${steps.map((step, index) => {
      const before = steps[index - 1]?.at;
      const took = step.at !== null && before != null ? secondsBetween(before, step.at) : undefined;
      return html`<li ?data-reached=${step.at !== null} aria-current=${index === reached ? 'step' : nothing}>
        <strong>${step.name}</strong>
        <span>${step.at === null ? 'not yet' : formatInstant(step.at)}</span>
        ${took === undefined ? nothing : html`<span class="took">${took < AT_ONCE_SECONDS ? 'at once' : `after ${formatSeconds(took)}`}</span>`}
      </li>`;
    })}
  </ol>`;
}

function endOf({ state }: Run): string {
  if (state === 'failed' || state === 'held' || state === 'published') return state;
  return 'loaded';
}

import type { RunState } from 'wire';
import { html, type TemplateResult } from './vendor/lit-html.js';

/** Each state has a sign and a word besides its colour, which not everybody sees. */
const SIGNS: Readonly<Record<RunState, { readonly sign: string; readonly means: string }>> = {
  receiving: { sign: '↓', means: 'files are on their way' },
  queued: { sign: '…', means: 'all files are here; it waits for a loader' },
  loading: { sign: '▶', means: 'a loader copies it into the database' },
  published: { sign: '✓', means: 'loaded, and shown to readers' },
  superseded: { sign: '○', means: 'loaded; readers see another run' },
  held: { sign: '‖', means: 'loaded, but a gate wants a human' },
  failed: { sign: '✕', means: 'the data is at fault' },
  cancelled: { sign: '–', means: 'withdrawn, or replaced before it was loaded' },
};

export const STATES = Object.keys(SIGNS) as RunState[];

export function signOf(state: RunState): string {
  return SIGNS[state].sign;
}

export function meaningOf(state: RunState): string {
  return SIGNS[state].means;
}

export function stateBadge(state: RunState): TemplateResult {
  return html`<span class="badge" data-state=${state} title=${meaningOf(state)}
    ><span aria-hidden="true">${signOf(state)}</span> ${state}</span
  >`;
}

export function isMoving(state: RunState): boolean {
  return state === 'receiving' || state === 'queued' || state === 'loading';
}

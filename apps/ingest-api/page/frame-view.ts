import type { AppState } from './app-state.ts';
import type { Liveness } from './live-events.ts';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

const LIVENESS: Readonly<Record<Liveness, string>> = {
  live: 'Live',
  polling: 'Every 5 s',
  connecting: 'Connecting…',
};

/** What stands around every page: where one is, whether it is live, who is signed in. */
export function frame(state: AppState, page: TemplateResult, leave: () => void): TemplateResult {
  return html`<a class="skip" href="#main" @click=${skip}>Skip to content</a>
    <header>
      <a class="home" href="#/"><img src="/page/icon.svg" alt="" width="26" height="26" />score-ingest</a>
      <span class="liveness" data-liveness=${state.liveness} role="status">${LIVENESS[state.liveness]}</span>
      <span class="who" title=${`scopes: ${state.session?.scopes.join(', ')}`}>${state.session?.name}</span>
      <button @click=${leave}>Sign out</button>
    </header>
    <main id="main" tabindex="-1">
      ${state.fault === undefined ? nothing : html`<p class="fault" role="alert">${state.fault}</p>`} ${page}
    </main>`;
}

/** The address after # is the route here, so that the usual link would lead elsewhere. */
function skip(event: Event): void {
  event.preventDefault();
  document.querySelector<HTMLElement>('main')?.focus();
}

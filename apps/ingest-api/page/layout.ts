import type { Liveness } from './api.ts';
import type { AppState } from './state.ts';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

export function signInPage(fault: string | undefined, enter: (token: string) => void): TemplateResult {
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    const form = event.target as HTMLFormElement;
    enter(String(new FormData(form).get('token') ?? '').trim());
  };
  return html`<main class="sign-in">
    <form @submit=${submit} class="card">
      <h1>score-ingest</h1>
      <p>
        Sign in with an access token. To see runs, it needs the scope <code>read</code>; to publish, retry or withdraw
        them, also <code>operate</code>.
      </p>
      <label for="token">Token</label>
      <input id="token" name="token" type="password" required autocomplete="current-password" autofocus
        spellcheck="false" placeholder="si_…" />
      ${fault === undefined ? nothing : html`<p class="fault" role="alert">${fault}</p>`}
      <button class="primary">Sign in</button>
      <p class="hint">
        To create a token, run this on the server:
        <code class="command">ingest-api token create NAME --scope read,operate</code>
        This page does not store the token. You stay signed in for 12 hours, unless you sign out or the token expires
        or is revoked.
      </p>
    </form>
  </main>`;
}

const LIVENESS: Readonly<Record<Liveness, string>> = {
  live: 'Live',
  polling: 'Updated every 5 s',
  connecting: 'Connecting…',
};

/** What surrounds every page: the way home, whether it updates, who is signed in, the last error. */
export function frame(state: AppState, page: TemplateResult, leave: () => void): TemplateResult {
  const { session, liveness, fault } = state;
  return html`<a class="skip" href="#main" @click=${skip}>Skip to content</a>
    <header>
      <a class="home" href="#/"><img src="page/icon.svg" alt="" width="26" height="26" />score-ingest</a>
      <span class="liveness" data-liveness=${liveness} role="status">${LIVENESS[liveness]}</span>
      <span class="who" title=${`Token ${session?.name}; scopes: ${session?.scopes.join(', ')}`}
        ><span class="out-of-sight">Signed in as </span>${session?.name}</span
      >
      <button @click=${leave}>Sign out</button>
    </header>
    <main id="main" tabindex="-1" ?data-wide=${state.route.page !== 'run'}>
      ${fault === undefined ? nothing : html`<p class="fault" role="alert">${fault}</p>`} ${page}
    </main>
    <footer class="hint" ?data-wide=${state.route.page !== 'run'}>Dates and times are in UTC; point at a time to see it in your time zone.</footer>`;
}

/** The page uses the part of the address after # as its route, so the link cannot set it. */
function skip(event: Event): void {
  event.preventDefault();
  document.querySelector<HTMLElement>('main')?.focus();
}

/** A part of a page that consists of a table; `before` and `after` surround it. */
export function tableSection(
  id: string,
  title: string,
  table: TemplateResult,
  { before, after }: { readonly before?: TemplateResult; readonly after?: TemplateResult } = {},
): TemplateResult {
  return html`<section aria-labelledby=${id}>
    <h2 id=${id}>${title}</h2>
    ${before ?? nothing} ${scrollable(id, table)} ${after ?? nothing}
  </section>`;
}

/** A table may be wider than the screen: the region scrolls sideways, by keyboard too. */
export function scrollable(titleId: string, table: TemplateResult): TemplateResult {
  return html`<div class="scroll" tabindex="0" role="region" aria-labelledby=${titleId}>${table}</div>`;
}

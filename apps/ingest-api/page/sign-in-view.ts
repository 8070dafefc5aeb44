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
      <p>Sign in with a token of the scope <code>read</code>; acting on runs needs <code>operate</code>.</p>
      <label for="token">Token</label>
      <input id="token" name="token" type="password" required autocomplete="current-password" autofocus
        spellcheck="false" placeholder="si_…" />
      ${fault === undefined ? nothing : html`<p class="fault" role="alert">${fault}</p>`}
      <button class="primary">Sign in</button>
      <p class="hint">
        <code>ingest-api token create NAME --scope read,operate</code> makes one. The browser does not keep it: you are
        signed in for 12 hours, or until you sign out or the token ends.
      </p>
    </form>
  </main>`;
}

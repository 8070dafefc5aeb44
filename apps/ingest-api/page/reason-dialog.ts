import { html, nothing, render } from './vendor/lit-html.js';

export interface ReasonRequest {
  readonly label: string;
  readonly question: string;
  readonly isGrave: boolean;
  readonly fault?: string;
  carryOut(reason: string): Promise<unknown>;
}

/**
 * Asks whether it is meant, and why. Stays open with the service's answer when that is no, so that the reason
 * is not lost; resolves when it is closed.
 */
export function askForReason(request: ReasonRequest): Promise<void> {
  const dialog = document.createElement('dialog');
  dialog.setAttribute('aria-labelledby', 'dialog-title');
  document.body.append(dialog);
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve();
    });
    const draw = (fault: string | undefined, isBusy: boolean) =>
      render(
        html`<form @submit=${submit}>
          <h2 id="dialog-title">${request.label}</h2>
          <p>${request.question}</p>
          <label for="reason">Why? It is kept with the run, beside your token's name.</label>
          <input id="reason" name="reason" required maxlength="500" autocomplete="off" autofocus />
          ${fault === undefined ? nothing : html`<p class="fault" role="alert">${fault}</p>`}
          <div class="actions">
            <button type="button" @click=${() => dialog.close()}>Cancel</button>
            <button class=${request.isGrave ? 'grave' : 'primary'} ?disabled=${isBusy}>${request.label}</button>
          </div>
        </form>`,
        dialog,
      );
    const submit = (event: SubmitEvent) => {
      event.preventDefault();
      const reason = String(new FormData(event.target as HTMLFormElement).get('reason')).trim();
      if (reason === '') return;
      draw(undefined, true);
      request.carryOut(reason).then(
        () => dialog.close(),
        (error: Error) => draw(error.message, false),
      );
    };
    draw(request.fault, false);
    dialog.showModal();
  });
}

import {
  currentEtag,
  publishRun,
  type Run,
  rejectsPath,
  retryRun,
  type Session,
  withdrawRun,
} from './api.ts';
import { html, nothing, render, type TemplateResult } from './vendor/lit-html.js';

interface Act {
  readonly label: string;
  /** What happens, for the dialog. */
  readonly effect: string;
  readonly isGrave: boolean;
  /** It is what helps in this state: at most one act of a run is. */
  readonly helps?: boolean;
  /** Reads the ETag when the dialog opens, so that the service notices what changed since. */
  prepare?(): Promise<string>;
  carryOut(reason: string, etag: string): Promise<unknown>;
}

/** What the state of the run and the scopes of the token allow. Each act needs a reason, which the service records. */
export function actionBar(
  run: Run,
  session: Session | undefined,
  refresh: () => Promise<void>,
): TemplateResult {
  const acts = actsOf(run);
  const download = rejectsButton(run);
  if (session?.scopes.some((scope) => scope === 'operate' || scope === 'admin')) {
    return html`<span class="actions">
      ${download}
      ${acts.map(
        (act) => html`<button
          class=${act.helps ? 'primary' : act.isGrave ? 'grave' : ''}
          @click=${() => perform(act, refresh)}
        >${act.label}</button>`,
      )}
    </span>`;
  }
  const labels = acts.map(({ label }) => `“${label}”`).join(', ');
  return acts.length === 0
    ? html`<span class="actions">${download}</span>`
    : html`<span class="actions">${download}<span class="hint">${labels}: sign in with a token that has the scope <code>operate</code>.</span></span>`;
}

/** Wrong data is not helped by loading it again, but by the list of what is wrong with it. */
function rejectsButton(run: Run): TemplateResult | typeof nothing {
  if (run.state !== 'failed' || run.rejects.total === 0) return nothing;
  return html`<a class="button primary" href=${rejectsPath(run)} download=${rejectsFile(run)}>Download rejected lines</a>`;
}

export function rejectsFile({ model, run }: Run): string {
  return `${model}-${run}-rejects.ndjson`;
}

function actsOf(run: Run): Act[] {
  const { model, run: key, revision, state, mayDo } = run;
  const acts: Act[] = [];
  if (mayDo.includes('publish')) {
    const isBroken = (run.gates ?? []).some(({ broken }) => broken);
    acts.push({
      label: isBroken ? 'Publish anyway' : 'Publish this run',
      effect: `Readers of scores.${model} see run ${key} immediately${insteadOf(run)}${isBroken ? ', although it breaks a quality gate' : ''}.`,
      isGrave: isBroken,
      helps: state === 'held',
      prepare: () => currentEtag(model),
      carryOut: (reason, etag) => publishRun(model, { run: key, revision, force: isBroken, reason }, etag),
    });
  }
  if (mayDo.includes('retry')) {
    const isFailed = state === 'failed';
    acts.push({
      label: isFailed ? 'Load again' : 'Load now',
      effect: isFailed
        ? 'The service loads the same files again. If the data is wrong, this fails again: fix the data and push the run instead.'
        : 'The next free loader takes the run, without waiting for the time of the next attempt.',
      isGrave: false,
      helps: !isFailed && run.load?.lastError != null,
      carryOut: (reason) => retryRun(run, reason),
    });
  }
  if (mayDo.includes('withdraw')) {
    acts.push({
      label: 'Withdraw',
      effect: `Revision ${revision} of run ${key} is cancelled: it cannot be loaded or published any more, and the service deletes its rows, and its files if no other run needs them. To undo this, push the run again.`,
      isGrave: true,
      carryOut: (reason) => withdrawRun(run, reason),
    });
  }
  return acts;
}

function insteadOf({ shown, run }: Run): string {
  if (shown === null) return '';
  return shown.run === run ? `, instead of its revision ${shown.revision}` : `, instead of run ${shown.run}`;
}

async function perform(act: Act, refresh: () => Promise<void>): Promise<void> {
  const etag = await act.prepare?.().catch((error: Error) => error);
  if (etag instanceof Error) {
    await confirm({ ...act, carryOut: () => Promise.reject(etag) }, etag.message);
    return;
  }
  await confirm({ ...act, carryOut: (reason) => act.carryOut(reason, etag ?? '') });
  await refresh();
}

/**
 * Asks for confirmation and a reason. When the service refuses, the dialog shows why and stays open, so that the reason
 * is not lost. Resolves when the dialog is closed.
 */
function confirm(
  {
    label,
    effect,
    isGrave,
    carryOut,
  }: Pick<Act, 'label' | 'effect' | 'isGrave'> & {
    carryOut(reason: string): Promise<unknown>;
  },
  fault?: string,
): Promise<void> {
  const dialog = document.createElement('dialog');
  dialog.setAttribute('aria-labelledby', 'dialog-title');
  document.body.append(dialog);
  const draw = (fault: string | undefined, isBusy: boolean) =>
    render(
      html`<form @submit=${submit}>
        <h2 id="dialog-title">${label}</h2>
        <p>${effect}</p>
        <label for="reason">Reason (recorded in the audit log, with the name of your token)</label>
        <input id="reason" name="reason" required maxlength="500" autocomplete="off" autofocus />
        ${fault === undefined ? nothing : html`<p class="fault" role="alert">${fault}</p>`}
        <div class="actions">
          <button type="button" @click=${() => dialog.close()}>Close</button>
          <button class=${isGrave ? 'grave' : 'primary'} ?disabled=${isBusy}>${label}</button>
        </div>
      </form>`,
      dialog,
    );
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    const reason = String(new FormData(event.target as HTMLFormElement).get('reason')).trim();
    if (reason === '') return;
    draw(undefined, true);
    carryOut(reason).then(
      () => dialog.close(),
      (error: Error) => draw(error.message, false),
    );
  };
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve();
    });
    draw(fault, false);
    dialog.showModal();
  });
}

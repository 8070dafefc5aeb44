import type { Run } from 'wire';
import { currentEtag, publishRun, retryRun, withdrawRun } from './api-client.ts';
import { type AppState, may } from './app-state.ts';
import { askForReason } from './reason-dialog.ts';
import { html, nothing, type TemplateResult } from './vendor/lit-html.js';

interface Act {
  readonly label: string;
  readonly question: string;
  readonly isGrave: boolean;
  /** Read when the question is asked, so that what changes meanwhile is noticed. */
  prepare(): Promise<string>;
  carryOut(reason: string, prepared: string): Promise<unknown>;
}

const nothingToPrepare = async () => '';

/** What the state allows and the token may do; each asks for a reason, which is kept with the run. */
export function actionBar(run: Run, state: AppState, refresh: () => Promise<void>): TemplateResult {
  const acts = may(state.session, 'operate') ? actsOf(run) : [];
  return html`<span class="actions">
    ${acts.map(
      (act) => html`<button
        class=${act.isGrave ? 'grave' : 'primary'}
        @click=${() => perform(act, refresh)}
      >${act.label}</button>`,
    )}
    ${
      acts.length === 0 && run.mayDo.some((action) => action !== 'upload') && !may(state.session, 'operate')
        ? html`<span class="hint">Acting on it needs a token with the scope <code>operate</code>.</span>`
        : nothing
    }
  </span>`;
}

async function perform(act: Act, refresh: () => Promise<void>): Promise<void> {
  const prepared = await act.prepare().catch((error: Error) => error);
  if (prepared instanceof Error) {
    await askForReason({ ...act, fault: prepared.message, carryOut: async () => {} });
    return;
  }
  await askForReason({ ...act, carryOut: (reason) => act.carryOut(reason, prepared) });
  await refresh();
}

function actsOf(run: Run): Act[] {
  const acts: Act[] = [];
  const publish = (label: string, question: string, force: boolean): Act => ({
    label,
    question,
    isGrave: force,
    prepare: () => currentEtag(run.model),
    carryOut: (reason, etag) =>
      publishRun(run.model, { run: run.run, revision: run.revision, force, reason }, etag),
  });
  if (run.mayDo.includes('publish') && run.state === 'held') {
    acts.push(
      publish(
        'Publish anyway',
        `Readers of scores.${run.model} will see ${run.run} although a gate is broken.`,
        true,
      ),
    );
  } else if (run.mayDo.includes('publish')) {
    acts.push(
      publish(
        'Roll back to this run',
        `Readers of scores.${run.model} will see ${run.run}, at once and whole.`,
        false,
      ),
    );
  }
  if (run.mayDo.includes('retry')) {
    acts.push({
      label: 'Load again',
      question: 'The same bytes are loaded once more. Bad data will fail again; mend it and push instead.',
      isGrave: false,
      prepare: nothingToPrepare,
      carryOut: (reason) => retryRun(run.model, run.run, reason),
    });
  }
  if (run.mayDo.includes('withdraw')) {
    acts.push({
      label: 'Withdraw',
      question: `Run ${run.run} is given up: nothing of it will be loaded or published. Pushing it again brings it back.`,
      isGrave: true,
      prepare: nothingToPrepare,
      carryOut: (reason) => withdrawRun(run.model, run.run, reason),
    });
  }
  return acts;
}

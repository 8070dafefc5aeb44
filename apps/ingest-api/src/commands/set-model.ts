import { type Command, InvalidArgumentError } from 'commander';
import { type Contract, parseModelName } from 'db-schema';
import type { DatabaseConfig } from '../config.ts';
import { contractRequest } from '../runs/contract.ts';
import { listModels, setContract } from '../runs/models.ts';
import { cliActor, withDatabase } from './with-database.ts';

/** What each option of `model set` changes in the contract, and its help. */
const OPTIONS: readonly [flag: string, field: keyof Contract, help: string][] = [
  ['score-min', 'scoreMin', 'lowest score that may be'],
  ['score-max', 'scoreMax', 'highest score that may be'],
  ['min-rows', 'minRows', 'rows that a run must have'],
  ['max-row-change-percent', 'maxRowChangePercent', 'change of the rows against the published run'],
  ['max-score-shift-psi', 'maxScoreShiftPsi', 'population stability index against the published run'],
  ['max-rows', 'maxRows', 'rows that a run may have; with one more it is refused'],
  ['max-bytes', 'maxBytes', 'bytes of lines, decompressed, that a run may have'],
  ['max-rejected-lines', 'maxRejectedLines', 'bad lines that are left out; with one more the run fails'],
  ['keep-revisions', 'keepRevisions', 'loaded revisions that are kept beside the published one'],
];

type Changes = Partial<Record<keyof Contract, number | 'none'>>;

export function addContractOptions(command: Command): Command {
  for (const [flag, , help] of OPTIONS) command.option(`--${flag} <number|none>`, help, parseNumber);
  return command;
}

function parseNumber(text: string): number | 'none' {
  if (text === 'none') return text;
  const number = Number(text);
  if (text.trim() === '' || !Number.isFinite(number))
    throw new InvalidArgumentError('It must be a number, or none.');
  return number;
}

/** Changes what is given, leaves the rest, and prints the contract that holds now. */
export async function setModel(config: DatabaseConfig, name: string, changes: Changes): Promise<void> {
  const model = parseModelName(name);
  await withDatabase(config, 'ingest-api model', async (db) => {
    const [known] = await listModels(db, { models: [model], limit: 1 });
    const merged = Object.entries({ ...known?.contract, ...changes }).filter(([, value]) => value !== 'none');
    const result = contractRequest.safeParse(Object.fromEntries(merged));
    if (!result.success) {
      const faults = result.error.issues.map(({ path, message }) => [...path, message].join(': '));
      throw new Error(`The contract of "${model}" would not be valid: ${faults.join('; ')}.`);
    }
    if (Object.keys(changes).length > 0) await setContract(db, model, result.data, cliActor());
    process.stdout.write(`${JSON.stringify({ model, contract: result.data })}\n`);
  });
}

// node apps/ingest-api/src/http/write-problem-docs.ts: writes docs/problems/ from the tables of problems.
import { mkdir, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { ERROR_CODES, type ErrorCode } from '../errors.ts';
import { PROBLEM_GUIDES } from './problem-guides.ts';

const FOLDER = fileURLToPath(new URL('../../../../docs/problems/', import.meta.url));
const CODES = Object.keys(ERROR_CODES) as ErrorCode[];

/** Every file of docs/problems/, by its name. */
export function problemDocs(): ReadonlyMap<string, string> {
  const index = CODES.map(
    (code) => `- [\`${code}\`](${code}.md), ${ERROR_CODES[code].status}: ${ERROR_CODES[code].title}`,
  );
  return new Map([
    [
      'README.md',
      `# Problems\n\nThe service serves the same pages at \`/problems/{code}\`.\n\n${index.join('\n')}\n`,
    ],
    ...CODES.map((code): [string, string] => [`${code}.md`, docOf(code)]),
  ]);
}

function docOf(code: ErrorCode): string {
  const { status, title, retryable } = ERROR_CODES[code];
  const { happened, toDo } = PROBLEM_GUIDES[code];
  const again = retryable ? 'The same request may succeed later.' : 'The same request will fail again.';
  return `# ${title}

\`${code}\`, status ${status}. ${again}

## What happened

${happened}

## What to do

${toDo.map((step) => `- ${step}`).join('\n')}
`;
}

if (import.meta.main) {
  await mkdir(FOLDER, { recursive: true });
  for (const [name, text] of problemDocs()) await writeFile(`${FOLDER}${name}`, text);
}

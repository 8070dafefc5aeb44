import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { WORD_OF } from '../src/results.ts';
import { startUploader } from './support/run-uploader.ts';

const CODES = Object.keys(WORD_OF);

const codesOf = (texts: Iterable<RegExpExecArray>): string[] =>
  [...texts].flatMap(([, codes = '']) => codes.split(', '));

describe('the exit codes', () => {
  it('stand in the tables of the manuals, all of them and no other', () => {
    for (const manual of ['../../../docs/uploader.md', '../README.md']) {
      const text = readFileSync(new URL(manual, import.meta.url), 'utf8');
      const section = text.split(/^## /m).find((it) => it.startsWith('Exit codes')) ?? text;
      expect(codesOf(section.matchAll(/^\| (\d+(?:, \d+)*) +\| .* \|$/gm)), manual).to.have.members(CODES);
    }
  });

  it('stand in the help of push', async () => {
    const { stdout } = await startUploader(['push', '--help'], {}).finished;
    const table = stdout.slice(stdout.indexOf('Exit codes'));
    for (const code of CODES) expect(table).to.match(new RegExp(`(^|\\s)${code}(,|\\s)`, 'm'));
  });
});

import { join } from 'node:path';
import { expect } from 'chai';
import { ERROR_CODES, type ErrorCode, EXIT_CODE_OF } from 'wire';
import { type IngestServer, startIngestServer } from './support/ingest-server.ts';
import { type Finished, startUploader } from './support/run-uploader.ts';
import { makeScratch, scoreLines } from './support/scratch.ts';

const TOKEN = ' Set a token that allows this in UPLOADER_TOKEN, UPLOADER_TOKEN_FILE or --token-file.';
const BUG = ' This is a bug of the uploader, or a proxy changes its requests.';
/** Where a setting of the uploader, or the uploader, is what must change. All other problems say what to do themselves. */
const ADVICE: Partial<Record<ErrorCode, string>> = {
  unauthenticated: TOKEN,
  forbidden: TOKEN,
  unknown_address: ' Check the path in UPLOADER_URL.',
  unsupported_media_type: BUG,
  not_implemented: BUG,
};
const ACTS = [
  ['status', 'churn', '2026-11'],
  ['status', 'churn'],
  ['publish', 'churn', '2026-11', '--reason', 'x'],
  ['retry', 'churn', '2026-11'],
  ['withdraw', 'churn', '2026-11'],
];

describe('a refusal of the service', () => {
  let server: IngestServer;
  let scratch: ReturnType<typeof makeScratch>;
  beforeEach(async () => {
    server = await startIngestServer();
    scratch = makeScratch();
    scratch.write('data/churn/2026-11/a.jsonl', scoreLines(100));
  });
  afterEach(async () => {
    await server.stop();
    scratch.remove();
  });
  const run = (args: string[]): Promise<Finished> => {
    const env = { UPLOADER_URL: server.url, UPLOADER_TOKEN: server.token, HOME: join(scratch.path, 'home') };
    return startUploader(args, { ...env, UPLOADER_MAX_DURATION: '2s' }).finished;
  };

  for (const [index, [code, { status, client, title }]] of Object.entries(ERROR_CODES).entries())
    it(`ends a command with the code and the sentence of ${code}, and advice only where a setting must change`, async () => {
      server.intercept = (request, response) => {
        request.resume();
        const problem = { title, status, code, detail: 'What is wrong. What to do.', request_id: 'r-1' };
        response
          .writeHead(status, { 'Content-Type': 'application/problem+json' })
          .end(JSON.stringify(problem));
        return true;
      };
      const isRetried = client === 'retry' || client === 'declare_again';
      // All of them where a code means different things, else two in turn: verdict.test.ts judges every code.
      const all = [['push', join(scratch.path, 'data')], ...ACTS];
      const hasMeanings = ['not_found', 'conflict', 'unauthenticated'].includes(code);
      const commands = hasMeanings ? all : all.filter((_, place) => place % 3 === index % 3);
      const ends = await Promise.all(commands.map(async (args) => ({ args, ...(await run(args)) })));
      for (const { args, exitCode, stdout, stderr } of ends) {
        const what = args.slice(0, 3).join(' ');
        // It may not exist yet.
        const isAwaited = code === 'not_found' && args[0] === 'status' && args.length === 3;
        expect(exitCode, what).to.equal(isRetried || isAwaited ? 75 : EXIT_CODE_OF[client]);
        if (isRetried || isAwaited) continue;
        expect(stdout + stderr, what).to.match(
          new RegExp(
            ` answered ${status}: What is wrong\\. What to do \\(request r-1\\)\\.${ADVICE[code as ErrorCode] ?? ''}\n`,
          ),
        );
      }
    });

  it('because a run is being loaded ends with 75, and because of any other state with 65', async () => {
    const conflict = { status: 409, code: 'conflict', detail: 'No. Wait.', request_id: 'r-1' };
    for (const [state, expected] of [
      ['loading', 75],
      ['failed', 65],
      ['cancelled', 65],
    ] as const) {
      server.forgetAll();
      server.settleAs = state;
      server.intercept = () => false;
      await run(['push', join(scratch.path, 'data'), '--no-wait']);
      server.intercept = (request, response) => {
        const isOfModel = request.method === 'GET' && request.url === '/v1/models/churn';
        if (request.method === 'GET' && !isOfModel) return false;
        request.resume();
        if (isOfModel)
          response
            .writeHead(200, { 'Content-Type': 'application/json' })
            .end(JSON.stringify({ model: 'churn', current: null }));
        else
          response
            .writeHead(409, { 'Content-Type': 'application/problem+json' })
            .end(JSON.stringify(conflict));
        return true;
      };
      for (const args of [
        ['withdraw', 'churn', '2026-11'],
        ['publish', 'churn', '2026-11', '--reason', 'x'],
      ]) {
        const { exitCode, stderr } = await run(args);
        expect(exitCode, `${args[0]} ${state} ${stderr}`).to.equal(expected);
        expect(stderr).to.include('No. Wait (request r-1).\n');
      }
    }
  });

  it('that a run is not known, while a push waits for it, ends with 75: the token covered it before', async () => {
    server.settleAs = 'queued';
    server.intercept = (request) => {
      if (request.method === 'GET') server.forgetAll();
      return false;
    };
    const { exitCode, stdout } = await run(['push', join(scratch.path, 'data')]);
    expect(exitCode).to.equal(75);
    expect(stdout).to.include('churn/2026-11: the service does not know revision 1 any more. Run the same');
  });
});

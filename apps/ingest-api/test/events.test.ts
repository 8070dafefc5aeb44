import { expect } from 'chai';
import { declare, scoreLines, startSystem, type TestSystem } from './support/system.ts';

interface ServerEvent {
  readonly id: string;
  readonly event: string;
  readonly data: { readonly model?: string; readonly run?: string; readonly state?: string };
}

/** Reads events until `isEnough`; the stream is closed then. */
async function readEvents(
  system: TestSystem,
  isEnough: (events: readonly ServerEvent[]) => boolean,
  { token = system.token, lastEventId = '' } = {},
): Promise<readonly ServerEvent[]> {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), 30_000);
  const headers = {
    authorization: `Bearer ${token}`,
    ...(lastEventId ? { 'last-event-id': lastEventId } : {}),
  };
  const answer = await fetch(new URL('/v1/events', system.url), { headers, signal: controller.signal });
  expect(answer.headers.get('content-type')).to.match(/^text\/event-stream/);
  const events: ServerEvent[] = [];
  let text = '';
  for await (const chunk of answer.body?.pipeThrough(new TextDecoderStream()) ?? []) {
    text += chunk;
    const blocks = text.split('\n\n');
    text = blocks.pop() ?? '';
    for (const block of blocks) {
      const field = (name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(block)?.[1] ?? '';
      if (field('event') === '') continue;
      events.push({ id: field('id'), event: field('event'), data: JSON.parse(field('data')) });
    }
    if (isEnough(events)) break;
  }
  clearTimeout(timer);
  controller.abort();
  return events;
}

const hasRun = (model: string) => (events: readonly ServerEvent[]) =>
  events.some(({ data }) => data.model === model);

describe('live events', () => {
  let system: TestSystem;

  before(async () => {
    system = await startSystem();
  });

  after(() => system.stop());

  it('tell of a run that was declared, and go on after Last-Event-ID', async () => {
    const [reset] = await readEvents(system, (events) => events.length > 0);
    expect(reset?.event).to.equal('reset');

    const listening = readEvents(system, hasRun('churn'));
    await declare(system, 'churn', '1', [{ name: 'a.jsonl', content: scoreLines(3) }]);
    const event = (await listening).at(-1);
    expect(event?.data).to.include({ model: 'churn', run: '1', state: 'receiving' });

    const missed = readEvents(system, hasRun('fraud'), { lastEventId: event?.id ?? '' });
    await declare(system, 'fraud', '1', [{ name: 'a.jsonl', content: scoreLines(4) }]);
    const heard = await missed;
    expect(heard.map(({ event }) => event)).to.not.include('reset');
    expect(heard.at(-1)?.data).to.include({ model: 'fraud' });
  });

  it('say that all must be read anew to whoever comes from another process', async () => {
    const [first] = await readEvents(system, (events) => events.length > 0, { lastEventId: 'other-7' });
    expect(first?.event).to.equal('reset');
  });

  it('tell a token nothing of models that it does not cover', async () => {
    const token = await system.createToken({ name: 'one', models: ['uplift' as never] });
    const listening = readEvents(system, hasRun('uplift'), { token });
    await declare(system, 'churn', '2', [{ name: 'a.jsonl', content: scoreLines(3) }]);
    await declare(system, 'uplift', '1', [{ name: 'a.jsonl', content: scoreLines(3) }]);
    const models = (await listening).flatMap(({ data }) => data.model ?? []);
    expect(new Set(models)).to.deep.equal(new Set(['uplift']));
  });
});

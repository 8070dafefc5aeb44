import type { FileHandle } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect } from 'chai';
import { writeDurably } from '../src/store/write.ts';

const MIB = 1024 * 1024;
const PIECES = 64;

describe('a write that is synced beside the writing', () => {
  /** A file that takes every write, and whose syncs end as `datasync` says. */
  function fileOf(datasync: () => Promise<void>): FileHandle {
    const writev = async (piece: readonly Uint8Array[]) => ({
      bytesWritten: piece.reduce((sum, { byteLength }) => sum + byteLength, 0),
    });
    return { writev, datasync } as unknown as FileHandle;
  }

  /** How many pieces were asked for, what was reported as durable, and how it ended. */
  async function write(file: FileHandle, onDurable: (bytes: number) => Promise<void> = async () => {}) {
    let taken = 0;
    const durable: number[] = [];
    async function* pieces() {
      for (; taken < PIECES; taken += 1) {
        yield [new Uint8Array(MIB)];
        await nextTurn();
      }
    }
    const ended = await writeDurably({
      file,
      pieces: pieces(),
      offsetBytes: 0,
      mayWrite: async () => {},
      onDurable: async (bytes) => {
        durable.push(bytes);
        await onDurable(bytes);
      },
    }).catch((error: unknown) => error);
    return { taken, durable, ended };
  }

  it('ends soon after a sync that failed, not with the last byte, and reports nothing as durable', async () => {
    let syncs = 0;
    const broken = Object.assign(new Error('EIO'), { code: 'EIO', syscall: 'fdatasync' });
    const { taken, durable, ended } = await write(
      fileOf(async () => {
        syncs += 1;
        throw broken;
      }),
    );
    expect(ended).to.equal(broken);
    expect(durable).to.deep.equal([]);
    expect(taken).to.be.below(PIECES / 4);
    expect(syncs, 'a failed sync is not tried again').to.equal(1);
  });

  it('ends soon after an offset that could not be recorded', async () => {
    const away = new Error('the database is away');
    const { taken, ended } = await write(
      fileOf(async () => {}),
      () => Promise.reject(away),
    );
    expect(ended).to.equal(away);
    expect(taken).to.be.below(PIECES);
  });

  it('does not wait for a sync that takes its time, and records every 32 MiB and the end', async () => {
    const { durable, ended } = await write(fileOf(() => nextTurn()));
    expect(ended).to.equal(PIECES * MIB);
    expect(durable.at(-1)).to.equal(PIECES * MIB);
    expect(durable[0]).to.be.within(32 * MIB, 40 * MIB);
  });
});

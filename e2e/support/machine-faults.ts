import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, copyFile, mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { waitFor } from './programs.ts';

const run = promisify(execFile);
const MIB = 1024 * 1024;

/** A small ext4 file system in a file, to simulate a loss of power and a full disk. */
export interface LoopDisk {
  mountPoint: string;
  /** Mounts what the disk would hold if the power failed now. The mount replays the journal. */
  afterPowerLoss(): Promise<{ mountPoint: string; unmount(): Promise<void> }>;
  /** Fills the disk until about `leaveBytes` are free, until `makeRoom`. */
  fill(leaveBytes: number): Promise<void>;
  makeRoom(): Promise<void>;
  remove(): Promise<void>;
}

/** @returns the reason, as a sentence, when this user cannot make loop mounts on this machine. */
export async function makeLoopDisk(sizeMiB: number): Promise<LoopDisk | string> {
  if (process.getuid?.() !== 0) return 'Loop mounts need root.';
  const dir = await mkdtemp(join(tmpdir(), 'score-ingest-disk-'));
  await chmod(dir, 0o755);
  const image = join(dir, 'disk.img');
  const mountPoint = join(dir, 'disk');
  const filler = join(mountPoint, 'filler');
  try {
    const file = await open(image, 'w');
    await file.truncate(sizeMiB * MIB);
    await file.close();
    await run('mkfs.ext4', ['-q', '-F', '-m', '0', image]);
    await mount(image, mountPoint);
  } catch (error) {
    await rm(dir, { recursive: true, force: true });
    return `Loop mounts do not work here: ${(error as Error).message.trim()}`;
  }
  return {
    mountPoint,
    async afterPowerLoss() {
      const copy = join(dir, 'copy.img');
      const copyPoint = join(dir, 'copy');
      // No sync and no unmount: what is only in the page cache of the mounted disk is not in the image.
      await copyFile(image, copy);
      await mount(copy, copyPoint);
      return { mountPoint: copyPoint, unmount: async () => void (await run('umount', [copyPoint])) };
    },
    async fill(leaveBytes) {
      const { stdout } = await run('df', ['--output=avail', '-B1', mountPoint]);
      const free = Number(stdout.trim().split('\n').at(-1));
      await run('fallocate', ['-l', String(free - leaveBytes), filler]);
    },
    makeRoom: () => rm(filler, { force: true }),
    async remove() {
      await run('umount', [mountPoint]);
      await rm(dir, { recursive: true, force: true });
    },
  };
}

async function mount(image: string, mountPoint: string): Promise<void> {
  await mkdir(mountPoint, { recursive: true });
  await run('mount', ['-o', 'loop', image, mountPoint]);
}

/** When this process dies before it removes the rule, the kernel removes the ports after this time. */
const FORGOTTEN_AFTER = '3m';

/** Ports that the kernel does not assign. Without it a new connection could get the port of a cut one. */
const RESERVED_PORTS = '/proc/sys/net/ipv4/ip_local_reserved_ports';

export interface VanishedPackets {
  /** Drops every packet of these connections in both directions, without a reset, as when the host is dead. */
  cut(serverPort: number, clientPorts: readonly number[]): Promise<void>;
  /** Lets the packets of all connections through again. */
  restore(): Promise<void>;
  remove(): Promise<void>;
}

/** @returns the reason, as a sentence, when this user cannot drop packets on this machine. */
export async function vanishedPackets(): Promise<VanishedPackets | string> {
  if (process.getuid?.() !== 0) return 'Dropping packets needs root.';
  const table = `score_ingest_test_${process.pid}`;
  const nft = (...words: string[]) => run('nft', [words.join(' ')]);
  let reservedBefore: string;
  try {
    reservedBefore = await readFile(RESERVED_PORTS, 'utf8');
    await writeFile(RESERVED_PORTS, reservedBefore);
    await nft('add table inet', table);
    await nft('add set inet', table, 'dead { type inet_service . inet_service; flags timeout; }');
    await nft('add chain inet', table, 'arriving { type filter hook input priority 0; }');
    await nft('add rule inet', table, 'arriving tcp sport . tcp dport @dead drop');
  } catch (error) {
    return `Packets cannot be dropped here: ${(error as Error).message.trim()}`;
  }
  return {
    async cut(serverPort, clientPorts) {
      if (clientPorts.length === 0) throw new Error(`No client is connected to port ${serverPort}.`);
      const both = clientPorts.flatMap((port) => [`${serverPort} . ${port}`, `${port} . ${serverPort}`]);
      const elements = both.map((pair) => `${pair} timeout ${FORGOTTEN_AFTER}`).join(', ');
      await nft('add element inet', table, `dead { ${elements} }`);
      const reserved = (await readFile(RESERVED_PORTS, 'utf8')).trim();
      await writeFile(RESERVED_PORTS, [reserved, ...clientPorts].filter((ports) => ports !== '').join());
    },
    async restore() {
      await nft('flush set inet', table, 'dead');
      await writeFile(RESERVED_PORTS, reservedBefore);
    },
    async remove() {
      await nft('delete table inet', table);
      await writeFile(RESERVED_PORTS, reservedBefore);
    },
  };
}

const ESTABLISHED = '01';

/** The ports of the clients on this machine that are connected to `serverPort`. */
export async function clientPortsOf(serverPort: number): Promise<number[]> {
  const lines = (await readFile('/proc/net/tcp', 'utf8')).trim().split('\n').slice(1);
  const portOf = (address = '') => Number.parseInt(address.split(':')[1] ?? '', 16);
  return lines
    .map((line) => line.trim().split(/\s+/))
    .filter(([, , remote, state]) => portOf(remote) === serverPort && state === ESTABLISHED)
    .map(([, local]) => portOf(local));
}

/** A fault that strace injects into the system calls of a running process. */
interface Injection {
  /** Detaches from the process. Resolves to whether the fault was injected at least once. */
  end(): Promise<boolean>;
}

interface CallFault {
  call: string;
  /** The error that the call returns, or how long it is delayed. */
  effect: { error: 'EIO' | 'ENOSPC' } | { delayMs: number };
  /** Counted per thread: give the process one thread for files (UV_THREADPOOL_SIZE=1). */
  nth: number;
  /** Only calls on these paths count. */
  paths: readonly string[];
}

/** @returns the reason, as a sentence, when strace does not work here. */
export async function whyNoStrace(): Promise<string | undefined> {
  try {
    await run('strace', ['-qq', '-o', '/dev/null', 'true']);
    const child = spawn('sleep', ['30']);
    const tried = await run('timeout', [
      '1',
      'strace',
      '-qq',
      '-o',
      '/dev/null',
      '-p',
      String(child.pid),
    ]).catch((error: { code?: number }) => error.code);
    child.kill();
    // 124: `timeout` has ended strace after a second, so it had attached.
    return tried === 124 ? undefined : 'This user may not attach strace to a process.';
  } catch {
    return 'strace is not installed or does not work here.';
  }
}

function effectOf({ effect }: CallFault): string {
  return 'error' in effect ? `error=${effect.error}` : `delay_enter=${effect.delayMs * 1000}`;
}

export async function inject(pid: number, logPath: string, fault: CallFault): Promise<Injection> {
  const strace = spawn(
    'strace',
    [
      '-f',
      ...['-p', String(pid)],
      ...['-o', logPath],
      ...fault.paths.flatMap((path) => ['-P', path]),
      ...['-e', `trace=${fault.call}`],
      ...['-e', `inject=${fault.call}:${effectOf(fault)}:when=${fault.nth}`],
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let output = '';
  strace.stderr.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  const ended = once(strace, 'exit');
  await waitFor('strace to attach', () => {
    if (strace.exitCode !== null) throw new Error(`strace ended: ${output}`);
    return output.includes('attached');
  });
  return {
    async end() {
      strace.kill('SIGINT');
      await ended;
      return (await readFile(logPath, 'utf8')).includes('(INJECTED)');
    },
  };
}

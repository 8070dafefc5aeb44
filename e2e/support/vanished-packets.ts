import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Should this process die before it has taken the rule away, the kernel forgets the ports by itself. */
const FORGOTTEN_AFTER = '3m';

/** Ports that the kernel gives to nobody: without it, a new connection may be given that of a dead one. */
const RESERVED_PORTS = '/proc/sys/net/ipv4/ip_local_reserved_ports';

export interface VanishedPackets {
  /** From now on no packet of these connections arrives, either way, and nobody is told: the host is dead. */
  cut(serverPort: number, clientPorts: readonly number[]): Promise<void>;
  /** The host is back, with the connections that it had. */
  restore(): Promise<void>;
  remove(): Promise<void>;
}

/** @returns the reason, as a sentence, when this machine lets this user drop no packets. */
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
      if (clientPorts.length === 0) throw new Error(`Nobody is connected to port ${serverPort}.`);
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

/** The ports from which clients on this machine are connected to that one. */
export async function clientPortsOf(serverPort: number): Promise<number[]> {
  const lines = (await readFile('/proc/net/tcp', 'utf8')).trim().split('\n').slice(1);
  const portOf = (address = '') => Number.parseInt(address.split(':')[1] ?? '', 16);
  return lines
    .map((line) => line.trim().split(/\s+/))
    .filter(([, , remote, state]) => portOf(remote) === serverPort && state === ESTABLISHED)
    .map(([, local]) => portOf(local));
}

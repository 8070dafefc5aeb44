import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { HostOrder, HostReport, StartOrder } from './host-messages.ts';
import { lastLines } from './last-lines.ts';
import type { Unprivileged } from './unprivileged-command.ts';

const HOST_SCRIPT = fileURLToPath(new URL('./host.ts', import.meta.url));

export interface RunningHost {
  postmasterPid: number;
  /** Resolves when the server has ended, for whatever reason. */
  ended: Promise<void>;
  stop(): Promise<void>;
}

/** Starts one host with one server. Rejects with the server's last log lines when it does not come up. */
export async function launchHost(
  order: StartOrder,
  unprivileged: Unprivileged | undefined,
  log: ((chunk: string) => void) | undefined,
): Promise<RunningHost> {
  const [program = '', ...args] = [...(unprivileged?.prefix ?? []), process.execPath, HOST_SCRIPT];
  // Detached: its own process group, so that a Ctrl-C in the terminal reaches the caller alone, which
  // may still need its database to end in order.
  const host = spawn(program, args, { detached: true, stdio: ['ignore', 'ignore', 'pipe', 'ipc'] });
  const tail = lastLines(30);
  host.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
    tail.add(chunk);
    log?.(chunk);
  });
  const ended = new Promise<void>((resolve) => host.once('exit', () => resolve()));
  tell(host, order);
  const postmasterPid = await firstReport(host, order, tail.text);
  return {
    postmasterPid,
    ended,
    async stop() {
      tell(host, { kind: 'stop' });
      await ended;
    },
  };
}

function firstReport(host: ChildProcess, order: StartOrder, tail: () => string): Promise<number> {
  return new Promise((resolve, reject) => {
    const refuse = (reason: string, options?: ErrorOptions) =>
      reject(
        new Error(
          `PostgreSQL did not start in ${order.clusterDir} on port ${order.port}: ${reason}`,
          options,
        ),
      );
    host.once('message', (report: HostReport) => {
      if (report.kind === 'ready') resolve(report.postmasterPid);
      else refuse(report.reason);
    });
    host.once('error', (error) => refuse(error.message, { cause: error }));
    host.once('close', (code, signal) => refuse(`its host process ended (${signal ?? code}).\n${tail()}`));
  });
}

function tell(host: ChildProcess, order: HostOrder): void {
  // The host may have ended by itself meanwhile; whoever waits on `ended` learns of it there.
  if (host.connected) host.send(order, () => undefined);
}

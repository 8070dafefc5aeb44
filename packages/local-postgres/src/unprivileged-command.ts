import { execFile } from 'node:child_process';
import { userInfo } from 'node:os';
import { promisify } from 'node:util';

const run = promisify(execFile);

export interface Unprivileged {
  uid: number;
  gid: number;
  /** The words that, in front of a command, run it as that user. */
  prefix: string[];
}

/**
 * PostgreSQL refuses to run as root. For root, this returns how to run it as `nobody` with the one capability
 * dac_override, so that it can read a checkout or data folder that is closed to other users. Nothing is added to
 * /etc/passwd. Returns undefined for other users, who can run PostgreSQL themselves.
 */
export async function unprivilegedCommand(): Promise<Unprivileged | undefined> {
  if (process.getuid?.() !== 0) {
    requireName();
    return undefined;
  }
  try {
    const [uid, gid] = await Promise.all(['-u', '-g'].map(idOfNobody));
    if (uid === undefined || gid === undefined) throw new Error('`id` printed nothing');
    const capabilities = '-all,+dac_override';
    const prefix = [
      'setpriv',
      // Without it access(2), which initdb and postgres call for their own files, ignores the capabilities of every
      // user but root (capabilities(7), SECBIT_NO_SETUID_FIXUP; access(2)).
      '--securebits=+no_setuid_fixup',
      `--reuid=${uid}`,
      `--regid=${gid}`,
      '--clear-groups',
      `--inh-caps=${capabilities}`,
      `--ambient-caps=${capabilities}`,
    ];
    await run(prefix[0] ?? '', [...prefix.slice(1), 'true']);
    return { uid, gid, prefix };
  } catch (cause) {
    throw new Error(
      'PostgreSQL does not run as root, and it could not be started as the user "nobody": that needs the program ' +
        'setpriv (of util-linux) and a user "nobody". Run this command as an ordinary user.',
      { cause },
    );
  }
}

/** initdb needs the name of its user. Some containers run with a user id that has no name. */
function requireName(): void {
  try {
    userInfo();
  } catch (cause) {
    throw new Error(
      `PostgreSQL does not run as user id ${process.getuid?.()}, because /etc/passwd has no name for it. ` +
        'Run this command as root or as a user that has a name.',
      { cause },
    );
  }
}

async function idOfNobody(flag: string): Promise<number> {
  const { stdout } = await run('id', [flag, 'nobody']);
  return Number.parseInt(stdout, 10);
}

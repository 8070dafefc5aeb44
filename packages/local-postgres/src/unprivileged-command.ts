import { execFile } from 'node:child_process';
import { userInfo } from 'node:os';
import { promisify } from 'node:util';

const run = promisify(execFile);

export interface Unprivileged {
  uid: number;
  gid: number;
  /** Put before a command, it runs the command as that user. */
  prefix: string[];
}

/**
 * PostgreSQL refuses to run as root. As root, this tells how to run it as `nobody` with one capability
 * left, dac_override, so that a checkout or data folder that other users can't enter is no obstacle, and
 * nothing is added to /etc/passwd. Undefined for ordinary users, who need nothing of it.
 */
export async function unprivilegedCommand(): Promise<Unprivileged | undefined> {
  if (process.getuid?.() !== 0) {
    requireName();
    return undefined;
  }
  try {
    const [uid, gid] = await Promise.all(['-u', '-g'].map(idOfNobody));
    if (uid === undefined || gid === undefined) throw new Error('id printed nothing');
    const capabilities = '-all,+dac_override';
    const prefix = [
      'setpriv',
      // Without it access(2), by which initdb and postgres look for their own files, leaves capabilities
      // aside for every user but root (capabilities(7), SECBIT_NO_SETUID_FIXUP; access(2)).
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
      'PostgreSQL does not run as root, and it cannot be run as "nobody" here, which takes the program ' +
        'setpriv (of util-linux) and a user of that name. Run this command as an ordinary user.',
      { cause },
    );
  }
}

/** initdb takes the name of its user from the system, so a bare number, as some containers run with, won't do. */
function requireName(): void {
  try {
    userInfo();
  } catch (cause) {
    throw new Error(
      `PostgreSQL does not run as user id ${process.getuid?.()}, which has no name in /etc/passwd. ` +
        'Run this command as root or as a user that has one.',
      { cause },
    );
  }
}

async function idOfNobody(flag: string): Promise<number> {
  const { stdout } = await run('id', [flag, 'nobody']);
  return Number.parseInt(stdout, 10);
}

import { userInfo } from 'node:os';

/** Who is kept as the one who gave a command. In a container the user may have a number and no name. */
export function cliActor(): string {
  try {
    return `cli:${userInfo().username}`;
  } catch {
    return `cli:uid ${process.getuid?.()}`;
  }
}

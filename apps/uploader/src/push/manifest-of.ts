import type { Manifest } from '../service/service-client.ts';
import type { HashedFile } from '../source/hash-run.ts';
import type { PushContext } from './push-context.ts';

export function manifestOf(files: HashedFile[], context: PushContext): Manifest {
  const { asOf } = context.settings;
  return {
    files: files.map(({ name, sha256, lines, identity }) => ({ name, bytes: identity.bytes, sha256, lines })),
    ...(asOf ? { as_of: asOf } : {}),
    source: context.source,
  };
}

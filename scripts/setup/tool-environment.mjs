import { delimiter, join } from 'node:path';

/** The environment in which every tool finds the checkout's own Node 26 and programs before the machine's. */
export function toolEnvironment(root) {
  return {
    ...process.env,
    PATH: join(root, 'node_modules/.bin') + delimiter + process.env.PATH,
    TURBO_TELEMETRY_DISABLED: '1',
  };
}

import type { Terminal } from '../terminal.ts';
import { plainProgress } from './plain-progress.ts';
import type { PushView } from './push-view.ts';
import type { Reporter } from './reporter.ts';

export async function startReporter(terminal: Terminal, view: PushView): Promise<Reporter> {
  if (!terminal.errorTty) return plainProgress(terminal.writeError, view);
  // Loaded only where there is a terminal: a scheduler's run need not wait for it.
  const { liveProgress } = await import('./live-progress.ts');
  return liveProgress(terminal.errorTty, view);
}

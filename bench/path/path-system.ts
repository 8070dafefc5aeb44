import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { waitFor, watchPeaks } from '../../e2e/support/programs.ts';
import { startTestSystem } from '../../e2e/support/test-system.ts';
import { emptyFolder } from '../quiet-disk.ts';

const PUBLISHED_WITHIN_MS = 60 * 60_000;

export type PathSystem = Awaited<ReturnType<typeof startPathSystem>>;

/** Service, loader and uploader as the processes that they are; each model is pushed once, from the same folder. */
export async function startPathSystem(sourceDir: string) {
  const system = await startTestSystem();
  const service = await system.startService();
  const uploadsDir = join(system.workDir, 'uploads');
  return {
    url: service.url,
    token: system.token,
    servicePid: service.pid,
    startLoader: () => system.startLoader(),
    stop: () => system.stop(),

    /** Seconds of the whole program, hashing included, and its peak. */
    async push(model: string, ...args: string[]): Promise<{ seconds: number; peakMb: number }> {
      const startedMs = performance.now();
      const uploader = system.startUploader(
        service.url,
        ['push', sourceDir, '--model', model, '--run', 'bench', '--json', ...args],
        { UPLOADER_STATE_DIR: join(system.workDir, 'state', model) }, // no hash is known from another push
      );
      const { peaks, stop } = watchPeaks({ uploader: uploader.pid });
      const { code, stderr } = await uploader.ended;
      const seconds = (performance.now() - startedMs) / 1000;
      stop();
      if (code !== 0) throw new Error(`The push of ${model} ended with ${code}:\n${stderr}`);
      return { seconds, peakMb: peaks.uploader };
    },

    /** Seconds from claim to publication, of a load that is under way or over. */
    loadSeconds: (model: string): Promise<number> =>
      waitFor(`${model} to be published`, () => publishedIn(model), PUBLISHED_WITHIN_MS),

    /** What the service holds of the pushes until now. */
    uploadedFiles: async (): Promise<string[]> =>
      (await readdir(uploadsDir)).map((name) => join(uploadsDir, name)),

    /** Gives the disk back what earlier pushes left; nothing may be under way. */
    removeUploads: () => emptyFolder(uploadsDir),
  };

  async function publishedIn(model: string): Promise<number | undefined> {
    const [attempt] = await system.query<{ outcome: string | null; error: string | null; seconds: number }>(
      `SELECT outcome, a.error, extract(epoch FROM finished_at - started_at)::float8 AS seconds
       FROM ingest.load_attempt a JOIN ingest.run_revision USING (revision_id) WHERE model = $1`,
      [model],
    );
    if (attempt?.outcome === 'published') return attempt.seconds;
    if (attempt?.outcome != null)
      throw new Error(
        `The load of ${model} ended as ${attempt.outcome}: ${attempt.error ?? 'no reason kept'}`,
      );
    return undefined;
  }
}

import { HttpFault } from '../net/http-fault.ts';
import { UploaderError } from '../uploader-error.ts';
import type { Run } from './run-schema.ts';
import { getRun, type Retries, type ServiceAddress } from './service-client.ts';

/** The run, or null when the service has none of this name, or none for this token: it does not tell which. */
export async function findRun(
  service: ServiceAddress,
  model: string,
  run: string,
  retries: Retries,
): Promise<Run | null> {
  try {
    return await getRun(service, model, run, { ...retries, asked: 'run' });
  } catch (error) {
    const fault = error instanceof UploaderError ? error.cause : null;
    const isOurs404 = fault instanceof HttpFault && fault.status === 404 && fault.problem !== null;
    if (isOurs404 && fault.problem?.code !== 'unknown_address') return null;
    throw error;
  }
}

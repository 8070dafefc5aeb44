import { MODEL_OPERATIONS } from './model-operations.ts';
import type { Operation } from './operation.ts';
import { RUN_OPERATIONS } from './run-operations.ts';
import { SERVICE_OPERATIONS } from './service-operations.ts';
import { UPLOAD_OPERATIONS } from './upload-operations.ts';

/** Every route of the service but the page's own files. */
export const OPERATIONS: readonly Operation[] = [
  ...SERVICE_OPERATIONS,
  ...MODEL_OPERATIONS,
  ...RUN_OPERATIONS,
  ...UPLOAD_OPERATIONS,
];

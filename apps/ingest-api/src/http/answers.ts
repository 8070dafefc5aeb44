import type { z } from 'zod';
import type { run } from './answers/run.ts';
import type { history } from './answers/run-history.ts';
import type { filePage, runList, runSummary } from './answers/run-list.ts';
import type { profile, RUN_STATE, runFile } from './answers/run-parts.ts';
import type { session, status } from './answers/service.ts';

/**
 * What the service answers, as JSON: written once for the OpenAPI document, for the status page's types, and
 * for the tests that hold real answers against it. These files import nothing else, as the page uses their types.
 */
export { run } from './answers/run.ts';
export { history } from './answers/run-history.ts';
export { filePage, runList, runSummary } from './answers/run-list.ts';
export { RUN_STATE, rejectedLine, runFile } from './answers/run-parts.ts';
export { model, modelList, probe, problem, session, status } from './answers/service.ts';

export type RunSummary = z.infer<typeof runSummary>;
export type RunState = z.infer<typeof RUN_STATE>;
export type RunList = z.infer<typeof runList>;
export type RunFile = z.infer<typeof runFile>;
export type FilePage = z.infer<typeof filePage>;
export type Run = z.infer<typeof run>;
export type RunHistory = z.infer<typeof history>;
export type Status = z.infer<typeof status>;
export type Session = z.infer<typeof session>;
export type Profile = z.infer<typeof profile>;

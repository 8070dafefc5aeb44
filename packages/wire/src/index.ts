export {
  type ClientAction,
  ERROR_CODES,
  type ErrorCode,
  isRetryable,
  RUN_ERROR_CODES,
  type RunErrorCode,
} from './errors.ts';
export { EXIT_CODE_OF, type ExitCode, type FaultKind } from './exit-codes.ts';
export {
  FILE_NAME,
  FILE_NAME_RULE,
  fileNameFault,
  isModelName,
  MODEL_NAME,
  MODEL_NAME_RULE,
  type ModelName,
  modelNameFault,
  parseModelName,
  RUN_KEY,
  RUN_KEY_RULE,
  runKeyFault,
} from './names.ts';
export { printable, printableJson, printableLines } from './printable.ts';
export {
  type FilePage,
  filePage,
  history,
  type Profile,
  RUN_STATE,
  type Run,
  type RunAction,
  type RunFile,
  type RunHistory,
  type RunList,
  type RunState,
  type RunSummary,
  rejectedLine,
  run,
  runFile,
  runList,
  runSummary,
} from './run.ts';
export { model, modelList, probe, problem, type Session, type Status, session, status } from './service.ts';

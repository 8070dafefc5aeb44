declare const checked: unique symbol;

/** The name of a model, checked to be a safe SQL name as it stands: `^[a-z][a-z0-9_]{0,47}$`. */
export type ModelName = string & { readonly [checked]: 'ModelName' };

const PATTERN = /^[a-z][a-z0-9_]{0,47}$/;

export const MODEL_NAME_RULE =
  'a lower-case letter, then up to 47 lower-case letters, digits or underscores (for example churn_v2)';

export function isModelName(text: string): text is ModelName {
  return PATTERN.test(text);
}

/** @throws {RangeError} when `text` is not a model name; the message says the rule. */
export function parseModelName(text: string): ModelName {
  if (!isModelName(text)) {
    throw new RangeError(
      `${JSON.stringify(text.slice(0, 80))} is not a model name: it must be ${MODEL_NAME_RULE}.`,
    );
  }
  return text;
}

const DEEPEST = 32;

/**
 * Whether parsed JSON can be kept as jsonb: PostgreSQL takes no NUL and no lone surrogate, and what is nested
 * without end would exhaust the stack of whoever walks it after us.
 */
export function isStorableJson(value: unknown, depth = 0): boolean {
  if (typeof value === 'string') return value.isWellFormed() && !value.includes('\0');
  if (typeof value !== 'object' || value === null) return true;
  if (depth >= DEEPEST) return false;
  if (Array.isArray(value)) return value.every((item) => isStorableJson(item, depth + 1));
  return Object.entries(value).every(([key, item]) => isStorableJson(key) && isStorableJson(item, depth + 1));
}

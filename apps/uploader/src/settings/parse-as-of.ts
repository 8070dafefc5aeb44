const DATE = /^\d{4}-\d{2}-\d{2}$/;
// Airflow's {{ logical_date }} prints a space where ISO 8601 has a T.
const INSTANT = /^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})$/i;

/** A date (midnight UTC) or an instant with its offset, as an ISO string; null when it is neither. */
export function parseAsOf(text: string): string | null {
  const trimmed = text.trim();
  if (!DATE.test(trimmed) && !INSTANT.test(trimmed)) return null;
  const instant = new Date(trimmed.replace(' ', 'T'));
  if (Number.isNaN(instant.getTime())) return null;
  // new Date() turns 30 February into 1 March; a date that does not come back as it went in is none.
  if (new Date(`${trimmed.slice(0, 10)}T00:00:00Z`).toISOString().slice(0, 10) !== trimmed.slice(0, 10)) {
    return null;
  }
  return instant.toISOString();
}

/** Whoever clears away (rows by a loader, files by the service) holds this advisory lock: one at a time. */
export const RETENTION_LOCK = 0x5c0e_0005;

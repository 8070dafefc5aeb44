/** So many files of one size. */
export interface Shape {
  readonly name: string;
  readonly files: number;
  readonly fileBytes: number;
}

const UNITS: Readonly<Record<string, number>> = { KB: 1e3, MB: 1e6, GB: 1e9 };

/** `100x10MB`; units are decimal. */
export function parseShape(text: string): Shape {
  const [, count = '', size = '', unit = ''] = /^(\d+)x([\d.]+)(KB|MB|GB)$/.exec(text) ?? [];
  const files = Number(count);
  const fileBytes = Math.round(Number(size) * (UNITS[unit] ?? 0));
  if (!(files > 0 && fileBytes > 0))
    throw new Error(`"${text}" is no shape; write it as 1x1GB, 100x10MB or 1000x10KB.`);
  return { name: text, files, fileBytes };
}

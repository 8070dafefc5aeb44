const RIGHT_ALIGNED = new Set(['rows']);

/** Rows of the same keys as a table of plain text, the keys as its heading. */
export function formatTable<T extends object>(rows: T[]): string {
  const columns = Object.keys(rows[0] ?? {});
  const cells = [columns, ...rows.map((row) => Object.values(row).map(String))];
  const widths = columns.map((_, column) => Math.max(...cells.map((line) => line[column]?.length ?? 0)));
  const lines = cells.map((line) =>
    line
      .map((cell, column) => pad(cell, column))
      .join('   ')
      .trimEnd(),
  );
  const rule = widths.map((width) => '-'.repeat(width)).join('   ');
  return [lines[0], rule, ...lines.slice(1)].map((line) => `  ${line}`).join('\n');

  function pad(cell: string, column: number): string {
    const width = widths[column] ?? 0;
    return RIGHT_ALIGNED.has(columns[column] ?? '') ? cell.padStart(width) : cell.padEnd(width);
  }
}

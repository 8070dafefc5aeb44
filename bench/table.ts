/** A table as people read it in a terminal, and as it is pasted into a document. */
export interface Table {
  readonly title: string;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** What a reader must know beside the figures, a sentence each. */
  readonly notes?: readonly string[];
}

/** Markdown: words lean left, figures lean right. */
export function formatTable({ title, columns, rows, notes = [] }: Table): string {
  const layout = columns.map((column, at) => {
    const cells = rows.map((row) => row[at] ?? '');
    return {
      width: Math.max(3, column.length, ...cells.map((cell) => cell.length)),
      isFigure: cells.every((cell) => /^[-\d]/.test(cell)),
    };
  });
  const line = (cells: readonly string[]) =>
    row(
      layout.map(({ width, isFigure }, at) => {
        const cell = cells[at] ?? '';
        return isFigure ? cell.padStart(width) : cell.padEnd(width);
      }),
    );
  const rule = row(layout.map(({ width, isFigure }) => (isFigure ? '-:' : '-').padStart(width, '-')));
  return [
    `**${title}**`,
    '',
    line(columns),
    rule,
    ...rows.map(line),
    ...notes.flatMap((note) => ['', note]),
  ].join('\n');
}

function row(cells: readonly string[]): string {
  return `| ${cells.join(' | ')} |`;
}

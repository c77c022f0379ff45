/**
 * A report's rows as text in columns: LVM2's "basic" format.
 *
 * Invariants
 *  - A column is as wide as its widest value, or its field's own width; headings longer than that are cut.
 *  - The last column is padded too. Numbers and sizes stand to the right, all else to the left, headings to the left.
 *
 * Source: lvmreport(7) and comparison with lvs 2.03.16.
 */
import type { Cell } from './cell.ts';
import type { AnyField, Column } from './columns.ts';

export interface TableFormat {
  readonly headings: 'none' | 'abbrev' | 'full';
  readonly separator: string;
  readonly aligned: boolean;
  /** --nameprefixes */
  readonly prefixes: boolean;
  readonly quoted: boolean;
  /** --rows: columns as rows. */
  readonly asRows: boolean;
}

/** Display width as LVM2 counts it: bytes of UTF-8. */
function width(text: string): number {
  return Buffer.byteLength(text);
}

function pad(text: string, columns: number, right: boolean): string {
  const fill = ' '.repeat(Math.max(0, columns - width(text)));
  return right ? fill + text : text + fill;
}

function headingOf(field: AnyField, format: TableFormat): string {
  return format.headings === 'full' ? field.id : field.heading;
}

function firstWidth(field: AnyField, format: TableFormat): number {
  const own = field.width === undefined || field.width === 0 ? width(field.heading) : field.width;
  return format.headings === 'full' ? Math.max(own, width(field.id)) : own;
}

function alignsRight(field: AnyField): boolean {
  if (field.section !== 'special' && field.align !== undefined) return field.align === 'right';
  return field.type === 'number' || field.type === 'binary' || field.type === 'size';
}

/** One value with what surrounds it. */
function decorate(field: AnyField, text: string, format: TableFormat): string {
  if (!format.prefixes) return text;
  const quote = format.quoted ? "'" : '';
  return `LVM2_${field.id.toUpperCase()}=${quote}${text}${quote}`;
}

/**
 * Lines of a table. `columns` and the cells of each row run in parallel; hidden columns are left out.
 * Rows are printed as given: sorting is done before.
 */
export class TableWriter {
  readonly #columns: readonly Column[];
  readonly #format: TableFormat;
  #headingDone = false;

  constructor(columns: readonly Column[], format: TableFormat) {
    this.#columns = columns;
    this.#format = format;
  }

  /** Lines for these rows, after the heading if it was not given yet. Columns are as wide as these rows need. */
  lines(rows: readonly (readonly Cell[])[]): string[] {
    if (this.#format.asRows) return this.#transposed(rows);
    const widths = this.#columns.map(({ field }, index) =>
      rows.reduce((most, row) => Math.max(most, width(row[index]?.text ?? '')), firstWidth(field, this.#format)),
    );
    const lines = this.#headingDone || this.#format.headings === 'none' ? [] : [this.#heading(widths)];
    this.#headingDone = true;
    for (const row of rows) lines.push(this.#line(row, widths));
    return lines;
  }

  /** LVM2 also parts the last heading from one that was left out behind it. */
  #tail(): string {
    const last = this.#columns.findLastIndex(({ hidden }) => !hidden);
    return this.#columns.slice(last + 1).some(({ compacted }) => compacted === true) ? this.#format.separator : '';
  }

  #visible(): readonly { readonly field: AnyField; readonly index: number }[] {
    return this.#columns.flatMap(({ field, hidden }, index) => (hidden ? [] : [{ field, index }]));
  }

  #heading(widths: readonly number[]): string {
    const { aligned, separator } = this.#format;
    const cells = this.#visible().map(({ field, index }) => {
      const heading = headingOf(field, this.#format);
      const columns = widths[index] ?? 0;
      return aligned ? pad(heading.slice(0, columns), columns, false) : heading;
    });
    return cells.join(separator) + this.#tail();
  }

  #line(row: readonly Cell[], widths: readonly number[]): string {
    const { aligned, separator } = this.#format;
    const cells = this.#visible().map(({ field, index }) => {
      const text = row[index]?.text ?? '';
      return decorate(field, aligned ? pad(text, widths[index] ?? 0, alignsRight(field)) : text, this.#format);
    });
    return cells.join(separator);
  }

  /** --rows: never aligned; every line starts with its heading. */
  #transposed(rows: readonly (readonly Cell[])[]): string[] {
    const { headings, separator } = this.#format;
    return this.#visible().map(({ field, index }) => {
      const start = headings === 'none' ? '' : headingOf(field, this.#format) + separator;
      return start + rows.map((row) => decorate(field, row[index]?.text ?? '', this.#format)).join(separator);
    });
  }
}

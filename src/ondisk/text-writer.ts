/**
 * The line layout of metadata texts in their two forms (lvm2: lib/format_text/export.c).
 *
 * On-disk form: no indentation, no comments. Backup form (vgcfgbackup, /etc/lvm/backup and archive): a tab per level, and
 * comments, lined up at column 48 where the line is short enough.
 */

export type TextForm = 'disk' | 'backup';

/** Comments start behind this many tab stops. */
const COMMENT_TAB = 6;
const TAB_WIDTH = 8;
/** LVM2 doesn't indent deeper. */
const MAX_INDENT = 5;
const UNITS = ['Kilobytes', 'Megabytes', 'Gigabytes', 'Terabytes', 'Petabytes', 'Exabytes'] as const;

export class TextWriter {
  readonly form: TextForm;
  readonly #lines: string[] = [];
  #indent = 0;

  constructor(form: TextForm) {
    this.form = form;
  }

  /** One line; `comment` (with its "# ") appears only in the backup form. */
  line(text: string, comment?: string): void {
    if (this.form === 'disk') {
      this.#lines.push(text);
      return;
    }
    const indented = '\t'.repeat(Math.min(this.#indent, MAX_INDENT)) + text;
    this.#lines.push(comment === undefined ? indented : indented + this.#commentGap(text) + comment);
  }

  /** A line whose comment tells a number of sectors in a handier unit. */
  size(text: string, sectors: number): void {
    this.line(text, this.form === 'backup' ? sizeComment(sectors) : undefined);
  }

  blank(): void {
    this.#lines.push('');
  }

  /** Opens a section or array: `line` ends in its bracket. */
  open(line: string): void {
    this.line(line);
    this.#indent++;
  }

  close(line: '}' | ']'): void {
    this.#indent--;
    this.line(line);
  }

  /** Everything written so far, each line with its newline. */
  toString(): string {
    return this.#lines.length === 0 ? '' : `${this.#lines.join('\n')}\n`;
  }

  #commentGap(text: string): string {
    const used = Math.floor((Buffer.byteLength(text) + TAB_WIDTH * this.#indent) / TAB_WIDTH) + 1;
    return '\t'.repeat(Math.max(1, COMMENT_TAB - used));
  }
}

/** "# 4 Megabytes": six significant digits, in the largest unit in which the number is not below 1 (1024 stays 1024). */
export function sizeComment(sectors: number): string {
  let size = sectors / 2;
  let unit = 0;
  while (size > 1024 && unit < UNITS.length - 1) {
    size /= 1024;
    unit++;
  }
  return `# ${sixDigits(size)} ${UNITS[unit]}`;
}

/** As C's %g for numbers from 0 to 1024: rounds exact halves to even, where toPrecision rounds them up. */
function sixDigits(value: number): string {
  const rounded = Number(value.toPrecision(6));
  if (rounded <= value) return String(rounded);
  // Halving a binary fraction is exact, so twice the value tells whether the cut lay exactly in the middle.
  const digits = Math.floor(Math.log10(value)) + 1;
  const step = 10 ** (digits - 6);
  const below = Number((rounded - step).toPrecision(6));
  const tie = value - below === rounded - value;
  const lastDigitIsOdd = Math.round(rounded / step) % 2 === 1;
  return String(tie && lastDigitIsOdd ? below : rounded);
}

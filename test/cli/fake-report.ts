/** A small report of made-up fields over rows that carry their own values, to test the engine without volume groups. */
import type { Output } from '../../src/cli/messages.ts';
import type { Cell, CellFormat } from '../../src/cli/report/cell.ts';
import type { FieldType, FieldValue, ReportField, ReportRow, SectionId } from '../../src/cli/report/field.ts';
import { Report } from '../../src/cli/report/report.ts';
import { ISO_TIME } from '../../src/cli/report/strftime.ts';
import { DEFAULT_UNITS } from '../../src/cli/units.ts';

export type Values = Readonly<Record<string, FieldValue>>;

/** Where a fake row keeps its values. */
const kept = new WeakMap<ReportRow, Values>();

export function fakeRow(values: Values): ReportRow {
  const scan = { devices: [], volumeGroups: [], orphans: [], duplicates: [], unreadable: [], warnings: [] };
  const parts = { vg: null, lv: null, historical: null, segment: null, pv: null, pvSegment: null };
  const row: ReportRow = { scan, ...parts };
  kept.set(row, values);
  return row;
}

export function fakeField(
  id: string,
  type: FieldType,
  more: Partial<ReportField> = {},
  section: SectionId = 'lv',
): ReportField {
  const heading = id.replace(/^lv_/, '').toUpperCase();
  return {
    id,
    heading,
    description: `The ${id}.`,
    section,
    type,
    value: (row) => kept.get(row)?.[id] ?? null,
    ...more,
  };
}

export const FIELDS: readonly ReportField[] = [
  fakeField('lv_name', 'string', { width: 4 }),
  fakeField('lv_size', 'size'),
  fakeField('lv_tags', 'string-list'),
  fakeField('lv_count', 'number'),
  fakeField('lv_major', 'number', { width: 3 }),
  fakeField('lv_locked', 'binary', { words: ['locked', 'shut'], width: 10 }),
  fakeField('lv_time', 'time', { width: 26 }),
  fakeField('lv_perm', 'string', { reserved: [{ names: ['rw', 'read-write'], value: 'writeable' }] }),
  fakeField('lv_ahead', 'size', { reserved: [{ names: ['auto'], value: 4294967295 }] }),
  fakeField('data_percent', 'percent', { width: 6 }, 'lv-status'),
  fakeField('vg_name', 'string', {}, 'vg'),
  fakeField('seg_size', 'size', {}, 'seg'),
  fakeField('pv_name', 'string', { width: 10 }, 'label'),
  fakeField('pv_size', 'size', {}, 'pv'),
  fakeField('pvseg_start', 'number', {}, 'pvseg'),
];

export const PLAIN_CELLS: CellFormat = {
  units: DEFAULT_UNITS,
  suffix: true,
  binary: false,
  strict: false,
  timeFormat: ISO_TIME,
  listSeparator: ',',
};

/** Keeps lines. */
export class Lines implements Output {
  readonly out: string[] = [];
  readonly err: string[] = [];
  print(line: string): void {
    this.out.push(line);
  }
  printPlain(text: string): void {
    this.out.push(...text.split('\n'));
  }
  error(line: string): void {
    this.err.push(line);
  }
  plainError(line: string): void {
    this.err.push(line);
  }
}

export interface Asked {
  readonly options?: string;
  readonly keys?: string;
  readonly selection?: string;
  readonly now?: number;
}

export function makeReport(asked: Asked, output: Output = new Lines()): Report {
  const { options = 'lv_name', keys = 'lv_name', selection = '', now = 1_800_000_000 } = asked;
  return new Report({ base: 'lv', options, keys, selection, now }, FIELDS, output);
}

export function cellsOf(report: Report, rows: readonly Values[], format: CellFormat = PLAIN_CELLS): Cell[][] {
  return report.cells(rows.map(fakeRow), format, { markHidden: true, showHistory: false }, true);
}

/** The texts of the first column of the rows that match. */
export function selected(criteria: string, rows: readonly Values[], now?: number): string[] {
  const report = makeReport({ selection: criteria, ...(now === undefined ? {} : { now }) });
  return cellsOf(report, rows).map((row) => row[0]?.text ?? '');
}

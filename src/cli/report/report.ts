/**
 * One report: its columns, its rows, and what is printed of them.
 *
 * Invariants
 *  - Which objects the rows are follows from the fields that are shown, sorted or selected by: PV segments if any field is
 *    of one, or if PV and LV fields meet; then PVs, LV segments, LVs, VGs. LV and PV fields meet only in pvs.
 *  - Sorting is stable, so that equal rows stay in the order in which the objects were found.
 *
 * Source: lvmreport(7), and comparison with pvs, vgs and lvs 2.03.16.
 */
import { CommandError, EXIT, type Output } from '../messages.ts';
import { type Cell, type CellFormat, compareCells, makeCell } from './cell.ts';
import { type Column, ColumnPlan, FieldTable, UnknownFieldError } from './columns.ts';
import type { ReportContext, ReportField, ReportRow, SectionId } from './field.ts';
import { explainSelection, listFields } from './help.ts';
import { Selection, SelectionError } from './selection.ts';

/** What the rows of a report are. */
export type RowKind = 'label' | 'pv' | 'pvseg' | 'vg' | 'seg' | 'lv' | 'devtype';
/** The reports as users and JSON know them. */
export type ReportName = 'pv' | 'pvseg' | 'vg' | 'seg' | 'lv' | 'devtype';

export interface ReportRequest {
  /** What the report is of before its fields change it. */
  readonly base: RowKind;
  readonly options: string;
  readonly compact?: string;
  /** Every blank column is left out. */
  readonly compactAll?: boolean;
  readonly keys: string;
  readonly selection: string;
  /** Unix seconds, for times relative to now. */
  readonly now: number;
  /** Set for a report of one VG among several reports: its fields may not change what the rows are. */
  readonly withinVg?: string;
}

/** Fields of LVs and of PVs where they can't be in one report. */
export class MixedFieldsError extends CommandError {}

const LV_SECTIONS: readonly SectionId[] = ['lv', 'lv-info', 'lv-status', 'lv-info-status'];
const FAILED = EXIT.failed;

export function reportName(base: RowKind): ReportName {
  return base === 'label' ? 'pv' : base;
}

function touches(sections: ReadonlySet<SectionId>, ...wanted: readonly SectionId[]): boolean {
  return wanted.some((section) => sections.has(section));
}

/** What the rows are, given the sections of all fields. Throws CommandError where LV and PV fields can't be joined. */
export function rowKind(base: RowKind, sections: ReadonlySet<SectionId>, withinVg?: string): RowKind {
  if (base === 'devtype') return base;
  const lv = touches(sections, ...LV_SECTIONS, 'seg');
  const pv = touches(sections, 'pv', 'label', 'pvseg');
  const argsArePvs = base === 'pv' || base === 'label' || base === 'pvseg';
  const mayJoin = withinVg === undefined ? argsArePvs : base === 'pvseg';
  if (lv && pv && !mayJoin) {
    const where = withinVg === undefined ? '' : ` in VG ${withinVg}`;
    const sub = withinVg === undefined ? '' : 'sub';
    const text = `Can't report LV and PV fields at the same time in ${sub}report type "${reportName(base)}"${where}.`;
    throw new MixedFieldsError(FAILED, [text]);
  }
  if (sections.has('pvseg') || (lv && pv)) return 'pvseg';
  if (sections.has('pv') || (sections.has('label') && sections.has('vg'))) return 'pv';
  if (sections.has('seg')) return 'seg';
  if (lv) return 'lv';
  return sections.has('label') ? 'label' : 'vg';
}

function isHelp(selection: string): boolean {
  return selection.toLowerCase() === 'help' || selection === '?';
}

export class Report {
  readonly base: RowKind;
  readonly kind: RowKind;
  readonly #table: FieldTable;
  readonly #plan: ColumnPlan;
  readonly #selection: Selection | null;
  readonly #compact: string | undefined;
  readonly #compactAll: boolean;
  /** Help was asked for and printed: there is nothing else to show. */
  readonly helped: boolean;

  /** Prints help if it is asked for. Throws CommandError for names and criteria that make no sense. */
  constructor(request: ReportRequest, fields: readonly ReportField[], output: Output) {
    this.base = request.base;
    this.#table = new FieldTable(fields);
    this.#compact = request.compact;
    this.#compactAll = request.compactAll ?? false;
    this.#plan = this.#makePlan(request, output);
    for (const id of this.#plan.duplicateKeys) output.error(`dm_report: Ignoring duplicate sort field: ${id}.`);
    if (this.#plan.wantsHelp) listFields(fields, { allItems: true, types: false }, output);
    const selectionHelp = isHelp(request.selection);
    if (selectionHelp) {
      listFields(fields, { allItems: false, types: true }, output);
      explainSelection(fields, output);
    }
    this.helped = this.#plan.wantsHelp || selectionHelp;
    this.#selection = this.helped || request.selection === '' ? null : this.#makeSelection(request, output);
    this.kind = rowKind(request.base, this.#plan.sections, request.withinVg);
    if (request.withinVg !== undefined && this.kind !== request.base) {
      throw new CommandError(FAILED, [
        `Subreport of type "${reportName(request.base)}" for VG ${request.withinVg} contains columns which lead to ` +
          'change of report type. Add these columns to proper subreport type.',
      ]);
    }
  }

  #makePlan(request: ReportRequest, output: Output): ColumnPlan {
    try {
      return new ColumnPlan(this.#table, request.base, request.options, request.keys);
    } catch (error) {
      if (!(error instanceof UnknownFieldError)) throw error;
      listFields(this.#table.fields, { allItems: true, types: false }, output);
      throw new CommandError(FAILED, [error.message]);
    }
  }

  #makeSelection(request: ReportRequest, output: Output): Selection {
    try {
      return new Selection(request.selection, this.#plan, request.now);
    } catch (error) {
      if (!(error instanceof SelectionError)) throw error;
      if (error.help === 'fields') listFields(this.#table.fields, { allItems: false, types: true }, output);
      if (error.help === 'operators') explainSelection(this.#table.fields, output);
      throw new CommandError(FAILED, error.lines);
    }
  }

  get columns(): readonly Column[] {
    return this.#plan.columns;
  }

  /**
   * The cells of the rows that are shown: those selected, or all if "selected" is a shown column.
   * Sorted if `sorted`.
   */
  cells(rows: readonly ReportRow[], format: CellFormat, context: ReportContext, sorted: boolean): Cell[][] {
    const selectedAt = this.#plan.columns.findIndex(({ field }) => field.id === 'selected');
    const showAll = selectedAt >= 0 && this.#plan.columns[selectedAt]?.hidden === false;
    const shown: Cell[][] = [];
    for (const row of rows) {
      const cells = this.#plan.columns.map(({ field }) =>
        field.section === 'special' ? numberCell(1) : makeCell(field, field.value(row, context), format),
      );
      const selected = this.#selection?.matches(cells) ?? true;
      if (selectedAt >= 0) cells[selectedAt] = numberCell(Number(selected));
      if (selected || showAll) shown.push(cells);
    }
    return sorted ? shown.toSorted((a, b) => this.#compare(a, b)) : shown;
  }

  #compare(a: readonly Cell[], b: readonly Cell[]): number {
    for (const { column, descending } of this.#plan.keys) {
      const [left, right] = [a[column], b[column]];
      const order = left === undefined || right === undefined ? 0 : compareCells(left, right);
      if (order !== 0) return descending ? -order : order;
    }
    return 0;
  }

  /** The columns without those of -o#… (or any) that are blank in every row. An unknown name is said, and then all stay. */
  compacted(rows: readonly (readonly Cell[])[], output: Output): readonly Column[] {
    const names = (this.#compactAll ? '' : (this.#compact ?? '')).split(',').filter((name) => name !== '');
    const fields = names.map((name) => this.#plan.find(name));
    const unknown = names[fields.indexOf(null)];
    if (unknown !== undefined) {
      output.error(`dm_report: Unrecognized field: ${unknown}`);
      output.error('Failed to compact given columns in report output.');
      return this.#plan.columns;
    }
    if (rows.length === 0) return this.#plan.columns;
    const done = new Set<unknown>();
    return this.#plan.columns.map((column, index) => {
      const first = fields.includes(column.field) && !done.has(column.field);
      const meant = this.#compactAll ? !column.hidden : first;
      done.add(column.field);
      const blank = meant && rows.every((row) => row[index]?.text === '');
      return blank ? { ...column, hidden: true, compacted: true } : column;
    });
  }
}

function numberCell(value: number): Cell {
  return { text: String(value), key: value, json: value };
}

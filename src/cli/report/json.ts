/**
 * Reports as JSON, laid out as LVM2 does: four more spaces per level, one row per line.
 *
 * Invariants
 *  - The output of a command is one JSON value, also when it has no rows.
 *  - json: every value is a string. json_std: numbers and percentages are numbers, undefined is null, lists are arrays;
 *    sizes and times stay strings, as they carry their units.
 *
 * Source: lvmreport(7) and lvs 2.03.16; json_std: LVM2 2.03.17's release notes and man page.
 */
import { plainJson } from '../../ondisk/plain-text.ts';
import type { Cell } from './cell.ts';
import type { Column } from './columns.ts';

const STEP = '    ';

/** LVM2 2.03.16 escapes only quotes; a backslash or a control character would make its JSON invalid. */
function quote(text: string): string {
  return plainJson(text);
}

function jsonValue(cell: Cell, std: boolean): string {
  if (!std || cell.json === undefined) return quote(cell.text);
  if (cell.json === null) return 'null';
  return typeof cell.json === 'number' ? cell.text : `[${cell.json.map(quote).join(',')}]`;
}

function jsonRow(columns: readonly Column[], row: readonly Cell[], std: boolean): string {
  const members = columns.flatMap(({ field, hidden }, index) => {
    const cell = row[index];
    return hidden || cell === undefined ? [] : [`${quote(field.id)}:${jsonValue(cell, std)}`];
  });
  return `{${members.join(', ')}}`;
}

export interface JsonReport {
  /** "pv", "vg", "lv", "pvseg", "seg" */
  readonly name: string;
  readonly columns: readonly Column[];
  readonly rows: readonly (readonly Cell[])[];
}

function reportLines(report: JsonReport, indent: string, std: boolean): string[] {
  const rows = report.rows.map((row, index) => {
    const comma = index < report.rows.length - 1 ? ',' : '';
    return `${indent}${STEP}${jsonRow(report.columns, row, std)}${comma}`;
  });
  return [`${indent}${quote(report.name)}: [`, ...rows, `${indent}]`];
}

/** The lines of a command's output: `groups` are the objects in "report", each with its reports in order. */
export function jsonLines(groups: readonly (readonly JsonReport[])[], std: boolean): string[] {
  const lines = ['{', `${STEP}"report": [`];
  for (const [at, group] of groups.entries()) {
    if (at > 0) lines.push(`${STEP.repeat(2)},`);
    lines.push(`${STEP.repeat(2)}{`);
    for (const [index, report] of group.entries()) {
      if (index > 0) lines.push(`${STEP.repeat(3)},`);
      lines.push(...reportLines(report, STEP.repeat(3), std));
    }
    lines.push(`${STEP.repeat(2)}}`);
  }
  lines.push(`${STEP}]`, '}');
  return lines;
}

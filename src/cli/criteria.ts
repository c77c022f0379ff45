/**
 * -S of commands that change something: which VGs, LVs or PVs the criteria take, by the fields of vgs, lvs and pvs
 * (facts: LVM2 tools/reporter.c report_for_selection).
 *
 * Invariants
 *  - An object is taken if any row is that a report of the criteria's fields would have of it: a VG by one of its LVs, an LV
 *    by one of its segments.
 *  - Criteria that make no sense are refused before anything is looked at; those of fields that no report can have together
 *    take nothing, which is said of each object, as in LVM2.
 */
import { PLAIN_HOST } from '../lvm/access.ts';
import type { PhysicalVolume, Scan, VolumeGroup } from '../lvm/model.ts';
import type { CommandContext } from './command.ts';
import type { Output } from './messages.ts';
import type { OptionSpec } from './options.ts';
import type { ReportRow } from './report/field.ts';
import { reportFields } from './report/fields/table.ts';
import { MixedFieldsError, Report, type ReportRequest, type RowKind } from './report/report.ts';
import { settingsOf } from './report/settings.ts';
import { Walk } from './report/walk.ts';

export const SELECT_OPTION: OptionSpec = {
  long: 'select',
  short: 'S',
  argument: 'String',
  description: 'Take only what matches these criteria; pvs, vgs and lvs -S help explain them.',
};

/** The criteria of a command line; without -S they take everything, `-S help` prints the help and takes nothing. */
export class Criteria {
  readonly #context: CommandContext;
  readonly #report: Report | null;
  readonly #mixed: boolean;

  /** `base`: what is to be taken. Throws CommandError (5) for criteria that make no sense. */
  constructor(context: CommandContext, base: 'vg' | 'pv' | 'lv') {
    const { options, output, now } = context;
    const selection = options.value('select');
    const request = { base, options: `${base}_uuid`, keys: '', selection: selection ?? '', now };
    this.#context = context;
    this.#report = selection === undefined ? null : reportOf(request, output);
    this.#mixed = selection !== undefined && this.#report === null;
  }

  takesVg(scan: Scan, group: VolumeGroup): boolean {
    const report = this.#report;
    if (this.#mixed) return this.#fail('VG', group.vg.name);
    if (report === null) return true;
    const walk = this.#walk(scan, group, false);
    return this.#matches(report, vgRows(walk, report.kind, group)).length > 0;
  }

  /** `group`: null for an orphan. */
  takesPv(scan: Scan, group: VolumeGroup | null, pv: PhysicalVolume): boolean {
    const report = this.#report;
    if (report === null) return true;
    const walk = this.#walk(scan, group, false);
    const rows = [walk.pvRow(group, pv)];
    return this.#matches(report, report.kind === 'pvseg' ? walk.pvSegments(rows) : rows).length > 0;
  }

  /** Ids of the LVs of a VG that are taken; null: all. */
  lvIds(scan: Scan, group: VolumeGroup): ReadonlySet<string> | null {
    const report = this.#report;
    if (this.#mixed)
      return new Set(group.vg.logicalVolumes.filter(({ name }) => this.#fail('LV', name)).map(({ id }) => id));
    if (report === null) return null;
    return new Set(this.#matches(report, lvRows(this.#walk(scan, group, true), report.kind, group)));
  }

  #fail(kind: string, name: string): false {
    this.#context.output.error('Can\'t report LV and PV fields at the same time in report type "".');
    this.#context.output.error(`Selection failed for ${kind} ${name}.`);
    return false;
  }

  /** `all`: hidden LVs are rows too. */
  #walk(scan: Scan, group: VolumeGroup | null, all: boolean): Walk {
    const host = { ...PLAIN_HOST, systemId: group?.vg.systemId ?? null };
    const { output } = this.#context;
    return new Walk({ scan, host, all, history: false, exported: true, verbose: false, output });
  }

  /** The uuids of the rows that match. */
  #matches(report: Report, rows: readonly ReportRow[]): readonly string[] {
    if (report.helped) return [];
    const { cells, context } = settingsOf(this.#context);
    return report.cells(rows, cells, context, false).flatMap(([uuid]) => (uuid === undefined ? [] : [uuid.text]));
  }
}

/** Null: the criteria are of fields that are never in one report. */
function reportOf(request: ReportRequest, output: Output): Report | null {
  try {
    return new Report(request, reportFields, output);
  } catch (error) {
    if (error instanceof MixedFieldsError) return null;
    throw error;
  }
}

function vgRows(walk: Walk, kind: RowKind, group: VolumeGroup): readonly ReportRow[] {
  if (kind === 'vg') return [walk.row({ vg: group })];
  if (kind === 'lv' || kind === 'seg') return lvRows(walk, kind, group);
  const pvs = walk.pvsOf(group);
  return kind === 'pvseg' ? walk.pvSegments(pvs) : pvs;
}

function lvRows(walk: Walk, kind: RowKind, group: VolumeGroup): readonly ReportRow[] {
  const volumes = walk.lvsOf(group);
  return kind === 'seg' ? walk.segments(volumes) : volumes;
}

/**
 * fullreport: five reports for each volume group (itself, its PVs, LVs, PV segments, LV segments), and two for the PVs that
 * are in none.
 *
 * Invariant: a report that can't be made ends those of its VG only; the exit code tells.
 */
import type { VolumeGroup } from '../../lvm/model.ts';
import type { CommandContext } from '../command.ts';
import { CommandError, EXIT, type ExitCode, worse } from '../messages.ts';
import { readVolumeGroups } from '../scan.ts';
import { parseVgArguments } from './arguments.ts';
import { FULL_REPORTS, fullReportDefaults } from './defaults.ts';
import type { ReportRow } from './field.ts';
import { reportFields } from './fields/table.ts';
import type { JsonReport } from './json.ts';
import { Report, type RowKind } from './report.ts';
import { requestOf } from './request.ts';
import { showRows, walkOf, withJson } from './run.ts';
import { type Settings, settingsOf } from './settings.ts';
import type { Walk } from './walk.ts';

type RowsByKind = Partial<Record<RowKind, readonly ReportRow[]>>;

function rowsOfVg(vg: VolumeGroup, walk: Walk): RowsByKind {
  const lvs = walk.lvsOf(vg);
  const pvs = walk.pvsOf(vg);
  return { vg: [walk.row({ vg })], pv: pvs, lv: lvs, pvseg: walk.pvSegments(pvs), seg: walk.segments(lvs) };
}

class FullReport {
  readonly #context: CommandContext;
  readonly #settings: Settings;
  readonly groups: JsonReport[][] = [];
  exitCode: ExitCode = EXIT.ok;

  constructor(context: CommandContext, settings: Settings) {
    this.#context = context;
    this.#settings = settings;
  }

  /** The reports of one VG, for as many kinds as there are rows of. */
  add(vgName: string, rows: RowsByKind): void {
    const group: JsonReport[] = [];
    this.groups.push(group);
    try {
      for (const base of FULL_REPORTS) {
        const own = rows[base];
        if (own === undefined) continue;
        const defaults = fullReportDefaults(this.#context.settings, base);
        const request = { ...requestOf(this.#context, base, defaults, true), withinVg: vgName };
        const report = new Report(request, reportFields, this.#context.output);
        group.push(showRows(report, own, this.#settings, this.#context));
      }
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      for (const line of error.lines) this.#context.output.error(line);
      this.exitCode = worse(this.exitCode, error.exitCode);
    }
  }
}

/** Runs fullreport. */
export async function runFullReport(context: CommandContext): Promise<ExitCode> {
  const settings = settingsOf(context);
  return withJson(context, settings, async () => {
    const parsed = parseVgArguments(context.args, context.output);
    if (parsed === null) return { groups: [], exitCode: EXIT.badUsage };
    const walk = walkOf(context, await readVolumeGroups(context), true);
    const full = new FullReport(context, settings);
    for (const vg of walk.vgs(parsed)) full.add(vg.vg.name, rowsOfVg(vg, walk));
    const orphans = context.args.length === 0 ? walk.orphans() : [];
    if (orphans.length > 0) full.add('#orphans_lvm2', { pv: orphans, pvseg: walk.pvSegments(orphans) });
    return { groups: full.groups, exitCode: worse(walk.exitCode, full.exitCode) };
  });
}

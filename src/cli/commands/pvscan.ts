/** pvscan: a line for each physical volume, and what they hold together. */
import { isExported } from '../../lvm/access.ts';
import type { Command, CommandContext } from '../command.ts';
import { Display } from '../display/lines.ts';
import { KEY_WIDTH, pvView, type PvView } from '../display/pv-display.ts';
import { EXIT, type ExitCode } from '../messages.ts';
import { walkOf } from '../report/run.ts';
import { readVolumeGroups } from '../scan.ts';

/** The VG that LVM2 has PVs in that are in none: its name's length is the least width of the column. */
const ORPHAN_VG = '#orphans_lvm2';

interface Widths {
  readonly name: number;
  readonly vg: number;
}

function widthsOf(views: readonly PvView[]): Widths {
  return {
    name: Math.max(...views.map((view) => view.name.length)),
    vg: Math.max(ORPHAN_VG.length, ...views.map((view) => view.group?.vg.name.length ?? 0)),
  };
}

/** "PV name [with UUID …]   VG name   lvm2 [size / free]" */
function lineOf(display: Display, view: PvView, widths: Widths, withUuid: boolean): string {
  const name = view.name.padEnd(widths.name);
  const head = `PV ${withUuid ? `${name} with UUID ${view.pv.uuid} ` : name}`;
  const size = display.size(view.usableSectors);
  if (view.group === null) return `${head}${' '.repeat(widths.vg + 9)}lvm2 [${size}]`;
  const free = `${size} / ${display.size(view.free * view.extentSectors)} free`;
  const vgName = view.group.vg.name;
  if (isExported(view.group.vg)) return `${head}    is in exported VG ${vgName} [${free}]`;
  return `${head}   VG ${vgName.padEnd(widths.vg)}   lvm2 [${free}]`;
}

function showTotals(display: Display, views: readonly PvView[]): void {
  const sum = (part: readonly PvView[]): string => {
    return `${part.length} [${display.size(part.reduce((sectors, view) => sectors + view.usableSectors, 0))}]`;
  };
  const used = views.filter((view) => view.group !== null);
  const free = views.filter((view) => view.group === null);
  display.print(`Total: ${sum(views)} / in use: ${sum(used)} / in no VG: ${sum(free)}`);
}

/** --cache: says which of the PVs named (or of all) are there. Nothing is recorded, for nothing is activated by events. */
async function reportOnline(context: CommandContext): Promise<ExitCode> {
  const { args, output } = context;
  const walk = walkOf(context, await readVolumeGroups(context), true);
  for (const row of walk.pvs({ names: args, tags: [] })) {
    const view = pvView(row);
    if (view !== null) output.print(`pvscan[${process.pid}] PV ${view.name} online.`);
  }
  return walk.exitCode;
}

async function run(context: CommandContext): Promise<ExitCode> {
  const { options, output } = context;
  if (options.has('cache')) return reportOnline(context);
  if (options.has('exported') && options.has('novolumegroup')) {
    output.error('Options -e and -n are incompatible');
    return EXIT.badUsage;
  }
  if (options.has('exported') || options.has('novolumegroup')) {
    const which = options.has('exported') ? 'of exported volume group(s)' : 'in no volume group';
    output.error(`WARNING: only considering physical volumes ${which}`);
  }
  const display = new Display(context, KEY_WIDTH);
  const walk = walkOf(context, await readVolumeGroups(context), true);
  const all = walk.pvs({ names: [], tags: [] }).flatMap((row) => pvView(row) ?? []);
  const views = all.filter((view) => {
    if (options.has('exported')) return view.exported;
    return !options.has('novolumegroup') || view.group === null;
  });
  if (views.length === 0) {
    display.print('No matching physical volumes found');
    return walk.exitCode;
  }
  const widths = widthsOf(views);
  for (const view of views) {
    display.print(options.has('short') ? view.name : lineOf(display, view, widths, options.has('uuid')));
  }
  showTotals(display, views);
  return walk.exitCode;
}

export const command: Command = {
  summary: 'List all physical volumes',
  argumentsUsage: '[ PV ... ]',
  options: [
    {
      long: 'activate',
      short: 'a',
      argument: 'ay',
      check: (value) => value === 'ay',
      description: 'With --cache: nothing to do here, the daemon activates what it is told to serve.',
    },
    { long: 'cache', description: 'Say which PVs are there. No state is kept, so nothing is recorded.' },
    { long: 'exported', short: 'e', description: 'Only PVs of exported volume groups.' },
    { long: 'ignorelockingfailure', description: 'Nothing to do here: reading commands take no locks.' },
    { long: 'novolumegroup', short: 'n', description: 'Only PVs that are in no volume group.' },
    { long: 'short', short: 's', description: 'Only the names of the PVs.' },
    { long: 'uuid', short: 'u', description: 'Also show the UUID of each PV.' },
  ],
  run,
};

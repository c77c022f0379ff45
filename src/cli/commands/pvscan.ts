/** pvscan: a line for each physical volume, and what they hold together. */
import { isExported } from '../../lvm/access.ts';
import type { Command, CommandContext } from '../command.ts';
import { Display } from '../display/lines.ts';
import { KEY_WIDTH, pvView, type PvView } from '../display/pv-display.ts';
import { EXIT, type ExitCode, noSuchSyntax } from '../messages.ts';
import { pvscanCache } from '../pvscan/cache.ts';
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

async function run(context: CommandContext): Promise<ExitCode> {
  const { options, output } = context;
  const given = EVENT_OPTIONS.find((name) => options.has(name));
  if (options.has('cache') || options.has('listvg') || options.has('listlvs')) return pvscanCache(context);
  if (given !== undefined) throw noSuchSyntax(context.name);
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

/** Options that mean nothing without --cache, --listvg or --listlvs. */
const EVENT_OPTIONS = ['activate', 'autoactivation', 'checkcomplete', 'major', 'minor', 'udevoutput', 'vgonline'];

function isNumber(value: string): boolean {
  return /^\d+$/.test(value);
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
      description: 'With --cache: say which VGs are complete; the daemon serves them by itself.',
    },
    {
      long: 'autoactivation',
      argument: 'String',
      description: 'event: do nothing where global/event_activation is 0.',
    },
    { long: 'background', description: 'Nothing to do here: recording takes no time.' },
    { long: 'cache', description: 'Record PVs (all, or those named) as online, as root, in /run/lvm.' },
    { long: 'checkcomplete', description: 'Say whether the VG is complete.' },
    { long: 'exported', short: 'e', description: 'Only PVs of exported volume groups.' },
    { long: 'ignorelockingfailure', description: 'Nothing to do here: reading commands take no locks.' },
    { long: 'listlvs', description: 'List the LVs that use the PV.' },
    { long: 'listvg', description: 'List the VG that uses the PV.' },
    { long: 'major', short: 'j', argument: 'Number', check: isNumber, description: 'The device, with --minor.' },
    { long: 'minor', argument: 'Number', check: isNumber, description: 'The device, with --major.' },
    { long: 'noudevsync', description: 'Nothing to do here: udev is not waited for.' },
    { long: 'novolumegroup', short: 'n', description: 'Only PVs that are in no volume group.' },
    { long: 'short', short: 's', description: 'Only the names of the PVs.' },
    { long: 'udevoutput', description: 'Print what a udev rule imports, and nothing else.' },
    { long: 'uuid', short: 'u', description: 'Also show the UUID of each PV.' },
    { long: 'vgonline', description: 'Let only the first one that completes a VG know it.' },
  ],
  run,
};
